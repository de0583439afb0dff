"""Read the official JSON files of temporal localisation: ground truth, detections, proposals.

One place checks what the ActivityNet, THUMOS14 and HACS files promise and turns them into columns (NumPy
arrays), which is what the metrics work on. Times and scores may be numbers or numbers written as text
(THUMOS14 and HACS do that); "version", "taxonomy" and "external_data" may be missing. Letters: G ground-truth
instances, P predictions.
"""

from __future__ import annotations

import gzip
import zlib
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, NotRequired

import numpy as np
from pydantic import FailFast, Field, TypeAdapter, ValidationError
from pydantic_core import from_json
from typing_extensions import TypedDict

from bsp.errors import AnnotationError

Number = Annotated[float, Field(allow_inf_nan=False)]  # a finite number, or one written as text
Seconds = tuple[Number, Number]


class AnnotationRecord(TypedDict):
    label: str
    segment: Seconds


class VideoRecord(TypedDict):
    subset: str
    annotations: list[AnnotationRecord]
    duration: NotRequired[Number]  # seconds; THUMOS14's file has none


class GroundTruthFile(TypedDict):
    database: dict[str, VideoRecord]


class DetectionRecord(TypedDict):
    label: str
    score: Number
    segment: Seconds


class ProposalRecord(TypedDict):
    score: Number
    segment: Seconds


# FailFast: one complaint per video is enough, a wrong file of a million rows would make a million of them.
class DetectionFile(TypedDict):
    results: dict[str, Annotated[list[DetectionRecord], FailFast()]]


class ProposalFile(TypedDict):
    results: dict[str, Annotated[list[ProposalRecord], FailFast()]]


_GROUND_TRUTH = TypeAdapter(GroundTruthFile)
_DETECTIONS = TypeAdapter(DetectionFile)
_PROPOSALS = TypeAdapter(ProposalFile)
_VIDEO_IDS = TypeAdapter(list[str])


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


def read_json(path: str | Path) -> Any:
    """The content of a JSON file, also a gzipped one (recognised by its first two bytes).

    Raises AnnotationError naming the file, and line and column where the JSON is malformed.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise AnnotationError(f"{path}: cannot be read ({error.strerror or error})") from error
    if content[:2] == b"\x1f\x8b":
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise AnnotationError(f"{path}: damaged gzip file ({error})") from error
    try:
        return from_json(content)  # more than twice as fast as json.loads on a result file of 100 MB
    except ValueError as error:
        raise AnnotationError(f"{path}: malformed JSON, {error}") from error


def check_ground_truth(document: Any, name: str = "ground truth") -> dict[str, VideoRecord]:
    """The checked "database" of an official annotation file, with times as floats.

    ``name`` stands in the message of the AnnotationError that names field and value of what is wrong.
    """
    return validated(_GROUND_TRUTH, document, name)["database"]


def check_detections(document: Any, name: str = "predictions") -> dict[str, list[DetectionRecord]]:
    """The checked "results" of an official detection file; raises AnnotationError as above."""
    return validated(_DETECTIONS, document, name)["results"]


def check_proposals(document: Any, name: str = "predictions") -> dict[str, list[ProposalRecord]]:
    """The checked "results" of an official proposal file (labels, if any, are dropped)."""
    return validated(_PROPOSALS, document, name)["results"]


def check_video_ids(document: Any, name: str = "blocked videos") -> list[str]:
    """A plain JSON list of video ids; raises AnnotationError for anything else."""
    if isinstance(document, dict):
        keys = ", ".join(repr(key) for key in list(document)[:5])
        raise AnnotationError(f"{name}: expected a list of video ids, found an object with the keys {keys}")
    return validated(_VIDEO_IDS, document, name)


def require_subset(database: dict[str, VideoRecord], subset: str, name: str) -> None:
    """Raise AnnotationError, listing the subsets present, if no video of the file is in ``subset``."""
    counts = Counter(record["subset"] for record in database.values())
    if subset not in counts:
        present = ", ".join(f"{key} ({count} videos)" for key, count in counts.items()) or "none"
        raise AnnotationError(f"{name}: no video has the subset {subset!r}; subsets present: {present}")


def ground_truth_columns(
    document: Any, *, subset: str, blocked: Collection[str] = (), name: str = "ground truth"
) -> GroundTruth:
    """Check an annotation file and keep the videos of ``subset`` (exact text) that are not blocked.

    Raises AnnotationError for a wrong field, an unknown subset, or when no instance is left.
    """
    database = check_ground_truth(document, name)
    require_subset(database, subset, name)
    of_subset = [video for video, record in database.items() if record["subset"] == subset]
    removed = frozenset(blocked)
    videos = [video for video in of_subset if video not in removed]
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
    document: Any,
    *,
    videos: Sequence[str],
    class_names: Sequence[str] | None,
    blocked: Collection[str] = (),
    name: str = "predictions",
) -> Predictions:
    """Check a result file and leave out the blocked videos; ``class_names=None`` reads it as proposals.

    videos: the known videos (of the ground truth), which keep their positions; others come after them.
    Raises AnnotationError for a wrong field.
    """
    check = check_proposals if class_names is None else check_detections
    results, removed = check(document, name), frozenset(blocked)
    kept = {video: rows for video, rows in results.items() if video not in removed}
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


def _video_column(lists: Collection[list]) -> np.ndarray:
    lengths = np.fromiter(map(len, lists), np.int64, len(lists))
    return np.repeat(np.arange(len(lists), dtype=np.int64), lengths)


def _label_column(labels: Iterable[str], class_names: Sequence[str]) -> np.ndarray:
    position = {label: index for index, label in enumerate(class_names)}
    return np.fromiter((position.get(label, -1) for label in labels), np.int64)


def _segment_column(rows: list) -> np.ndarray:
    times = chain.from_iterable(row["segment"] for row in rows)
    return np.fromiter(times, np.float64, 2 * len(rows)).reshape(-1, 2)


def validated(adapter: TypeAdapter, document: Any, name: str) -> Any:
    """The document as the adapter's type; AnnotationError with ``name``, and place and value of what is wrong."""
    try:
        return adapter.validate_python(document)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_context=False)
    shown = "; ".join(_describe(problem) for problem in problems[:3])
    more = f"; and {len(problems) - 3} more" if len(problems) > 3 else ""
    raise AnnotationError(f"{name}: {shown}{more}")


def _describe(problem: Any) -> str:
    """One pydantic complaint as "database.v1.annotations[0].label: field is missing"."""
    where = ""
    for part in problem["loc"]:
        where += f"[{part}]" if isinstance(part, int) else f".{part}" if where else str(part)
    where = where or "top level"
    if problem["type"] == "missing":
        return f"{where}: is missing"
    value = repr(problem["input"])
    return f"{where}: {problem['msg']}, found {value if len(value) <= 60 else value[:57] + '...'}"
