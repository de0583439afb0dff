"""Charades-STA: sentences and their moments in Charades videos, in the official text and CSV files.

A moment line is ``<video id> <start seconds> <end seconds>##<sentence>``. Times are seconds as annotated: some
moments end after the video, and four training lines run backwards. 2D-TAN cuts them at the video's end and drops
what is empty then (``clamped``), LGI takes them as written.
"""

from __future__ import annotations

import csv
import gzip
import io
import logging
import math
import os
import re
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NoReturn

from bsp.datasets.results_json import read_json
from bsp.errors import AnnotationError

logger = logging.getLogger(__name__)

Subset = Literal["train", "test"]
SUBSETS: tuple[Subset, ...] = ("train", "test")

_REMEDY = "correct the line or download the file again"


@dataclass(frozen=True)
class Moment:
    """One line of a moment file, as written: it may end after the video or run backwards."""

    video_id: str
    sentence: str  # with its final period
    start_s: float  # >= 0
    end_s: float  # >= 0
    line: int  # 0-based, in its file


@dataclass(frozen=True)
class GroundingVideo:
    """One video with moments; ``path`` is None when no file of it was found."""

    video_id: str
    path: str | None
    duration_s: float  # > 0, as in the table, not as in the file
    subset: Subset


@dataclass(frozen=True)
class GroundingDataset:
    """Both splits; videos in the order of their first moment, those of the training split first."""

    videos: tuple[GroundingVideo, ...]  # only videos with moments
    moments: dict[Subset, tuple[Moment, ...]]  # train: cut at the video's end; test: as written
    missing: tuple[str, ...]  # ids of the videos without a file
    dropped: tuple[str, ...]  # training lines left out, as "file:line: why"


def load_charades_sta(folder: str | Path, video_folder: str | Path | None = None) -> GroundingDataset:
    """Read the official files of a folder and find the videos, ``<id>.mp4``.

    folder holds charades_sta_train.txt and charades_sta_test.txt, and either Charades_v1_train.csv and
        Charades_v1_test.csv or charades_durations.json; all may be gzipped (with ".gz" at the end of the name).
    video_folder: by default folder/videos, or the folder itself where that does not exist.
    Training moments are cut by ``clamped``, those that it drops are named and logged; test moments stay as written,
    because the two protocols of the metric treat them differently.
    Raises AnnotationError for a missing or malformed file, a moment of an unknown video or a video in both splits;
    FileNotFoundError when a given video folder does not exist.
    """
    folder = Path(folder)
    paths = {subset: _find(folder, f"charades_sta_{subset}.txt") for subset in SUBSETS}
    durations = _durations_of(folder)
    raw = {subset: read_moments(path) for subset, path in paths.items()}
    for subset in SUBSETS:
        _check_videos_known(raw[subset], durations, str(paths[subset]))
    # Choice: both heads train on what 2D-TAN's cut leaves (LGI as published trains on all lines as written).
    train, dropped = clamped(raw["train"], durations, name=paths["train"].name)
    if dropped:
        logger.warning("%d training moments are left out: %s", len(dropped), "; ".join(dropped[:20]))
    moments: dict[Subset, tuple[Moment, ...]] = {"train": tuple(train), "test": tuple(raw["test"])}
    subset_of: dict[str, Subset] = {moment.video_id: subset for subset in SUBSETS for moment in moments[subset]}
    shared = sorted({moment.video_id for moment in moments["train"] if subset_of[moment.video_id] == "test"})
    if shared:
        raise AnnotationError(f"{folder}: videos in both splits: {', '.join(shared[:5])} ({len(shared)}); remove them")
    found = _find_videos(folder, video_folder)
    videos = tuple(
        GroundingVideo(video_id, found.get(video_id), durations[video_id], subset)
        for video_id, subset in subset_of.items()
    )
    missing = tuple(video.video_id for video in videos if video.path is None)
    if missing:
        names = ", ".join(missing[:20]) + (f" and {len(missing) - 20} more" if len(missing) > 20 else "")
        logger.warning("%s: %d of %d videos have no file: %s", folder, len(missing), len(videos), names)
    return GroundingDataset(videos=videos, moments=moments, missing=missing, dropped=tuple(dropped))


def read_moments(path: str | Path) -> list[Moment]:
    """All lines of a moment file (also gzipped), as written; empty lines at its end are allowed.

    Raises AnnotationError with file, line (from 1), text and remedy for anything that is no moment.
    """
    lines = _read_text(path).split("\n")
    while lines and not lines[-1].strip():
        lines.pop()
    if not lines:
        raise AnnotationError(f"{path}: the file is empty; download it again")
    return [_moment(line.rstrip("\r"), number, str(path)) for number, line in enumerate(lines)]


def read_durations(path: str | Path) -> dict[str, float]:
    """Seconds of every video: from a Charades_v1_*.csv, or JSON {id: s} or {"train": {id: s}, "test": {id: s}}.

    Also gzipped. A content that begins with a brace is JSON. Raises AnnotationError with file and line or field.
    """
    text = _read_text(path)
    return (
        _durations_from_json(path) if text.lstrip("\ufeff \t\r\n").startswith("{") else _durations_from_csv(text, path)
    )


def clamped(
    moments: Iterable[Moment], durations: Mapping[str, float], *, name: str = "moments"
) -> tuple[list[Moment], list[str]]:
    """2D-TAN's rule: no moment ends after its video; those with start >= end then are dropped.

    Returns the moments kept, and "<name>:<line from 1>: why" for each one dropped; ``name`` is the file's.
    Raises AnnotationError for a moment of a video without a duration.
    """
    moments = list(moments)
    _check_videos_known(moments, durations, name)
    kept, dropped = [], []
    for moment in moments:
        end_s = min(moment.end_s, durations[moment.video_id])
        if moment.start_s < end_s:
            kept.append(replace(moment, end_s=end_s))
            continue
        why = f"{moment.video_id} from {moment.start_s} to {moment.end_s} s"
        if moment.start_s < moment.end_s:
            why += f" lies after the video's {durations[moment.video_id]} s"
        else:
            why += " is empty or runs backwards"
        dropped.append(f"{name}:{moment.line + 1}: {why}")
    return kept, dropped


def _moment(line: str, number: int, path: str) -> Moment:
    place, separator, sentence = line.partition("##")
    fields = place.split(" ")
    if not separator or "##" in sentence or len(fields) != 3 or not fields[0]:
        _fail(path, number, line, "is not '<video id> <start> <end>##<sentence>'")
    sentence = sentence.strip()
    if not re.search(r"\w", sentence):
        _fail(path, number, line, "has no sentence")
    times = []
    for field in fields[1:]:
        seconds = _seconds(field)
        if seconds is None or seconds < 0:
            _fail(path, number, line, f"has {field!r} where seconds (a number, not below 0) should be")
        times.append(seconds)
    return Moment(fields[0], sentence, times[0], times[1], number)


def _fail(path: str, number: int, line: str, problem: str) -> NoReturn:
    shown = line if len(line) <= 80 else line[:77] + "..."
    raise AnnotationError(f"{path}: line {number + 1}: {shown!r} {problem}; {_REMEDY}")


def _seconds(field: Any) -> float | None:
    """A finite number, or None for anything else."""
    try:
        seconds = float(field)
    except (TypeError, ValueError):
        return None
    return seconds if math.isfinite(seconds) else None


def _read_text(path: str | Path) -> str:
    """The content of a plain or gzipped text file, line ends as they are."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise AnnotationError(f"{path}: cannot be read ({error.strerror or error})") from error
    if data[:2] == b"\x1f\x8b":
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error) as error:
            raise AnnotationError(f"{path}: damaged gzip file ({error}); download it again") from error
    try:
        return data.decode().removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        found = data[error.start : error.start + 12]
        raise AnnotationError(f"{path}: line {line}: {found!r} is not UTF-8; convert the file to UTF-8") from error


def _durations_from_json(path: str | Path) -> dict[str, float]:
    document = read_json(path)
    tables = {"": document}
    if any(isinstance(value, dict) for value in document.values()):
        tables = {f"{key}.": value for key, value in document.items()}
    durations: dict[str, float] = {}
    for prefix, table in tables.items():
        if not isinstance(table, dict):
            raise AnnotationError(f"{path}: {prefix[:-1]}: expected an object with seconds of videos, found {table!r}")
        for video_id, value in table.items():
            _add_duration(durations, video_id, value, f"{path}: {prefix}{video_id}")
    return _not_empty(durations, path)


def _durations_from_csv(text: str, path: str | Path) -> dict[str, float]:
    rows = csv.DictReader(io.StringIO(text, newline=""))  # the descriptions contain commas and line ends in quotes
    durations: dict[str, float] = {}
    try:
        missing = {"id", "length"}.difference(rows.fieldnames or ())
        if missing:
            header = ", ".join(rows.fieldnames or ()) or "nothing"
            raise AnnotationError(
                f"{path}: line 1: the header has no column {' and '.join(sorted(missing))}, found {header[:80]!r};"
                " give Charades_v1_train.csv or _test.csv, or a JSON object of seconds"
            )
        for row in rows:
            _add_duration(durations, row["id"], row["length"], f"{path}: line {rows.line_num}")
    except csv.Error as error:
        raise AnnotationError(f"{path}: line {rows.line_num}: malformed CSV ({error}); {_REMEDY}") from error
    return _not_empty(durations, path)


def _add_duration(durations: dict[str, float], video_id: str | None, value: Any, where: str) -> None:
    seconds = None if isinstance(value, bool) else _seconds(value)
    if not video_id or seconds is None or seconds <= 0:
        raise AnnotationError(f"{where}: video {video_id!r} has the length {value!r}, not seconds above 0; correct it")
    if durations.setdefault(video_id, seconds) != seconds:
        raise AnnotationError(f"{where}: video {video_id!r} is {seconds} s here and {durations[video_id]} s before")


def _not_empty(durations: dict[str, float], path: str | Path) -> dict[str, float]:
    if not durations:
        raise AnnotationError(f"{path}: has no video; download it again")
    return durations


def _check_videos_known(moments: Iterable[Moment], durations: Mapping[str, float], name: str) -> None:
    for moment in moments:
        if moment.video_id not in durations:
            raise AnnotationError(
                f"{name}: line {moment.line + 1}: video {moment.video_id!r} is not in the table of durations"
                f" ({len(durations)} videos); give the table of the same split"
            )


def _find(folder: Path, *names: str) -> Path:
    """The first of the files that is there, plain or gzipped."""
    for name in names:
        for candidate in (folder / name, folder / f"{name}.gz"):
            if candidate.is_file():
                return candidate
    raise AnnotationError(f"{folder}: has no file {' or '.join(names)} (or with .gz at the end); copy it there")


def _durations_of(folder: Path) -> dict[str, float]:
    """The tables of both splits together; the CSV files win over the JSON."""
    durations: dict[str, float] = {}
    for subset in SUBSETS:
        path = _find(folder, f"Charades_v1_{subset}.csv", "charades_durations.json")
        for video_id, seconds in read_durations(path).items():
            _add_duration(durations, video_id, seconds, str(path))
    return durations


def _find_videos(folder: Path, video_folder: str | Path | None) -> dict[str, str]:
    """Paths of all mp4 files of the folder by their name without suffix."""
    if video_folder is None:
        video_folder = folder / "videos" if (folder / "videos").is_dir() else folder
    if not os.path.isdir(video_folder):
        raise FileNotFoundError(f"{video_folder}: no such folder of videos")
    with os.scandir(video_folder) as entries:
        stems = (os.path.splitext(entry.name) for entry in entries)
        return {stem: os.path.join(video_folder, stem + suffix) for stem, suffix in stems if suffix == ".mp4"}
