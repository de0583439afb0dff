"""A disk that fills up during a sweep: what is finished is shown, with the reason and the remedy, and nothing aborts.

Here the parts of a sweep are made to fail one by one, without Ray.
"""

from __future__ import annotations

import contextlib
import errno
import os
import pickle
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from bsp_platform.cli.common import CommandGroup
from bsp_platform.plan.options import Options, experiment_command
from bsp_platform.plan.rows import Experiment, Row
from bsp_platform.sweep import run

DONE, OPEN = ("done", 0), ("open", 0)
ROWS = tuple(Row(name=name, label=name, streams=()) for name in ("done", "open"))
EXPERIMENT = Experiment(name="small", title="Small table", columns=("mAP_avg",), rows=ROWS)


def no_room(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/disk/file")


def half_a_pickle(*_, **__):
    pickle.loads(b"")  # EOFError, as Tune's at the end; click takes it for the end of the user's input


class Recipes:
    """A row's recipes, of which only one row has its scores."""

    encoders: tuple = ()
    heads: tuple = ()

    def __init__(self, name: str):
        self.name = name

    def finished(self, store) -> bool:
        return self.name == "done"

    def scores(self, store):
        return {"mAP_avg": 42.5} if self.name == "done" else None

    def seconds(self, store):
        return {}

    def pretexts(self, store):
        return []

    def stages(self):
        return []


class Tracking:
    def __init__(self, *_):
        self.parent = ""
        self.tracker = SimpleNamespace(
            system_metrics=lambda run: contextlib.nullcontext(),
            mlflow=SimpleNamespace(ui_command=lambda: "mlflow server"),
        )

    def open(self, *_): ...

    def close_cell(self, *_): ...

    def close(self, *_): ...

    def table_url(self):
        return "there"

    compare_url = table_url


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    """Runs the table as a program does; returns click's result."""
    sources = SimpleNamespace(notes=[], reports=[], vanilla_weights={}, data={})
    monkeypatch.setattr(run, "load_sources", lambda *_, **__: sources)
    monkeypatch.setattr(run, "row_recipes", lambda row, *_: Recipes(row.name))
    monkeypatch.setattr(run, "SweepTracking", Tracking)

    def run_table(options: Options) -> int:
        return run.run(EXPERIMENT, options)

    def start():
        command = experiment_command(tmp_path, run_table)
        return CliRunner().invoke(command, ["--storage", str(tmp_path / "storage"), "--results", str(tmp_path / "out")])

    return start


def test_an_ordinary_failure_and_its_table(sweep, monkeypatch, tmp_path):
    def tune(*arguments):
        arguments[-2][OPEN] = "a.npy: damaged; delete it"

    monkeypatch.setattr(run, "_run_missing", tune)
    result = sweep()
    assert result.exit_code == 1
    assert "42.50" in result.output
    assert "FAILED open seed 0: a.npy: damaged; delete it" in result.output
    assert "42.50" in (tmp_path / "out" / "small" / "mini" / "table.md").read_text("utf-8")


@pytest.mark.parametrize("failing", [no_room, half_a_pickle])
def test_the_table_is_shown_when_the_rows_stop(sweep, monkeypatch, failing):
    monkeypatch.setattr(run, "_run_missing", failing)
    result = sweep()
    assert result.exit_code == 1
    assert "42.50" in result.output
    assert "FAILED open seed 0: not finished" in result.output
    assert "FAILED the rows: " in result.output
    assert "Aborted" not in result.output
    if failing is no_room:
        assert "No space left on device: '/disk/file'; free some space and run the same command again" in result.output


def test_why_a_row_failed_is_kept_when_it_fails(tmp_path):
    """Not at the end, when Tune may be unable to read one of the errors and then tells none."""
    failures: dict = {}
    view = SimpleNamespace(update=lambda *_: None)
    watch = run.Watch(Tracking(), view, None, failures)
    for name, content in (("done", pickle.dumps(ValueError("a.npy: damaged; delete it"))), ("open", b"")):
        (tmp_path / name).write_bytes(content)
        trial = SimpleNamespace(config={"cell": [name, 0]}, pickled_error_file=str(tmp_path / name), error_file=None)
        watch.on_trial_error(0, [], trial)
    assert failures[DONE] == "a.npy: damaged; delete it"
    assert "is the disk full" in failures[OPEN]


@pytest.mark.parametrize("name", ["write_tables", "close", "close_cell"])
def test_the_table_is_shown_when_it_cannot_be_written_or_recorded(sweep, monkeypatch, name):
    monkeypatch.setattr(run, "_run_missing", lambda *_: None)
    monkeypatch.setattr(*((run, name) if name == "write_tables" else (Tracking, name)), no_room)
    result = sweep()
    assert result.exit_code == 1
    assert "42.50" in result.output
    assert "free some space and run the same command again" in result.output


def test_a_refused_plan_is_no_table(sweep, monkeypatch):
    def refuse(*_):
        raise ValueError("12 CPUs are needed; give --cpus 12")

    monkeypatch.setattr(run, "_run_missing", refuse)
    result = sweep()
    assert result.exit_code == 1
    assert result.output.splitlines()[-1] == "error: 12 CPUs are needed; give --cpus 12"


def test_half_a_file_is_no_abort(tmp_path):
    result = CliRunner().invoke(experiment_command(tmp_path, half_a_pickle), [])
    assert (result.exit_code, "Aborted" in result.output) == (1, False)
    group = CommandGroup("bsp")
    group.command()(half_a_pickle)
    result = CliRunner().invoke(group, ["half-a-pickle"])
    assert isinstance(result.exception, RuntimeError)
