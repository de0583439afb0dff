"""Measuring in the throughput benchmark: wall clock, CPU time of all processes, and work in alternating rounds.

On a machine that others use too, seconds say little. Candidates therefore take turns, round after round; a rate is the
median over the rounds, and a ratio is the median of the ratios within a round.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Generator, Hashable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import psutil


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One loader, watched for a while."""

    clips_per_s: float
    cpu_ms: float  # per clip, user and system time of this process and all below it, Ray's own included
    first_s: float  # from asking for the first batch to having it


def cpu_seconds(own: psutil.Process | None = None) -> dict[int, float]:
    """User and system time of a process (this one by default) and all its descendants, by process id."""
    own = own or psutil.Process()
    seconds = {}
    for process in (own, *own.children(recursive=True)):
        try:
            times = process.cpu_times()
        except psutil.Error:
            continue  # it has ended
        seconds[process.pid] = times.user + times.system
    return seconds


Name = TypeVar("Name", bound=Hashable)
Result = TypeVar("Result")


def used_since(before: dict[int, float], own: psutil.Process | None = None) -> float:
    """CPU seconds since ``before``; of a process that was not there yet, all of its time."""
    return sum(seconds - before.get(pid, 0.0) for pid, seconds in cpu_seconds(own).items())


def watch(batches: Generator[dict[str, np.ndarray], None, None], *, warm_batches: int, seconds: float) -> Sample:
    """Take batches without pauses; the first ``warm_batches`` after the first one are not counted.

    Each batch is taken over into memory that PyTorch may write, as training does on a CPU.
    """
    began = time.perf_counter()
    next(batches)
    first_s = time.perf_counter() - began
    for _ in range(warm_batches):
        next(batches)
    used, began = cpu_seconds(), time.perf_counter()
    arrivals: list[tuple[float, float, int]] = []
    while (asked := time.perf_counter()) - began < seconds or len(_waited_for(arrivals)) < 2:
        batch = next(batches)["clip"]
        now = time.perf_counter()
        arrivals.append((now, now - asked, len(np.require(batch, requirements=["C", "W"]))))
    elapsed, rate = time.perf_counter() - began, clips_per_second(arrivals)
    cpu_ms = 1000 * used_since(used) / (rate * elapsed)
    batches.close()
    return Sample(clips_per_s=rate, cpu_ms=cpu_ms, first_s=first_s)


def clips_per_second(arrivals: list[tuple[float, float, int]]) -> float:
    """Rate of a loader from its batches: (time of arrival, time waited for it, both in seconds, clips).

    A loader may hand over several batches at once. Counting between any two moments would add or miss part of such a
    delivery; so it is counted from the first batch that had to be waited for (at least half as long as the mean) to
    the last one.
    """
    first, *_, last = _waited_for(arrivals)
    return sum(clips for _, _, clips in arrivals[first:last]) / (arrivals[last][0] - arrivals[first][0])


def _waited_for(arrivals: list[tuple[float, float, int]]) -> list[int]:
    half = sum(waited for _, waited, _ in arrivals) / max(1, len(arrivals)) / 2
    return [k for k, (_, waited, _) in enumerate(arrivals) if waited >= half]


def in_turns(candidates: Mapping[Name, Callable[[], Result]], rounds: int) -> dict[Name, list[Result]]:
    """What each candidate returned, round by round; every other round in reverse order."""
    results: dict[Name, list[Result]] = {name: [] for name in candidates}
    for number in range(rounds):
        for name in list(candidates)[:: 1 if number % 2 == 0 else -1]:
            results[name].append(candidates[name]())
    return results


def seconds_per_call(work: Callable[[], Any], seconds: float) -> float:
    """Wall-clock seconds of one call, mean over ``seconds`` (at least one call)."""
    calls, began = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - began) < seconds or not calls:
        work()
        calls += 1
    return elapsed / calls


def ratio(ours: list[float], theirs: list[float]) -> dict[str, float]:
    """Median, smallest and largest of ours / theirs, round by round."""
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    return {"ratio": statistics.median(ratios), "low": min(ratios), "high": max(ratios)}
