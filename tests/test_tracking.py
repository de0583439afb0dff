"""MLflow: runs are found again, names are legal, and a server that goes away loses nothing."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request

import pytest

from bsp_platform import tracking
from bsp_platform.tracking import Tracker, mlflow_name


def test_a_run_is_found_again_by_its_key(tmp_path):
    tracker = Tracker(None, "exp", tmp_path)
    parent = tracker.run("key", "parent")
    child = tracker.run("key/1", "child", parent=parent, tags={"row": "x"})
    assert Tracker(None, "exp", tmp_path).run("key/1", "child", parent=parent) == child
    assert tracker.client.get_run(child).data.tags["mlflow.parentRunId"] == parent
    assert child != parent


def test_metrics_keep_their_steps_and_get_legal_names(tmp_path):
    tracker = Tracker(None, "exp", tmp_path)
    run = tracker.run("key", "run")
    tracker.history(run, "pretrain/", [{"step": 5, "loss": 1.5}, {"step": 10, "loss": 0.5}])
    tracker.metrics(run, {"mAP@0.50": 12.5})
    assert tracker.logged_steps(run, "pretrain/loss") == {5, 10}
    assert tracker.client.get_run(run).data.metrics["mAP_0.50"] == 12.5
    assert mlflow_name("mAP@0.50") == "mAP_0.50"


def test_what_mlflow_refuses_is_kept_in_a_file_and_does_not_block_the_rest(tmp_path):
    tracker = Tracker(None, "exp", tmp_path)
    run = tracker.run("key", "run")
    tracker.metrics(run, {"bad;name": 1.0})
    tracker.metrics(run, {"good": 2.0})
    tracker.close(tmp_path / "unsent.txt")
    assert tracker.client.get_run(run).data.metrics == {"good": 2.0}
    assert "bad;name" in (tmp_path / "unsent.txt").read_text()


def test_the_printed_links_lead_to_a_server_on_loopback_or_to_the_given_one(tmp_path):
    tracker = Tracker(None, "exp", tmp_path)
    assert tracker.ui_command() == (
        f"mlflow server --backend-store-uri sqlite:///{tmp_path}/mlflow.db --host 127.0.0.1 --port 5000"
    )
    number = tracker.experiment_id
    expected = f"http://127.0.0.1:5000/#/compare-runs?runs=%5B%22a%22%2C%20%22b%22%5D&experiments=%5B%22{number}%22%5D"
    assert tracker.compare_url(["a", "b"]) == expected
    tracker.uri = "https://mlflow.example/"
    assert tracker.compare_url(["a"]).startswith("https://mlflow.example/#/compare-runs")


def test_a_store_that_does_not_answer_at_the_start_is_an_error_with_the_remedy(tmp_path):
    with pytest.raises(RuntimeError, match=r"cannot use the MLflow tracking store http.*--tracking-uri"):
        Tracker("http://127.0.0.1:9", "exp", tmp_path)


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
    for _ in range(600):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1).read()
            return server
        except OSError:
            time.sleep(0.2)
    raise AssertionError("the MLflow server did not start")


def stop_server(server: subprocess.Popen) -> None:
    os.killpg(server.pid, signal.SIGKILL)
    server.wait()


def test_a_server_that_goes_away_and_comes_back_has_everything_in_the_end(tmp_path, monkeypatch):
    monkeypatch.setattr(tracking, "_PAUSE_S", 0.0)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = start_server(tmp_path, port)
    try:
        tracker = Tracker(f"http://127.0.0.1:{port}", "exp", tmp_path)
        run = tracker.run("key", "run")
        tracker.metrics(run, {"loss": 3.0}, step=1)
    finally:
        stop_server(server)
    tracker.metrics(run, {"loss": 2.0}, step=2)  # nobody listens: no exception
    tracker.close(tmp_path / "unsent.txt")
    assert '"loss", 2.0, 2' in (tmp_path / "unsent.txt").read_text()
    server = start_server(tmp_path, port)
    try:
        tracker.metrics(run, {"loss": 1.0}, step=3)
        history = tracker.client.get_metric_history(run, "loss")
        assert [(point.step, point.value) for point in history] == [(1, 3.0), (2, 2.0), (3, 1.0)]
    finally:
        stop_server(server)
