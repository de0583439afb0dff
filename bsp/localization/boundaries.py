"""Generic event boundaries on frozen snippet features: peaks of their difference, and a light supervised head.

Candidates are the gaps between neighbouring snippets. Peaks of the difference (as in Figure 4 of the paper) need labels
for one threshold only. The head is StanLei52/GEBD's pairwise classifier (PC) without its backbone: one linear layer on
the features before and after a gap. Letters: S snippets and N = S - 1 gaps of a clip (N of all clips in training), D
feature width, K snippets on either side, B gaps of a mini-batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from scipy.ndimage import gaussian_filter1d
from torch import Tensor

from bsp.features.record import FeatureInfo, seconds_at
from bsp.localization.epochs import mean_and_std, train_linear
from bsp.metrics.boundaries import ClipBoundaries, pooled_scores

Measure = Literal["l1", "l2", "cosine"]
DISTANCE = 0.05  # of the clip's length: thresholds are chosen by F1 at this distance, the headline metric
THRESHOLDS = 50  # tried: quantiles of all training peaks
_ROWS_AT_ONCE = 1 << 13


@dataclass(frozen=True, kw_only=True)
class PeakSettings:
    """Unsupervised: boundaries are the local maxima of the difference between neighbouring snippets' features.

    Choice: cosine was the best measure on Pantomime's training clips. Smoothing had no effect there (12 fps); it is
    meant for the shorter snippets of real clips, untested.
    """

    measure: Measure = "cosine"  # of standardised features
    smoothing_s: float = 0.2  # standard deviation of the Gaussian over the differences, seconds; 0 = off

    def __post_init__(self) -> None:
        if self.measure not in get_args(Measure):
            raise ValueError(f"measure must be one of {', '.join(get_args(Measure))}, not {self.measure!r}")
        if not 0 <= self.smoothing_s < np.inf:
            raise ValueError(f"smoothing_s must be 0 (off) or more, not {self.smoothing_s}")


@dataclass(frozen=True, kw_only=True)
class BoundaryHeadSettings:
    """The linear head's training.

    Choice: Adam and standardised inputs; PC trains its backbone by SGD instead. Learning rate and weight decay were
    tuned on Pantomime's validation clips, whose scores are therefore optimistic.
    """

    context_s: float = 0.5  # K on either side of a gap, in seconds, > 0, at least 1 snippet; PC: 5 frames at stride 3
    near_s: float = 0.15  # a gap is positive within so many seconds of a boundary; PC's; 0 = only the nearest gaps
    threshold: float = 0.5  # of the probability, (0, 1); PC's
    epochs: int = 30  # >= 1; PC's
    batch_gaps: int = 256  # of a mini-batch, from all clips, >= 1
    learning_rate: float = 3e-3  # at the start, > 0; falls linearly towards 0
    weight_decay: float = 1e-2  # L2 on the weights, not on the bias; 0 = off

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_gaps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if not 0 < self.context_s < np.inf:
            raise ValueError(f"context_s must be above 0, not {self.context_s}")
        if not self.near_s >= 0 or not self.weight_decay >= 0:
            raise ValueError(f"near_s and weight_decay must be 0 or more: {self.near_s}, {self.weight_decay}")
        if not 0 < self.threshold < 1 or not self.learning_rate > 0:
            raise ValueError(
                f"threshold must be in (0, 1) and learning_rate above 0: {self.threshold}, {self.learning_rate}"
            )


def gap_times_s(info: FeatureInfo) -> np.ndarray:
    """Time of each gap, float64 [S - 1], seconds: the middle between the centres of its two snippets."""
    return seconds_at(info, np.arange(info.snippets - 1) + 0.5, centres=True)


def _step_s(time_N: np.ndarray) -> float:
    """Median seconds between gaps (at least two)."""
    steps = np.diff(time_N)
    return float(steps[0] if np.allclose(steps, steps[0], rtol=1e-6) else np.median(steps))


def feature_difference(feat_SD: np.ndarray, measure: Measure) -> np.ndarray:
    """Difference of neighbouring snippets, float64 [S - 1], 0 or more.

    "l1": mean of the absolute differences; "l2": root of the mean squared difference; "cosine": 1 - cosine of the
    angle between them, 0..2 (0 next to a feature of zeros).
    """
    before, after = feat_SD[:-1].astype(np.float64), feat_SD[1:].astype(np.float64)
    if measure == "l1":
        return np.abs(after - before).mean(axis=1)
    if measure == "l2":
        return np.sqrt(((after - before) ** 2).mean(axis=1))
    if measure != "cosine":
        raise ValueError(f"measure must be one of {', '.join(get_args(Measure))}, not {measure!r}")
    product = np.linalg.norm(before, axis=1) * np.linalg.norm(after, axis=1)
    cosine = np.divide((before * after).sum(axis=1), product, out=np.ones(len(before)), where=product > 0)
    return np.maximum(1 - cosine, 0)


def local_maxima(values: np.ndarray) -> np.ndarray:
    """Positions, int64, of values above those on either side; of a run of equal ones the middle (the earlier of two).

    Choice: the first and the last value count as maxima, too, when they are above their only neighbour.
    """
    starts = np.flatnonzero(np.diff(values, prepend=np.nan) != 0)  # of runs of equal values
    ends = np.append(starts[1:], len(values)) - 1
    level = np.concatenate([[-np.inf], values[starts], [-np.inf]])
    is_top = (level[1:-1] > level[:-2]) & (level[1:-1] > level[2:])
    return (starts[is_top] + ends[is_top]) // 2


def centres_of_runs(scores: np.ndarray, threshold: float) -> np.ndarray:
    """The published rule: the middle position (the earlier of two) of each run of scores >= threshold, int64."""
    edges = np.diff(np.concatenate([[0], scores >= threshold, [0]]).astype(np.int8))
    return (np.flatnonzero(edges == 1) + np.flatnonzero(edges == -1) - 1) // 2


@dataclass(frozen=True, eq=False)
class PeakDetector:
    """Peaks with the threshold that :func:`fit_peaks` chose."""

    settings: PeakSettings
    mean_D: np.ndarray  # of the training snippets; float64
    std_D: np.ndarray  # above 0
    threshold: float  # peaks >= threshold are boundaries

    def boundaries_s(self, feat_SD: np.ndarray, time_N: np.ndarray) -> np.ndarray:
        """Which times of the gaps are boundaries, seconds, ascending."""
        gaps, heights = _peaks(feat_SD, time_N, self.settings, self.mean_D, self.std_D)
        return time_N[gaps[heights >= self.threshold]]

    def curve(self, feat_SD: np.ndarray, time_N: np.ndarray) -> np.ndarray:
        """The difference whose peaks these are, at every gap, float64 [S - 1]."""
        return _curve(feat_SD, time_N, self.settings, self.mean_D, self.std_D)


def fit_peaks(
    features: Sequence[np.ndarray],
    times_s: Sequence[np.ndarray],
    annotated_s: Sequence[Sequence[Sequence[float]]],
    durations_s: Sequence[float],
    settings: PeakSettings,
) -> tuple[PeakDetector, float]:
    """Choose the threshold with the highest F1 at 0.05 on training clips; returns the detector and that F1 (0..1).

    Per clip: ``features`` float32 [S, D], ``times_s`` of its gaps, boundaries of every annotator, and duration.
    Choice: features are standardised by the training snippets, so that no channel or stream dominates; all clips count,
    as the consistency limit is a rule of evaluation; of equally good thresholds the lowest.
    """
    _check(features, times_s)
    mean_D, std_D = (
        values.numpy() for values in mean_and_std(lambda: (torch.from_numpy(feat_SD) for feat_SD in features))
    )
    peaks = [_peaks(*clip, settings, mean_D, std_D) for clip in zip(features, times_s, strict=True)]
    heights = np.concatenate([heights for _, heights in peaks])
    if not len(heights):
        raise ValueError("no training clip has two snippets, so there is nothing to compare; use longer clips")
    tried = np.unique(np.quantile(heights, np.arange(THRESHOLDS) / THRESHOLDS, method="lower"))
    f1 = []
    for threshold in tried:
        clips = [
            ClipBoundaries(truth=annotators, found=time_N[gaps[high >= threshold]].tolist(), extent=duration_s)
            for (gaps, high), time_N, annotators, duration_s in zip(
                peaks, times_s, annotated_s, durations_s, strict=True
            )
        ]
        f1.append(float(pooled_scores(clips, [DISTANCE]).f1[0]))
    best = int(np.argmax(f1))
    return PeakDetector(settings, mean_D, std_D, float(tried[best])), f1[best]


def _peaks(
    feat_SD: np.ndarray, time_N: np.ndarray, settings: PeakSettings, mean_D: np.ndarray, std_D: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Positions of a clip's peaks among its gaps, int64, and their heights, float64."""
    curve = _curve(feat_SD, time_N, settings, mean_D, std_D)
    gaps = local_maxima(curve)
    return gaps, curve[gaps]


def _curve(
    feat_SD: np.ndarray, time_N: np.ndarray, settings: PeakSettings, mean_D: np.ndarray, std_D: np.ndarray
) -> np.ndarray:
    parts = [  # of a long video; every gap is computed by itself
        feature_difference((feat_SD[first : first + _ROWS_AT_ONCE + 1] - mean_D) / std_D, settings.measure)
        for first in range(0, max(1, len(feat_SD) - 1), _ROWS_AT_ONCE)
    ]
    curve = np.concatenate(parts)
    if settings.smoothing_s and len(curve) > 1:
        curve = gaussian_filter1d(curve, settings.smoothing_s / _step_s(time_N), mode="nearest")
    return curve


@dataclass(frozen=True, eq=False)
class BoundaryHead:
    """The trained linear head, on the CPU."""

    settings: BoundaryHeadSettings
    context: int  # K
    mean: Tensor  # of the inputs, float32 [3 * D]
    std: Tensor  # above 0
    weight: Tensor  # of the standardised inputs
    bias: float

    def scores(self, feat_SD: np.ndarray) -> np.ndarray:
        """Probability of a boundary at every gap, float32 [S - 1]."""
        if feat_SD.ndim != 2 or 3 * feat_SD.shape[1] != len(self.weight):
            raise ValueError(f"features {list(feat_SD.shape)}, but the head takes [S, {len(self.weight) // 3}]")
        feat, parts = torch.from_numpy(np.ascontiguousarray(feat_SD)), []
        for before, after in zip(*(side.split(_ROWS_AT_ONCE) for side in _sides([feat_SD], self.context)), strict=True):
            inputs = _inputs(feat, before, after)
            parts.append((((inputs - self.mean) / self.std) @ self.weight + self.bias).sigmoid())
        return torch.cat(parts).numpy()

    def curve(self, feat_SD: np.ndarray, time_N: np.ndarray) -> np.ndarray:
        """The same as float64."""
        return self.scores(feat_SD).astype(np.float64)

    def boundaries_s(self, feat_SD: np.ndarray, time_N: np.ndarray) -> np.ndarray:
        """Which times of the gaps are boundaries, seconds, ascending."""
        return time_N[centres_of_runs(self.scores(feat_SD), self.settings.threshold)]


def train_boundary_head(
    features: Sequence[np.ndarray],
    times_s: Sequence[np.ndarray],
    annotated_s: Sequence[Sequence[float]],
    settings: BoundaryHeadSettings,
    *,
    seed: int,
    on_epoch: Callable[[dict[str, float]], None] | None = None,
    device: str | torch.device = "cpu",
) -> BoundaryHead:
    """Trains from zero on the gaps of all clips.

    Per clip: ``features`` float32 [S, D], ``times_s`` of its gaps, boundaries of one annotator. ``seed`` decides the
    order of the gaps. ``on_epoch`` gets "epoch" (from 0) and "loss", the mean over gaps, both classes weighing the
    same. On a CPU the same seed and number of threads give the same bits. ValueError for inputs that don't fit or
    labels of one kind only; RuntimeError when the loss stops being finite.
    """
    _check(features, times_s)
    label_N = torch.from_numpy(
        np.concatenate([_labels(*clip, settings.near_s) for clip in zip(times_s, annotated_s, strict=True)])
    )
    positive = int(label_N.sum())
    if positive in (0, len(label_N)):
        raise ValueError(f"{positive} of {len(label_N)} training gaps are boundaries; both kinds are needed")
    feat_SD = torch.from_numpy(np.concatenate(features))  # of all clips; stays in the main memory
    # Choice: one K for all clips, from the median stride, so that inputs are comparable.
    stride_s = float(np.median([_step_s(time_N) for time_N in times_s if len(time_N) > 1] or [np.inf]))
    context = max(1, round(settings.context_s / stride_s))
    before_NK, after_NK = _sides(features, context)
    parts = torch.arange(len(label_N)).split(_ROWS_AT_ONCE)
    statistics = mean_and_std(lambda: (_inputs(feat_SD, before_NK[part], after_NK[part]) for part in parts))
    mean, std = (values.float() for values in statistics)
    # PC samples balanced batches; class weights have the same effect without randomness.
    share = positive / len(label_N)
    weight, bias = train_linear(
        lambda batch_B: _inputs(feat_SD, before_NK[batch_B], after_NK[batch_B]), label_N, mean, std,
        np.random.default_rng([seed, 2]), weight_N=torch.where(label_N > 0, 0.5 / share, 0.5 / (1 - share)),
        epochs=settings.epochs, batch=settings.batch_gaps, learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay, on_epoch=on_epoch, device=device,
    )  # fmt: skip
    return BoundaryHead(settings, context, mean, std, weight, bias)


def _check(features: Sequence[np.ndarray], times_s: Sequence[np.ndarray]) -> None:
    for clip, (feat_SD, time_N) in enumerate(zip(features, times_s, strict=True)):
        if feat_SD.ndim != 2 or feat_SD.shape[1] != features[0].shape[1] or feat_SD.dtype != np.float32:
            raise ValueError(
                f"clip {clip}: features {feat_SD.dtype} {list(feat_SD.shape)} instead of float32"
                f" [S, {features[0].shape[1]}]; use one encoder for all clips"
            )
        if not np.isfinite(feat_SD).all():
            raise ValueError(f"clip {clip}: features are not finite; extract them again")
        if len(time_N) != len(feat_SD) - 1:
            raise ValueError(f"clip {clip}: {len(time_N)} times of gaps for {len(feat_SD)} snippets")


def _labels(time_N: np.ndarray, annotated_s: Sequence[float], near_s: float) -> np.ndarray:
    """1 for gaps near a boundary, else 0, float32 [N].

    Choice: near is within near_s or half of the way to the next gap, whichever is more, so that every boundary between
    two snippets has a gap; PC's candidates are denser (every third frame).
    """
    offset_NG = np.asarray(annotated_s, float) - time_N[:, None]
    reach_NG = np.full(offset_NG.shape, near_s)
    if len(time_N) > 1:
        steps = np.diff(time_N)[:, None] / 2 + 1e-9
        before_N1, after_N1 = np.concatenate([steps[:1], steps]), np.concatenate([steps, steps[-1:]])
        reach_NG = np.maximum(near_s, np.where(offset_NG < 0, before_N1, after_N1))
    return (np.abs(offset_NG) <= reach_NG).any(axis=1).astype(np.float32)


def _sides(features: Sequence[np.ndarray], context: int) -> tuple[Tensor, Tensor]:
    """Rows of the K snippets before and after every gap, int64 [N, K] each; rows count through all clips.

    At the ends of a clip its first or last snippet is repeated, as PC repeats frames.
    """
    before, after, row = [], [], 0
    for feat_SD in features:
        last = len(feat_SD) - 1
        left = np.arange(last)[:, None] - np.arange(context)
        right = np.arange(1, last + 1)[:, None] + np.arange(context)
        before.append(row + left.clip(0, last))
        after.append(row + right.clip(0, last))
        row += len(feat_SD)
    return torch.from_numpy(np.concatenate(before)), torch.from_numpy(np.concatenate(after))


def _inputs(feat_SD: Tensor, before_BK: Tensor, after_BK: Tensor) -> Tensor:
    """[mean before, mean after, |difference|] of the gaps, float32 [B, 3 * D]."""
    before_BD, after_BD = feat_SD[before_BK].mean(dim=1), feat_SD[after_BK].mean(dim=1)
    return torch.cat([before_BD, after_BD, (after_BD - before_BD).abs()], dim=1)
