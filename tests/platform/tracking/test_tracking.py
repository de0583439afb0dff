"""MLflow: runs are found again, names are legal; what the store does not take now is delivered later, once."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from click.testing import CliRunner

from bsp_platform.cli.main import main
from bsp_platform.tracking.outbox import Outbox, OutboxFile, read_records
from bsp_platform.tracking.tracker import Tracker, mlflow_name


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """Of one SQLite store; every test has its own experiment there."""
    return tmp_path_factory.mktemp("mlflow")


def test_a_run_is_found_again_by_its_key(home):
    tracker = Tracker(None, "found", home)
    parent = tracker.run("key", "parent")
    child = tracker.run("key/1", "child", parent=parent, tags={"row": "x"})
    assert Tracker(None, "found", home).run("key/1", "child", parent=parent) == child
    assert tracker.client.get_run(child).data.tags["mlflow.parentRunId"] == parent
    assert child != parent


def test_metrics_keep_their_steps_and_get_legal_names(home):
    tracker = Tracker(None, "names", home)
    run = tracker.run("key", "run")
    tracker.history(run, "pretrain/", [{"step": 5, "loss": 1.5}, {"step": 10, "loss": 0.5}])
    tracker.metrics(run, {"mAP@0.50": 12.5})
    assert tracker.flush() == 0
    assert history(tracker, run, "pretrain/loss") == [(5, 1.5), (10, 0.5)]
    assert tracker.client.get_run(run).data.metrics["mAP_0.50"] == 12.5
    assert mlflow_name("mAP@0.50") == "mAP_0.50"
    tracker.tags(run, {"warning.dc+ss; (all)": "text"})
    tracker.close()
    assert tracker.client.get_run(run).data.tags["warning.dc_ss_ _all_"] == "text"


def test_a_point_is_logged_once_and_a_new_summary_beside_the_old(home):
    for attempt in range(2):  # the second as a process that continues
        tracker = Tracker(None, "once", home)
        run = tracker.run("key", "run")
        # Steps 10 and 15 once more, as after a restart from the checkpoint of step 5; speeds differ.
        tracker.history(run, "", [{"step": s, "loss": 1 / s, "clips_per_s": s + attempt} for s in (5, 10, 15, 10, 15)])
        tracker.history(run, "", [{"step": 20 + attempt, "loss": 0.0}])
        for mean in (1.0, 1.0, float("nan"), float("nan"), 2.0 + attempt):
            tracker.metrics(run, {"mAP": mean})
        tracker.close()
    assert history(tracker, run, "loss") == [(5, 1 / 5), (10, 1 / 10), (15, 1 / 15), (20, 0.0), (21, 0.0)]
    assert history(tracker, run, "clips_per_s") == [(5, 5.0), (10, 10.0), (15, 15.0)]
    assert sorted(str(value) for _, value in history(tracker, run, "mAP")) == ["1.0", "2.0", "3.0", "nan"]
    assert not tracker._file.path.exists()


def test_what_mlflow_refuses_is_kept_in_a_file_and_does_not_block_the_rest(home):
    tracker = Tracker(None, "refused", home)
    run = tracker.run("key", "run")
    for value in (1, 2):
        tracker.params(run, {"fixed": value})  # MLflow lets no parameter change
    tracker.metrics(run, {"good": 2.0})
    tracker.artifact(run, home / "gone.txt", final=True)
    tracker.finish(run)
    assert tracker.close() == 0
    found = tracker.client.get_run(run)
    assert (found.data.metrics, found.data.params, found.info.status) == ({"good": 2.0}, {"fixed": "1"}, "FINISHED")
    refused = [json.loads(line) for line in Outbox(home, tracker.uri).refused.read_text().splitlines()]
    first, second = (record["reason"] for record in refused if record["run"] == run)
    assert "'fixed'" in first
    assert second == f"{home / 'gone.txt'} is gone"


def test_the_load_of_the_machine_goes_to_the_run(home):
    tracker = Tracker(None, "system", home)
    run = tracker.run("key", "run")
    with tracker.system_metrics(run, every_s=3600):
        pass
    tracker.close()
    metrics = tracker.client.get_run(run).data.metrics
    assert {"system/cpu_utilization_percentage", "system/system_memory_usage_megabytes"} <= set(metrics)
    total_mb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e6
    assert 0 < metrics["system/system_memory_usage_megabytes"] < total_mb


def test_the_printed_links_lead_to_a_server_on_loopback_or_to_the_given_one(home):
    tracker = Tracker(None, "links", home)
    assert tracker.ui_command() == (
        f"mlflow server --backend-store-uri sqlite:///{home}/mlflow.db --host 127.0.0.1 --port 5000"
        " --allowed-hosts localhost:5000,127.0.0.1:5000"
    )
    number = tracker.experiment_id
    expected = f"http://127.0.0.1:5000/#/compare-runs?runs=%5B%22a%22%2C%20%22b%22%5D&experiments=%5B%22{number}%22%5D"
    assert tracker.compare_url(["a", "b"]) == expected
    tracker.uri = "https://me:secret@mlflow.example/"
    assert tracker.compare_url(["a"]).startswith("https://me:***@mlflow.example/#/compare-runs")
    assert tracker.compare_url(["key:not made yet"]) == "when the records are delivered"


def test_a_store_that_has_never_answered_is_an_error_with_the_remedy(tmp_path):
    with pytest.raises(RuntimeError, match=r"cannot use the MLflow tracking store http.*--tracking-uri"):
        Tracker("http://127.0.0.1:9", "exp", tmp_path)
    done = CliRunner().invoke(main, ["deliver", "--home", str(tmp_path)])
    assert (done.exit_code, "no outbox" in done.output) == (0, True)


# -- the outbox --


def test_a_damaged_outbox_gives_its_whole_records(tmp_path):
    outbox = Outbox(tmp_path, "sqlite:////somewhere/mlflow.db")
    file = outbox.new_file({"experiment": "exp", "artifacts": None})
    for value in range(3):
        file.append({"do": "metrics", "time": 1, "run": "r", "points": [["loss", value, 0]], "unless": None})
    with pytest.raises(BlockingIOError):  # its writer lives
        OutboxFile(file.path)
    lines = file.path.read_bytes().splitlines(keepends=True)
    lines[2] = lines[2].replace(b"{", b"\x00", 1)
    lines[3] = lines[3][:-20]  # the process was killed while it wrote
    file.path.write_bytes(b"".join(lines))
    assert [r.get("points") for r in read_records(file.path)] == [None, [["loss", 0, 0]]]
    file.close()  # what a dead writer leaves
    (left,) = outbox.left()
    assert (left.header["experiment"], left.waiting) == ("exp", 1)
    left.sent(1)
    left.close()
    assert not outbox.files()


@pytest.mark.fault
def test_records_that_find_no_room_are_kept_in_memory_and_written_later(tmp_path, monkeypatch, fault_row):
    file = Outbox(tmp_path, "x").new_file({"experiment": "exp", "artifacts": None})
    records = [{"do": "status", "status": str(number)} for number in range(4)]
    file.append(records[0])
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[:9]))  # the disk is full in the middle of a line
    file.append(records[1])
    file.append(records[2])
    assert read_records(file.path)[1:] == records[:1]
    assert file.waiting == 3
    monkeypatch.setattr(os, "write", write)
    file.append(records[3])
    fault_row(
        "disk full while records for MLflow are kept",
        "2 records waited in memory and were written, in their order, once there was room",
        equal=read_records(file.path)[1:] == records,
    )


def test_metrics_are_sent_together_and_everything_else_alone(tmp_path):
    file = Outbox(tmp_path, "x").new_file({"experiment": "exp", "artifacts": None})
    for points in (2, 2, 2):
        file.append({"do": "metrics", "points": [["loss", 0, 0]] * points})
    for status in ("FAILED", "FINISHED"):
        file.append({"do": "status", "status": status})
    sizes = []
    while group := file.head(points=5):
        sizes.append((group[0]["do"], len(group)))
        file.sent(len(group))
    assert sizes == [("metrics", 2), ("metrics", 1), ("status", 1), ("status", 1)]
    assert len(read_records(file.path)) == 1  # the header


# -- a real server that dies --


def start_server(folder, port: int) -> subprocess.Popen:
    server = subprocess.Popen(
        [
            os.path.join(os.path.dirname(sys.executable), "mlflow"), "server", "--host", "127.0.0.1",
            "--port", str(port), "--workers", "1", "--backend-store-uri", f"sqlite:///{folder / 'server.db'}",
            "--artifacts-destination", str(folder / "artifacts"),
        ],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
    )  # fmt: skip
    wait_for(lambda: answers(port), "MLflow server", 120)
    return server


def answers(port: int) -> bool:
    try:
        return bool(urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1).read())
    except OSError:
        return False


def stop_server(server: subprocess.Popen) -> None:
    os.killpg(server.pid, signal.SIGKILL)
    server.wait()


def wait_for(condition, what: str, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"no {what} within {seconds:.0f} s"
        time.sleep(0.1)


def history(tracker: Tracker, run: str, metric: str) -> list[tuple[int, float]]:
    points = tracker.client.get_metric_history(run, metric)
    return [(p.step, p.value) for p in sorted(points, key=lambda p: (p.timestamp, p.step))]


DRIVER = """
import sys
from pathlib import Path
from bsp_platform.tracking.tracker import Tracker

home, uri = Path(sys.argv[1]), sys.argv[2]
tracker = Tracker(uri, "killed", home)
run = tracker.run("killed", "killed")
print("ready", flush=True)
sys.stdin.readline()  # the server is dead now
child = tracker.run("killed/1", "child", parent=run)
for step in range(20):
    tracker.history(child, "", [{"step": step, "loss": 100.0 - step}])
tracker.artifact(child, Path(__file__))
print("recorded", flush=True)
sys.stdin.readline()
"""


@pytest.mark.fault
def test_a_server_killed_in_the_middle_has_everything_once_in_the_end(tmp_path, fault_row):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    uri, script, other_home = f"http://127.0.0.1:{port}", tmp_path / "driver.py", tmp_path / "other"
    script.write_text(DRIVER)
    server = start_server(tmp_path, port)
    driver = subprocess.Popen(
        [sys.executable, str(script), str(other_home), uri], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        tracker = Tracker(uri, "exp", tmp_path)
        run = tracker.run("key", "run")
        logged = []

        def log(step: int) -> None:
            logged.append((step, 1 / (step + 1)))
            tracker.history(run, "", [{"step": step, "loss": logged[-1][1]}])

        while len(logged) < 60 or not history(tracker, run, "loss"):
            log(len(logged))
        assert driver.stdout.readline() == "ready\n"
        for _ in range(40):  # the server dies while these are on their way
            log(len(logged))
        stop_server(server)
        for _ in range(200):
            log(len(logged))
        wait_for(lambda: tracker._away, "notice of the dead server")
        driver.stdin.write("\n")
        driver.stdin.flush()
        assert driver.stdout.readline() == "recorded\n"
        driver.kill()
        driver.wait()

        child = tracker.run("key/1", "child", parent=run, tags={"row": "x"})  # cannot be made now
        tracker.params(child, {"row": 1})
        tracker.metrics(child, {"mAP": 12.5})
        table = tmp_path / "table.md"
        table.write_text("as it was")
        tracker.artifact(child, table)
        table.write_text("written again")
        tracker.finish(child)
        kept = len(read_records(tracker._file.path)) - 1
        assert kept >= 200
        while_away = time.time() * 1000

        server = start_server(tmp_path, port)
        wait_for(lambda: not tracker._file.waiting, "delivery")  # by itself
        tracker.finish(run)
        assert tracker.close() == 0
        found = {r.info.run_name: r for r in tracker.client.search_runs([tracker.experiment_id])}
        made = found["child"]
        assert set(found) == {"run", "child"}
        assert {r.info.status for r in found.values()} == {"FINISHED"}
        assert (made.data.metrics, made.data.params) == ({"mAP": 12.5}, {"row": "1"})
        assert made.data.tags["mlflow.parentRunId"] == run
        assert made.info.end_time < while_away  # the time when it was recorded
        local = tracker.client.download_artifacts(made.info.run_id, "table.md", str(tmp_path))
        assert Path(local).read_text() == "as it was"

        again = {"do": "metrics", "run": run, "time": 1, "points": [["x", 0.1, 0], ["y", 1e-300, 0]], "unless": None}
        for _ in range(2):  # as when the server died before it could answer
            tracker._sender.send([again])
        assert history(tracker, run, "x") == [(0, 0.1)]
        assert history(tracker, run, "y") == [(0, 1e-300)]

        # What the killed driver recorded: nobody but the command delivers it, as it has another home.
        shown = CliRunner().invoke(main, ["deliver", "--home", str(other_home), "--show"])
        assert (shown.exit_code, "killed: " in shown.output) == (1, True), shown.output
        done = CliRunner().invoke(main, ["deliver", "--home", str(other_home)])
        assert done.exit_code == 0, done.output
        for _ in range(2):  # the experiment itself goes on in the same runs
            again = Tracker(uri, "killed", other_home)
            orphan = again.run("killed/1", "child", parent=again.run("killed", "killed"))
            again.history(orphan, "", [{"step": step, "loss": 100.0 - step} for step in range(25)])
            assert again.close() == 0
        assert len(again.client.search_runs([again.experiment_id])) == 2
        assert [a.path for a in again.client.list_artifacts(orphan)] == ["driver.py"]
        points = history(tracker, run, "loss")
        of_killed = history(again, orphan, "loss")
        fault_row(
            "SIGKILL of the MLflow server in the middle of a run, of a driver while it is away",
            f"{kept} records kept and delivered by itself when the server was back, those of the killed driver by "
            f"`bsp deliver`; {len(points) + len(of_killed)} points there of {len(logged) + 25} logged",
            equal=points == logged and of_killed == [(step, 100.0 - step) for step in range(25)],
        )
    finally:
        driver.kill()
        stop_server(server)
