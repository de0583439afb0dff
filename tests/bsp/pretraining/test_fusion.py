"""Fusion: losses against worked numbers, what is trained and what is frozen, streams that must agree."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from bsp.clips.plan import BoundaryKind
from bsp.encoders.build import build_encoder
from bsp.encoders.tsm import EncoderSettings
from bsp.pretraining.fusion import (
    FusionModel,
    FusionSettings,
    fusion_loss,
    fusion_objective,
    matching_loss,
)
from bsp.pretraining.loop import TrainSettings, make_optimiser, train_steps

KINDS = (BoundaryKind.DIFF_CLASS, BoundaryKind.SAME_SPEED)
TWO_HEAD = FusionSettings(kinds=KINDS, num_actions=3)
SMALL = EncoderSettings(width=8)
CLIP = torch.rand(3, 8, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def test_cross_entropies_read_their_own_clips_and_count_as_weighted():
    settings = FusionSettings(kinds=KINDS, num_actions=3, action_weight=2.0, boundary_weight=0.5)
    output = {
        "action": torch.tensor([[math.log(2.0), 0.0, 0.0], [9.0, 0.0, 0.0], [0.0, 0.0, 0.0]]),
        "boundary": torch.tensor([[7.0, 0.0], [math.log(3.0), 0.0], [0.0, 0.0]]),
        "matched": [],
    }
    label, plain = torch.tensor([0, 0, 2]), torch.tensor([True, False, True])
    loss, stats = fusion_loss(settings, output, {"label": label, "plain": plain})
    # By hand. Actions: clip 0 has p = 2/4, clip 2 p = 1/3. Boundaries: clip 1 has p = 3/4.
    action, boundary = (math.log(2) + math.log(3)) / 2, math.log(4 / 3)
    assert loss.item() == pytest.approx(2.0 * action + 0.5 * boundary)
    assert stats["action_accuracy"].item() == pytest.approx(0.5)  # clip 2: argmax of equal logits is 0
    assert stats["boundary_accuracy"].item() == 1.0


def test_a_batch_without_one_of_the_tasks_has_a_finite_loss_and_gradient():
    logits = torch.zeros(2, 3, requires_grad=True)
    output = {"action": logits, "boundary": torch.zeros(2, 2, requires_grad=True), "matched": []}
    loss, stats = fusion_loss(TWO_HEAD, output, {"label": torch.tensor([1, 2]), "plain": torch.tensor([True, True])})
    loss.backward()
    assert loss.item() == pytest.approx(math.log(3))
    assert torch.isfinite(logits.grad).all()
    assert math.isnan(stats["boundary_accuracy"])


def test_matching_is_the_squared_distance_over_the_teachers_variance():
    wanted = torch.tensor([[[0.0, 10.0], [2.0, 14.0]]])  # means 1 and 12; squared deviations 1, 1, 4, 4
    assert matching_loss(wanted, wanted).item() == 0
    mean = torch.tensor([[[1.0, 12.0], [1.0, 12.0]]])
    assert matching_loss(mean, wanted).item() == pytest.approx(1.0)
    off = wanted + torch.tensor([1.0, 0.0])  # squared distances 1, 0, 1, 0: mean 0.5; variance 2.5
    assert matching_loss(off, wanted).item() == pytest.approx(0.2)
    # The same for a teacher of another scale.
    assert matching_loss(100 * off, 100 * wanted).item() == pytest.approx(0.2)


def test_distillation_adds_both_matching_losses():
    settings = FusionSettings(kinds=KINDS, num_actions=3, action_weight=0.0, boundary_weight=0.0, matching_weight=3.0)
    one, two = torch.randn(2, 2, 8, 4, generator=torch.Generator().manual_seed(1))
    output = {"action": torch.zeros(2, 3), "boundary": torch.zeros(2, 2), "matched": [one, torch.zeros_like(two)]}
    wanted = [one - 1.0, two]
    loss, stats = fusion_loss(
        settings, output, {"label": torch.tensor([0, 1]), "plain": torch.tensor([True, False])}, wanted
    )
    expected = [
        float(((a - b) ** 2).mean() / ((b - b.mean((0, 1))) ** 2).mean()) for a, b in zip(output["matched"], wanted)
    ]
    assert [stats["matching_action"].item(), stats["matching_boundary"].item()] == pytest.approx(expected)
    assert loss.item() == pytest.approx(3.0 * sum(expected))


def batches(steps: int):
    """Plain clips are dark (0) or bright (1); synthetic ones change their brightness (0) or do not (1)."""
    for step in range(steps):
        rng = np.random.default_rng(step)
        plain = np.arange(8) % 2 == 0
        label = rng.integers(0, 2, 8)
        level = np.where(plain & (label == 1), 200, np.where(plain, 60, rng.integers(20, 120, 8)))
        clip = np.broadcast_to(level[:, None, None, None, None], (8, 8, 32, 32, 3)).astype(np.uint8).copy()
        clip[~plain & (label == 0), 4:] += 120
        yield {
            "clip": clip, "label": label.astype(np.int64), "change_point": np.full(8, np.nan, np.float32),
            "plain": plain, "error": np.array([""] * 8),
        }  # fmt: skip


def train(model, objective, steps=80):
    settings = TrainSettings(clips=8 * steps, batch_size=8, learning_rate=0.02, log_every_steps=steps // 2)
    optimiser = make_optimiser(model, settings)
    loop = train_steps(model, optimiser, batches(steps), loss=objective, settings=settings, device=torch.device("cpu"))
    return [record for _, record in loop if record]


@pytest.mark.long
def test_two_heads_learn_both_tasks_at_once():
    model = FusionModel(build_encoder(SMALL, 0), TWO_HEAD, seed=0)
    last = train(model, fusion_objective(TWO_HEAD))[-1]
    assert last["action_accuracy"] > 0.9
    assert last["boundary_accuracy"] > 0.9


@pytest.mark.long
def test_a_student_learns_its_teachers_features_and_leaves_the_teachers_alone():
    settings = FusionSettings(kinds=KINDS, num_actions=3, matching_weight=1.0)
    teachers = [build_encoder(SMALL, 5), build_encoder(EncoderSettings(width=16), 6)]
    before = [{k: v.clone() for k, v in teacher.state_dict().items()} for teacher in teachers]
    model = FusionModel(build_encoder(SMALL, 0), settings, seed=0, teacher_widths=[64, 128])
    first, last = train(model, fusion_objective(settings, teachers))
    assert last["matching_action"] < 0.7 * first["matching_action"]
    assert last["matching_boundary"] < 0.7 * first["matching_boundary"]
    for teacher, weights in zip(teachers, before, strict=True):
        assert not teacher.training
        assert all(torch.equal(value, weights[name]) for name, value in teacher.state_dict().items())


def test_projections_are_pointwise_in_time():
    settings = replace(TWO_HEAD, matching_weight=1.0)
    model = FusionModel(build_encoder(SMALL, 0), settings, seed=0, teacher_widths=[5, 7]).eval()
    with torch.no_grad():
        output, feat_BTD = model(CLIP), model.encoder(CLIP)
    for width, project, matched in zip((5, 7), model.projections, output["matched"], strict=True):
        assert matched.shape == (3, 8, width)
        one = feat_BTD[1, 3] @ project.weight.T + project.bias
        torch.testing.assert_close(matched[1, 3], one)


def test_the_same_seed_gives_the_same_heads_and_leaves_global_state_alone():
    torch.manual_seed(3)
    state = torch.get_rng_state()
    models = [FusionModel(build_encoder(SMALL, 0), TWO_HEAD, seed=seed) for seed in (1, 1, 2)]
    assert torch.equal(torch.get_rng_state(), state)
    heads = [model.action_head.weight for model in models]
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kinds": KINDS[:1]}, "at least 2 different kinds"),
        ({"num_actions": 1}, "at least 2, not 1"),
        ({"action_weight": -1.0}, "0 or more and not all 0"),
        ({"action_weight": 0.0, "boundary_weight": 0.0}, "0 or more and not all 0"),
    ],
)
def test_settings_that_cannot_work_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        FusionSettings(**{"kinds": KINDS, "num_actions": 3} | fields)


def test_teachers_go_with_distillation_only():
    with pytest.raises(ValueError, match="there are 2"):
        FusionModel(build_encoder(SMALL, 0), TWO_HEAD, 0, teacher_widths=[64, 64])
    with pytest.raises(ValueError, match="there are 0"):
        FusionModel(build_encoder(SMALL, 0), replace(TWO_HEAD, matching_weight=1.0), 0)
