"""The cost of Table 4 at full size, from measured rates: GPU-hours, CPU cores for decoding, storage, network, money.

Called by experiments/tools/simulate_scale.py --cost-model. Every number is an input, measured (with the file it comes
from), or computed from these by a formula that is printed beside it; docs/scale.md explains them.
"""

from __future__ import annotations

import functools
import json
import statistics
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import click

from bsp.encoders.build import build_encoder, flops_per_clip
from bsp.encoders.tsm import EncoderSettings
from bsp_platform.plan.profiles import paper

sys.path.append(str(Path(__file__).resolve().parents[1] / "benchmarks" / "throughput"))
from throughput_sources import PREPARED, RAW

GPUS = (1, 8, 64)
DATA_SETS = {"Kinetics-400": 240_000, "Kinetics-700": 650_000, "a million videos": 1_000_000}


def _input(default: float | None, about: str) -> Any:
    return field(default=default, metadata={"about": about})


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """Inputs that are not measured here. None: from results/benchmark_throughput, or the assumption there."""

    gpu_clips_per_s: float | None = _input(None, "training step, R18 at 224 px, of one GPU; measured")
    gpu_peak_tflops: float = _input(312.0, "bf16 peak of the card (A100: 312, H100 SXM: 989), its data sheet")
    gpu_utilisation: float = _input(0.3, "share of the peak that training reaches, 0..1; ASSUMED, replace it")
    scaling: float = _input(0.9, "speed of N GPUs over N times one; ASSUMED, replace it")
    raw_clips_per_core_s: float | None = _input(None, "clips/s of a core from raw videos; measured")
    prepared_clips_per_core_s: float | None = _input(None, "clips/s of a core from prepared videos; measured")
    raw_mb: float = _input(1.0, "a raw 10 s video of 340x256, MB; ASSUMED, see `bsp prepare`'s report")
    prepared_mb: float = _input(0.5, "a prepared one, MB; ASSUMED, see `bsp prepare`'s report")
    prepare_videos_per_core_s: float = _input(1.0, "bsp prepare, videos/s of a core; ASSUMED, see its report")
    feature_videos: float = _input(19_994, "videos of ActivityNet-1.3")
    feature_seconds: float = _input(117.0, "their mean length: 648 hours in all")
    feature_fps: float = _input(30.0, "their frames per second")
    price_gpu_hour: float | None = _input(None, "money for a GPU and an hour")
    price_core_hour: float | None = _input(None, "money for a CPU core and an hour")
    price_gb_month: float | None = _input(None, "money for a GB of storage and a month")


def price_options(command: Callable) -> Callable:
    """An option per input."""
    for item in reversed(fields(Inputs)):
        name = "--" + item.name.replace("_", "-")
        default = {"default": item.default} if item.default is not None else {}
        command = click.option(name, type=float, help=f"cost model: {item.metadata['about']}", **default)(command)
    return command


@dataclass(frozen=True)
class Rate:
    """A rate and where it comes from."""

    value: float
    source: str


def rates(results: Path, inputs: Inputs) -> dict[str, Rate]:
    """Clips/s of a GPU, and of a core from raw and from prepared files, each given, measured or assumed."""
    benchmark = measured(_read(results / "benchmark_throughput" / "table.json"))
    flops = 3 * flops_per_clip(_encoder(), _size_px())
    assumed = {
        # Three times the forward pass: forward, gradient of activations, gradient of weights.
        "gpu": (
            inputs.gpu_peak_tflops * 1e12 * inputs.gpu_utilisation / flops,
            f"ASSUMED, replace it: {inputs.gpu_peak_tflops:g} TFLOP/s x {inputs.gpu_utilisation:g} / "
            f"{flops / 1e9:.1f} GFLOP per clip",
        ),
        # CPU ms per file, of the issue that asked for `bsp prepare`; a clip reads 1.5 files.
        "raw": (1000 / (1.5 * 122), "ASSUMED, replace it: 122 ms per file of 340x256, GOP 250; 1.5 files per clip"),
        "prepared": (1000 / (1.5 * 19), "ASSUMED, replace it: 19 ms per file of 170x128, GOP 8; 1.5 files per clip"),
    }
    given = {
        "gpu": inputs.gpu_clips_per_s,
        "raw": inputs.raw_clips_per_core_s,
        "prepared": inputs.prepared_clips_per_core_s,
    }
    found = {}
    for name, (value, source) in assumed.items():
        if (rate := given[name]) is not None:
            found[name] = Rate(rate, "given")
        else:
            found[name] = benchmark.get(name) or Rate(value, source)
    return found


def measured(benchmark: dict[str, Any]) -> dict[str, Rate]:
    """Of benchmark_throughput's table.json: CPU time per clip through Ray Data, the fastest step of R18 on a GPU."""
    where, found = f"benchmark_throughput: {benchmark.get('hardware')}, {benchmark.get('date')}", {}
    for row in benchmark.get("loaders", []):
        name = {RAW: "raw", PREPARED: "prepared"}.get(row["source"])
        if name and row["loader"] == "Ray Data" and row["workers"] == 1:
            milliseconds = statistics.median(row["cpu_ms"])
            found[name] = Rate(1000 / milliseconds, f"measured, {milliseconds:.1f} ms of CPU per clip; {where}")
    steps = [
        row
        for row in benchmark.get("steps", [])
        if row["memory_mb"] and row["network"] == "TSM" and row["setting"].startswith("R18 width 64, 224 px")
    ]
    if steps:
        best = max(steps, key=lambda row: statistics.median(row["rates"]))
        found["gpu"] = Rate(statistics.median(best["rates"]), f"measured, {best['setting']}; {where}")
    return found


def cost_model(results: Path, inputs: Inputs) -> tuple[str, dict[str, Any]]:
    """The model as Markdown and as data."""
    found, profile = rates(results, inputs), paper()
    simulated = _read(results / "simulate_scale" / "table.json")
    # The random row trains nothing, so Table 4's nine rows are eight trained encoders.
    encoders, clips = 8, profile.train.clips
    gpu_hours = encoders * clips / found["gpu"].value / 3600
    cores = {name: found["gpu"].value / found[name].value for name in ("raw", "prepared")}
    wall = {gpus: gpu_hours / gpus / (inputs.scaling if gpus > 1 else 1) for gpus in GPUS}
    parameters = sum(p.numel() for p in build_encoder(_encoder(), 0).parameters())
    clip_mb = profile.encoder.clip_frames * profile.augment.size_px**2 * 3 / 1e6
    snippets = inputs.feature_seconds * inputs.feature_fps / 8
    feature_gb = inputs.feature_videos * snippets * _encoder().feature_width * 4 / 1e9
    content: dict[str, Any] = {
        "inputs": asdict(inputs),
        "rates": {name: asdict(rate) for name, rate in found.items()},
        "gpu_hours": gpu_hours,
        "cores_per_gpu": cores,
        "hours": wall,
        "checkpoint_mb": 2 * 4 * parameters / 1e6,
        "features_gb": feature_gb,
        "clip_mb": clip_mb,
    }
    lines = [
        f"Table 4, {encoders} trained encoders of {clips:,} clips each, R{_encoder().depth} at "
        f"{profile.augment.size_px} px",
        "",
        "| rate | clips/s | from |",
        "| --- | ---: | --- |",
        *(f"| {name} | {rate.value:,.1f} | {rate.source} |" for name, rate in found.items()),
        "",
        f"GPU-hours = {encoders} x {clips:,} / {found['gpu'].value:,.0f} / 3600 = {gpu_hours:,.1f}",
        "",
        "| GPUs | hours = GPU-hours / GPUs / scaling | cores, raw = GPUs x gpu / raw | cores, prepared | "
        "storage to CPUs, raw, MB/s | prepared, MB/s | CPUs to GPUs, MB/s | money |",
        "| ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    for gpus in GPUS:
        clips_per_s = gpus * found["gpu"].value * (inputs.scaling if gpus > 1 else 1)
        reads = [clips_per_s * 1.5 * mb for mb in (inputs.raw_mb, inputs.prepared_mb)]
        lines.append(
            f"| {gpus} | {wall[gpus]:,.2f} | {gpus * cores['raw']:,.0f} | {gpus * cores['prepared']:,.0f} | "
            f"{reads[0]:,.0f} | {reads[1]:,.0f} | {clips_per_s * clip_mb:,.0f} | "
            f"{_money(inputs, gpus, wall[gpus], cores['prepared'])} |"
        )
    lines += [
        "",
        "| data set | videos | raw, GB | prepared, GB | preparing, core-hours | catalog, MB | money a month |",
        "| --- | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    for name, videos in DATA_SETS.items():
        both = videos * (inputs.raw_mb + inputs.prepared_mb) / 1e3
        price = "" if inputs.price_gb_month is None else f"{both * inputs.price_gb_month:,.0f}"
        hours = videos / inputs.prepare_videos_per_core_s / 3600
        lines.append(
            f"| {name} | {videos:,} | {videos * inputs.raw_mb / 1e3:,.0f} | {videos * inputs.prepared_mb / 1e3:,.0f} | "
            f"{hours:,.0f} | {_catalog_mb(simulated, videos)} | {price or 'GB x price_gb_month'} |"
        )
    lines += [
        "",
        f"A checkpoint: weights and momentum, 2 x 4 B x {parameters:,} = {content['checkpoint_mb']:.0f} MB; two kept.",
        f"Features of one encoder: {inputs.feature_videos:,.0f} videos x {snippets:,.0f} snippets x "
        f"{_encoder().feature_width} x 4 B = {feature_gb:.1f} GB.",
        "",
    ]
    return "\n".join(lines), content


def _money(inputs: Inputs, gpus: int, hours: float, cores_per_gpu: float) -> str:
    if inputs.price_gpu_hour is None or inputs.price_core_hour is None:
        return "hours x (GPUs x price_gpu_hour + cores x price_core_hour)"
    return f"{hours * gpus * (inputs.price_gpu_hour + cores_per_gpu * inputs.price_core_hour):,.0f}"


def _catalog_mb(simulated: dict[str, Any], videos: int) -> str:
    for row in simulated.get("catalogs", {}).values():
        if row["videos"] == videos:
            return f"{row['catalog_mb']:.0f}"
    return "run tools/simulate_scale.py"


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text("utf-8")) if path.exists() else {}


def _encoder() -> EncoderSettings:
    encoder = paper().encoder
    assert isinstance(encoder, EncoderSettings)
    return encoder


@functools.cache
def _size_px() -> int:
    return paper().augment.size_px
