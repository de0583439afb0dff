"""Generic event boundaries: published annotation layouts, and boundaries from raw annotations.

Three layouts are read and converted to that of the processed Kinetics-GEBD files, the input of the metric:
- processed: per clip a list of boundary seconds for every annotator;
- raw: per clip and annotator a list of changes, each a range or a moment with a label;
- TAPOS: per video its instances with the frames of all sub-action borders, one annotation.
Sources: StanLei52/GEBD (the preparation of Kinetics-GEBD), Ziwei-Zheng/EfficientGEBD (that of TAPOS).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, NotRequired, TypeVar, cast

from pydantic import FailFast, Field, TypeAdapter
from typing_extensions import TypedDict

from bsp.datasets.results_json import Number, validated, with_clean_ids
from bsp.errors import AnnotationError

MIN_CHANGE_S = 0.3  # s, published minimum duration between two changes
MIN_ANNOTATORS = 3  # clips with fewer are left out

Positive = Annotated[float, Field(gt=0, le=1e9)]
Count = Annotated[int, Field(ge=1, le=10**12)]  # also written as a float


class ProcessedRecord(TypedDict):
    """One clip; names and order of fields as published."""

    num_frames: Count
    path_video: NotRequired[str]  # class/ID_start_end.mp4; TAPOS has none
    fps: Positive
    video_duration: Positive  # seconds
    path_frame: NotRequired[str]
    f1_consis: list[Number]  # F1 of each annotator against the others
    f1_consis_avg: Number
    substages_myframeidx: list[list[Number]]  # 0-based frames of the same boundaries
    substages_timestamps: Annotated[list[list[Number]], Field(min_length=1)]  # seconds, per annotator


class Change(TypedDict):
    """One boundary in the published raw layout: from and to, seconds, and its kind as text."""

    start_time: Number
    end_time: Number
    label: str


class RawRecord(TypedDict):
    """A clip in the published raw layout of Kinetics-GEBD: a list of changes per annotator."""

    num_frames: Count
    path_video: NotRequired[str]
    fps: Positive
    video_duration: Positive
    f1_consis: list[Number]
    f1_consis_avg: Number
    substages_timestamps: list[list[Change]]


class TaposInstance(TypedDict):
    """A clip of TAPOS: an instance of an action with the borders of its parts."""

    subset: str
    total_frames: Count
    substages: Annotated[list[Number], Field(min_length=2)]  # frames of all borders, also the first and the last


# FailFast: one error is enough; a wrong file would otherwise give one per clip.
_PROCESSED = TypeAdapter(Annotated[dict[str, ProcessedRecord], FailFast()])
_RAW = TypeAdapter(Annotated[dict[str, RawRecord], FailFast()])
_TAPOS = TypeAdapter(Annotated[dict[str, dict[str, TaposInstance]], FailFast()])

Checked = TypeVar("Checked")


def read_records(document: object, *, subset: str, name: str) -> tuple[dict[str, ProcessedRecord], list[str]]:
    """Clips of a document in any of the three layouts, and "<id>: why" for each one left out.

    subset: only TAPOS' file says to which subset an instance belongs; "training" and "validation" are its "train"
    and "val". ``name`` begins error messages.
    """
    if not isinstance(document, Mapping) or not document:
        raise AnnotationError(f"{name}: expected an object of clips by id, found {str(document)[:60]!r}")
    records = [record for record in document.values() if isinstance(record, Mapping)]
    if any("substages" in part for record in records for part in record.values() if isinstance(part, Mapping)):
        return _from_tapos(document, subset, name), []
    times = (_entries(record.get("substages_timestamps")) for record in records)
    if any(isinstance(entry, Mapping) for entries in times for entry in entries):
        return _from_raw(document, name)
    return check_processed(document, name), []


def check_processed(document: object, name: str = "ground truth") -> dict[str, ProcessedRecord]:
    """The checked clips of a document in the processed layout; raises AnnotationError for a wrong field."""
    records = with_clean_ids(validated(_PROCESSED, document, name), name)
    for clip, record in records.items():
        annotators = len(record["substages_timestamps"])
        for field in ("f1_consis", "substages_myframeidx"):
            if len(record[field]) != annotators:
                raise AnnotationError(
                    f"{name}: {clip}.{field}: {len(record[field])} entries for {annotators} annotators; correct it"
                )
        for seconds, frames in zip(record["substages_timestamps"], record["substages_myframeidx"], strict=True):
            if len(seconds) != len(frames):
                raise AnnotationError(
                    f"{name}: {clip}.substages_myframeidx: {len(frames)} frames for {len(seconds)} boundaries;"
                    " correct it"
                )
    return records


def boundaries_of(changes: Iterable[Change], duration_s: float, name: str = "changes") -> list[float]:
    """Boundary seconds, sorted, of one annotator's raw changes: the published rules with m = 0.3 s.

    1. A change is at the middle of its range; those within m of the clip's start or end are left out.
    2. Overlapping gradual shot changes are one; their middle is a boundary.
    3. An event or point shot change within m of a gradual one is left out.
    4. Of two events, and of two point shot changes, within 2 m the later one is left out.
    5. An event within 2 m of a point shot change is left out.

    Choice: the rules as documented. The published notebook removes elements from lists while iterating, does not sort
    the gradual ranges and skips the last shot change in rule 5, which keeps a few more boundaries.
    """
    events: list[float] = []
    shots: list[float] = []
    gradual: list[tuple[float, float]] = []
    for change in changes:
        start_s, end_s = sorted((change["start_time"], change["end_time"]))
        middle_s = (start_s + end_s) / 2
        kind = change["label"].strip().partition(" ")[0].rstrip(":")
        if kind not in ("EventChange", "ShotChangeGradualRange", "ShotChangeImmediateTimestamp"):
            raise AnnotationError(
                f"{name}: the label {change['label']!r} begins with none of EventChange, ShotChangeGradualRange and"
                " ShotChangeImmediateTimestamp; correct it"
            )
        if not MIN_CHANGE_S <= middle_s <= duration_s - MIN_CHANGE_S:
            continue
        if kind == "ShotChangeGradualRange":
            gradual.append((start_s, end_s))
        else:
            (events if kind == "EventChange" else shots).append(middle_s)
    gradual = _merged(gradual)

    def is_free(time_s: float) -> bool:
        return not any(start - MIN_CHANGE_S <= time_s <= end + MIN_CHANGE_S for start, end in gradual)

    shots = _thinned(time_s for time_s in shots if is_free(time_s))
    events = _thinned(time_s for time_s in events if is_free(time_s))
    events = [time_s for time_s in events if all(abs(time_s - shot) > 2 * MIN_CHANGE_S for shot in shots)]
    return sorted(events + shots + [(start + end) / 2 for start, end in gradual])


def frame_of(time_s: float, fps: float, num_frames: int) -> float:
    """0-based frame of a boundary, as a float as published: min(num_frames - 1, floor(t * fps))."""
    frame = time_s * fps
    return float(math.floor(frame) if frame < num_frames else num_frames - 1)


def _from_raw(document: Mapping[str, Any], name: str) -> tuple[dict[str, ProcessedRecord], list[str]]:
    """Raw clips by the published rules; the notebook, too, leaves out those that lack a field or annotators."""
    kept, dropped = {}, []
    for clip, record in document.items():
        annotators = record.get("substages_timestamps") if isinstance(record, Mapping) else None
        if isinstance(annotators, list | tuple) and len(annotators) < MIN_ANNOTATORS:
            dropped.append(f"{clip}: {len(annotators)} annotators, fewer than {MIN_ANNOTATORS}")
            continue
        fields = ("num_frames", "fps", "video_duration", "f1_consis_avg")
        absent = [field for field in fields if isinstance(record, Mapping) and record.get(field) is None]
        if absent:
            dropped.append(f"{clip}: no {', '.join(absent)}")
            continue
        kept[clip] = record
    records: dict[str, ProcessedRecord] = {}
    for clip, raw in with_clean_ids(validated(_RAW, kept, name), name).items():
        annotators = raw["substages_timestamps"]
        if len(raw["f1_consis"]) < len(annotators):
            raise AnnotationError(
                f"{name}: {clip}.f1_consis: {len(raw['f1_consis'])} entries for {len(annotators)} annotators;"
                " correct it"
            )
        seconds = [boundaries_of(changes, raw["video_duration"], f"{name}: {clip}") for changes in annotators]
        made = raw | {
            "f1_consis": raw["f1_consis"][: len(annotators)],
            "substages_timestamps": seconds,
            "substages_myframeidx": [[frame_of(t, raw["fps"], raw["num_frames"]) for t in row] for row in seconds],
        }
        records[clip] = cast(ProcessedRecord, made)
    return records, dropped


def _from_tapos(document: object, subset: str, name: str) -> dict[str, ProcessedRecord]:
    """Every instance of the subset is a clip ``<video>_<shot>``; its boundaries are the inner borders."""
    wanted = {"training": "train", "validation": "val"}.get(subset, subset)
    records: dict[str, ProcessedRecord] = {}
    for video, shots in with_clean_ids(validated(_TAPOS, document, name), name).items():
        for shot, instance in shots.items():
            if instance["subset"].strip() != wanted:
                continue
            place = re.fullmatch(r"s\d+_(\d+_\d+)_(\d+_\d+)", shot)
            start_s, end_s = (float(part.replace("_", ".")) for part in place.groups()) if place else (0.0, 0.0)
            if not start_s < end_s:
                raise AnnotationError(
                    f"{name}: {video}.{shot}: the shot's name has no start and later end, such as s00004_0_100_7_931"
                )
            frames, inner = instance["total_frames"], instance["substages"][1:-1]
            fps = frames / (end_s - start_s)
            records[f"{video}_{shot}"] = {
                "num_frames": frames,
                "fps": fps,
                "video_duration": end_s - start_s,
                "f1_consis": [1.0],
                "f1_consis_avg": 1.0,
                "substages_myframeidx": [inner],
                "substages_timestamps": [[frame / fps for frame in inner]],
            }
    if not records:
        raise AnnotationError(f"{name}: no instance has the subset {wanted!r}")
    return records


def _entries(annotators: Any) -> Iterable[Any]:
    """The unchecked entries of all annotators of a clip."""
    lists = annotators if isinstance(annotators, list | tuple) else ()
    return (entry for entries in lists if isinstance(entries, list | tuple) for entry in entries)


def _merged(ranges: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Ranges that touch or overlap become one."""
    out: list[tuple[float, float]] = []
    for start, end in sorted(ranges):
        if out and start <= out[-1][1]:
            out[-1] = (out[-1][0], max(end, out[-1][1]))
        else:
            out.append((start, end))
    return out


def _thinned(times: Iterable[float]) -> list[float]:
    """The times that are more than 2 m after the one kept before."""
    kept: list[float] = []
    for time_s in sorted(times):
        if not kept or time_s - kept[-1] > 2 * MIN_CHANGE_S:
            kept.append(time_s)
    return kept
