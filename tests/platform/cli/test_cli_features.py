"""``bsp features`` and ``bsp weights``: what they write and say, wrong files and wrong usage in one line."""

from __future__ import annotations

import hashlib
import json
import re

import h5py
import numpy as np
import pytest
import safetensors.torch
import torch
from click.testing import CliRunner

from bsp.encoders.build import build_encoder
from bsp.encoders.checkpoints import load_checkpoint
from bsp.encoders.tsm import EncoderSettings
from bsp.features.store import FeatureInfo, read_features, write_features
from bsp_platform.cli.main import main


def run(*args):
    return CliRunner().invoke(main, [str(arg) for arg in args])


@pytest.fixture
def store(tmp_path):
    """Features of the videos a (6 snippets) and b (12)."""
    for video_id, rows in (("a", 6), ("b", 12)):
        info = FeatureInfo(
            video_id=video_id, frames=8 * rows, fps=24.0, snippet_frames=8, stride_frames=8, offset_frames=0,
            size_px=224, mean=(0.5,) * 3, std=(0.2,) * 3, feature_width=4, snippets=rows, encoder_hash="h",
            code_version=1,
        )  # fmt: skip
        write_features(tmp_path / "store", video_id, np.full((rows, 4), rows, np.float32), info)
    return tmp_path / "store"


@pytest.fixture
def annotations(tmp_path):
    path = tmp_path / "activitynet.json"
    videos = {"a": 2.0, "b": 4.0, "absent": 9.0}
    database = {i: {"subset": "training", "duration": s, "annotations": []} for i, s in videos.items()}
    path.write_text(json.dumps({"database": database}))
    return path


def test_export_and_import_back(store, annotations, tmp_path):
    out = tmp_path / "anet.h5"
    result = run("features", "export", "--features", store, "--format", "gtad", "--prefix", "v_", "--out", out)
    assert result.exit_code == 0, result.output
    assert "2 videos, 18 rows of width 4" in result.output
    with h5py.File(out) as file:
        assert {name: data.shape for name, data in file.items()} == {"v_a": (6, 4), "v_b": (12, 4)}
    back = ("features", "import", "--format", "gtad", "--prefix", "v_", "--from", out)
    timing = ("--fps", 24, "--stride-frames", 8)
    result = run(*back, *timing, "--annotations", annotations, "--out", tmp_path / "back")
    assert result.exit_code == 0, result.output
    assert "1 in the annotations, but not among the features: absent" in result.output
    feat_SD, info = read_features(tmp_path / "back", "b")
    assert (feat_SD[0, 0], info.frames, info.snippet_frames, info.fps) == (12, 96, 8, 24.0)
    result = run(*back, *timing, "--snippet-frames", 64, "--offset-frames", 4, "--out", tmp_path / "other")
    assert result.exit_code == 0, result.output
    info = read_features(tmp_path / "other", "b")[1]
    assert (info.snippet_frames, info.offset_frames, info.frames) == (64, 4, 4 + 11 * 8 + 64)


def test_cells_are_spread_over_the_durations(store, annotations, tmp_path):
    out = tmp_path / "openTAD"
    run("features", "export", "--features", store, "--format", "openTAD", "--out", out, "--cells", 3)
    assert np.load(out / "b.npy").shape == (3, 4)
    (tmp_path / "more.json").write_text('{"c": 1.5}')
    result = run(
        "features", "import", "--format", "openTAD", "--from", out, "--out", tmp_path / "back",
        "--annotations", annotations, "--annotations", tmp_path / "more.json",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    info = read_features(tmp_path / "back", "b")[1]
    assert info.stride_frames / info.fps == pytest.approx(4 / 3)


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--fps", "24"], 2, "--fps and --stride-frames go together"),
        (["--offset-frames", "4"], 2, "--fps and --stride-frames go together"),
        ([], 2, "--annotations to spread the rows evenly"),
        (["--fps", "nan", "--stride-frames", "8"], 2, "--fps"),
        (["--fps", "0", "--stride-frames", "8"], 2, "--fps"),
        (["--fps", "24", "--stride-frames", "8", "--prefix", "v_"], 1, "2 of 2 names do not begin with 'v_'"),
        (["--fps", "24", "--stride-frames", "2", "--annotations", "ANNOTATIONS"], 1, "Check frame rate and stride"),
        (["--annotations", "ANNOTATIONS", "--annotations", "OTHER"], 1, "a lasts 7.0 s, but 2.0 s in another file"),
    ],
)
def test_imports_that_cannot_be_right(options, code, message, store, annotations, tmp_path):
    run("features", "export", "--features", store, "--format", "lgi", "--out", tmp_path / "lgi")
    (tmp_path / "other.json").write_text('{"a": 7}')
    options = [{"ANNOTATIONS": annotations, "OTHER": tmp_path / "other.json"}.get(o, o) for o in options]
    out = tmp_path / "out"
    result = run("features", "import", "--format", "lgi", "--from", tmp_path / "lgi", "--out", out, *options)
    assert result.exit_code == code
    assert message in result.output
    assert "Traceback" not in result.output
    assert not out.exists()


def test_export_does_not_overwrite(store, tmp_path):
    result = run("features", "export", "--features", store, "--format", "csv", "--out", store)
    assert (result.exit_code, "is there already" in result.output) == (1, True)
    result = run("features", "export", "--features", tmp_path / "no", "--format", "csv", "--out", tmp_path / "x")
    assert result.exit_code == 2


@pytest.fixture
def checkpoint(tmp_path):
    """A released file of TSM as far as names go: shifted ResNet-18 of width 8, with a classifier."""
    path = tmp_path / "tsm.pth"
    state = build_encoder(EncoderSettings(width=8), 3).state_dict()
    theirs = {f"module.base_model.{name}".replace(".conv1.weight", ".conv1.net.weight"): v for name, v in state.items()}
    theirs["module.base_model.conv1.weight"] = theirs.pop("module.base_model.conv1.net.weight")
    torch.save({"state_dict": theirs | {"module.new_fc.weight": torch.zeros(4, 64)}}, path)
    return path


def test_weights_are_described_and_written(checkpoint, tmp_path):
    out = tmp_path / "encoder.pt"
    result = run("weights", checkpoint, "--out", out)
    assert result.exit_code == 0, result.output
    assert "ResNet-18 of width 8, features of 64 numbers" in result.output
    lines = result.output.splitlines()
    assert next(line for line in lines if line.startswith("matched")).split()[1] == "120"
    assert "module.base_model.conv1.weight -> conv1.weight" in result.output
    assert "module.new_fc.weight" in result.output
    encoder = build_encoder(EncoderSettings(width=8), 0)
    report = load_checkpoint(encoder, out)
    assert report.renamed == ()
    expected = build_encoder(EncoderSettings(width=8), 3)
    assert all(torch.equal(a, b) for a, b in zip(encoder.parameters(), expected.parameters(), strict=True))
    result = run("weights", checkpoint, "--out", out)
    assert (result.exit_code, "is there already" in result.output) == (1, True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--depth", "50"], "holds a ResNet-18 of width 8, the encoder is a ResNet-50 of width 8"),
        (["--width", "64"], "holds a ResNet-18 of width 8, the encoder is a ResNet-18 of width 64"),
    ],
)
def test_weights_of_another_architecture(options, message, checkpoint):
    result = run("weights", checkpoint, *options)
    assert result.exit_code == 1
    assert message in result.output


def test_wrong_weights_are_refused_with_the_reason(tmp_path):
    path = tmp_path / "page.pth"
    path.write_text("<html>")
    result = run("weights", path)
    assert result.exit_code == 1
    assert "neither PyTorch's format nor safetensors" in result.output
    torch.save({"conv1.weight": torch.zeros(64, 10, 7, 7)}, path)
    assert "trained on optical flow" in run("weights", path, "--out", tmp_path / "x.pt").output
    assert not (tmp_path / "x.pt").exists()


def test_safetensors_and_their_hash(checkpoint, tmp_path):
    """The format has no checksum of its own; a name may hold one, or the user gives it."""
    state = torch.load(checkpoint, weights_only=True)
    state = {key: value.contiguous() for key, value in state.get("state_dict", state).items()}
    path = tmp_path / "tsm.safetensors"
    safetensors.torch.save_file(state, path)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    found = run("weights", path, "--sha256", sha256[:12])
    assert found.exit_code == 0, found.output
    assert "ResNet-18 of width 8" in found.output
    assert f"SHA-256  {sha256}" in found.output
    other = run("weights", path, "--sha256", "0" * 64)
    assert (other.exit_code, f"its SHA-256 is {sha256}, not 0000" in other.output) == (1, True)


def test_the_package_of_image_weights_is_described(tmp_path):
    from bsp.encoders.start import image_weights_file

    result = run("weights", image_weights_file(), "--out", tmp_path / "ours.pt")
    assert result.exit_code == 0, result.output
    assert "EfficientNet-Lite0 of width 1, features of 1280 numbers" in result.output
    assert re.search(r"matched +294 .*\n.*renamed +294 .*\n.*_conv_stem.weight -> conv_stem.weight", result.output)
    again = run("weights", tmp_path / "ours.pt")
    assert "renamed     0" in again.output
    refused = run("weights", tmp_path / "ours.pt", "--depth", "18")
    assert refused.exit_code == 1
    assert "EfficientNet-Lite0 of width 1, but --depth and --width are of a ResNet" in refused.output
