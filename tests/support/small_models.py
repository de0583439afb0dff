"""Small models and data for tests: a narrow encoder, planted features, and a G-TAD head trained for two epochs."""

from __future__ import annotations

import numpy as np
import torch

from bsp.datasets.activitynet import Instance, LocalizationDataset, UntrimmedVideo
from bsp.encoders.build import build_encoder
from bsp.encoders.tsm import EncoderSettings
from bsp.features.record import FeatureInfo
from bsp.localization.gtad.network import GTADSettings
from bsp.models.streams import FeatureStream, stream_of
from bsp.tasks.head import Features, HeadInputs, run_head
from bsp.tasks.heads import HEADS

NAMES = ("kick", "wave")
FPS, STRIDE, SIZE = 12.5, 8, 32  # a snippet is 0.64 s
STEP_S = STRIDE / FPS
GTAD = GTADSettings(
    feature_width=8, cells=12, max_duration=12, inner_samples=2, context_samples=1, epochs=2, max_proposals=20
)


def small_encoder(seed: int = 0, width: int = 8):
    """Its batch norms have statistics other than those of new ones."""
    encoder = build_encoder(EncoderSettings(width=width), seed).eval()
    generator = torch.Generator().manual_seed(seed)
    for module in encoder.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.copy_(torch.randn(module.running_mean.shape, generator=generator) / 10)
    return encoder


def small_stream(seed: int = 0, name: str = "") -> FeatureStream:
    return stream_of(small_encoder(seed), size_px=SIZE, name=name, provenance={"seed": seed})


def info_of(video_id: str, snippets: int, width: int = 8, *, encoder_hash: str = "imported:1", **other) -> FeatureInfo:
    return FeatureInfo(
        **{
            "video_id": video_id, "frames": snippets * STRIDE + 3, "fps": FPS, "snippet_frames": STRIDE,
            "stride_frames": STRIDE, "offset_frames": 0, "size_px": SIZE, "mean": (0.5, 0.5, 0.5),
            "std": (0.2, 0.2, 0.2), "feature_width": width, "snippets": snippets, "encoder_hash": encoder_hash,
            "code_version": 1, **other,
        }
    )  # fmt: skip


def planted(videos: int = 8, width: int = 8) -> tuple[LocalizationDataset, Features]:
    """Videos of 14 to 40 snippets; every ninth snippet begins an action of 4, which lifts the channels of its class.

    The last two are for validation.
    """
    rng = np.random.default_rng(0)
    found, listed, database = {}, [], {}
    for number in range(videos):
        subset = "training" if number < videos - 2 else "validation"
        name, label, snippets = f"v{number}", NAMES[number % 2], int(rng.integers(14, 40))
        feat_SD = 0.1 * rng.standard_normal((snippets, width)).astype(np.float32)
        instances = []
        for start in range(2, snippets - 5, 9):
            feat_SD[start : start + 4, number % 2 :: 2] += 2
            instances.append(Instance(label, start * STEP_S, (start + 4) * STEP_S))
        info = info_of(name, snippets, width)
        found[name] = feat_SD, info
        duration_s = info.frames / FPS
        listed.append(UntrimmedVideo(name, None, duration_s, subset, tuple(instances)))
        rows = [{"label": label, "segment": [i.start_s, i.end_s]} for i in instances]
        database[name] = {"subset": subset, "duration": duration_s, "annotations": rows}
    data = LocalizationDataset(
        videos=tuple(listed), class_names=NAMES, missing=(), ground_truth={"database": database}, dropped=()
    )
    return data, Features(found.get)


def class_scores_of(classifier, features: Features):
    """What a head gets as class scores from a classifier."""
    return lambda names, ids: {video: classifier.scores([features.read(video)[0]])[0] for video in ids}


def run_gtad(data, features, classifier, settings=GTAD, head: str = "gtad", **other):
    inputs = HeadInputs(
        features=features, data=data, settings=settings, class_scores=class_scores_of(classifier, features), **other
    )
    return run_head(HEADS[head], inputs)
