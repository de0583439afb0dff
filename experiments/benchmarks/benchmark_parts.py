"""How fast is each part? One process, one thread, embedded data; a table on the screen and in results/.

    python experiments/benchmarks/benchmark_parts.py                 # about three minutes on one core
    python experiments/benchmarks/benchmark_parts.py --storage DIR   # also: seconds of the parts of finished mini rows

Absolute numbers depend on the machine and on what else it does; compare within one run.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from bsp.clips.augment import augment_clip
from bsp.clips.frame_cache import FrameCache
from bsp.clips.plan import plan_clip
from bsp.clips.synthesis import decode, synthesise
from bsp.datasets.activitynet import load_activitynet
from bsp.datasets.kinetics import load_kinetics_csv
from bsp.datasets.pantomime.render import make_video, plan_all, render
from bsp.encoders.build import build_encoder
from bsp.features.store import extract_features
from bsp.localization.gtad.network import GTAD, GTADSettings, propose, train_gtad
from bsp.metrics.detection import evaluate_detection
from bsp.pretraining.contract import PretextModel
from bsp.pretraining.loop import TrainSettings, make_optimiser, train_steps
from bsp.pretraining.pretext import PretextSettings
from bsp_platform.plain_text import escape_unencodable
from bsp_platform.plan.profiles import mini, smoke
from bsp_platform.report.tables import hardware
from bsp_platform.storage.files import write_json
from bsp_platform.storage.stages import StageStore
from bsp_platform.work.streaming import ClipStream, make_clips

ROOT = Path(__file__).resolve().parents[2]


def rate(work: Callable[[], int], seconds: float = 4.0) -> float:
    """Items per second; ``work`` processes some items and returns their number. Warms up once."""
    work()
    items, began = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - began) < seconds:
        items += work()
    return items / elapsed


def measure(folder: Path) -> dict[str, tuple[float, str]]:
    """All rates, as {part: (rate, unit)}."""
    profile = mini()
    embedded = smoke().pantomime
    assert embedded is not None
    assert profile.pantomime is not None
    data = render(embedded, folder / "pantomime", progress=False)
    catalog = load_kinetics_csv(data / "trimmed" / "train.csv", data / "trimmed" / "videos", progress=False)
    untrimmed = load_activitynet(data / "untrimmed" / "activitynet.json", data / "untrimmed" / "videos")
    numbers = iter(range(10**9))
    plans = [plan_clip(catalog, profile.clips, 0, k) for k in range(256)]
    frames = [decode(catalog, plan) for plan in plans]
    stream = ClipStream(
        catalog=None, clips=profile.clips, augment=profile.augment, seed=0, batch_size=32, length=32 * 10**6
    )
    cache = FrameCache(384 * 2**20)
    out: dict[str, tuple[float, str]] = {}

    video_plans = [plan for plan in plan_all(profile.pantomime) if plan.frames < 100]

    def draw() -> int:
        plan = video_plans[next(numbers) % len(video_plans)]
        make_video(profile.pantomime, plan, str(folder / "drawn.mp4"))
        return plan.frames

    out["render and encode, 64 px"] = rate(draw), "frames/s"
    out["plan a clip"] = (
        rate(lambda: len([plan_clip(catalog, profile.clips, 0, next(numbers)) for _ in range(99)])),
        ("clips/s"),
    )
    out["decode a clip (file opened each time)"] = (
        rate(lambda: len([decode(catalog, plans[next(numbers) % 256]) for _ in range(9)])),
        "clips/s",
    )
    out["synthesise"] = rate(lambda: len([synthesise(p, f) for p, f in zip(plans, frames, strict=True)])), "clips/s"
    clips = [synthesise(p, f) for p, f in zip(plans, frames, strict=True)]
    out["augment"] = (
        rate(
            lambda: len([augment_clip(c, profile.augment, p.augment_seed) for c, p in zip(clips, plans, strict=True)])
        ),
        "clips/s",
    )
    for name, kept in (
        ("batch of clips: plan, decode, synthesise, augment", None),
        ("batch of clips, videos kept decoded", cache),
    ):

        def batch(kept=kept) -> int:
            start = 32 * next(numbers)
            return len(make_clips(catalog, stream, range(start, start + 32), kept)["label"])

        out[name] = rate(batch), "clips/s"

    pretext = PretextSettings(task="classification", kinds=profile.clips.kinds)
    settings = TrainSettings(clips=32 * 10**6, batch_size=32, log_every_steps=10**6, checkpoint_every_steps=10**6)
    model = PretextModel(build_encoder(profile.encoder, 0), pretext, seed=0)
    ready = make_clips(catalog, stream, range(32), cache)
    steps = train_steps(
        model, make_optimiser(model, settings), iter(lambda: ready, None), loss=pretext.loss,
        settings=settings, device=torch.device("cpu"),
    )  # fmt: skip
    out["training step, TSM R18 width 16, batch 32"] = rate(lambda: 32 * bool(next(steps))), "clips/s"

    encoder = build_encoder(profile.encoder, 0)
    videos = [video for video in untrimmed.videos if video.path]
    features = []

    def extract() -> int:
        video = videos[next(numbers) % len(videos)]
        feat_SD, _ = extract_features(encoder, video.file, video_id=video.video_id, size_px=64, weights_hash="x")
        features.append(feat_SD)
        return len(feat_SD)

    out["extraction, file to features"] = rate(extract), "snippets/s"
    out |= measure_gtad(profile.head)
    out["detection metric, ActivityNet's size, 100 per video, 10 thresholds"] = measure_metric(), "videos/s"
    return out


def measure_gtad(head: GTADSettings) -> dict[str, tuple[float, str]]:
    """Training and proposing on random features, for the head of ``mini`` and for 100 cells."""
    from dataclasses import replace

    rng = np.random.default_rng(0)
    features = [rng.normal(size=(36, head.feature_width)).astype(np.float32) for _ in range(32)]
    segments = [np.sort(rng.random((2, 2)), axis=1) for _ in features]
    out = {}
    for cells in (head.cells, 100):
        settings = replace(head, cells=cells, max_duration=cells, epochs=1)
        model = train_gtad(features[:8], segments[:8], settings, seed=0)

        def train(settings: GTADSettings = settings) -> int:
            train_gtad(features, segments, settings, seed=0)
            return len(features)

        def detect(model: GTAD = model, settings: GTADSettings = settings) -> int:
            return len(propose(model, features, settings, "cpu"))

        out[f"G-TAD training, {cells} cells"] = rate(train, 1.0), "videos/s"
        out[f"G-TAD proposals with Soft-NMS, {cells} cells"] = rate(detect, 1.0), "videos/s"
    return out


def measure_metric(videos: int = 4926, proposals: int = 100, classes: int = 200) -> float:
    """Videos per second of the whole evaluation, schema check included, on made-up detections."""
    rng = np.random.default_rng(0)
    truth, results = {}, {}
    for number in range(videos):
        name, label = f"video{number:07d}", f"class {number % classes}"
        starts = rng.random((proposals, 2)) * 100
        segments = np.sort(starts, axis=1).tolist()
        truth[name] = {
            "subset": "validation", "duration": 100.0,
            "annotations": [{"label": label, "segment": segment} for segment in segments[:2]],
        }  # fmt: skip
        score = rng.random(proposals).tolist()
        results[name] = [
            {"label": label, "score": s, "segment": segment} for s, segment in zip(score, segments, strict=True)
        ]
    began = time.perf_counter()
    evaluate_detection(
        {"version": "", "taxonomy": [], "database": truth}, {"version": "", "external_data": {}, "results": results}
    )
    return videos / (time.perf_counter() - began)


def row_times(storage: Path) -> list[dict]:
    """Per finished trained row: seconds of its stages, and of the training what was not training."""
    store, rows = StageStore(storage), []
    for manifest_path in sorted((store.root / "encoders").glob("*/manifest.json")):
        folder = manifest_path.parent
        facts = store.facts(folder)
        history = json.loads((folder / "history.json").read_text("utf-8"))
        if not history:
            continue
        recipe = json.loads(manifest_path.read_text("utf-8"))["recipe"]
        batch, steps, last = recipe["train"]["batch_size"], 0.0, 0
        for record in history:
            steps += (record["step"] - last) * batch / record["clips_per_s"]
            last = record["step"]
        waited = float(np.mean([record["data_wait_share"] for record in history]))
        rows.append(
            {
                "encoder": facts["name"],
                "stage_s": facts["seconds"],
                "training_s": steps,
                "start_and_end_s": facts["seconds"] - steps,
                "clips_per_s": batch * last / steps,
                "data_wait_share": waited,
            }
        )
    return rows


@click.command()
@click.option("--storage", type=click.Path(path_type=Path, exists=True), help="of a finished sweep")
@click.option("--results", type=click.Path(path_type=Path), default=ROOT / "results")
def main(storage: Path | None, results: Path) -> None:
    """Measure the parts; with --storage also print the seconds of its rows' parts."""
    escape_unencodable()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        rates = measure(Path(folder))
    table = Table("part", "rate", "unit", title=f"One process, one thread; {hardware()}")
    for name, (value, unit) in rates.items():
        table.add_row(name, f"{value:,.0f}" if value >= 10 else f"{value:.2f}", unit)
    console = Console(width=120)
    console.print(table)
    content: dict[str, Any] = {
        "hardware": hardware(),
        "rates": {k: {"value": v, "unit": u} for k, (v, u) in rates.items()},
    }
    if storage:
        content["rows"] = row_times(storage)
        rows = Table(*content["rows"][0], title="Encoders of a sweep: where the time went")
        for row in content["rows"]:
            rows.add_row(*(value if isinstance(value, str) else f"{value:.2f}" for value in row.values()))
        console.print(rows)
    (results / "benchmark_parts").mkdir(parents=True, exist_ok=True)
    write_json(results / "benchmark_parts" / "benchmark.json", content)


if __name__ == "__main__":
    main()
