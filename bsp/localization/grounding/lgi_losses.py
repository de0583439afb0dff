"""LGI's choice of segments and its three losses (Mun, Cho and Han, CVPR 2020, Section 3.5).

Letters: B queries of a batch, T segments, F rows of a video, N phrases, L words.
"""

from __future__ import annotations

import numpy as np
import torch.nn.functional as F
from torch import Tensor


def largest_offset(rows: int, segments: int) -> int:
    """Largest first row that training may draw: the largest integer strictly below rows / segments - 0.5, or 0."""
    return max(0, (2 * rows - segments - 1) // (2 * segments))


def sampled_rows(rows: int, segments: int, offset: int = 0) -> np.ndarray:
    """Which rows of a video become its segments, int64 [min(rows, segments)], rising.

    All of them when there are at most ``segments``; else round(offset + k * rows / segments), half to even.
    """
    if rows <= segments:
        return np.arange(rows)
    return np.round(offset + np.arange(segments) * (rows / segments)).astype(np.int64)


def guided_segments(start: float, end: float, rows: int, segments: int) -> np.ndarray:
    """Segments inside a moment (fractions of the duration), bool [T], at least one.

    Both ends are included. ``rows`` is the video's number of feature rows.
    """
    real = min(rows, segments)
    first = min(round(start * real), real - 1)
    last = max(round(end * real), first + 1)
    # Choice: last is cut to the last real segment. Published, it may name a padded one, whose attention is
    # exactly 0: a constant log(1e-8) = -18.4 in the mean, and real segments that count less
    last = min(last, real - 1)
    index = np.arange(segments)
    return (first <= index) & (index <= last)


def regression_loss(moments_B2: Tensor, targets_B2: Tensor) -> Tensor:
    """Smooth L1 (transition at 1) of the start plus that of the end, mean over the batch."""
    return F.smooth_l1_loss(moments_B2, targets_B2, reduction="none").sum(1).mean()


def guidance_loss(segment_weights_BT: Tensor, inside_BT: Tensor) -> Tensor:
    """Temporal attention guidance: mean of -log attention over the segments inside, mean over the batch."""
    inside = inside_BT.to(segment_weights_BT.dtype)
    return (-(inside * (segment_weights_BT + 1e-8).log()).sum(1) / inside.sum(1)).mean()


def distinct_loss(word_weights_BNL: Tensor, distinct_lambda: float) -> Tensor:
    """Distinct query attention: squared Frobenius norm of A A^T - lambda I, mean over the batch."""
    gram_BNN = word_weights_BNL @ word_weights_BNL.transpose(1, 2)
    identity = gram_BNN.new_ones(gram_BNN.shape[1]).diag()
    return (gram_BNN - distinct_lambda * identity).square().sum((1, 2)).mean()
