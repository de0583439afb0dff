"""A video-level action classifier on snippet features, which assigns classes to proposals.

The paper uses scores of a published classifier (CUHK 2017) that is no longer available; this replaces it by logistic
regression on pooled features. All rows of one comparison share its scores, so that rows differ by their proposals only.
Letters: V videos, S snippets, D feature width, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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


@dataclass(frozen=True, eq=False)
class Logistic:
    """Logistic regression on standardised inputs, as scikit-learn's pipeline computes it. Letters: I inputs."""

    mean_I: np.ndarray  # float64
    scale_I: np.ndarray  # above 0
    weight_KI: np.ndarray  # K = 1 for two classes
    bias_K: np.ndarray

    def predict_proba(self, inputs_VI: np.ndarray) -> np.ndarray:
        """Probabilities of the classes seen in training, float64 [V, K], rows sum to 1."""
        logit_VK = (inputs_VI - self.mean_I) / self.scale_I @ self.weight_KI.T + self.bias_K
        if logit_VK.shape[1] == 1:
            logit_VK = np.concatenate([np.zeros_like(logit_VK), logit_VK], axis=1)
        share_VK = np.exp(logit_VK - logit_VK.max(axis=1, keepdims=True))
        return share_VK / share_VK.sum(axis=1, keepdims=True)


@dataclass(frozen=True)
class VideoClassifier:
    """A fitted classifier; ``classes`` are the labels seen in training (columns of its estimate)."""

    pipeline: Any  # scikit-learn pipeline or Logistic, or None when training had a single class
    classes: np.ndarray  # int64, ascending
    num_classes: int

    def scores(self, features: Sequence[np.ndarray]) -> np.ndarray:
        """Class probabilities, float64 [V, K], rows sum to 1; a class without training videos gets 0."""
        pooled = pool_features(features)
        out = np.zeros((len(pooled), self.num_classes))
        out[:, self.classes] = 1.0 if self.pipeline is None else self.pipeline.predict_proba(pooled)
        return out

    def arrays(self) -> dict[str, np.ndarray]:
        """All numbers of the classifier, for a file; the inverse is :func:`classifier_of`."""
        found = {"classes": self.classes.astype(np.int64), "num_classes": np.array([self.num_classes], np.int64)}
        if self.pipeline is None:
            return found
        parts = self.pipeline if isinstance(self.pipeline, Logistic) else _logistic(self.pipeline)
        numbers = {"mean": parts.mean_I, "scale": parts.scale_I, "weight": parts.weight_KI, "bias": parts.bias_K}
        return found | {name: np.ascontiguousarray(array, np.float64) for name, array in numbers.items()}


def _logistic(pipeline: Any) -> Logistic:
    scaler, regression = (step for _, step in pipeline.steps)
    return Logistic(scaler.mean_, scaler.scale_, regression.coef_, regression.intercept_)


def classifier_of(arrays: Mapping[str, np.ndarray]) -> VideoClassifier:
    """The classifier from its numbers. KeyError or ValueError, naming them, for arrays that are none."""
    classes, num_classes = arrays["classes"], int(arrays["num_classes"][0])
    if classes.ndim != 1 or not len(classes) or classes.min() < 0 or classes.max() >= num_classes:
        raise ValueError(f"classes {classes.tolist()!r:.60} of {num_classes}")
    if len(classes) == 1:
        return VideoClassifier(None, classes, num_classes)
    mean_I, scale_I, weight_KI, bias_K = (arrays[name] for name in ("mean", "scale", "weight", "bias"))
    rows = 1 if len(classes) == 2 else len(classes)
    shapes = (mean_I.shape, scale_I.shape, weight_KI.shape, bias_K.shape)
    inputs = len(mean_I)
    if shapes != ((inputs,), (inputs,), (rows, inputs), (rows,)) or not (scale_I > 0).all():
        raise ValueError(f"mean, scale, weight and bias of the shapes {shapes} for {len(classes)} classes")
    return VideoClassifier(Logistic(mean_I, scale_I, weight_KI, bias_K), classes, num_classes)


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
