"""Arrow of time (Wei et al., CVPR 2018): is a clip played forwards or backwards? A rival of the paper's pretexts.

Letters: B clips, T frames of a clip, H W image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor, nn

from bsp.clips.catalog import Catalog
from bsp.clips.plan import ClipPlan, ClipSettings, plan_clip
from bsp.clips.synthesis import synthesise
from bsp.encoders.contract import Encoder
from bsp.pretraining.contract import LinearHead, Pretext, Scored, cross_entropy


@dataclass(frozen=True, kw_only=True)
class ArrowOfTime(Pretext):
    """Label 0: as filmed; label 1: the last frame first. Needs no classes."""

    dropout: float = 0.0  # share of features dropped before the linear layer, [0, 1); 0 = off

    @property
    def name(self) -> str:
        """For names of files."""
        return "arrow-of-time"

    def plan(self, catalog: Catalog, clips: ClipSettings, seed: int, index: int) -> ClipPlan:
        """A plain clip; clips 2k and 2k + 1 are the same frames, forwards and backwards."""
        # Choice: both in a batch, cropped alike, so that nothing but the direction tells the two labels apart.
        plan = plan_clip(catalog, replace(clips, kinds=(), plain_clips=0), seed, index // 2)
        return replace(plan, index=index, label=index % 2)

    def synthesise(self, plan: ClipPlan, frames: Sequence[np.ndarray]) -> np.ndarray:
        """uint8 [T, H, W, 3], reversed for label 1; plans list frames as filmed."""
        clip_THWC = synthesise(plan, frames)
        return clip_THWC[::-1] if plan.label else clip_THWC

    def head(self, encoder: Encoder, seed: int) -> nn.Module:
        """Logits [B, 2] of the mean of a clip's features."""
        return LinearHead(encoder.feature_width, 2, seed, dropout=self.dropout)

    def loss(self, output: Tensor, targets: Mapping[str, Tensor], chosen_B: Tensor | None = None) -> Scored:
        """Cross-entropy with "label"; statistic "accuracy" in [0, 1]."""
        loss, accuracy = cross_entropy(output, targets["label"], chosen_B)
        return loss, {"accuracy": accuracy}
