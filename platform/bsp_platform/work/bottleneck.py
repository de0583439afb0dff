"""Why does training wait for data? Clip makers measure where their time goes; the driver names what to change.

A clip maker adds a few numbers to each clip that it makes (the column ``MAKER``); a training worker takes them out
of its batches and reports their sums with its records; :class:`WaitWatch`, in the driver, warns once per row and
encoder when training waited for more than ``WAIT_LIMIT`` of the last minute. Letters: B clips of a batch.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import Any

import numpy as np
import psutil

from bsp_platform.plan.resources import Resources

MAKER = "maker"  # column of a batch: float32 [B, 5], seconds per clip, in the order of _SECONDS
_SECONDS = ("elapsed", "busy", "decoding", "computing", "machine")
# Of a training record; each a share of all the time of the makers, 0 to 1 (computing may be more: threads).
SHARES = ("makers_busy", "makers_decoding", "makers_computing", "machine_busy")
WAIT_LIMIT = 0.2  # share of the last minute that training may wait without a warning
_WINDOW_S = 60.0


class MakerClock:
    """Context manager around the making of a batch; :meth:`column` then gives the seconds of its parts."""

    def __init__(self) -> None:
        self._ended = 0.0
        psutil.cpu_percent()  # the first value is meaningless

    def __enter__(self) -> MakerClock:
        self._began, self._computed, self._decoding = time.perf_counter(), time.process_time(), 0.0
        return self

    def __exit__(self, *exc) -> None:
        now = time.perf_counter()
        busy, elapsed = now - self._began, now - (self._ended or self._began)
        self._ended = now
        computing = time.process_time() - self._computed
        # the last: seconds of a fully busy machine since the last call
        self._seconds = (elapsed, busy, self._decoding, computing, elapsed * psutil.cpu_percent() / 100)

    def timed(self, decode: Callable[..., Any]) -> Callable[..., Any]:
        """``decode``, with its time counted."""

        def decode_timed(*arguments: Any, **keywords: Any) -> Any:
            began = time.perf_counter()
            try:
                return decode(*arguments, **keywords)
            finally:
                self._decoding += time.perf_counter() - began

        return decode_timed

    def column(self, clips: int) -> np.ndarray:
        """Column ``MAKER`` for the batch that was just made: the same row for each of its clips."""
        return np.tile(np.asarray(self._seconds, np.float32) / clips, (clips, 1))


class MakerTimes:
    """Sums of the column over the batches of a training worker."""

    def __init__(self) -> None:
        self._sums = np.zeros(len(_SECONDS))

    def watch(self, batches: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """The batches without the column."""
        for batch in batches:
            column = batch.pop(MAKER, None)
            if column is not None:
                self._sums += np.asarray(column, np.float64).sum(axis=0)
            yield batch

    def take(self) -> dict[str, float]:
        """Shares since the last call, named by ``SHARES``; nothing before the first batch."""
        (elapsed, *parts), self._sums = self._sums, np.zeros(len(_SECONDS))
        return {name: float(part / elapsed) for name, part in zip(SHARES, parts)} if elapsed else {}


class WaitWatch:
    """Watches the training records of a sweep; ``clock`` gives seconds, ``spilled_mb`` is called before a warning."""

    def __init__(
        self,
        resources: Resources,
        spilled_mb: Callable[[], float] = lambda: 0.0,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.resources, self.spilled_mb, self.clock = resources, spilled_mb, clock
        self._windows: dict[Hashable, deque[tuple[float, float, dict[str, Any]]]] = {}
        self._warned: set[Hashable] = set()

    def record(self, key: Hashable, record: dict[str, Any]) -> str | None:
        """Take a training record of ``key`` (row, seed and encoder); a warning, at most one per key, or None.

        The time up to the first record is the start of the pipeline and does not count.
        """
        now = self.clock()
        if key not in self._windows:
            self._windows[key] = deque([(now, now, {})])
            return None
        window = self._windows[key]
        window.append((window[-1][1], now, record))
        while len(window) > 2 and now - window[1][1] >= _WINDOW_S:  # those after it make a minute without it
            window.popleft()
        records = [(end - began, values) for began, end, values in list(window)[1:]]
        seconds = sum(lasted for lasted, _ in records)
        if key in self._warned or seconds < _WINDOW_S:
            return None
        mean = {
            name: sum(lasted * values.get(name, 0.0) for lasted, values in records) / seconds
            for name in ("data_wait_share", *SHARES)
        }
        if mean["data_wait_share"] <= WAIT_LIMIT:
            return None
        self._warned.add(key)
        cause, remedy = bottleneck(mean, self.resources, self.spilled_mb())
        return f"training waited for data {mean['data_wait_share']:.0%} of the last minute: {cause}; {remedy}"


def bottleneck(shares: dict[str, float], resources: Resources, spilled_mb: float = 0.0) -> tuple[str, str]:
    """(cause of the waiting, remedy), from the mean ``SHARES`` of clip makers.

    Choice: makers that work more than four fifths of the time are the bottleneck, whatever else happens; among
    these, ones that compute less than half of that time wait for something, which is storage unless the machine
    has no CPU left.
    """
    busy, decoding, computing, machine = (shares.get(name, 0.0) for name in SHARES)
    makers = f"makers_per_worker (now {resources.makers_per_worker})"
    if not busy:
        return "the clip makers report nothing", "look for their errors in Ray's log"
    if busy < 0.8:
        idle = f"the clip makers have nothing to do {1 - busy:.0%} of the time"
        if spilled_mb:
            return (
                f"{idle}, and {spilled_mb:.0f} MB went from the object store to disk",
                "give Ray a larger object store: more memory in /dev/shm (--shm-size of a container), or "
                "--object-store-memory of ray start",
            )
        return (
            f"{idle}, so handing clips over is too slow for one training process",
            f"use more, smaller training processes (--workers) or more CPU for each (cpus_per_worker, now "
            f"{resources.cpus_per_worker:g})",
        )
    working = f"the clip makers are busy {min(busy, 1):.0%} of the time"
    if machine > 0.95:
        return (
            f"{working} and no CPU of the machine is free",
            "make the videos cheaper to decode (bsp prepare), add CPU nodes, or train fewer rows at a time (--cpus)",
        )
    if computing < busy / 2:
        return (
            f"{working}, {1 - computing / busy:.0%} of it waiting for storage",
            f"put the videos on a faster or nearer disk, make the files smaller (bsp prepare), or raise {makers}",
        )
    if decoding < busy / 2:
        return f"{working}, most of it synthesis and augmentation", f"raise {makers}"
    return f"{working}, {decoding / busy:.0%} of it decoding", f"raise {makers}, or run bsp prepare on the videos"
