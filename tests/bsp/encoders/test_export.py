"""Encoders as programs of their own give the same features, for any number of clips."""

from __future__ import annotations

import json
import sys

import pytest
import torch
from click.testing import CliRunner

from bsp.encoders.build import build_encoder
from bsp.encoders.export import export_onnx, export_program, save_program
from bsp.encoders.tsm import EncoderSettings
from bsp.encoders.tsm_lite0 import TSMLite0Settings
from bsp.errors import MissingExtra
from bsp.models.folder import write_model
from bsp.models.model import Model
from bsp.models.streams import stream_of
from bsp_platform.cli.main import main
from toy_encoder import ToyEncoder, ToyEncoderSettings

EVERY = [
    EncoderSettings(width=8),
    EncoderSettings(depth=50, width=8),
    TSMLite0Settings(width=0.25),
    ToyEncoderSettings(),
]


def encoder_of(settings):
    """With batch norms whose statistics are not those of the beginning."""
    encoder = ToyEncoder(settings, 0) if isinstance(settings, ToyEncoderSettings) else build_encoder(settings, 0)
    with torch.no_grad():
        encoder.train()(torch.rand(2, encoder.clip_frames, 3, 32, 32))
    return encoder.eval()


def clips_of(encoder, count: int) -> torch.Tensor:
    return torch.randn(count, encoder.clip_frames, 3, 32, 32, generator=torch.Generator().manual_seed(count))


@pytest.mark.long
@pytest.mark.parametrize("settings", EVERY, ids=lambda settings: settings.name)
def test_the_exported_program_gives_the_same_features(settings, tmp_path):
    encoder = encoder_of(settings)
    save_program(encoder, tmp_path / "encoder.pt2", 32)
    program = torch.export.load(tmp_path / "encoder.pt2").module()
    for count in (1, 3):
        clips = clips_of(encoder, count)
        with torch.no_grad():
            torch.testing.assert_close(program(clips), encoder(clips), rtol=1e-5, atol=1e-5)
    assert all(value.requires_grad for value in encoder.parameters())  # itself unchanged
    with pytest.raises(FileExistsError):
        save_program(encoder, tmp_path / "encoder.pt2", 32)


@pytest.mark.long
@pytest.mark.parametrize("settings", [EVERY[0], EVERY[2], EVERY[3]], ids=lambda settings: settings.name)
def test_onnx_runtime_gives_the_same_features(settings, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    encoder = encoder_of(settings)
    export_onnx(encoder, tmp_path / "encoder.onnx", 32)
    assert [path.name for path in tmp_path.iterdir()] == ["encoder.onnx"]  # the weights are in it
    session = onnxruntime.InferenceSession(tmp_path / "encoder.onnx")
    for count in (1, 3):
        clips = clips_of(encoder, count)
        with torch.no_grad():
            expected = encoder(clips)
        (features,) = session.run(["features"], {"clips": clips.numpy()})
        torch.testing.assert_close(torch.from_numpy(features), expected, rtol=1e-4, atol=1e-4)


def test_what_cannot_be_exported(monkeypatch, tmp_path):
    class Fixed(ToyEncoderSettings):
        size_px = 16

    with pytest.raises(ValueError, match="takes images of 16 px only, not 32"):
        export_program(ToyEncoder(Fixed(), 0), 32)
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(MissingExtra, match=r"bsp-platform\[onnx\]"):
        export_onnx(build_encoder(EVERY[0], 0), tmp_path / "encoder.onnx", 32)


@pytest.mark.long
def test_the_command_exports_the_encoder_of_a_model_folder(tmp_path):
    encoder = encoder_of(TSMLite0Settings(width=0.25))
    write_model(tmp_path / "model", Model(kind="encoder", streams=(stream_of(encoder, size_px=32),), provenance={}))
    command = ["export-encoder", "--model", str(tmp_path / "model"), "--out"]
    done = CliRunner().invoke(main, [*command, str(tmp_path / "encoder.pt2"), "--json"])
    assert done.exit_code == 0, done.output
    facts = json.loads(done.stdout)
    assert (facts["encoder"], facts["clips"]) == ("tsm_lite0w0.25", ["any", 8, 3, 32, 32])
    assert facts["mean"] == pytest.approx([127 / 255] * 3)
    clips = clips_of(encoder, 2)
    with torch.no_grad():
        features = torch.export.load(tmp_path / "encoder.pt2").module()(clips)
        torch.testing.assert_close(features, encoder(clips), rtol=1e-5, atol=1e-5)
    again = CliRunner().invoke(main, [*command, str(tmp_path / "encoder.pt2")])
    assert again.exit_code == 1
    assert CliRunner().invoke(main, [*command, str(tmp_path / "encoder.bin")]).exit_code == 2
    none = CliRunner().invoke(main, [*command, str(tmp_path / "other.pt2"), "--stream", "1"])
    assert (none.exit_code, "has 1 streams, none is number 1" in none.output) == (1, True)
