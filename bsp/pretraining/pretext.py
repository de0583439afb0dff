"""Pretext tasks on top of the encoder: heads, targets and losses of Section 3.3, and the action baseline.

Classification labels a clip with its boundary type (four-way, or two-way for a pair of types); regression
predicts, for every frame, a Gaussian bump around the change point; "action" is the vanilla pre-training that
BSP is compared and combined with. Letters: B clips, T frames per clip, D feature width, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from bsp.clips.plan import BoundaryKind
from bsp.encoders.contract import Encoder
from bsp.pretraining.contract import LinearHead, Pretext, Scored, cross_entropy

Task = Literal["classification", "regression", "action"]


@dataclass(frozen=True, kw_only=True)
class PretextSettings(Pretext):
    """The pretext task: classify boundary types, regress change points, or classify actions."""

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

    @property
    def name(self) -> str:
        """Such as "dc+ss_cls", "ds_reg" or "action"."""
        task = {"classification": "cls", "regression": "reg", "action": "action"}[self.task]
        return f"{short_names(self.kinds)}_{task}" if self.kinds else task

    def head(self, encoder: Encoder, seed: int) -> nn.Module:
        """A linear layer: logits [B, K] for classification and action; heatmap r [B, T] for regression."""
        frames = encoder.clip_frames if self.task == "regression" else None
        return LinearHead(encoder.feature_width, self.outputs, seed, dropout=self.dropout, frames=frames)

    def loss(self, output: Tensor, targets: Mapping[str, Tensor], chosen_B: Tensor | None = None) -> Scored:
        """Cross-entropy of logits [B, K] with "label"; statistic "accuracy" in [0, 1]. For regression smooth L1 of the
        heatmap [B, T] to the Gaussian around "change_point" (frames, 0-based); statistic "change_point_error" = mean
        |argmax r - mu| in frames. The other target is not read."""
        if self.task != "regression":
            loss, accuracy = cross_entropy(output, targets["label"], chosen_B)
            return loss, {"accuracy": accuracy}
        output, mu_B = output.float(), targets["change_point"]  # under autocast the heads give bfloat16
        if chosen_B is not None:
            mu_B = torch.where(chosen_B, mu_B, 0)  # plain clips have nan
        target_BT = gaussian_heatmap(mu_B, output.shape[1], self.heatmap_variance)
        error_B = (output.detach().argmax(dim=1) - mu_B).abs()
        # Choice: mean over clips and frames, and the usual turning point of 1; the paper names only the norm.
        if chosen_B is None:
            return functional.smooth_l1_loss(output, target_BT, beta=1.0), {"change_point_error": error_B.mean()}
        each_B = functional.smooth_l1_loss(output, target_BT, beta=1.0, reduction="none").mean(dim=1)
        count = chosen_B.sum()
        loss = (each_B * chosen_B).sum() / count.clamp_min(1)
        return loss, {"change_point_error": (error_B * chosen_B).sum() / count}


def short_names(kinds: tuple[BoundaryKind, ...]) -> str:
    """Such as "dc+ss"."""
    return "+".join(kind.short for kind in kinds)


def gaussian_heatmap(change_point_B: Tensor, frames: int, variance: float) -> Tensor:
    """Regression target y_t = exp(-(t - mu)^2 / (2 variance)), Section 3.3; float32 [B, frames] in (0, 1].

    ``change_point_B`` is mu, 0-based like t here (the paper counts both from 1, which leaves the difference);
    it may lie between frames. ``variance`` is in squared frames: the paper writes its tau there.
    """
    t_T = torch.arange(frames, device=change_point_B.device, dtype=torch.float32)
    return torch.exp(-((t_T - change_point_B.float()[:, None]) ** 2) / (2 * variance))
