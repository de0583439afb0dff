"""SGAlign: one vector per candidate segment ("anchor") of G-TAD, and the first layer that reads it.

Part of the localisation head that the paper uses unchanged (Section 4, "temporal action localisation"; the head is
G-TAD, Xu et al., CVPR 2020). An anchor is sampled from the features as averages of linear interpolations, and a 1x1
convolution follows: both are linear, so :class:`AlignedLinear` applies the convolution's weights to the T cells first
and a constant sparse matrix afterwards, which avoids the 369 MB map per video. :func:`align_features` is the direct
implementation, used as reference in tests.

Letters: B videos, C channels, T cells, D longest duration in cells, P samples per anchor (inner + context), N
valid anchors, W width of the first layer.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

ROWS = 16  # anchors are padded to a multiple of this many rows, see linear_rows


def anchor_grid(cells: int, max_duration: int) -> tuple[np.ndarray, np.ndarray]:
    """Valid anchors in the order used everywhere: duration by duration, in each by start cell.

    Returns (duration, start), int64 [N] each: duration index d is 0-based (the segment is d + 1 cells long),
    the start cell s has s + d <= cells - 1.
    """
    duration, start = np.meshgrid(np.arange(max_duration), np.arange(cells), indexing="ij")
    valid = duration + start < cells
    return duration[valid], start[valid]


def sample_points(begin: float, end: float, outputs: int) -> np.ndarray:
    """Sample points of one extent: float64 [outputs, n], in cells (cell k is at k).

    Each of the ``outputs`` bins averages its n points; an extent shorter than one cell counts as one cell.
    """
    width = max(end - begin, 1.0)
    size = width / outputs
    n = math.ceil(width / outputs)
    return begin + np.arange(outputs)[:, None] * size + (np.arange(n) + 0.5) * (size / n)


def interpolation(points: np.ndarray, cells: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Linear interpolation of T cells at points of any shape: (cell below, cell above, their weights).

    Points in [-1, 0] and [T-1, T] repeat the edge cell; points further out weigh zero.
    """
    # Choice: rounded, so that floating point never decides on which side of the jumps at -1 and T a point is
    points = np.round(points, 9)
    inside = (points >= -1) & (points <= cells)
    clamped = np.clip(points, 0, cells - 1)
    below = np.minimum(np.floor(clamped).astype(np.int64), cells - 1)
    above = np.minimum(below + 1, cells - 1)
    part = clamped - below
    return below, above, np.where(inside, 1 - part, 0.0), np.where(inside, part, 0.0)


def extent(duration: int, start: int) -> tuple[float, float]:
    """Extent that an anchor samples, in cells: [s, s + d] and half a length L = d + 1 on each side."""
    half = (duration + 1) / 2
    return start - half, start + duration + half


def align_features(feat_BCT: Tensor, context_BCT: Tensor, max_duration: int, inner: int, context: int) -> Tensor:
    """Direct implementation: vectors of all anchors as a map [B, C * (inner + context), D, T], row d, column s.

    ``feat_BCT`` gives the inner samples, ``context_BCT`` (neighbour means) the context samples; a vector is
    ordered channel-major, each channel's inner samples before its context samples. Invalid cells read the
    extent [0, 0].
    """
    batch, channels, cells = feat_BCT.shape
    out = feat_BCT.new_empty(batch, channels, inner + context, max_duration, cells)
    for duration in range(max_duration):
        for start in range(cells):
            ends = extent(duration, start) if start + duration <= cells - 1 else (0.0, 0.0)
            parts = []
            for source, outputs in ((feat_BCT, inner), (context_BCT, context)):
                below, above, w_below, w_above = interpolation(sample_points(*ends, outputs), cells)
                low = source[:, :, torch.from_numpy(below)] * torch.from_numpy(w_below).to(source)
                high = source[:, :, torch.from_numpy(above)] * torch.from_numpy(w_above).to(source)
                parts.append((low + high).mean(-1))
            out[:, :, :, duration, start] = torch.cat(parts, 2)
    return out.reshape(batch, -1, max_duration, cells)


def sampling_matrix(
    cells: int, max_duration: int, inner: int, context: int, *, outside: bool = False
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The constant matrix [N, T * P] of all valid anchors as sorted triplets (row, column, weight).

    Column t * P + p stands for cell t as read by sample p (inner samples first); rows are in anchor_grid
    order. With ``outside`` a row N follows for invalid cells of the map, with extent [0, 0].
    """
    per_anchor = inner + context
    rows, columns, weights = [], [], []
    durations, starts = anchor_grid(cells, max_duration)
    groups = [
        (np.flatnonzero(durations == duration), starts[durations == duration], extent(duration, 0))
        for duration in range(max_duration)
    ]
    if outside:
        groups.append((np.array([len(durations)]), np.zeros(1, np.int64), (0.0, 0.0)))
    for row, start, ends in groups:
        for first, outputs in ((0, inner), (inner, context)):
            points = sample_points(*ends, outputs)[None] + start[:, None, None]
            below, above, w_below, w_above = interpolation(points, cells)
            sample = first + np.arange(outputs)[None, :, None]
            for cell, weight in ((below, w_below), (above, w_above)):
                shape = cell.shape
                rows.append(np.broadcast_to(row[:, None, None], shape).ravel())
                columns.append((cell * per_anchor + sample).ravel())
                weights.append((weight / shape[2]).ravel())
    row, column, weight = (np.concatenate(parts) for parts in (rows, columns, weights))
    used = weight != 0
    key, place = np.unique(row[used] * (cells * per_anchor) + column[used], return_inverse=True)
    summed = np.bincount(place, weights=weight[used], minlength=len(key))
    return key // (cells * per_anchor), key % (cells * per_anchor), summed


def _bags(row: np.ndarray, column: np.ndarray, weight: np.ndarray, num_rows: int) -> list[Tensor]:
    order = np.lexsort((column, row))
    offsets = np.concatenate(([0], np.cumsum(np.bincount(row, minlength=num_rows))))
    return [
        torch.from_numpy(column[order].astype(np.int32)),
        torch.from_numpy(offsets.astype(np.int32)),
        torch.from_numpy(weight[order].astype(np.float32)),
    ]


class _SparseReLU(torch.autograd.Function):
    """ReLU of (constant sparse matrix times a table, plus bias): [R, W] -> [N, W]; backward by the transpose.

    Summed as embedding bags: on a CPU 2.5 times as fast as torch's CSR product, and each row is summed by one
    thread in a fixed order, so the result does not depend on the number of threads.
    """

    @staticmethod
    def forward(ctx: Any, table_RW: Tensor, bias: Tensor, *bags: Tensor) -> Tensor:
        out = _multiply(table_RW, *bags[:3]).add_(bias).relu_()
        ctx.save_for_backward(out, *bags[3:])
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_NW: Tensor) -> tuple[Tensor | None, ...]:
        out, *bags = ctx.saved_tensors
        grad = torch.ops.aten.threshold_backward(grad_NW, out, 0)
        return _multiply(grad, *bags), grad.sum(0), *[None] * 6


def _multiply(table: Tensor, index: Tensor, offsets: Tensor, weight: Tensor) -> Tensor:
    weight = weight.to(table.dtype)
    return F.embedding_bag(index, table, offsets, mode="sum", per_sample_weights=weight, include_last_offset=True)


def linear_rows(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x [..., K] times weight [O, K] plus bias, as F.linear.

    On a CPU, if the number of rows is divisible by n in 16..32, computed as a 1x1 convolution of n channels-last
    images: this uses oneDNN instead of MKL, twice as fast on AMD (single-threaded torch uses it from 16 images on).
    """
    rows = x.numel() // x.shape[-1]
    images = next((n for n in range(ROWS, 2 * ROWS + 1) if rows % n == 0), 0)
    if x.device.type != "cpu" or not images or not torch.backends.mkldnn.is_available():
        return F.linear(x, weight, bias)
    image = x.reshape(images, 1, rows // images, x.shape[-1]).permute(0, 3, 1, 2)
    out = F.conv2d(image, weight[:, :, None, None], bias)
    return out.permute(0, 2, 3, 1).reshape(*x.shape[:-1], weight.shape[0])


class AlignedLinear(nn.Module):
    """SGAlign, the 1x1 convolution after it and its ReLU: ([B, T, C], [B, T, C]) -> per video [N padded, W].

    The weights are stored by sample, ``inner_weight`` [inner, W, C] and ``context_weight`` [context, W, C];
    :meth:`channel_major_weight` gives them as the convolution on align_features' map has them.
    """

    BAGS = ("index", "offsets", "weight", "back_index", "back_offsets", "back_weight")
    SAMPLES_AT_ONCE = 4  # of the first product; narrower ones have the faster weight gradient

    def __init__(
        self,
        *,
        cells: int,
        max_duration: int,
        channels: int,
        width: int,
        inner: int,
        context: int,
        outside: bool = False,  # a row after the valid anchors', for the invalid cells
    ):
        super().__init__()
        self.inner_weight = nn.Parameter(torch.empty(inner, width, channels))
        self.context_weight = nn.Parameter(torch.empty(context, width, channels))
        self.bias = nn.Parameter(torch.empty(width))
        row, column, weight = sampling_matrix(cells, max_duration, inner, context, outside=outside)
        self.anchors = len(anchor_grid(cells, max_duration)[0])
        padded = -(-(self.anchors + outside) // ROWS) * ROWS
        bags = _bags(row, column, weight, padded) + _bags(column, row, weight, cells * (inner + context))
        for name, value in zip(self.BAGS, bags):
            self.register_buffer(name, value, persistent=False)

    def channel_major_weight(self) -> Tensor:
        """The weights as [W, C * (inner + context)], the order of align_features' channels."""
        by_sample = torch.cat([self.inner_weight, self.context_weight])
        return by_sample.permute(1, 2, 0).reshape(by_sample.shape[1], -1)

    def forward(self, feat_BTC: Tensor, context_BTC: Tensor) -> list[Tensor]:
        """Rows past ``self.anchors`` (and the one of ``outside``) are padding and hold only the bias."""
        tables = [
            linear_rows(source, weight.flatten(0, 1))
            for source, weights in ((feat_BTC, self.inner_weight), (context_BTC, self.context_weight))
            for weight in weights.split(self.SAMPLES_AT_ONCE)
        ]
        table_BRW = torch.cat(tables, 2).view(len(feat_BTC), -1, len(self.bias))
        bags = [getattr(self, name) for name in self.BAGS]
        apply: Callable[..., Tensor] = _SparseReLU.apply
        return [apply(table, self.bias, *bags) for table in table_BRW.unbind(0)]
