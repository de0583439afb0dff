"""The list of commands: in the order of a user's way, shown without loading any of them, and each loads."""

from __future__ import annotations

import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from bsp_platform.cli.main import COMMANDS, main

NAMES = main.list_commands(click.Context(main))


def test_commands_are_listed_in_the_order_of_a_users_way_each_with_its_example():
    shown = CliRunner().invoke(main, ["--help"]).output
    places = [shown.index(f"\n  {name} ") for name in NAMES]
    assert places == sorted(places)
    way = ["check", "pretrain", "extract", "train", "detect", "boundaries", "ground", "demo"]
    assert [name for name in NAMES if name in way] == [name for name in way if name in NAMES]
    for group in COMMANDS.values():
        for name, entry in group.items():
            assert (entry.line in shown) == (entry.example in shown) == (name in NAMES)
            assert len(entry.line) <= 66
            assert f"bsp {name}" in entry.example


@pytest.mark.parametrize("name", NAMES)
def test_every_listed_command_loads_and_explains_itself(name):
    done = CliRunner().invoke(main, [name, "--help"])
    assert done.exit_code == 0, done.output
    assert done.output.startswith(f"Usage: main {name}")


def test_the_list_loads_no_command_and_nothing_but_click():
    code = (
        "import sys, bsp_platform.cli.main as cli\n"
        "try: cli.main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'ray', 'mlflow', 'torch', 'numpy', 'pydantic', 'rich', 'tqdm', 'av'} & set(sys.modules)\n"
        "ours = {name for name in sys.modules if name.startswith('bsp_platform.cli.')}\n"
        "heavy |= ours - {'bsp_platform.cli.main', 'bsp_platform.cli.common'}\n"
        "sys.exit(', '.join(sorted(heavy)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


def test_the_module_runs_as_the_command():
    command = [sys.executable, "-m", "bsp_platform.cli.main", "no-such-command"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    assert "Usage: bsp" in done.stderr
    assert "no-such-command" in done.stderr


def test_who_stops_a_command_is_told_that_it_goes_on(monkeypatch, tmp_path):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("bsp.survey.listing.list_videos", stop)
    done = CliRunner().invoke(main, ["check", str(tmp_path)])
    assert done.exit_code == 1
    assert "Stopped. The same command goes on from here." in done.stderr
    monkeypatch.setattr("bsp.models.folder.load_model", stop)
    done = CliRunner().invoke(main, ["export-encoder", "--model", str(tmp_path), "--out", str(tmp_path / "x.onnx")])
    assert "Stopped" not in done.stderr
