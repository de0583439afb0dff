"""One and two training processes, and where the time of their steps goes.

Letters: W processes, S steps.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import psutil
import ray

from bsp.pretraining.workers import MeanGradient, Workers
from bsp_platform.work.streaming import clip_dataset, iterate_batches
from throughput_clock import in_turns
from throughput_loaders import Batches, BatchMaker
from throughput_sources import Source
from throughput_training import timed_training

APART = "apart"  # two processes that train independently: the limit of the machine
_HERE = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])


@dataclass(frozen=True, kw_only=True)
class Feed:
    """The batches of each training process."""

    name: str
    source: Source
    batch_size: int  # clips per process and step
    pipeline: bool  # its own Ray Data pipeline; else one ready batch, again and again
    log_every: int  # steps; processes meet at a record, so it should come every few seconds only, as in training

    def batches(self, rank: int, processes: int) -> Batches:
        """Of one process; endless."""
        stream, clips = self.source.stream, self.batch_size * processes
        stream = replace(stream, batch_size=clips, length=stream.length // stream.batch_size * clips)
        if self.pipeline:
            dataset = clip_dataset(stream, rank=rank, world_size=processes, actors=1, cpus_per_actor=0.1)
            return iterate_batches(dataset, self.batch_size)
        return itertools.repeat(BatchMaker(self.source.catalog, replace(stream, batch_size=self.batch_size))[rank])


def feeds(small: Source, large: Source) -> tuple[Feed, ...]:
    """Ready batches of both sources, and a pipeline of the small one; clips per step as in profile mini."""

    def feed(what: str, source: Source, *, pipeline: bool = False, log_every: int = 20) -> Feed:
        name = f"{what}, {source.stream.augment.size_px} px"
        return Feed(name=name, source=source, batch_size=32, pipeline=pipeline, log_every=log_every)

    return (
        feed("ready batches", small),
        feed("ready batches", large, log_every=5),
        feed("whole pipeline", small, pipeline=True),
    )


@contextmanager
def meetings() -> Iterator[list[tuple[float, float]]]:
    """The times at which this process began and ended the averaging of each step, by the machine's clock."""
    times: list[tuple[float, float]] = []
    finish = MeanGradient.finish

    def timed(gradient: MeanGradient) -> None:
        came = time.perf_counter()
        finish(gradient)
        times.append((came, time.perf_counter()))

    with mock.patch.object(MeanGradient, "finish", timed):
        yield times


def anatomy(came_WS: np.ndarray, left_WS: np.ndarray) -> dict[str, float]:
    """ms of a step, means over processes and steps, from the times (s) at which each came to the averaging and left.

    ``slower_ms`` is spent waiting for the last process to come, ``averaging_ms`` from then on, ``own_ms`` from leaving
    until coming again.
    """
    last_S = came_WS.max(axis=0)
    return {
        "own_ms": 1000 * float((came_WS[:, 1:] - left_WS[:, :-1]).mean()),
        "slower_ms": 1000 * float((last_S - came_WS).mean()),
        "averaging_ms": 1000 * float((left_WS - last_S).mean()),
    }


@ray.remote(num_cpus=0.1, max_retries=0, runtime_env={"env_vars": {"PYTHONPATH": _HERE}})
def _train_process(rank: int, processes: int, meeting: str, feed: Feed, seconds: float) -> dict[str, Any]:
    """One of ``processes`` training processes (gloo)."""
    from torch import distributed

    if processes > 1:
        distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=processes)
    workers = Workers(virtual=processes, processes=processes, rank=rank)
    try:
        with meetings() as times:
            result = timed_training(
                feed.source.stream,
                feed.batches(rank, processes),
                batch_size=feed.batch_size * processes,
                seconds=seconds,
                workers=workers,
                log_every=feed.log_every,
                everything=psutil.Process().parent(),  # the raylet, and below it all workers of this machine
            )
    finally:
        if processes > 1:
            distributed.destroy_process_group()
    came, left = zip(*times[-int(result.pop("steps")) :], strict=True)
    return result | {"came": came, "left": left}


def _together(parts: list[dict[str, Any]], *, apart: bool) -> dict[str, float]:
    """One measurement from those of the processes. The records of processes that train together count all clips."""
    times = {name: [part[name] for part in parts] for name in ("came", "left")}
    steps = min(len(came) for came in times["came"])  # processes apart stop on their own
    came_WS, left_WS = (np.array([row[:steps] for row in rows]) for rows in times.values())
    if apart:  # each averages alone
        own = [anatomy(came_WS[[rank]], left_WS[[rank]]) for rank in range(len(parts))]
        parts_ms = {name: float(np.mean([row[name] for row in own])) for name in own[0]}
    else:
        parts_ms = anatomy(came_WS, left_WS)
    return {
        "clips_per_s": sum(part["clips_per_s"] for part in parts) if apart else parts[0]["clips_per_s"],
        "data_wait_share": float(np.mean([part["data_wait_share"] for part in parts])),
        "cores": float(np.mean([part["cores"] for part in parts])),
        **parts_ms,
    }


def measure_processes(
    chosen: tuple[Feed, ...], folder: Path, *, seconds: float, rounds: int
) -> dict[str, list[dict[str, float]]]:
    """One and two training processes, the same clips per process and step; "2 apart" share nothing but the machine.

    The gradients of two are averaged at every step as in training (``bsp.pretraining.workers``). No averaging can make
    two processes faster than two that train at the same time, each on its own. Needs a running Ray.
    """
    numbers = itertools.count()

    def train(feed: Feed, processes: int, apart: bool = False) -> dict[str, float]:
        # A stream that was closed early cancels its reading task by force, a moment later, and with it whatever the
        # worker process has been given since: Ray would lose one of the processes below.
        time.sleep(1.0)
        meeting = folder / f"meeting{next(numbers)}"
        meeting.unlink(missing_ok=True)
        group = [(0, 1) if apart else (rank, processes) for rank in range(processes)]
        parts = ray.get([_train_process.remote(rank, size, str(meeting), feed, seconds) for rank, size in group])
        meeting.unlink(missing_ok=True)
        return _together(parts, apart=apart)

    candidates = {}
    for feed in chosen:
        candidates[f"{feed.name}, 1"] = partial(train, feed, 1)
        candidates[f"{feed.name}, 2"] = partial(train, feed, 2)
        candidates[f"{feed.name}, 2 {APART}"] = partial(train, feed, 2, apart=True)
    return in_turns(candidates, rounds)
