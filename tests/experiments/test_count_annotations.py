"""The script that counts published annotation files: what it recognises, counts, names and refuses."""

from __future__ import annotations

import gzip
import importlib.util
import json
import tarfile

import pytest
from click.testing import CliRunner

from repository import EXPERIMENTS

SCRIPT = EXPERIMENTS / "tools" / "count_annotations.py"


@pytest.fixture(scope="module")
def command():
    spec = importlib.util.spec_from_file_location("count_annotations", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


@pytest.fixture
def folder(tmp_path):
    """Three data sets, one of them packed and one gzipped, and a file of no data set."""
    folder, release = tmp_path / "annotations", tmp_path / "crosstask_release"
    (release / "annotations").mkdir(parents=True)
    (release / "tasks_primary.txt").write_text("11\nMake Tea\nhttp://example.org\n2\nboil water,stir\n")
    (release / "videos.csv").write_text("11,first_video,http://tube\n11,other-video,http://tube\n")
    for video in ("first_video", "other-video"):
        (release / "annotations" / f"11_{video}.csv").write_text("1,0.0,4.0\n2,3.0,5.0\n2,6.0,7.0\n")
    folder.mkdir()
    with tarfile.open(folder / "crosstask_release.tar.gz", "w:gz") as archive:
        archive.add(release, "crosstask_release")
    hacs = {
        "first": {"subset": "training", "duration": "9.5", "annotations": [
            {"label": "Surfing", "segment": [1.0, 10.5]}, {"label": "Surfing", "segment": [3.0, 3.0]},
        ]},
        "second": {"subset": "validation", "duration": "8.0", "annotations": [
            {"label": "Archery", "segment": [1.0, 2.0]},
        ]},
    }  # fmt: skip
    (folder / "HACS_segments_v1.1.1.json").write_text(json.dumps({"database": hacs}))
    kinetics = "label,youtube_id,time_start,time_end,split,is_cc\nabseiling,a,1,11,val,0\nyoga,b,2,12,val,0\n"
    (folder / "kinetics-400_val.csv.gz").write_bytes(gzip.compress(kinetics.encode()))
    (folder / "notes.txt").touch()
    return folder


def test_everything_is_counted_and_nothing_passed_over_in_silence(command, folder, tmp_path):
    target = tmp_path / "counts.json"
    done = CliRunner().invoke(command, ["--annotations", str(folder), "--json", str(target)])
    assert done.exit_code == 0, done.output
    content = json.loads(target.read_text())
    found = {
        (c["data"], c["subset"]): (c["videos"], c["instances"], c["classes"], len(c["left_out"]))
        for c in content["counts"]
    }
    assert found == {
        ("Kinetics", "kinetics-400_val.csv.gz"): (2, 2, 2, 0),
        ("HACS Segments", "training"): (1, 1, 1, 0),
        ("HACS Segments", "validation"): (1, 1, 1, 0),
        ("HACS Segments", "all"): (2, 2, 0, 1),
        ("CrossTask", "training"): (1, 3, 2, 0),
        ("CrossTask", "test"): (1, 3, 2, 0),
    }
    remarks = {(c["data"], c["subset"]): c["remarks"] for c in content["counts"]}
    assert remarks["HACS Segments", "training"] == ["1 end after their video"]
    assert remarks["CrossTask", "test"][1] == "1 videos with overlapping steps"
    assert content["files_not_read"] == ["notes.txt"]
    assert "from 3.0 to 3.0 s has no length" in done.output
    assert "files not read: notes.txt" in done.output


def test_a_damaged_file_stops_it_with_file_and_place(command, folder):
    (folder / "HACS_segments_v1.1.1.json").write_text('{"database": {"first": {"subset": "training"}}}')
    done = CliRunner().invoke(command, ["--annotations", str(folder)])
    assert done.exit_code == 1
    assert "HACS_segments_v1.1.1.json: database.first.annotations: is missing" in done.output
