"""Files on storage with transient errors: written completely or not at all, with retries, hashed once."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from bsp import io
from bsp_platform.storage.errors import retry

_HASHERS = 4  # threads; SHA-256 of a small file is mostly waiting for the disk
# Choice: file times have ticks of some milliseconds (a second on old NFS), so a file that changed this recently
# may change again without showing it; its hash is not remembered.
_SETTLED_S = 2.0
_known: dict[str, tuple[tuple[int, int, int], str]] = {}  # path: size, time and inode when it was hashed; SHA-256


def file_sha256(path: Path) -> str:
    """SHA-256 (hex) of the content."""

    def digest() -> str:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    return retry(digest, path)


def sha256_once(path: Path) -> str:
    """As :func:`file_sha256`, but a file whose size, time and inode are as before is not read again."""
    facts = path.stat()
    looks = facts.st_size, facts.st_mtime_ns, facts.st_ino
    known = _known.get(str(path))
    if known and known[0] == looks:
        return known[1]
    sha256 = file_sha256(path)
    if time.time() - facts.st_mtime > _SETTLED_S:
        _known[str(path)] = looks, sha256
    return sha256


def in_threads(function: Callable[[Any], Any], items: Iterable[Any], threads: int = _HASHERS) -> list[Any]:
    """``[function(item) for item in items]``, in parallel; the first error is raised, and no further item begun."""
    items = list(items)
    if len(items) < 2:
        return [function(item) for item in items]
    with ThreadPoolExecutor(min(threads, len(items))) as pool:
        try:
            return list(pool.map(function, items))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


@contextmanager
def file_lock(path: Path, on_wait: Callable[[], None] | None) -> Iterator[None]:
    """Hold the lock ``path``; ``on_wait`` is called once a second while another process holds it.

    The operating system frees the lock of a dead process.
    """
    retry(lambda: path.parent.mkdir(parents=True, exist_ok=True), path.parent)
    lock = FileLock(str(path))

    def acquire() -> bool:
        try:
            lock.acquire(timeout=1)
        except Timeout:
            return False
        return True

    while not retry(acquire, path):
        if on_wait:
            on_wait()
    try:
        yield
    finally:
        lock.release()


def write_bytes(path: Path, content: bytes | memoryview) -> None:
    """``bsp.io.write_bytes`` with retries."""
    retry(lambda: io.write_bytes(path, content), path)


def write_json(path: Path, value: object) -> None:
    """``bsp.io.write_json`` with retries."""
    retry(lambda: io.write_json(path, value), path)
