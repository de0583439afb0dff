"""Step localisation as actionness: average precision of "some step is going on" over segments of 0.2 s.

The metric of the paper's Table 3 (CrossTask): test videos are cut into segments of 0.2 s, ignoring which step or task
it is. Average precision is the sum over distinct scores, highest first, of (recall gained) * precision, without
interpolation; equal scores are one threshold. Letters: N segments of a video.
"""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, Any

import numpy as np
from pydantic import FailFast, Field, StringConstraints, TypeAdapter
from typing_extensions import TypedDict

from bsp.datasets.results_json import validated, with_clean_ids
from bsp.errors import AnnotationError

logger = logging.getLogger(__name__)

SEGMENT_S = 0.2

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Score = Annotated[float, Field(allow_inf_nan=False)]


class TruthVideo(TypedDict):
    """A video of one task: its length and its steps, each [start, end) in seconds."""

    task: Annotated[str, StringConstraints(min_length=1)]
    duration_s: Positive
    steps: list[tuple[Seconds, Seconds]]  # may overlap, in any order


class TruthFile(TypedDict):
    """Ground truth of step localisation: videos by id, judged in segments of ``segment_s`` seconds."""

    segment_s: Positive
    videos: dict[str, TruthVideo]


class PredictionFile(TypedDict):
    """Scores of each video's segments by id; segment k covers [k, k + 1) * ``segment_s``."""

    segment_s: Positive
    scores: dict[str, Annotated[list[Score], FailFast()]]


_TRUTH = TypeAdapter(TruthFile)
_PREDICTIONS = TypeAdapter(PredictionFile)


def segment_count(duration_s: float, segment_s: float = SEGMENT_S) -> int:
    """Number of whole segments in a video, floor(duration / length), 0 or more.

    Computed in decimal arithmetic, so 0.6 s hold 3 segments (in float arithmetic 2).
    """
    return math.floor(_exact(duration_s) / _exact(segment_s))


def segment_labels(steps: Iterable[Sequence[float]], duration_s: float, segment_s: float = SEGMENT_S) -> np.ndarray:
    """bool [N]: whether any of the steps [start_s, end_s) covers the segment's centre, (k + 0.5) * segment_s.

    Choice: the paper's "associated with a step" leaves segments open that a step covers in part. In decimals, as
    above; what lies after the last whole segment does not count.
    """
    length = _exact(segment_s)
    label_N = np.zeros(segment_count(duration_s, segment_s), bool)
    for start_s, end_s in steps:
        first, end = (math.ceil(_exact(time_s) / length - Fraction(1, 2)) for time_s in (start_s, end_s))
        label_N[max(first, 0) : max(end, 0)] = True
    return label_N


@dataclass(frozen=True, kw_only=True, eq=False)
class JudgedVideos:
    """Labels and scores of the segments of every video of the ground truth, in its order."""

    videos: tuple[str, ...]  # ids
    tasks: tuple[str, ...]  # of the videos
    parts: tuple[tuple[np.ndarray, np.ndarray], ...]  # bool [N], float64 [N] of each video
    missing: int  # videos without predictions
    unknown: int  # predicted videos that are not in the ground truth


def evaluate_actionness(
    ground_truth: dict[str, Any],
    predictions: dict[str, Any],
    *,
    names: tuple[str, str] = ("ground truth", "predictions"),
) -> dict[str, Any]:
    """Average precision of predicted actionness.

    ground_truth: {"segment_s": 0.2, "videos": {id: {"task": name, "duration_s": s, "steps": [[start_s, end_s], ...]}}}.
    predictions: {"segment_s": 0.2, "scores": {id: [a number per segment]}}; any scale, one scale for all videos.
    names: what error messages call the two inputs, for example their file names.

    Returns, as fractions 0..1,
        "AP": all segments of all videos together (the headline);
        "AP_video", "AP_task": means over videos and over tasks (the segments of a task's videos together), of those
            with a positive segment;
        "positive_rate": share of positive segments, the AP of random scores;
    and "segments" (number) and "videos": "used", "missing" (those of them without predictions: a warning is logged,
        and all their segments rank below every prediction), "without_positive" (of those used), "unknown" (predicted,
        but not in the ground truth; ignored).
    Raises AnnotationError for a wrong field, another number of scores than segments, or without a positive segment.
    """
    judged = judged_videos(ground_truth, predictions, names=names)
    pooled = _joined(judged.parts)
    if not pooled[0].any():
        raise AnnotationError(
            f"{names[0]}: none of {len(pooled[0])} segments of {len(judged.parts)} videos is positive;"
            " nothing to evaluate"
        )
    of_task: dict[str, list[tuple[np.ndarray, np.ndarray]]] = defaultdict(list)
    for task, part in zip(judged.tasks, judged.parts, strict=True):
        of_task[task].append(part)
    return {
        "AP": _average_precision(*pooled),
        "AP_video": _mean_of_those_with_positives(judged.parts),
        "AP_task": _mean_of_those_with_positives([_joined(of_one) for of_one in of_task.values()]),
        "positive_rate": float(pooled[0].mean()),
        "segments": len(pooled[0]),
        "videos": {
            "used": len(judged.parts),
            "missing": judged.missing,
            "without_positive": sum(not label_N.any() for label_N, _ in judged.parts),
            "unknown": judged.unknown,
        },
    }


def judged_videos(
    ground_truth: dict[str, Any],
    predictions: dict[str, Any],
    *,
    names: tuple[str, str] = ("ground truth", "predictions"),
) -> JudgedVideos:
    """Segments of all videos, also without a positive one; arguments and errors as of :func:`evaluate_actionness`."""
    truth = validated(_TRUTH, ground_truth, names[0])
    found = validated(_PREDICTIONS, predictions, names[1])
    length = truth["segment_s"]
    if found["segment_s"] != length:
        raise AnnotationError(
            f"{names[1]}: segment_s: is {found['segment_s']} but {length} in {names[0]}; score segments of {length} s"
        )
    scores = with_clean_ids(found["scores"], f"{names[1]}: scores")
    truth_videos = with_clean_ids(truth["videos"], f"{names[0]}: videos")
    missing = [video_id for video_id in truth_videos if video_id not in scores]
    if missing:
        shown = ", ".join(missing[:20]) + (f" and {len(missing) - 20} more" if len(missing) > 20 else "")
        count = f"{len(missing)} of {len(truth['videos'])} videos"
        logger.warning("%s: %s have no scores and rank last: %s", names[1], count, shown)
    known = [score for video_id in truth_videos for score in scores.get(video_id, ())]
    lowest = min(known, default=0.0)
    last = min(lowest - 1, math.nextafter(lowest, -math.inf))  # below ``lowest`` also for huge scores

    videos: list[tuple[np.ndarray, np.ndarray]] = []
    for video_id, video in truth_videos.items():
        label_N = _labels(video, length, f"{names[0]}: videos.{video_id}")
        score_N = np.asarray(scores.get(video_id, np.full(len(label_N), last)), float)
        if len(score_N) != len(label_N):
            raise AnnotationError(
                f"{names[1]}: scores.{video_id}: {len(score_N)} scores for {len(label_N)} segments of {length} s"
                f" ({video['duration_s']} s in {names[0]}); give one score per whole segment"
            )
        videos.append((label_N, score_N))
    return JudgedVideos(
        videos=tuple(truth_videos),
        tasks=tuple(video["task"] for video in truth_videos.values()),
        parts=tuple(videos),
        missing=len(missing),
        unknown=len(scores.keys() - truth_videos.keys()),
    )


def _labels(video: TruthVideo, length: float, where: str) -> np.ndarray:
    for number, (start_s, end_s) in enumerate(video["steps"]):
        if start_s >= end_s:
            raise AnnotationError(f"{where}.steps[{number}]: {start_s} to {end_s} s is no interval; correct it")
    return segment_labels(video["steps"], video["duration_s"], length)


def _joined(videos: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """The labels and the scores of several videos, one after the other."""
    labels, scores = zip(*videos) if videos else ((np.zeros(0, bool),), (np.zeros(0),))
    return np.concatenate(labels), np.concatenate(scores)


def _average_precision(label_N: np.ndarray, score_N: np.ndarray) -> float:
    from sklearn.metrics import average_precision_score

    return float(average_precision_score(label_N, score_N))


def _mean_of_those_with_positives(parts: Sequence[tuple[np.ndarray, np.ndarray]]) -> float:
    return float(np.mean([_average_precision(label_N, score_N) for label_N, score_N in parts if label_N.any()]))


def _exact(number: float) -> Fraction:
    """The number as the decimal that it is written as."""
    return Fraction(repr(float(number)))
