"""Temporal action proposals: average recall at an average number of proposals (AR@AN) and its area (AUC).

The class-agnostic metric of the ActivityNet proposal task, as BMN and G-TAD report it. The number of
proposals a video contributes is proportional to how many it has, so AN is an average over videos and not
"the best k of each video". Letters: P proposals, G ground-truth instances, T thresholds, J the 100 points
of the curve.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from bsp.datasets.results_json import GroundTruth, Predictions, ground_truth_columns, prediction_columns
from bsp.metrics.detection import ACTIVITYNET_TIOUS, best_first, check_tious, segment_tiou

REPORTED_AN = (1, 5, 10, 50, 100)


def evaluate_proposals(
    ground_truth: dict[str, Any],
    predictions: dict[str, Any],
    *,
    subset: str = "validation",
    max_proposals: int | None = 100,
    blocked: Collection[str] = (),
    tious: Sequence[float] | None = None,
    names: tuple[str, str] = ("ground truth", "predictions"),
) -> dict[str, Any]:
    """AR@AN and AUC of a proposal file; both files in the official layout, as read from JSON (labels unused).

    max_proposals: M, the largest average number of proposals per video, where the curve ends; None takes all.
    tious: thresholds in (0, 1] over which recall is averaged, by default ActivityNet's ten.
    blocked, names and the order of equal scores: as in :func:`bsp.metrics.detection.evaluate_detection`.

    Returns
        "AR@AN": {"1": ..., "5": ..., "10": ..., "50": ..., "100": ...}, fractions 0..1; a key is left
            out where the curve has no such point (its points are M / 100, 2 M / 100, ... M);
        "AUC": percent 0..100, the area from AN = M / 100 to M divided by M (99 for a perfect method);
        "curve": {"AN": [100 values], "AR": [100 values]};
        "videos": "used" (of the subset, not blocked, with instances), "missing" (those of them without a
            proposal), "blocked" (of the subset, left out), "without_ground_truth" (videos with proposals
            that are not used; their proposals count in the average number); "proposals": P.
    Raises AnnotationError for a malformed input, an unknown subset or a subset without instances.
    """
    tious_T = check_tious(ACTIVITYNET_TIOUS if tious is None else tious)
    if max_proposals is not None and max_proposals < 1:
        raise ValueError(f"max_proposals must be at least 1, or None for all proposals, not {max_proposals}")
    truth = ground_truth_columns(ground_truth, subset=subset, blocked=blocked, name=names[0])
    found = prediction_columns(predictions, videos=truth.videos, class_names=None, blocked=blocked, name=names[1])
    instances_of = np.bincount(truth.video, minlength=len(found.videos))
    proposals_of = np.bincount(found.video, minlength=len(found.videos))
    used = np.flatnonzero(instances_of)
    videos, total = len(used), len(found.scores)
    most = max_proposals if max_proposals is not None else total / videos  # M

    # The order of operations below is the official one: rounding decides at whole numbers.
    ratio = most * float(videos) / total if total else 0.0
    kept = np.minimum((proposals_of[used] * ratio).astype(np.int64), proposals_of[used])
    retrieved = int(kept.sum())
    an_J: np.ndarray
    if retrieved:
        fractions_J = np.arange(1, 101) / 100.0 * (most * float(videos) / retrieved)
        an_J = fractions_J * (float(retrieved) / videos)
        recall_JT = _recall(truth, found, used, kept, fractions_J, tious_T)
    else:  # nothing was proposed; the official code would divide by zero
        an_J, recall_JT = most * np.arange(1, 101) / 100.0, np.zeros((100, len(tious_T)))

    ar_J = recall_JT.mean(axis=1)
    # The curve has AN = most * j / 100 for j = 1..100; not every number that is reported is among them.
    point_of = {an: an * 100 / most for an in REPORTED_AN if an <= most and an * 100 % most == 0}
    return {
        "AR@AN": {str(an): float(ar_J[round(j) - 1]) for an, j in point_of.items()},
        "AUC": float(np.trapezoid(ar_J, an_J) / an_J[-1] * 100) if retrieved else 0.0,
        "curve": {"AN": an_J.tolist(), "AR": ar_J.tolist()},
        "videos": {
            "used": videos,
            "missing": int((proposals_of[used] == 0).sum()),
            "blocked": truth.blocked,
            "without_ground_truth": int(((proposals_of > 0) & (instances_of == 0)).sum()),
        },
        "proposals": total,
    }


def _recall(
    truth: GroundTruth,
    found: Predictions,
    used_V: np.ndarray,
    kept_V: np.ndarray,
    fractions_J: np.ndarray,
    tious_T: np.ndarray,
) -> np.ndarray:
    """Share of all instances recalled at each point and threshold, float64 [J, T].

    used: positions of the videos that count; kept: how many of its best proposals each may use at most.
    """
    order = best_first(found.scores)
    order = order[np.argsort(found.video[order], kind="stable")]  # video by video, each best first
    first = np.searchsorted(found.video[order], used_V)
    by_video = np.argsort(truth.video, kind="stable")
    instances = np.split(truth.segments[by_video], np.searchsorted(truth.video[by_video], used_V[1:]))
    recalled_JT = np.zeros((len(fractions_J), len(tious_T)), np.int64)
    for start, kept, segments_G2 in zip(first, kept_V, instances, strict=True):
        if not kept:
            continue
        segments_N2 = found.segments[order[start : start + kept]]
        best_NG = np.maximum.accumulate(segment_tiou(segments_N2[:, None], segments_G2[None]), axis=0)
        recalled_NT = (best_NG[:, :, None] >= tious_T).sum(axis=1)
        taken_J = np.minimum((kept * fractions_J).astype(np.int64), kept)
        recalled_JT[taken_J > 0] += recalled_NT[taken_J[taken_J > 0] - 1]
    return recalled_JT / len(truth.segments)
