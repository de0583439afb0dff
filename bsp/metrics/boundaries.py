"""Generic event boundary detection: F1 at relative distance, in the three official variants:

                 times                tolerance, times r  clips without prediction  annotators
    challenge    seconds              video_duration      all boundaries missed     the best for each clip and r
    notebook     0-based frames       num_frames          not counted               the best for each clip and r
    tapos        0-based frames       num_frames          all boundaries missed     one

Counts are pooled over clips (a micro average). Sources: StanLei52/GEBD, the challenge's script and both notebooks.
TAPOS's notebook takes an instance from its first to its last border; here that is the clip.
Letters: V clips, R rows (a clip and one of its annotators), G boundaries, P detections, K distances.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args

import numpy as np
from pydantic import FailFast, TypeAdapter

from bsp.datasets.gebd_records import ProcessedRecord, check_processed
from bsp.datasets.results_json import Number, validated, with_clean_ids
from bsp.errors import AnnotationError

Variant = Literal["challenge", "notebook", "tapos"]
DISTANCES = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5)
MIN_CONSISTENCY = 0.3  # clips with a lower f1_consis_avg are not evaluated (this one is)

_PREDICTIONS = TypeAdapter(Annotated[dict[str, list[Number]], FailFast()])
_CELLS_AT_ONCE = 1_000_000  # of the padded table of detections


@dataclass(frozen=True, kw_only=True)
class ClipBoundaries:
    """Annotated and detected times of one clip in the same unit."""

    truth: Sequence[Sequence[float]]  # per annotator, at least one
    found: Sequence[float]  # within the clip, in any order
    extent: float  # length of the clip


@dataclass(frozen=True, kw_only=True)
class PooledScores:
    """Counts over all clips; each float64 [K], or [B, K] of B sets of clips.

    recall is 1 without boundaries, precision 0 without detections.
    """

    true_positives: np.ndarray
    boundaries: np.ndarray  # of the annotators chosen
    detections: np.ndarray

    @property
    def recall(self) -> np.ndarray:
        """Float64, one value per distance: found share of the annotated boundaries; 1 if there are none."""
        return _ratio(self.true_positives, self.boundaries, 1.0)

    @property
    def precision(self) -> np.ndarray:
        """Float64, one value per distance: right share of the detections; 0 if there are none."""
        return _ratio(self.true_positives, self.detections, 0.0)

    @property
    def f1(self) -> np.ndarray:
        """Float64, one value per distance: harmonic mean of recall and precision."""
        return _f1(self.recall, self.precision)


def evaluate_boundaries(
    ground_truth: dict[str, Any],
    predictions: dict[str, Any],
    *,
    variant: Variant = "challenge",
    distances: Sequence[float] = DISTANCES,
    names: tuple[str, str] = ("ground truth", "predictions"),
) -> dict[str, Any]:
    """F1, precision and recall of detected boundaries.

    ground_truth: clips by id in the processed layout (gebd_records.py).
    predictions: {id: [times]}, in any order; seconds for "challenge", 0-based frames (also fractions) for the others.
        Times outside the clip are left out, duplicates count one by one.
    variant: see the top of this file. distances: r, as fractions of the clip's length, in (0, 1].
    names: what error messages call the two inputs, for example their file names.

    Returns "F1", "precision", "recall": each {"0.05": fraction 0..1, ...}; "mean_F1", over the distances; "variant";
        "videos": "used" (clips that count), "missing" (of those that should, clips without an entry in the
        predictions; the notebook variant does not count them), "inconsistent" (not evaluated, consistency below 0.3),
        "without_boundary" (not evaluated by tapos), "unknown" (predicted clips that are not in the ground truth,
        ignored).
    Raises AnnotationError for a wrong field, several annotators in the tapos variant, or when no clip is left.
    """
    if variant not in get_args(Variant):
        raise ValueError(f"variant must be one of {', '.join(get_args(Variant))}, not {variant!r}")
    keys = [f"{distance:.2f}" for distance in distances]
    if not keys or len(set(keys)) < len(keys) or not all(0 < distance <= 1 for distance in distances):
        raise ValueError(f"distances must be different fractions in (0, 1], not {list(distances)}")
    judged, counts = judged_clips(ground_truth, predictions, variant=variant, names=names)
    scores = pooled_scores(list(judged.values()), distances)
    f1_K = scores.f1
    tables = {"F1": f1_K, "precision": scores.precision, "recall": scores.recall}
    return {name: dict(zip(keys, values.tolist(), strict=True)) for name, values in tables.items()} | {
        "mean_F1": float(f1_K.mean()),
        "variant": variant,
        "videos": counts,
    }


def judged_clips(
    ground_truth: dict[str, Any],
    predictions: dict[str, Any],
    *,
    variant: Variant = "challenge",
    names: tuple[str, str] = ("ground truth", "predictions"),
) -> tuple[dict[str, ClipBoundaries], dict[str, int]]:
    """The clips that count, by id, and the counts "videos"; arguments and errors as of :func:`evaluate_boundaries`."""
    truth = check_processed(ground_truth, names[0])
    found = with_clean_ids(validated(_PREDICTIONS, predictions, names[1]), names[1])
    counts = {"used": 0, "missing": 0, "inconsistent": 0, "without_boundary": 0}
    clips: dict[str, ClipBoundaries] = {}
    for clip_id, record in truth.items():
        times = _annotated(record, variant, f"{names[0]}: {clip_id}")
        if variant != "tapos" and record["f1_consis_avg"] < MIN_CONSISTENCY:
            counts["inconsistent"] += 1
            continue
        if variant == "tapos" and not times[0]:
            counts["without_boundary"] += 1
            continue
        if clip_id not in found:
            counts["missing"] += 1
            if variant == "notebook":
                continue
        counts["used"] += 1
        seconds = variant == "challenge"
        extent = record["video_duration"] if seconds else record["num_frames"]
        last = extent if seconds else extent - 1
        inside = [time for time in found.get(clip_id, ()) if 0 <= time <= last]
        clips[clip_id] = ClipBoundaries(truth=times, found=inside, extent=extent)
    if not clips:
        raise AnnotationError(f"{names[0]}: none of its {len(truth)} clips can be evaluated: {counts}; check the ids")
    return clips, counts | {"unknown": len(found.keys() - truth.keys())}


def pooled_scores(clips: Sequence[ClipBoundaries], distances: Sequence[float]) -> PooledScores:
    """Match every clip for K distances (fractions of its extent) and add up the counts of :func:`clip_counts`."""
    counts = clip_counts(clips, distances)
    return PooledScores(
        true_positives=counts.true_positives.sum(axis=0),
        boundaries=counts.boundaries.sum(axis=0),
        detections=counts.detections.sum(axis=0),
    )


def clip_counts(clips: Sequence[ClipBoundaries], distances: Sequence[float]) -> PooledScores:
    """The counts of every clip alone, each float64 [V, K].

    A clip counts by the annotator with the highest F1, chosen for each distance (the first of equals); one without
    detections by the first annotator.
    """
    rows = [(clip, truth) for clip in clips for truth in clip.truth]
    first_V = np.cumsum([0] + [len(clip.truth) for clip in clips])[:-1]  # rows of a clip's first annotator
    positives_R = np.array([len(truth) for _, truth in rows], float)
    detections_V = np.array([len(clip.found) for clip in clips], float)
    counts_R = np.repeat(detections_V, [len(clip.truth) for clip in clips])
    tp_RK = np.zeros((len(rows), len(distances)))
    for block in _blocks([len(clip.found) for clip, _ in rows]):
        some = [rows[row] for row in range(block.start, block.stop)]
        truth_RG, found_RP = _padded([truth for _, truth in some]), _padded([clip.found for clip, _ in some])
        extent_R = np.array([clip.extent for clip, _ in some], float)
        for k, distance in enumerate(distances):
            tp_RK[block, k] = _true_positives(truth_RG, found_RP, distance * extent_R)
    recall_RK = _ratio(tp_RK, positives_R[:, None], 1.0)
    f1_RK = _f1(recall_RK, _ratio(tp_RK, counts_R[:, None], 0.0))
    f1_RK[counts_R == 0] = 0.0  # then the first annotator is the best
    best_VK = _first_best(f1_RK, first_V)
    return PooledScores(
        true_positives=np.take_along_axis(tp_RK, best_VK, axis=0),
        boundaries=positives_R[best_VK],
        detections=np.repeat(detections_V[:, None], len(distances), axis=1),
    )


def _true_positives(truth_RG: np.ndarray, found_RP: np.ndarray, tolerance_R: np.ndarray) -> np.ndarray:
    """Greedy matching [R], boundaries in their stored order: each takes the nearest unused detection, if near enough.

    nan is padding; of equally near detections the first is taken.
    """
    found_RP, rows = found_RP.copy(), np.arange(len(found_RP))
    hits_R = np.zeros(len(found_RP))
    if not found_RP.shape[1]:
        return hits_R
    for time_R in truth_RG.T:
        offset_RP = np.abs(time_R[:, None] - found_RP)
        offset_RP[np.isnan(offset_RP)] = np.inf
        nearest_R = offset_RP.argmin(axis=1)
        hit_R = offset_RP[rows, nearest_R] <= tolerance_R
        found_RP[rows[hit_R], nearest_R[hit_R]] = np.nan
        hits_R += hit_R
    return hits_R


def _annotated(record: ProcessedRecord, variant: Variant, name: str) -> list[list[float]]:
    times = record["substages_timestamps" if variant == "challenge" else "substages_myframeidx"]
    if variant == "tapos" and len(times) != 1:
        raise AnnotationError(
            f"{name}: {len(times)} annotators, but TAPOS has one; evaluate with another variant (challenge, notebook)"
        )
    return times


def _first_best(values_RK: np.ndarray, first_V: np.ndarray) -> np.ndarray:
    """Row of the highest value within each clip's rows, the first of equals; int64 [V, K]."""
    best_VK = np.maximum.reduceat(values_RK, first_V, axis=0)
    sizes_V = np.diff(np.append(first_V, len(values_RK)))
    row_RK = np.where(
        values_RK == np.repeat(best_VK, sizes_V, axis=0), np.arange(len(values_RK))[:, None], len(values_RK)
    )
    return np.minimum.reduceat(row_RK, first_V, axis=0)


def _blocks(widths: Sequence[int]) -> Iterator[slice]:
    """Consecutive rows whose table, padded to the widest, stays within the limit (or a single row)."""
    start, widest = 0, 1
    for row, width in enumerate(widths):
        if row > start and max(widest, width) * (row + 1 - start) > _CELLS_AT_ONCE:
            yield slice(start, row)
            start, widest = row, 1
        widest = max(widest, width)
    if start < len(widths):
        yield slice(start, len(widths))


def _padded(lists: Sequence[Sequence[float]]) -> np.ndarray:
    out = np.full((len(lists), max(map(len, lists))), np.nan)
    for row, values in zip(out, lists, strict=True):
        row[: len(values)] = values
    return out


def _ratio(part: np.ndarray, whole: np.ndarray, empty: float) -> np.ndarray:
    """Part / whole, and ``empty`` where whole is 0."""
    part, whole = np.broadcast_arrays(part, whole)
    return np.divide(part, whole, out=np.full(part.shape, empty), where=whole > 0)


def _f1(recall: np.ndarray, precision: np.ndarray) -> np.ndarray:
    return _ratio(2 * recall * precision, recall + precision, 0.0)
