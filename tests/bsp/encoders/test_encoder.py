"""The TSM encoder: shift, sizes, and initialisation."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bsp.encoders.build import build_encoder, flops_per_clip
from bsp.encoders.tsm import EncoderSettings, shift_reference, temporal_shift
from bsp.pretraining.loop import parameter_groups

TINY = EncoderSettings(width=8)


def clips(batch: int = 2, size: int = 32, seed: int = 0) -> torch.Tensor:
    return torch.randn(batch, 8, 3, size, size, generator=torch.Generator().manual_seed(seed))


# --- the shift ---


@pytest.mark.parametrize("shift", [shift_reference, temporal_shift])
def test_worked_example(shift):
    """C = 8, T = 3, x[t][c] = 10 t + c: channel 0 -> 10 20 0, channel 1 -> 0 1 11, the rest unchanged."""
    x_TC = torch.tensor([[10.0 * t + c for c in range(8)] for t in range(3)])
    out_TC = shift(x_TC[:, :, None, None], 3, 1)[:, :, 0, 0]
    assert out_TC[:, 0].tolist() == [10, 20, 0]
    assert out_TC[:, 1].tolist() == [0, 1, 11]
    assert torch.equal(out_TC[:, 2:], x_TC[:, 2:])


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("frames", "fold"), [(8, 2), (4, 3), (1, 2), (8, 8), (8, 0)])
def test_fast_shift_equals_reference(layout, dtype, frames, fold):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(16, 16, 5, 4, generator=generator).to(dtype).contiguous(memory_format=layout)
    before = x.clone()
    out = temporal_shift(x, frames, fold)
    assert torch.equal(out, shift_reference(x, frames, fold))
    assert torch.equal(x, before), "the shift wrote into its input, which the shortcut still needs"
    assert out.stride() == x.stride()


@pytest.mark.long
def test_compiled_shift_is_one_graph_and_equals_reference():
    """The graph capture of torch.compile; the compiler itself needs a GPU, or a C++ compiler on a CPU."""
    x = torch.randn(6, 8, 2, 3, requires_grad=True)
    compiled = torch.compile(temporal_shift, backend="aot_eager", fullgraph=True)
    out, expected = compiled(x, 3, 2), shift_reference(x, 3, 2)
    assert torch.equal(out, expected)
    weight = torch.randn(6, 8, 2, 3)
    ours = torch.autograd.grad((out * weight).sum(), x)[0]
    assert torch.equal(ours, torch.autograd.grad((expected * weight).sum(), x)[0])


def test_shift_gradient():
    x = torch.randn(6, 8, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    assert torch.autograd.gradcheck(lambda v: temporal_shift(v, 3, 2), x.requires_grad_())


def test_nothing_crosses_clips():
    x = torch.zeros(16, 8, 1, 1)
    x[8:] = 1  # the second clip of two
    out = temporal_shift(x, 8, 1)
    assert not out[:8].any()
    assert out[8, 1].item() == 0  # zero, not the other clip or the own last frame, enters at the front
    assert out[15, 0].item() == 0


@pytest.mark.parametrize(("depth", "shifts"), [(18, 8), (34, 16), (50, 16)])
def test_number_and_place_of_shifts(depth, shifts, monkeypatch):
    import bsp.encoders.tsm as module

    calls = []
    monkeypatch.setattr(module, "temporal_shift", lambda x, frames, fold: calls.append((x.shape[1], fold)) or x)
    encoder = build_encoder(EncoderSettings(depth=depth, width=16), 0).eval()
    with torch.no_grad():
        encoder(clips(1))
    assert len(calls) == shifts
    assert all(fold == channels // 8 for channels, fold in calls)  # of the block's input channels
    assert calls[0][0] == 16
    assert calls[1][0] == (64 if depth == 50 else 16)


@pytest.mark.parametrize("depth", [18, 50])
def test_shortcut_is_not_shifted(depth):
    """With a branch that gives zero, a block is ReLU of its (unshifted) shortcut."""
    encoder = build_encoder(EncoderSettings(depth=depth, width=8), 0).eval()
    block = encoder.layer1[1]
    last = block.bn3 if depth == 50 else block.bn2
    nn.init.zeros_(last.weight)
    x = torch.randn(8, 32 if depth == 50 else 8, 6, 6, generator=torch.Generator().manual_seed(3))
    before = x.clone()
    with torch.no_grad():
        assert torch.equal(block(x), before.relu())


# --- the network ---


def test_only_neighbours_and_beyond_see_a_frame():
    """A change of one frame reaches others with the shift, and none without it."""
    first = clips(1)
    second = first.clone()
    second[0, 4] += 1
    for shift in (True, False):
        encoder = build_encoder(EncoderSettings(width=8, shift=shift), 0).eval()
        with torch.no_grad():
            changed_T = (encoder(first) != encoder(second))[0].any(dim=1).tolist()
        assert changed_T[4]
        assert any(changed_T[:4] + changed_T[5:]) is shift


def test_clips_do_not_mix():
    encoder = build_encoder(TINY, 0).eval()
    first, second = clips(2, seed=4), clips(2, seed=4)
    second[1] = 0
    with torch.no_grad():
        assert torch.allclose(encoder(first)[0], encoder(second)[0], atol=1e-6)
        assert not torch.allclose(encoder(first)[1], encoder(second)[1], atol=1e-2)


def test_without_shift_it_is_a_resnet_per_frame():
    """Against a second, straight-line ResNet-18 written with functional calls from the state dict."""
    encoder = build_encoder(EncoderSettings(width=8, shift=False), 5).eval()
    generator = torch.Generator().manual_seed(6)
    for name, value in encoder.state_dict().items():  # statistics that a training run might leave
        if "running" in name or ("bn" in name and value.is_floating_point()):
            value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
    w = encoder.state_dict()
    clip = clips(2)

    def norm(x, name):
        mean, var = w[f"{name}.running_mean"], w[f"{name}.running_var"]
        scale = w[f"{name}.weight"] / (var + 1e-5).sqrt()
        return x * scale[:, None, None] + (w[f"{name}.bias"] - mean * scale)[:, None, None]

    def conv(x, name, stride, padding):
        return nn.functional.conv2d(x, w[f"{name}.weight"], None, stride, padding)

    x = norm(conv(clip.flatten(0, 1), "conv1", 2, 3), "bn1").clamp_min(0)
    x = nn.functional.max_pool2d(x, 3, 2, 1)
    for stage in (1, 2, 3, 4):
        for index in (0, 1):
            name = f"layer{stage}.{index}"
            stride = 2 if stage > 1 and index == 0 else 1
            branch = norm(conv(x, f"{name}.conv1", stride, 1), f"{name}.bn1").clamp_min(0)
            branch = norm(conv(branch, f"{name}.conv2", 1, 1), f"{name}.bn2")
            if stride == 2:
                x = norm(conv(x, f"{name}.downsample.0", 2, 0), f"{name}.downsample.1")
            x = (x + branch).clamp_min(0)
    expected = x.flatten(2).mean(2).view(2, 8, 64)
    with torch.no_grad():
        torch.testing.assert_close(encoder(clip), expected, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize(
    ("depth", "backbone", "with_400", "feature", "gmacs_frame", "gmacs_clip"),
    [
        (18, 11_176_512, 11_381_712, 512, "1.814", "14.51"),
        (50, 23_508_032, 24_327_632, 2048, "4.088", "32.70"),
    ],
)
def test_published_sizes(depth, backbone, with_400, feature, gmacs_frame, gmacs_clip):
    settings = EncoderSettings(depth=depth)
    encoder = build_encoder(settings, 0)
    parameters = sum(p.numel() for p in encoder.parameters())
    assert parameters == backbone
    assert parameters + 400 * (encoder.feature_width + 1) == with_400
    assert encoder.feature_width == settings.feature_width == feature
    macs = flops_per_clip(settings, 224) / 2 + 8 * 400 * feature
    assert f"{macs / 8e9:.3f}" == gmacs_frame
    assert f"{macs / 1e9:.2f}" == gmacs_clip


@pytest.mark.parametrize(("depth", "size"), [(18, 64), (34, 56), (50, 48), (50, 45)])
def test_flops_are_two_per_product_of_the_convolutions_that_run(depth, size):
    """Against the shapes that convolutions really see, odd sizes included."""
    settings = EncoderSettings(depth=depth, width=8)
    encoder, counted = build_encoder(settings, 0).eval(), []

    def count(conv, inputs, output):
        per_pixel = conv.weight.shape[1:].numel()
        counted.append(output.numel() * per_pixel)

    for module in encoder.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(count)
    with torch.no_grad():
        assert encoder(clips(1, size)).shape == (1, 8, settings.feature_width)
    assert flops_per_clip(settings, size) == 2 * sum(counted)


def test_seed_decides_the_weights_and_global_state_stays():
    torch.manual_seed(11)
    before = torch.get_rng_state()
    first = build_encoder(TINY, 3)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(12)
    second, other = build_encoder(TINY, 3), build_encoder(TINY, 4)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert not torch.equal(first.conv1.weight, other.conv1.weight)
    clip = clips(1)
    with torch.no_grad():
        assert torch.equal(first.eval()(clip), second.eval()(clip))


def test_initialisation_is_kaiming_fan_out():
    weight = build_encoder(EncoderSettings(width=64), 0).layer3[0].conv1.weight  # 256 out, 128 in
    assert weight.std().item() == pytest.approx((2 / (256 * 9)) ** 0.5, rel=0.01)
    assert weight.mean().item() == pytest.approx(0, abs=1e-3)


def test_gradient_reaches_every_parameter():
    encoder = build_encoder(TINY, 0).train()
    encoder(clips(2)).square().sum().backward()
    silent = [name for name, p in encoder.named_parameters() if p.grad is None or not p.grad.any()]
    assert not silent


def test_memory_format_does_not_change_the_result():
    encoder = build_encoder(TINY, 0).eval()
    clip = clips(2)
    last = clip.flatten(0, 1).contiguous(memory_format=torch.channels_last).unflatten(0, (2, 8))
    with torch.no_grad():
        torch.testing.assert_close(encoder(clip), encoder(last), atol=1e-4, rtol=1e-4)


def test_wrong_input_is_refused():
    with pytest.raises(ValueError, match=r"clips \[B, 8, 3, H, W\], not \[1, 16, 3, 32, 32\]"):
        build_encoder(TINY, 0)(torch.zeros(1, 16, 3, 32, 32))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"depth": 19}, "depth .* 19"),
        ({"width": 0}, "width .* 0"),
        ({"frames": 0}, "frames .* 0"),
        ({"shift_div": 1}, "shift_div .* 1"),
        ({"width": 4}, "shift nothing|would shift"),
    ],
)
def test_settings_refuse(wrong, message):
    with pytest.raises(ValueError, match=message):
        EncoderSettings(**wrong)


def test_parameter_groups():
    encoder = build_encoder(TINY, 0)
    model = nn.ModuleDict({"encoder": encoder, "head": nn.Linear(64, 4)})
    decayed, plain = parameter_groups(model, 0.02, 1e-4)
    assert (decayed["lr"], decayed["weight_decay"], plain["lr"], plain["weight_decay"]) == (
        0.02,
        1e-4,
        0.02,
        0,
    )
    weights = [m.weight for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    norms = [p for m in model.modules() if isinstance(m, nn.BatchNorm2d) for p in (m.weight, m.bias)]
    assert {id(p) for p in decayed["params"]} == {id(p) for p in weights}
    assert {id(p) for p in plain["params"]} == {id(p) for p in [*norms, model["head"].bias]}
    encoder.requires_grad_(False)
    assert sum(len(group["params"]) for group in parameter_groups(model, 0.02, 1e-4)) == 2
