"""Step localisation (CrossTask): the linear classifier of actionness, scored by framewise average precision.

CrossTask gives no durations, so they come from the features' records. Ground truth and predictions are written in the
format of metrics/actionness.py and can be evaluated again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from bsp.datasets.crosstask import CrossTaskDataset, CrossTaskVideo
from bsp.datasets.label_times import LabelTimes
from bsp.localization.actionness import (
    ActionnessSettings,
    LinearActionness,
    segment_positions,
    train_actionness,
    video_seconds,
)
from bsp.metrics.actionness import SEGMENT_S, evaluate_actionness, segment_count, segment_labels
from bsp.statistics.actionness import actionness_per_video
from bsp.statistics.per_video import PerVideo
from bsp.tasks.found import Segment, best_first
from bsp.tasks.head import Applied, HeadInputs, Kept, Scored, VideoPart, read_split

TRUTH, PREDICTIONS = "ground_truth.json", "predictions.json"
STEP = "step"  # the label of what is found in a new video
_DIGITS = 7  # of the scores, as they are written and evaluated


Inputs = HeadInputs[CrossTaskDataset, ActionnessSettings]
Trained = tuple[LinearActionness, dict[str, Any]]  # the classifier, and facts about its training


def train_steps(inputs: Inputs) -> Trained:
    """Train the classifier. Videos without features have no known duration: they are left out, and named."""
    training = read_split(inputs.features, inputs.data.videos, inputs.subsets[0])
    positions, labels, times = [], [], LabelTimes()
    for video, info in zip(training.videos, training.infos, strict=True):
        duration_s = video_seconds(info)
        positions.append(segment_positions(info, segment_count(duration_s)))
        labels.append(segment_labels(times.inside(video.video_id, _times(video), duration_s), duration_s))
    times.report("training steps")
    times.require_most("training steps")
    classifier = train_actionness(
        training.features, positions, labels, inputs.settings, seed=inputs.seed, on_epoch=inputs.on_epoch,
        device=inputs.device,
    )  # fmt: skip
    scores = [classifier.scores(*part) for part in zip(training.features, positions, strict=True)]
    return classifier, {
        "labels": times.facts(),
        "videos": len(training.videos),
        "without": training.without,
        # Choice: what is a step in a new video: as many of the training segments score so high as are steps. Steps are
        # rare, so that few scores reach 0.5.
        "threshold": float(np.quantile(np.concatenate(scores), 1 - float(np.concatenate(labels).mean()))),
    }


def score_steps(inputs: Inputs, trained: Trained) -> Scored:
    """Score the segments of the test videos; ground truth and predictions as documents."""
    classifier, training = trained
    test = read_split(inputs.features, inputs.data.videos, inputs.subsets[1])
    truth: dict[str, Any] = {"segment_s": SEGMENT_S, "videos": {}}
    predictions: dict[str, Any] = {"segment_s": SEGMENT_S, "scores": {}}
    for video, feat_SD, info in zip(test.videos, test.features, test.infos, strict=True):
        duration_s = video_seconds(info)
        position_N = segment_positions(info, segment_count(duration_s))
        truth["videos"][video.video_id] = {"task": video.task_id, "duration_s": duration_s, "steps": _times(video)}
        predictions["scores"][video.video_id] = classifier.scores(feat_SD, position_N).round(_DIGITS).tolist()
    report = evaluate_actionness(truth, predictions)
    return Scored(
        predictions={TRUTH: truth, PREDICTIONS: predictions},
        scores={name: 100 * report[name] for name in ("AP", "AP_video", "AP_task")},
        report={"actionness": report},
        facts={
            "positive_rate": report["positive_rate"],
            "labels": training["labels"],
            "videos": {"training": training["videos"], "test": len(test.videos)},
            "videos_without_features": training["without"] + test.without,
        },
    )


def steps_per_video(
    data: CrossTaskDataset, settings: ActionnessSettings, subset: str, read: Callable[[str], Any]
) -> PerVideo:
    """AP by the videos that count."""
    return actionness_per_video(read(TRUTH), read(PREDICTIONS))


def _times(video: CrossTaskVideo) -> list[tuple[float, float]]:
    return [(step.start_s, step.end_s) for step in video.steps]


def keep_steps(inputs: Inputs, trained: Trained) -> Kept:
    """The classifier, and the score from which on a segment is part of a step."""
    classifier, training = trained
    bias = torch.tensor(classifier.bias, dtype=torch.float64)
    return Kept(
        settings=inputs.settings,
        tensors={"weight": torch.from_numpy(classifier.weight_D), "bias": bias},
        class_names=(STEP,),
        facts={"threshold": training["threshold"]},
    )


def apply_steps(kept: Kept, device: str) -> Applied:
    """Runs of segments above the threshold, each with its mean score; ``device`` is not used."""
    classifier = LinearActionness(kept.tensors["weight"].numpy(), float(kept.tensors["bias"]))
    threshold = float(kept.facts["threshold"])

    def detect(part: VideoPart) -> list[Segment]:
        position_N = segment_positions(part.info, segment_count(part.duration_s))
        score_N = classifier.scores(part.feat_SD, position_N)
        return best_first(runs_of(score_N, threshold, part.duration_s))

    return Applied(detect=detect, whole_videos=False)


def runs_of(score_N: np.ndarray, threshold: float, duration_s: float) -> list[Segment]:
    """Segments of consecutive scores >= ``threshold``, one per SEGMENT_S seconds, in order of time."""
    edges = np.diff(np.concatenate([[0], score_N >= threshold, [0]]).astype(np.int8))
    found = []
    for first, end in zip(np.flatnonzero(edges == 1).tolist(), np.flatnonzero(edges == -1).tolist(), strict=True):
        end_s = min(end * SEGMENT_S, duration_s)
        score = float(score_N[first:end].mean())
        found.append(Segment(label=STEP, start_s=first * SEGMENT_S, end_s=end_s, score=score))
    return found
