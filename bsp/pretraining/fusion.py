"""Joining boundary-sensitive and action-classification pre-training: Section 3.4 and Figure 3 of the paper.

Two-stream: two independent encoders, features concatenated at the penultimate layer. Two-head: one encoder
with an action and a boundary classifier, trained jointly. Feature distillation: one student that also has to
reproduce, through two pointwise projections h1 and h2, the features of two frozen teachers. Two-head and
distillation train on a stream that mixes plain clips (action labels) with synthetic ones (boundary labels).
Letters: B clips, T frames per clip, D feature width, S snippets of a video.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from bsp.clips.plan import BoundaryKind
from bsp.encoders.tsm import TSMResNet
from bsp.features.store import FeatureInfo
from bsp.pretraining.loop import Loss


@dataclass(frozen=True, kw_only=True)
class FusionSettings:
    """A single encoder for both tasks. ``matching_weight`` 0 is two-head, above 0 feature distillation.

    Choice: the paper gives no weights. Both cross-entropies count the same.
    """

    kinds: tuple[BoundaryKind, ...]  # boundary types among the synthetic clips, at least 2; position = label
    num_actions: int  # action classes, at least 2
    action_weight: float = 1.0  # of the action cross-entropy on plain clips; 0 = off
    boundary_weight: float = 1.0  # of the boundary cross-entropy on synthetic clips; 0 = off
    matching_weight: float = 0.0  # of the two feature-matching losses together; 0 = off: no teachers

    def __post_init__(self) -> None:
        if len(self.kinds) < 2 or len(set(self.kinds)) != len(self.kinds):
            raise ValueError(f"fusion needs at least 2 different kinds of boundary, not {self.kinds}")
        if self.num_actions < 2:
            raise ValueError(f"fusion needs num_actions of at least 2, not {self.num_actions}")
        weights = (self.action_weight, self.boundary_weight, self.matching_weight)
        if min(weights) < 0 or not sum(weights) > 0:
            raise ValueError(f"loss weights must be 0 or more and not all 0, not {weights}")

    @property
    def distils(self) -> bool:
        """Whether teachers are matched."""
        return self.matching_weight > 0


class FusionModel(nn.Module):
    """One encoder with the two classifiers of Figure 3(b); with teachers also h1 and h2 of Figure 3(c).

    forward: float [B, T, 3, H, W] -> {"action": logits [B, A], "boundary": logits [B, K], "matched": list of
    two [B, T, D_teacher], empty without teachers}. ``teacher_widths`` are the feature widths of the action
    teacher and the boundary teacher. New layers are drawn from ``seed``; global random state is not touched.
    """

    def __init__(self, encoder: TSMResNet, settings: FusionSettings, seed: int, teacher_widths: Sequence[int] = ()):
        super().__init__()
        if len(teacher_widths) != (2 if settings.distils else 0):
            raise ValueError(
                f"feature distillation has two teachers (action, boundary), two-head none; matching_weight is "
                f"{settings.matching_weight} and there are {len(teacher_widths)}"
            )
        self.encoder, self.settings = encoder, settings
        width = encoder.feature_width
        with torch.random.fork_rng(devices=[]):  # the constructors draw weights that are overwritten below
            self.action_head = nn.Linear(width, settings.num_actions)
            self.boundary_head = nn.Linear(width, len(settings.kinds))
            self.projections = nn.ModuleList(nn.Linear(width, teacher) for teacher in teacher_widths)
        generator = torch.Generator().manual_seed(seed + 0x46555345)
        for layer in (self.action_head, self.boundary_head):
            nn.init.normal_(layer.weight, 0.0, 0.001, generator=generator)
            nn.init.zeros_(layer.bias)
        for layer in self.projections:
            nn.init.normal_(layer.weight, 0.0, width**-0.5, generator=generator)
            nn.init.zeros_(layer.bias)

    def forward(self, clip_BTCHW: Tensor) -> dict[str, Tensor | list[Tensor]]:
        feat_BTD = self.encoder(clip_BTCHW)
        feat_BD = feat_BTD.mean(dim=1)
        return {
            "action": self.action_head(feat_BD),
            "boundary": self.boundary_head(feat_BD),
            # Choice: pointwise in time: each frame's feature is projected and matched by itself.
            "matched": [project(feat_BTD) for project in self.projections],
        }


def fusion_objective(settings: FusionSettings, teachers: Sequence[nn.Module] = ()) -> Loss:
    """The loss of a batch for :func:`bsp.pretraining.loop.train_steps`.

    ``teachers`` are the frozen encoders f_v (action) and f_b (boundary), in evaluation mode, on the device of
    the clips; both see every clip, plain or synthetic, exactly as the student does.
    """
    for teacher in teachers:
        teacher.eval().requires_grad_(False)

    def objective(output: dict, targets: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        with torch.no_grad():
            wanted = [teacher(targets["clip"]) for teacher in teachers]
        return fusion_loss(settings, output, targets["label"], targets["plain"], wanted)

    return objective


def fusion_loss(
    settings: FusionSettings, output: dict, label_B: Tensor, plain_B: Tensor, wanted: Sequence[Tensor] = ()
) -> tuple[Tensor, dict[str, Tensor]]:
    """Weighted sum of the cross-entropies and the feature-matching losses; scalar, and statistics.

    ``label_B`` is an action class where ``plain_B``, else a boundary label. ``wanted`` are the teachers'
    features [B, T, D]. Statistics: "action_accuracy", "boundary_accuracy" in [0, 1] (nan without such a
    clip), and for distillation "matching_action", "matching_boundary".
    """
    action, action_right = _cross_entropy(output["action"].float(), label_B, plain_B)
    boundary, boundary_right = _cross_entropy(output["boundary"].float(), label_B, ~plain_B)
    loss = settings.action_weight * action + settings.boundary_weight * boundary
    stats = {"action_accuracy": action_right, "boundary_accuracy": boundary_right}
    names = ("matching_action", "matching_boundary")
    for name, got_BTD, wanted_BTD in zip(names[: len(wanted)], output["matched"], wanted, strict=True):
        distance = matching_loss(got_BTD.float(), wanted_BTD.float())
        loss = loss + settings.matching_weight * distance
        stats[name] = distance.detach()
    return loss, stats


def matching_loss(got_BTD: Tensor, wanted_BTD: Tensor) -> Tensor:
    """||f(x) - h(f_s(x))||^2 of Section 3.4, relative to how much the teacher's features vary in the batch.

    1 is what the teacher's mean feature would give, 0 a perfect copy.
    """
    # Choice: divided by the features' variance (the paper gives the plain squared norm and no weight), so that
    # one weight suits any width and any teacher, and neither teacher outweighs the other.
    centred = wanted_BTD - wanted_BTD.mean(dim=(0, 1))
    return functional.mse_loss(got_BTD, wanted_BTD) / centred.square().mean().clamp_min(1e-12)


def _cross_entropy(logits_BK: Tensor, label_B: Tensor, chosen_B: Tensor) -> tuple[Tensor, Tensor]:
    """Mean over the chosen clips, and their accuracy; without any, 0 (with a gradient) and nan."""
    count = chosen_B.sum()
    target_B = torch.where(chosen_B, label_B, 0)  # labels of the other task may be out of range
    each_B = functional.cross_entropy(logits_BK, target_B, reduction="none")
    right_B = (logits_BK.detach().argmax(dim=1) == label_B) & chosen_B
    return (each_B * chosen_B).sum() / count.clamp_min(1), right_B.sum() / count


class TwoStream(nn.Module):
    """Encoders side by side: [B, T, 3, H, W] -> [B, T, sum of widths], Figure 3(a)."""

    def __init__(self, encoders: Sequence[nn.Module]):
        super().__init__()
        self.streams = nn.ModuleList(encoders)
        self.feature_width = sum(encoder.feature_width for encoder in encoders)

    def forward(self, clip_BTCHW: Tensor) -> Tensor:
        return torch.cat([encoder(clip_BTCHW) for encoder in self.streams], dim=2)


def concatenate_streams(parts: Sequence[tuple[np.ndarray, FeatureInfo]]) -> tuple[np.ndarray, FeatureInfo]:
    """Features [S, sum of D] of one video from several encoders, and a record with the summed width.

    ValueError, naming video and values, if the parts differ in video, frames, snippets, stride, times or crop.
    """
    first = parts[0][1]
    names = ("video_id", "frames", "snippets", "snippet_frames", "stride_frames", "offset_frames", "size_px", "times_s")
    for _, info in parts[1:]:
        for name in names:
            if getattr(info, name) != getattr(first, name):
                raise ValueError(
                    f"{first.video_id}: streams differ in {name}: {getattr(first, name)!r:.60} and "
                    f"{getattr(info, name)!r:.60}; extract both from the same video with the same settings"
                )
    feat_SD = np.concatenate([feat for feat, _ in parts], axis=1)
    hashes = "+".join(info.encoder_hash for _, info in parts)
    unwritten = {"sha256": "", "npy_bytes": 0, "record_sha256": ""}
    return feat_SD, replace(first, feature_width=feat_SD.shape[1], encoder_hash=hashes, **unwritten)
