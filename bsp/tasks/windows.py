"""G-TAD on THUMOS14: trained on windows of the features, as its videos are long.

Cells are snippets, and times come from the features' record (frames per second and stride), as the annotation files do
not say how long the training videos are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from bsp.datasets.activitynet import LocalizationDataset, UntrimmedVideo
from bsp.datasets.label_times import LabelTimes
from bsp.features.record import FeatureInfo, seconds_at, snippets_at, video_end_s
from bsp.localization.gtad.decode import attach_classes
from bsp.localization.gtad.windows import (
    WindowGTAD,
    WindowSettings,
    build_windows,
    propose_windows,
    train_windows,
    training_windows,
)
from bsp.metrics.detection import THUMOS_TIOUS
from bsp.statistics.detection import detection_per_video
from bsp.statistics.per_video import PerVideo
from bsp.tasks.detection import (
    DETECTIONS,
    Detector,
    proposals_of,
    read_untrimmed,
    score_detections,
    segments_of,
    soft_merge,
    times_of,
)
from bsp.tasks.found import Segment
from bsp.tasks.head import Applied, HeadInputs, Kept, Scored, Split, VideoPart, hold_out

Inputs = HeadInputs[LocalizationDataset, WindowSettings]
WindowDetector = Detector[WindowGTAD, WindowSettings]


def cell_segments(split: Split[UntrimmedVideo], times: LabelTimes) -> list[np.ndarray]:
    """Instances in cells, [K, 2] per video. ``times`` clips them to the features and counts them."""
    segments = []
    for video, info in zip(split.videos, split.infos, strict=True):
        seconds = times_of(video)
        places = snippets_at(info, seconds)
        segments.append(times.inside(video.video_id, seconds, video_end_s(info), places=places, extent=info.snippets))
    return segments


def train_window_detector(inputs: Inputs) -> WindowDetector:
    """Train G-TAD on windows; ``epoch_by`` of the settings says what chooses the epoch."""
    data = inputs.data
    training, test = (read_untrimmed(inputs.features, data, subset) for subset in inputs.subsets)
    class_scores = inputs.class_scores(data.class_names, [video.video_id for video in test.videos])
    settings = replace(inputs.settings, feature_width=training.features[0].shape[1])
    chooses: Split[UntrimmedVideo] | None = test if settings.epoch_by == "scored" else None
    if settings.epoch_by == "held-out":
        training, chooses = hold_out(training)
    labels = LabelTimes()
    segments = cell_segments(training, labels)
    of_chooser = None if chooses is None else (chooses.features, cell_segments(chooses, LabelTimes()))
    labels.report("training instances")
    labels.require_most("training instances")
    network = train_windows(
        training.features, segments, settings, seed=inputs.seed, validation=of_chooser, on_epoch=inputs.on_epoch,
        device=inputs.device,
    )  # fmt: skip
    facts = {
        "training_windows": len(training_windows(training.features, segments, settings)),
        "labels": labels.facts(),
        "dropped": list(data.dropped),
    }
    return Detector(network, settings, test, class_scores, facts)


def score_window_detector(inputs: Inputs, trained: WindowDetector) -> Scored:
    """Detections in the official result format, mAP at 0.3:0.1:0.7."""
    data, settings, test = inputs.data, trained.settings, trained.test
    results = {}
    found = propose_windows(trained.network, test.features, settings, inputs.device)
    for video, info, (cells_N2, score_N) in zip(test.videos, test.infos, found, strict=True):
        duration_s = video_end_s(info)
        share_N2 = _shares(info, cells_N2, duration_s)
        row = trained.class_scores[video.video_id]
        results[video.video_id] = attach_classes(
            share_N2, score_N, duration_s, row, data.class_names, settings.top_classes
        )
    detections = {"version": "THUMOS14", "external_data": {}, "results": results}
    return score_detections(data, detections, inputs.subsets[1], trained, tious=THUMOS_TIOUS)


def window_detector_per_video(
    data: LocalizationDataset, settings: WindowSettings, subset: str, read: Callable[[str], Any]
) -> PerVideo:
    """mAP by the videos that count."""
    return detection_per_video(data.ground_truth, read(DETECTIONS), subset=subset, tious=THUMOS_TIOUS)


def _shares(info: FeatureInfo, cells_N2: np.ndarray, duration_s: float) -> np.ndarray:
    """Cells as fractions of the duration."""
    # Choice: neither times nor scores are rounded (the release: 0.1 s and six digits), which would make ties.
    return np.clip(seconds_at(info, cells_N2) / duration_s, 0.0, 1.0)


def keep_window_detector(inputs: Inputs, trained: WindowDetector) -> Kept:
    """The trained network."""
    return Kept(
        settings=trained.settings, tensors=trained.network.state_dict(), class_names=tuple(inputs.data.class_names)
    )


def apply_window_detector(kept: Kept, device: str) -> Applied:
    """Detections as :func:`score_window_detector` makes them; without class scores proposals of no class.

    The network's own windows have a fixed number of snippets. Videos much longer than those of the training are cut
    nevertheless, as their classes come from whole videos.
    """
    settings: WindowSettings = kept.settings
    network = build_windows(settings, 0)
    network.load_state_dict(kept.tensors)
    network.to(device).eval()

    def detect(part: VideoPart) -> list[Segment]:
        ((cells_N2, score_N),) = propose_windows(network, [part.feat_SD], settings, device)
        share_N2 = _shares(part.info, cells_N2, part.duration_s)
        if part.class_scores is None:
            return proposals_of(share_N2 * part.duration_s, score_N)
        names, top = kept.class_names, settings.top_classes
        return segments_of(attach_classes(share_N2, score_N, part.duration_s, part.class_scores, names, top))

    return Applied(detect=detect, merge=soft_merge(settings))
