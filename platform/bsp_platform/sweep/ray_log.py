"""Ray's own output goes to a file; the console shows only the messages of this project."""

from __future__ import annotations

import atexit
import logging
import os
import sys
import time
from pathlib import Path
from typing import TextIO

from bsp_platform.plain_text import FALLBACK, PlainFormatter

_OURS = ("bsp", "bsp_platform")  # loggers whose warnings belong on the console


class RayLog:
    """While the context lasts, all that this process and Ray's workers print goes to ``path``.

    File descriptors 1 and 2 themselves are redirected, as Ray's core and its logging threads write to them directly;
    ``console`` is the original standard output, for this project's lines. At the end of the program the descriptors
    are redirected once more, for Ray's output during its shutdown. After an error a line names the file.
    """

    def __init__(self, path: Path, *, err: bool = False):
        """``err``: the console is the original standard error."""
        self.path, self._err = path, err

    @classmethod
    def of_run(cls, folder: Path, name: str, *, err: bool = False) -> RayLog:
        """A log in a new file below ``folder``, named by the time."""
        return cls(folder / "logs" / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}.log", err=err)

    def __enter__(self) -> RayLog:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._saved = [os.dup(1), os.dup(2)]
        self.console = _text(self._saved[self._err])
        self._warnings = logging.StreamHandler(_text(self._saved[1]))
        self._warnings.setFormatter(PlainFormatter("%(levelname)s: %(message)s"))
        self._redirect()
        for name in _OURS:
            logging.getLogger(name).addHandler(self._warnings)
        return self

    def __exit__(self, kind: type[BaseException] | None, *exc) -> None:
        _flush()
        for name in _OURS:
            logging.getLogger(name).removeHandler(self._warnings)
        self.console.close()
        self._warnings.stream.close()
        for target, saved in zip((1, 2), self._saved, strict=True):
            os.dup2(saved, target)
            os.close(saved)
        if kind is not None and issubclass(kind, Exception):
            print(f"What Ray and its workers said: {self.path}", file=sys.stderr)
        atexit.register(self._redirect)  # runs before Ray's own, which was registered earlier

    def _redirect(self) -> None:
        _flush()
        log = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.close(log)


def _text(descriptor: int) -> TextIO:
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    return open(os.dup(descriptor), "w", buffering=1, encoding=encoding, errors=FALLBACK)


def _flush() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
