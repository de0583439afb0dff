"""Labels of one's own: a CSV file with a line per action, moment or boundary, as data sets that heads are trained on.

    video,start_s,end_s,label      actions; a line with nothing but a video is one without any action
    video,start_s,end_s,sentence   moments
    video,time_s                   boundaries

Further columns: ``subset`` (training, validation), ``duration_s``. ``video`` is the name of the file, with or without
its ending. Commas, semicolons or tabs; times are seconds with a decimal point.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from bsp.datasets.activitynet import LocalizationDataset, localization_dataset
from bsp.datasets.charades_sta import GroundingDataset, GroundingVideo, Moment, Subset, clamped
from bsp.datasets.gebd import GEBDDataset, GEBDVideo
from bsp.errors import AnnotationError
from bsp.files.text import clean_id, clean_label, read_table, refuse_alike, safe_name

What = Literal["actions", "moments", "boundaries"]
COLUMNS: dict[What, tuple[str, ...]] = {
    "actions": ("video", "start_s", "end_s", "label"),
    "moments": ("video", "start_s", "end_s", "sentence"),
    "boundaries": ("video", "time_s"),
}
TRAINING, VALIDATION = "training", "validation"
VALIDATION_SHARE = 0.2  # Choice: of the videos, where the file has no column "subset"
_SUBSETS = {
    "training": TRAINING, "train": TRAINING, "validation": VALIDATION, "val": VALIDATION, "test": VALIDATION,
    "testing": VALIDATION,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Line:
    """A line of the file; ``label`` is "" for a boundary, and times are empty for a video without any."""

    line: int  # from 1
    video_id: str
    times_s: tuple[float, ...]  # start and end, or the moment of a boundary
    label: str = ""
    subset: str = ""  # "" = not given
    duration_s: float | None = None


def is_table(path: Path) -> bool:
    """Whether annotations are such a file, by its ending."""
    return path.name.lower().removesuffix(".gz").endswith((".csv", ".tsv", ".txt"))


def read_lines(path: str | Path, what: What) -> list[Line]:
    """The lines of the file. AnnotationError, with file, line, column, value and remedy, for what cannot be right."""
    columns = COLUMNS[what]
    remedy = f"the first line names the columns: {','.join(columns)}"
    lines = [
        _line(fields, f"{path}: line {line}", line, what) for line, fields in read_table(path, columns, remedy=remedy)
    ]
    if not lines:
        raise AnnotationError(f"{path}: no line besides the first; write one per label: {','.join(columns)}")
    refuse_alike(((line.video_id, f"{path}: line {line.line}") for line in lines), "the video")
    if what == "actions":
        refuse_alike(((line.label, f"{path}: line {line.line}") for line in lines if line.label), "the label")
    _refuse_twice(lines, path)
    return lines


def _line(fields: Mapping[str, str], where: str, number: int, what: What) -> Line:
    names = [name for name in COLUMNS[what] if name.endswith("_s")]
    label_column = COLUMNS[what][-1] if what != "boundaries" else ""
    text = fields.get(label_column, "")
    if not fields["video"]:
        raise AnnotationError(f"{where}: video: is empty; write the name of the video's file")
    video_id = safe_name(clean_id(fields["video"]), f"{where}: video")
    is_empty = not text and not any(fields[name] for name in names)
    if is_empty and what == "moments":
        raise AnnotationError(f"{where}: sentence: is empty; write the sentence and its times, or delete the line")
    times_s = () if is_empty else tuple(_seconds(fields[name], f"{where}: {name}") for name in names)
    if len(times_s) == 2 and not times_s[0] < times_s[1]:
        raise AnnotationError(
            f"{where}: end_s: must be after start_s {times_s[0]:g}, found {times_s[1]:g}; correct or exchange them"
        )
    if label_column and not is_empty and not text:
        raise AnnotationError(f"{where}: {label_column}: is empty; write one, or leave the times out as well")
    duration = fields.get("duration_s", "")
    duration_s = _seconds(duration, f"{where}: duration_s") if duration else None
    if duration_s is not None and duration_s <= 0:
        raise AnnotationError(f"{where}: duration_s: must be above 0, found {duration_s:g}; correct it or leave it out")
    return Line(
        line=number, video_id=video_id, times_s=times_s, label=clean_label(text) if text else "",
        subset=_subset(fields.get("subset", ""), where), duration_s=duration_s,
    )  # fmt: skip


def _seconds(text: str, where: str) -> float:
    try:
        value = float(text.replace("_", "?"))  # Python reads 1_000 as a number, spreadsheets do not
    except ValueError:
        remedy = "write seconds, such as 12.5"
        if "," in text:
            remedy = "write the decimal point as a point"
        elif ":" in text:
            remedy = "write seconds, such as 83.5 for 1:23.5"
        raise AnnotationError(f"{where}: must be a number of seconds, found {text!r:.40}; {remedy}") from None
    if not math.isfinite(value) or value < 0:
        raise AnnotationError(f"{where}: must be a time from 0 s on, found {text!r:.40}; correct it")
    return value


def _subset(text: str, where: str) -> str:
    if not text:
        return ""
    if text.casefold() not in _SUBSETS:
        raise AnnotationError(f"{where}: subset: must be training or validation, found {text!r:.40}; correct it")
    return _SUBSETS[text.casefold()]


def _refuse_twice(lines: Iterable[Line], path: str | Path) -> None:
    """AnnotationError for a label that stands there twice, or a video in two subsets or of two lengths."""
    seen: dict[tuple[str, tuple[float, ...], str], int] = {}
    first: dict[str, Line] = {}
    for line in lines:
        key = line.video_id, line.times_s, line.label
        if key in seen:
            raise AnnotationError(f"{path}: line {line.line}: the same as line {seen[key]}; delete one of them")
        seen[key] = line.line
        other = first.setdefault(line.video_id, line)
        for name in ("subset", "duration_s"):
            if getattr(line, name) != getattr(other, name):
                raise AnnotationError(
                    f"{path}: line {line.line}: {name}: {getattr(line, name)!r} for {line.video_id!r}, but "
                    f"{getattr(other, name)!r} in line {other.line}; a video has one"
                )


def by_video(lines: Iterable[Line]) -> dict[str, list[Line]]:
    """Lines of each video, in the order of the file."""
    found: dict[str, list[Line]] = defaultdict(list)
    for line in lines:
        found[line.video_id].append(line)
    return dict(found)


def split_videos(labels: Mapping[str, Sequence[str]], share: float = VALIDATION_SHARE) -> dict[str, str]:
    """TRAINING or VALIDATION for each video, from its id alone where that is possible.

    ``labels`` are those of each video. About ``share`` of the videos are held out, at least one; the last video of a
    label stays in training. ValueError for fewer than two videos, or if every video has a label of its own.
    """
    if not 0 < share < 1:
        raise ValueError(f"the share of validation videos must be between 0 and 1, not {share:g}")
    if len(labels) < 2:
        raise ValueError(
            f"{len(labels)} video with labels: at least two are needed, one to train on and one to test on"
        )
    left = Counter(label for of_video in labels.values() for label in set(of_video))
    wanted = max(1, round(share * len(labels)))
    held_out: set[str] = set()
    for video_id in sorted(labels, key=lambda name: hashlib.sha256(name.encode()).hexdigest()):
        mine, room = set(labels[video_id]), wanted - len(held_out)
        # One of the videos held out has a label, unless no video has.
        if room == 1 and not mine and left and not any(labels[other] for other in held_out):
            continue
        if room and all(left[label] > 1 for label in mine):
            held_out.add(video_id)
            left.subtract(mine)
    if not any(labels[video_id] for video_id in held_out) and any(labels.values()):
        raise ValueError(
            "every video has a label that no other video has, so none can be held out; label more videos, or add a "
            "column subset (training, validation)"
        )
    return {video_id: VALIDATION if video_id in held_out else TRAINING for video_id in labels}


def subsets_of(lines: Sequence[Line], path: str | Path, share: float) -> dict[str, str]:
    """The subset of each video: the column, or :func:`split_videos`. AnnotationError if one of the two is empty."""
    videos = by_video(lines)
    given = {video_id: of_video[0].subset for video_id, of_video in videos.items()}
    if any(given.values()):
        without = [video_id for video_id, subset in given.items() if not subset]
        if without:
            raise AnnotationError(f"{path}: line {videos[without[0]][0].line}: subset: is empty, other videos have one")
        for subset in (TRAINING, VALIDATION):
            if subset not in given.values():
                raise AnnotationError(f"{path}: no video of the subset {subset}; name some in the column subset")
        return given
    # Moments and boundaries have no classes that each subset should hold.
    labels = {video_id: [line.label or "labelled" for line in of if line.times_s] for video_id, of in videos.items()}
    try:
        return split_videos(labels, share)
    except ValueError as error:
        raise AnnotationError(f"{path}: {error}") from None


def _durations(lines: Sequence[Line], durations_s: Mapping[str, float]) -> dict[str, float]:
    """Of each video: as the file says, else as ``durations_s``, else the end of its last label (at least 1 s)."""
    found = {}
    for video_id, of_video in by_video(lines).items():
        last_s = max((time_s for line in of_video for time_s in line.times_s), default=0.0)
        given = of_video[0].duration_s
        found[video_id] = durations_s.get(video_id, max(last_s, 1.0)) if given is None else given
    return found


def load_own_actions(
    path: str | Path, durations_s: Mapping[str, float], *, validation_share: float = VALIDATION_SHARE
) -> LocalizationDataset:
    """Actions. ``durations_s``: of videos, by id, as their features or files say.

    Raises AnnotationError as :func:`read_lines`, and if no video has an action.
    """
    lines = read_lines(path, "actions")
    if not any(line.label for line in lines):
        raise AnnotationError(f"{path}: no line has a label; write video,start_s,end_s,label")
    subsets, durations = subsets_of(lines, path, validation_share), _durations(lines, durations_s)
    database = {
        video_id: {
            "subset": subsets[video_id],
            "duration": durations[video_id],
            "annotations": [{"label": line.label, "segment": list(line.times_s)} for line in of_video if line.label],
        }
        for video_id, of_video in by_video(lines).items()
    }
    document = {"version": Path(path).name, "taxonomy": [], "database": database}
    return localization_dataset(document, str(path), None, subsets=(TRAINING, VALIDATION), max_missing_share=1.0)


def truth_of_actions(path: str | Path, subset: str) -> dict[str, Any]:
    """Actions as a ground truth in ActivityNet's layout, to score detections by: every video is of ``subset``, where
    the file has no such column. Raises AnnotationError as :func:`read_lines`."""
    database = {}
    for video_id, of_video in by_video(read_lines(path, "actions")).items():
        last_s = max((line.times_s[1] for line in of_video if line.times_s), default=1.0)
        database[video_id] = {
            "subset": of_video[0].subset or subset,
            "duration": of_video[0].duration_s or last_s,
            "annotations": [{"label": line.label, "segment": list(line.times_s)} for line in of_video if line.label],
        }
    return {"version": Path(path).name, "taxonomy": [], "database": database}


def load_own_moments(
    path: str | Path, durations_s: Mapping[str, float], *, validation_share: float = VALIDATION_SHARE
) -> GroundingDataset:
    """Moments of sentences; as :func:`load_own_actions`. Training moments are cut at the end of their video."""
    lines = read_lines(path, "moments")
    words = [Line(line=x.line, video_id=x.video_id, times_s=x.times_s, subset=x.subset) for x in lines]
    subsets, durations = subsets_of(words, path, validation_share), _durations(lines, durations_s)
    names: dict[str, Subset] = {TRAINING: "train", VALIDATION: "test"}
    moments: dict[Subset, list[Moment]] = {"train": [], "test": []}
    for line in lines:
        moments[names[subsets[line.video_id]]].append(
            Moment(line.video_id, line.label, line.times_s[0], line.times_s[1], line.line - 1)
        )
    train, dropped = clamped(moments["train"], durations, name=Path(path).name)
    videos = tuple(
        GroundingVideo(video_id, None, durations[video_id], names[subset]) for video_id, subset in subsets.items()
    )
    return GroundingDataset(
        videos=videos,
        moments={"train": tuple(train), "test": tuple(moments["test"])},
        missing=(),
        dropped=tuple(dropped),
    )


def load_own_boundaries(
    path: str | Path,
    durations_s: Mapping[str, float],
    rates: Mapping[str, float],
    *,
    validation_share: float = VALIDATION_SHARE,
) -> GEBDDataset:
    """Boundaries by one annotator; as :func:`load_own_actions`. ``rates``: frames per second, 25 where not known."""
    lines = read_lines(path, "boundaries")
    subsets, durations = subsets_of(lines, path, validation_share), _durations(lines, durations_s)
    videos = []
    for video_id, of_video in by_video(lines).items():
        fps, times_s = rates.get(video_id, 25.0), tuple(sorted(time_s for line in of_video for time_s in line.times_s))
        videos.append(
            GEBDVideo(
                video_id=video_id, path=None, subset=subsets[video_id], duration_s=durations[video_id], fps=fps,
                frames=max(1, round(durations[video_id] * fps)), boundaries_s=(times_s,),
                boundary_frames=(tuple(time_s * fps for time_s in times_s),), consistency=(1.0,), consistency_avg=1.0,
                path_video=None,
            )
        )  # fmt: skip
    return GEBDDataset(videos=tuple(videos), missing=(), dropped=())
