"""Pretext tasks on top of the encoder: heads, targets and losses of Section 3.3, and the action baseline.

Classification labels a clip with its boundary type (four-way, or two-way for a pair of types); regression
predicts, for every frame, a Gaussian bump around the change point; "action" is the vanilla pre-training that
BSP is compared and combined with. Letters: B clips, T frames per clip, D feature width, K classes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from bsp.clips.plan import BoundaryKind
from bsp.encoders.tsm import TSMResNet
from bsp.pretraining.loop import Loss

Task = Literal["classification", "regression", "action"]


@dataclass(frozen=True, kw_only=True)
class PretextSettings:
    """What the encoder is trained to tell."""

    task: Task  # classification of boundary types | regression of the change point | action classes
    kinds: tuple[BoundaryKind, ...] = ()  # boundary types among the clips; position = label; () for "action"
    num_actions: int = 0  # action classes, at least 2 for "action"; 0 = unused
    dropout: float = 0.0  # share of features dropped before the linear layer, [0, 1); 0 = off
    heatmap_variance: float = 4.0  # squared frames, > 0; Section 3.3 puts tau (half a clip, 4 frames) here

    def __post_init__(self) -> None:
        if self.task not in get_args(Task):
            raise ValueError(f"task must be one of {get_args(Task)}, not {self.task!r}")
        if len(set(self.kinds)) != len(self.kinds):
            raise ValueError(f"kinds must differ from each other, not {self.kinds}")
        if self.task == "classification" and len(self.kinds) < 2:
            raise ValueError(f"classification needs at least 2 kinds to tell apart, not {self.kinds}")
        if self.task == "regression" and (not self.kinds or BoundaryKind.SAME_SPEED in self.kinds):
            raise ValueError(f"regression needs kinds that have a change point, not {self.kinds}; leave SAME_SPEED out")
        if self.task == "action" and self.num_actions < 2:
            raise ValueError(f'task "action" needs num_actions of at least 2, not {self.num_actions}')
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must lie in [0, 1), not {self.dropout}")
        if not (self.heatmap_variance > 0 and math.isfinite(self.heatmap_variance)):
            raise ValueError(f"heatmap_variance must be above 0, not {self.heatmap_variance}")

    @property
    def outputs(self) -> int:
        """Width of the linear layer: classes, or 1 value per frame for regression."""
        return {"classification": len(self.kinds), "action": self.num_actions, "regression": 1}[self.task]


class PretextModel(nn.Module):
    """Encoder, dropout and one linear layer.

    forward: float [B, T, 3, H, W] -> logits [B, K] for classification and action; heatmap r [B, T] for
    regression. The linear layer starts at normal(0, 0.001) with bias 0 (TSM's), drawn from ``seed`` without
    touching global random state. Dropout, if on, draws from PyTorch's global generator as everywhere.
    """

    def __init__(self, encoder: TSMResNet, settings: PretextSettings, seed: int):
        super().__init__()
        self.encoder = encoder
        self.settings = settings
        self.dropout = nn.Dropout(settings.dropout)
        with torch.random.fork_rng(devices=[]):  # the constructor draws weights that are overwritten below
            self.head = nn.Linear(encoder.feature_width, settings.outputs)
        # Not the encoder's stream: the same seed would repeat its first weights.
        generator = torch.Generator().manual_seed(seed + 0x48454144)
        nn.init.normal_(self.head.weight, 0.0, 0.001, generator=generator)
        nn.init.zeros_(self.head.bias)

    def forward(self, clip_BTCHW: Tensor) -> Tensor:
        feat_BTD = self.dropout(self.encoder(clip_BTCHW))
        if self.settings.task == "regression":
            return self.head(feat_BTD).squeeze(-1)
        # TSM's consensus, the mean of the frames' logits, is the logits of the mean: the layer is linear.
        return self.head(feat_BTD.mean(dim=1))


def pretext_objective(settings: PretextSettings) -> Loss:
    """:func:`pretext_loss` in the form that the training loop takes."""
    return lambda output, targets: pretext_loss(settings, output, targets["label"], targets["change_point"])


def gaussian_heatmap(change_point_B: Tensor, frames: int, variance: float) -> Tensor:
    """Regression target y_t = exp(-(t - mu)^2 / (2 variance)), Section 3.3; float32 [B, frames] in (0, 1].

    ``change_point_B`` is mu, 0-based like t here (the paper counts both from 1, which leaves the difference);
    it may lie between frames. ``variance`` is in squared frames: the paper writes its tau there.
    """
    t_T = torch.arange(frames, device=change_point_B.device, dtype=torch.float32)
    return torch.exp(-((t_T - change_point_B.float()[:, None]) ** 2) / (2 * variance))


def pretext_loss(
    settings: PretextSettings, output: Tensor, label_B: Tensor, change_point_B: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """Mean loss of a batch (scalar, with gradient) and its statistics (scalars, without).

    Classification and action: cross-entropy of logits [B, K] with int64 ``label_B``; statistic "accuracy" in
    [0, 1]. Regression: smooth L1 of the heatmap [B, T] to the Gaussian around ``change_point_B`` (frames,
    0-based); statistic "change_point_error" = mean |argmax r - mu| in frames. The other target is not read.
    """
    output = output.float()  # under autocast the heads give bfloat16
    if settings.task == "regression":
        target_BT = gaussian_heatmap(change_point_B, output.shape[1], settings.heatmap_variance)
        # Choice: mean over clips and frames, and the usual turning point of 1; the paper names only the norm.
        loss = functional.smooth_l1_loss(output, target_BT, beta=1.0)
        error = (output.detach().argmax(dim=1) - change_point_B).abs().mean()
        return loss, {"change_point_error": error}
    loss = functional.cross_entropy(output, label_B)
    accuracy = (output.detach().argmax(dim=1) == label_B).float().mean()
    return loss, {"accuracy": accuracy}
