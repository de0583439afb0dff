"""The videos of a feature folder: those in its manifest, if it has one, whatever other files are in the folder.

A stage of the storage lists every file with its SHA-256, so a file that is lost or changed is an error that names it.
A plain folder (imported features) has no list: there a video either has both of its files, or neither.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from bsp.features.interchange import uniform_record
from bsp.features.record import FeatureInfo, video_end_s
from bsp.features.store import read_feature_info, read_features
from bsp.files.spelling import name_remark, other_v
from bsp_platform.plain_text import say
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


def stored_name(folder: Path, video_id: str) -> str | None:
    """The name of this video's features in the manifest, or without one in the folder; None = it has none.

    It is the id or, without features of that, :func:`~bsp.files.spelling.other_v`. Raises as :func:`listed_files`.
    """
    files = listed_files(folder)
    for stored in (video_id, other_v(video_id)):
        if any((folder / name).exists() if files is None else name in files for name in _names(stored)):
            return stored
    return None


def has_features(folder: Path, video_id: str) -> bool:
    """Whether the manifest, or without one the folder, has features of this video. Raises as :func:`listed_files`."""
    return stored_name(folder, video_id) is not None


def read_listed(folder: Path, video_id: str, expect: dict[str, Any] | None = None) -> tuple[np.ndarray, FeatureInfo]:
    """As :func:`~bsp.features.store.read_features`, of :func:`stored_name`; the record says ``video_id``.

    Both files are compared with the manifest (StageDamaged).
    """
    files, stored = listed_files(folder), stored_name(folder, video_id) or video_id
    if files is not None:
        unlisted = [name for name in _names(stored) if name not in files]
        if unlisted:
            raise StageDamaged(f"{folder / unlisted[0]} is not in the manifest of its stage", (MANIFEST,))
        check_content(folder, {name: files[name] for name in _names(stored)})
    feat_SD, info = retry(lambda: read_features(folder, stored, expect), folder / stored)
    return feat_SD, info if stored == video_id else replace(info, video_id=video_id)


def check_listed(folder: Path) -> None:
    """StageDamaged, naming them, if features that the manifest lists are lost or changed. A plain folder passes."""
    files = listed_files(folder)
    if files is not None:
        check_content(folder, {name: facts for name, facts in files.items() if name.endswith((".npy", ".json"))})


def stream_folders(folders: tuple[Path, ...]) -> tuple[Path, ...]:
    """The folders; in place of one that ``bsp extract`` made for several streams those in it: ``1``, ``2``, ..."""
    found: list[Path] = []
    for folder in folders:
        numbered = [inner for inner in folder.iterdir() if inner.is_dir() and inner.name.isdecimal()]
        of_one = any(path.suffix in (".npy", ".json") for path in folder.iterdir())
        found += [folder] if of_one or not numbered else sorted(numbered, key=lambda inner: int(inner.name))
    return tuple(found)


@dataclass(frozen=True)
class Found:
    """The records of the first features by video, and what follows from them."""

    infos: Mapping[str, FeatureInfo]
    durations_s: Mapping[str, float]
    rates: Mapping[str, float]  # frames per second


def records_of(folder: Path) -> Found:
    """The records of all features in a folder, each also under :func:`~bsp.files.spelling.other_v` of its name."""
    names = [path.stem for path in sorted(folder.glob("*.json"))]
    infos = {name: read_feature_info(folder, name) for name in names if stored_name(folder, name) == name}
    infos = {other_v(name): info for name, info in infos.items()} | infos
    return Found(
        infos,
        {name: video_end_s(info) for name, info in infos.items()},
        {name: info.fps for name, info in infos.items()},
    )


def check_features(folders: tuple[Path, ...], *, err: bool = False) -> dict[str, int | str]:
    """Print the streams; ValueError for mixed features. Returns the fields that all records have in common."""

    records = []
    for folder in folders:
        check_listed(folder)
        ids, record = uniform_record(folder)
        records.append(record)
        # All features of a folder have one precision; those of two streams may differ, as each has its own encoder.
        precision = "" if record.precision == "float32" else f", {record.precision}"
        width, stride = record.feature_width, record.stride_frames
        say(f"{folder}: {len(ids)} videos, width {width}, stride {stride} frames{precision}", err=err)
    strides = {record.stride_frames for record in records}
    if len(strides) > 1:
        raise ValueError(
            f"the streams have strides of {' and '.join(map(str, sorted(strides)))} frames; extract or import all"
            " with the same one"
        )
    return {"stride_frames": records[0].stride_frames}


def videos_without_features(
    folders: tuple[Path, ...], video_ids: list[str], max_missing: float, consequence: str = ""
) -> set[str]:
    """Those of the videos that a stream lacks; their number is printed with the ``consequence``.

    ValueError if none is left, or more than ``max_missing`` percent are without.
    """

    without = {i for i in video_ids if not all(has_features(folder, i) for folder in folders)}
    _say_stored_otherwise(folders[0], [i for i in video_ids if i not in without])
    if len(without) == len(set(video_ids)):
        present = sorted(path.stem for path in folders[0].glob("*.json"))
        other = name_remark(present, without)
        raise ValueError(
            f"none of the {len(without)} annotated videos, such as {video_ids[0]}, has features in"
            f" {', '.join(map(str, folders))}; {other or 'are the ids the same'}? Import them with --prefix, or rename"
        )
    if without:
        share = 100 * len(without) / len(set(video_ids))
        said = f"{len(without)} of {len(set(video_ids))} annotated videos have no features, such as {min(without)}."
        if share > max_missing:
            raise ValueError(
                f"{said} That is {share:.1f} %, more than --max-missing {max_missing:g}: extract or import the rest, or"
                f" allow it with --max-missing {math.ceil(share)}"
            )
        say(f"{said} {consequence}".strip(), err=True)
    return without


def _say_stored_otherwise(folder: Path, video_ids: list[str]) -> None:
    """Print how many videos have their features under another name; ValueError for two videos of one name."""
    names = {video_id: stored_name(folder, video_id) for video_id in video_ids}
    others = {video_id: name for video_id, name in names.items() if name != video_id}
    for video_id, name in others.items():
        if name in names:
            raise ValueError(
                f"{folder}: has features of {name!r}, none of {video_id!r}, and both are annotated; extract the other"
            )
    if others:
        one, name = next(iter(others.items()))
        say(f'{len(others)} videos have their features under a name that differs by "v_": {name} for {one}', err=True)


def subsets_of(data: Any) -> dict[str, list[str]]:
    """Ids of an annotated data set's videos by subset."""
    found: dict[str, list[str]] = {}
    for video in data.videos:
        found.setdefault(video.subset, []).append(video.video_id)
    return found
