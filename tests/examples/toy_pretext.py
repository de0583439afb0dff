"""A complete pretext task: does a clip run forwards or backwards?

Everything that one needs, and no line of the package is touched. Rows of tables train an encoder on it by
``Stream(method="direction")``: alone, or as a second stream beside vanilla. ``Stream(method="two-head",
second="direction")`` trains one encoder for it and for the action classes together.
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
from bsp.pretraining.pretexts import PRETEXTS


@dataclass(frozen=True, kw_only=True)
class DirectionPretext(Pretext):
    """Label 0: as filmed; label 1: the last frame first. What the fields decide becomes part of the results' names."""

    dropout: float = 0.0  # share of features dropped before the linear layer, [0, 1); 0 = off

    @property
    def name(self) -> str:
        """Readable, for names of files."""
        return "direction"

    def plan(self, catalog: Catalog, clips: ClipSettings, seed: int, index: int) -> ClipPlan:
        """A plain clip, without a boundary; every second one is to run backwards."""
        return replace(plan_clip(catalog, replace(clips, kinds=()), seed, index), label=index % 2)

    def synthesise(self, plan: ClipPlan, frames: Sequence[np.ndarray]) -> np.ndarray:
        """uint8 [T, H, W, 3] of the decoded frames."""
        clip_THWC = synthesise(plan, frames)
        return clip_THWC[::-1] if plan.label else clip_THWC

    def head(self, encoder: Encoder, seed: int) -> nn.Module:
        """Logits [B, 2] of the mean of a clip's features."""
        return LinearHead(encoder.feature_width, 2, seed, dropout=self.dropout)

    def loss(self, output: Tensor, targets: Mapping[str, Tensor], chosen_B: Tensor | None = None) -> Scored:
        """Cross-entropy with the label; ``chosen_B`` leaves out the clips of another task, if there is one.

        What it tells beside the loss is shown while it trains and drawn as curves.
        """
        loss, accuracy = cross_entropy(output, targets["label"], chosen_B)
        return loss, {"accuracy": accuracy}


PRETEXTS["direction"] = lambda kinds, actions: DirectionPretext()  # the one line, else in bsp/pretraining/pretexts.py
