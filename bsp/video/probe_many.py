"""Probe many video files in worker processes and cache the results.

A file that crashes the decoder fails alone, and an interrupted run continues.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from io import FileIO
from itertools import chain
from pathlib import Path

from tqdm import tqdm

from bsp import apart
from bsp.errors import VideoError
from bsp.video.read import VideoInfo, probe
from bsp.video.readers import plain_fault

FILES_PER_WORKER = 64  # with fewer files, starting a process takes longer than it saves


def probe_files(
    root: str, paths: Sequence[str], *, cache_dir: str | Path | None, workers: int | None, progress: bool
) -> dict[str, tuple[int, VideoInfo | str]]:
    """Probe files given relative to ``root``: path -> (size in bytes, what was found or why it failed).

    The arguments are those of ``catalog.build_catalog``.
    """
    with ThreadPoolExecutor(16) as pool:  # a network file system answers slowly, but in parallel
        # In batches: a million pending calls would take more memory than the results.
        parts = [paths[first : first + 256] for first in range(0, len(paths), 256)]
        answers = pool.map(lambda part: [_stat(os.path.join(root, path)) for path in part], parts)
        stats = dict(zip(paths, chain.from_iterable(answers)))
    cache = _ProbeCache(root, cache_dir)
    results: dict[str, tuple[int, VideoInfo | str]] = {}
    pending: dict[str, tuple[int, int]] = {}
    for path in paths:
        stat = stats[path]
        if isinstance(stat, str):
            results[path] = (0, stat)
        elif (known := cache.get(path, stat)) is not None:
            results[path] = (stat[0], known)
        else:
            pending[path] = stat
    if workers is None:
        workers = min(os.cpu_count() or 1, len(pending) // FILES_PER_WORKER)
    with cache:
        outcomes = _probe_each([os.path.join(root, path) for path in pending], workers)
        quiet = None if progress else True  # None: shown on a terminal only
        shown = tqdm(outcomes, total=len(pending), desc="probing videos", unit="file", disable=quiet)
        for (path, stat), outcome in zip(pending.items(), shown):
            results[path] = (stat[0], outcome)
            if isinstance(outcome, VideoInfo):  # failures are tried again next time: some were timeouts
                cache.put(path, stat, outcome)
    return results


def _stat(path: str) -> tuple[int, int] | str:
    """(bytes, time of change in ns), or why the file cannot be opened."""
    if fault := plain_fault(path):
        return fault
    try:
        found = os.stat(path)
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    return found.st_size, found.st_mtime_ns


def _probe_one(path: str) -> VideoInfo | str:
    try:
        return probe(path)
    except VideoError as error:
        return error.reason


def _probe_each(paths: Sequence[str], workers: int) -> Iterator[VideoInfo | str]:
    """VideoInfo of each file or the reason of failure, in order, by ``workers`` processes (0: this one).

    A file that kills its process gives a reason too.
    """
    if workers == 0:
        yield from map(_probe_one, paths)
        return
    for found in apart.in_order(_probe_one, [(path,) for path in paths], workers):
        yield "the video reader crashed on it" if isinstance(found, apart.ProcessDied) else found


class _ProbeCache:
    """One line per probed file, appended at once, so that an interrupted run need not start again.

    A line is the digest of a JSON text and the text; changed or truncated lines are ignored.
    """

    def __init__(self, root: str, cache_dir: str | Path | None):
        self.known: dict[str, tuple[list[int], VideoInfo]] = {}
        self.file: FileIO | None = None
        self.path: Path | None = None
        self.cut_off = False  # the last line lacks its newline after an interruption
        if cache_dir is None:
            return
        Path(cache_dir).mkdir(parents=True, exist_ok=True)
        root_hash = hashlib.blake2b(root.encode("utf-8", "surrogateescape"), digest_size=8).hexdigest()
        self.path = Path(cache_dir) / f"probes-v3-{root_hash}.jsonl"
        if self.path.exists():
            content = self.path.read_bytes()
            self.cut_off = not content.endswith(b"\n")
            for line in content.split(b"\n"):
                digest, _, text = line.partition(b" ")
                if digest == _digest(text):
                    path, stat, info = json.loads(text)
                    self.known[path] = (stat, VideoInfo(**info))

    def get(self, path: str, stat: tuple[int, int]) -> VideoInfo | None:
        """The cached VideoInfo, if the file's size and time of change are still ``stat``."""
        kept, info = self.known.get(path, (None, None))
        return info if kept == list(stat) else None

    def put(self, path: str, stat: tuple[int, int], info: VideoInfo) -> None:
        """Append the result of one file."""
        if self.file is not None:
            text = json.dumps([path, stat, asdict(info)]).encode()
            self.file.write(_digest(text) + b" " + text + b"\n")

    def __enter__(self) -> _ProbeCache:
        if self.path is not None:
            self.file = self.path.open("ab", buffering=0)
            if self.cut_off:
                self.file.write(b"\n")
        return self

    def __exit__(self, *_: object) -> None:
        if self.file is not None:
            self.file.close()


def _digest(text: bytes) -> bytes:
    return hashlib.blake2b(text, digest_size=16).hexdigest().encode()
