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
from bsp.datasets.label_times import LabelTimes
from bsp.datasets.thumos14 import TEST, TRAINING
from bsp.features.record import seconds_at, snippets_at, video_end_s
from bsp.localization.gtad.decode import attach_classes
from bsp.localization.gtad.windows import propose_windows, train_windows, training_windows
from bsp.metrics.detection import THUMOS_TIOUS, evaluate_detection
from bsp_platform.plan.recipes import TaskRecipe
from bsp_platform.storage.stages import write_json
from bsp_platform.work.heads import DETECTIONS, HISTORY, SCORES, FeatureSet, load_subset, recorder, score_remarks


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
    labels = LabelTimes()
    segments = cell_segments(training, labels)
    labels.report("training instances")
    labels.require_most("training instances")
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
        duration_s = video_end_s(info)
        # Choice: neither times nor scores are rounded (the release: 0.1 s and six digits), which would make ties.
        share_N2 = np.clip(seconds_at(info, cells_N2) / duration_s, 0.0, 1.0)
        results[video.video_id] = attach_classes(
            share_N2, score_N, duration_s, scores[video.video_id], names, settings.top_classes
        )
    detections = {"version": "THUMOS14", "external_data": {}, "results": results}
    detection = evaluate_detection(data.ground_truth, detections, subset=TEST, tious=THUMOS_TIOUS)
    remarks = score_remarks(data, detections, TEST, detection)
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
        "labels": labels.facts(),
        "remarks": remarks,
        "dropped": list(data.dropped),
    }


def cell_segments(subset: FeatureSet, times: LabelTimes) -> list[np.ndarray]:
    """Instances of every video, whatever their class: [K, 2] in cells. ``times`` cuts them at the features' ends."""
    segments = []
    for video, info in zip(subset.videos, subset.infos, strict=True):
        seconds = np.array([(i.start_s, i.end_s) for i in video.instances], float).reshape(-1, 2)
        # The annotation files do not say how long the training videos are.
        duration_s, cells = video_end_s(info), snippets_at(info, seconds)
        segments.append(times.inside(video.video_id, seconds, duration_s, places=cells, extent=info.snippets))
    return segments
