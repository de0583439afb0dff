"""G-TAD on sliding windows of long videos, as in its THUMOS14 release (Xu et al., CVPR 2020).

A video is not resized: one cell is one snippet, cell k of a video covers [k, k + 1), and times are in cells. Other
differences from gtad/network.py: 3x3 convolutions on the map of anchors, narrower boundary labels, proposals without
gating, and Soft-NMS in every window and again over all windows of a video.

Letters: S snippets of a video, C input width, T cells of a window, D longest duration in cells, N valid anchors.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bsp.localization.gtad.decode import soft_nms
from bsp.localization.gtad.labels import Labels, anchor_tiou, boundary_labels
from bsp.localization.gtad.network import GTAD, GTADSettings, draw_weights, fit, run_head
from bsp.localization.gtad.sgalign import anchor_grid, linear_rows

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class WindowSettings(GTADSettings):
    """Settings of the head on windows; the defaults are those of its THUMOS14 release."""

    cells: int = 256  # T, snippets of a window, at least 3
    max_duration: int = 64  # D, longest proposal, cells, 1..cells
    inner_samples: int = 16  # samples of an anchor's features, at least 1
    context_samples: int = 16  # samples of its neighbours' features, at least 1
    learning_rate: float = 4e-5  # Adam, above 0; some use ten times this for other features
    batch_size: int = 8  # windows
    soft_nms_sigma: float = 0.46  # above 0; smaller suppresses more
    max_proposals: int = 200  # kept per window, and per video
    stride_cells: int = 128  # from one window's first cell to the next one's, 1..cells
    min_inside: float = 0.9  # a training window holds more than this share of some instance, [0, 1)
    # Choice: the release's limit of 300 frames as its 60 cells of 5 frames; our snippets have 8 frames.
    too_long_cells: int = 60  # a proposal of so many cells or more gets score 0; above max_duration = off
    clip_norm: float = 1.0  # largest L2 norm of a step's gradient, above 0; inf = off
    epoch_by: Literal["scored", "held-out", "last"] = field(default="last", metadata={"later": True})  # as released

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.stride_cells <= self.cells:
            raise ValueError(f"stride_cells must be in 1..cells ({self.cells}), got {self.stride_cells}")
        if not 0 <= self.min_inside < 1:
            raise ValueError(f"min_inside must be in [0, 1), got {self.min_inside}")
        if self.too_long_cells < 2:
            raise ValueError(f"too_long_cells must be at least 2, got {self.too_long_cells}")
        if not self.clip_norm > 0:
            raise ValueError(f"clip_norm must be above 0, got {self.clip_norm}")


class WindowGTAD(GTAD):
    """The head with 3x3 convolutions on the map [D, T], where invalid cells hold the vector of extent [0, 0]."""

    row: Tensor  # int64 [max_duration * cells]
    place: Tensor  # int64 [anchors]

    def __init__(self, settings: WindowSettings):
        super().__init__(settings, outside=True)
        for layer in (1, 2):  # as released: the layer before them, 512 -> 128, stays 1x1
            self.stack[layer] = nn.utils.skip_init(nn.Conv2d, settings.mapped, settings.mapped, 3, padding=1)
        duration, start = anchor_grid(settings.cells, settings.max_duration)
        place = torch.from_numpy(duration * settings.cells + start)
        row = torch.full((settings.max_duration * settings.cells,), self.align.anchors)  # the row "outside"
        row[place] = torch.arange(self.align.anchors)
        self.register_buffer("row", row, persistent=False)  # map cell -> row of the table
        self.register_buffer("place", place, persistent=False)  # valid anchor -> map cell

    def _confidences(self, x: Tensor) -> Tensor:
        first, *convolutions, last = cast(list[nn.Linear], list(self.stack))  # those between are nn.Conv2d
        x = linear_rows(x, first.weight, first.bias).relu_()
        # taken as an embedding, whose gradient is summed in a fixed order
        settings = self.settings
        grid = F.embedding(self.row, x).view(1, settings.max_duration, settings.cells, settings.mapped)
        grid = grid.permute(0, 3, 1, 2)
        for layer in convolutions:
            grid = layer(grid).relu_()
        grid = grid.permute(0, 2, 3, 1).reshape(-1, settings.mapped)
        return F.linear(grid, last.weight, last.bias).sigmoid().t()[:, self.place]


def build_windows(settings: WindowSettings, seed: int) -> WindowGTAD:
    """A new head on the CPU, its weights drawn from ``seed``; the global generator is not touched."""
    return draw_weights(WindowGTAD(settings), seed)


def window_starts(snippets: int, cells: int, stride_cells: int) -> list[int]:
    """First cells of a video's windows; a video shorter than a window has one, padded with zeros.

    Whole windows from 0 on, and one more that ends with the video if more than a fifth of a window remains. With 256
    cells every 128: 307 snippets give 0; 308 give 0, 52; 436 give 0, 128, 180.
    """
    if snippets < cells:
        return [0]
    starts = list(range(0, snippets - cells + 1, stride_cells))
    if snippets - (starts[-1] + cells) > cells // 5:
        starts.append(snippets - cells)
    return starts


def take_window(feat_SC: np.ndarray, start: int, cells: int) -> np.ndarray:
    """[cells, C] from ``start`` on: a view, or a copy padded with zero rows after the video's end."""
    window = feat_SC[start : start + cells]
    short = cells - len(window)
    return np.pad(window, ((0, short), (0, 0))) if short else window


def window_labels(segments_G2: np.ndarray, cells: int, max_duration: int) -> Labels:
    """Labels of a window from the segments that overlap it, in cells from its start, maybe reaching out of it.

    tIoU is computed with the part inside the window. A boundary's zone is three cells, [t - 1.5, t + 1.5], also outside
    the window; the label is the overlap of cell [i, i + 1] with it.
    """
    segments = np.asarray(segments_G2, dtype=np.float64).reshape(-1, 2) / cells
    parts = (
        anchor_tiou(np.clip(segments, 0.0, 1.0), cells, max_duration),
        boundary_labels(segments[:, 0], cells, margin=0.0),
        boundary_labels(segments[:, 1], cells, margin=0.0),
    )
    return Labels(*(torch.from_numpy(part.astype(np.float32)) for part in parts))


def training_windows(
    features: Sequence[np.ndarray], segments: Sequence[np.ndarray], settings: WindowSettings
) -> list[tuple[int, int, np.ndarray]]:
    """(video, first cell, segments [G, 2] in cells from there) of every window that is trained on.

    A window is used if more than ``min_inside`` of some instance lies in it; it then gets all overlapping instances.
    ValueError for segments that are not finite or don't end after their start.
    """
    if len(features) != len(segments):
        raise ValueError(f"{len(features)} feature arrays and {len(segments)} lists of segments")
    used = []
    for video, (feat_SC, listed) in enumerate(zip(features, segments)):
        segments_G2 = np.asarray(listed, dtype=np.float64).reshape(-1, 2)
        begin, end = segments_G2.T
        wrong = segments_G2[~(np.isfinite(segments_G2).all(1) & (end > begin))]
        if len(wrong):
            raise ValueError(
                f"video {video}: {len(wrong)} of {len(segments_G2)} segments (cells) are not finite or don't end after"
                f" their start, such as {wrong[0].tolist()}; cut them first (bsp.datasets.label_times)"
            )
        for start in window_starts(len(feat_SC), settings.cells, settings.stride_cells):
            inside = np.minimum(end, start + settings.cells) - np.maximum(begin, start)
            if (inside > settings.min_inside * (end - begin)).any():
                used.append((video, start, segments_G2[inside > 0] - start))
    return used


def train_windows(
    features: Sequence[np.ndarray],
    segments: Sequence[np.ndarray],
    settings: WindowSettings,
    *,
    seed: int,
    validation: tuple[Sequence[np.ndarray], Sequence[np.ndarray]] | None = None,
    on_epoch: Callable[[dict[str, float]], None] | None = None,
    device: str | torch.device = "cpu",
) -> WindowGTAD:
    """Trains a head from scratch and returns it in eval mode.

    ``features``: per video float32 [S, C]; ``segments``: per video [G, 2] in cells (G may be 0). With ``validation``
    (features, segments), if a window of these would be trained on, the epoch of their lowest loss is kept, else the
    last. ``on_epoch`` gets epoch (from 0), learning_rate and the mean loss terms over batches.

    On a CPU the same seed and number of threads give the same bits. ValueError on features or segments that don't fit
    and if no window is used; RuntimeError when the loss stops being finite.
    """
    used = training_windows(features, segments, settings)
    if not used:
        raise ValueError(
            f"no window of {len(features)} videos holds an instance; are the segments in cells (snippets)?"
        )
    logger.info("%d windows of %d videos are trained on", len(used), len({video for video, _, _ in used}))
    # Choice: loss as on ActivityNet, the factor 10 on the regression (the release has it on the classification and
    # adds 10 to the counts there); that is OpenTAD's, which scores better.
    windows, labels = _labelled(features, used, settings)
    held_out = None
    if validation is not None and (of_others := training_windows(*validation, settings)):
        held_out = _labelled(validation[0], of_others, settings)
    model = build_windows(settings, seed).to(device)
    return fit(
        model, windows, labels, settings, seed=seed, validation=held_out, clip_norm=settings.clip_norm,
        on_epoch=on_epoch,
    )  # fmt: skip


def _labelled(
    features: Sequence[np.ndarray], used: Sequence[tuple[int, int, np.ndarray]], settings: WindowSettings
) -> tuple[list[np.ndarray], list[Labels]]:
    windows = [take_window(features[video], start, settings.cells) for video, start, _ in used]
    labels = [window_labels(inside_G2, settings.cells, settings.max_duration) for _, _, inside_G2 in used]
    return windows, labels


def window_candidates(anchors: np.ndarray, settings: WindowSettings, snippets: int) -> tuple[np.ndarray, np.ndarray]:
    """Proposals of a window before Soft-NMS, (segments [N, 2] in its cells, scores [N]), duration by duration.

    ``anchors`` [2, valid anchors]; no gating. Candidates end before the end of the window's last cell and not after
    ``snippets``, the number of cells without padding.
    """
    duration, first = anchor_grid(settings.cells, settings.max_duration)
    last = first + duration + 1
    # Choice: proposals into the padding are left out (the release cuts them at the video's end).
    kept = (last < settings.cells) & (last <= snippets)
    scores = anchors[0].astype(np.float64) * anchors[1].astype(np.float64)
    scores[duration + 1 >= settings.too_long_cells] = 0.0
    return np.stack([first, last], 1)[kept].astype(np.float64), scores[kept]


def propose_windows(
    model: WindowGTAD, features: Sequence[np.ndarray], settings: WindowSettings, device: str | torch.device = "cpu"
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Proposals of every video: (segments [N, 2] in cells, scores [N]), float64, best first.

    Soft-NMS inside every window, then over the pooled windows of the video on the scores decayed so far; at most
    ``settings.max_proposals`` each time.
    """
    suppress = partial(soft_nms, sigma=settings.soft_nms_sigma, max_proposals=settings.max_proposals)
    found = []
    for feat_SC in features:
        starts = window_starts(len(feat_SC), settings.cells, settings.stride_cells)
        windows = [take_window(feat_SC, start, settings.cells) for start in starts]
        segments, scores = [], []
        for start, (anchors, _, _) in zip(starts, run_head(model, windows, device), strict=True):
            pool = window_candidates(anchors, settings, len(feat_SC) - start)
            kept_N2, kept_N = suppress(*pool)
            segments.append(kept_N2 + start)
            scores.append(kept_N)
        found.append(suppress(np.concatenate(segments), np.concatenate(scores)))
    return found
