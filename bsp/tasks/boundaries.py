"""Generic event boundary detection (Kinetics-GEBD): peaks or a light head, scored by the challenge's F1.

Both use the training clips only: peaks to choose a threshold, the head to learn weights. Boundaries are written in the
challenge's format, seconds per clip.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from bsp.datasets.gebd import GEBDDataset, GEBDVideo
from bsp.datasets.label_times import LabelTimes
from bsp.errors import AnnotationError, TooManyBroken
from bsp.features.record import video_end_s
from bsp.localization.boundaries import (
    BoundaryHead,
    BoundaryHeadSettings,
    PeakDetector,
    PeakSettings,
    fit_peaks,
    gap_times_s,
    train_boundary_head,
)
from bsp.localization.epochs import mean_and_std
from bsp.metrics.boundaries import evaluate_boundaries
from bsp.statistics.boundaries import boundaries_per_video
from bsp.statistics.per_video import PerVideo
from bsp.tasks.found import BoundaryCurve
from bsp.tasks.head import Applied, HeadInputs, Kept, Scored, Split, VideoPart, read_split

BOUNDARIES = "boundaries.json"
MAX_OTHER_LENGTH_SHARE = 0.05  # of the clips with features: a larger share of wrong lengths means wrong files
_LENGTH_TOLERANCE_S = 1.0  # by which a clip's file may be longer or shorter than annotated


Inputs = HeadInputs[GEBDDataset, PeakSettings | BoundaryHeadSettings]


@dataclass(frozen=True)
class Boundaries:
    """A trained detector, its test clips, and facts about training."""

    detector: PeakDetector | BoundaryHead
    test: Split[GEBDVideo]
    facts: dict[str, Any]


def train_boundaries(inputs: Inputs) -> Boundaries:
    """Choose the threshold of the peaks, by all annotators, or train the head, on each clip's most consistent one.

    Clips without features, and those whose video is more than a second longer or shorter than annotated, are left out
    and named; in the test their boundaries count as missed. AnnotationError if none of a subset is left, TooManyBroken
    for many of wrong length.
    """
    training, test, other_length = _clips(inputs)
    settings, labels = inputs.settings, LabelTimes()
    if isinstance(settings, PeakSettings):
        raters = [clip.boundaries_s for clip in training.videos]
    else:
        raters = [(clip.most_consistent_s,) for clip in training.videos]
    annotated = [
        [labels.moments_inside(clip.video_id, times_s, clip.duration_s) for times_s in of_clip]
        for clip, of_clip in zip(training.videos, raters, strict=True)
    ]
    labels.report("training boundaries")
    labels.require_most("training boundaries")
    detector: PeakDetector | BoundaryHead
    if isinstance(settings, PeakSettings):
        durations = [clip.duration_s for clip in training.videos]
        detector, f1 = fit_peaks(training.features, _gap_times(training), annotated, durations, settings)
        inputs.on_epoch({"epoch": 0, "loss": 1 - f1, "threshold": detector.threshold})
    else:
        detector = train_boundary_head(
            training.features, _gap_times(training), [times_s for (times_s,) in annotated], settings,
            seed=inputs.seed, on_epoch=inputs.on_epoch, device=inputs.device,
        )  # fmt: skip
    facts = {
        "clips": {"training": len(training.videos), "validation": len(test.videos)},
        "clips_without_features": training.without + test.without,
        "clips_of_other_length": other_length,
        "labels": labels.facts(),
        "dropped": list(inputs.data.dropped),
    }
    return Boundaries(detector, test, facts)


def score_boundaries(inputs: Inputs, trained: Boundaries) -> Scored:
    """Boundaries of the test clips, {id: [seconds]}, and their F1 by the challenge's rules."""
    test = trained.test
    found = {
        clip.video_id: trained.detector.boundaries_s(feat_SD, time_N).round(4).tolist()
        for clip, feat_SD, time_N in zip(test.videos, test.features, _gap_times(test), strict=True)
    }
    report = evaluate_boundaries(inputs.data.ground_truth(inputs.subsets[1]), found)
    scores = {f"{name}@0.05": 100 * report[name]["0.05"] for name in ("F1", "precision", "recall")}
    return Scored(
        predictions={BOUNDARIES: found},
        scores=scores | {"F1_mean": 100 * report["mean_F1"]},
        report={"boundaries": report},
        facts=trained.facts,
    )


def boundary_scores_per_video(
    data: GEBDDataset, settings: PeakSettings | BoundaryHeadSettings, subset: str, read: Callable[[str], Any]
) -> PerVideo:
    """F1 by the clips that count."""
    return boundaries_per_video(data.ground_truth(subset), read(BOUNDARIES))


def peaks_of_difference(part: VideoPart) -> BoundaryCurve:
    """Boundaries without any training: peaks of the difference between neighbouring snippets' features.

    Choice: features are standardised by the video's own snippets, and a peak is a boundary from the mean of the curve
    plus its standard deviation on; a threshold from labels is better (the head "boundary-peaks").
    """
    mean_D, std_D = (
        values.numpy() for values in mean_and_std(lambda: [torch.from_numpy(np.ascontiguousarray(part.feat_SD))])
    )
    detector, time_N = PeakDetector(PeakSettings(), mean_D, std_D, 0.0), gap_times_s(part.info)
    curve_N = detector.curve(part.feat_SD, time_N)
    threshold = float(curve_N.mean() + curve_N.std()) if len(curve_N) else 0.0
    return _found(replace(detector, threshold=threshold), part)


def _found(detector: PeakDetector | BoundaryHead, part: VideoPart) -> BoundaryCurve:
    """The detector's boundaries, and its curve."""
    time_N = gap_times_s(part.info)
    curve_N = detector.curve(part.feat_SD, time_N)
    times_s = detector.boundaries_s(part.feat_SD, time_N)
    scores = curve_N[np.searchsorted(time_N, times_s)]
    return BoundaryCurve(times_s=times_s, scores=scores, curve_times_s=time_N, curve=curve_N)


def keep_boundaries(inputs: Inputs, trained: Boundaries) -> Kept:
    """The peaks' threshold and the features' scale, or the head's weights."""
    detector = trained.detector
    if isinstance(detector, PeakDetector):
        scale = {"mean": torch.from_numpy(detector.mean_D), "std": torch.from_numpy(detector.std_D)}
        return Kept(settings=detector.settings, tensors=scale, facts={"threshold": detector.threshold})
    tensors = {"mean": detector.mean, "std": detector.std, "weight": detector.weight}
    return Kept(settings=detector.settings, tensors=tensors, facts={"bias": detector.bias, "context": detector.context})


def apply_boundaries(kept: Kept, device: str) -> Applied:
    """Boundaries as :func:`score_boundaries` finds them, not rounded; ``device`` is not used."""
    if isinstance(kept.settings, PeakSettings):
        mean_D, std_D = (kept.tensors[name].numpy() for name in ("mean", "std"))
        peaks = PeakDetector(kept.settings, mean_D, std_D, float(kept.facts["threshold"]))
        return Applied(boundaries=lambda part: _found(peaks, part))
    mean, std, weight = (kept.tensors[name] for name in ("mean", "std", "weight"))
    context, bias = int(kept.facts["context"]), float(kept.facts["bias"])
    head = BoundaryHead(kept.settings, context, mean, std, weight, bias)
    return Applied(boundaries=lambda part: _found(head, part))


def _gap_times(split: Split[GEBDVideo]) -> list[np.ndarray]:
    return [gap_times_s(info) for info in split.infos]


def _clips(inputs: Inputs) -> tuple[Split[GEBDVideo], Split[GEBDVideo], list[str]]:
    """Training and test clips that are as long as annotated, and "id: the lengths" of those that are not."""
    wrong: list[str] = []
    splits = [
        _of_right_length(read_split(inputs.features, inputs.data.videos, subset), wrong) for subset in inputs.subsets
    ]
    if len(wrong) > MAX_OTHER_LENGTH_SHARE * (len(wrong) + sum(len(split.videos) for split in splits)):
        raise TooManyBroken(
            f"{len(wrong)} videos are not as long as annotated; are they whole videos instead of clips? {wrong[:5]}"
        )
    for subset, split in zip(inputs.subsets, splits, strict=True):
        if not split.videos:
            raise AnnotationError(f"no clip of subset {subset!r} in {inputs.features.place} is as long as annotated")
    return splits[0], splits[1], wrong


def _of_right_length(split: Split[GEBDVideo], wrong: list[str]) -> Split[GEBDVideo]:
    kept: Split[GEBDVideo] = Split([], [], [], split.without)
    for clip, feat_SD, info in zip(split.videos, split.features, split.infos, strict=True):
        length_s = video_end_s(info)
        if abs(length_s - clip.duration_s) > _LENGTH_TOLERANCE_S:
            wrong.append(f"{clip.video_id}: {length_s:.2f} s instead of {clip.duration_s:.2f} s")
            continue
        kept.videos.append(clip)
        kept.features.append(feat_SD)
        kept.infos.append(info)
    return kept
