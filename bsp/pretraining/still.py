"""Action classes from single pictures: what start weights of images are learnt with where no ImageNet is at hand.

TSM starts from an image classifier that has seen no motion. For data without one a network of the same shape, without
the temporal shift, learns the action classes from one frame at a time. With the shift on single frames the channels
that are shifted would see only zeros, and stay as they are drawn. The frames of a training clip would be nearly the
same picture, so a clip is one frame here, and a batch has as many videos as pictures.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import Tensor, nn
from typing_extensions import override

from bsp.clips.catalog import Catalog
from bsp.clips.plan import ClipPlan, ClipSettings, plan_clip
from bsp.encoders.contract import Encoder
from bsp.pretraining.contract import LinearHead, Pretext, Scored, cross_entropy


@dataclass(frozen=True, kw_only=True)
class StillPictures(Pretext):
    """Which of the action classes does a single frame show?"""

    num_actions: int  # at least 2

    def __post_init__(self) -> None:
        if self.num_actions < 2:
            raise ValueError(f"a classifier of pictures needs at least 2 classes, not {self.num_actions}")

    @property
    def name(self) -> str:
        """Part of the names of files and runs."""
        return "still"

    @override
    def clip_frames(self, clips: ClipSettings) -> int:
        """One picture, whatever the length of other clips."""
        return 1

    @override
    def plan(self, catalog: Catalog, clips: ClipSettings, seed: int, index: int) -> ClipPlan:
        """The first frame of a plain clip; the label is the class of the video."""
        plan = plan_clip(catalog, replace(clips, kinds=(), plain_clips=0), seed, index)
        return replace(plan, frames=tuple(frames[:1] for frames in plan.frames), weights=plan.weights[:1])

    def head(self, encoder: Encoder, seed: int) -> nn.Module:
        """A linear layer: logits [B, K]."""
        return LinearHead(encoder.feature_width, self.num_actions, seed)

    def loss(self, output: Tensor, targets: Mapping[str, Tensor], chosen_B: Tensor | None = None) -> Scored:
        """Cross-entropy of logits [B, K] with "label"; statistic "accuracy" in [0, 1]."""
        loss, accuracy = cross_entropy(output, targets["label"], chosen_B)
        return loss, {"accuracy": accuracy}
