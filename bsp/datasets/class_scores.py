"""Published video-level class scores, which assign classes to G-TAD's class-agnostic proposals.

Two layouts are supported: the JSON of the CUHK entry of the ActivityNet challenge 2017, which this project also writes,
and UntrimmedNet's array for the THUMOS14 test videos. Nothing is unpickled.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bsp.datasets.results_json import with_clean_ids
from bsp.errors import AnnotationError, FileError
from bsp.files.npy import read_npy
from bsp.files.spelling import name_remark
from bsp.files.text import clean_label, read_json, refuse_alike

# Columns (1-based, of the 101 UCF classes) of the THUMOS14 classes in UntrimmedNet's array.
UNTRIMMEDNET_COLUMNS = {
    "BaseballPitch": 7, "BasketballDunk": 9, "Billiards": 12, "CleanAndJerk": 21, "CliffDiving": 22,
    "CricketBowling": 23, "CricketShot": 24, "Diving": 26, "FrisbeeCatch": 31, "GolfSwing": 33, "HammerThrow": 36,
    "HighJump": 40, "JavelinThrow": 45, "LongJump": 51, "PoleVault": 68, "Shotput": 79, "SoccerPenalty": 85,
    "TennisSwing": 92, "ThrowDiscus": 93, "VolleyballSpiking": 97,
}  # fmt: skip
UNTRIMMEDNET_SHAPE = (1574, 101)  # row = number of the test video - 1

_LAYOUTS = (
    '{"class": [names], "results": {video: [scores]}} as JSON, or UntrimmedNet\'s array for THUMOS14 as .npy, '
    f"{list(UNTRIMMEDNET_SHAPE)}"
)


def read_class_scores(
    path: str | Path, class_names: Sequence[str], video_ids: Collection[str]
) -> dict[str, np.ndarray]:
    """Scores of these videos, float64 [K] each in the order of ``class_names``; the file may hold more of both.

    The layout is recognised by the content (plain or gzipped JSON, or .npy). AnnotationError names the file and what
    is wrong: another layout, an absent class or video, a wrong number of scores, a score that is negative or not
    finite.
    """
    path = Path(path)
    try:
        with open(path, "rb") as file:
            start = file.read(6)
    except OSError as error:
        raise AnnotationError(f"{path}: cannot be read ({error.strerror or error})") from error
    read = _from_untrimmednet if start == b"\x93NUMPY" else _from_json
    scores = read(path, class_names, video_ids)
    for video_id, row_K in scores.items():
        if not (np.isfinite(row_K).all() and (row_K >= 0).all()):
            raise AnnotationError(f"{path}: scores of {video_id} are negative or not finite: {row_K.tolist()}")
    return scores


def _from_json(path: Path, class_names: Sequence[str], video_ids: Collection[str]) -> dict[str, np.ndarray]:
    try:
        content = read_json(path)
    except AnnotationError as error:
        raise AnnotationError(f"{error}; expected {_LAYOUTS}") from None
    names: Any
    results: Any
    names, results = (content.get(key) if isinstance(content, dict) else None for key in ("class", "results"))
    if not (isinstance(results, dict) and isinstance(names, list) and all(isinstance(name, str) for name in names)):
        found = f"the keys {list(content)[:5]}" if isinstance(content, dict) else f"a {type(content).__name__}"
        raise AnnotationError(f"{path}: expected {_LAYOUTS}; found {found}")
    names = [_cleaned(name, f"{path}: class[{number}]") for number, name in enumerate(names)]
    refuse_alike(((name, f"{path}: class[{number}]") for number, name in enumerate(names)), "the class")
    twice = next((name for number, name in enumerate(names) if name in names[:number]), None)
    if twice is not None:
        raise AnnotationError(f"{path}: class: {twice!r} stands twice; which of its columns is right?")
    results = with_clean_ids(results, f"{path}: results")
    _require(path, "classes", class_names, names)
    _require(path, "videos", video_ids, results)
    order = [names.index(name) for name in class_names]
    scores = {}
    for video_id in video_ids:
        try:
            row = np.asarray(results[video_id], dtype=np.float64)
        except (TypeError, ValueError, OverflowError) as error:
            raise AnnotationError(f"{path}: results.{video_id}: {error}; expected {len(names)} numbers") from None
        if row.shape != (len(names),):
            raise AnnotationError(f"{path}: results.{video_id}: {list(row.shape)} scores for {len(names)} classes")
        scores[video_id] = row[order]
    return scores


def _from_untrimmednet(path: Path, class_names: Sequence[str], video_ids: Collection[str]) -> dict[str, np.ndarray]:
    try:
        table = read_npy(path)
    except FileError as error:
        raise AnnotationError(f"{path}: {error}; expected {_LAYOUTS}") from None
    if table.shape != UNTRIMMEDNET_SHAPE or table.dtype.kind != "f":
        raise AnnotationError(f"{path}: a {table.dtype} array {list(table.shape)}; expected {_LAYOUTS}")
    _require(path, "classes", class_names, UNTRIMMEDNET_COLUMNS)
    columns = [UNTRIMMEDNET_COLUMNS[name] - 1 for name in class_names]
    scores = {}
    for video_id in video_ids:
        number = re.fullmatch(r"video_test_(\d{7})", video_id)
        if number is None or not 1 <= int(number[1]) <= len(table):
            raise AnnotationError(
                f"{path}: holds video_test_0000001 to video_test_{len(table):07}, not {video_id}; it goes with THUMOS14"
            )
        scores[video_id] = table[int(number[1]) - 1, columns].astype(np.float64)
    return scores


def _cleaned(name: str, where: str) -> str:
    try:
        return clean_label(name)
    except ValueError as error:
        raise AnnotationError(f"{where}: {name!r}: {error}") from None


def _require(path: Path, what: str, wanted: Collection[str], present: Iterable[str]) -> None:
    have = set(present)
    absent = [name for name in wanted if name not in have]
    if absent:
        other = name_remark(sorted(have.difference(wanted)), absent, labels=what == "classes")
        raise AnnotationError(
            f"{path}: has no scores of {len(absent)} {what}, for example {absent[:3]} (it has {len(have)}, for example "
            f"{sorted(have)[:3]}){f'. {other}' if other else ''}; give the file that goes with these annotations"
        )
