"""``bsp evaluate grounding``: scores written, remarks on stderr, wrong files and wrong usage in one line."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys

import pytest
from click.testing import CliRunner

from bsp_platform.cli.main import main

TEXT = "AB1 0.0 12.0##a person runs.\nAB1 4.0 8.0##a person sits.\nCD2 6.0 5.0##a door opens.\n"
TABLE = 'id,script,length\nAB1,"one, two",10\nCD2,,7.5\n'
TRUTH = [
    {"video": "AB1", "sentence": "a person runs.", "start_s": 0, "end_s": 12, "duration_s": 10},
    {"video": "AB1", "sentence": "a person sits.", "start_s": 4, "end_s": 8, "duration_s": 10},
    {"video": "CD2", "sentence": "a door opens.", "start_s": 6, "end_s": 5, "duration_s": 7.5},
]
FOUND = [
    # 2dtan: 10 of 10 s; lgi: 10 of 12 s. The second is suppressed at 0.45.
    {"video": "AB1", "sentence": "a person runs.", "moments": [[0, 9, 0.8], [0, 10, 0.9]]},
    # IoU exactly 0.5
    {"video": "AB1", "sentence": "a person sits.", "moments": [[4, 6, 0.9]]},
    {"video": "AB1", "sentence": "a person flies.", "moments": [[4, 6, 0.9]]},
]


@pytest.fixture
def files(tmp_path):
    """Paths of: JSON ground truth, Charades-STA text, durations, predictions, report."""
    paths = [tmp_path / name for name in ("truth.json", "test.txt", "table.csv", "found.json", "report.json")]
    for path, content in zip(paths, (json.dumps(TRUTH), TEXT, TABLE, json.dumps(FOUND)), strict=False):
        path.write_text(content)
    return paths


def run(*args):
    return CliRunner().invoke(main, ["evaluate", "grounding", *(str(arg) for arg in args)])


def grounding(truth, found, *options, protocol="2dtan"):
    return run("--ground-truth", truth, "--predictions", found, "--protocol", protocol, *options)


def test_report_of_2dtan(files):
    truth, _, _, found, out = files
    result = grounding(truth, found, "--nms", 0.45, "--output-json", out)
    assert result.exit_code == 0, result.output
    report = json.loads(out.read_text())
    assert (report["R1@0.3"], report["R1@0.5"], report["R1@0.7"]) == (1, 0.5, 0.5)
    assert (report["R5@0.3"], report["R5@0.5"], report["R5@0.7"]) == (1, 0.5, 0.5)
    assert report["mIoU"] == 0.75
    assert report["percent"]["R1@0.5"] == 50
    assert report["queries"] == {"used": 2, "missing": 0, "unknown": 1, "dropped": 1}
    assert report["protocol"] == "2dtan"
    assert report["settings"] == {
        "ground_truth": str(truth), "predictions": str(found), "durations": None, "protocol": "2dtan", "nms": 0.45,
    }  # fmt: skip
    assert "75.00 %" in result.stdout
    assert "2dtan protocol, 2 queries" in result.stdout
    assert "1 predicted rows belong to no query" in result.stderr
    assert "1 queries were dropped" in result.stderr
    assert "have no predicted moment" not in result.stderr
    assert [path.name for path in out.parent.iterdir() if "report" in path.name] == ["report.json"]


def test_report_of_lgi(files):
    truth, _, _, found, out = files
    result = grounding(truth, found, "--output-json", out, protocol="lgi")
    assert result.exit_code == 0, result.output
    report = json.loads(out.read_text())
    assert report["R1@0.5"] == report["R5@0.5"] == pytest.approx(2 / 3)
    assert report["R1@0.7"] == pytest.approx(1 / 3)
    assert report["mIoU"] == pytest.approx((10 / 12 + 0.5) / 3)
    assert report["percent"]["mIoU"] == 44.44
    assert report["queries"] == {"used": 3, "missing": 1, "unknown": 1, "dropped": 0}
    assert report["settings"]["nms"] is None
    assert "1 of 3 queries have no predicted moment" in result.stderr
    assert "44.44 %" in result.stdout


@pytest.mark.parametrize("protocol", ["2dtan", "lgi"])
def test_charades_text_is_the_same_as_json(files, protocol):
    truth, text, table, found, _ = files
    expected = grounding(truth, found, protocol=protocol).output
    assert "mIoU" in expected
    assert grounding(text, found, "--durations", table, protocol=protocol).output == expected
    packed = [path.with_name(f"{path.name}.gz") for path in files[:4]]
    for path, target in zip(files, packed, strict=False):
        target.write_bytes(gzip.compress(path.read_bytes()))
    assert grounding(packed[1], packed[3], "--durations", packed[2], protocol=protocol).output == expected
    assert grounding(packed[0], packed[3], protocol=protocol).output == expected


def test_durations_belong_to_text_files(files):
    truth, text, table, found, _ = files
    result = grounding(text, found)
    assert result.exit_code == 2
    assert "--durations" in result.output
    assert "Charades_v1_test.csv" in result.output
    result = grounding(truth, found, "--durations", table)
    assert result.exit_code == 2
    assert "only for a ground truth in Charades-STA's text format" in " ".join(result.output.split())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--nms", "1.5"], "--nms"),
        (["--nms", "nan"], "nan is not a number"),
        (["--nms", "much"], "--nms"),
        (["--protocol", "drn"], "'drn'"),
        (["--durations", "absent.csv"], "absent.csv"),
        (["--output-json", "no_such_folder/out.json"], "no_such_folder"),
        (["--subset", "test"], "No such option"),
    ],
)
def test_wrong_usage(files, options, message):
    result = grounding(files[0], files[3], *options)
    assert result.exit_code == 2
    assert message in result.output


def test_missing_options_are_wrong_usage(files):
    result = run("--ground-truth", files[0], "--predictions", files[3])
    assert (result.exit_code, "--protocol" in result.output) == (2, True)
    assert grounding(files[0].with_name("absent.json"), files[3]).exit_code == 2


@pytest.mark.parametrize(
    ("place", "content", "message"),
    [
        (0, "[", "truth.json: malformed JSON"),
        (0, "{}", "truth.json: top level: "),
        (0, '[{"video": "a"}]', "truth.json: [0].sentence: is missing"),
        (0, "[]", "truth.json: no query is left"),
        (3, '[{"video": "a", "sentence": "b", "moments": [[1, 2]]}]', "found.json: [0].moments[0][2]: is missing"),
        (3, json.dumps(FOUND + FOUND[:1]), "found.json: video 'AB1', sentence 'a person runs.': 2 rows"),
        (3, '{"results": {}}', "found.json: top level: "),
    ],
)
def test_bad_json_ends_with_code_1(files, place, content, message):
    files[place].write_text(content)
    result = grounding(files[0], files[3], "--output-json", files[4])
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit)  # no traceback
    assert result.output.startswith("Error: ")
    assert message in result.output
    assert not files[4].exists()


@pytest.mark.parametrize(
    ("place", "content", "message"),
    [
        (1, "AB1 0.0 12.0 a person runs.\n", "test.txt: line 1: 'AB1 0.0 12.0 a person runs.' is not"),
        (1, "ZZ9 0.0 12.0##a person runs.\n", "test.txt: line 1: video 'ZZ9' is not in"),
        (2, "id,seconds\nAB1,10\n", "table.csv: line 1: no column length"),
    ],
)
def test_bad_charades_files_end_with_code_1(files, place, content, message):
    files[place].write_text(content)
    result = grounding(files[1], files[3], "--durations", files[2])
    assert result.exit_code == 1
    assert result.output.startswith("Error: ")
    assert message in result.output


def test_help_starts_without_the_heavy_libraries():
    code = (
        "import sys, bsp_platform.cli.main as cli\n"
        "try: cli.main(['evaluate', 'grounding', '--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'ray', 'mlflow', 'torch', 'numpy', 'pydantic', 'rich'} & set(sys.modules)\n"
        "sys.exit(', '.join(sorted(heavy)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
