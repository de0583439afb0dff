"""Run native code under a time limit, without signals and without extra processes.

A video decoder is native code: Python can neither interrupt nor kill it, and signals reach only the main thread. So the
work runs in a helper thread (decoders release the interpreter lock) and the caller waits until the limit. Slow work
checks ``stop`` at its next step and ends; work that hangs keeps its thread, so the number of such threads is capped.
"""

from __future__ import annotations

import math
import os
import threading
import weakref
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, TypeVar

from bsp.errors import VideoTimeout

Result = TypeVar("Result")

# Choice: past 16 reads that still hang, further reads fail at once instead of piling up threads and open
# files (a dead network drive makes every read hang; the cap on broken videos then stops the run).
MAX_HANGING = 16
_hanging: list[threading.Thread] = []
_hanging_lock = threading.Lock()
_local = threading.local()  # .helper: the helper thread of this calling thread


class Stopped(Exception):
    """Raised inside abandoned work at its next step."""


def check(stop: threading.Event) -> None:
    """End abandoned work: raises :class:`Stopped` once the caller has given up."""
    if stop.is_set():
        raise Stopped


class _Helper:
    """A helper thread that runs jobs one after another for one calling thread.

    It is kept between calls because a new thread costs 0.5 ms (cold memory allocator). It ends after its current job
    when the calling thread ends or drops it.
    """

    def __init__(self) -> None:
        self.inbox: SimpleQueue[Any] = SimpleQueue()
        self.process = os.getpid()  # threads do not survive a fork
        self.thread = threading.Thread(target=_serve, args=(self.inbox,), name="bsp-video", daemon=True)
        self.thread.start()
        weakref.finalize(self, self.inbox.put, None)


def _serve(inbox: SimpleQueue[Any]) -> None:
    while (job := inbox.get()) is not None:
        work, stop, outcome, done = job
        try:
            outcome.append((work(stop), None))
        except BaseException as error:  # handed to the caller's thread, which raises it
            outcome.append((None, error))
        del job, work, outcome  # frees frames and files now, not at the next job
        done.release()


def call_within(work: Callable[[threading.Event], Result], path: str, limit_s: float) -> Result:
    """Return ``work(stop)``, or raise VideoTimeout naming ``path`` after ``limit_s`` seconds.

    ``limit_s`` > 0; ``math.inf`` is off and runs in the caller's thread. Exceptions of the work reach the
    caller unchanged. After a timeout the work may still be using its objects: the caller must drop its own
    references to them and not close them. Costs about 0.1 ms per call.
    """
    if not limit_s > 0:
        raise ValueError(f"time_limit_s must be above 0 s (math.inf: no limit), not {limit_s}")
    stop = threading.Event()
    if math.isinf(limit_s):
        return work(stop)
    if (hanging := hanging_reads()) >= MAX_HANGING:
        raise VideoTimeout(path, f"not read: {hanging} earlier reads still hang; is the storage alive?")
    helper: _Helper | None = getattr(_local, "helper", None)
    if helper is None or helper.process != os.getpid():
        helper = _local.helper = _Helper()

    outcome: list[tuple[Result | None, BaseException | None]] = []
    done = threading.Lock()
    done.acquire()
    helper.inbox.put((work, stop, outcome, done))
    in_time = False
    try:
        in_time = done.acquire(timeout=min(limit_s, threading.TIMEOUT_MAX))
    finally:
        if not in_time:  # timeout or Ctrl-C: abandon the helper
            stop.set()
            _local.helper = None
            helper.inbox.put(None)  # after this work, end
            with _hanging_lock:
                _hanging.append(helper.thread)
    if not in_time:
        raise VideoTimeout(
            path, f"reading took longer than {limit_s:g} s; raise time_limit_s if the file is merely slow"
        )
    result, error = outcome.pop()
    if error is not None:
        try:
            raise error
        finally:
            del error  # breaks the cycle error -> traceback -> this frame -> error
    return result  # type: ignore[return-value]


def hanging_reads() -> int:
    """Number of timed-out reads that have not ended yet."""
    if not _hanging:
        return 0
    with _hanging_lock:
        _hanging[:] = [thread for thread in _hanging if thread.is_alive()]
        return len(_hanging)
