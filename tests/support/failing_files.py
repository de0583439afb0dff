"""Makes the operating system's file calls of a child process fail now and then, as a bad file server would.

``environment(folder, path, times)`` puts a sitecustomize module into ``folder`` that a Python started with it loads
before anything else: the first ``times`` calls that touch a path containing ``path`` raise the error.
"""

from __future__ import annotations

import os
from pathlib import Path

_CODE = """
import builtins, errno, io, os

LEFT, PATH, ERROR, LOG = {times}, {path!r}, errno.{error}, {log!r}


def failing(name, call):
    def wrapped(path, *arguments, **keywords):
        global LEFT
        if LEFT > 0 and isinstance(path, (str, os.PathLike)) and PATH in os.fspath(path):
            LEFT -= 1
            with whole_open(LOG, "a") as log:
                log.write(name + " " + os.fspath(path) + "\\n")
            raise OSError(ERROR, os.strerror(ERROR), os.fspath(path))
        return call(path, *arguments, **keywords)
    return wrapped


whole_open = builtins.open
io.open = builtins.open = failing("open", builtins.open)
os.open = failing("os.open", os.open)
os.replace = failing("replace", os.replace)
"""


def environment(folder: Path, path: str, times: int, error: str = "EIO") -> dict[str, str]:
    folder.mkdir(parents=True, exist_ok=True)
    code = _CODE.format(times=times, path=path, error=error, log=str(folder / "failed.txt"))
    (folder / "sitecustomize.py").write_text(code)
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])}


def failures(folder: Path) -> list[str]:
    """The calls that failed: "open /path"."""
    log = folder / "failed.txt"
    return log.read_text().splitlines() if log.exists() else []
