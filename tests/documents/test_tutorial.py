"""The tutorial's commands, run as they are printed, in an empty folder."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import bsp
from documents import blocks
from repository import ROOT

TUTORIAL = ROOT / "docs" / "tutorial.md"


@pytest.mark.slow
@pytest.mark.ray
def test_the_tutorial_goes_from_a_folder_of_files_to_a_page(tmp_path: Path) -> None:
    (tmp_path / "experiments").symlink_to(ROOT / "experiments")
    bin_folder = tmp_path / "bin"  # the names that an activated environment has
    bin_folder.mkdir()
    start = f'#!/bin/sh\nexec "{sys.executable}"'
    for name, rest in (("python", '"$@"'), ("bsp", '-m bsp_platform.cli.main "$@"')):
        (bin_folder / name).write_text(f"{start} {rest}\n")
        (bin_folder / name).chmod(0o755)
    paths = os.pathsep.join([str(ROOT), str(ROOT / "platform")])
    env = {**os.environ, "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": paths}
    ran = 0
    for language, text in blocks(TUTORIAL):
        if language not in ("bash", "python"):
            continue
        command = ["bash", "-ec", text] if language == "bash" else ["python", "-c", text]
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=1200)
        print(f"$ {text.strip()}\n{done.stdout}{done.stderr}")
        assert done.returncode == 0, f"{text}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        ran += 1
    assert ran >= 7

    with open(tmp_path / "check.csv", newline="", encoding="utf-8") as file:
        report = {Path(row["path"]).name: row for row in csv.DictReader(file)}
    assert report["stopped_download.mp4"]["problem"]
    assert not report["session_00.mp4"]["problem"]
    extracted = {path.stem for path in (tmp_path / "features").glob("*.npy")}
    assert {"session_00", "phone_dim_light", "camera", "long_session"} <= extracted
    assert "stopped_download" not in extracted

    model = bsp.load_model(tmp_path / "model")
    assert model.class_names == ("bow", "jumping jack", "kick", "squat")
    page = (tmp_path / "found" / "long_session.html").read_text("utf-8")
    assert "jumping jack" in page
    found = json.loads((tmp_path / "found" / "results.json").read_text("utf-8"))["results"]["long_session"]
    last = max(segment["segment"][1] for segment in found)
    assert 2300 < last <= 2401  # the whole of its 40 minutes was looked at
