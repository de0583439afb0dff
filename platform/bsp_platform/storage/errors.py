"""Errors of a storage and their handling.

Transient errors (a file server that restarts, an object store that answers "slow down") are tried again
a few times, with growing pauses, each with a line in the log; the last one becomes
:class:`StorageUnavailable`. A full disk becomes :class:`StorageFull`. Everything else passes unchanged: a
missing file or permission is still missing at the next try.
"""

from __future__ import annotations

import errno
import logging
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from tenacity import RetryCallState, RetryError, Retrying, retry_if_exception, stop_after_attempt
from tenacity.wait import wait_exponential, wait_random

log = logging.getLogger(__name__)
T = TypeVar("T")

# Choice: six tries within about 16 s: longer than the failover of a file server's network, and short
# enough to wait for where the storage is lost; finished stages are kept, so running again costs little.
TRIES = 6
FIRST_PAUSE_S = 0.5  # doubles each time

TRANSIENT = frozenset(
    getattr(errno, name)
    for name in (
        "EIO", "EREMOTEIO", "ESTALE", "ETIMEDOUT", "EAGAIN", "EBUSY", "ECONNRESET", "ECONNREFUSED", "ECONNABORTED",
        "ENETDOWN", "ENETUNREACH", "EHOSTDOWN", "EHOSTUNREACH", "ENOTCONN", "EPIPE",
    )
    if hasattr(errno, name)
)  # fmt: skip
_FULL = (errno.ENOSPC, errno.EDQUOT)


class StorageUnavailable(RuntimeError):
    """The storage failed at every try. Complete stages are kept; the same command continues later."""


class StorageFull(RuntimeError):
    """The disk is full. Complete stages are kept; the same command continues once there is room."""


class StageDamaged(RuntimeError):
    """Files of a complete stage do not match its manifest; ``names`` are theirs, relative to the stage."""

    def __init__(self, message: str, names: tuple[str, ...] = ()):
        super().__init__(message)
        self.names = names


class UnsafeName(ValueError):
    """A storage holds a name that leads out of its folder. Nothing is done with it; see docs/storage.md."""


def is_transient(error: BaseException) -> bool:
    """Whether an error of the operating system may be gone at the next try."""
    return isinstance(error, OSError) and error.errno in TRANSIENT


def retry(action: Callable[[], T], what: str | Path, *, transient: Callable[[BaseException], bool] = is_transient) -> T:
    """``action()``, tried again while it raises transient errors. It must be safe to repeat.

    ``what`` (a path, mostly) names it in the log. Raises StorageUnavailable after the last try, and whatever is
    not ``transient`` at once.
    """

    def say(state: RetryCallState) -> None:
        error = state.outcome and state.outcome.exception()
        log.warning("%s: %s; try %d of %d failed", what, error, state.attempt_number, TRIES)
        if state.next_action:
            log.info("next try in %.1f s", state.next_action.sleep)

    tries = Retrying(
        stop=stop_after_attempt(TRIES),
        wait=wait_exponential(multiplier=FIRST_PAUSE_S) + wait_random(0, FIRST_PAUSE_S / 2),
        retry=retry_if_exception(transient),
        before_sleep=say,
    )
    try:
        return tries(action)
    except RetryError as error:
        last = error.last_attempt.exception()
        raise StorageUnavailable(
            f"{what}: {last}; tried {TRIES} times. What is finished is kept: see that the storage answers, then "
            f"run the same command again"
        ) from last


def causes(error: BaseException) -> Iterator[BaseException]:
    """The error and the errors inside it, through the wrappers of Ray and of ``raise ... from``."""
    for _ in range(10):
        yield error
        failures = getattr(error, "worker_failures", None)
        inner = next(iter(failures.values())) if failures else None
        inner = inner or getattr(error, "controller_failure", None) or getattr(error, "cause", None) or error.__cause__
        if not isinstance(inner, BaseException) or inner is error:
            return
        error = inner


def is_disk_full(error: BaseException) -> bool:
    """Whether the operating system says that there is no room left on a device."""
    return isinstance(error, OSError) and error.errno in _FULL


@contextmanager
def named_disk_full(root: Path, remedy: str = "move the folder and pass --storage") -> Iterator[None]:
    """Turn "no space left on device", also from a Ray worker, into a :class:`StorageFull` with the remedy."""
    try:
        yield
    except Exception as error:
        if not any(map(is_disk_full, causes(error))):
            raise
        free = shutil.disk_usage(root).free
        raise StorageFull(
            f"no space left under {root} ({free / 1e6:.0f} MB free). What is finished is kept: free some "
            f"space, or {remedy}, and run the same command again"
        ) from error
