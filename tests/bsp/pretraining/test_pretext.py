"""Pretext heads, targets and losses of Section 3.3."""

from __future__ import annotations

import math

import pytest
import torch

from bsp.clips.plan import PAPER_KINDS, BoundaryKind
from bsp.encoders.build import build_encoder
from bsp.encoders.tsm import EncoderSettings
from bsp.pretraining.contract import PretextModel
from bsp.pretraining.pretext import PretextSettings, gaussian_heatmap

FOUR = PretextSettings(task="classification", kinds=PAPER_KINDS)
POINT = PretextSettings(task="regression", kinds=(BoundaryKind.DIFF_SPEED,))
ACTION = PretextSettings(task="action", num_actions=7)


def model(settings: PretextSettings, seed: int = 0) -> PretextModel:
    return PretextModel(build_encoder(EncoderSettings(width=8), 0), settings, seed)


def clips(batch: int = 3) -> torch.Tensor:
    return torch.randn(batch, 8, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("settings", "shape"), [(FOUR, (3, 4)), (POINT, (3, 8)), (ACTION, (3, 7))])
def test_output_shapes(settings, shape):
    assert model(settings)(clips()).shape == shape


@pytest.mark.parametrize(("settings", "outputs"), [(FOUR, 4), (POINT, 1), (ACTION, 7)])
def test_head_size(settings, outputs):
    bare = model(settings)
    head = sum(p.numel() for p in bare.parameters()) - sum(p.numel() for p in bare.encoder.parameters())
    assert head == (64 + 1) * outputs


def test_published_parameter_count_with_four_classes():
    whole = PretextModel(build_encoder(EncoderSettings(depth=18), 0), FOUR, 0)
    assert sum(p.numel() for p in whole.parameters()) == 11_178_564


def test_consensus_is_the_mean_of_the_frames_logits():
    net = model(FOUR).eval()
    torch.nn.init.normal_(net.head.bias, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        per_frame_BTK = net.encoder(clips()) @ net.head.weight.T + net.head.bias
        torch.testing.assert_close(net(clips()), per_frame_BTK.mean(1), atol=1e-6, rtol=1e-5)


def test_regression_reads_every_frame_by_itself():
    net = model(POINT).eval()
    with torch.no_grad():
        feat_BTD = net.encoder(clips())
        expected = (feat_BTD * net.head.weight[0]).sum(-1) + net.head.bias
        torch.testing.assert_close(net(clips()), expected, atol=1e-6, rtol=1e-5)


def test_head_start_and_seed():
    torch.manual_seed(1)
    state = torch.get_rng_state()
    wide = PretextSettings(task="action", num_actions=1000)
    first, same, other = model(wide, 3), model(wide, 3), model(wide, 4)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first.head.weight, same.head.weight)
    assert not torch.equal(first.head.weight, other.head.weight)
    assert first.head.weight.std().item() == pytest.approx(0.001, rel=0.02)
    assert first.head.weight.mean().item() == pytest.approx(0, abs=2e-5)
    assert not first.head.bias.any()


def test_heatmap_worked_example():
    """mu = 3, variance 4: one frame away exp(-1/8), two exp(-1/2), three exp(-9/8), four exp(-2)."""
    y_BT = gaussian_heatmap(torch.tensor([3.0, 3.5]), 8, 4.0)
    expected = [0.324652, 0.606531, 0.882497, 1.0, 0.882497, 0.606531, 0.324652, 0.135335]
    assert y_BT[0].tolist() == pytest.approx(expected, abs=1e-6)
    assert y_BT[1, 3].item() == y_BT[1, 4].item() == pytest.approx(math.exp(-0.25 / 8), abs=1e-6)
    assert gaussian_heatmap(torch.tensor([0.0]), 4, 0.5)[0, 2].item() == pytest.approx(math.exp(-4), abs=1e-6)


def test_default_variance_is_half_a_clip():
    assert POINT.heatmap_variance == EncoderSettings().frames / 2


def test_smooth_l1_by_hand():
    """Errors of 0.5 count 0.125, of 2 count 1.5, of 0 nothing; the mean is over all frames and clips."""
    mu_B = torch.tensor([1.0, 2.0])
    target_BT = gaussian_heatmap(mu_B, 4, POINT.heatmap_variance)
    output = target_BT + torch.tensor([[0.5, 0, 0, 0], [0, 0, 0, -2.0]])
    output.requires_grad_()
    loss, stats = POINT.loss(output, {"label": torch.zeros(2, dtype=torch.int64), "change_point": mu_B})
    assert loss.item() == pytest.approx((0.125 + 1.5) / 8, abs=1e-6)
    # argmax of the first clip moves to frame 0 (0.882 + 0.5 > 1), one frame off; the second stays on mu.
    assert stats["change_point_error"].item() == pytest.approx(0.5)
    loss.backward()
    assert output.grad[0].tolist() == pytest.approx([0.5 / 8, 0, 0, 0], abs=1e-6)
    assert output.grad[1].tolist() == pytest.approx([0, 0, 0, -1 / 8], abs=1e-6)


def test_change_point_error_between_frames():
    output = torch.zeros(1, 8)
    output[0, 6] = 1
    _, stats = POINT.loss(output, {"label": torch.zeros(1, dtype=torch.int64), "change_point": torch.tensor([3.5])})
    assert stats["change_point_error"].item() == 2.5


@pytest.mark.parametrize("settings", [FOUR, ACTION])
def test_cross_entropy_by_hand(settings):
    """Logits ln 3, 0, 0, 0: the first class has probability 1/2, each other one 1/6."""
    logits = torch.tensor([[math.log(3.0), 0, 0, 0]] * 2)
    nan = torch.full((2,), float("nan"))  # plain action clips have no change point
    loss, stats = settings.loss(logits, {"label": torch.tensor([0, 2]), "change_point": nan})
    assert loss.item() == pytest.approx((math.log(2) + math.log(6)) / 2, abs=1e-6)
    assert stats["accuracy"].item() == 0.5


def test_bfloat16_output_is_reduced_in_float32():
    logits = torch.zeros(2, 4, dtype=torch.bfloat16)
    loss, _ = FOUR.loss(logits, {"label": torch.tensor([0, 1]), "change_point": torch.zeros(2)})
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(math.log(4), abs=1e-6)


@pytest.mark.parametrize("settings", [FOUR, POINT, ACTION])
def test_a_few_steps_fit_a_batch(settings):
    net = model(settings)
    clip, label, mu = clips(4), torch.tensor([0, 1, 2, 3]), torch.tensor([1.0, 3.0, 4.0, 6.0])
    optimiser = torch.optim.Adam(net.parameters(), lr=3e-3)
    losses = []
    for _ in range(15):
        loss, _ = settings.loss(net(clip), {"label": label, "change_point": mu})
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_dropout_only_while_training():
    net = model(PretextSettings(task="action", num_actions=3, dropout=0.5))
    net.encoder.eval()
    clip = clips(1)
    with torch.no_grad():
        assert torch.equal(net.eval()(clip), net(clip))
        net.head.dropout.train()
        assert not torch.equal(net(clip), net(clip))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"task": "ranking"}, "ranking"),
        ({"task": "classification", "kinds": (BoundaryKind.DIFF_CLASS,)}, "at least 2 kinds"),
        ({"task": "classification", "kinds": (BoundaryKind.DIFF_CLASS,) * 2}, "differ"),
        ({"task": "regression"}, "change point"),
        ({"task": "regression", "kinds": (BoundaryKind.DIFF_SPEED, BoundaryKind.SAME_SPEED)}, "SAME_SPEED"),
        ({"task": "action", "num_actions": 1}, "num_actions .* 1"),
        ({"task": "action", "num_actions": 2, "dropout": 1.0}, r"dropout .* 1\.0"),
        ({"task": "action", "num_actions": 2, "heatmap_variance": 0.0}, r"heatmap_variance .* 0\.0"),
        ({"task": "action", "num_actions": 2, "heatmap_variance": math.nan}, "heatmap_variance .* nan"),
    ],
)
def test_settings_refuse(wrong, message):
    with pytest.raises(ValueError, match=message):
        PretextSettings(**wrong)
