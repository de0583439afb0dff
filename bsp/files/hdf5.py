"""Untrusted HDF5 files: names and arrays, read in a child process.

An HDF5 file can refer to bytes of other files, declare terabytes in a kilobyte, and, if damaged, crash its reader.
bsp/files/hdf5_child.py refuses references outside the file, checks sizes first, and has bounded memory and time; if it
dies, a FileError names the file.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from io import BufferedReader
from pathlib import Path
from typing import Any, cast

import numpy as np

from bsp.errors import FileError

_CHILD = Path(__file__).with_name("hdf5_child.py")


class HDF5Reader:
    """Client of one child process, which starts at the first read and ends with this object. Not thread-safe."""

    def __init__(self) -> None:
        self._child: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> HDF5Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        """End the child process; the next read starts another one."""
        child, self._child = self._child, None
        if child is not None:
            child.kill()
            for pipe in (child.stdin, child.stdout):
                if pipe is not None:
                    pipe.close()
            child.wait()

    def names(self, path: str | os.PathLike[str]) -> list[str]:
        """Names in the file's root, sorted. FileError if it is no HDF5 file; FileNotFoundError."""
        return self._ask(path, str(path), name=None)[0]["names"]

    def read(
        self, path: str | os.PathLike[str], name: str, *, attributes: bool = False
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """The data set ``name`` (or the only one in a group of that name), and on request its attributes.

        Raises FileError, naming file, data set and remedy, if it is not an array of numbers or cannot be read;
        KeyError, listing the names there are, if it does not exist; FileNotFoundError.
        """
        where = f"{os.fspath(path)}:{name}"
        reply, array = self._ask(path, where, name=name, attributes=attributes)
        if "inside" in reply:
            raise KeyError(f"{where}: expected one data set of this name, found {reply['inside']}")
        return array, reply["attributes"]

    def _ask(self, path: str | os.PathLike[str], where: str, **question: Any) -> tuple[dict[str, Any], Any]:
        if not os.path.exists(path):
            raise FileNotFoundError(f"{os.fspath(path)}: no such file")
        if self._child is None or self._child.poll() is not None:
            self.close()
            self._child = _start()
        child = self._child
        assert child.stdin is not None  # a pipe, as stdout: see _start
        line = json.dumps({"path": os.path.abspath(path), "attributes": False, **question}).encode() + b"\n"
        try:
            child.stdin.write(line)
            child.stdin.flush()
            answers = cast(BufferedReader, child.stdout)
            reply = json.loads(answers.readline())
            array = _read_array(reply, answers) if "shape" in reply else None
        except (OSError, ValueError):  # the child process ended before or during its response
            code = child.wait()
            self.close()
            endless = code in (-signal.SIGALRM, -signal.SIGPROF)
            what = "found no end" if endless else f"ended the reader (status {code})"
            raise FileError(f"{where}: reading it as HDF5 {what}; it is damaged, copy or make it again") from None
        except BaseException:  # the rest of this response must not be read as the next one
            self.close()
            raise
        if "error" in reply:
            raise FileError(f"{where}: cannot be read as HDF5 ({reply['error']})")
        return reply, array


def _read_array(reply: dict[str, Any], answers: BufferedReader) -> np.ndarray:
    """Read the array that follows its JSON description."""
    array: np.ndarray = np.empty(reply["shape"], reply["dtype"])
    view = array.data.cast("B")
    while view:
        count = answers.readinto(view)
        if not count:
            raise BrokenPipeError
        view = view[count:]
    return array


def _start() -> subprocess.Popen[bytes]:
    # -P: modules beside the script must not shadow others. No HDF5 plug-ins: a file could load one.
    settings = {"HDF5_PLUGIN_PRELOAD": "::", "OPENBLAS_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8"}
    return subprocess.Popen(
        [sys.executable, "-P", str(_CHILD)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, **settings},
    )
