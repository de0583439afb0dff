"""Speediness (SpeedNet, Benaim et al., CVPR 2020): normal or sped up? A rival of the paper's pretexts.

Letters: B clips, T frames of a clip, H W image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor, nn

from bsp.clips.catalog import Catalog
from bsp.clips.plan import ClipPlan, ClipSettings
from bsp.clips.strides import frames_needed, plan_at_stride
from bsp.clips.synthesis import synthesise
from bsp.encoders.contract import Encoder
from bsp.pretraining.contract import LinearHead, Pretext, Scored, cross_entropy
from bsp.video.read import resize_frames


@dataclass(frozen=True, kw_only=True)
class Speediness(Pretext):
    """Label 0: as filmed; label 1: sped up. Needs no classes."""

    # Choice: 2 to the letter. SpeedNet's jitter of both rates would repeat or omit single frames of short clips.
    speed_up: int = 2  # frames from one frame of a sped-up clip to the next, of those of a normal one; at least 2
    # Choice: SpeedNet trains on pictures of 64 to 336 px for 224, a share of 0.29 to 1.5, so that pixels per frame do
    # not tell the speed. Networks here take one size: the picture is shrunk onto a plain ground, by half at most, as
    # embedded ones have 64 px only; TSM's crops enlarge it by up to 1.5.
    smallest_share: float = 0.5  # of each side, that a clip is shrunk to at most, (0, 1]; 1 = off
    dropout: float = 0.0  # share of features dropped before the linear layer, [0, 1); 0 = off

    def __post_init__(self) -> None:
        if self.speed_up < 2:
            raise ValueError(f"speed_up must be at least 2, not {self.speed_up}")
        if not 0 < self.smallest_share <= 1:
            raise ValueError(f"smallest_share must lie in (0, 1], not {self.smallest_share}")

    @property
    def name(self) -> str:
        """For names of files."""
        return "speediness"

    def frames_needed(self, clips: ClipSettings) -> int:
        """Of a video, for a sped-up clip."""
        return frames_needed(clips, (1, self.speed_up))

    def plan(self, catalog: Catalog, clips: ClipSettings, seed: int, index: int) -> ClipPlan:
        """Clips 2k and 2k + 1 are of the same moment of a video, normal and sped up, as in SpeedNet's batches."""
        return plan_at_stride(
            catalog, clips, (1, self.speed_up), label=index % 2, seed=seed, index=index, moment=index // 2
        )

    def synthesise(self, plan: ClipPlan, frames: Sequence[np.ndarray]) -> np.ndarray:
        """The frames, shrunk by a share that is drawn for each clip; uint8 [T, H, W, 3]."""
        # The counter's top word separates this stream from the draws of the augmentation that follows.
        generator = np.random.Generator(np.random.Philox(key=plan.augment_seed, counter=(0, 0, 0, 1)))
        return shrink_clip(synthesise(plan, frames), generator.uniform(self.smallest_share, 1), generator)

    def head(self, encoder: Encoder, seed: int) -> nn.Module:
        """Logits [B, 2] of the mean of a clip's features."""
        return LinearHead(encoder.feature_width, 2, seed, dropout=self.dropout)

    def loss(self, output: Tensor, targets: Mapping[str, Tensor], chosen_B: Tensor | None = None) -> Scored:
        """Cross-entropy with "label"; statistic "accuracy" in [0, 1]."""
        loss, accuracy = cross_entropy(output, targets["label"], chosen_B)
        return loss, {"accuracy": accuracy}


def shrink_clip(clip_THWC: np.ndarray, share: float, generator: np.random.Generator) -> np.ndarray:
    """A clip at ``share`` of its size, (0, 1], at a drawn place on a ground of its mean colour; uint8 [T, H, W, 3]."""
    height, width = clip_THWC.shape[1:3]
    small_height, small_width = max(1, round(share * height)), max(1, round(share * width))
    if (small_height, small_width) == (height, width):
        return clip_THWC
    top = int(generator.integers(height - small_height + 1))
    left = int(generator.integers(width - small_width + 1))
    shrunk = np.empty_like(clip_THWC)
    shrunk[:] = np.rint(clip_THWC.mean(axis=(0, 1, 2))).astype(np.uint8)
    shrunk[:, top : top + small_height, left : left + small_width] = resize_frames(clip_THWC, small_height, small_width)
    return shrunk
