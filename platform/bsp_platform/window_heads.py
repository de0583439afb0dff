"""G-TAD on THUMOS14 as Ray work: train on windows of frozen features, detect in the test videos, score.

Like ``heads.train_and_score``, but cells are snippets and times come from the features' record (frames per second and
stride), as the annotation files do not say how long the training videos are.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bsp.datasets.activitynet import LocalizationDataset
from bsp.datasets.class_scores import read_class_scores
from bsp.datasets.thumos14 import TEST, TRAINING
from bsp.features import FeatureInfo
from bsp.localization.gtad_decode import attach_classes
from bsp.localization.gtad_windows import propose_windows, train_windows, training_windows
from bsp.metrics.detection import THUMOS_TIOUS, evaluate_detection
from bsp_platform.heads import DETECTIONS, HISTORY, SCORES, FeatureSet, load_subset, recorder
from bsp_platform.recipes import TaskRecipe
from bsp_platform.stages import write_json


def train_and_score_windows(
    folder: Path,
    recipe: TaskRecipe,
    features: Sequence[Path],
    class_scores: Path,
    data: LocalizationDataset,
    expect: dict[str, Any],
    *,
    device: str = "cpu",
    threads: int = 1,
) -> dict[str, Any]:
    """Train the head of ``recipe`` on the ``features`` of all its streams, detect in the test videos, score.

    Writes the detections in the official result format, the scores in percent, and the training history.
    ``class_scores``: a file that bsp.datasets.class_scores reads, with all test videos.
    """
    torch.set_num_threads(threads)
    began = time.time()
    training, test = (load_subset(features, data, subset, expect) for subset in (TRAINING, TEST))
    names = data.class_names
    scores = read_class_scores(class_scores, names, [video.video_id for video in test.videos])
    settings = replace(recipe.head, feature_width=training.features[0].shape[1])
    segments, outside = cell_segments(training)
    history: list[dict] = []
    head = train_windows(
        training.features,
        segments,
        settings,
        seed=recipe.seed,
        on_epoch=recorder(folder, settings.epochs, history),
        device=device,
    )
    trained_s = time.time() - began
    results = {}
    proposals = propose_windows(head, test.features, settings, device)
    for video, info, (cells_N2, score_N) in zip(test.videos, test.infos, proposals, strict=True):
        duration_s = info.frames / info.fps
        # Choice: neither times nor scores are rounded (the release: 0.1 s and six digits), which would make ties.
        share_N2 = np.clip(cells_to_seconds(cells_N2, info) / duration_s, 0.0, 1.0)
        results[video.video_id] = attach_classes(
            share_N2, score_N, duration_s, scores[video.video_id], names, settings.top_classes
        )
    detections = {"version": "THUMOS14", "external_data": {}, "results": results}
    detection = evaluate_detection(data.ground_truth, detections, subset=TEST, tious=THUMOS_TIOUS)
    percent = {f"mAP@{tiou}": 100 * value for tiou, value in detection["mAP"].items()}
    percent["mAP_avg"] = 100 * detection["average_mAP"]
    write_json(folder / DETECTIONS, detections)
    write_json(folder / HISTORY, history)
    write_json(folder / SCORES, {"scores": percent, "detection": detection})
    return {
        "train_seconds": trained_s,
        "score_seconds": time.time() - began - trained_s,
        "scores": percent,
        "training_windows": len(training_windows(training.features, segments, settings)),
        "dropped": [*data.dropped, *outside],
    }


def cells_to_seconds(cells: np.ndarray, info: FeatureInfo) -> np.ndarray:
    """Seconds of positions in cells; cell k is snippet k and begins with its first frame."""
    return (cells * info.stride_frames + info.offset_frames) / info.fps


def cell_segments(subset: FeatureSet) -> tuple[list[np.ndarray], list[str]]:
    """Instances of every video, [G, 2] in cells, cut at the features' ends; and the names of those with no part left.

    All instances count, whatever their class.
    """
    segments, outside = [], []
    for video, info in zip(subset.videos, subset.infos, strict=True):
        times_G2 = np.array([(i.start_s, i.end_s) for i in video.instances], float).reshape(-1, 2)
        cells_G2 = np.clip((times_G2 * info.fps - info.offset_frames) / info.stride_frames, 0, info.snippets)
        kept = cells_G2[:, 0] < cells_G2[:, 1]
        segments.append(cells_G2[kept])
        outside += [
            f"{video.video_id}: {i.label} from {i.start_s} to {i.end_s} s is outside its {info.snippets} snippets"
            for i, is_kept in zip(video.instances, kept)
            if not is_kept
        ]
    return segments, outside
