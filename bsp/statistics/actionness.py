"""Average precision of actionness on resampled videos. Letters: B samples, V videos, N segments, D distinct scores."""

from __future__ import annotations

from typing import Any

import numpy as np

from bsp.metrics.actionness import judged_videos
from bsp.statistics.per_video import PerVideo, sample_blocks


def actionness_per_video(ground_truth: dict[str, Any], predictions: dict[str, Any]) -> PerVideo:
    """ "AP", "AP_video", "AP_task" in percent, by the videos of the ground truth, as
    :func:`bsp.metrics.actionness.evaluate_actionness`; videos and tasks without a positive segment do not count."""
    judged = judged_videos(ground_truth, predictions)
    parts = list(judged.parts)
    of_task: dict[str, list[int]] = {}
    for position, task in enumerate(judged.tasks):
        of_task.setdefault(task, []).append(position)
    alone_V = np.array([_average_precision([part], np.ones((1, 1)))[0] for part in parts])

    def scores(counts_BV: np.ndarray) -> dict[str, np.ndarray]:
        has_V = ~np.isnan(alone_V)
        tasks_BK = np.stack(
            [_average_precision([parts[v] for v in some], counts_BV[:, some]) for some in of_task.values()], axis=1
        )
        found = {
            "AP": _average_precision(parts, counts_BV),
            "AP_video": _ratio(counts_BV[:, has_V] @ alone_V[has_V], counts_BV[:, has_V].sum(axis=1)),
            "AP_task": _ratio(np.nansum(tasks_BK, axis=1), (~np.isnan(tasks_BK)).sum(axis=1)),
        }
        return {name: 100 * value_B for name, value_B in found.items()}

    return PerVideo(judged.videos, scores)


def _average_precision(parts: list[tuple[np.ndarray, np.ndarray]], counts_BV: np.ndarray) -> np.ndarray:
    """Of the segments of all parts (labels and scores of a video), each as often as its video counts; equal scores are
    one threshold, no interpolation. float64 [B], nan without a positive segment."""
    label_N, score_N = (np.concatenate(column) for column in zip(*parts, strict=True))
    video_N = np.repeat(np.arange(len(parts)), [len(labels) for labels, _ in parts])
    order_N = np.argsort(-score_N, kind="stable")
    label_N, score_N, video_N = label_N[order_N], score_N[order_N], video_N[order_N]
    last_D = np.flatnonzero(np.append(score_N[1:] != score_N[:-1], True)) if len(score_N) else np.zeros(0, int)
    out_B = np.full(len(counts_BV), np.nan)
    for block in sample_blocks(len(counts_BV), len(score_N)):
        count_BN = counts_BV[block][:, video_N].astype(float)
        listed_BD = np.cumsum(count_BN, axis=1)[:, last_D]
        hits_BD = np.cumsum(count_BN * label_N, axis=1)[:, last_D]
        gained_BD = np.diff(hits_BD, axis=1, prepend=0.0)
        total_B = (gained_BD * hits_BD / np.maximum(listed_BD, 1)).sum(axis=1)
        out_B[block] = _ratio(total_B, hits_BD[:, -1] if len(last_D) else np.zeros(len(total_B)))
    return out_B


def _ratio(part_B: np.ndarray, whole_B: np.ndarray) -> np.ndarray:
    return np.divide(part_B, whole_B, out=np.full(len(part_B), np.nan), where=whole_B > 0)
