"""The one way to write a file or folder whole: under a temporary name beside it, to the disk, then renamed.

Readers see what was there before or all of the new, also after a crash, a full disk or a power cut.
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

PARTIAL = ".partial"  # ends the name of what is being written


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A hidden temporary name beside ``path`` for the block to write a file or make a folder under.

    At the end of the block it takes the place of ``path`` (of a file, or of an empty folder); after an error it is
    removed, and ``path`` is as before. Folders above are made. Raises OSError of writing.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name[:50]}.{uuid.uuid4().hex[:8]}{PARTIAL}")  # within the 255 bytes of a name
    try:
        yield partial
        if partial.is_file():
            with open(partial, "rb") as file:
                os.fsync(file.fileno())  # a name that stands for "complete" must not survive a power cut alone
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
