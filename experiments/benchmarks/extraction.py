"""Extraction against its two limits, in one run: the decoding rate of the cores and the encoder's rate.

    python experiments/benchmarks/extraction.py --work DIR            # R18 and R50 at 224 px; a GPU if there is one
    python experiments/benchmarks/extraction.py --work DIR --tiny     # on two cores: a minute

Writes DIR/extraction.json. "ratio" is extraction / min(cores x decode rate of one core, encoder rate); the design wants
0.8. Decoding is measured on one core while nothing else runs, extraction between its first and its last tenth.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path

import bsp_platform  # noqa: F401  isort: skip (first: it sets the environment that Ray reads)
import click
import torch

from bsp.datasets.activitynet import LocalizationDataset, UntrimmedVideo
from bsp.encoders.build import build_encoder
from bsp.encoders.tsm import SNIPPET_FRAMES, EncoderSettings
from bsp.features.snippet_encoder import BATCH_SNIPPETS
from bsp.features.store import VideoSnippets, encode_snippets
from bsp_platform.plan.device import DEVICES, Device, logical_gpus
from bsp_platform.plan.options import Options
from bsp_platform.plan.profiles import paper
from bsp_platform.plan.recipes import EncoderRecipe, FeatureRecipe
from bsp_platform.report.tables import hardware
from bsp_platform.work.cluster.planning import Plan, make_plan, start_planned, this_machine
from bsp_platform.work.extraction import extract_dataset
from bsp_platform.work.pretraining import save_encoder

sys.path.append(str(Path(__file__).resolve().parent / "throughput"))
from throughput_videos import make_kinetics_like

SNIPPETS = 37  # of a video of 300 frames


def decode_rate(path: Path, size_px: int, seconds: float) -> float:
    """Snippets/s that this process alone decodes and crops."""
    began, done = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        done += sum(1 for _ in VideoSnippets(path, video_id="v", size_px=size_px, snippet_frames=SNIPPET_FRAMES))
    return done / (time.perf_counter() - began)


def encoder_rate(settings: EncoderSettings, size_px: int, device: torch.device, seconds: float) -> float:
    """Snippets/s of forward passes on pixels that are on the device already."""
    encoder = build_encoder(settings, 0).to(device).eval()
    shape = (BATCH_SNIPPETS, settings.frames, size_px, size_px, 3)
    pixels = torch.randint(0, 256, shape, dtype=torch.uint8).to(device)

    def timed(passes: int) -> float:
        began = time.perf_counter()
        for _ in range(passes):
            last = encode_snippets(encoder, pixels, "bfloat16")
        last.cpu()
        return time.perf_counter() - began

    timed(2)
    passes = max(1, round(seconds / timed(1)))
    return passes * BATCH_SNIPPETS / timed(passes)


def extraction_rate(work: Path, settings: EncoderSettings, size_px: int, files: list[Path], plan: Plan, videos: int):
    """(snippets/s between the first and the last tenth of the videos, seconds until the first video)."""
    recipe = EncoderRecipe(encoder=settings)
    folder = work / f"features_r{settings.depth}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    save_encoder(build_encoder(settings, 0), recipe, folder)
    data = LocalizationDataset(
        videos=tuple(
            UntrimmedVideo(
                video_id=f"v{k}", subset="training", duration_s=10.0, path=str(files[k % len(files)]), instances=()
            )
            for k in range(videos)
        ),
        class_names=(),
        missing=(),
        ground_truth={},
    )
    began, times = time.perf_counter(), []
    extract_dataset(
        folder,
        FeatureRecipe(encoder=recipe, untrimmed="benchmark", size_px=size_px, precision="bfloat16"),
        folder / "encoder.pt",
        data,
        plan.resources,
        lambda progress: times.append(time.perf_counter() - began),
    )
    tenth = max(1, len(times) // 10)
    first, last = tenth, len(times) - tenth - 1
    return (last - first) * SNIPPETS / (times[last] - times[first]), times[0]


@click.command()
@click.option("--work", type=click.Path(path_type=Path), required=True)
@click.option("--tiny", is_flag=True, help="small pictures, a narrow R18, few videos")
@click.option("--device", type=click.Choice(DEVICES), default="auto", show_default=True)
@click.option(
    "--seconds", default=30.0, show_default=True, help="about so long each extraction, if its limit is reached"
)
@click.option("--cpus", type=click.IntRange(1))
def main(work: Path, tiny: bool, device: Device, seconds: float, cpus: int | None) -> None:
    """Measure and print."""
    work.mkdir(parents=True, exist_ok=True)
    files = make_kinetics_like(work / "raw", 2 if tiny else 4)
    size_px = 64 if tiny else 224
    cores = cpus or os.cpu_count() or 1
    profile = replace(paper(), name="benchmark")
    planned = make_plan(profile, this_machine(cpus), device=device, workers=1)  # refuses before anything is measured
    computing = torch.device("cpu" if logical_gpus() else planned.device)
    torch.set_num_threads(1)
    one_core = decode_rate(files[0], size_px, 1.0 if tiny else 4.0)
    limits = {}
    depths = (18,) if tiny else (18, 50)
    for depth in depths:
        settings = EncoderSettings(depth=depth, width=8 if tiny else 64)
        limits[settings] = encoder_rate(settings, size_px, computing, 1.0 if tiny else 3.0)
    options = Options(profile=profile, storage=work, results=work, tracking_home=work, cpus=cpus, device=device)
    plan = start_planned(options)
    print(*plan.lines(profile, device), sep="\n", flush=True)
    rows = []
    for settings, encoder in limits.items():
        limit = min(cores * one_core, encoder)
        videos = max(20, round(limit * seconds / SNIPPETS))
        rate, first_s = extraction_rate(work, settings, size_px, files, plan, 20 if tiny else videos)
        rows.append(
            {
                "encoder": f"R{settings.depth} width {settings.width}, {size_px} px, bfloat16",
                "cores": cores,
                "decode_per_core": one_core,
                "encoder_alone": encoder,
                "extraction": rate,
                "ratio": rate / limit,
                "first_video_s": first_s,
            }
        )
        print(
            f"{rows[-1]['encoder']}: {rate:,.0f} snippets/s of min({cores} x {one_core:,.0f}, {encoder:,.0f}): "
            f"{rate / limit:.2f} (wanted: 0.8); first video after {first_s:.1f} s",
            flush=True,
        )
    result = {"hardware": hardware(), "device": plan.device, "decoders": plan.resources.decoders_per_extractor}
    (work / "extraction.json").write_text(json.dumps(result | {"rows": rows}, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
