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
        video_P, hits_PT = matched.video_P[mine], matched.hits_PT[mine]
        for block in sample_blocks(len(counts_BV), len(video_P)):
            total_BT[block] += _average_precision(all_BV[block][:, video_P], hits_PT, instances_BC[block, label])
    present_B = (instances_BC > 0).sum(axis=1)
    return np.divide(total_BT, present_B[:, None], out=np.full(total_BT.shape, np.nan), where=present_B[:, None] > 0)


def _average_precision(count_BP: np.ndarray, hits_PT: np.ndarray, instances_B: np.ndarray) -> np.ndarray:
    """Of one class, best predictions first, each as often as its video counts; 0 without instances. [B, T]

    The copies of a hit follow each other and precision rises over them, so the interpolated precision of all is that
    of the last copy or a later hit's.
    """
    listed_BP = np.cumsum(count_BP, axis=1)
    out_BT = np.zeros((len(count_BP), hits_PT.shape[1]))
    for t, hit_P in enumerate(hits_PT.T):
        if not hit_P.any():
            continue
        count_BH, listed_BH = count_BP[:, hit_P], listed_BP[:, hit_P]
        precision_BH = np.cumsum(count_BH, axis=1) / np.maximum(listed_BH, 1)
        highest_BH = np.maximum.accumulate(precision_BH[:, ::-1], axis=1)[:, ::-1]
        found_B = (highest_BH * count_BH).sum(axis=1)
        out_BT[:, t] = np.divide(found_B, instances_B, out=np.zeros(len(found_B)), where=instances_B > 0)
    return out_BT
