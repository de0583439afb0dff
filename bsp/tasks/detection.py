"""Temporal action detection with G-TAD on whole videos (ActivityNet-1.3, HACS): proposals, classes, mAP and AR.

Classes come from video-level scores, which are the same for all rows of a comparison.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

import numpy as np

from bsp.datasets.activitynet import LocalizationDataset, UntrimmedVideo
from bsp.datasets.label_times import LabelTimes, length_remark
from bsp.errors import AnnotationError
from bsp.features.record import covered_share, duration_share, video_end_s
from bsp.localization.gtad.decode import attach_classes, best_class_share
from bsp.localization.gtad.network import GTAD, GTADSettings, build_gtad, propose, train_gtad
from bsp.metrics.detection import evaluate_detection
from bsp.metrics.file_remarks import detection_remarks
from bsp.metrics.proposals import evaluate_proposals
from bsp.statistics.detection import detection_per_video
from bsp.statistics.per_video import PerVideo
from bsp.tasks.found import Segment, best_first
from bsp.tasks.head import Applied, Features, HeadInputs, Kept, Scored, Split, VideoPart, hold_out, read_split
from bsp.tasks.long_videos import soft_merged

logger = logging.getLogger(__name__)
DETECTIONS = "detections.json"
Network = TypeVar("Network", bound=GTAD)
S = TypeVar("S", bound=GTADSettings)
Inputs = HeadInputs[LocalizationDataset, GTADSettings]


@dataclass(frozen=True)
class Detector(Generic[Network, S]):
    """A trained network and its test data."""

    network: Network
    settings: S  # with the features' width filled in
    test: Split[UntrimmedVideo]
    class_scores: dict[str, np.ndarray]  # float64 [K] by test video
    facts: dict[str, Any] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()


def read_untrimmed(features: Features, data: LocalizationDataset, subset: str) -> Split[UntrimmedVideo]:
    """Features of one subset. AnnotationError if no video has features, or none of those has an instance."""
    split = read_split(features, data.videos, subset)
    require_instances(split.videos, subset, "the videos with features")
    return split


def require_instances(videos: Sequence[UntrimmedVideo], subset: str, where: str) -> None:
    """AnnotationError, beginning with ``where``, if no video of the subset has an instance."""
    if not any(video.instances for video in videos if video.subset == subset):
        raise AnnotationError(f"{where}: no instance in the subset {subset!r}; are the annotations empty?")


def times_of(video: UntrimmedVideo) -> np.ndarray:
    """Starts and ends of all instances, whatever their class: seconds as annotated, float64 [G, 2]."""
    return np.array([(i.start_s, i.end_s) for i in video.instances], float).reshape(-1, 2)


def covered_segments(split: Split[UntrimmedVideo], times: LabelTimes) -> list[np.ndarray]:
    """Instances as fractions of what the features cover (``corrected_second`` of the release): [K, 2] per video.

    ``times`` clips and counts them.
    """
    segments = []
    for video, info in zip(split.videos, split.infos, strict=True):
        seconds = times_of(video)
        places = covered_share(info, seconds, video.duration_s)
        segments.append(times.inside(video.video_id, seconds, video.duration_s, places=places, extent=1.0))
    return segments


def train_detector(inputs: Inputs) -> Detector[GTAD, GTADSettings]:
    """Train G-TAD; ``epoch_by`` of the settings says what chooses the epoch."""
    data = inputs.data
    training, test = (read_untrimmed(inputs.features, data, subset) for subset in inputs.subsets)
    class_scores = inputs.class_scores(data.class_names, [video.video_id for video in test.videos])
    lengths = [
        (video.video_id, video.duration_s, video_end_s(info))
        for split in (training, test)
        for video, info in zip(split.videos, split.infos, strict=True)
    ]
    odd_lengths = length_remark(lengths)
    if odd_lengths:
        logger.warning(odd_lengths)
    settings = replace(inputs.settings, feature_width=training.features[0].shape[1])
    chooses: Split[UntrimmedVideo] | None = test if settings.epoch_by == "scored" else None
    if settings.epoch_by == "held-out":
        training, chooses = hold_out(training)
    labels, held_out = LabelTimes(), LabelTimes()
    segments = covered_segments(training, labels)
    of_chooser = None if chooses is None else (chooses.features, covered_segments(chooses, held_out))
    labels.report("training instances")
    labels.require_most("training instances")
    held_out.report("validation instances (for choosing the epoch; the ground truth stays as it is)")
    network = train_gtad(
        training.features, segments, settings, seed=inputs.seed, validation=of_chooser,
        on_epoch=inputs.on_epoch, device=inputs.device,
    )  # fmt: skip
    remarks = (odd_lengths,) if odd_lengths else ()
    return Detector(network, settings, test, class_scores, {"labels": labels.facts()}, remarks)


def score_detector(inputs: Inputs, trained: Detector[GTAD, GTADSettings]) -> Scored:
    """Detections in ActivityNet's result format, mAP, and AR of the proposals without their classes."""
    data, settings, test = inputs.data, trained.settings, trained.test
    results, proposals = {}, {}
    found = propose(trained.network, test.features, settings, inputs.device)
    for video, info, (segments_N2, score_N) in zip(test.videos, test.infos, found, strict=True):
        share_N2 = duration_share(info, segments_N2, video.duration_s)
        row = trained.class_scores[video.video_id]
        results[video.video_id] = _with_classes(share_N2, score_N, video.duration_s, row, data.class_names, settings)
        proposals[video.video_id] = [
            {"label": "", "score": float(s), "segment": [float(a) * video.duration_s, float(b) * video.duration_s]}
            for (a, b), s in zip(share_N2, score_N, strict=True)
        ]
    detections = {"version": "1.3", "external_data": {}, "results": results}
    scored = score_detections(data, detections, inputs.subsets[1], trained)
    recall = evaluate_proposals(data.ground_truth, {**detections, "results": proposals}, subset=inputs.subsets[1])
    of_proposals = {f"AR@{n}": 100 * value for n, value in recall["AR@AN"].items()} | {"AR_AUC": recall["AUC"]}
    return replace(scored, scores=scored.scores | of_proposals, report=scored.report | {"proposals": recall})


def _with_classes(
    share_N2: np.ndarray, score_N: np.ndarray, duration_s: float, row_K: np.ndarray, names: Sequence[str],
    settings: GTADSettings,
) -> list[dict[str, Any]]:  # fmt: skip
    if settings.top_classes == 1 and len(names) > 1:  # HACS; a single class has no second to compare with
        row_K = best_class_share(row_K)
    return attach_classes(share_N2, score_N, duration_s, row_K, names, settings.top_classes)


def detector_per_video(
    data: LocalizationDataset, settings: GTADSettings, subset: str, read: Callable[[str], Any]
) -> PerVideo:
    """mAP by the videos that count (AR is none: it needs the proposals, which are not kept)."""
    return detection_per_video(data.ground_truth, read(DETECTIONS), subset=subset)


def keep_detector(inputs: Inputs, trained: Detector[GTAD, GTADSettings]) -> Kept:
    """The trained network."""
    return Kept(
        settings=trained.settings, tensors=trained.network.state_dict(), class_names=tuple(inputs.data.class_names)
    )


def apply_detector(kept: Kept, device: str) -> Applied:
    """Detections as :func:`score_detector` makes them; without class scores proposals of no class."""
    settings: GTADSettings = kept.settings
    network = build_gtad(settings, 0)
    network.load_state_dict(kept.tensors)
    network.to(device).eval()

    def detect(part: VideoPart) -> list[Segment]:
        ((segments_N2, score_N),) = propose(network, [part.feat_SD], settings, device)
        share_N2 = duration_share(part.info, segments_N2, part.duration_s)
        if part.class_scores is None:
            return proposals_of(share_N2 * part.duration_s, score_N)
        scores_K, names = part.class_scores, kept.class_names
        return segments_of(_with_classes(share_N2, score_N, part.duration_s, scores_K, names, settings))

    return Applied(detect=detect, merge=soft_merge(settings))


def proposals_of(times_N2: np.ndarray, score_N: np.ndarray) -> list[Segment]:
    """Segments of no class from times in seconds and scores."""
    rows = zip(times_N2.tolist(), score_N.tolist(), strict=True)
    return best_first([Segment(label="", start_s=a, end_s=b, score=score) for (a, b), score in rows])


def segments_of(detections: Sequence[dict[str, Any]]) -> list[Segment]:
    """Segments from one video's detections in ActivityNet's layout, best first."""
    return best_first(
        [
            Segment(label=row["label"], start_s=row["segment"][0], end_s=row["segment"][1], score=row["score"])
            for row in detections
        ]
    )


def soft_merge(settings: GTADSettings) -> Callable[[list[Segment], int], list[Segment]]:
    """:attr:`Applied.merge` of G-TAD."""
    # Choice: as many segments per window length as one video may have, so that long videos are no denser.
    most = settings.max_proposals * settings.top_classes

    def merge(segments: list[Segment], windows: int) -> list[Segment]:
        return soft_merged(segments, sigma=settings.soft_nms_sigma)[: most * windows]

    return merge


def score_detections(
    data: LocalizationDataset, detections: dict[str, Any], subset: str, trained: Detector[Any, Any], **metric: Any
) -> Scored:
    """mAP of detections, and remarks on probable mistakes (such as other spelling of classes; also logged).

    ``metric``: keywords of :func:`bsp.metrics.detection.evaluate_detection`.
    """
    report = evaluate_detection(data.ground_truth, detections, subset=subset, **metric)
    remarks = detection_remarks(data.ground_truth, detections, subset=subset, is_zero=report["average_mAP"] == 0)
    for remark in remarks:
        logger.warning("detections against the ground truth: %s", remark)
    scores = {f"mAP@{tiou}": 100 * value for tiou, value in report["mAP"].items()}
    return Scored(
        predictions={DETECTIONS: detections},
        scores=scores | {"mAP_avg": 100 * report["average_mAP"]},
        report={"detection": report},
        facts={**trained.facts, "remarks": [*trained.remarks, *remarks]},
    )
