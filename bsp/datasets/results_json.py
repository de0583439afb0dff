"""Read the official JSON files of temporal localisation: ground truth, detections, proposals.

Checks the ActivityNet, THUMOS14 and HACS layouts and converts files to columns (NumPy arrays) for the metrics. Times
and scores may be numbers or numbers written as text (THUMOS14 and HACS do that); "version", "taxonomy" and
"external_data" may be missing, and the annotations of testing videos. Labels and ids are normalised by
bsp/files/text.py. Letters: G ground-truth instances, P predictions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, NotRequired, TypeVar

import numpy as np
from pydantic import AfterValidator, BeforeValidator, FailFast, Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from bsp.errors import AnnotationError
from bsp.files.text import clean_id, clean_label, parse_json, read_text, refuse_alike

Label = Annotated[str, AfterValidator(clean_label)]
Number = Annotated[float, Field(allow_inf_nan=False)]  # a finite number, or one written as text
Seconds = tuple[Number, Number]


class AnnotationRecord(TypedDict):
    """One annotated instance: its class, and start and end in seconds."""

    label: Label
    segment: Seconds


class VideoRecord(TypedDict):
    """A video of the ground truth."""

    subset: Label
    annotations: list[AnnotationRecord]
    duration: NotRequired[Number]  # seconds; THUMOS14's file has none


def _with_annotations(record: Any) -> Any:
    """Testing videos have no annotations: an empty list, null, or no key."""
    absent = isinstance(record, Mapping) and record.get("annotations") is None
    is_testing = absent and str(record.get("subset")).strip().casefold() in ("testing", "test")
    return {**record, "annotations": []} if is_testing else record


class GroundTruthFile(TypedDict):
    """The ground truth: videos by id; other keys are not read."""

    database: dict[str, Annotated[VideoRecord, BeforeValidator(_with_annotations)]]


class DetectionRecord(TypedDict):
    """One detection: class, score (higher is better), start and end in seconds."""

    label: Label
    score: Number
    segment: Seconds


class ProposalRecord(TypedDict):
    """One proposal: score (higher is better), start and end in seconds; a label is not read."""

    score: Number
    segment: Seconds


# FailFast: one error per video is enough; a wrong file would otherwise give one per row.
class DetectionFile(TypedDict):
    """Detections of each video by id."""

    results: dict[str, Annotated[list[DetectionRecord], FailFast()]]


class ProposalFile(TypedDict):
    """Proposals of each video by id."""

    results: dict[str, Annotated[list[ProposalRecord], FailFast()]]


_GROUND_TRUTH = TypeAdapter(GroundTruthFile)
_DETECTIONS = TypeAdapter(DetectionFile)
_PROPOSALS = TypeAdapter(ProposalFile)
_VIDEO_IDS = TypeAdapter(list[Annotated[str, AfterValidator(clean_id)]])


@dataclass(frozen=True, kw_only=True, eq=False)
class GroundTruth:
    """Instances of one subset, blocked videos left out, in the order of the file."""

    videos: tuple[str, ...]  # every kept video, also those without an instance
    class_names: tuple[str, ...]  # in order of first appearance
    video: np.ndarray  # int64 [G], position in videos
    label: np.ndarray  # int64 [G], position in class_names
    segments: np.ndarray  # float64 [G, 2], seconds, as written (may be reversed or empty)
    blocked: int  # videos of the subset that the blocked list removed


@dataclass(frozen=True, kw_only=True, eq=False)
class Predictions:
    """Predictions of all videos that are not blocked, in the order of the file."""

    videos: tuple[str, ...]  # the known videos as given, then the other predicted ones in order of appearance
    video: np.ndarray  # int64 [P], position in videos
    label: np.ndarray | None  # int64 [P], position in class_names, -1 other class; None: proposals
    scores: np.ndarray  # float64 [P], as written
    segments: np.ndarray  # float64 [P, 2], seconds, as written


def check_ground_truth(document: object, name: str = "ground truth") -> dict[str, VideoRecord]:
    """The checked "database" of an official annotation file, with times as floats.

    Raises AnnotationError with ``name``, field and value; also for two ids that are equal when normalised, and for
    labels or subsets that differ only in case.
    """
    database = with_clean_ids(validated(_GROUND_TRUTH, document, name)["database"], f"{name}: database")
    refuse_alike(((r["subset"], f"{name}: database.{video}.subset") for video, r in database.items()), "the subset")
    labels: dict[str, str] = {}
    for video, record in database.items():
        for number, instance in enumerate(record["annotations"]):
            if instance["label"] not in labels:
                labels[instance["label"]] = f"{name}: database.{video}.annotations[{number}]"
    refuse_alike(labels.items(), "the label")
    return database


def check_detections(document: object, name: str = "predictions") -> dict[str, list[DetectionRecord]]:
    """The checked "results" of an official detection file; raises AnnotationError as above."""
    return with_clean_ids(validated(_DETECTIONS, document, name)["results"], f"{name}: results")


def check_proposals(document: object, name: str = "predictions") -> dict[str, list[ProposalRecord]]:
    """The checked "results" of an official proposal file (labels, if any, are dropped)."""
    return with_clean_ids(validated(_PROPOSALS, document, name)["results"], f"{name}: results")


def read_video_ids(path: str | Path) -> list[str]:
    """Video ids of a plain or gzipped list: JSON, or text with one per line. AnnotationError for anything else."""
    text = read_text(path).strip()
    if not text.startswith(("[", "{")):
        return [clean_id(line) for line in text.split("\n") if line.strip()]
    document = parse_json(text.encode(), path)
    if isinstance(document, dict):
        keys = ", ".join(repr(key) for key in list(document)[:5])
        raise AnnotationError(f"{path}: expected a list of video ids, found an object with the keys {keys}")
    return validated(_VIDEO_IDS, document, str(path))


Record = TypeVar("Record")


def with_clean_ids(records: Mapping[str, Record], where: str) -> dict[str, Record]:
    """The records by normalised id; AnnotationError (beginning with ``where``) for empty or duplicate ids."""
    raw_of: dict[str, str] = {}
    for raw in records:
        try:
            video = clean_id(raw)
        except ValueError as error:
            raise AnnotationError(f"{where}: {raw!r}: {error}") from None
        if video in raw_of:
            raise AnnotationError(f"{where}: {raw_of[video]!r} and {raw!r} are the same video {video!r}; keep one")
        raw_of[video] = raw
    return {video: records[raw] for video, raw in raw_of.items()}


def without_blocked(videos: Iterable[str], blocked: Collection[str]) -> list[str]:
    """The (clean) ids that are not in a list, which may write them with "v_" and as file names."""
    removed = {clean_id(video) for video in blocked}
    removed |= {video.removeprefix("v_") for video in removed}
    return [video for video in videos if video not in removed]


def require_subset(database: dict[str, VideoRecord], subset: str, name: str) -> None:
    """Raise AnnotationError, listing the subsets present, if no video of the file is in ``subset``."""
    counts = Counter(record["subset"] for record in database.values())
    if subset not in counts:
        present = ", ".join(f"{key} ({count} videos)" for key, count in counts.items()) or "none"
        raise AnnotationError(f"{name}: no video has the subset {subset!r}; subsets present: {present}")


def ground_truth_columns(
    document: object, *, subset: str, blocked: Collection[str] = (), name: str = "ground truth"
) -> GroundTruth:
    """Check an annotation file and keep the videos of ``subset`` (exact text) that are not blocked.

    Raises AnnotationError for a wrong field, an unknown subset, or when no instance is left.
    """
    database = check_ground_truth(document, name)
    require_subset(database, subset, name)
    of_subset = [video for video, record in database.items() if record["subset"] == subset]
    videos = without_blocked(of_subset, blocked)
    lists = [database[video]["annotations"] for video in videos]
    instances = list(chain.from_iterable(lists))
    if not instances:
        raise AnnotationError(
            f"{name}: the subset {subset!r} has no instance in its {len(videos)} videos"
            f" ({len(of_subset) - len(videos)} more are blocked), nothing can be evaluated"
        )
    class_names = tuple(dict.fromkeys(record["label"] for record in instances))
    return GroundTruth(
        videos=tuple(videos),
        class_names=class_names,
        video=_video_column(lists),
        label=_label_column((record["label"] for record in instances), class_names),
        segments=_segment_column(instances),
        blocked=len(of_subset) - len(videos),
    )


def prediction_columns(
    document: object,
    *,
    videos: Sequence[str],
    class_names: Sequence[str] | None,
    blocked: Collection[str] = (),
    name: str = "predictions",
) -> Predictions:
    """Check a result file and leave out the blocked videos; ``class_names=None`` reads it as proposals.

    videos: the known videos (of the ground truth), which keep their positions; others come after them.
    Raises AnnotationError for a wrong field, and for a label that differs from a class only in case.
    """
    check = check_proposals if class_names is None else check_detections
    results: Mapping[str, Sequence[Any]] = check(document, name)  # records of either kind
    kept = {video: results[video] for video in without_blocked(results, blocked)}
    if class_names is not None:
        _refuse_other_case(kept, class_names, name)
    position = {video: index for index, video in enumerate(dict.fromkeys(chain(videos, kept)))}
    file_order = np.fromiter((position[video] for video in kept), np.int64, len(kept))
    rows = list(chain.from_iterable(kept.values()))
    return Predictions(
        videos=tuple(position),
        video=file_order[_video_column(kept.values())],
        label=None if class_names is None else _label_column((row["label"] for row in rows), class_names),
        scores=np.fromiter((row["score"] for row in rows), np.float64, len(rows)),
        segments=_segment_column(rows),
    )


def _refuse_other_case(results: Mapping[str, Sequence[Any]], class_names: Sequence[str], name: str) -> None:
    known, classes = set(class_names), {label.casefold(): label for label in class_names}
    for video, rows in results.items():
        for number, row in enumerate(rows):
            label = row["label"]
            if label not in known and label.casefold() in classes:
                raise AnnotationError(
                    f"{name}: results.{video}[{number}].label: {label!r}, but the ground truth has "
                    f"{classes[label.casefold()]!r}: they differ only in case; write the ground truth's"
                )


def _video_column(lists: Collection[Sequence[Any]]) -> np.ndarray:
    lengths = np.fromiter(map(len, lists), np.int64, len(lists))
    return np.repeat(np.arange(len(lists), dtype=np.int64), lengths)


def _label_column(labels: Iterable[str], class_names: Sequence[str]) -> np.ndarray:
    position = {label: index for index, label in enumerate(class_names)}
    return np.fromiter((position.get(label, -1) for label in labels), np.int64)


def _segment_column(rows: Sequence[AnnotationRecord] | Sequence[ProposalRecord]) -> np.ndarray:
    times = chain.from_iterable(row["segment"] for row in rows)
    return np.fromiter(times, np.float64, 2 * len(rows)).reshape(-1, 2)


def validated(adapter: TypeAdapter[Any], document: object, name: str) -> Any:
    """The document validated by the adapter; AnnotationError with ``name``, place and value."""
    try:
        return adapter.validate_python(document)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_context=False)
    shown = "; ".join(_describe(problem) for problem in problems[:3])
    more = f"; and {len(problems) - 3} more" if len(problems) > 3 else ""
    raise AnnotationError(f"{name}: {shown}{more}")


def _describe(problem: Any) -> str:
    """One pydantic error as "database.v1.annotations[0].label: field is missing"."""
    where = ""
    for part in problem["loc"]:
        where += f"[{part}]" if isinstance(part, int) else f".{part}" if where else str(part)
    where = where or "top level"
    if problem["type"] == "missing":
        return f"{where}: is missing"
    what, value = problem["msg"].removeprefix("Value error, "), repr(problem["input"])
    return f"{where}: {what}, found {value if len(value) <= 60 else value[:57] + '...'}"
