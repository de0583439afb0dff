"""The stream of clips of 224 px against the rate of its clip makers alone; its memory over time.

    python experiments/benchmarks/stream_large_clips.py               # about 20 minutes on two cores
    ... --only prepared --rounds 1 --makers 2                        # a first look, a minute

The consumer takes up to 2,000 clips/s and does nothing with them but what training does with the batch on its way to a
GPU: one copy into memory that is used again. Per kind of videos, in turns: one clip maker alone in a process without
Ray; as many processes as makers with a queue each, the plain limit; the stream as training uses it. Ratios are taken
within a round. Memory is sampled once a second. Writes results/stream_large_clips/table.{json,md}.
"""

from __future__ import annotations

import datetime
import itertools
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import bsp_platform  # noqa: F401  isort: skip (first: it sets the environment that Ray and the C library read)
import click
import numpy as np
import psutil

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE / "throughput"))
from bsp.clips.augment import AugmentSettings  # noqa: E402
from bsp.clips.catalog import Catalog  # noqa: E402
from bsp.clips.frame_cache import FrameCache  # noqa: E402
from bsp.clips.plan import ClipSettings  # noqa: E402
from bsp.datasets.kinetics import load_class_folders, load_kinetics_csv  # noqa: E402
from bsp.datasets.pantomime.render import render  # noqa: E402
from bsp.video.prepare import PrepareSettings  # noqa: E402
from bsp_platform.plan.profiles import smoke  # noqa: E402
from bsp_platform.report.tables import hardware  # noqa: E402
from bsp_platform.storage.files import write_json  # noqa: E402
from bsp_platform.sweep.ray_log import RayLog  # noqa: E402
from bsp_platform.work.bottleneck import MakerTimes  # noqa: E402
from bsp_platform.work.cluster.start import object_store, start_ray  # noqa: E402
from bsp_platform.work.cluster.stream_size import MIB, clip_bytes, stream_size  # noqa: E402
from bsp_platform.work.streaming import (  # noqa: E402
    ClipStream,
    clip_dataset,
    iterate_batches,
    make_clips,
    size_of_stream,
)
from throughput_clock import cpu_seconds, used_since  # noqa: E402
from throughput_videos import make_prepared  # noqa: E402

RESULTS = HERE.parents[1] / "results"
SIZE_PX = 224
WANTED = 0.85
_LENGTH = 12_000_000  # of a stream, as in profile paper
_WARM_S = 3.0


@dataclass(frozen=True)
class Kind:
    """A set of videos and the stream of clips made of them; ``stream.catalog`` is None until Ray runs."""

    name: str
    catalog: Catalog
    stream: ClipStream


def make_kinds(folder: Path) -> list[Kind]:
    """Videos rendered once below ``folder``: 10 s of 340x256 at 30 fps like Kinetics', prepared ones, and Pantomime."""
    raw_folder, prepared_folder = folder / "raw", folder / "prepared"
    make_prepared(raw_folder, prepared_folder, 8, PrepareSettings(short_side_px=256))
    embedded = smoke().pantomime
    assert embedded is not None
    data = render(embedded, folder / "pantomime", progress=False)
    pantomime = load_kinetics_csv(data / "trimmed" / "train.csv", data / "trimmed" / "videos", progress=False)
    stream = ClipStream(
        catalog=None,
        clips=ClipSettings(),
        augment=AugmentSettings(size_px=SIZE_PX),
        seed=0,
        batch_size=128,
        length=_LENGTH // 128 * 128,
    )
    small = replace(stream, batch_size=64, length=_LENGTH // 64 * 64)
    return [
        Kind("340x256, GOP 250", load_class_folders(raw_folder, progress=False), stream),
        Kind("340x256, prepared", load_class_folders(prepared_folder, progress=False), stream),
        Kind("Pantomime", pantomime, small),
    ]


class Reused:
    """Reused memory for batches, like PyTorch's pinned memory: ``empty`` of ``iterate_batches``."""

    def __init__(self, number: int = 2):
        self.number = number
        self.rings: dict[tuple[tuple[int, ...], np.dtype], Iterator[np.ndarray]] = {}

    def __call__(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """Memory of this shape and dtype, the oldest that was given."""
        if (shape, dtype) not in self.rings:
            self.rings[shape, dtype] = itertools.cycle([np.zeros(shape, dtype) for _ in range(self.number)])
        return next(self.rings[shape, dtype])


def make_tasks(catalog: Catalog, stream: ClipStream, task_clips: int, first: int, step: int) -> Iterator[dict]:
    """The work of a clip maker without Ray: tasks first, first + step, ..."""
    cache = FrameCache(stream.frame_cache_mb * MIB)
    for task in itertools.count(first, step):
        yield make_clips(catalog, stream, range(task * task_clips, (task + 1) * task_clips), cache)


def _alone(answer: Any, seconds: float, arguments: tuple) -> None:
    import torch

    torch.set_num_threads(1)
    tasks, made, began, used = make_tasks(*arguments), 0, 0.0, 0.0
    warm = time.perf_counter() + _WARM_S
    for task in tasks:
        now = time.perf_counter()
        if began:
            made += len(task["index"])
            if now - began >= seconds:
                break
        elif now >= warm:
            began, used = now, time.process_time()
    answer.put((made / (now - began), 1000 * (time.process_time() - used) / made))


def rate_alone(kind: Kind, task_clips: int, seconds: float) -> tuple[float, float]:
    """Clips/s of one maker in a process of its own that sends no clips, and ms of CPU per clip."""
    context = multiprocessing.get_context("spawn")
    answer = context.Queue()
    process = context.Process(target=_alone, args=(answer, seconds, (kind.catalog, kind.stream, task_clips, 0, 1)))
    process.start()
    rate = answer.get()
    process.join()
    return rate


def _to_queue(queue: Any, arguments: tuple) -> None:
    import torch

    torch.set_num_threads(1)
    for task in make_tasks(*arguments):
        queue.put(task)


class Queues:
    """The limit without Ray: processes that make tasks in turns, with a queue each; has the methods of a data set."""

    def __init__(self, kind: Kind, makers: int, task_clips: int):
        context = multiprocessing.get_context("spawn")
        self.queues = [context.Queue(maxsize=2) for _ in range(makers)]
        self.processes = [
            context.Process(target=_to_queue, args=(queue, (kind.catalog, kind.stream, task_clips, k, makers)))
            for k, queue in enumerate(self.queues)
        ]

    def iter_batches(self, **how: Any) -> Iterator[dict]:
        """Batches of all processes in turn; they end with the iteration. ``how`` is for Ray Data alone."""
        for process in self.processes:
            process.start()
        try:
            for queue in itertools.cycle(self.queues):
                yield queue.get()
        finally:
            for process in self.processes:
                process.kill()
                process.join()


def consume(
    batches: Any,  # an iterator of batches that may be closed
    *,
    seconds: float,
    clips_per_s: float,
    sample: Callable[[], dict] = dict,
    warm: Callable[[], Any] = dict,
) -> dict[str, Any]:
    """Take batches at ``clips_per_s`` at most: rate, CPU time and samples, past the first seconds."""
    began = time.perf_counter()
    batch_size = len(next(batches)["index"])
    first_s, seen = time.perf_counter() - began, 0
    samples: list[dict[str, Any]] = []
    begin, due, asked = time.perf_counter() + _WARM_S, 0.0, 0.0
    used: dict[int, float] = {}
    for batch in batches:
        now = time.perf_counter()
        if asked:
            seen += len(batch["index"])
            if now - asked >= seconds:
                break
            if now - asked >= len(samples):
                samples.append({"seconds": now - asked, "clips": seen, **sample()})
        elif now >= begin:
            asked, used = now, cpu_seconds()
            warm()
        due = max(now, due + batch_size / clips_per_s)
        time.sleep(due - now)
    cpu_s = used_since(used)
    batches.close()
    return {"clips_per_s": seen / (now - asked), "cpu_ms": 1000 * cpu_s / seen, "first_s": first_s, "samples": samples}


def rate_of_stream(kind: Kind, makers: int, cpus: float, seconds: float, clips_per_s: float) -> dict[str, Any]:
    """The stream as training uses it; the store and the memory of this process and its makers once a second."""
    import ray

    stream = replace(kind.stream, catalog=ray.put(kind.catalog))
    own, spilled = psutil.Process(), object_store().spilled_mb

    def sample() -> dict[str, float]:
        store = object_store()
        makers = [p for p in own.children(recursive=True) if "MapWorker" in p.name()]
        private = [(m := p.memory_info()).rss - m.shared for p in (own, *makers)]
        return {
            "store_mb": store.wanted_mb,
            "uncleared_mb": store.used_mb - store.wanted_mb,
            "spilled_mb": store.spilled_mb - spilled,
            "own_mb": private[0] / 1e6,
            "makers_mb": sum(private[1:]) / 1e6,
        }

    size = size_of_stream(stream, makers)
    dataset = clip_dataset(stream, actors=makers, cpus_per_actor=cpus)
    times = MakerTimes()
    batches = times.watch(iterate_batches(dataset, stream.batch_size, Reused()))
    found = consume(batches, seconds=seconds, clips_per_s=clips_per_s, sample=sample, warm=times.take) | times.take()
    found |= {"in_flight_mb": size.in_flight_bytes / 1e6, "spilled_mb": object_store().spilled_mb - spilled}
    return found


def measure(
    kinds: list[Kind], makers: int, rounds: int, seconds: float, clips_per_s: float, say: Callable
) -> list[dict]:
    """A row for each kind of videos."""
    rows = []
    for kind in kinds:
        task = stream_size(clip_bytes(kind.stream.clips.half_len, SIZE_PX), makers).task_clips
        found = []
        for number in range(rounds):
            say(f"{kind.name}, {makers} makers, round {number + 1}")
            alone, alone_ms = rate_alone(kind, task, seconds)
            made: Any = Queues(kind, makers, task)  # stands for a Ray Data set
            queues = iterate_batches(made, kind.stream.batch_size, Reused())
            queue = consume(queues, seconds=seconds, clips_per_s=clips_per_s)
            stream = rate_of_stream(kind, makers, 0.5, seconds, clips_per_s)
            found.append({"alone": alone, "alone_ms": alone_ms, "queue": queue, "stream": stream})
            say(
                f"  clips/s: alone {alone:.0f} ({alone_ms:.2f} ms), queue {queue['clips_per_s']:.0f} "
                f"({queue['cpu_ms']:.2f} ms), stream {stream['clips_per_s']:.0f} ({stream['cpu_ms']:.2f} ms); "
                f"makers busy {stream['makers_busy']:.0%}, machine {stream['machine_busy']:.0%}"
            )
        rows.append(
            {"videos": kind.name, "batch": kind.stream.batch_size, "makers": makers, "task": task, "rounds": found}
        )
    return rows


def summary(row: dict[str, Any]) -> dict[str, Any]:
    """Medians over the rounds; ratios within a round against makers x one maker alone."""
    rounds, makers = row["rounds"], row["makers"]
    limit = [makers * r["alone"] for r in rounds]
    samples = [sample for r in rounds for sample in r["stream"]["samples"]]
    halves = [
        (s["store_mb"], s["seconds"] > r["stream"]["samples"][-1]["seconds"] / 2)
        for r in rounds
        for s in r["stream"]["samples"]
    ]
    return {
        "alone": statistics.median(r["alone"] for r in rounds),
        "queue": [r["queue"]["clips_per_s"] / most for r, most in zip(rounds, limit, strict=True)],
        "stream": [r["stream"]["clips_per_s"] / most for r, most in zip(rounds, limit, strict=True)],
        "clips_per_s": statistics.median(r["stream"]["clips_per_s"] for r in rounds),
        "alone_ms": statistics.median(r["alone_ms"] for r in rounds),
        "queue_ms": statistics.median(r["queue"]["cpu_ms"] for r in rounds),
        "cpu_ms": statistics.median(r["stream"]["cpu_ms"] for r in rounds),
        "busy": statistics.median(r["stream"]["makers_busy"] for r in rounds),
        "store_mb": [statistics.mean(mb for mb, late in halves if late is half) for half in (False, True)],
        "store_mb_most": max(sample["store_mb"] for sample in samples),
        "own_mb": [min(s["own_mb"] for s in samples), max(s["own_mb"] for s in samples)],
        "in_flight_mb": max(r["stream"]["in_flight_mb"] for r in rounds),
        "spilled_mb": max(r["stream"]["spilled_mb"] for r in rounds),
    }


def markdown(result: dict[str, Any]) -> str:
    """The table of docs/performance.md."""
    lines = [
        f"{result['hardware']}; {result['date']}; `{result['command']}`.",
        "",
        "| videos | batch | makers | alone, clips/s | queue / (makers x alone) | stream / (makers x alone) | stream, "
        "clips/s | makers busy | CPU ms per clip: alone, queue, stream | store MB, 1st and 2nd half | most | may be in "
        "flight | spilled |",
        "| --- | ---: | ---: | ---: | --- | --- | ---: | ---: | --- | --- | ---: | ---: | ---: |",
    ]
    for row in result["rows"]:
        s = summary(row)
        queue, stream = (
            f"{statistics.median(s[k]):.2f} ({min(s[k]):.2f} to {max(s[k]):.2f})" for k in ("queue", "stream")
        )
        lines.append(
            f"| {row['videos']} | {row['batch']} | {row['makers']} | {s['alone']:.0f} | {queue} | {stream} | "
            f"{s['clips_per_s']:.0f} | {s['busy']:.0%} | {s['alone_ms']:.2f}, {s['queue_ms']:.2f}, {s['cpu_ms']:.2f} | "
            f"{s['store_mb'][0]:.0f}, {s['store_mb'][1]:.0f} | "
            f"{s['store_mb_most']:.0f} | {s['in_flight_mb']:.0f} | {s['spilled_mb']:.0f} |"
        )
    return "\n".join(lines) + "\n"


@click.command()
@click.option("--makers", type=int, multiple=True, default=(1, 2), help="clip makers; may be given more than once")
@click.option("--rounds", type=int, default=3)
@click.option("--seconds", type=float, default=10.0, help="of a measurement")
@click.option("--clips-per-s", type=float, default=2000.0, help="that the consumer takes at most")
@click.option("--videos", type=click.Path(path_type=Path), help="made here and kept (default: results)")
@click.option("--only", help="part of the name of one kind of videos")
@click.option("--results", type=click.Path(path_type=Path), default=RESULTS)
def main(
    makers: tuple[int, ...],
    rounds: int,
    seconds: float,
    clips_per_s: float,
    videos: Path | None,
    only: str | None,
    results: Path,
) -> None:
    """Measure the stream of clips of 224 px."""
    began = time.perf_counter()
    folder = results / "stream_large_clips"
    folder.mkdir(parents=True, exist_ok=True)
    kinds = [kind for kind in make_kinds(videos or folder / "videos") if not only or only in kind.name]
    with RayLog(folder / "ray.log") as log:

        def say(text: str) -> None:
            print(f"{time.perf_counter() - began:5.0f} s  {text}", file=log.console, flush=True)

        start_ray(cpus=4)
        rows = [row for number in makers for row in measure(kinds, number, rounds, seconds, clips_per_s, say)]
    result = {
        "hardware": hardware(),
        "date": datetime.date.today().isoformat(),
        "command": "python experiments/benchmarks/stream_large_clips.py",
        "rows": rows,
    }
    write_json(folder / "table.json", result)
    (folder / "table.md").write_text(markdown(result), "utf-8")
    print(markdown(result))
    samples = rows[-1]["rounds"][-1]["stream"]["samples"]
    print("  s   clips  store MB  spilled  process MB  makers MB   (last measurement)")
    for s in samples:
        print(
            f"{s['seconds']:4.0f} {s['clips']:6d} {s['store_mb']:9.0f} {s['spilled_mb']:8.0f} {s['own_mb']:11.0f} "
            f"{s['makers_mb']:10.0f}"
        )


if __name__ == "__main__":
    main()
