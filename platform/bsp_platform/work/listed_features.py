"""The videos of a feature folder: those in its manifest, if it has one, whatever other files are in the folder.

A stage of the storage lists every file with its SHA-256, so a file that is lost or changed is an error that names it.
A plain folder (imported features) has no list: there a video either has both of its files, or neither.
"""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any

import numpy as np

from bsp.features.record import FeatureInfo
from bsp.features.store import read_features
from bsp_platform.storage.errors import StageDamaged, retry
from bsp_platform.storage.manifests import MANIFEST, check_content, parse_manifest

_STAGE = re.compile("[0-9a-f]{16}")


def listed_files(folder: Path) -> dict[str, dict[str, Any]] | None:
    """What the manifest of a feature folder lists, by name; None for a plain folder.

    StageDamaged for a stage of a storage (``features/<hash>``) whose manifest is damaged or missing, as its features
    are incomplete.
    """
    path = folder / MANIFEST
    try:
        found = retry(path.stat, path)
    except FileNotFoundError:
        if folder.parent.name == "features" and _STAGE.fullmatch(folder.name):
            raise StageDamaged(
                f"{path} is not there: these features are half done, or lost; run the command that makes them again",
                (MANIFEST,),
            ) from None
        return None
    return _parsed(path, found.st_mtime_ns, found.st_size, found.st_ino)


@functools.lru_cache(maxsize=32)
def _parsed(path: Path, *looks: int) -> dict[str, dict[str, Any]]:
    return parse_manifest(retry(path.read_bytes, path), path)["files"]


def _names(video_id: str) -> tuple[str, str]:
    return f"{video_id}.npy", f"{video_id}.json"


def has_features(folder: Path, video_id: str) -> bool:
    """Whether the manifest, or without one the folder, has features of this video. Raises as :func:`listed_files`."""
    files = listed_files(folder)
    if files is None:
        return any((folder / name).exists() for name in _names(video_id))
    return any(name in files for name in _names(video_id))


def read_listed(folder: Path, video_id: str, expect: dict[str, Any] | None = None) -> tuple[np.ndarray, FeatureInfo]:
    """As :func:`~bsp.features.store.read_features`; both files are compared with the manifest (StageDamaged)."""
    files = listed_files(folder)
    if files is not None:
        unlisted = [name for name in _names(video_id) if name not in files]
        if unlisted:
            raise StageDamaged(f"{folder / unlisted[0]} is not in the manifest of its stage", (MANIFEST,))
        check_content(folder, {name: files[name] for name in _names(video_id)})
    return retry(lambda: read_features(folder, video_id, expect), folder / video_id)


def check_listed(folder: Path) -> None:
    """StageDamaged, naming them, if features that the manifest lists are lost or changed. A plain folder passes."""
    files = listed_files(folder)
    if files is not None:
        check_content(folder, {name: facts for name, facts in files.items() if name.endswith((".npy", ".json"))})
