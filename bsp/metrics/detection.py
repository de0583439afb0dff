"""Temporal action detection: mean average precision by the ActivityNet protocol.

The metric of the paper's action localisation tables. Detections are matched to ground-truth instances
greedily in the order of their scores, for each class and each threshold of temporal intersection over union
(tIoU) separately; average precision is the area under the interpolated precision-recall curve, at all
points. All classes, videos and thresholds are matched together. Letters: P predictions, G ground-truth
instances, T thresholds. Results are fractions in 0..1, never rounded.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from bsp.datasets.results_json import GroundTruth, Predictions, ground_truth_columns, prediction_columns
from bsp.errors import AnnotationError

ACTIVITYNET_TIOUS = tuple(np.linspace(0.5, 0.95, 10).tolist())  # the ninth is 0.8999999999999999
THUMOS_TIOUS = (0.3, 0.4, 0.5, 0.6, 0.7)

_PAIRS_AT_ONCE = 2_000_000  # bounds the memory of the tIoU table to some 100 MB
_SAME_TIME_S = 1e-3  # how far apart merged duplicates may be


@dataclass(frozen=True, kw_only=True, eq=False)
class Matched:
    """Predictions of known classes, class by class and best first, and which are true positives."""

    truth: GroundTruth
    found: Predictions
    tious_T: np.ndarray
    video_P: np.ndarray  # int64 [P], positions in found.videos, which begin with truth.videos
    label_P: np.ndarray  # int64 [P], sorted positions in truth.class_names
    hits_PT: np.ndarray  # bool [P, T]
    ignored: int  # predictions of other classes


def evaluate_detection(
    ground_truth: dict[str, Any],
    predictions: dict[str, Any],
    *,
    subset: str = "validation",
    tious: Sequence[float] | None = None,
    blocked: Collection[str] = (),
    top_k: int | None = None,
    merge_duplicates: bool = False,
    names: tuple[str, str] = ("ground truth", "predictions"),
) -> dict[str, Any]:
    """Mean average precision of a detection file; both files in the official layout, as read from JSON.

    tious: thresholds in (0, 1], by default ActivityNet's ten; ``THUMOS_TIOUS`` for THUMOS14.
    blocked: video ids left out on both sides.
    top_k: keep only the k best predictions of every video, over all classes; None keeps all.
    merge_duplicates: merge instances of one label and video whose start and end both agree within 1 ms, and
        drop those of non-positive length, as OpenTAD does; the official evaluator counts every one (False).
    names: what error messages call the two inputs, for example their file names.

    Of equal scores the prediction that comes later in the file ranks first; of equal tIoU the later instance
    is tried first. (The official code leaves both to an unstable sort; with a stable one it does the same.)

    Returns (all values fractions 0..1)
        "mAP": {"0.50": mean over classes, ...}; "average_mAP": the mean of those;
        "per_class_average": {class: average precision, mean over thresholds};
        "videos": "used" (of the subset, not blocked), "missing" (those of them with instances but without
            any prediction), "blocked" (of the subset, left out), "without_ground_truth" (predicted videos
            without an instance: of another subset, unknown or empty; what they predict is false positive);
        "ignored_predictions": number of predictions of classes that do not occur in the subset.
    Raises AnnotationError for a malformed input, an unknown subset or a subset without instances.
    """
    matched = matched_detections(
        ground_truth, predictions, subset=subset, tious=tious, blocked=blocked, top_k=top_k,
        merge_duplicates=merge_duplicates, names=names,
    )  # fmt: skip
    truth, found, tious_T, hits_PT = matched.truth, matched.found, matched.tious_T, matched.hits_PT
    classes = len(truth.class_names)
    instances = np.bincount(truth.label, minlength=classes)
    bounds = np.searchsorted(matched.label_P, np.arange(classes + 1))
    ap_CT = np.stack([average_precision(hits_PT[bounds[c] : bounds[c + 1]], int(instances[c])) for c in range(classes)])
    map_T = ap_CT.mean(axis=0)

    videos = len(found.videos)
    has_instance = np.bincount(truth.video, minlength=videos) > 0
    has_prediction = np.bincount(found.video, minlength=videos) > 0
    return {
        "mAP": dict(zip(tiou_keys(tious_T), map_T.tolist(), strict=True)),
        "average_mAP": float(map_T.mean()),
        "per_class_average": dict(zip(truth.class_names, ap_CT.mean(axis=1).tolist(), strict=True)),
        "videos": {
            "used": len(truth.videos),
            "missing": int((has_instance & ~has_prediction).sum()),
            "blocked": truth.blocked,
            "without_ground_truth": int((has_prediction & ~has_instance).sum()),
        },
        "ignored_predictions": matched.ignored,
    }


def matched_detections(
    ground_truth: dict[str, Any],
    predictions: dict[str, Any],
    *,
    subset: str = "validation",
    tious: Sequence[float] | None = None,
    blocked: Collection[str] = (),
    top_k: int | None = None,
    merge_duplicates: bool = False,
    names: tuple[str, str] = ("ground truth", "predictions"),
) -> Matched:
    """Detections matched to instances; arguments and errors as of :func:`evaluate_detection`."""
    tious_T = check_tious(ACTIVITYNET_TIOUS if tious is None else tious)
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k must be at least 1, or None to keep all predictions, not {top_k}")
    truth = ground_truth_columns(ground_truth, subset=subset, blocked=blocked, name=names[0])
    if merge_duplicates:
        truth = _merged(truth, name=names[0])
    found = prediction_columns(
        predictions, videos=truth.videos, class_names=truth.class_names, blocked=blocked, name=names[1]
    )

    order = best_first(found.scores)
    if top_k is not None:
        order = order[rank_in_group(found.video[order]) < top_k]
    # Choice: predictions of a class not in the subset are ignored and counted (the official code fails).
    label = found.label
    assert label is not None  # only proposals have none
    known = order[label[order] >= 0]
    order_P = known[np.argsort(label[known], kind="stable")]  # class by class, each best first

    classes = len(truth.class_names)
    label_P = label[order_P]
    hits_PT = match_detections(
        found.video[order_P] * classes + label_P,
        found.segments[order_P],
        truth.video * classes + truth.label,
        truth.segments,
        tious_T,
    )
    return Matched(
        truth=truth, found=found, tious_T=tious_T, video_P=found.video[order_P], label_P=label_P, hits_PT=hits_PT,
        ignored=len(order) - len(order_P),
    )  # fmt: skip


def match_detections(
    group_P: np.ndarray,
    segments_P2: np.ndarray,
    group_G: np.ndarray,
    segments_G2: np.ndarray,
    tious_T: np.ndarray,
) -> np.ndarray:
    """Which predictions are true positives, at each threshold; bool [P, T].

    group: integers; a prediction may only match instances of its own group (a class in a video). Predictions come best
    first within each group. A prediction takes the instance of highest tIoU among those unmatched at this threshold
    with tIoU >= threshold.
    """
    hits_PT = np.zeros((len(group_P), len(tious_T)), bool)
    taken_GT = np.zeros((len(group_G), len(tious_T)), bool)
    pairs = list(_overlapping_pairs(group_P, segments_P2, group_G, segments_G2, tious_T.min()))
    prediction, instance, overlap = (np.concatenate(column) for column in zip(*pairs, strict=True))
    # Each prediction's instances, best first; the later one of equal tIoU.
    order = np.lexsort((-instance, -overlap, prediction))
    prediction, instance, overlap = prediction[order], instance[order], overlap[order]
    preference = rank_in_group(prediction)
    # Groups are independent, so step (r, k) matches the r-th candidate of every group with its k-th instance at once.
    # Predictions below the lowest threshold everywhere are no candidates.
    candidates = prediction[preference == 0]
    turn = np.zeros(len(group_P), np.int64)
    turn[candidates] = rank_in_group(group_P[candidates])
    steps = np.lexsort((preference, turn[prediction]))
    prediction, instance, overlap = prediction[steps], instance[steps], overlap[steps]
    reached_T = overlap[:, None] >= tious_T
    new_turn = np.diff(turn[prediction], prepend=-1) != 0
    starts = np.flatnonzero(new_turn | (np.diff(preference[steps], prepend=-1) != 0))
    bounds = np.append(starts, len(prediction))
    for start, stop in pairwise(bounds):
        p, g = prediction[start:stop], instance[start:stop]
        won = reached_T[start:stop] & ~hits_PT[p] & ~taken_GT[g]
        hits_PT[p] |= won
        taken_GT[g] |= won
    return hits_PT


def average_precision(hits_PT: np.ndarray, instances: int) -> np.ndarray:
    """Area under the interpolated precision-recall curve, float64 [T] in 0..1.

    hits_PT: bool, the predictions of one class, best first; instances: how many there are to be found, > 0.
    Precision is made non-increasing from the right; recall rises by 1 / instances at every hit.
    """
    if not len(hits_PT):
        return np.zeros(hits_PT.shape[1])
    precision_PT = np.cumsum(hits_PT, axis=0) / np.arange(1, len(hits_PT) + 1)[:, None]
    highest_PT = np.maximum.accumulate(precision_PT[::-1], axis=0)[::-1]
    return (highest_PT * hits_PT).sum(axis=0) / instances


def segment_tiou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Temporal intersection over union of float64 [..., 2] segments in seconds, broadcast; 0..1.

    No clipping and no minimum length. Segments that do not overlap give 0, also empty and reversed ones
    (where the quotient of the official code would be 0 / 0).
    """
    overlap = np.minimum(a[..., 1], b[..., 1]) - np.maximum(a[..., 0], b[..., 0])
    union = (a[..., 1] - a[..., 0]) + (b[..., 1] - b[..., 0]) - overlap
    return np.divide(overlap, union, out=np.zeros(overlap.shape), where=overlap > 0)


def best_first(scores: np.ndarray) -> np.ndarray:
    """Positions of the scores [P] from high to low; of equal ones the later position comes first."""
    return np.argsort(scores, kind="stable")[::-1]


def rank_in_group(groups: np.ndarray) -> np.ndarray:
    """How many earlier elements of an integer array [P] are of the same group; int64 [P]."""
    order = np.argsort(groups, kind="stable")
    ordered = groups[order]
    is_first = np.ones(len(groups), bool)
    is_first[1:] = ordered[1:] != ordered[:-1]
    positions = np.arange(len(groups))
    rank = np.empty(len(groups), np.int64)
    rank[order] = positions - np.maximum.accumulate(np.where(is_first, positions, 0))
    return rank


def check_tious(tious: Sequence[float]) -> np.ndarray:
    """The thresholds as float64 [T]; raises ValueError unless there are some, all in (0, 1] and distinct."""
    tious_T = np.asarray(tious, dtype=np.float64)
    if tious_T.ndim != 1 or not len(tious_T) or not ((tious_T > 0) & (tious_T <= 1)).all():
        raise ValueError(f"tIoU thresholds must be numbers above 0 and at most 1, not {tious}")
    keys = tiou_keys(tious_T)
    if len(set(keys)) < len(keys):
        raise ValueError(f"tIoU thresholds must differ in their first two decimals, not {tious}")
    return tious_T


def tiou_keys(tious_T: np.ndarray) -> list[str]:
    """Names of thresholds in result files, with two decimals: 0.8999999999999999 is "0.90"."""
    return [f"{tiou:.2f}" for tiou in tious_T]


def _overlapping_pairs(
    group_P: np.ndarray, segments_P2: np.ndarray, group_G: np.ndarray, segments_G2: np.ndarray, least: float
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """All (prediction, instance, tIoU) of one group with tIoU >= least, in parts of bounded size."""
    by_group = np.argsort(group_G, kind="stable")
    first = np.searchsorted(group_G[by_group], group_P, side="left")
    count = np.searchsorted(group_G[by_group], group_P, side="right") - first
    parts = np.flatnonzero(np.diff(np.cumsum(count) // _PAIRS_AT_ONCE)) + 1
    for rows in np.split(np.arange(len(group_P)), parts):
        prediction = np.repeat(rows, count[rows])
        offset = np.arange(len(prediction)) - np.repeat(np.cumsum(count[rows]) - count[rows], count[rows])
        instance = by_group[first[prediction] + offset]
        overlap = segment_tiou(segments_P2[prediction], segments_G2[instance])
        near = overlap >= least
        yield prediction[near], instance[near], overlap[near]


def _merged(truth: GroundTruth, *, name: str) -> GroundTruth:
    """The ground truth without repeated instances and without those of non-positive length."""
    kept: list[int] = []
    of_group: dict[tuple[int, int], list[np.ndarray]] = {}
    for index, segment in enumerate(truth.segments):
        before = of_group.setdefault((int(truth.video[index]), int(truth.label[index])), [])
        if segment[1] > segment[0] and not any((abs(segment - s) <= _SAME_TIME_S).all() for s in before):
            before.append(segment)
            kept.append(index)
    if not kept:
        raise AnnotationError(f"{name}: no instance of the subset has a positive length")
    used = np.unique(truth.label[kept], return_index=True)[0]  # a class may have vanished
    new_label = np.full(len(truth.class_names), -1)
    new_label[used] = np.arange(len(used))
    return GroundTruth(
        videos=truth.videos,
        class_names=tuple(truth.class_names[label] for label in used),
        video=truth.video[kept],
        label=new_label[truth.label[kept]],
        segments=truth.segments[kept],
        blocked=truth.blocked,
    )
