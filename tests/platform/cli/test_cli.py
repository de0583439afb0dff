"""The ``bsp`` command: scores written, wrong files and wrong usage reported in one line."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys

import numpy as np
import pytest
from click.testing import CliRunner

from bsp_platform.cli.evaluate import Thresholds
from bsp_platform.cli.main import main
from repository import FIXTURES

SMALL = FIXTURES / "activitynet_small.json"


def row(score, start, end, label="Juggling"):
    return {"label": label, "score": score, "segment": [start, end]}


@pytest.fixture
def predictions(tmp_path):
    """Juggling: both found, with a false positive between them; Welding: found at tIoU 0.75."""
    path = tmp_path / "predictions.json"
    results = {
        "validvideo1": [row(0.9, 10, 20), row(0.8, 90, 95), row(0.7, 40, 55, "Welding")],
        "validvideo2": [row(0.6, 0, 33), row(0.5, 0, 33, "Knitting")],
    }
    path.write_text(json.dumps({"version": "VERSION 1.3", "external_data": {}, "results": results}))
    return path


def run(*args):
    return CliRunner().invoke(main, [str(arg) for arg in args])


def evaluate(what, predictions, *options, ground_truth=SMALL):
    return run("evaluate", what, "--ground-truth", ground_truth, "--predictions", predictions, *options)


def test_detection_report(tmp_path, predictions):
    out = tmp_path / "report.json"
    result = evaluate("detection", predictions, "--output-json", out)
    assert result.exit_code == 0, result.output
    report = json.loads(out.read_text())
    juggling = (1 + 2 / 3) / 2  # hits at ranks 1 and 3 of two instances, at every threshold
    expected = {f"{50 + 5 * k}": (juggling + (k <= 5)) / 2 for k in range(10)}  # Welding up to 0.75
    assert {key[2:]: value for key, value in report["mAP"].items()} == pytest.approx(expected, rel=1e-15)
    assert report["average_mAP"] == pytest.approx((juggling + 0.6) / 2)
    assert report["per_class_average"] == {"Juggling": pytest.approx(juggling), "Welding": pytest.approx(0.6)}
    assert report["videos"] == {"used": 2, "missing": 0, "blocked": 0, "without_ground_truth": 0}
    assert report["ignored_predictions"] == 1
    assert report["settings"]["tious"] == np.linspace(0.5, 0.95, 10).tolist()
    assert f"{50 * (juggling + 1):.2f} %" in result.output
    assert "1 predictions of classes that this subset lacks were ignored" in result.output
    assert [path.name for path in tmp_path.iterdir() if "report" in path.name] == ["report.json"]


def test_detection_options(tmp_path, predictions):
    blocked = tmp_path / "blocked.json"
    blocked.write_text('["validvideo1"]')
    out = tmp_path / "report.json"
    assert evaluate("detection", predictions, "--blocked", blocked, "--output-json", out).exit_code == 0
    report = json.loads(out.read_text())
    assert report["per_class_average"] == {"Juggling": 1}
    assert report["videos"]["blocked"] == 1
    evaluate("detection", predictions, "--top-k", 1, "--tiou", "0.3,0.7", "--output-json", out)
    report = json.loads(out.read_text())
    assert report["mAP"] == {"0.30": 0.5, "0.70": 0.5}  # the one of Welding is dropped
    result = evaluate("detection", predictions, "--subset", "training", "--output-json", out)
    assert json.loads(out.read_text())["average_mAP"] == 0
    assert "2 of 2 videos have no prediction" in result.output
    assert "2 predicted videos have no instance" in result.output


def test_proposals_report(tmp_path, predictions):
    out = tmp_path / "report.json"
    result = evaluate("proposals", predictions, "--max-proposals", 1, "--tiou", "0.5", "--output-json", out)
    assert result.exit_code == 0, result.output
    report = json.loads(out.read_text())
    # 5 proposals of 2 videos, ratio 2 / 5: int(3 * 0.4) = 1 of validvideo1, int(2 * 0.4) = 0 of validvideo2
    assert report["AR@AN"] == {"1": pytest.approx(1 / 3)}
    assert report["settings"]["max_proposals"] == 1
    assert "33.33 %" in result.output


def test_gzipped_inputs(tmp_path, predictions):
    for path in (SMALL, predictions):
        (tmp_path / f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
    plain = evaluate("detection", predictions)
    packed = evaluate("detection", tmp_path / "predictions.json.gz", ground_truth=tmp_path / f"{SMALL.name}.gz")
    assert packed.exit_code == 0
    assert packed.output == plain.output


def test_threshold_range_is_exactly_linspace():
    parse = Thresholds().convert
    assert parse("0.5:0.05:0.95", None, None) == tuple(np.linspace(0.5, 0.95, 10))
    assert parse("0.3:0.1:0.7", None, None) == tuple(np.linspace(0.3, 0.7, 5))
    assert parse("0.3,0.5", None, None) == (0.3, 0.5)
    assert parse("0.5", None, None) == (0.5,)
    assert parse("0.5:0.1:0.5", None, None) == (0.5,)


@pytest.mark.parametrize(
    "tiou",
    ["0.5:0.04:0.95", "0.9:0.1:0.5", "0.5:0:0.9", "a:b:c", "0.5:0.6", "x", "0,0.5", "0.5,2", "nan", ""],
)
def test_wrong_thresholds_are_wrong_usage(predictions, tiou):
    result = evaluate("detection", predictions, "--tiou", tiou)
    assert result.exit_code == 2
    assert "--tiou" in result.output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--no-such-option", "1"], "No such option"),
        (["--top-k", "0"], "--top-k"),
        (["--top-k", "many"], "--top-k"),
        (["--blocked", "absent.json"], "absent.json"),
        (["--output-json", "no_such_folder/out.json"], "no_such_folder"),
    ],
)
def test_wrong_usage(predictions, options, message):
    result = evaluate("detection", predictions, *options)
    assert result.exit_code == 2
    assert message in result.output


def test_missing_input_is_wrong_usage(tmp_path, predictions):
    result = evaluate("detection", tmp_path / "absent.json")
    assert (result.exit_code, "absent.json" in result.output) == (2, True)
    assert run("evaluate", "detection", "--ground-truth", SMALL).exit_code == 2
    assert run("no-such-command").exit_code == 2


@pytest.mark.parametrize("what", ["detection", "proposals"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "malformed JSON"),
        ('{"results":\n {"a": [}}', "line 2 column"),
        ("[1, 2]", "dictionary"),
        ("{}", "results: is missing"),
        ('{"results": {"validvideo1": {"score": 1}}}', "results.validvideo1: "),
        (
            '{"results": {"validvideo1": [{"label": "A", "score": 1}]}}',
            "results.validvideo1[0].segment: is missing",
        ),
        ('{"results": {"v": [{"label": "A", "score": "x", "segment": [0, 1]}]}}', "results.v[0].score: "),
    ],
)
def test_bad_predictions_end_with_code_1(tmp_path, what, content, message):
    bad = tmp_path / "bad.json"
    bad.write_text(content)
    out = tmp_path / "out.json"
    result = evaluate(what, bad, "--output-json", out)
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit)  # no traceback
    assert result.output.startswith(f"Error: {bad}: ")
    assert message in result.output
    assert not out.exists()


def test_bad_ground_truth_and_blocked_list(tmp_path, predictions):
    bad = tmp_path / "bad.json"
    bad.write_text('{"database": {"a": {"subset": "validation"}}}')
    result = evaluate("detection", predictions, ground_truth=bad)
    assert result.exit_code == 1
    assert f"{bad}: database.a.annotations: is missing" in result.output
    bad.write_text('{"validation": ["a"]}')
    result = evaluate("detection", predictions, "--blocked", bad)
    assert result.exit_code == 1
    assert f"{bad}: expected a list of video ids" in result.output


def test_unknown_subset_lists_those_present(predictions):
    result = evaluate("proposals", predictions, "--subset", "val")
    assert result.exit_code == 1
    for text in (str(SMALL), "'val'", "training (2 videos)", "validation (2 videos)", "testing (1 videos)"):
        assert text in result.output


def test_as_a_program(tmp_path, predictions):
    out = tmp_path / "report.json"
    command = [sys.executable, "-c", "from bsp_platform.cli.main import main; main()", "evaluate", "detection"]
    command += ["--ground-truth", str(SMALL), "--predictions", str(predictions), "--output-json", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert "average mAP" in done.stdout
    assert "ignored" in done.stderr  # remarks do not mix with the table
    assert json.loads(out.read_text())["videos"]["used"] == 2
    predictions.write_text("{")
    failed = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert failed.returncode == 1
    assert failed.stderr.startswith("Error: ")
    assert "Traceback" not in failed.stderr


def test_help_starts_without_the_heavy_libraries():
    code = (
        "import sys, bsp_platform.cli.main as cli\n"
        "try: cli.main(['evaluate', 'detection', '--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'ray', 'mlflow', 'torch', 'numpy', 'pydantic', 'rich', 'sklearn'} & set(sys.modules)\n"
        "sys.exit(', '.join(sorted(heavy)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


def test_detections_are_scored_by_labels_of_ones_own(tmp_path):
    """By a CSV as by the same labels in ActivityNet's layout, which says more."""
    lines = {"a": [(1.0, 4.0, "jump"), (6.0, 9.0, "run")], "b": [(0.5, 2.5, "run")]}
    rows = [f"{video},{start},{end},{label}" for video, of in lines.items() for start, end, label in of]
    (tmp_path / "labels.csv").write_text("\n".join(["video,start_s,end_s,label", *rows]) + "\n")
    database = {
        video: {
            "subset": "validation",
            "duration": 20.0,
            "annotations": [{"label": label, "segment": [start, end]} for start, end, label in of],
        }
        for video, of in lines.items()
    }
    (tmp_path / "labels.json").write_text(json.dumps({"database": database}))
    found = {"a": [{"label": "jump", "score": 0.9, "segment": [1.2, 4.0]}, {"label": "run", "score": 0.8,
             "segment": [0.0, 2.0]}], "b": [{"label": "run", "score": 0.3, "segment": [0.5, 2.0]}]}  # fmt: skip
    (tmp_path / "results.json").write_text(json.dumps({"version": "1", "external_data": {}, "results": found}))
    reports = []
    for name in ("labels.csv", "labels.json"):
        out = tmp_path / f"{name}.report.json"
        done = run("evaluate", "detection", "--ground-truth", tmp_path / name, "--predictions",
                   tmp_path / "results.json", "--output-json", out)  # fmt: skip
        assert done.exit_code == 0, done.output
        reports.append(json.loads(out.read_text()))
    assert reports[0]["mAP"] == reports[1]["mAP"]
    assert 0 < reports[0]["average_mAP"] < 1
    (tmp_path / "results.csv").write_text("video,label,start_s,end_s,score\n")
    done = run("evaluate", "detection", "--ground-truth", tmp_path / "labels.csv", "--predictions",
               tmp_path / "results.csv")  # fmt: skip
    assert done.exit_code == 1
    assert "results.json beside it" in done.output
