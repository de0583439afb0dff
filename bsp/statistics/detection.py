"""Mean average precision on resampled videos, for the protocol of metrics/detection.py.

Letters: B samples, V videos, P predictions, T thresholds, C classes, H hits.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from bsp.metrics.detection import Matched, matched_detections, tiou_keys
from bsp.statistics.per_video import PerVideo, sample_blocks


def detection_per_video(ground_truth: dict[str, Any], predictions: dict[str, Any], **metric: Any) -> PerVideo:
    """ "mAP@0.50", ..., "mAP_avg" in percent, by the videos of the subset.

    Arguments and errors as of :func:`bsp.metrics.detection.evaluate_detection`. A sample is scored as the metric scores
    files in which a video occurs as often as it is drawn, under different names: classes without an instance in it
    are left out; predictions of videos that are not in the subset count once in every sample. Of equal scores in
    different videos the order stays that of the files.
    """
    matched = matched_detections(ground_truth, predictions, **metric)
    keys = tiou_keys(matched.tious_T)

    def scores(counts_BV: np.ndarray) -> dict[str, np.ndarray]:
        map_BT = 100 * _mean_average_precision(matched, counts_BV)
        return {f"mAP@{key}": map_BT[:, t] for t, key in enumerate(keys)} | {"mAP_avg": map_BT.mean(axis=1)}

    return PerVideo(matched.truth.videos, scores)


def _mean_average_precision(matched: Matched, counts_BV: np.ndarray) -> np.ndarray:
    """Fractions 0..1, float64 [B, T]; nan without an instance."""
    truth, classes = matched.truth, len(matched.truth.class_names)
    instances_VC = np.zeros((len(truth.videos), classes))
    np.add.at(instances_VC, (truth.video, truth.label), 1)
    # Videos outside of the subset are further columns that always count once.
    others = len(matched.found.videos) - len(truth.videos)
    all_BV = np.concatenate([counts_BV, np.ones((len(counts_BV), others), counts_BV.dtype)], axis=1).astype(float)
    instances_BC = counts_BV @ instances_VC
    total_BT = np.zeros((len(counts_BV), len(matched.tious_T)))
    for label in range(classes):
        mine = slice(*np.searchsorted(matched.label_P, [label, label + 1]))
        total_BT += _average_precision(all_BV, matched.video_P[mine], matched.hits_PT[mine], instances_BC[:, label])
    present_B = (instances_BC > 0).sum(axis=1)
    return np.divide(total_BT, present_B[:, None], out=np.full(total_BT.shape, np.nan), where=present_B[:, None] > 0)


def _average_precision(
    count_BV: np.ndarray, video_P: np.ndarray, hits_PT: np.ndarray, instances_B: np.ndarray
) -> np.ndarray:
    """Of one class, best predictions first, each as often as its video counts; 0 without instances. [B, T]

    The copies of a hit follow each other and precision rises over them, so the interpolated precision of all is that
    of the last copy or a later hit's. Precision matters at hits alone.
    """
    out_BT = np.zeros((len(count_BV), hits_PT.shape[1]))
    at_H = np.flatnonzero(hits_PT.any(axis=1))
    videos, video_P = np.unique(video_P, return_inverse=True)
    of_hit_H, hits_HT = video_P[at_H], hits_PT[at_H]
    # Predictions of each video up to each hit: with it the number of all up to the hit is a product of matrices.
    before_HV = np.zeros((len(at_H) + 1, len(videos)))
    np.add.at(before_HV, (np.searchsorted(at_H, np.arange(len(video_P))), video_P), 1)
    before_HV = np.cumsum(before_HV[:-1], axis=0)
    for block in sample_blocks(len(count_BV), len(at_H)):
        some_BV = count_BV[block][:, videos]
        count_BH, listed_BH = some_BV[:, of_hit_H], some_BV @ before_HV.T
        for t, hit_H in enumerate(hits_HT.T):
            if not hit_H.any():
                continue
            mine_BH = count_BH[:, hit_H]
            precision_BH = np.cumsum(mine_BH, axis=1) / np.maximum(listed_BH[:, hit_H], 1)
            highest_BH = np.maximum.accumulate(precision_BH[:, ::-1], axis=1)[:, ::-1]
            found_B, of_B = (highest_BH * mine_BH).sum(axis=1), instances_B[block]
            out_BT[block, t] = np.divide(found_B, of_B, out=np.zeros(len(found_B)), where=of_B > 0)
    return out_BT
