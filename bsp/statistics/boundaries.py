"""F1 of event boundaries on resampled clips. Letters: B samples, V clips, K distances."""

from __future__ import annotations

from typing import Any

import numpy as np

from bsp.metrics.boundaries import DISTANCES, PooledScores, Variant, clip_counts, judged_clips
from bsp.statistics.per_video import PerVideo


def boundaries_per_video(
    ground_truth: dict[str, Any], predictions: dict[str, Any], *, variant: Variant = "challenge"
) -> PerVideo:
    """ "F1@0.05", "precision@0.05", "recall@0.05" and "F1_mean" in percent, by the clips that are evaluated.

    Counts are pooled over clips, and a clip's annotator is chosen within it: a sample adds up the counts of its clips.
    """
    clips, _ = judged_clips(ground_truth, predictions, variant=variant)
    counts = clip_counts(list(clips.values()), DISTANCES)

    def scores(counts_BV: np.ndarray) -> dict[str, np.ndarray]:
        pooled = PooledScores(
            true_positives=counts_BV @ counts.true_positives,
            boundaries=counts_BV @ counts.boundaries,
            detections=counts_BV @ counts.detections,
        )
        first = {"F1": pooled.f1, "precision": pooled.precision, "recall": pooled.recall}
        return {f"{name}@{DISTANCES[0]:.2f}": 100 * value_BK[:, 0] for name, value_BK in first.items()} | {
            "F1_mean": 100 * pooled.f1.mean(axis=1)
        }

    return PerVideo(tuple(clips), scores)
