"""Step localisation as Ray work: train the linear actionness classifier on frozen features, score the test videos.

CrossTask gives no durations, so they come from the features' records. Ground truth and predictions are written in the
format of metrics/actionness.py, which anyone can evaluate again.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bsp.datasets.crosstask import CrossTaskDataset, CrossTaskVideo
from bsp.datasets.label_times import LabelTimes
from bsp.errors import AnnotationError
from bsp.localization.actionness import segment_positions, train_actionness, video_seconds
from bsp.metrics.actionness import SEGMENT_S, evaluate_actionness, segment_count, segment_labels
from bsp_platform.plan.recipes import TaskRecipe
from bsp_platform.storage.stages import write_json
from bsp_platform.work.grounding_heads import PREDICTIONS
from bsp_platform.work.heads import HISTORY, SCORES, read_streams, recorder

TRUTH = "ground_truth.json"
_DIGITS = 7  # of the scores, as they are written and evaluated


def train_and_score_actionness(
    folder: Path,
    recipe: TaskRecipe,
    features: Sequence[Path],
    extra: None,
    data: CrossTaskDataset,
    expect: dict[str, Any],
    *,
    device: str = "cpu",
    threads: int = 1,
) -> dict[str, Any]:
    """Train the classifier of ``recipe`` on the ``features`` of all its streams, score the test segments.

    ``extra`` is unused. Writes ground truth, predictions, scores in percent, and the history. Videos without features
    have no known duration: they are left out of both subsets, and named. AnnotationError if none of a subset is left.
    """
    torch.set_num_threads(threads)
    began = time.time()
    without: list[str] = []
    feats, positions, labels = [], [], []
    times = LabelTimes()
    for video, feat_SD, position_N, duration_s in _segments(data, "training", features, expect, without):
        feats.append(feat_SD)
        positions.append(position_N)
        labels.append(segment_labels(times.inside(video.video_id, _times(video), duration_s), duration_s))
    _require_some(feats, "training", features)
    times.report("training steps")
    times.require_most("training steps")
    history: list[dict] = []
    on_epoch = recorder(folder, recipe.head.epochs, history)
    classifier = train_actionness(
        feats, positions, labels, recipe.head, seed=recipe.seed, on_epoch=on_epoch, device=device
    )
    trained_s = time.time() - began

    truth: dict[str, Any] = {"segment_s": SEGMENT_S, "videos": {}}
    predictions: dict[str, Any] = {"segment_s": SEGMENT_S, "scores": {}}
    for video, feat_SD, position_N, duration_s in _segments(data, "test", features, expect, without):
        truth["videos"][video.video_id] = {"task": video.task_id, "duration_s": duration_s, "steps": _times(video)}
        predictions["scores"][video.video_id] = classifier.scores(feat_SD, position_N).round(_DIGITS).tolist()
    _require_some(truth["videos"], "test", features)
    report = evaluate_actionness(truth, predictions)
    percent = {name: 100 * report[name] for name in ("AP", "AP_video", "AP_task")}
    write_json(folder / TRUTH, truth)
    write_json(folder / PREDICTIONS, predictions)
    write_json(folder / HISTORY, history)
    write_json(folder / SCORES, {"scores": percent, "actionness": report})
    return {
        "train_seconds": trained_s,
        "score_seconds": time.time() - began - trained_s,
        "scores": percent,
        "positive_rate": report["positive_rate"],
        "labels": times.facts(),
        "videos": {"training": len(feats), "test": len(truth["videos"])},
        "videos_without_features": without,
    }


def _segments(
    data: CrossTaskDataset, subset: str, features: Sequence[Path], expect: dict[str, Any], without: list[str]
) -> Iterator[tuple[CrossTaskVideo, np.ndarray, np.ndarray, float]]:
    """Video, features [S, D], positions of its segments [N] and duration in seconds, one video at a time.

    The ids of videos without features are added to ``without``.
    """
    for video in data.videos:
        if video.subset != subset:
            continue
        found = read_streams(features, video.video_id, expect)
        if found is None:
            without.append(video.video_id)
            continue
        duration_s = video_seconds(found[1])
        yield video, found[0], segment_positions(found[1], segment_count(duration_s)), duration_s


def _times(video: CrossTaskVideo) -> list[tuple[float, float]]:
    return [(step.start_s, step.end_s) for step in video.steps]


def _require_some(videos: Collection, subset: str, features: Sequence[Path]) -> None:
    if not videos:
        raise AnnotationError(f"no video of subset {subset!r} has features in {features[0]}; extract them first")
