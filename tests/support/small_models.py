"""Small models and data for tests: a narrow encoder, planted features, and a G-TAD head trained for two epochs."""

from __future__ import annotations

import numpy as np
import torch

from bsp.datasets.activitynet import Instance, LocalizationDataset, UntrimmedVideo
from bsp.datasets.charades_sta import GroundingDataset, GroundingVideo, Moment
from bsp.datasets.crosstask import CrossTaskDataset, CrossTaskVideo, Step, Task
from bsp.datasets.gebd import GEBDDataset, GEBDVideo
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
SNIPPETS = 24
DURATION_S = (SNIPPETS * STRIDE + 3) / FPS
VERBS = ("waves", "squats", "kicks", "walks")
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


def sentences():
    """Features whose channel k is high while verb k is going on, a third of the video each."""
    rng = np.random.default_rng(0)
    videos, found, moments = [], {}, {"train": [], "test": []}
    for number in range(12):
        subset, name = ("train" if number < 9 else "test"), f"g{number}"
        feat_SD = 0.1 * rng.normal(size=(SNIPPETS, 8)).astype(np.float32)
        for third, verb in enumerate(rng.permutation(4)[:3]):
            feat_SD[8 * third : 8 * third + 8, verb] += 2
            moments[subset].append(
                Moment(
                    video_id=name, sentence=f"a person {VERBS[verb]}.", start_s=third * DURATION_S / 3,
                    end_s=(third + 1) * DURATION_S / 3, line=len(moments[subset]),
                )
            )  # fmt: skip
        found[name] = feat_SD, info_of(name, SNIPPETS)
        videos.append(GroundingVideo(video_id=name, path=None, duration_s=DURATION_S, subset=subset))
    data = GroundingDataset(
        videos=tuple(videos), moments={k: tuple(v) for k, v in moments.items()}, missing=(), dropped=()
    )
    return data, Features(found.get)


def steps():
    rng = np.random.default_rng(0)
    videos, found = [], {}
    for number in range(10):
        name, (first, last) = f"s{number}", sorted(rng.choice(SNIPPETS, 2, replace=False).tolist())
        feat_SD = rng.normal(size=(SNIPPETS, 4)).astype(np.float32)
        feat_SD[first : last + 1, 1] += 5
        found[name] = feat_SD, info_of(name, SNIPPETS, 4)
        span = (Step(1, first * STEP_S, (last + 1) * STEP_S),)
        videos.append(CrossTaskVideo(name, None, "training" if number < 8 else "test", "1", span, "http://example.org"))
    data = CrossTaskDataset(tuple(videos), (Task("1", "Make Tea", "http://example.org", ("stir",)),), ())
    return data, Features(found.get)


def clips():
    """Features that jump at the boundaries."""
    rng = np.random.default_rng(0)
    videos, found = [], {}
    for number in range(20):
        name = f"c{number}"
        gaps = np.sort(rng.choice([4, 9, 14, 19], 2, replace=False))
        feat_SD = rng.normal(size=16) + 0.1 * rng.normal(size=(SNIPPETS, 16))
        for gap in gaps:
            feat_SD[gap + 1 :] += rng.normal(size=16)
        found[name] = feat_SD.astype(np.float32), info_of(name, SNIPPETS, 16)
        raters = (tuple(((gaps + 1) * STEP_S).tolist()),)
        videos.append(
            GEBDVideo(
                video_id=name, path=None, subset="training" if number < 14 else "validation", duration_s=DURATION_S,
                fps=FPS, frames=SNIPPETS * STRIDE + 3, boundaries_s=raters,
                boundary_frames=tuple(tuple(float(int(t * FPS)) for t in row) for row in raters), consistency=(0.8,),
                consistency_avg=0.8, path_video=None,
            )
        )  # fmt: skip
    return GEBDDataset(videos=tuple(videos), missing=(), dropped=()), Features(found.get)
