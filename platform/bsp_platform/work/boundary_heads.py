"""Generic event boundary detection as Ray work: peaks or a light head on frozen features, scored by the challenge's F1.

Both learn from the training clips only: the peaks one threshold, the head its weights. Boundaries are written as the
challenge takes them, seconds per clip.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bsp.datasets.gebd import GEBDDataset, GEBDVideo
from bsp.datasets.label_times import LabelTimes
from bsp.errors import AnnotationError, TooManyBroken
from bsp.features.record import video_end_s
from bsp.localization.boundaries import PeakSettings, fit_peaks, gap_times_s, train_boundary_head
from bsp.metrics.boundaries import evaluate_boundaries
from bsp_platform.plan.recipes import TaskRecipe
from bsp_platform.storage.stages import write_json
from bsp_platform.work.heads import HISTORY, SCORES, read_streams, recorder

BOUNDARIES = "boundaries.json"
MAX_OTHER_LENGTH_SHARE = 0.05  # of the clips with features: the files of others are not the annotated clips
_LENGTH_TOLERANCE_S = 1.0  # by which a clip's file may be longer or shorter than annotated


def train_and_score_boundaries(
    folder: Path,
    recipe: TaskRecipe,
    features: Sequence[Path],
    extra: None,
    data: GEBDDataset,
    expect: dict[str, Any],
    *,
    device: str = "cpu",
    threads: int = 1,
) -> dict[str, Any]:
    """Fit peaks (PeakSettings) or train the head (BoundaryHeadSettings) of ``recipe`` on the ``features`` of all its
    streams, find the validation clips' boundaries, and score them by the challenge's rules.

    ``extra`` is unused. Writes {id: [seconds]}, scores in percent, and the history. Clips without features, and those
    whose video is more than a second longer or shorter than annotated, are left out and named; in validation their
    boundaries count as missed. AnnotationError if none of a subset is left, TooManyBroken for many of wrong length.
    """
    torch.set_num_threads(threads)
    began = time.time()
    training, validation = (_load(features, data, subset, expect) for subset in ("training", "validation"))
    wrong = training.other_length + validation.other_length
    if len(wrong) > MAX_OTHER_LENGTH_SHARE * (len(wrong) + len(training.clips) + len(validation.clips)):
        raise TooManyBroken(
            f"{len(wrong)} videos are not as long as annotated; are they whole videos instead of clips? {wrong[:5]}"
        )
    for subset, part in (("training", training), ("validation", validation)):
        if not part.clips:
            raise AnnotationError(f"no clip of subset {subset!r} has features in {features[0]}; extract them first")
    history: list[dict] = []
    labels = LabelTimes()
    if isinstance(recipe.head, PeakSettings):
        annotated = [
            [labels.moments_inside(clip.video_id, times_s, clip.duration_s) for times_s in clip.boundaries_s]
            for clip in training.clips
        ]
        labels.report("training boundaries")
        labels.require_most("training boundaries")
        durations = [clip.duration_s for clip in training.clips]
        detector, f1 = fit_peaks(training.features, training.times_s, annotated, durations, recipe.head)
        recorder(folder, 1, history)({"epoch": 0, "loss": 1 - f1, "threshold": detector.threshold})
    else:
        boundaries = [
            labels.moments_inside(clip.video_id, clip.most_consistent_s, clip.duration_s) for clip in training.clips
        ]
        labels.report("training boundaries")
        labels.require_most("training boundaries")
        detector = train_boundary_head(
            training.features,
            training.times_s,
            boundaries,
            recipe.head,
            seed=recipe.seed,
            on_epoch=recorder(folder, recipe.head.epochs, history),
            device=device,
        )
    trained_s = time.time() - began
    found = {
        clip.video_id: detector.boundaries_s(feat_SD, time_N).round(4).tolist()
        for clip, feat_SD, time_N in zip(validation.clips, validation.features, validation.times_s, strict=True)
    }
    report = evaluate_boundaries(data.ground_truth("validation"), found)
    percent = {f"{name}@0.05": 100 * report[name]["0.05"] for name in ("F1", "precision", "recall")}
    percent["F1_mean"] = 100 * report["mean_F1"]
    write_json(folder / BOUNDARIES, found)
    write_json(folder / HISTORY, history)
    write_json(folder / SCORES, {"scores": percent, "boundaries": report})
    return {
        "train_seconds": trained_s,
        "score_seconds": time.time() - began - trained_s,
        "scores": percent,
        "clips": {"training": len(training.clips), "validation": len(validation.clips)},
        "clips_without_features": training.without + validation.without,
        "clips_of_other_length": wrong,
        "labels": labels.facts(),
        "dropped": list(data.dropped),
    }


@dataclass(frozen=True)
class _Subset:
    """Clips of one subset with their features [S, D] and the times of their gaps [S - 1], and those left out."""

    clips: list[GEBDVideo]
    features: list[np.ndarray]
    times_s: list[np.ndarray]
    without: list[str]  # ids
    other_length: list[str]  # "id: the lengths"


def _load(features: Sequence[Path], data: GEBDDataset, subset: str, expect: dict[str, Any]) -> _Subset:
    part = _Subset([], [], [], [], [])
    for clip in data.videos:
        if clip.subset != subset:
            continue
        found = read_streams(features, clip.video_id, expect)
        if found is None:
            part.without.append(clip.video_id)
            continue
        feat_SD, info = found
        length_s = video_end_s(info)
        if abs(length_s - clip.duration_s) > _LENGTH_TOLERANCE_S:
            part.other_length.append(f"{clip.video_id}: {length_s:.2f} s instead of {clip.duration_s:.2f} s")
            continue
        part.clips.append(clip)
        part.features.append(feat_SD)
        part.times_s.append(gap_times_s(info))
    return part
