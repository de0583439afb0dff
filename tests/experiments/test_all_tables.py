"""Every script of a table or figure in the smoke profile, from nothing, and the one command for all of them."""

import importlib.util
import json
import re
import subprocess
import sys
from types import SimpleNamespace

import pytest

from bsp_platform.report.report import write_report
from repository import EXPERIMENTS, ROOT, SUPPORT
from smoke_tables import ROWS

SCRIPT = EXPERIMENTS / "all_tables.py"
PICTURES = {"figure2_synthesis", "figure4_feature_difference", "figure5_qualitative"}


def load_all_tables():
    spec = importlib.util.spec_from_file_location("all_tables", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.ray
def test_every_script_runs_in_smoke_and_the_report_holds_them_all(tmp_path):
    results, tables = tmp_path / "results", load_all_tables()
    scripts = (*tables.SCRIPTS, *tables.OWN)
    options = ["--profile", "smoke", "--storage", str(tmp_path / "storage"), "--results", str(results)]
    options += ["--tracking-uri", f"sqlite:///{tmp_path}/mlflow.db"]
    command = [
        sys.executable,
        str(SUPPORT / "smoke_tables.py"),
        *options,
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    report = write_report(results, "smoke", scripts, {}).read_text()
    assert "for the scores to mean anything" in report
    for name in scripts:
        folder = results / name / "smoke"
        if name in PICTURES:
            title = json.loads((folder / "figure.json").read_text())["title"]
            assert sorted(folder.glob("*.png"))
            assert sorted(folder.glob("*.pdf"))
        else:
            content = json.loads((folder / "table.json").read_text())
            title = content["title"]
            assert {row["name"] for row in content["rows"]} == set(ROWS[name])
            for row in content["rows"]:
                assert row["scores"], row["name"]
        assert f"## {title}" in report
    for picture in re.findall(r"!\[.*?\]\((.*?)\)", report):
        assert (results / picture).is_file()


def test_all_tables_runs_every_script_and_names_those_that_fail(tmp_path, monkeypatch, capsys):
    module = load_all_tables()
    ran = []

    def script(name: str):
        def main(options):
            ran.append(name)
            if name == "gebd":
                raise ValueError("no room")
            return int(name == "table3_crosstask")

        return SimpleNamespace(main=main)

    monkeypatch.setattr(module.importlib, "import_module", script)
    profile = SimpleNamespace(name="smoke")
    options = SimpleNamespace(rows=(), fresh=False, dry_run=False, results=tmp_path, profile=profile)
    assert module.run_all(options) == 1
    assert tuple(ran) == module.SCRIPTS  # the others go on
    report = (tmp_path / "REPORT.md").read_text()
    assert "**gebd failed:** no room" in report
    assert "**table3_crosstask failed:** some rows failed" in report
    assert report.count("failed:") == 2
    with pytest.raises(ValueError, match="belong to a single table"):
        module.run_all(SimpleNamespace(rows=("random",), fresh=False, dry_run=False))


def test_every_experiment_is_among_all_tables_and_has_a_make_target():
    others = {"all_tables", "sweep_boundaries"}  # no table or figure of the paper
    found = {path.stem for path in EXPERIMENTS.glob("*.py")} - others
    tables = load_all_tables()
    assert found == {*tables.SCRIPTS, *tables.OWN} == set(ROWS) | PICTURES
    makefile = (ROOT / "Makefile").read_text()
    for name in found | {"all_tables"}:
        assert re.search(rf"\S+={name}\b", makefile), name
