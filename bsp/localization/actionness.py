"""Step localisation on CrossTask: a linear classifier predicts which moments belong to a step of the task.

Section 4.1 of the paper: supervised, on frozen snippet features, one binary decision per segment of 0.2 s
(``bsp.metrics.actionness`` has the grid and its labels). Features are interpolated at the segments' centres; as the
classifier is linear, scoring interpolates the snippets' scores instead. Letters: S snippets and N segments of a video,
D feature width, B segments in a mini-batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import torch

from bsp.features.record import FeatureInfo, snippets_at
from bsp.localization.epochs import mean_and_std, train_linear
from bsp.metrics.actionness import SEGMENT_S

_ROWS_AT_ONCE = 1 << 14


@dataclass(frozen=True, kw_only=True)
class ActionnessSettings:
    """The linear classifier's training. Choice: binary cross-entropy, Adam, unweighted classes; the paper says
    "a simple linear classifier" only."""

    epochs: int = 10  # passes over all training segments, >= 1
    batch_segments: int = 512  # of a mini-batch, from all videos, >= 1
    learning_rate: float = 1e-2  # at the start, > 0; falls linearly towards 0
    weight_decay: float = 1e-3  # L2 on the weights of standardised features, not on the bias; 0 = off

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_segments < 1:
            raise ValueError(f"epochs and batch_segments must be at least 1: {self.epochs}, {self.batch_segments}")
        if not self.learning_rate > 0 or not self.weight_decay >= 0:
            raise ValueError(
                f"learning_rate must be above 0 and weight_decay not below: {self.learning_rate}, {self.weight_decay}"
            )


@dataclass(frozen=True, eq=False)
class LinearActionness:
    """The trained classifier on raw features: the standardisation is folded into its weights."""

    weight_D: np.ndarray  # float64
    bias: float

    def scores(self, feat_SD: np.ndarray, position_N: np.ndarray) -> np.ndarray:
        """Probability of a step at each position, float64 [N]; see ``segment_positions``."""
        if feat_SD.ndim != 2 or feat_SD.shape[1] != len(self.weight_D):
            raise ValueError(f"features {list(feat_SD.shape)}, but the classifier takes [S, {len(self.weight_D)}]")
        logit_S = feat_SD.astype(np.float64) @ self.weight_D + self.bias
        logit_N = np.interp(position_N, np.arange(len(logit_S)), logit_S)
        return 0.5 + 0.5 * np.tanh(0.5 * logit_N)  # the logistic function, without overflow


def video_seconds(info: FeatureInfo) -> float:
    """Duration; of a uniform video frames / fps, rounded once: 300 frames at 30000/1001 fps are 10.01 s."""
    if info.end_s is not None:
        return info.end_s
    return float(info.frames / Fraction(info.fps).limit_denominator(100_000))


def segment_positions(info: FeatureInfo, segments: int, segment_s: float = SEGMENT_S) -> np.ndarray:
    """Positions of the segments' centres, in snippets (k: centre of snippet k): float64 [N] in [0, S - 1].

    Choice: features are interpolated linearly between the two nearest snippets, and constant before the first and after
    the last snippet's centre.
    """
    centres_s = (np.arange(segments) + 0.5) * segment_s
    return np.clip(snippets_at(info, centres_s, centres=True), 0, info.snippets - 1)


def train_actionness(
    features: Sequence[np.ndarray],
    positions: Sequence[np.ndarray],
    labels: Sequence[np.ndarray],
    settings: ActionnessSettings,
    *,
    seed: int,
    on_epoch: Callable[[dict[str, float]], None] | None = None,
    device: str | torch.device = "cpu",
) -> LinearActionness:
    """Trains from zero on the segments of all videos.

    Per video: ``features`` float32 [S, D], ``positions`` float [N] of ``segment_positions``, ``labels`` bool [N] of
    ``segment_labels``. ``seed`` decides the order of the segments. ``on_epoch`` gets "epoch" (from 0) and "loss", the
    mean over the segments. On a CPU the same seed and number of threads give the same bits. ValueError for inputs
    that don't fit or labels of one kind only; RuntimeError when the loss stops being finite.
    """
    _check(features, positions, labels)
    feat_SD = torch.from_numpy(np.concatenate(features))  # of all videos; stays in the main memory
    mean_D, std_D = (values.float() for values in mean_and_std(lambda: feat_SD.split(_ROWS_AT_ONCE)))
    lower_N, share_N = _neighbours(features, positions)
    label_N = torch.from_numpy(np.concatenate(labels).astype(np.float32))

    def interpolated(batch_B: torch.Tensor) -> torch.Tensor:
        lower_B, share_B1 = lower_N[batch_B], share_N[batch_B, None]
        return torch.lerp(feat_SD[lower_B], feat_SD[lower_B + (share_B1[:, 0] > 0)], share_B1)

    weight_D, bias = train_linear(
        interpolated, label_N, mean_D, std_D, np.random.default_rng([seed, 1]), epochs=settings.epochs,
        batch=settings.batch_segments, learning_rate=settings.learning_rate, weight_decay=settings.weight_decay,
        on_epoch=on_epoch, device=device,
    )  # fmt: skip
    folded_D = weight_D.double() / std_D.double()
    return LinearActionness(folded_D.numpy(), bias - float(folded_D @ mean_D.double()))


def _neighbours(features: Sequence[np.ndarray], positions: Sequence[np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
    """Per segment the row of the snippet before its centre, int64 [N], and the next one's share, float32 [N] in [0, 1).

    Rows count through all videos.
    """
    first = np.cumsum([0, *(len(feat_SD) for feat_SD in features[:-1])])
    lower = [np.floor(position_N).astype(np.int64) for position_N in positions]
    share_N = np.concatenate([position_N - low_N for position_N, low_N in zip(positions, lower, strict=True)])
    row_N = np.concatenate([low_N + row for low_N, row in zip(lower, first, strict=True)])
    return torch.from_numpy(row_N), torch.from_numpy(share_N.astype(np.float32))


def _check(features: Sequence[np.ndarray], positions: Sequence[np.ndarray], labels: Sequence[np.ndarray]) -> None:
    if not 0 < len(features) == len(positions) == len(labels):
        raise ValueError(f"{len(features)} features, {len(positions)} positions and {len(labels)} labels of videos")
    for video, (feat_SD, position_N, label_N) in enumerate(zip(features, positions, labels, strict=True)):
        if feat_SD.ndim != 2 or feat_SD.shape[1] != features[0].shape[1] or feat_SD.dtype != np.float32:
            raise ValueError(
                f"video {video}: features {feat_SD.dtype} {list(feat_SD.shape)} instead of float32"
                f" [S, {features[0].shape[1]}]; use one encoder for all videos"
            )
        if not np.isfinite(feat_SD).all():
            raise ValueError(f"video {video}: features are not finite; extract them again")
        if position_N.shape != label_N.shape or position_N.ndim != 1:
            raise ValueError(f"video {video}: {list(position_N.shape)} positions, {list(label_N.shape)} labels")
        if len(position_N) and not 0 <= position_N.min() <= position_N.max() <= len(feat_SD) - 1:
            raise ValueError(f"video {video}: positions outside 0..{len(feat_SD) - 1}, the snippets of its features")
    positive, segments = sum(int(label_N.sum()) for label_N in labels), sum(map(len, labels))
    if positive in (0, segments):
        raise ValueError(f"{positive} of {segments} training segments are positive; both kinds are needed")
