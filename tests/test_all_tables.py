"""Every table and figure in the smoke profile, by the one command, from nothing; and again from the storage."""

import importlib.util
import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

EXPERIMENTS = Path(__file__).resolve().parents[1] / "experiments"
SCRIPT = EXPERIMENTS / "all_tables.py"
sys.path.append(str(EXPERIMENTS))
PICTURES = {"figure2_synthesis", "figure4_feature_difference", "figure5_qualitative"}


def scripts() -> tuple[str, ...]:
    spec = importlib.util.spec_from_file_location("all_tables", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.SCRIPTS


def run(folder: Path, *options: str) -> subprocess.CompletedProcess:
    places = ["--storage", str(folder / "storage"), "--results", str(folder / "results")]
    places += ["--tracking-uri", f"sqlite:///{folder}/mlflow.db"]
    command = [sys.executable, str(SCRIPT), "--profile", "smoke", *places, *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)


@pytest.mark.ray
def test_every_script_runs_in_smoke_and_the_report_holds_them_all(tmp_path):
    done = run(tmp_path)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    report = (tmp_path / "results" / "REPORT.md").read_text()
    assert "failed" not in report
    assert "the scores mean nothing" in report or "scores to mean anything" in report
    for name in scripts():
        folder = tmp_path / "results" / name / "smoke"
        if name in PICTURES:
            title = json.loads((folder / "figure.json").read_text())["title"]
            assert sorted(folder.glob("*.png"))
            assert sorted(folder.glob("*.pdf"))
        else:
            content = json.loads((folder / "table.json").read_text())
            title = content["title"]
            for row in content["rows"]:
                assert row["scores"], row["name"]
        assert f"## {title}" in report
    for picture in re.findall(r"!\[.*?\]\((.*?)\)", report):
        assert (tmp_path / "results" / picture).is_file()

    encoders = set((tmp_path / "storage" / "encoders").iterdir())
    began = time.time()
    again = run(tmp_path)
    assert again.returncode == 0, again.stderr[-4000:]
    assert "pretrain" not in again.stdout
    assert set((tmp_path / "storage" / "encoders").iterdir()) == encoders
    assert (tmp_path / "results" / "REPORT.md").stat().st_mtime > began


def test_every_experiment_is_among_all_tables_and_has_a_make_target():
    others = {"all_tables", "benchmark_parts", "probe_streams", "count_annotations"}  # no table or figure of the paper
    found = {path.stem for path in EXPERIMENTS.glob("*.py")} - others
    assert found == set(scripts())
    makefile = (EXPERIMENTS.parent / "Makefile").read_text()
    for name in found | {"all_tables"}:
        assert re.search(rf"\S+={name}\b", makefile), name
