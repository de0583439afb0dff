"""The two-dimensional map of 2D-TAN: candidates, their features, targets, and decoding of scores.

Cell (i, j) of the map, i <= j, is the candidate moment from the start of clip i to the end of clip j (Zhang et al.,
AAAI 2020). Candidates are stored as a list, diagonal after diagonal, so that cells without candidate cost nothing. All
times are fractions of the duration.

Letters: S snippets, D feature width, M frames after resampling, N clips, H hidden width, V videos, Q queries,
C candidates, K moments kept.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn


def frame_bounds(snippets: int, frames: int) -> np.ndarray:
    """Limits b_0 .. b_M of the frames, int64 [M + 1]: min(round(k S / M), S - 1), halves to the even integer."""
    return np.minimum(np.round(np.arange(frames + 1) * snippets / frames), snippets - 1).astype(np.int64)


def resample(feat_SD: np.ndarray, frames: int) -> np.ndarray:
    """Exactly ``frames`` rows, float32 [M, D]: means over b_k .. b_{k+1} - 1, or row b_k where that is empty.

    As published, the clamped limits exclude the last row from all means.
    """
    bounds = frame_bounds(len(feat_SD), frames)
    first, last = bounds[:-1], np.maximum(bounds[1:], bounds[:-1] + 1)
    if (last - first).max() == 1:
        return feat_SD[first]
    return np.stack([feat_SD[a:b].mean(0) for a, b in zip(first, last, strict=True)])


def diagonals(cells: int, scales: Sequence[int]) -> list[tuple[int, int, int]]:
    """The diagonals that exist, shortest first: (length in clips, stride of the starts, number of candidates).

    Group g of ``scales`` is a number of lengths, 2**g clips apart (g from 0); starts are multiples of 2**g.
    """
    found, length = [], 0
    for group, levels in enumerate(scales):
        stride = 2**group
        for _ in range(levels):
            length += stride
            found.append((length, stride, (cells - length) // stride + 1))
    return found


def candidate_cells(cells: int, scales: Sequence[int]) -> np.ndarray:
    """(i, j) of all candidates, int64 [C, 2], diagonal after diagonal, in each by start."""
    pairs = [
        (start * stride, start * stride + length - 1)
        for length, stride, count in diagonals(cells, scales)
        for start in range(count)
    ]
    return np.array(pairs, np.int64)


class ProposalMap(nn.Module):
    """Features of all candidates from those of the clips: [V, N, H] -> [V, C, H], in ``candidate_cells`` order.

    Every diagonal is made from the one before. Form "pool": the maximum of two neighbours, so candidate (i, j) is
    the maximum over its clips. Form "conv": a learned convolution (kernel 1 for the diagonal of clips, then 2),
    with weights of its own and no activation. The first step of a sparser group has a window of 3, every second.
    """

    def __init__(self, hidden: int, cells: int, scales: Sequence[int], form: str):
        super().__init__()
        found = diagonals(cells, scales)
        strides = [stride for _, stride, _ in found]
        self.steps = [(2, 1) if now == before else (3, 2) for before, now in itertools.pairwise(strides)]
        # Linear layers on the windows side by side are the convolutions, with the same initial weights
        widths = [1, *(window for window, _ in self.steps)] if form == "conv" else []
        self.convs = nn.ModuleList(nn.Linear(width * hidden, hidden) for width in widths)

    def forward(self, clips_VNH: Tensor) -> Tensor:
        """Clips [V, N, H] -> one feature per candidate, [V, C, H]."""
        row = self.convs[0](clips_VNH) if self.convs else clips_VNH
        rows = [row]
        for level, (window, step) in enumerate(self.steps, 1):
            last = row.shape[1] - window
            parts = [row[:, k : k + last + 1 : step] for k in range(window)]
            if self.convs:
                row = self.convs[level](torch.cat(parts, 2))
            else:
                row = torch.maximum(parts[0], parts[1])
                row = row if window == 2 else torch.maximum(row, parts[2])
            rows.append(row)
        return torch.cat(rows, 1)


def conv_plan(mask_NN: Tensor, kernel: int, layers: int) -> list[tuple[int, Tensor]]:
    """Per convolution on the map its padding and the weights of its outputs, float32 [size, size].

    The published stack pads only the first layer, by layers * (kernel - 1) / 2, and multiplies every output by 1 /
    (valid cells under the kernel), 0 where there are none; the outputs with a valid cell are the valid cells of the
    next layer. So layer l's outputs are 0 further than l * (kernel - 1) / 2 from the map, and those further than
    (layers - l) * (kernel - 1) / 2 are never used: neither are computed here, which changes no result.
    """
    reach = (kernel - 1) // 2
    ones = torch.ones(1, 1, kernel, kernel)
    full = F.pad(mask_NN[None, None].float(), [layers * reach] * 4)
    plan, before = [], 0
    for layer in range(1, layers + 1):
        count = F.conv2d(full, ones).round()
        full = (count > 0).float()
        weight = full / count.clamp(min=1)
        margin = reach * min(layer, layers - layer)
        spare = (layers - layer) * reach - margin  # cells on each side that are not computed
        size = weight.shape[-1]
        plan.append((reach + margin - before, weight[0, 0, spare : size - spare, spare : size - spare].clone()))
        before = margin
    return plan


def overlap_targets(moments_Q2: Tensor, cells_C2: Tensor, cells: int, *, iou_min: float, iou_max: float) -> Tensor:
    """Target scores, float [Q, C] in [0, 1]: (IoU - iou_min) / (iou_max - iou_min), clipped.

    IoU of candidates and annotated moments (start, end); the union is taken as the hull.
    """
    start_C, end_C = cells_C2[:, 0] / cells, (cells_C2[:, 1] + 1) / cells
    # Choice: ends are cut at the end of the video here too, as the published training annotations are
    start_Q, end_Q = moments_Q2[:, :1], moments_Q2[:, 1:].clamp(max=1)
    inside = torch.minimum(end_Q, end_C) - torch.maximum(start_Q, start_C)
    hull = torch.maximum(end_Q, end_C) - torch.minimum(start_Q, start_C)
    iou_QC = inside.clamp(min=0) / hull
    return ((iou_QC - iou_min) / (iou_max - iou_min)).clamp(0, 1)


def decode(scores_NN: np.ndarray, *, nms: float, moments: int) -> np.ndarray:
    """Moments of one query, best first: float64 [K, 3] of start, end, score, after greedy NMS, K <= ``moments``.

    All cells on and above the diagonal take part, also those without candidate in a sparse map, with score 0, ranked
    last. A moment stays when its IoU with every one kept is <= ``nms``.
    """
    cells = len(scores_NN)
    i, j = np.triu_indices(cells)
    score = scores_NN[i, j].astype(float)
    # Choice: of equal scores the earlier start comes first, then the earlier end (the reference leaves it open)
    order = np.argsort(-score, kind="stable")
    start, end, score = i[order], j[order] + 1, score[order]  # whole clips, so that IoUs equal to nms are exact
    left = np.arange(len(order))
    kept: list[tuple[float, float, float]] = []
    while len(left) and len(kept) < moments:
        best = left[0]
        kept.append((start[best] / cells, end[best] / cells, score[best]))
        left = left[1:]
        inside = np.clip(np.minimum(end[left], end[best]) - np.maximum(start[left], start[best]), 0, None)
        union = (end[left] - start[left]) + (end[best] - start[best]) - inside
        left = left[inside / union <= nms]
    return np.array(kept)
