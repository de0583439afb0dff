"""Localisation heads as Ray work: train G-TAD on frozen features, detect, score.

The functions are plain; the sweep calls them as Ray tasks with the resources that the plan names. All rows of
a comparison get their class names from one set of video-level class scores, as in the paper, where they come
from a fixed classification result.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bsp.datasets.activitynet import LocalizationDataset, UntrimmedVideo
from bsp.datasets.class_scores import read_class_scores as read_published_scores
from bsp.datasets.label_times import LabelTimes, length_remark
from bsp.errors import AnnotationError
from bsp.features.record import covered_share, duration_share, video_end_s
from bsp.features.store import FeatureInfo
from bsp.files.text import parse_json
from bsp.localization.gtad.decode import attach_classes, best_class_share
from bsp.localization.gtad.network import propose, train_gtad
from bsp.localization.video_classifier import fit_video_classifier
from bsp.metrics.detection import evaluate_detection
from bsp.metrics.file_remarks import detection_remarks
from bsp.metrics.proposals import evaluate_proposals
from bsp.pretraining.fusion import concatenate_streams
from bsp_platform.plan.recipes import HeadRecipe
from bsp_platform.storage.manifests import PROGRESS
from bsp_platform.storage.stages import write_json
from bsp_platform.work.listed_features import has_features, read_listed

logger = logging.getLogger(__name__)
DETECTIONS, SCORES, HISTORY, CLASS_SCORES = (
    "detections.json",
    "scores.json",
    "history.json",
    "class_scores.json",
)


@dataclass(frozen=True)
class FeatureSet:
    """Features of one subset, in the annotation file's order; videos without features are left out."""

    videos: list[UntrimmedVideo]
    features: list[np.ndarray]  # [S, D] float32 each
    infos: list[FeatureInfo]

    def segments(self, times: LabelTimes) -> list[np.ndarray]:
        """[K, 2] per video: instances as fractions of what the features cover (gtad.md's corrected duration).

        ``times`` cuts them, and counts.
        """
        out = []
        for video, info in zip(self.videos, self.infos, strict=True):
            seconds = np.array([(i.start_s, i.end_s) for i in video.instances], float).reshape(-1, 2)
            places = covered_share(info, seconds, video.duration_s)
            out.append(times.inside(video.video_id, seconds, video.duration_s, places=places, extent=1.0))
        return out

    def lengths(self) -> list[tuple[str, float, float]]:
        """Id, seconds as annotated and seconds by the features' record, of every video."""
        return [(v.video_id, v.duration_s, video_end_s(i)) for v, i in zip(self.videos, self.infos, strict=True)]


def load_subset(folders: Sequence[Path], data: LocalizationDataset, subset: str, expect: dict[str, Any]) -> FeatureSet:
    """The features of one subset; those of several ``folders`` (streams) are concatenated.

    ``expect`` are sidecar fields that must agree (ValueError otherwise). AnnotationError if no video of the subset has
    features, or none of them an instance. Raises as :func:`read_streams`.
    """
    videos, features, infos = [], [], []
    for video in data.videos:
        if video.subset != subset:
            continue
        found = read_streams(folders, video.video_id, expect)
        if found is not None:
            videos.append(video)
            features.append(found[0])
            infos.append(found[1])
    if not videos:
        raise AnnotationError(f"no video of subset {subset!r} has features in {folders[0]}")
    require_instances(videos, subset, "the videos with features")
    return FeatureSet(videos, features, infos)


def require_instances(videos: Sequence[UntrimmedVideo], subset: str, where: str) -> None:
    """AnnotationError, beginning with ``where``, if no video of the subset has an instance."""
    if not any(video.instances for video in videos if video.subset == subset):
        raise AnnotationError(f"{where}: no instance in the subset {subset!r}; are the annotations empty?")


def read_streams(
    folders: Sequence[Path], video_id: str, expect: dict[str, Any]
) -> tuple[np.ndarray, FeatureInfo] | None:
    """Features [S, D] of one video and their record, streams concatenated; None if any stream has none of it.

    StageDamaged for features that a stage's manifest lists and that are lost or changed, or if it has no manifest.
    """
    if not all([has_features(folder, video_id) for folder in folders]):
        return None
    return concatenate_streams([read_listed(folder, video_id, expect) for folder in folders])


def recorder(folder: Path, epochs: int, history: list[dict]) -> Callable[[dict], None]:
    """What a head calls after every epoch: keeps the record, and notes how far it is for who is waiting."""

    def record(entry: dict) -> None:
        history.append(entry)
        write_json(folder / PROGRESS, {"at": len(history), "total": epochs, "loss": entry["loss"]})

    return record


def make_class_scores(
    folder: Path,
    features: Path,
    data: LocalizationDataset,
    expect: dict,
    subsets: tuple[str, str] = ("training", "validation"),
) -> dict[str, Any]:
    """Train the shared video classifier on the first of ``subsets`` and score all videos of the second."""
    training, test = (load_subset([features], data, subset, expect) for subset in subsets)
    number = {name: label for label, name in enumerate(data.class_names)}

    def labelled(videos: FeatureSet) -> tuple[list[int], np.ndarray]:
        # Choice: a video's label is that of its first instance; nearly all videos of these data sets hold one class.
        first = [next((i.label for i in v.instances if i.label in number), None) for v in videos.videos]
        places = [k for k, label in enumerate(first) if label is not None]
        return places, np.array([number[first[k]] for k in places], int)

    places, labels = labelled(training)
    classifier = fit_video_classifier([training.features[k] for k in places], labels, len(number), seed=0)
    scores = classifier.scores(test.features)
    known, truth = labelled(test)
    _write_class_scores(folder, data, {v.video_id: row for v, row in zip(test.videos, scores, strict=True)})
    return {"accuracy": float((scores[known].argmax(1) == truth).mean())}


def convert_class_scores(folder: Path, given: Path, data: LocalizationDataset, subset: str) -> dict[str, Any]:
    """The scores of a published classification result for the videos of one subset, as a stage's file."""
    videos = [video.video_id for video in data.videos if video.subset == subset]
    scores = read_published_scores(given, data.class_names, videos)
    _write_class_scores(folder, data, scores)
    return {"file": given.name, "videos": len(scores)}


def _write_class_scores(folder: Path, data: LocalizationDataset, scores: dict[str, np.ndarray]) -> None:
    results = {video: np.asarray(row).tolist() for video, row in scores.items()}
    write_json(folder / CLASS_SCORES, {"class": list(data.class_names), "results": results})


def read_class_scores(path: Path, class_names: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Scores per video in the order of ``class_names``, from ``{"class": [...], "results": {id: [...]}}``."""
    try:
        content = parse_json(path.read_bytes(), path)
        order = [content["class"].index(name) for name in class_names]
        return {video: np.asarray(row, float)[order] for video, row in content["results"].items()}
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, OverflowError) as error:
        raise AnnotationError(
            f'{path}: expected {{"class": [names], "results": {{video: [scores]}}}} with all '
            f"{len(class_names)} classes of the annotations; {error}"
        ) from None


def train_and_score(
    folder: Path,
    recipe: HeadRecipe,
    features: Sequence[Path],
    class_scores: Path,
    data: LocalizationDataset,
    expect: dict[str, Any],
    *,
    device: str = "cpu",
    threads: int = 1,
) -> dict[str, Any]:
    """Train the head of ``recipe`` on the ``features`` of all its streams, detect in the validation videos, score.

    Writes the detections in the official result format, the scores in percent, and the training history.
    """
    torch.set_num_threads(threads)
    began = time.time()
    training, validation = (load_subset(features, data, subset, expect) for subset in ("training", "validation"))
    odd_lengths = length_remark(training.lengths() + validation.lengths())
    if odd_lengths:
        logger.warning(odd_lengths)
    settings = replace(recipe.head, feature_width=training.features[0].shape[1])
    history: list[dict] = []
    labels, held_out = LabelTimes(), LabelTimes()
    segments = training.segments(labels), validation.segments(held_out)
    labels.report("training instances")
    labels.require_most("training instances")
    held_out.report("validation instances (for choosing the epoch; the ground truth stays as it is)")
    head = train_gtad(
        training.features,
        segments[0],
        settings,
        seed=recipe.seed,
        validation=(validation.features, segments[1]),
        on_epoch=recorder(folder, settings.epochs, history),
        device=device,
    )
    trained_s = time.time() - began
    names = data.class_names
    scores = read_class_scores(class_scores, names)
    if settings.top_classes == 1:  # HACS
        scores = {video: best_class_share(row) for video, row in scores.items()}
    results = {}
    proposals = [
        (duration_share(info, segments_N2, video.duration_s), score_N)
        for video, info, (segments_N2, score_N) in zip(
            validation.videos, validation.infos, propose(head, validation.features, settings, device), strict=True
        )
    ]
    for video, (segments_N2, score_N) in zip(validation.videos, proposals, strict=True):
        results[video.video_id] = attach_classes(
            segments_N2, score_N, video.duration_s, scores[video.video_id], names, settings.top_classes
        )
    detections = {"version": "1.3", "external_data": {}, "results": results}
    agnostic = {
        video.video_id: [
            {
                "label": "",
                "score": float(s),
                "segment": [float(a) * video.duration_s, float(b) * video.duration_s],
            }
            for (a, b), s in zip(segments, score_N, strict=True)
        ]
        for video, (segments, score_N) in zip(validation.videos, proposals, strict=True)
    }
    detection = evaluate_detection(data.ground_truth, detections, subset="validation")
    remarks = score_remarks(data, detections, "validation", detection)
    recall = evaluate_proposals(data.ground_truth, {**detections, "results": agnostic}, subset="validation")
    percent = {f"mAP@{tiou}": 100 * value for tiou, value in detection["mAP"].items()}
    percent["mAP_avg"] = 100 * detection["average_mAP"]
    percent |= {f"AR@{n}": 100 * value for n, value in recall["AR@AN"].items()} | {"AR_AUC": recall["AUC"]}
    write_json(folder / DETECTIONS, detections)
    write_json(folder / HISTORY, history)
    write_json(folder / SCORES, {"scores": percent, "detection": detection, "proposals": recall})
    return {
        "train_seconds": trained_s,
        "score_seconds": time.time() - began - trained_s,
        "scores": percent,
        "labels": labels.facts(),
        "remarks": [odd_lengths, *remarks] if odd_lengths else remarks,
    }


def score_remarks(data: LocalizationDataset, detections: dict, subset: str, report: dict) -> list[str]:
    """What may be wrong with the two sides of a score (classes spelt in another way); also logged."""
    remarks = detection_remarks(data.ground_truth, detections, subset=subset, is_zero=report["average_mAP"] == 0)
    for remark in remarks:
        logger.warning("detections against the ground truth: %s", remark)
    return remarks
