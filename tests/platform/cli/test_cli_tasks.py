"""``bsp evaluate actionness`` and ``boundaries``: scores written, remarks on stderr, wrong files in one line."""

from __future__ import annotations

import json
import pickle

import pytest
from click.testing import CliRunner

from bsp_platform.cli.main import main

# Segments of 0.2 s: video a has 5, of which the first two are positive; b has 2, both negative.
STEPS = {
    "segment_s": 0.2,
    "videos": {
        "a": {"task": "t", "duration_s": 1.0, "steps": [[0.0, 0.4]]},
        "b": {"task": "t", "duration_s": 0.5, "steps": []},
    },
}
SCORES = {"segment_s": 0.2, "scores": {"a": [0.9, 0.1, 0.5, 0.0, 0.0], "x": [1.0]}}


def record(*annotators, consistency=0.9):
    return {
        "num_frames": 100, "fps": 10.0, "video_duration": 10.0, "path_video": "c/x.mp4",
        "f1_consis": [consistency] * len(annotators), "f1_consis_avg": consistency,
        "substages_timestamps": [list(times) for times in annotators],
        "substages_myframeidx": [[float(int(10 * t)) for t in times] for times in annotators],
    }  # fmt: skip


CLIPS = {"a": record([2.0, 6.0], [2.0]), "b": record([5.0]), "c": record([5.0], consistency=0.1)}
BOUNDARIES = {"a": [2.1, 9.0], "other": [1.0]}


def evaluate(what, tmp_path, truth, found, *options):
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    (tmp_path / "found.json").write_text(json.dumps(found))
    files = ("--ground-truth", tmp_path / "truth.json", "--predictions", tmp_path / "found.json")
    return CliRunner().invoke(main, ["evaluate", what, *map(str, (*files, *options))])


@pytest.mark.long
def test_actionness(tmp_path):
    out = tmp_path / "report.json"
    result = evaluate("actionness", tmp_path, STEPS, SCORES, "--output-json", out)
    assert result.exit_code == 0, result.output
    report = json.loads(out.read_text())
    # Ranked: 0.9 (positive), 0.5, 0.1 (positive), then the rest: (1/1 + 2/3) / 2.
    assert report["AP"] == pytest.approx(5 / 6)
    assert report["settings"]["predictions"] == str(tmp_path / "found.json")
    assert "83.33 %" in result.output
    assert "2 videos, 7 segments" in result.output
    assert "1 videos have no prediction" in result.output
    assert "1 predicted videos are not in the ground truth" in result.output


def test_boundaries(tmp_path):
    out = tmp_path / "report.json"
    result = evaluate("boundaries", tmp_path, CLIPS, BOUNDARIES, "--output-json", out)
    assert result.exit_code == 0, result.output
    report = json.loads(out.read_text())
    # a: one of two found within 0.5 s, against the annotator with one (recall 1, precision 1/2, F1 2/3; the other
    # has 1/2, 1/2, 1/2). b: its boundary is missed. Pooled: 1 of 2 boundaries, 1 of 2 detections.
    assert report["F1"]["0.05"] == pytest.approx(0.5)
    assert report["settings"] == {
        "ground_truth": str(tmp_path / "truth.json"), "predictions": str(tmp_path / "found.json"),
        "variant": "challenge", "subset": "validation",
    }  # fmt: skip
    assert "mean F1" in result.output
    assert "1 clips have no prediction" in result.output
    assert "1 predicted clips are not in the ground truth" in result.output
    assert "1 clips whose annotators disagree" in result.output


def test_boundaries_from_pickles_and_in_frames(tmp_path):
    truth, found = tmp_path / "truth.pkl", tmp_path / "found.pkl"
    truth.write_bytes(pickle.dumps({"b": CLIPS["b"]}))
    found.write_bytes(pickle.dumps({"b": [51]}))
    options = ("--ground-truth", truth, "--predictions", found, "--variant", "notebook")
    result = CliRunner().invoke(main, ["evaluate", "boundaries", *map(str, options)])
    assert result.exit_code == 0, result.output
    assert "100.00 %" in next(line for line in result.output.splitlines() if "F1@0.05" in line)


@pytest.mark.parametrize(
    ("what", "truth", "found", "message"),
    [
        ("actionness", STEPS, {"segment_s": 1.0, "scores": {}}, "score segments of 0.2 s"),
        ("actionness", {"videos": {}}, SCORES, "segment_s"),
        ("boundaries", CLIPS, {"a": "soon"}, "found.json"),
        ("boundaries", [], {}, "truth.json: expected an object of clips by id"),
        ("boundaries", {"a": {}}, {}, "truth.json"),
    ],
)
def test_wrong_files_are_refused_by_name(what, truth, found, message, tmp_path):
    result = evaluate(what, tmp_path, truth, found)
    assert result.exit_code == 1
    assert message in result.output
    assert "Traceback" not in result.output
    result = evaluate(what, tmp_path, truth, found, "--output-json", tmp_path / "no" / "report.json")
    assert result.exit_code == 2
