"""Make the small model that the package ships (bsp/models/shipped), from the embedded world and a seed.

Two encoders are trained on Pantomime's trimmed videos, one to name actions (vanilla), one to name synthetic boundaries
(BSP); a narrow G-TAD reads both streams, a linear classifier the first. All weights are rounded to float16 before they
are used further, so that the scores are those of the files. About 12 minutes on two cores; what is done is kept in
--work, and found again.

    python experiments/tools/make_shipped_model.py --work shipped_work --out shipped_model
"""

from __future__ import annotations

import json
import platform
import shutil
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from tqdm import tqdm

import bsp_platform  # noqa: F401  # before Ray, which the clip stream's module imports
from bsp.clips.catalog import Catalog
from bsp.clips.plan import PAPER_KINDS, ClipSettings
from bsp.datasets.activitynet import LocalizationDataset, load_activitynet
from bsp.datasets.kinetics import load_kinetics_csv
from bsp.datasets.pantomime.render import CODE_VERSION, PantomimeSettings, render
from bsp.encoders.build import build_encoder
from bsp.encoders.contract import Encoder
from bsp.encoders.tsm import EncoderSettings
from bsp.features.store import encoder_hash, extract_features
from bsp.features.streams import concatenate_streams
from bsp.io import atomic_path
from bsp.localization.gtad.network import GTADSettings
from bsp.metrics.detection import evaluate_detection
from bsp.models.folder import write_model
from bsp.models.kept import as_float16, read_tensors, write_tensors
from bsp.models.model import Featured, Model
from bsp.models.streams import FeatureStream, stream_of
from bsp.pretraining.contract import Pretext
from bsp.pretraining.loop import TrainSettings, make_optimiser, prepare_device, train_steps
from bsp.pretraining.pretexts import make_pretext
from bsp.tasks.class_scores import classify_videos
from bsp.tasks.head import Features, HeadInputs, run_head
from bsp.tasks.heads import HEADS
from bsp_platform.plan.profiles import mini
from bsp_platform.work.streaming import ClipStream, make_clips

ENCODER = EncoderSettings(depth=18, width=12)
SIZE_PX = 48
WORLD = PantomimeSettings(untrimmed_train=160, untrimmed_val=80)
HEAD = GTADSettings(
    feature_width=2 * 96, cells=48, max_duration=48, batch_size=8, inner_samples=16, hidden=32, block=32, aligned=96,
    mapped=32, epochs=12, decay_epoch=6, top_classes=1,
)  # fmt: skip
NOTE = (
    "The model that comes with bsp was trained on rendered stick figures only. In other videos its classes mean "
    "nothing; its change points are a first look. Train one on videos of your own: bsp pretrain, bsp train."
)
_NEAR_S = 0.5  # a boundary counts as found within

_maker: list[tuple[Catalog, ClipStream]] = []  # of a process that makes clips


def _start_maker(catalog: Catalog, stream: ClipStream) -> None:
    torch.set_num_threads(1)
    _maker.append((catalog, stream))


def _make(indices: range) -> dict[str, np.ndarray]:
    return make_clips(*_maker[-1], indices)


def batches(catalog: Catalog, stream: ClipStream, makers: int) -> Iterator[dict[str, np.ndarray]]:
    """The stream's batches in order, made by processes a few ahead."""
    waiting: deque[Future[dict[str, np.ndarray]]] = deque()
    with ProcessPoolExecutor(makers, initializer=_start_maker, initargs=(catalog, stream)) as pool:
        for first in range(0, stream.length, stream.batch_size):
            waiting.append(pool.submit(_make, range(first, first + stream.batch_size)))
            if len(waiting) > 2 * makers + 2:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def train(
    path: Path, name: str, pretext: Pretext, clips: ClipSettings, catalog: Catalog, settings: TrainSettings, seed: int,
    makers: int,
) -> Encoder:  # fmt: skip
    """The encoder of one pretext, its weights rounded to float16; found again at ``path``."""
    encoder = build_encoder(ENCODER, seed)
    if not path.exists():
        device = torch.device("cpu")
        prepare_device(device, 1)
        torch.manual_seed(1000 * seed)
        model = pretext.model(encoder, seed)
        stream = ClipStream(
            catalog=None, clips=clips, augment=replace(mini().augment, size_px=SIZE_PX), seed=seed,
            batch_size=settings.batch_size, length=settings.clips, frame_cache_mb=64, plan=pretext.plan,
            synthesise=pretext.synthesise,
        )  # fmt: skip
        steps = train_steps(
            model, make_optimiser(model, settings), batches(catalog, stream, makers), loss=pretext.objective(),
            settings=settings, device=device,
        )  # fmt: skip
        bar = tqdm(total=settings.steps, desc=name, unit="step", mininterval=5)
        for done, record in steps:
            bar.update(done - bar.n)
            if record:
                bar.set_postfix({key: f"{value:.3g}" for key, value in record.items() if "loss" in key or "acc" in key})
        write_tensors(path, as_float16(model.encoder.state_dict()), float16=True)
    encoder = build_encoder(ENCODER.for_snippets(), seed)
    encoder.load_state_dict(read_tensors(path))
    return encoder.eval()


def featured(streams: tuple[FeatureStream, ...], data: LocalizationDataset) -> dict[str, list[Featured]]:
    """Features and record of every stream, by video."""
    found: dict[str, list[Featured]] = {}
    hashes = {stream.name: encoder_hash(stream.encoder) for stream in streams if stream.encoder is not None}
    for video in tqdm(data.videos, desc="features", unit="video", mininterval=5):
        found[video.video_id] = [
            extract_features(
                stream.encoder, video.file, video_id=video.video_id, size_px=SIZE_PX, weights_hash=hashes[stream.name]
            )
            for stream in streams
            if stream.encoder is not None
        ]
    return found


def boundary_scores(
    model: Model, features: dict[str, list[Featured]], truth: dict[str, Any], fps: int
) -> tuple[float, float]:
    """(precision, recall) in percent of the change points against starts and ends of actions, within _NEAR_S."""
    right = found = met = wanted = 0
    for video_id, parts in features.items():
        if truth[video_id]["split"] != "untrimmed_val":
            continue
        times = model.boundaries_features(*concatenate_streams(parts[: model.head_streams])).times_s
        real = np.array(truth[video_id]["boundaries"], float) / fps
        near = np.abs(times[:, None] - real[None]) <= _NEAR_S
        right, found = right + int(near.any(1).sum()), found + len(times)
        met, wanted = met + int(near.any(0).sum()), wanted + len(real)
    return 100 * right / max(1, found), 100 * met / max(1, wanted)


@click.command()
@click.option("--work", type=click.Path(file_okay=False, path_type=Path), required=True, help="Folder of what is kept.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="The model; replaced.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--clips", type=click.IntRange(min=32), default=19_200, show_default=True, help="Of each encoder.")
@click.option("--makers", type=click.IntRange(min=1), default=1, show_default=True, help="Processes that make clips.")
def main(work: Path, out: Path, seed: int, clips: int, makers: int) -> None:
    """Render, train both encoders and the head, score what will be shipped, and write it."""
    data_folder = render(WORLD, work / "world", workers=makers + 1)
    catalog = load_kinetics_csv(data_folder / "trimmed/train.csv", data_folder / "trimmed/videos", progress=False)
    data = load_activitynet(data_folder / "untrimmed/activitynet.json", data_folder / "untrimmed/videos")
    settings = replace(mini().train, clips=clips // 32 * 32)
    actions = len(catalog.class_names)
    streams = []
    for name, task, kinds in (("vanilla", "action", ()), ("BSP S", "classification", PAPER_KINDS)):
        pretext = make_pretext(task, kinds, actions)
        of_clips = replace(mini().clips, half_len=ENCODER.clip_frames // 2, kinds=kinds)
        path = work / f"{task}-{seed}-{clips}.safetensors"
        encoder = train(path, name, pretext, of_clips, catalog, settings, seed, makers)
        facts = {"pretext": pretext.name, "clips": settings.clips, "seed": seed, "start": "random"}
        streams.append(stream_of(encoder, size_px=SIZE_PX, name=name, provenance=facts))
    features = featured(tuple(streams), data)
    of_head = {video: concatenate_streams(parts) for video, parts in features.items()}
    subsets = ("training", "validation")
    classes = classify_videos(Features(lambda video: features[video][0]), data, subsets)
    head = HEADS["gtad"]
    inputs = HeadInputs(
        features=Features(of_head.get), data=data, settings=HEAD, subsets=subsets, seed=seed,
        class_scores=lambda names, ids: {video: classes.scores[video] for video in ids},
    )  # fmt: skip
    run = run_head(head, inputs)
    assert run.kept is not None
    kept = replace(run.kept, tensors=as_float16(run.kept.tensors))
    model = Model(kind="gtad", streams=tuple(streams), head_streams=2, kept=kept, classifier=classes.classifier)
    detections = {
        video.video_id: [
            {"label": s.label, "score": s.score, "segment": [s.start_s, s.end_s]}
            for s in model.detect_features(*of_head[video.video_id])
        ]
        for video in data.videos
        if video.subset == "validation"
    }
    report = evaluate_detection(data.ground_truth, {"results": detections}, subset="validation")
    truth = json.loads((data_folder / "untrimmed/truth.json").read_text("utf-8"))
    precision, recall = boundary_scores(model, features, truth["videos"], truth["fps"])
    by_tiou = {float(tiou): value for tiou, value in report["mAP"].items()}
    scores = {f"mAP@{tiou}": round(100 * by_tiou[tiou], 1) for tiou in (0.5, 0.75)}
    scores |= {
        "average mAP": round(100 * report["average_mAP"], 1),
        "accuracy of the classifier": round(100 * classes.accuracy, 1),
        f"change points right within {_NEAR_S} s": round(precision, 1),
        f"starts and ends found within {_NEAR_S} s": round(recall, 1),
    }
    model = replace(model, provenance={
        "model": "the one that comes with bsp: G-TAD on two streams, narrow",
        "trained on": f"Pantomime {CODE_VERSION} (rendered stick figures), seed {seed}",
        "made by": f"experiments/tools/make_shipped_model.py --seed {seed} --clips {clips}",
        "scores": ", ".join(f"{name} {value}" for name, value in scores.items())
        + f", in percent, on {len(detections)} videos of the same world, which also chose the head's epoch",
        "licence": "Apache-2.0",
        "versions": f"torch {torch.__version__}, numpy {np.__version__}, Python {platform.python_version()}",
        "note": NOTE,
    })  # fmt: skip
    with atomic_path(out) as partial:
        write_model(partial, model, float16=True)
        if out.is_dir():
            shutil.rmtree(out)
    size = sum(path.stat().st_size for path in out.iterdir())
    click.echo(json.dumps(scores, indent=1))
    click.echo(f"{out}: {size:,} bytes; rendered and trained: {work}")


if __name__ == "__main__":
    main()
