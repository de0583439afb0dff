"""MLflow: runs are found again, names are legal; whatever happens on the way, a run shows its record in the end."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from bsp_platform.cli.main import main
from bsp_platform.storage.files import write_json
from bsp_platform.storage.manifests import recipe_hash
from bsp_platform.storage.stages import StageStore
from bsp_platform.sweep.tracking import finished
from bsp_platform.tracking.mlflow_store import MlflowStore
from bsp_platform.tracking.names import metric_name
from bsp_platform.tracking.record import RunRecord, ShownStage, attach, opened, parse_record, write_record
from bsp_platform.tracking.tracker import Tracker
from mlflow_runs import all_of, start_server, stop_server, wait_for
from row_without_ray import row, undisturbed  # noqa: F401 (fixtures)

pytestmark = pytest.mark.server  # MLflow's store, and a server of it

BEGAN_MS = 1_700_000_000_000


@dataclass(frozen=True)
class Made:
    """Recipe of a stage with curves and a file."""

    name: str


def entry(step: int) -> dict[str, float]:
    return {"step": step, "loss": 1 / step, "unix_time": BEGAN_MS / 1000 + step}


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """Of one SQLite store; every test has its own experiment there."""
    return tmp_path_factory.mktemp("mlflow")


@pytest.fixture
def storage(tmp_path) -> StageStore:
    """Two stages: an encoder whose curve has times, and a head as older versions left it."""
    store = StageStore(tmp_path / "storage")

    def encoder(folder: Path) -> None:
        write_json(folder / "history.json", [entry(step) for step in range(5, 30, 5)])
        (folder / "encoder.pt").write_bytes(b"weights")

    def head(folder: Path) -> None:
        write_json(folder / "history.json", [{"epoch": epoch, "loss": 0.5} for epoch in range(3)])
        write_json(folder / "scores.json", {"mAP@0.50": 12.5})

    store.ensure("encoders", Made("e"), encoder)
    store.ensure("heads", Made("h"), head)
    return store


PARENT = RunRecord(experiment="exp", key="p", name="exp smoke", started_ms=BEGAN_MS, params={"profile": "smoke"})
CHILD = RunRecord(
    experiment="exp", key="p/1", parent="p", name="01 {dc, ss} cls", started_ms=BEGAN_MS + 5, params={"row": "x"},
    tags={"of row@1": "2.0"},
)  # fmt: skip


def finished_child() -> RunRecord:
    stages = (
        ShownStage(name=f"encoders/{recipe_hash(Made('e'))}", prefix="training/pretrain/", files=("encoder.pt",)),
        ShownStage(
            name=f"heads/{recipe_hash(Made('h'))}",
            prefix="training/gtad/",
            axis="epoch",
            files=("scores.json",),
            folder="gtad",
        ),
    )
    record = replace(CHILD, stages=stages, status="FINISHED", ended_ms=BEGAN_MS + 100_000)
    return record.with_numbers({"ours/mAP@0.50": 12.5, "ours/undefined": float("nan")})


def finished_parent(store: StageStore, table: Path) -> RunRecord:
    record = attach(store, PARENT.with_numbers({"mAP@0.50/x": 12.5}), [table])
    return replace(record, status="FINISHED", ended_ms=BEGAN_MS + 110_000)


def deliver(store: StageStore, home: Path, *options: str) -> tuple[int, str]:
    done = CliRunner().invoke(main, ["deliver", "--storage", store.address, "--home", str(home), *options])
    return done.exit_code, done.output


def run_all(tracker: Tracker, store: StageStore, table: Path) -> int:
    """A sweep of one row, without its work."""
    tracker.show(PARENT)
    tracker.show(CHILD)
    for step in (5, 10, 15, 10, 15, 20, 25):  # it was continued from the checkpoint of step 5
        tracker.live(CHILD, "training/pretrain/", entry(step))
    tracker.show(finished_child())
    tracker.show(finished_parent(store, table))
    return tracker.close()


@pytest.fixture
def table(tmp_path) -> Path:
    path = tmp_path / "table.md"
    path.write_text("12.5")
    return path


def test_a_run_shows_what_its_record_and_stages_hold(home, storage, table, tmp_path):
    tracker = Tracker(None, "exp", home, storage)
    assert run_all(tracker, storage, table) == 0
    shown = all_of(tracker.mlflow, tmp_path / "files")
    assert set(shown) == {"p", "p/1"}
    child, parent = shown["p/1"], shown["p"]
    assert child["info"] == ("01 {dc, ss} cls", "FINISHED", BEGAN_MS + 5, BEGAN_MS + 100_000)
    assert child["parent"] == "p"
    assert child["params"] == {"row": "x"}
    assert child["tags"]["of row_1"] == "2.0"
    assert child["metrics"] == {
        "training/pretrain/loss": [(step, repr(1 / step), BEGAN_MS + 1000 * step) for step in (5, 10, 15, 20, 25)],
        "training/gtad/loss": [(epoch, "0.5", BEGAN_MS + 100_000) for epoch in range(3)],
        "ours/mAP_0.50": [(0, "12.5", BEGAN_MS + 100_000)],
        "ours/undefined": [(0, "nan", BEGAN_MS + 100_000)],
    }
    assert set(child["files"]) == {"encoder.pt", "gtad/scores.json"}
    assert child["files"]["encoder.pt"] == b"weights"
    assert parent["files"] == {"table.md": b"12.5"}
    assert parent["metrics"] == {"mAP_0.50/x": [(0, "12.5", BEGAN_MS + 110_000)]}


def test_sending_again_changes_nothing_and_an_empty_mlflow_is_filled_from_the_storage(home, storage, table, tmp_path):
    for _ in range(2):
        tracker = Tracker(None, "exp", home, storage)
        assert run_all(tracker, storage, table) == 0
    expected = all_of(tracker.mlflow, tmp_path / "files")
    for options in ([], ["--show"]):
        status, said = deliver(storage, home, *options)
        assert (status, "2 of 2 runs" in said) == (0, True)
    assert all_of(tracker.mlflow, tmp_path / "files 2") == expected

    status, said = deliver(storage, tmp_path, "--show")
    assert (status, "0 of 2 runs" in said) == (1, True)
    assert "exp, 01 {dc, ss} cls: lacks the run, 1 parameters, 2 tags, 10 points, encoder.pt, scores.json" in said
    status, said = deliver(storage, tmp_path)
    assert (status, "2 of 2 runs" in said) == (0, True), said
    assert all_of(MlflowStore(None, tmp_path), tmp_path / "files 3") == expected


class Dying:
    """A client whose process is killed when it has changed something so many times."""

    def __init__(self, client: Any, changes: int):
        self.client, self.changes = client, changes

    def __getattr__(self, name: str) -> Any:
        if name.startswith(("create", "log", "set", "update", "delete")):
            self.changes -= 1
            if self.changes < 0:
                raise KeyboardInterrupt
        return getattr(self.client, name)


@pytest.mark.fault
def test_killed_between_any_two_calls_the_rest_is_sent_later(home, storage, table, tmp_path, fault_row):
    def send_all(experiment: str, changes: int = 1000) -> dict[str, dict[str, Any]]:
        """What MLflow shows after a process that was killed, and a second one that was not."""
        first, second = MlflowStore(None, home), MlflowStore(None, home)
        first.client = Dying(first.client, changes)
        records = [PARENT, CHILD, finished_child(), finished_parent(storage, table)]
        records = [replace(record, experiment=experiment) for record in records]
        with contextlib.suppress(KeyboardInterrupt):
            for record in records:
                first.send(storage, record)
        killed.append(first.client.changes < 0)
        for record in reversed(records[2:]):  # the parent first, as `bsp deliver` does
            second.send(storage, record)
        shown = all_of(second, tmp_path / experiment, experiment)
        for run in shown.values():
            run["tags"].pop("bsp.sent")  # it knows the experiment's name
        return shown

    killed: list[bool] = []
    expected = send_all("whole")
    equal = all([send_all(f"killed {changes}", changes) == expected for changes in range(0, 16, 3)])
    assert killed == [False] + 6 * [True]
    fault_row(
        "SIGKILL of a process that sends a row to MLflow, at six places",
        "the next one sent what was lacking: no run, point or file twice",
        equal=equal,
    )


def test_a_refused_parameter_does_not_block_and_a_failure_is_told_until_the_row_goes_on(home, storage, tmp_path):
    tracker = Tracker(None, "refused", home, storage)
    record = replace(CHILD, experiment="refused", parent="")
    tracker.show(record)
    changed = replace(record, params={"row": "y", "new": "z"})  # MLflow lets no parameter change
    tracker.show(replace(changed, status="FAILED", ended_ms=BEGAN_MS + 9, tags={"failure": "a.npy: damaged"}))
    wrong = replace(record, key="p/2", started_ms=-(2**80))  # no data base takes that
    tracker.show(wrong)
    assert tracker.close() == 1
    shown = all_of(tracker.mlflow, tmp_path / "files", "refused")["p/1"]
    assert (shown["params"], shown["info"][1]) == ({"row": "x", "new": "z"}, "FAILED")
    assert shown["tags"]["failure"] == "a.npy: damaged"
    again = Tracker(None, "refused", home, storage)
    again.show(opened(record, storage))
    again.close()
    shown = all_of(tracker.mlflow, tmp_path / "files", "refused")["p/1"]
    assert (shown["info"][1], "failure" in shown["tags"]) == ("RUNNING", False)


def test_a_new_summary_stands_beside_the_old_and_an_old_run_without_marks_is_completed(home, storage):
    mlflow, record = MlflowStore(None, home), replace(CHILD, experiment="summary", parent="")
    client, number = mlflow.client, mlflow.experiment_id("summary")
    run = client.create_run(number, tags={"bsp.key": record.key}).info.run_id  # as earlier versions made it
    client.log_metric(run, "ours/mAP_0.50", 12.5)
    client.log_metric(run, "training/pretrain/loss", 1 / 5, step=5)
    done = replace(finished_child(), experiment="summary", parent="")
    for mean in (12.5, 12.5, 14.0, 13.0):
        done = replace(done.with_numbers({"ours/mAP@0.50": mean}), ended_ms=done.ended_ms + 2**40)
        mlflow.send(storage, done)
    assert [p.value for p in client.get_metric_history(run, "ours/mAP_0.50")] == [12.5, 14.0, 13.0]
    assert client.get_run(run).data.metrics["ours/mAP_0.50"] == 13.0
    assert sorted(p.step for p in client.get_metric_history(run, "training/pretrain/loss")) == [5, 10, 15, 20, 25]


def test_what_is_gone_is_named_and_left_out(home, storage, table, tmp_path, caplog):
    record = attach(storage, replace(finished_child(), experiment="gone", parent=""), [table])
    (storage.root / record.folder / table.name).unlink()
    (storage.root / record.folder / table.name).symlink_to(table)  # outside of the storage
    (storage.root / record.stages[0].name / "encoder.pt").write_bytes(b"other")
    (storage.root / record.stages[1].name / "manifest.json").unlink()
    mlflow = MlflowStore(None, home)
    mlflow.send(storage, record)
    shown = all_of(mlflow, tmp_path / "files", "gone")["p/1"]
    assert (set(shown["metrics"]), shown["files"]) == ({"ours/mAP_0.50", "ours/undefined"}, {})
    assert "table.md is gone, or a link out of the storage" in caplog.text
    assert "encoder.pt has 5 bytes" in caplog.text
    assert "manifest.json is gone; its curves and files are not sent" in caplog.text


def test_only_files_that_a_stage_lists_are_sent_and_others_hold_up_nothing(home, storage, tmp_path, caplog):
    secret = tmp_path / "secret.txt"
    secret.write_text("of somebody else")
    whole = finished_child()
    folder = storage.root / whole.stages[0].name
    (folder / "link.txt").symlink_to(secret)  # no manifest lists it
    child = replace(whole, stages=(replace(whole.stages[0], files=("link.txt", "never.pt", "encoder.pt")),))
    others = [replace(child if key == "p/1" else PARENT, experiment="listed", key=key) for key in ("p/1", "x", "y")]
    for record in others:
        write_record(storage, record)
    assert deliver(storage, home)[0] == 0
    assert "does not list link.txt" in caplog.text
    assert "does not list never.pt" in caplog.text
    shown = all_of(MlflowStore(None, home), tmp_path / "files", "listed")
    assert set(shown) == {"p/1", "x", "y"}
    assert set(shown["p/1"]["files"]) == {"encoder.pt"}


def test_artifacts_that_are_not_taken_hold_up_nothing_else(home, storage, tmp_path):
    record = replace(finished_child(), experiment="artifacts", parent="")
    tracker = Tracker(None, "artifacts", home, storage)
    place = home / "artifacts" / tracker.mlflow.run_id(record)
    place.write_text("a file where MLflow wants a folder")
    tracker.show(record)
    other = tracker.show(replace(record, key="p/2", stages=()))
    assert tracker.close() == 1
    place.unlink()
    again = MlflowStore(None, home)
    assert str(again.lacking(storage, record)) == "encoder.pt, scores.json, its state"
    assert not again.lacking(storage, other)
    again.send(storage, record)
    shown = all_of(again, tmp_path / "files", "artifacts")
    assert (len(shown["p/2"]["metrics"]), set(shown["p/1"]["files"])) == (2, {"encoder.pt", "gtad/scores.json"})


def test_a_finished_row_gives_its_record_without_having_been_recorded(row, undisturbed):  # noqa: F811
    """Of stages that earlier versions made nobody has noted anything else."""
    folder, scores = undisturbed
    store = StageStore(folder)
    record = finished(replace(CHILD, started_ms=2**50), row.recipes, store, ())
    manifests = {path.parent.parent.name: json.loads(path.read_text()) for path in folder.glob("*/*/manifest.json")}
    numbers = {point.name: point.value for point in record.points}
    assert {name: numbers[f"scores/{name}"] for name in scores} == {name: round(scores[name], 2) for name in scores}
    assert numbers["usage/seconds_heads"] == round(manifests["heads"]["seconds"], 1)
    assert record.ended_ms == datetime.fromisoformat(manifests["heads"]["made"]).timestamp() * 1000
    seconds = sum(manifests[kind]["seconds"] for kind in ("encoders", "features", "heads"))
    assert record.ended_ms - record.started_ms == int(1000 * seconds)
    assert [stage.files for stage in record.stages] == [("encoder.pt",), ("detections.json", "scores.json")]
    assert parse_record(json.dumps(asdict(record)).encode(), "here") == record


def test_a_row_of_an_earlier_version_gets_todays_names_once(home, storage):
    tracker = Tracker(None, "earlier", home, storage)
    tracker.show(replace(PARENT, experiment="earlier"))
    stage = ShownStage(name=f"encoders/{recipe_hash(Made('e'))}", prefix="pretrain/")
    earlier = replace(CHILD, experiment="earlier", stages=(stage,), status="FINISHED", ended_ms=BEGAN_MS)
    earlier = replace(earlier, tags={"paper.mAP@0.50": "40.44", "paper.data": "ActivityNet"})
    earlier = earlier.with_numbers({"mAP@0.50": 12.3456, "AR@1": 3.0, "seconds/heads": 2.5, "cost/streams": 2})
    tracker.show(earlier)  # written as that version did; what it sent has its own names
    assert tracker.close() == 0
    assert "earlier, 01 {dc, ss} cls: sending" in deliver(storage, home)[1]
    metrics = tracker.mlflow.find("earlier", CHILD.key).data.metrics
    assert {name: value for name, value in metrics.items() if name.split("/")[0] in ("ours", "paper", "scores")} == {
        "ours/mAP_0.50": 12.35, "paper/mAP_0.50": 40.44, "scores/AR_1": 3.0,
    }  # fmt: skip
    assert (metrics["usage/seconds_heads"], metrics["usage/streams"]) == (2.5, 2)
    assert metrics["training/pretrain/loss"] == 1 / 25
    assert "sending" not in deliver(storage, home)[1]


def test_the_load_of_the_machine_goes_to_the_run(home, storage, monkeypatch):
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.2")
    tracker = Tracker(None, "system", home, storage)
    record = tracker.show(replace(PARENT, experiment="system"))

    def megabytes() -> float | None:
        run = tracker.mlflow.find("system", record.key)
        return run.data.metrics.get("system/system_memory_usage_megabytes") if run else None

    with tracker.system_metrics(record):
        wait_for(megabytes, "measurement")
    tracker.close()
    assert 0 < megabytes() < os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e6


def test_the_printed_links_lead_to_a_server_on_loopback_or_to_the_given_one(home):
    mlflow = MlflowStore(None, home)
    assert mlflow.ui_command() == (
        f"mlflow server --app-name bsp --backend-store-uri sqlite:///{home}/mlflow.db --host 127.0.0.1 --port 5000"
        " --allowed-hosts localhost:5000,127.0.0.1:5000"
    )
    record = replace(PARENT, experiment="links")
    assert mlflow.compare_url([record]).startswith("when MLflow is back")
    run, number = mlflow.run_id(record), mlflow.experiment_id("links")
    expected = f"/#/compare-runs?runs=%5B%22{run}%22%5D&experiments=%5B%22{number}%22%5D"
    assert mlflow.compare_url([record, CHILD]) == f"http://127.0.0.1:5000{expected}"
    mlflow.uri = "https://me:secret@mlflow.example/"
    assert mlflow.compare_url([record]) == f"https://me:***@mlflow.example{expected}"
    assert metric_name("mAP@0.50") == "mAP_0.50"


def test_a_store_that_has_never_answered_is_an_error_with_the_remedy(storage, tmp_path):
    with pytest.raises(RuntimeError, match=r"cannot use the MLflow tracking store http.*--tracking-uri"):
        Tracker("http://127.0.0.1:9", "exp", tmp_path, storage)
    assert deliver(storage, tmp_path, "--tracking-uri", "http://127.0.0.1:9")[0] == 0  # there is nothing to send
    write_record(storage, PARENT)
    status, said = deliver(storage, tmp_path, "--tracking-uri", "http://127.0.0.1:9")
    assert (status, "0 of 1 runs" in said) == (1, True)


@pytest.mark.fault
def test_a_server_killed_in_the_middle_shows_the_same_in_the_end(home, storage, table, tmp_path, fault_row, caplog):
    """... as one that was always there: a SQLite file that is given the same records."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{free.getsockname()[1]}"
    port = int(uri.rpartition(":")[2])
    records = [PARENT, CHILD, finished_child(), finished_parent(storage, table)]
    records = [replace(record, experiment="killed") for record in records]
    failed = replace(records[1], key="p/2", name="02 failed", ended_ms=BEGAN_MS, status="FAILED", tags={"failure": "x"})
    server = start_server(tmp_path, port)
    try:
        away = Tracker(uri, "killed", tmp_path / "away", storage)
        trackers = [away, Tracker(None, "killed", home, storage)]

        def live(*steps: int) -> None:
            for step in steps:
                for tracker in trackers:
                    tracker.live(records[1], "training/pretrain/", entry(step))

        def show(*shown: RunRecord) -> None:
            for record in shown:
                for tracker in trackers:
                    tracker.show(record)

        def arrived() -> bool:
            found = away.mlflow.find("killed", "p/1")
            return found is not None and "training/pretrain/loss" in found.data.metrics

        show(*records[:2])
        live(5)
        wait_for(arrived, "point on the server")
        live(10)  # the server dies while this is on its way, or before
        stop_server(server)
        live(15, 20, 25)
        show(failed, *records[2:])
        assert trackers[1].close() == 0
        assert away.close() == 3
        assert "bsp deliver" in caplog.text
        assert deliver(storage, tmp_path / "away", "--tracking-uri", uri)[0] == 1
        late = Tracker(uri, "killed", tmp_path / "away", storage)  # it has answered before: no error
        server = start_server(tmp_path, port)
        status, said = deliver(storage, tmp_path / "away", "--tracking-uri", uri)
        assert status == 0, said
        late.show(records[-1])
        assert late.close() == 0
        shown, expected = (all_of(t.mlflow, tmp_path / str(k), "killed") for k, t in enumerate(trackers))
        assert len(expected["p/1"]["metrics"]["training/pretrain/loss"]) == 5
        fault_row(
            "SIGKILL of the MLflow server while a row is trained",
            "the sweep went on; `bsp deliver` sent what was lacking once the server was back: runs, parameters, points "
            "with their times, files and states compared",
            equal=shown == expected,
        )
    finally:
        stop_server(server)
