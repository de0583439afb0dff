"""``bsp train`` on labels of one's own: CSV files, small and odd data, a model folder that the other commands take."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner

import bsp
from bsp.features.store import FeatureInfo, read_features, write_features
from bsp_platform.cli.main import main

WIDTH, SNIPPETS = 8, 24
SECOND = 8 / 12  # of a snippet
QUICK = ("--set", "head.epochs=2", "--set", "head.hidden=32", "--set", "head.block=32", "--set", "head.aligned=8",
         "--set", "head.mapped=32", "--set", "head.inner_samples=4")  # fmt: skip


def run(*args):
    return CliRunner().invoke(main, [str(arg) for arg in args])


def write(folder, video_id, first=4, label=0, snippets=SNIPPETS):
    rng = np.random.default_rng(first + 10 * label)
    feat_SD = 0.1 * rng.normal(size=(snippets, WIDTH)).astype(np.float32)
    feat_SD[:, -1] += 3
    feat_SD[first : first + 10, label] += 3
    info = FeatureInfo(
        video_id=video_id, frames=8 * snippets, fps=12.0, snippet_frames=8, stride_frames=8, offset_frames=0,
        size_px=0, mean=(), std=(), feature_width=WIDTH, snippets=snippets, encoder_hash="imported:x", code_version=0,
    )  # fmt: skip
    write_features(folder, video_id, feat_SD, info)


@pytest.fixture
def features(tmp_path):
    """Six videos "video0", ...; in each ten snippets of a class stand out."""
    for k in range(6):
        write(tmp_path / "features", f"video{k}", 4 + k, k % 2)
    return tmp_path / "features"


def table(tmp_path, header, rows, name="labels.csv"):
    path = tmp_path / name
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def actions(tmp_path, prefix="video", classes=("dig", "jump")):
    rows = [f"{prefix}{k},{(4 + k) * SECOND:.2f},{(14 + k) * SECOND:.2f},{classes[k % len(classes)]}" for k in range(6)]
    return table(tmp_path, "video,start_s,end_s,label", rows)


def train(what, features, annotations, out, *more):
    return run("train", what, "--features", features, "--annotations", annotations, "--out", out, *more)


def test_the_model_of_a_csv_file_detects_from_features_and_json_is_alone_on_stdout(features, tmp_path):
    annotations, out = actions(tmp_path), tmp_path / "model"
    result = train("gtad", features, annotations, out, *QUICK, "--json")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert set(document["settings"]["subsets"]["training"]).isdisjoint(document["settings"]["subsets"]["validation"])
    assert "to score on" in result.stderr
    model = bsp.load_model(out)
    found = model.detect_features(*read_features(features, "video0"))
    assert {segment.label for segment in found} <= {"dig", "jump"}
    assert all(0 <= segment.start_s < segment.end_s <= SNIPPETS * SECOND + 1e-6 for segment in found)
    again = train("gtad", features, annotations, out, *QUICK)
    assert (again.exit_code, "is there already" in again.output) == (1, True)


def test_videos_whose_names_differ_by_v_meet(features, tmp_path):
    """ActivityNet's annotations say "abc", its file is v_abc.mp4, and so are the features."""
    plain = train("gtad", features, actions(tmp_path), tmp_path / "plain", *QUICK, "--json")
    for k in range(6):
        write(tmp_path / "files", f"v_video{k}", 4 + k, k % 2)
    other = train("gtad", tmp_path / "files", actions(tmp_path), tmp_path / "v", *QUICK, "--json")
    assert other.exit_code == 0, other.output
    assert '6 videos have their features under a name that differs by "v_": v_video0 for video0' in other.stderr
    assert json.loads(other.stdout)["scores"] == json.loads(plain.stdout)["scores"]


def test_one_video_is_not_taken_for_two(features, tmp_path):
    """Else "v_video1" would be scored on the features that "video1" was trained on."""
    annotations = actions(tmp_path)
    with open(annotations, "a") as file:
        file.write("v_video1,1,2,dig\n")
    result = train("gtad", features, annotations, tmp_path / "model", *QUICK, "--max-missing", "50")
    assert (result.exit_code, "has features of 'video1', none of 'v_video1', and both" in result.output) == (1, True)


def test_a_single_class_and_two_videos(tmp_path):
    for k in range(2):
        write(tmp_path / "features", f"video{k}", 4 + k)
    rows = [f"video{k},{(4 + k) * SECOND:.2f},{(14 + k) * SECOND:.2f},dig" for k in range(2)]
    annotations = table(tmp_path, "video,start_s,end_s,label", rows)
    result = train("gtad", tmp_path / "features", annotations, tmp_path / "model", *QUICK)
    assert result.exit_code == 0, result.output
    assert "1 videos to train on, 1 to score on" in result.output
    found = bsp.load_model(tmp_path / "model").detect_features(*read_features(tmp_path / "features", "video0"))
    assert {segment.label for segment in found} == {"dig"}


def test_what_cannot_be_trained_on_is_one_line(features, tmp_path):
    cases = {
        "video,start_s,end_s,label\nvideo0,1,2,dig\n": "1 video with labels: at least two are needed",
        "video,start_s,end_s,label\nvideo0,1,2,dig\nvideo1,1,2,jump\n": "every video has a label that no other",
        "video,start_s,end_s,label\nvideo0,,,\nvideo1,,,\n": "no line has a label",
        "video,start_s,end_s,label\n../video0,1,2,dig\nvideo1,1,2,dig\n": "contains a separator of folders",
        "video,begin,end,label\nvideo0,1,2,dig\n": "no column start_s, end_s",
        "": "no column video",
    }
    for text, message in cases.items():
        path = tmp_path / "labels.csv"
        path.write_text(text)
        result = train("gtad", features, path, tmp_path / "model", *QUICK)
        assert (result.exit_code, isinstance(result.exception, SystemExit)) == (1, True), text
        assert message in " ".join(result.stderr.split()), text
    assert not (tmp_path / "model").exists()
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("way", ["peaks", "head"])
def test_boundaries_of_a_csv_file(features, tmp_path, way):
    rows = [f"video{k},{(place + k) * SECOND:.2f}" for k in range(6) for place in (4, 14)]
    annotations, out = table(tmp_path, "video,time_s", rows), tmp_path / "model"
    result = train("boundaries", features, annotations, out, "--way", way)
    assert result.exit_code == 0, result.output
    curve = bsp.load_model(out).boundaries_features(*read_features(features, "video0"))
    assert all(0 < time_s < SNIPPETS * SECOND for time_s in curve.times_s)
    assert len(curve.times_s) == len(curve.scores)


def test_sentences_of_a_csv_file_say_which_videos_are_scored(features, tmp_path):
    what = ("digs a hole", "jumps high")
    rows = [f"video{k},{(4 + k) * SECOND:.2f},{(14 + k) * SECOND:.2f},a person {what[k % 2]}" for k in range(6)]
    annotations, out = table(tmp_path, "video,start_s,end_s,sentence", rows), tmp_path / "model"
    small = ("--set", "head.epochs=1", "--set", "head.frames=8", "--set", "head.scales=8", "--set", "head.hidden=4")
    result = train("grounding", features, annotations, out, *small, "--json")
    assert result.exit_code == 0, result.output
    subsets = json.loads(result.stdout)["settings"]["subsets"]
    assert {name: len(videos) for name, videos in subsets.items()} == {"train": 5, "test": 1}
    assert f"5 videos to train on, 1 to score on: {subsets['test'][0]}\n" in result.stderr
    model = bsp.load_model(out)
    assert model.ground_features(*read_features(features, "video0"), "a person digs")


def test_settings_that_diverge_are_one_line(features, tmp_path):
    annotations, out = actions(tmp_path), tmp_path / "model"
    result = train("gtad", features, annotations, out, *QUICK, "--set", "head.learning_rate=1e9")
    assert (result.exit_code, isinstance(result.exception, SystemExit)) == (1, True)
    assert "Error: the loss became nan in epoch 0; lower learning_rate" in result.output
    assert not out.exists()


def test_all_streams_of_a_folder_by_extract_are_taken_in_their_order(features, tmp_path):
    """As ``bsp extract`` leaves them for a model of several encoders."""
    for number in (1, 2, 10):
        for k in range(6):
            write(tmp_path / "many" / str(number), f"video{k}", 4 + k, k % 2)
    result = train("gtad", tmp_path / "many", actions(tmp_path), tmp_path / "model", *QUICK, "--json")
    assert result.exit_code == 0, result.output
    settings = json.loads(result.stdout)["settings"]
    assert settings["features"] == [str(tmp_path / "many" / name) for name in ("1", "2", "10")]
    assert settings["head"]["feature_width"] == 3 * WIDTH
