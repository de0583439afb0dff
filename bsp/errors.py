"""Errors shown to users. Each names the file, the value and the remedy.

A :class:`VideoError` is about one video file and may be skipped (counted and named, with a cap); a :class:`FileError`
is about a file of features or weights, an :class:`AnnotationError` about a list or annotation file; both stop the
program.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


class VideoError(RuntimeError):
    """One video cannot be used. ``path`` is the file, ``reason`` says why and what to do."""

    def __init__(self, path: str, reason: str):
        super().__init__(path, reason)  # both, so that the error survives pickling between processes
        self.path = str(path)
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


class VideoOpenError(VideoError):
    """The file is missing, empty, truncated, not a video, or has no video stream."""


class VideoDecodeError(VideoError):
    """The file was opened but one of its frames could not be decoded."""


class VideoTimeout(VideoError):
    """Reading took longer than the time limit."""


class TooManyBroken(RuntimeError):
    """More videos are missing or broken than the cap allows; the message lists them."""


def most_broken(share: float, videos: int) -> int:
    """How many of so many ``videos`` may be broken when a ``share`` (0..1) may.

    Choice: one always, unless the share is 0 or there is no other; of a dozen videos none would be 5%.
    """
    return max(int(share * videos), 1 if share > 0 and videos > 1 else 0)


class FileError(ValueError):
    """A file that was given or found is damaged, too large, or of another kind; the message names it and the remedy."""


class AnnotationError(FileError):
    """A list or annotation file is malformed; the message names file, line or field, and the value."""


class Diverged(RuntimeError):
    """A training came to a loss that is no finite number; the message says when, and the remedy."""


class MissingExtra(RuntimeError):
    """An optional package is not installed; the message names it and the command that installs it."""


@contextmanager
def needs_extra(extra: str) -> Iterator[None]:
    """Context for imports of packages of an extra in pyproject.toml: raises MissingExtra if one is not installed."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise MissingExtra(
            f"{error.name} is not installed; it comes with {sys.executable} -m pip install 'bsp-platform[{extra}]'"
        ) from None
