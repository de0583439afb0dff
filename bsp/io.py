"""Atomic writes of files and folders: written under a temporary name beside the target, flushed to disk, then renamed.

Readers see the old content or the complete new one, also after a crash, a full disk or a power cut.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PARTIAL = ".partial"  # suffix of temporary names


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A hidden temporary name beside ``path`` for the block to write a file or make a folder under.

    At the end of the block it replaces ``path`` (a file, or an empty folder); after an error it is removed and ``path``
    is unchanged. Parent folders are created. Raises OSError if writing fails.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name[:50]}.{uuid.uuid4().hex[:8]}{PARTIAL}")  # within the 255 bytes of a name
    try:
        yield partial
        if partial.is_file():
            with open(partial, "rb") as file:
                os.fsync(file.fileno())  # else a power cut could keep the new name but lose the content
        partial.replace(path)
    finally:
        if partial.is_dir():
            shutil.rmtree(partial, ignore_errors=True)
        partial.unlink(missing_ok=True)


def write_bytes(path: str | os.PathLike[str], content: bytes | memoryview) -> None:
    """Write or replace a file as :func:`atomic_path` does."""
    with atomic_path(path) as partial:
        partial.write_bytes(content)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write or replace a UTF-8 file as :func:`atomic_path` does."""
    write_bytes(path, text.encode())


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write or replace a JSON file, keys sorted, as :func:`atomic_path` does."""
    write_text(path, json.dumps(value, indent=1, sort_keys=True) + "\n")
