"""Interface of pretext tasks: labelled clips, a head on the features, a loss.

To add one, write a frozen dataclass that is a :class:`Pretext` in a file of its own, and name it in pretexts.py's
``PRETEXTS``: rows of tables can then train an encoder on it alone, as a second stream, or jointly with action classes.
tests/examples/toy_pretext.py is a complete example. Letters: B clips, T frames of a clip, T' vectors of a clip that
come out of the encoder, H W image, D feature width, K classes.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from bsp.clips.catalog import Catalog
from bsp.clips.plan import ClipPlan, ClipSettings, plan_clip
from bsp.clips.synthesis import synthesise
from bsp.encoders.contract import Encoder

Scored = tuple[Tensor, dict[str, Tensor]]  # mean loss of a batch (scalar, with gradient), statistics (scalars, without)
# (output of the model, targets) -> Scored. Targets of a batch are "label" int64 [B], "change_point" float32 [B],
# "plain" bool [B] (a plain action clip) and "clip", the model's input.
Loss = Callable[[Any, Mapping[str, Tensor]], Scored]


class Pretext(Protocol):
    """A pretext task: a frozen dataclass whose class identifies it; its fields enter recipe hashes."""

    @property
    @abstractmethod
    def name(self) -> str:
        """Short name such as "dc+ss_cls"; part of the names of files and runs."""

    @property
    def teachers(self) -> int:
        """Number of frozen encoders that the training needs."""
        return 0

    def frames_needed(self, clips: ClipSettings) -> int:
        """Frames that a video must have; shorter ones are not in the stream."""
        return 1

    def plan(self, catalog: Catalog, clips: ClipSettings, seed: int, index: int) -> ClipPlan:
        """Clip ``index`` of the stream and its targets, ``label`` and ``change_point``. A pure function."""
        return plan_clip(catalog, clips, seed, index)

    def synthesise(self, plan: ClipPlan, frames: Sequence[np.ndarray]) -> np.ndarray:
        """The clip, uint8 [T, H, W, 3], of the planned frames of each video, uint8 [frames, H, W, 3]."""
        return synthesise(plan, frames)

    def clip_frames(self, clips: ClipSettings) -> int:
        """Frames of a clip that comes out of :meth:`synthesise`; the encoder must take as many."""
        return 2 * clips.half_len

    @abstractmethod
    def head(self, encoder: Encoder, seed: int) -> nn.Module:
        """A module from the encoder's features [B, T', D] to the input of :meth:`loss`; random state is unchanged."""

    @abstractmethod
    def loss(self, output: Tensor, targets: Mapping[str, Tensor], chosen_B: Tensor | None = None) -> Scored:
        """Loss and statistics of the clips in ``chosen_B`` (bool [B], None = all).

        Statistics are logged by name and drawn as curves.
        """

    def model(self, encoder: Encoder, seed: int, teacher_widths: Sequence[int] = ()) -> PretrainingModel:
        """The trained network: ``encoder`` and the head, drawn from ``seed``."""
        return PretextModel(encoder, self, seed)

    def objective(self, teachers: Sequence[Encoder] = ()) -> Loss:
        """:meth:`loss` as the objective of the training loop."""
        return self.loss


class PretrainingModel(nn.Module):
    """Any trainable network that contains an encoder; only the encoder is kept."""

    def __init__(self, encoder: Encoder):
        super().__init__()
        self.encoder = encoder


class PretextModel(PretrainingModel):
    """An encoder and the head of one pretext; forward: float [B, T, 3, H, W] -> the head's output."""

    def __init__(self, encoder: Encoder, pretext: Pretext, seed: int):
        super().__init__(encoder)
        self.head = pretext.head(encoder, seed)

    def forward(self, clip_BTCHW: Tensor) -> Tensor:
        """Clips, float [B, T, 3, H, W], normalised -> the head's output."""
        output: Tensor = self.head(self.encoder(clip_BTCHW))
        return output


class LinearHead(nn.Linear):
    """Dropout and one linear layer on features [B, T', D].

    Logits [B, K] of the clip; with ``frames`` one number per frame, [B, frames], stretched over them where the encoder
    gives fewer vectors. It starts at normal(0, 0.001) with bias 0 (TSM's), drawn from ``seed``; dropout, if on, draws
    from PyTorch's global generator as everywhere.
    """

    def __init__(self, width: int, outputs: int, seed: int, *, dropout: float = 0.0, frames: int | None = None):
        with torch.random.fork_rng(devices=[]):  # the constructor draws weights, overwritten below
            super().__init__(width, outputs)
        self.dropout, self.frames = nn.Dropout(dropout), frames
        # A separate random stream: the encoder's seed would repeat its first weights.
        generator = torch.Generator().manual_seed(seed + 0x48454144)
        nn.init.normal_(self.weight, 0.0, 0.001, generator=generator)
        nn.init.zeros_(self.bias)

    def forward(self, feat_BTD: Tensor) -> Tensor:
        """Features [B, T', D] -> [B, K] of the clips, or one number per frame [B, T]."""
        feat_BTD = self.dropout(feat_BTD)
        if self.frames is None:
            # TSM's consensus, the mean of the frames' logits, is the logits of the mean: the layer is linear.
            return super().forward(feat_BTD.mean(dim=1))
        value_BT = super().forward(feat_BTD).squeeze(-1)
        if value_BT.shape[1] == self.frames:
            return value_BT
        # Choice: linear interpolation for encoders that join frames, so that targets and errors stay in frames.
        return functional.interpolate(value_BT[:, None], size=self.frames, mode="linear").squeeze(1)


def cross_entropy(logits_BK: Tensor, label_B: Tensor, chosen_B: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Mean cross-entropy and accuracy in [0, 1], of the chosen clips; without any, 0 (with a gradient) and nan.

    ``logits_BK`` may be bfloat16, as autocast's heads give; ``label_B`` is int64 and read of chosen clips only.
    """
    logits_BK = logits_BK.float()
    right_B = logits_BK.detach().argmax(dim=1) == label_B
    if chosen_B is None:
        return functional.cross_entropy(logits_BK, label_B), right_B.float().mean()
    count = chosen_B.sum()
    target_B = torch.where(chosen_B, label_B, 0)  # labels of another task may be out of range
    each_B = functional.cross_entropy(logits_BK, target_B, reduction="none")
    return (each_B * chosen_B).sum() / count.clamp_min(1), (right_B & chosen_B).sum() / count
