"""Files that stand for stages: a published checkpoint as the vanilla encoder, a published classification result."""

import json
import re
from pathlib import Path

import click
import numpy as np
import pytest
import torch
from click.testing import CliRunner

from bsp.datasets.class_scores import read_class_scores
from bsp.encoders.build import build_encoder
from bsp.encoders.tsm import EncoderSettings
from bsp_platform.plan.options import experiment_command
from bsp_platform.plan.profiles import paper, smoke
from bsp_platform.plan.recipes import EncoderRecipe
from bsp_platform.plan.sources import _given_weights
from bsp_platform.storage.files import file_sha256
from bsp_platform.work.heads import convert_class_scores
from bsp_platform.work.pretraining import given_encoder, load_encoder

WIDTH_8 = EncoderSettings(depth=18, width=8)


def save_checkpoint(path: Path, settings: EncoderSettings = WIDTH_8, seed: int = 5) -> dict:
    """A checkpoint with the names of TSM's release; returns the weights under the encoder's names."""
    state = build_encoder(settings, seed).state_dict()
    renamed = {re.sub(r"^(layer\d+\.\d+\.conv1)\.", r"\1.net.", name): value for name, value in state.items()}
    published = {f"module.base_model.{name}": value for name, value in renamed.items()}
    published["module.new_fc.weight"] = torch.zeros(400, settings.feature_width)
    torch.save({"epoch": 50, "state_dict": published}, path)
    return state


def test_a_published_checkpoint_becomes_an_encoder_stage_with_its_report(tmp_path):
    weights = save_checkpoint(tmp_path / "tsm.pth")
    recipe = EncoderRecipe(encoder=WIDTH_8, weights=file_sha256(tmp_path / "tsm.pth"), seed=3)
    folder = tmp_path / "stage"
    folder.mkdir()
    facts = given_encoder(folder, recipe, tmp_path / "tsm.pth")
    loaded = load_encoder(folder / "encoder.pt", recipe).state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in weights.items())
    report = (folder / "loading_report.txt").read_text()
    assert "tsm.pth" in report
    assert "module.new_fc.weight" in report  # unused, by name
    assert facts["name"].startswith("given_tsm_r18w8_")
    assert json.loads((folder / "history.json").read_text()) == []


def test_a_checkpoint_that_changed_meanwhile_is_refused(tmp_path):
    save_checkpoint(tmp_path / "tsm.pth")
    recipe = EncoderRecipe(encoder=WIDTH_8, weights=file_sha256(tmp_path / "tsm.pth"))
    save_checkpoint(tmp_path / "tsm.pth", seed=6)
    with pytest.raises(ValueError, match=r"tsm\.pth is no longer the file"):
        given_encoder(tmp_path, recipe, tmp_path / "tsm.pth")


def test_checkpoints_are_told_apart_by_depth_and_must_fit_the_profile(tmp_path):
    shallow, deep, twin = (tmp_path / name for name in ("r18.pth", "r50.pth", "r18b.pth"))
    save_checkpoint(shallow)
    save_checkpoint(deep, EncoderSettings(depth=50, width=8))
    save_checkpoint(twin, seed=6)
    found = _given_weights((shallow, deep), smoke(), "--vanilla-weights")
    assert {encoder.depth: Path(file.path).name for encoder, file in found.items()} == {18: "r18.pth", 50: "r50.pth"}
    assert found[WIDTH_8].sha256 == file_sha256(shallow)
    assert "module.new_fc.weight" in found[WIDTH_8].report
    with pytest.raises(ValueError, match=r"r18b\.pth: --vanilla-weights already has tsm_r18w8"):
        _given_weights((shallow, twin), smoke(), "--vanilla-weights")
    with pytest.raises(ValueError, match=r"r18\.pth: a ResNet-18 of width 8, not one of tsm_r18w64, .* profile paper"):
        _given_weights((shallow,), paper(), "--vanilla-weights")


@pytest.mark.long
def test_a_classification_result_is_put_into_our_order_for_the_test_videos(tiny_untrimmed, tmp_path):
    names = tiny_untrimmed.class_names
    given = {"class": list(reversed(names)), "results": {}}
    for k, video in enumerate(tiny_untrimmed.videos):
        given["results"][video.video_id] = [0.1 * k, 0.2, 0.3, 0.4]
    path = tmp_path / "cuhk.json"
    path.write_text(json.dumps(given))
    facts = convert_class_scores(tmp_path, path, tiny_untrimmed, "validation")
    validation = {k: v.video_id for k, v in enumerate(tiny_untrimmed.videos) if v.subset == "validation"}
    scores = read_class_scores(tmp_path / "class_scores.json", names, validation.values())
    assert facts == {"file": "cuhk.json", "videos": len(validation)}
    assert set(scores) == set(validation.values())
    for k, video_id in validation.items():
        np.testing.assert_allclose(scores[video_id], [0.4, 0.3, 0.2, 0.1 * k])


def test_options_name_the_data_set_of_a_classification_result(tmp_path, monkeypatch):
    for name in ("a.json", "b.npy"):
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    seen = []
    command = experiment_command(tmp_path, lambda options: seen.append(options) or 0)
    assert isinstance(command, click.Command)

    def call(*arguments: str):
        return CliRunner().invoke(command, arguments)

    assert call("--class-scores", "a.json", "--class-scores", "thumos=b.npy").exit_code == 0
    assert seen[0].data.class_scores == (("activitynet", Path("a.json")), ("thumos", Path("b.npy")))
    assert "no such file" in call("--class-scores", "hacs=none.json").output
    assert "two files for activitynet" in call("--class-scores", "a.json", "--class-scores", "b.npy").output
    assert call("--vanilla-weights", "none.pth").exit_code == 2
