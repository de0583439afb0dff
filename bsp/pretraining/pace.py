"""Pace prediction (Wang et al., ECCV 2020): which stride was a clip sampled with? A rival of the paper's pretexts.

Letters: B clips, T frames of a clip, H W image, K strides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor, nn

from bsp.clips.augment import jitter_colour
from bsp.clips.catalog import Catalog
from bsp.clips.plan import ClipPlan, ClipSettings, place_in_block
from bsp.clips.strides import frames_needed, plan_at_stride
from bsp.clips.synthesis import synthesise
from bsp.encoders.contract import Encoder
from bsp.pretraining.contract import LinearHead, Pretext, Scored, cross_entropy


@dataclass(frozen=True, kw_only=True)
class PacePrediction(Pretext):
    """The label is a position in ``strides``. Needs no classes."""

    strides: tuple[int, ...] = (1, 2, 3, 4)  # frames from one frame of a clip to the next, rising, at least 1
    # Choice: 0.1. The authors colour every frame on its own, against shortcuts; brightness, contrast and saturation
    # here, not the hue.
    colour: float = 0.1  # factors of each frame drawn from 1 - this .. 1 + this, 0..1; 0 = off
    dropout: float = 0.0  # share of features dropped before the linear layer, [0, 1); 0 = off

    def __post_init__(self) -> None:
        object.__setattr__(self, "strides", tuple(int(stride) for stride in self.strides))
        if len(self.strides) < 2 or self.strides[0] < 1 or sorted(set(self.strides)) != list(self.strides):
            raise ValueError(f"strides must be 2 or more rising numbers from 1 on, not {self.strides}")
        if not 0 <= self.colour <= 1:
            raise ValueError(f"colour must lie in 0..1 (0 = off), not {self.colour}")

    @property
    def name(self) -> str:
        """For names of files."""
        return "pace"

    def frames_needed(self, clips: ClipSettings) -> int:
        """Of a video, for a clip at the largest stride."""
        return frames_needed(clips, self.strides)

    def plan(self, catalog: Catalog, clips: ClipSettings, seed: int, index: int) -> ClipPlan:
        """A clip of a video of its own; each block of K clips has every stride once, in an order drawn per block."""
        label = place_in_block(len(self.strides), seed, index)
        return plan_at_stride(catalog, clips, self.strides, label=label, seed=seed, index=index, moment=index)

    def synthesise(self, plan: ClipPlan, frames: Sequence[np.ndarray]) -> np.ndarray:
        """The frames, each coloured on its own; uint8 [T, H, W, 3]."""
        clip_THWC = synthesise(plan, frames)
        if not self.colour:
            return clip_THWC
        # The counter's top word separates this stream from the draws of the augmentation that follows.
        generator = np.random.Generator(np.random.Philox(key=plan.augment_seed, counter=(0, 0, 0, 1)))
        factors_T3 = 1 + self.colour * (2 * generator.random((len(clip_THWC), 3)) - 1)
        return np.concatenate([jitter_colour(clip_THWC[t : t + 1], *factors_T3[t]) for t in range(len(clip_THWC))])

    def head(self, encoder: Encoder, seed: int) -> nn.Module:
        """Logits [B, K] of the mean of a clip's features."""
        return LinearHead(encoder.feature_width, len(self.strides), seed, dropout=self.dropout)

    def loss(self, output: Tensor, targets: Mapping[str, Tensor], chosen_B: Tensor | None = None) -> Scored:
        """Cross-entropy with "label"; statistic "accuracy" in [0, 1]."""
        loss, accuracy = cross_entropy(output, targets["label"], chosen_B)
        return loss, {"accuracy": accuracy}
