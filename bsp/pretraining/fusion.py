"""Joining boundary-sensitive and action-classification pre-training: Section 3.4 and Figure 3 of the paper.

Two-stream: two independent encoders, features concatenated at the penultimate layer. Two-head: one encoder
with an action and a boundary classifier, trained jointly. Feature distillation: one student that also has to
reproduce, through two pointwise projections h1 and h2, the features of two frozen teachers. Two-head and
distillation train on a stream that mixes plain clips (action labels) with synthetic ones (boundary labels).
Letters: B clips, T frames per clip, D feature width, S snippets of a video.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from bsp.clips.catalog import Catalog
from bsp.clips.plan import BoundaryKind, ClipPlan, ClipSettings, plan_clip
from bsp.encoders.contract import Encoder
from bsp.pretraining.contract import Loss, Pretext, PretrainingModel, Scored, cross_entropy
from bsp.pretraining.pretext import short_names


@dataclass(frozen=True, kw_only=True)
class FusionSettings(Pretext):
    """One encoder for both tasks: two-head (``matching_weight`` 0) or feature distillation (above 0).

    Choice: the paper gives no weights; both cross-entropies have weight 1.
    """

    kinds: tuple[BoundaryKind, ...]  # boundary types of synthetic clips, 2 or more; position = label; or () and pretext
    num_actions: int  # action classes, at least 2
    action_weight: float = 1.0  # of the action cross-entropy on plain clips; 0 = off
    boundary_weight: float = 1.0  # of the boundary cross-entropy on synthetic clips; 0 = off
    matching_weight: float = 0.0  # of the two feature-matching losses together; 0 = off: no teachers
    # Replaces classification of ``kinds`` as the second task; None = off.
    pretext: Pretext | None = field(default=None, metadata={"later": True})

    def __post_init__(self) -> None:
        if self.pretext is not None and self.kinds:
            raise ValueError(f"either kinds {self.kinds} or pretext {self.pretext.name}, not both")
        if self.pretext is None and (len(self.kinds) < 2 or len(set(self.kinds)) != len(self.kinds)):
            raise ValueError(f"fusion needs at least 2 different kinds of boundary, not {self.kinds}")
        if self.num_actions < 2:
            raise ValueError(f"fusion needs num_actions of at least 2, not {self.num_actions}")
        weights = (self.action_weight, self.boundary_weight, self.matching_weight)
        if min(weights) < 0 or not sum(weights) > 0:
            raise ValueError(f"loss weights must be 0 or more and not all 0, not {weights}")

    @property
    def distils(self) -> bool:
        """Whether features of teachers are matched."""
        return self.matching_weight > 0

    @property
    def teachers(self) -> int:
        """Two with distillation (action task, other task), else 0."""
        return 2 if self.distils else 0

    @property
    def name(self) -> str:
        """Such as "two-head_action+dc+ss"."""
        other = self.pretext.name if self.pretext else short_names(self.kinds)
        return f"{'distilled' if self.distils else 'two-head'}_action+{other}"

    def frames_needed(self, clips: ClipSettings) -> int:
        """Of a video, for the clips of ``pretext``; action clips are of all videos."""
        return self.pretext.frames_needed(clips) if self.pretext else 1

    def plan(self, catalog: Catalog, clips: ClipSettings, seed: int, index: int) -> ClipPlan:
        """Plain and synthetic clips as mixed by ``clips``; with ``pretext`` they alternate."""
        if self.pretext is None:
            return plan_clip(catalog, clips, seed, index)
        if index % 2 == 0:
            return plan_clip(catalog, replace(clips, kinds=()), seed, index)
        plan = self.pretext.plan(catalog, clips, seed, index // 2)
        return replace(plan, index=index, kind=plan.label if plan.kind is None else plan.kind)  # None = plain

    def synthesise(self, plan: ClipPlan, frames: Sequence[np.ndarray]) -> np.ndarray:
        """The clip, by its own task."""
        if plan.kind is None or self.pretext is None:
            return Pretext.synthesise(self, plan, frames)
        return self.pretext.synthesise(plan, frames)

    def head(self, encoder: Encoder, seed: int) -> nn.Module:
        """Both heads are in :class:`FusionModel`."""
        raise NotImplementedError("two tasks share an encoder: use model()")

    def model(self, encoder: Encoder, seed: int, teacher_widths: Sequence[int] = ()) -> PretrainingModel:
        """The network with both heads."""
        return FusionModel(encoder, self, seed, teacher_widths)

    def loss(self, output: Any, targets: Mapping[str, Tensor], chosen_B: Tensor | None = None) -> Scored:
        """Loss without teachers."""
        return fusion_loss(self, output, targets)

    def objective(self, teachers: Sequence[Encoder] = ()) -> Loss:
        """The objective with these teachers."""
        return fusion_objective(self, teachers)


class FusionModel(PretrainingModel):
    """One encoder with the two classifiers of Figure 3(b); with teachers also h1 and h2 of Figure 3(c).

    forward: float [B, T, 3, H, W] -> {"action": logits [B, A], "boundary": logits [B, K], "matched": list of
    two [B, T, D_teacher], empty without teachers}. ``teacher_widths`` are the feature widths of the action
    teacher and the boundary teacher. New layers are drawn from ``seed``; global random state is not touched.
    """

    def __init__(self, encoder: Encoder, settings: FusionSettings, seed: int, teacher_widths: Sequence[int] = ()):
        super().__init__(encoder)
        if len(teacher_widths) != settings.teachers:
            raise ValueError(
                f"feature distillation has two teachers (action, boundary), two-head none; matching_weight is "
                f"{settings.matching_weight} and there are {len(teacher_widths)}"
            )
        self.settings = settings
        width = encoder.feature_width
        with torch.random.fork_rng(devices=[]):  # the constructors draw weights that are overwritten below
            self.action_head = nn.Linear(width, settings.num_actions)
            drawn = [self.action_head]
            if settings.pretext is None:
                drawn.append(nn.Linear(width, len(settings.kinds)))
            self.boundary_head: nn.Module = settings.pretext.head(encoder, seed) if settings.pretext else drawn[1]
            projections = [nn.Linear(width, teacher) for teacher in teacher_widths]
            self.projections = nn.ModuleList(projections)
        generator = torch.Generator().manual_seed(seed + 0x46555345)
        for layer in drawn:
            nn.init.normal_(layer.weight, 0.0, 0.001, generator=generator)
            nn.init.zeros_(layer.bias)
        for layer in projections:
            nn.init.normal_(layer.weight, 0.0, width**-0.5, generator=generator)
            nn.init.zeros_(layer.bias)

    def forward(self, clip_BTCHW: Tensor) -> dict[str, Tensor | list[Tensor]]:
        """Clips, float [B, T, 3, H, W], normalised -> outputs of both heads and the projections, by name."""
        feat_BTD = self.encoder(clip_BTCHW)
        feat_BD = feat_BTD.mean(dim=1)
        return {
            "action": self.action_head(feat_BD),
            "boundary": self.boundary_head(feat_BD if self.settings.pretext is None else feat_BTD),
            # Choice: pointwise in time: each frame's feature is projected and matched separately.
            "matched": [project(feat_BTD) for project in self.projections],
        }


def fusion_objective(settings: FusionSettings, teachers: Sequence[nn.Module] = ()) -> Loss:
    """The loss of a batch for :func:`bsp.pretraining.loop.train_steps`.

    ``teachers`` are the frozen encoders f_v (action) and f_b (boundary), in evaluation mode, on the device of
    the clips; both see every clip, plain or synthetic, exactly as the student does.
    """
    for teacher in teachers:
        teacher.eval().requires_grad_(False)

    def objective(output: dict[str, Any], targets: Mapping[str, Tensor]) -> Scored:
        with torch.no_grad():
            wanted = [teacher(targets["clip"]) for teacher in teachers]
        return fusion_loss(settings, output, targets, wanted)

    return objective


def fusion_loss(
    settings: FusionSettings, output: dict[str, Any], targets: Mapping[str, Tensor], wanted: Sequence[Tensor] = ()
) -> Scored:
    """Weighted sum of the cross-entropies and the feature-matching losses; scalar, and statistics.

    A "label" is an action class where "plain", else of the other task. ``wanted`` are the teachers' features
    [B, T, D]. Statistics: "action_accuracy", "boundary_accuracy" in [0, 1] (nan without such a clip), with ``pretext``
    its own after "boundary_", and for distillation "matching_action", "matching_boundary".
    """
    label_B, plain_B = targets["label"], targets["plain"]
    action, action_right = cross_entropy(output["action"], label_B, plain_B)
    stats = {"action_accuracy": action_right}
    if settings.pretext is None:
        boundary, stats["boundary_accuracy"] = cross_entropy(output["boundary"], label_B, ~plain_B)
    else:
        boundary, others = settings.pretext.loss(output["boundary"], targets, ~plain_B)
        stats |= {f"boundary_{name}": value for name, value in others.items()}
    loss = settings.action_weight * action + settings.boundary_weight * boundary
    names = ("matching_action", "matching_boundary")
    for name, got_BTD, wanted_BTD in zip(names[: len(wanted)], output["matched"], wanted, strict=True):
        distance = matching_loss(got_BTD.float(), wanted_BTD.float())
        loss = loss + settings.matching_weight * distance
        stats[name] = distance.detach()
    return loss, stats


def matching_loss(got_BTD: Tensor, wanted_BTD: Tensor) -> Tensor:
    """||f(x) - h(f_s(x))||^2 of Section 3.4, relative to how much the teacher's features vary in the batch.

    1 corresponds to predicting the teacher's mean feature, 0 to a perfect copy.
    """
    # Choice: divided by the features' variance (the paper gives the plain squared norm and no weight), so that
    # one weight suits any width and any teacher, and neither teacher outweighs the other.
    centred = wanted_BTD - wanted_BTD.mean(dim=(0, 1))
    return functional.mse_loss(got_BTD, wanted_BTD) / centred.square().mean().clamp_min(1e-12)
