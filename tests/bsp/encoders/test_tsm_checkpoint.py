"""Loading published TSM weights and plain ResNets into the encoder."""

from __future__ import annotations

import argparse
import datetime

import numpy as np
import pytest
import torch

from bsp.encoders.build import build_encoder
from bsp.encoders.checkpoints import checkpoint_settings, load_checkpoint
from bsp.encoders.tsm import EncoderSettings
from bsp.errors import FileError

TINY = EncoderSettings(width=8)
BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
BOTTLENECK = (50, 101)


def published(depth: int = 18, width: int = 8, *, net: str = ".net", counts: bool = True) -> dict:
    """A state dict with the release's names and shapes; entry k of the dict is filled with its own values."""
    shapes: dict[str, tuple[int, ...]] = {}

    def norm(name: str, channels: int) -> None:
        for part in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{name}.{part}"] = (channels,)
        if counts:
            shapes[f"{name}.num_batches_tracked"] = ()

    shapes["conv1.weight"] = (width, 3, 7, 7)
    norm("bn1", width)
    inputs = width
    for stage, blocks in enumerate(BLOCKS[depth], 1):
        planes = width * 2 ** (stage - 1)
        outputs = planes * (4 if depth in BOTTLENECK else 1)
        for index in range(blocks):
            block = f"layer{stage}.{index}"
            if depth in BOTTLENECK:
                kernels = ((planes, inputs, 1, 1), (planes, planes, 3, 3), (outputs, planes, 1, 1))
            else:
                kernels = ((planes, inputs, 3, 3), (planes, planes, 3, 3))
            for k, shape in enumerate(kernels, 1):
                shapes[f"{block}.conv{k}{net if k == 1 else ''}.weight"] = shape
                norm(f"{block}.bn{k}", shape[0])
            if index == 0 and (stage > 1 or depth in BOTTLENECK):
                shapes[f"{block}.downsample.0.weight"] = (outputs, inputs, 1, 1)
                norm(f"{block}.downsample.1", outputs)
            inputs = outputs
    state = {}
    for k, (name, shape) in enumerate(shapes.items()):
        generator = torch.Generator().manual_seed(k)
        value = torch.rand(shape, generator=generator) if shape else torch.tensor(100 + k)
        state[f"module.base_model.{name}"] = value
    state["module.new_fc.weight"] = torch.zeros(400, inputs)
    state["module.new_fc.bias"] = torch.zeros(400)
    return state


@pytest.mark.parametrize("depth", [18, 50])
def test_published_file_lands_in_the_right_places(depth, tmp_path):
    path = tmp_path / "tsm.pth"
    state = published(depth)
    torch.save({"epoch": 50, "arch": f"resnet{depth}", "state_dict": state, "best_prec1": 70.1}, path)
    encoder = build_encoder(EncoderSettings(depth=depth, width=8), 0)
    report = load_checkpoint(encoder, path)
    loaded = encoder.state_dict()
    assert len(report.matched) == len(report.renamed) == len(loaded) == len(state) - 2
    assert set(report.unused) == {"module.new_fc.weight", "module.new_fc.bias"}
    assert report.missing == ()
    for ours, theirs in {
        "conv1.weight": "conv1.weight",
        "layer1.0.conv1.weight": "layer1.0.conv1.net.weight",
        "layer1.0.conv2.weight": "layer1.0.conv2.weight",
        "layer2.0.downsample.0.weight": "layer2.0.downsample.0.weight",
        "layer3.1.bn2.running_var": "layer3.1.bn2.running_var",
        "layer4.1.bn1.num_batches_tracked": "layer4.1.bn1.num_batches_tracked",
    }.items():
        assert torch.equal(loaded[ours], state[f"module.base_model.{theirs}"]), ours
    assert ("module.base_model.layer4.1.conv1.net.weight", "layer4.1.conv1.weight") in report.renamed


def test_torchvision_names_and_absent_counters():
    """Plain ResNet names with "fc" and, as in old files, without num_batches_tracked."""
    state = {k.removeprefix("module.base_model."): v for k, v in published(net="", counts=False).items()}
    state["fc.weight"] = state.pop("module.new_fc.weight")
    state["fc.bias"] = state.pop("module.new_fc.bias")
    encoder = build_encoder(TINY, 0)
    report = load_checkpoint(encoder, state)
    assert report.renamed == ()
    assert report.unused == ("fc.weight", "fc.bias")
    assert len(report.missing) == 20  # one per batch norm: stem, two per block, three shortcuts
    assert all(name.endswith("num_batches_tracked") for name in report.missing)
    assert torch.equal(encoder.layer4[1].conv1.weight, state["layer4.1.conv1.weight"])


def test_own_state_dict_round_trip(tmp_path):
    first, second = build_encoder(TINY, 1), build_encoder(TINY, 2)
    torch.save({"name": "x", "encoder": first.state_dict()}, tmp_path / "encoder.pt")
    load_checkpoint(second, tmp_path / "encoder.pt")
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def without(state: dict, part: str) -> dict:
    return {k: v for k, v in state.items() if part not in k}


def flow() -> dict:
    return published() | {"module.base_model.conv1.weight": torch.zeros(8, 10, 7, 7)}


def in_place() -> dict:
    return {k.replace(".conv1.net", ".net.conv1"): v for k, v in published().items()}


def every_second() -> dict:
    return {k.replace(".1.conv1.net", ".1.conv1"): v for k, v in published().items()}


def not_finite() -> dict:
    state = published()
    state["module.base_model.layer2.0.bn1.running_var"][3] = float("nan")
    return state


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (lambda: published(50), "ResNet-50 of width 8, the encoder is a ResNet-18 of width 8"),
        (lambda: published(width=16), "ResNet-18 of width 16, the encoder is a ResNet-18 of width 8"),
        (flow, "optical flow"),
        (lambda: without(published(), "layer3.1.bn2.running_mean"), "1 entries are missing.*layer3.1.bn2"),
        (
            lambda: published() | {"module.base_model.layer1.0.extra.weight": torch.zeros(1)},
            "1 entries that the encoder does not have.*layer1.0.extra.weight",
        ),
        (
            lambda: published() | {"module.base_model.layer1.0.bn1.weight": torch.zeros(9)},
            r"layer1.0.bn1.weight \[9\] instead of \[8\]",
        ),
        (
            lambda: published() | {"module.layer1.0.conv1.weight": torch.zeros(8, 8, 3, 3)},
            "are the same layer layer1.0.conv1.weight",
        ),
        (in_place, "in-place shift"),
        (every_second, "only 4 of 8 blocks are shifted"),
        (not_finite, "not finite.*layer2.0.bn1.running_var"),
        (lambda: {"a": torch.zeros(2)}, "no ResNet in it"),
        (lambda: {"state_dict": {"epoch": 3}}, "no tensors in it"),
        (lambda: [1, 2], "holds a list"),
    ],
)
def test_wrong_files_are_refused_and_change_nothing(content, reason, tmp_path):
    path = tmp_path / "wrong.pth"
    torch.save(content(), path)
    encoder = build_encoder(TINY, 0)
    before = {k: v.clone() for k, v in encoder.state_dict().items()}
    with pytest.raises(ValueError, match=rf"wrong\.pth: .*{reason}"):
        load_checkpoint(encoder, path)
    assert all(torch.equal(before[k], v) for k, v in encoder.state_dict().items())


def test_shifted_weights_into_an_unshifted_encoder_are_refused():
    with pytest.raises(ValueError, match="shift=False"):
        load_checkpoint(build_encoder(EncoderSettings(width=8, shift=False), 0), published())


@pytest.mark.parametrize("depth", [18, 34, 50])
@pytest.mark.parametrize("net", [".net", ""])
def test_architecture_is_read_from_the_weights(depth, net, tmp_path):
    path = tmp_path / "weights.pth"
    torch.save({"state_dict": published(depth, net=net)}, path)
    assert checkpoint_settings(path) == EncoderSettings(depth=depth, width=8)
    load_checkpoint(build_encoder(EncoderSettings(depth=depth, width=8), 0), path)


@pytest.mark.parametrize("settings", [TINY, EncoderSettings(depth=50, width=4, shift=False)])
def test_architecture_of_our_own_encoders(settings, tmp_path):
    path = tmp_path / "encoder.pt"
    torch.save({"name": "x", "encoder": build_encoder(settings, 0).state_dict()}, path)
    random_state = torch.get_rng_state()
    found = checkpoint_settings(path)
    assert (found.depth, found.width) == (settings.depth, settings.width)
    assert torch.equal(torch.get_rng_state(), random_state)


def with_stem(*shape: int) -> dict:
    return published() | {"module.base_model.conv1.weight": torch.zeros(shape)}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (lambda: published(101), "holds a ResNet-101; supported are ResNet-18, 34, 50"),
        (lambda: without(published(), "layer4.1"), r"basic blocks \[2, 2, 2, 1\]"),
        (lambda: with_stem(8, 3, 3, 7, 7), r"3-D convolutions \(conv1 is \[8, 3, 3, 7, 7\]\)"),
        (lambda: with_stem(8, 3, 3, 3), r"conv1.weight is \[8, 3, 3, 3\] instead of \[width, 3, 7, 7\]"),
        (lambda: without(published(), "base_model.conv1"), "without the first convolution conv1.weight"),
        # everything that loading refuses
        (flow, "optical flow"),
        (in_place, "in-place shift"),
        (every_second, "only 4 of 8 blocks are shifted"),
        (not_finite, "not finite"),
        (lambda: without(published(), "layer3.1.bn2.running_mean"), "1 entries are missing"),
        (lambda: {"fc.weight": torch.zeros(400, 512)}, "no ResNet in it"),
    ],
)
def test_architectures_that_no_encoder_has_are_refused(content, reason, tmp_path):
    path = tmp_path / "wrong.pth"
    torch.save(content(), path)
    with pytest.raises(ValueError, match=rf"wrong\.pth: .*{reason}"):
        checkpoint_settings(path)


def test_report_reads_well():
    lines = str(load_checkpoint(build_encoder(TINY, 0), published(counts=False))).splitlines()
    assert [line.split()[:2] for line in lines if not line.startswith(" ")] == [
        ["matched", "100"],  # 17 convolutions and 3 shortcuts, each with a norm of four vectors
        ["renamed", "100"],
        ["unused", "2"],
        ["missing", "20"],
    ]
    assert lines[2].split() == ["module.base_model.conv1.weight", "->", "conv1.weight"]
    assert "and 94 more" in lines[8]
    assert "module.new_fc.weight" in lines[10]


@pytest.mark.parametrize("damage", ["truncated", "text", "empty"])
def test_files_that_are_no_checkpoint_are_refused(damage, tmp_path):
    path = tmp_path / "bad.pth"
    torch.save({"state_dict": published()}, path)
    path.write_bytes({"truncated": path.read_bytes()[:5000], "text": b"Not found", "empty": b""}[damage])
    with pytest.raises(FileError, match=r"bad\.pth: (neither PyTorch's format nor safetensors|a damaged archive)"):
        load_checkpoint(build_encoder(TINY, 0), path)
    with pytest.raises(FileNotFoundError):
        load_checkpoint(build_encoder(TINY, 0), tmp_path / "absent.pth")


@pytest.mark.parametrize("key", ["model", "model_state_dict", "net", "module", "encoder", "something"])
def test_weights_are_found_wherever_a_program_puts_them(key, tmp_path):
    """Beside them lie what programs save too; the average of the weights comes after the weights."""
    encoder = build_encoder(TINY, 1)
    optimiser = torch.optim.SGD(encoder.parameters(), lr=0.1, momentum=0.9)
    average = {k: torch.zeros_like(v) for k, v in encoder.state_dict().items()}
    state = {f"module.backbone.{k}": v for k, v in encoder.state_dict().items()}
    state = {"optimizer": optimiser.state_dict(), key: state, "z_average": average, "best": np.float64(0.7)}
    torch.save(state | {"args": argparse.Namespace(lr=0.1), "when": datetime.date(2020, 1, 1)}, tmp_path / "x.pth")
    found = build_encoder(TINY, 2)
    load_checkpoint(found, tmp_path / "x.pth")
    assert all(torch.equal(a, b) for a, b in zip(encoder.parameters(), found.parameters(), strict=True))


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("layer1.0.conv1.net.weight", 1e20, "values above 1e.08.*layer1.0.conv1.weight"),
        ("layer2.0.bn1.running_var", -1.0, "negative variances, in .*layer2.0.bn1.running_var"),
        ("layer2.0.bn1.bias", float("inf"), "not finite in .*layer2.0.bn1.bias"),
    ],
)
def test_values_that_no_training_leaves_are_refused(name, value, reason):
    state = published()
    state[f"module.base_model.{name}"].view(-1)[0] = value
    with pytest.raises(FileError, match=reason):
        load_checkpoint(build_encoder(TINY, 0), state)


def test_quantised_weights_are_refused():
    state = {k: v.to(torch.int8) if v.ndim == 4 else v for k, v in published().items()}
    with pytest.raises(FileError, match=r"no plain floating-point numbers: \['conv1.weight \(torch.int8\)'"):
        load_checkpoint(build_encoder(TINY, 0), state)
