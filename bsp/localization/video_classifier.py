"""A video-level action classifier on snippet features, which assigns classes to proposals.

The paper uses scores of a published classifier (CUHK 2017) that is no longer available; this replaces it by logistic
regression on pooled features. All rows of one comparison share its scores, so that rows differ by their proposals only.
Letters: V videos, S snippets, D feature width, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


def pool_features(features: Sequence[np.ndarray]) -> np.ndarray:
    """Mean and maximum over the snippets, concatenated: float64 [V, 2 * D] from V arrays [S, D].

    Choice: maximum besides mean, as an action that fills a tenth of the video hardly changes the mean.
    """
    for i, feat_SD in enumerate(features):
        if feat_SD.ndim != 2 or len(feat_SD) == 0 or not np.isfinite(feat_SD).all():
            raise ValueError(f"features of video {i} must be finite [S, D] with S >= 1, got shape {feat_SD.shape}")
    return np.stack([np.concatenate([f.mean(0), f.max(0)]) for f in features]).astype(np.float64)


@dataclass(frozen=True)
class VideoClassifier:
    """A fitted classifier; ``classes`` are the labels seen in training (columns of its estimate)."""

    pipeline: Any  # scikit-learn pipeline, or None when training had a single class
    classes: np.ndarray  # int64, ascending
    num_classes: int

    def scores(self, features: Sequence[np.ndarray]) -> np.ndarray:
        """Class probabilities, float64 [V, K], rows sum to 1; a class without training videos gets 0."""
        pooled = pool_features(features)
        out = np.zeros((len(pooled), self.num_classes))
        out[:, self.classes] = 1.0 if self.pipeline is None else self.pipeline.predict_proba(pooled)
        return out


def fit_video_classifier(
    features: Sequence[np.ndarray],
    labels: np.ndarray,
    num_classes: int,
    seed: int = 0,
    *,
    strength: float = 0.1,
    max_iterations: int = 1000,
) -> VideoClassifier:
    """Fits on V arrays [S, D] and their labels int [V] in [0, num_classes).

    ``strength`` is scikit-learn's C, above 0 (smaller = more regularised). Deterministic: the solver (L-BFGS)
    starts from zero and draws nothing; ``seed`` is passed for completeness. ValueError on labels that don't
    fit.
    """
    labels = np.asarray(labels)
    if labels.shape != (len(features),) or len(features) == 0:
        raise ValueError(f"{len(features)} feature arrays but labels of shape {labels.shape}")
    if labels.min() < 0 or labels.max() >= num_classes:
        raise ValueError(f"labels span {labels.min()}..{labels.max()}, outside 0..{num_classes - 1}")
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    classes = np.unique(labels)
    pooled = pool_features(features)
    if len(classes) == 1:
        return VideoClassifier(None, classes, num_classes)
    # Choice: C = 0.1; pooled features are wider than a small training set is long, so 1.0 leaves
    # overconfident scores
    pipeline = make_pipeline(
        StandardScaler(), LogisticRegression(C=strength, max_iter=max_iterations, random_state=seed)
    )
    return VideoClassifier(pipeline.fit(pooled, labels), classes, num_classes)
