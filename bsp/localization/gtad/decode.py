"""From G-TAD's outputs to proposals and detections, as its ActivityNet release does (Xu et al., CVPR 2020).

Candidates are gated by the start and end scores, scored by the product of the two confidences and thinned by
Gaussian Soft-NMS; class names come from a video-level classifier. Arrays in, arrays out, no torch.

Letters: T time cells, N candidates or valid anchors (sgalign.anchor_grid's order), K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from bsp.localization.gtad.sgalign import anchor_grid


def boundary_peaks(scores: np.ndarray) -> np.ndarray:
    """Cells kept as a boundary, bool [T]: strictly above both neighbours, or above half of the largest score.

    False for the first and last cell; the caller adds these.
    """
    kept = np.zeros(len(scores), dtype=bool)
    inner = scores[1:-1]
    kept[1:-1] = ((inner > scores[:-2]) & (inner > scores[2:])) | (inner > 0.5 * scores.max())
    return kept


def candidates(
    anchors: np.ndarray, start: np.ndarray, end: np.ndarray, max_duration: int
) -> tuple[np.ndarray, np.ndarray]:
    """Gated candidates of a video: (segments [N, 2] fractions, scores [N]), float64, duration by duration.

    ``anchors`` [2, valid anchors], ``start`` and ``end`` [T]. Cell 0 always is a start, cell T - 1 an end; a segment is
    [s / T, e / T] with e = s + d + 1 < T, so none reaches 1.
    """
    cells = len(start)
    is_start, is_end = boundary_peaks(start), boundary_peaks(end)
    is_start[0] = is_end[-1] = True
    duration, first = anchor_grid(cells, max_duration)
    last = first + duration + 1
    kept = (last < cells) & is_start[first] & is_end[np.minimum(last, cells - 1)]
    segments = np.stack([first[kept], last[kept]], 1) / cells
    return segments, anchors[0, kept].astype(np.float64) * anchors[1, kept].astype(np.float64)


def soft_nms(
    segments: np.ndarray, scores: np.ndarray, *, sigma: float, max_proposals: int
) -> tuple[np.ndarray, np.ndarray]:
    """Gaussian Soft-NMS: (segments [M, 2], scores [M]) in the order they were taken, scores decayed.

    Repeatedly takes the best candidate and multiplies the score of every candidate with tIoU u > 0 by exp(-u^2 /
    sigma). Stops at ``max_proposals``, when no score is above 0, or when ONE candidate is left, which is never output
    (a quirk of the release: n candidates give at most n - 1). A single candidate is kept as it is.
    """
    if len(scores) <= 1:
        return segments.copy(), scores.copy()
    begin, end = segments[:, 0].copy(), segments[:, 1].copy()
    length = end - begin
    left = scores.astype(np.float64)
    taken, taken_scores = [], []
    for _ in range(min(max_proposals, len(scores) - 1)):
        best = int(left.argmax())
        if not left[best] > 0:
            break
        taken.append(best)
        taken_scores.append(left[best])
        overlap = np.minimum(end, end[best]) - np.maximum(begin, begin[best])
        np.maximum(overlap, 0, out=overlap)
        tiou = overlap / (length + length[best] - overlap)
        left *= np.exp(tiou * tiou / -sigma)
        left[best] = -1.0  # taken
    return segments[taken], np.array(taken_scores)


def attach_classes(
    segments: np.ndarray,
    scores: np.ndarray,
    duration_s: float,
    class_scores: np.ndarray,
    class_names: Sequence[str],
    top: int,
) -> list[dict[str, Any]]:
    """Detections in ActivityNet's result layout: every proposal once for each of the ``top`` best classes.

    ``segments`` [N, 2] are fractions of ``duration_s`` (the full duration, seconds), ``class_scores`` [K] the
    video-level scores; a detection's score is proposal score * class score. ValueError on lengths that don't
    match.
    """
    class_scores = np.asarray(class_scores, dtype=np.float64)
    if class_scores.shape != (len(class_names),):
        raise ValueError(f"class_scores has shape {class_scores.shape}, but there are {len(class_names)} class names")
    if not duration_s > 0:
        raise ValueError(f"duration_s must be above 0 seconds, got {duration_s}")
    best = np.argsort(-class_scores, kind="stable")[:top]
    return [
        {
            "label": class_names[k],
            "score": float(score * class_scores[k]),
            "segment": [float(begin * duration_s), float(end * duration_s)],
        }
        for (begin, end), score in zip(segments, scores)
        for k in best
    ]


def best_class_share(class_scores: np.ndarray) -> np.ndarray:
    """Class scores [K] by HACS' rule: the best class gets best / (best + second), all others 0.

    Attach them with ``top=1``. ValueError without a second class or without a score above 0.
    """
    class_scores = np.asarray(class_scores, dtype=np.float64)
    if class_scores.ndim != 1 or len(class_scores) < 2 or not class_scores.max() > 0:
        raise ValueError(f"two classes or more and a score above 0 are needed, got {class_scores.tolist()}")
    best, second = np.argsort(-class_scores, kind="stable")[:2]
    shares = np.zeros_like(class_scores)
    shares[best] = class_scores[best] / (class_scores[best] + class_scores[second])
    return shares
