"""Recall and mean IoU of grounding on resampled videos: the queries of a video are drawn together.

Letters: B samples, V videos, Q queries, S scores.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from bsp.metrics.grounding import Protocol, query_ious, query_scores
from bsp.statistics.per_video import PerVideo


def grounding_per_video(
    ground_truth: list[dict[str, Any]], predictions: list[dict[str, Any]], *, protocol: Protocol
) -> PerVideo:
    """ "R1@0.5", ..., "mIoU" in percent, by the videos that have a query.

    Arguments and errors as of :func:`bsp.metrics.grounding.evaluate_grounding`.
    A score is a mean over queries, so its sums and numbers per video are all that a sample needs.
    """
    found = query_ious(ground_truth, predictions, protocol=protocol)
    of_query = query_scores(found.iou_QN, protocol)
    videos = tuple(dict.fromkeys(found.video_Q))
    place = {video: k for k, video in enumerate(videos)}
    video_Q = np.array([place[video] for video in found.video_Q])
    queries_V = np.bincount(video_Q, minlength=len(videos))
    sums_SV = [np.bincount(video_Q, weights=value_Q, minlength=len(videos)) for value_Q in of_query.values()]

    def scores(counts_BV: np.ndarray) -> dict[str, np.ndarray]:
        total_B = counts_BV @ queries_V
        return {name: 100 * (counts_BV @ sum_V) / total_B for name, sum_V in zip(of_query, sums_SV, strict=True)}

    return PerVideo(videos, scores)
