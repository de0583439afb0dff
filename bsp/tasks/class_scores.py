"""Video-level class scores, one set for all rows of a comparison: from a classifier trained on the features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from bsp.datasets.activitynet import LocalizationDataset, UntrimmedVideo
from bsp.localization.video_classifier import VideoClassifier, fit_video_classifier
from bsp.tasks.detection import read_untrimmed
from bsp.tasks.head import Features, Split


class Classified(NamedTuple):
    """What :func:`classify_videos` gives."""

    scores: dict[str, np.ndarray]  # probabilities float64 [K] by video
    accuracy: float  # on videos with a label
    classifier: VideoClassifier


def classify_videos(features: Features, data: LocalizationDataset, subsets: tuple[str, str]) -> Classified:
    """Train a linear classifier on the videos of the first of ``subsets``, score those of the second."""
    training, test = (read_untrimmed(features, data, subset) for subset in subsets)
    number = {name: label for label, name in enumerate(data.class_names)}

    def labelled(split: Split[UntrimmedVideo]) -> tuple[list[int], np.ndarray]:
        # Choice: a video's label is that of its first instance; nearly all videos of these data sets hold one class.
        first = [next((i.label for i in v.instances if i.label in number), None) for v in split.videos]
        places = [k for k, label in enumerate(first) if label is not None]
        return places, np.array([number[label] for label in first if label is not None], int)

    places, labels = labelled(training)
    classifier = fit_video_classifier([training.features[k] for k in places], labels, len(number), seed=0)
    scores = classifier.scores(test.features)
    known, truth = labelled(test)
    accuracy = float((scores[known].argmax(1) == truth).mean())
    by_id = {video.video_id: row for video, row in zip(test.videos, scores, strict=True)}
    return Classified(by_id, accuracy, classifier)


def class_scores_document(class_names: Sequence[str], scores: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Scores in the published layout that :func:`bsp.datasets.class_scores.read_class_scores` reads."""
    return {"class": list(class_names), "results": {video: np.asarray(row).tolist() for video, row in scores.items()}}
