"""Function calls in worker processes that import this package and never the caller's script.

A call that ends its process (decoder crash, out of memory) fails alone. The processes of Python's own pools
either import the caller's script once more ("spawn"), which a plain script without ``if __name__ == "__main__"`` does
not survive, or copy locks that other threads hold ("fork").
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection, Pipe
from typing import Any

_START = "import sys; from bsp.apart import serve; serve(int(sys.argv[1]))"
_AT_A_TIME = 1024  # most pending calls: a million at once would take too much memory


class ProcessDied(RuntimeError):
    """The process of a call ended before the call did."""


def in_order(function: Callable[..., Any], calls: Sequence[tuple[Any, ...]], workers: int) -> Iterator[Any]:
    """``function(*call)`` for each of ``calls``, in ``workers`` >= 1 processes; results in the order of ``calls``.

    The result of a call that ended its process is a ProcessDied. An exception of ``function`` is raised here, at its
    place. Function, arguments and results must be picklable; the function is pickled by name and cannot be defined in
    the caller's script. Processes start as they are needed; when the iteration ends or is interrupted, they are killed.
    """
    own = threading.local()
    processes: list[_Process] = []

    def one(call: tuple[Any, ...]) -> Any:
        if not hasattr(own, "process"):
            own.process = _Process()
            processes.append(own.process)
        try:
            return own.process.call(function, call)
        except ProcessDied as died:
            del own.process
            return died

    threads = ThreadPoolExecutor(workers)
    try:
        for start in range(0, len(calls), _AT_A_TIME):
            yield from threads.map(one, calls[start : start + _AT_A_TIME])
    finally:
        threads.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.kill()
        threads.shutdown()


class _Process:
    """A worker process that runs one call after another; it ends when this process ends, because the pipe closes."""

    def __init__(self) -> None:
        self._pipe, other = Pipe()
        with other:
            # "-P": a file of the working directory must not stand in for a module.
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", _START, str(other.fileno())],
                env=os.environ | {"PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)},
                pass_fds=[other.fileno()],
                stdin=subprocess.DEVNULL,
            )

    def call(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        try:
            self._pipe.send((function, arguments))
            works, result = self._pipe.recv()
        except (EOFError, OSError):
            self.kill()
            raise ProcessDied(f"its process ended ({self._process.returncode})") from None
        if not works:
            raise result
        return result

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


def serve(file: int) -> None:
    """Main loop of the worker process: runs calls received through the pipe (a descriptor) until it is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the caller decides
    pipe = Connection(file)
    while True:
        try:
            request = pipe.recv_bytes()
        except EOFError:
            return
        try:
            function, arguments = pickle.loads(request)
            answer = (True, function(*arguments))
        except Exception as error:
            answer = (False, error)
        pipe.send(answer)
