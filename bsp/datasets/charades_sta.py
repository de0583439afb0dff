"""Charades-STA: sentences and their moments in Charades videos, in the official text and CSV files.

A moment line is ``<video id> <start seconds> <end seconds>##<sentence>``. Times are seconds as annotated: some moments
end after the video, and four training lines run backwards. 2D-TAN clips them to the video and drops empty ones
(``clamped``), LGI uses them as written.
"""

from __future__ import annotations

import logging
import math
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NoReturn

from bsp.datasets.activitynet import find_videos, videos_folder
from bsp.datasets.label_times import cut_to_extent, why_nothing_is_left
from bsp.errors import AnnotationError
from bsp.files.text import clean_id, parse_json, read_table, read_text, safe_name

logger = logging.getLogger(__name__)

Subset = Literal["train", "test"]
SUBSETS: tuple[Subset, ...] = ("train", "test")

MAX_MISSING_SHARE = 0.5  # of the videos, as load_activitynet has it
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


def load_charades_sta(
    folder: str | Path, video_folder: str | Path | None = None, *, find_files: bool = True
) -> GroundingDataset:
    """Read the official files of a folder and find the videos, ``<id>.<ext>``.

    folder holds charades_sta_train.txt and charades_sta_test.txt, and either Charades_v1_train.csv and
        Charades_v1_test.csv or charades_durations.json; all may be gzipped (with ".gz" at the end of the name).
    video_folder: by default folder/videos, or the folder itself where that does not exist. Without ``find_files`` no
    file is looked for, and none is missing. Training moments are clipped
    by ``clamped``, dropped ones are logged; test moments stay as written, because the two protocols of the metric treat
    them differently.
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
    for video_id in subset_of:
        safe_name(video_id, f"{folder}: charades_sta_{subset_of[video_id]}.txt")
    found = find_videos(video_folder or videos_folder(folder), subset_of) if find_files else {}
    videos = tuple(
        GroundingVideo(video_id, found.get(video_id), durations[video_id], subset)
        for video_id, subset in subset_of.items()
    )
    missing = tuple(video.video_id for video in videos if video.path is None) if find_files else ()
    if missing:
        names = ", ".join(missing[:20]) + (f" and {len(missing) - 20} more" if len(missing) > 20 else "")
        logger.warning("%s: %d of %d videos have no file: %s", folder, len(missing), len(videos), names)
    return GroundingDataset(videos=videos, moments=moments, missing=missing, dropped=tuple(dropped))


def load_charades_folder(folder: Path) -> GroundingDataset:
    """Load the official files in ``folder`` and find its videos. ValueError when most videos are missing."""
    data = load_charades_sta(folder)
    if len(data.missing) > MAX_MISSING_SHARE * len(data.videos):
        raise ValueError(
            f"--charades {folder}: {len(data.missing)} of {len(data.videos)} videos have no file, for example "
            f"{data.missing[0]}.mp4; put the videos into {folder / 'videos'}"
        )
    return data


def read_moments(path: str | Path) -> list[Moment]:
    """All lines of a moment file (also gzipped), as written; empty lines at its end are allowed.

    Raises AnnotationError with file, line (from 1), text and remedy for an invalid line.
    """
    lines = read_text(path).split("\n")
    while lines and not lines[-1].strip():
        lines.pop()
    if not lines:
        raise AnnotationError(f"{path}: the file is empty; download it again")
    return [_moment(line, number, str(path)) for number, line in enumerate(lines)]


def read_durations(path: str | Path) -> dict[str, float]:
    """Seconds of every video: from a Charades_v1_*.csv, or JSON {id: s} or {"train": {id: s}, "test": {id: s}}.

    Also gzipped. A content that begins with a brace is JSON. Raises AnnotationError with file and line or field.
    """
    text = read_text(path).lstrip()
    document = parse_json(text.encode(), path) if text.startswith("{") else None
    return _durations_from_csv(path) if document is None else durations_from_document(document, path)


def clamped(
    moments: Iterable[Moment], durations: Mapping[str, float], *, name: str = "moments"
) -> tuple[list[Moment], list[str]]:
    """2D-TAN's rule: ends are clipped to the video's duration; moments with start >= end are then dropped.

    Returns the moments kept, and "<name>:<line from 1>: why" for each one dropped; ``name`` is the file's.
    Raises AnnotationError for a moment of a video without a duration.
    """
    moments = list(moments)
    _check_videos_known(moments, durations, name)
    kept, dropped = [], []
    for moment in moments:
        duration_s = durations[moment.video_id]
        inside_K2, _ = cut_to_extent([[moment.start_s, moment.end_s]], duration_s)
        if len(inside_K2):
            start_s, end_s = inside_K2[0].tolist()
            kept.append(replace(moment, start_s=start_s, end_s=end_s))
            continue
        why = why_nothing_is_left(moment.start_s, moment.end_s, duration_s)
        dropped.append(f"{name}:{moment.line + 1}: {moment.video_id} from {moment.start_s} to {moment.end_s} s {why}")
    return kept, dropped


def _moment(line: str, number: int, path: str) -> Moment:
    place, separator, sentence = line.partition("##")
    fields = place.split()
    if not separator or "##" in sentence or len(fields) != 3:
        _fail(path, number, line, "is not '<video id> <start> <end>##<sentence>'")
    sentence = unicodedata.normalize("NFC", sentence.strip())
    if not re.search(r"\w", sentence):
        _fail(path, number, line, "has no sentence")
    times = []
    for field in fields[1:]:
        seconds = _seconds(field)
        if seconds is None or seconds < 0:
            _fail(path, number, line, f"has {field!r} where seconds (a number, not below 0) should be")
        times.append(seconds)
    return Moment(clean_id(fields[0]), sentence, times[0], times[1], number)


def _fail(path: str, number: int, line: str, problem: str) -> NoReturn:
    shown = line if len(line) <= 80 else line[:77] + "..."
    raise AnnotationError(f"{path}: line {number + 1}: {shown!r} {problem}; {_REMEDY}")


def _seconds(field: Any) -> float | None:
    """A finite number, or None for anything else."""
    try:
        seconds = float(field)
    except (TypeError, ValueError, OverflowError):
        return None
    return seconds if math.isfinite(seconds) else None


def durations_from_document(document: Mapping[str, Any], path: str | Path) -> dict[str, float]:
    """As :func:`read_durations`, from the JSON object of ``path``."""
    tables: dict[str, Any] = {"": document}
    if any(isinstance(value, dict) for value in document.values()):
        tables = {f"{key}.": value for key, value in document.items()}
    durations: dict[str, float] = {}
    for prefix, table in tables.items():
        if not isinstance(table, dict):
            raise AnnotationError(f"{path}: {prefix[:-1]}: expected an object with seconds of videos, found {table!r}")
        for video_id, value in table.items():
            _add_duration(durations, video_id, value, f"{path}: {prefix}{video_id}")
    return _not_empty(durations, path)


def _durations_from_csv(path: str | Path) -> dict[str, float]:
    durations: dict[str, float] = {}
    remedy = "give Charades_v1_train.csv or _test.csv, or a JSON object of seconds"
    for line, row in read_table(path, ("id", "length"), remedy=remedy):
        _add_duration(durations, row["id"], row["length"], f"{path}: line {line}")
    return _not_empty(durations, path)


def _add_duration(durations: dict[str, float], video_id: str | None, value: Any, where: str) -> None:
    seconds = None if isinstance(value, bool) else _seconds(value)
    if not (video_id and video_id.strip()) or seconds is None or seconds <= 0:
        raise AnnotationError(
            f"{where}: video {video_id!r} has the length {value!r:.40}, not seconds above 0; correct it"
        )
    video_id = clean_id(video_id)
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
    """The first of the files that exists, plain or gzipped."""
    for name in names:
        for candidate in (folder / name, folder / f"{name}.gz"):
            if candidate.is_file():
                return candidate
    raise AnnotationError(f"{folder}: has no file {' or '.join(names)} (or with .gz at the end); copy it there")


def _durations_of(folder: Path) -> dict[str, float]:
    """Durations of both splits; the CSV files are preferred to the JSON."""
    durations: dict[str, float] = {}
    for subset in SUBSETS:
        path = _find(folder, f"Charades_v1_{subset}.csv", "charades_durations.json")
        for video_id, seconds in read_durations(path).items():
            _add_duration(durations, video_id, seconds, str(path))
    return durations
