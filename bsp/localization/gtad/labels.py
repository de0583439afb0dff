"""Labels and loss of G-TAD on ActivityNet-style data (Xu et al., CVPR 2020; the paper's Section 4).

Letters: B videos, T time cells, D longest duration in cells, N valid anchors (sgalign.anchor_grid's order).
Proposal (s, d) covers [s / T, (s + d + 1) / T] of the video; times are fractions of the features' extent.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from bsp.localization.gtad.sgalign import anchor_grid

BOUNDARY_POSITIVE = 0.5  # a start or end cell above it is positive
MAP_POSITIVE = 0.9  # an anchor whose tIoU is above it is positive for the classification channel
HIGH, LOW = 0.7, 0.3  # limits of the three groups that the regression channel balances
LOG_EPS = 1e-6
REGRESSION_FACTOR = 10.0


class Labels(NamedTuple):
    """Targets of one video, or of a batch with a leading dimension; float32 in [0, 1]."""

    tiou: Tensor  # [N] largest tIoU of each valid anchor with any instance
    start: Tensor  # [T]
    end: Tensor  # [T]


class Outputs(NamedTuple):
    """Outputs of the head for a batch; float32 in (0, 1)."""

    anchors: Tensor  # [B, 2, N] channel 0 regression confidence, channel 1 classification confidence
    start: Tensor  # [B, T]
    end: Tensor  # [B, T]


class Weights(NamedTuple):
    """Weight of each entry in the loss of a batch.

    They depend on labels and draws only, so the loss of a batch is a sum over videos and can be computed in parts.
    """

    start_positive: Tensor  # [B, T] weight of -ln(p)
    start_negative: Tensor  # [B, T] weight of -ln(1 - p)
    end_positive: Tensor
    end_negative: Tensor
    map_positive: Tensor  # [B, N]
    map_negative: Tensor  # [B, N]
    regression: Tensor  # [B, N] weight of the squared error


def check_segments(segments: np.ndarray) -> np.ndarray:
    """Segments as float64 [G, 2], clipped to [0, 1]; ValueError where an end is not after its start."""
    array = np.asarray(segments, dtype=np.float64).reshape(-1, 2)
    wrong = array[~(np.isfinite(array).all(1) & (array[:, 1] > array[:, 0]))]
    if len(wrong):
        raise ValueError(
            f"{len(wrong)} of {len(array)} segments (fractions of the video) are not finite or don't end after their"
            f" start, such as {wrong[0].tolist()}; cut them first (bsp.datasets.label_times)"
        )
    return np.clip(array, 0.0, 1.0)


def anchor_tiou(segments: np.ndarray, cells: int, max_duration: int) -> np.ndarray:
    """Largest tIoU of every valid anchor with any segment (fractions): float64 [N]; 0 without a segment."""
    duration, start = anchor_grid(cells, max_duration)
    left, right = start / cells, (start + duration + 1) / cells
    best = np.zeros(len(start))
    for begin, end in segments:
        overlap = np.clip(np.minimum(right, end) - np.maximum(left, begin), 0, None)
        best = np.maximum(best, overlap / ((right - left) + (end - begin) - overlap))
    return best


def boundary_labels(times: np.ndarray, cells: int, margin: float = 0.5) -> np.ndarray:
    """Start (or end) labels: float64 [T], from the instances' start (end) times in fractions.

    A cell reaches ``margin`` cells further on each side, so it is two cells wide here, [i - 0.5, i + 1.5] / T, and the
    zone around a time three, [t - 1.5 / T, t + 1.5 / T]; the label is the largest overlap of the cell with a zone, as
    a share of the cell.
    """
    width = (1 + 2 * margin) / cells
    left = (np.arange(cells) - margin) / cells
    zone = np.asarray(times, dtype=np.float64)[:, None]
    overlap = np.minimum(left + width, zone + 1.5 / cells) - np.maximum(left, zone - 1.5 / cells)
    return np.clip(overlap, 0, None).max(0, initial=0.0) / width


def make_labels(segments: np.ndarray, cells: int, max_duration: int) -> Labels:
    """Labels of one video from its segments [G, 2] in fractions; clipped to [0, 1].

    Computed in float64 and rounded to float32 at the end, so that exact ties with a limit stay ties.
    """
    inside = check_segments(segments)
    parts = (
        anchor_tiou(inside, cells, max_duration),
        boundary_labels(inside[:, 0], cells),
        boundary_labels(inside[:, 1], cells),
    )
    return Labels(*(torch.from_numpy(part.astype(np.float32)) for part in parts))


def _balanced(positive: Tensor) -> tuple[Tensor, Tensor]:
    """Weights of positive and negative cells: 0.5 r and 0.5 r / (r - 1), over the count.

    r is count / positives. Without a positive, or without a negative, the plain mean (the release
    divides by zero there).
    """
    count, positives = positive.numel(), int(positive.sum())
    on = positive.float()
    if positives in (0, count):
        return on / count, (1 - on) / count
    ratio = count / positives
    return on * (0.5 * ratio / count), (1 - on) * (0.5 * ratio / (ratio - 1) / count)


def _regression_weights(tiou: Tensor, draws: Tensor) -> Tensor:
    high = tiou > HIGH
    middle = (tiou > LOW) & ~high
    low = (tiou > 0) & (tiou <= LOW)
    n_high, n_middle, n_low = (int(group.sum()) for group in (high, middle, low))
    if n_high == 0:  # Choice: without a high group, the plain mean over both other groups
        kept = tiou > 0
    else:
        kept = high | middle & (draws < n_high / max(n_middle, 1)) | low & (draws < n_high / max(n_low, 1))
    return kept.float() * (0.5 / max(int(kept.sum()), 1))


def loss_weights(labels: Labels, draws_BN: Tensor) -> Weights:
    """Weights of a batch's entries; ``labels`` are batched, ``draws_BN`` uniform in [0, 1) per anchor."""
    return Weights(
        *_balanced(labels.start > BOUNDARY_POSITIVE),
        *_balanced(labels.end > BOUNDARY_POSITIVE),
        *_balanced(labels.tiou > MAP_POSITIVE),
        _regression_weights(labels.tiou, draws_BN),
    )


def _log_loss(p: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
    return -(positive * torch.log(p + LOG_EPS) + negative * torch.log(1 - p + LOG_EPS)).sum()


def weighted_loss(outputs: Outputs, labels: Labels, weights: Weights) -> dict[str, Tensor]:
    """The loss's terms, scalars: "loss" (to minimise), "loss_node", "loss_regression", "loss_classification".

    The total is node (start + end) + 10 * regression + classification. Arguments may be a part of the batch that
    ``weights`` were computed for; terms of all parts add up to the batch's.
    """
    node = _log_loss(outputs.start, weights.start_positive, weights.start_negative)
    node = node + _log_loss(outputs.end, weights.end_positive, weights.end_negative)
    regression = (weights.regression * (outputs.anchors[:, 0] - labels.tiou) ** 2).sum()
    classification = _log_loss(outputs.anchors[:, 1], weights.map_positive, weights.map_negative)
    total = node + REGRESSION_FACTOR * regression + classification
    return {
        "loss": total,
        "loss_node": node,
        "loss_regression": regression,
        "loss_classification": classification,
    }
