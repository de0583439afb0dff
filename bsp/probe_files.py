"""Open many video files once, in processes of their own, and remember what they are.

A file that crashes the decoder costs only itself, and an interrupted run goes on where it was.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from itertools import chain
from pathlib import Path

from tqdm import tqdm

from bsp.errors import VideoError
from bsp.video import VideoInfo, probe

FILES_PER_WORKER = 64  # below this many files per process, starting it costs more than it saves


def probe_files(
    root: str, paths: Sequence[str], *, cache_dir: str | Path | None, workers: int | None, progress: bool
) -> dict[str, tuple[int, VideoInfo | str]]:
    """Probe files given relative to ``root``: path -> (size in bytes, what was found or why it failed).

    The arguments are those of ``catalog.build_catalog``.
    """
    with ThreadPoolExecutor(16) as pool:  # a network file system answers slowly, but in parallel
        # Many at a time: with a million files, a pending call for each would cost more than the answers.
        parts = [paths[first : first + 256] for first in range(0, len(paths), 256)]
        answers = pool.map(lambda part: [_stat(os.path.join(root, path)) for path in part], parts)
        stats = dict(zip(paths, chain.from_iterable(answers)))
    cache = _ProbeCache(root, cache_dir)
    results: dict[str, tuple[int, VideoInfo | str]] = {}
    pending = []
    for path in paths:
        stat = stats[path]
        known = None if stat is None else cache.get(path, stat)
        if stat is None:
            results[path] = (0, "no such file")
        elif stat[0] == 0:
            results[path] = (0, "empty file (0 bytes)")
        elif known is not None:
            results[path] = (stat[0], known)
        else:
            pending.append(path)
    if workers is None:
        workers = min(os.cpu_count() or 1, len(pending) // FILES_PER_WORKER)
    with cache:
        outcomes = in_order([os.path.join(root, path) for path in pending], workers)
        quiet = None if progress else True  # None: shown on a terminal only
        shown = tqdm(outcomes, total=len(pending), desc="probing videos", unit="file", disable=quiet)
        for path, outcome in zip(pending, shown):
            results[path] = (stats[path][0], outcome)
            if isinstance(outcome, VideoInfo):  # failures are tried again next time: some were timeouts
                cache.put(path, stats[path], outcome)
    return results


def _stat(path: str) -> tuple[int, int] | None:
    """(bytes, time of change in ns), None when the file cannot be reached."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns


def _probe_one(path: str) -> VideoInfo | str:
    try:
        return probe(path)
    except VideoError as error:
        return error.reason


def in_order(
    paths: Sequence[str], workers: int, look: Callable[[str], VideoInfo | str] = _probe_one
) -> Iterator[VideoInfo | str]:
    """``look`` at each path, in ``workers`` processes (0: here); results in the order of ``paths``.

    A file that kills its process gives a reason as its result and costs only itself.
    """
    if workers == 0:
        yield from map(look, paths)
        return
    context = multiprocessing.get_context("spawn")  # a fork would copy the decoders' threads' locks
    own = threading.local()
    pools: list[ProcessPoolExecutor] = []

    def look_apart(path: str) -> VideoInfo | str:
        if not hasattr(own, "pool"):
            own.pool = ProcessPoolExecutor(1, mp_context=context)
            pools.append(own.pool)
        try:
            return own.pool.submit(look, path).result()
        except BrokenProcessPool:
            del own.pool
            return "the video reader crashed on it"

    threads = ThreadPoolExecutor(workers)
    try:
        for start in range(0, len(paths), 1024):  # a part at a time, for the memory of a million pending calls
            yield from threads.map(look_apart, paths[start : start + 1024])
    finally:
        threads.shutdown(cancel_futures=True)
        for pool in pools:
            pool.shutdown()


class _ProbeCache:
    """One line per probed file, appended as it comes, so that an interrupted run need not start again."""

    def __init__(self, root: str, cache_dir: str | Path | None):
        self.known: dict[str, tuple[list[int], dict]] = {}
        self.file = None
        self.path = None
        self.cut_off = False  # an interruption left the last line without its end
        if cache_dir is None:
            return
        Path(cache_dir).mkdir(parents=True, exist_ok=True)
        root_hash = hashlib.blake2b(root.encode("utf-8", "surrogateescape"), digest_size=8).hexdigest()
        self.path = Path(cache_dir) / f"probes-v3-{root_hash}.jsonl"
        if self.path.exists():
            text = self.path.read_text(encoding="utf-8", errors="surrogateescape")
            self.cut_off = not text.endswith("\n")
            for line in text.split("\n"):
                try:
                    path, stat, info = json.loads(line)
                    self.known[path] = (stat, VideoInfo(**info))
                except (ValueError, TypeError):  # a line cut off by an interruption: probe that file again
                    continue

    def get(self, path: str, stat: tuple[int, int]) -> VideoInfo | None:
        """What is known of the file, if its size and time of change are still ``stat``."""
        kept, info = self.known.get(path, (None, None))
        return info if kept == list(stat) else None

    def put(self, path: str, stat: tuple[int, int], info: VideoInfo) -> None:
        """Remember one file."""
        if self.file is not None:
            self.file.write(json.dumps([path, stat, asdict(info)]) + "\n")

    def __enter__(self) -> _ProbeCache:
        if self.path is not None:
            self.file = self.path.open("a", buffering=1, encoding="utf-8", errors="surrogateescape")
            self.file.write("\n" * self.cut_off)
        return self

    def __exit__(self, *_: object) -> None:
        if self.file is not None:
            self.file.close()
