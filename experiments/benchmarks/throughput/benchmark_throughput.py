"""Throughput, side by side in one run: loaders, readers, stages, training steps, and the targets of the design.

python experiments/benchmarks/throughput/benchmark_throughput.py    # 18 minutes on 2 cores without other load

--quick: 8 minutes, with a wider spread and no compiled steps; --device cuda: bf16, compiled, R18, R50, 224 px,
memory. Writes results/benchmark_throughput/table.{json,md} and plot.png; keeps the videos for the next run.
"""

from __future__ import annotations

import datetime
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import click
import torch
from rich.console import Console

from bsp_platform.plain_text import escape_unencodable
from bsp_platform.plan.device import DEVICES, Device, local_device
from bsp_platform.report.tables import hardware
from bsp_platform.storage.files import write_json
from bsp_platform.sweep.ray_log import RayLog
from bsp_platform.work.cluster.start import start_ray
from throughput_clock import cpu_seconds, in_turns, used_since, watch
from throughput_loaders import LOADERS
from throughput_parts import measure_readers, measure_stages
from throughput_processes import feeds, measure_processes
from throughput_report import Result, markdown, plot, targets
from throughput_sources import EMBEDDED, PREPARED, RAW, Source, make_sources
from throughput_training import measure_steps, measure_waiting, variants

ROOT = Path(__file__).resolve().parents[3]


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How long to measure."""

    rounds: int  # each candidate is measured so often, in turns
    seconds: float  # of a loader, per round; raw files get three times that
    videos: int  # Kinetics-like files to make
    workers: tuple[int, ...] = (1, 2)  # of the loaders
    part_seconds: float = 0.3  # of a stage, per round
    plans: int = 24  # clips that each reader reads
    steps: int = 4  # training steps of a variant, per round


FULL = Scale(rounds=3, seconds=2.5, videos=8)
QUICK = Scale(rounds=2, seconds=1.0, videos=4, part_seconds=0.1, plans=8, steps=2)


def measure_loaders(sources: dict[str, Source], scale: Scale, say: Callable[[str], None]) -> list[Result]:
    """Clips/s, CPU per clip and time to the first batch of each loader, by source and number of workers."""
    rows = []
    for name, source in sources.items():
        # Past Ray Data's first, shorter tasks (while they grow, more clips are begun than delivered); of small videos
        # until all are decoded and the batches' memory is in use.
        warm = 24 if name == RAW else 40
        seconds = scale.seconds * (3 if name == RAW else 1)
        for workers in scale.workers:
            say(f"loaders: {name}, {workers} worker{'s' * (workers > 1)}")

            def run(make: Callable, source=source, workers=workers, warm=warm, seconds=seconds):
                batches = make(source.catalog, source.stream, workers)
                return watch(batches, warm_batches=warm, seconds=seconds)

            taken = in_turns({loader: partial(run, make) for loader, make in LOADERS.items()}, scale.rounds)
            for loader, samples in taken.items():
                rows.append(
                    {
                        "source": name,
                        "workers": workers,
                        "loader": loader,
                        "clips_per_s": [sample.clips_per_s for sample in samples],
                        "cpu_ms": [sample.cpu_ms for sample in samples],
                        "first_s": [sample.first_s for sample in samples],
                    }
                )
    return rows


def measure(folder: Path, scale: Scale, device: torch.device, *, quick: bool, say: Callable[[str], None]) -> Result:
    """Run all measurements; needs a running Ray. The videos are kept below ``folder``."""
    say("videos")
    sources = make_sources(folder, videos=scale.videos)
    began, before = time.perf_counter(), cpu_seconds()
    time.sleep(2.0)
    idle = used_since(before) / (time.perf_counter() - began)
    loaders = measure_loaders(sources, scale, say)
    say("readers")
    readers = measure_readers(sources, plans=scale.plans, rounds=scale.rounds)
    say("stages")
    stages = {
        name: measure_stages(source, seconds=scale.part_seconds, rounds=scale.rounds)
        for name, source in sources.items()
    }
    say("training fed by each loader")
    long = 2 * scale.seconds
    waiting = {
        name: measure_waiting(sources[name], workers=1, seconds=long, rounds=max(1, scale.rounds - 1))
        for name in (EMBEDDED, PREPARED)
    }
    say("one and two training processes")
    small = sources[EMBEDDED]
    fed = feeds(small, sources[PREPARED])
    processes = measure_processes(fed, folder, seconds=long, rounds=scale.rounds)
    say("training steps")
    chosen = variants(device, quick=quick, size_px=small.stream.augment.size_px, batch_size=small.stream.batch_size)
    steps = measure_steps(chosen, device, steps=scale.steps, rounds=2 * scale.rounds + 1)
    result = {
        "hardware": hardware(),
        "date": datetime.date.today().isoformat(),
        "command": "python experiments/benchmarks/throughput/benchmark_throughput.py" + " --quick" * quick,
        "ray_idle_cores": idle,
        "loaders": loaders,
        "readers": readers,
        "stages": stages,
        "waiting_workers": 1,
        "waiting": waiting,
        "processes": processes,
        "steps": steps,
    }
    return result | {"targets": targets(result)}


def write(result: Result, folder: Path) -> None:
    """table.json, table.md and plot.png."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "table.json", result)
    (folder / "table.md").write_text(markdown(result), "utf-8")
    plot(result, folder / "plot.png")


@click.command()
@click.option("--quick", is_flag=True, help="a first look in half the time")
@click.option("--videos", "video_folder", type=click.Path(path_type=Path), help="made here and kept (default: results)")
@click.option("--results", type=click.Path(path_type=Path), default=ROOT / "results")
@click.option(
    "--device", type=click.Choice(DEVICES), default="auto", help="of the training steps; auto: a GPU if there"
)
def main(quick: bool, video_folder: Path | None, results: Path, device: Device) -> None:
    """Measure the speeds for which the design has targets."""
    escape_unencodable()
    began = time.perf_counter()
    folder = results / "benchmark_throughput"
    chosen = torch.device(local_device(device))
    with RayLog(folder / "ray.log") as log:
        console = Console(file=log.console)
        start_ray(cpus=4)
        result = measure(
            video_folder or folder / "videos",
            QUICK if quick else FULL,
            chosen,
            quick=quick,
            say=lambda text: console.print(f"{time.perf_counter() - began:5.0f} s  {text}"),
        )
    if chosen.type == "cuda":
        result["command"] += " --device cuda"
    write(result, folder)
    sys.stdout.write(markdown(result))
    print(f"{time.perf_counter() - began:5.0f} s  written to {folder}")


if __name__ == "__main__":
    main()
