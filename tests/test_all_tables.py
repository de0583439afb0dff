"""Every script of a table or figure in the smoke profile, from nothing, and the one command for all of them."""

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from bsp_platform.report import write_report

EXPERIMENTS = Path(__file__).resolve().parents[1] / "experiments"
SCRIPT = EXPERIMENTS / "all_tables.py"
sys.path.append(str(EXPERIMENTS))
PICTURES = {"figure2_synthesis", "figure4_feature_difference", "figure5_qualitative"}


# Enough rows of every table that all heads and kinds of encoders run; their encoders are shared.
ROWS = {
    "ablation_table4": "random,reg-sc,vanilla",
    "ablation_table5": "two-stream,two-head,distillation",
    "table1_activitynet": "r18-bsp,r50-vanilla",
    "table2_charades": "2dtan-bsp,lgi-bsp,lgi-text-blind",
    "table3_crosstask": "vanilla,bsp",
    "table_supplement_thumos_hacs": "thumos-bsp,hacs-bsp",
    "gebd": "peaks-two-stream,head-two-stream",
    "ablation_depth": "r18-bsp,r34-vanilla",
}


def load_all_tables():
    spec = importlib.util.spec_from_file_location("all_tables", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(script: Path, folder: Path, *options: str) -> subprocess.CompletedProcess:
    places = ["--storage", str(folder / "storage"), "--results", str(folder / "results")]
    places += ["--tracking-uri", f"sqlite:///{folder}/mlflow.db"]
    command = [sys.executable, str(script), "--profile", "smoke", *places, *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)


@pytest.mark.ray
def test_every_script_runs_in_smoke_and_the_report_holds_them_all(tmp_path):
    """Script by script, as a user would; the report is what all_tables.py writes after them."""
    results, scripts = tmp_path / "results", load_all_tables().SCRIPTS
    for name in scripts:
        done = run(EXPERIMENTS / f"{name}.py", tmp_path, *(["--rows", ROWS[name]] if name in ROWS else []))
        assert done.returncode == 0, f"{name}: {done.stdout[-3000:]}{done.stderr[-3000:]}"
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
            assert [row["name"] for row in content["rows"]]
            assert {row["name"] for row in content["rows"]} == set(ROWS[name].split(","))
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
    options = SimpleNamespace(rows=(), fresh=False, results=tmp_path, profile=SimpleNamespace(name="smoke"))
    assert module.run_all(options) == 1
    assert tuple(ran) == module.SCRIPTS  # the others go on
    report = (tmp_path / "REPORT.md").read_text()
    assert "**gebd failed:** no room" in report
    assert "**table3_crosstask failed:** some rows failed" in report
    assert report.count("failed:") == 2
    with pytest.raises(ValueError, match="belong to a single table"):
        module.run_all(SimpleNamespace(rows=("random",), fresh=False))


def test_every_experiment_is_among_all_tables_and_has_a_make_target():
    others = {"all_tables", "benchmark_parts", "probe_streams", "count_annotations"}  # no table or figure of the paper
    found = {path.stem for path in EXPERIMENTS.glob("*.py")} - others
    assert found == set(load_all_tables().SCRIPTS) == set(ROWS) | PICTURES
    makefile = (EXPERIMENTS.parent / "Makefile").read_text()
    for name in found | {"all_tables"}:
        assert re.search(rf"\S+={name}\b", makefile), name
