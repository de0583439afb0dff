"""Checks of file names that come from a manifest or from the listing of a bucket.

A manifest that names "../../x" or an absolute path would have files outside of a stage's folder moved, overwritten or
read. A name is used only if the file that it names, after all links, is inside the folder.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_DRIVE = re.compile(r"[A-Za-z]:")


def stays_inside(name: object) -> bool:
    """Whether ``name`` is that of a file below a folder: parts joined by "/", none of them "", "." or "..".

    No absolute path, no backslash, no NUL or other control character, no drive letter.
    """
    if not isinstance(name, str) or "\\" in name or any(ord(letter) < 32 for letter in name):
        return False
    parts = name.split("/")
    return not {"", ".", ".."} & set(parts) and not _DRIVE.fullmatch(parts[0])


def unsafe_checkpoint(snapshot: bytes) -> str | None:
    """A checkpoint in Ray Train's record of a run that is no plain name of a folder in the run's, or None.

    Ray uses the names unchecked, and deletes such folders once there are newer checkpoints. Ray refuses a record that
    is no JSON.
    """

    def names(value: Any, key: str) -> Iterator[Any]:
        if isinstance(value, dict):
            for inner, content in value.items():
                if inner != "metrics":
                    yield from names(content, inner)
        elif isinstance(value, list):
            for content in value:
                yield from names(content, key)
        elif key.endswith(("dir_name", "dir_names")):
            yield value

    try:
        found = list(names(json.loads(snapshot), ""))
    except (ValueError, RecursionError):
        return None
    return next((str(name) for name in found if not stays_inside(name) or "/" in name), None)


def leaving_link(folder: Path, name: str) -> str | None:
    """The first part of ``name`` (itself included) that is a link out of ``folder``, as a name below it; or None."""
    inside = os.path.realpath(folder) + os.sep
    if os.path.realpath(folder / name).startswith(inside):
        return None
    parts = name.split("/")
    for number in range(1, len(parts) + 1):
        part = "/".join(parts[:number])
        if not os.path.realpath(folder / part).startswith(inside):
            return part
    return None
