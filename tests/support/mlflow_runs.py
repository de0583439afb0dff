"""A real MLflow server, and everything that an MLflow store shows, to be compared with another one's."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bsp_platform.tracking.mlflow_store import MlflowStore
from repository import ROOT


def all_of(mlflow: MlflowStore, folder: Path, experiment: str = "exp") -> dict[str, dict[str, Any]]:
    """By key of the run, everything that MLflow shows: also times, all points, and what is in the files."""
    client = mlflow.client
    runs = client.search_runs([client.get_experiment_by_name(experiment).experiment_id])
    keys = {run.info.run_id: run.data.tags["bsp.key"] for run in runs}
    assert len(set(keys.values())) == len(runs), "two runs with one key"

    def files(run_id: str, path: str | None = None) -> Iterator[tuple[str, bytes]]:
        for found in client.list_artifacts(run_id, path):
            if found.is_dir:
                yield from files(run_id, found.path)
            else:
                place = folder / run_id
                place.mkdir(parents=True, exist_ok=True)
                yield found.path, Path(client.download_artifacts(run_id, found.path, str(place))).read_bytes()

    def points(run_id: str, name: str) -> list[tuple[int, str, int]]:
        return sorted((p.step, repr(p.value), p.timestamp) for p in client.get_metric_history(run_id, name))

    return {
        keys[run.info.run_id]: {
            "info": (run.info.run_name, run.info.status, run.info.start_time, run.info.end_time),
            "parent": keys.get(run.data.tags.get("mlflow.parentRunId")),
            "params": run.data.params,
            "tags": {name: text for name, text in run.data.tags.items() if not name.startswith("mlflow.")},
            "metrics": {name: points(run.info.run_id, name) for name in run.data.metrics},
            "files": dict(files(run.info.run_id)),
        }
        for run in runs
    }


def start_server(folder: Path, port: int) -> subprocess.Popen:
    server = subprocess.Popen(
        [
            os.path.join(os.path.dirname(sys.executable), "mlflow"), "server", "--host", "127.0.0.1",
            "--port", str(port), "--workers", "1", "--backend-store-uri", f"sqlite:///{folder / 'server.db'}",
            "--artifacts-destination", str(folder / "artifacts"),
        ],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
    )  # fmt: skip
    wait_for(lambda: answers(port), "MLflow server")
    return server


def make_ui() -> list[str]:
    """The words of the command that `make ui` runs, from `mlflow` on."""
    printed = subprocess.run(["make", "-n", "ui"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    line = next(line for line in printed.replace("\\\n", " ").splitlines() if "mlflow server" in line)
    words = shlex.split(line)
    return words[next(k for k, word in enumerate(words) if word.endswith("mlflow")) :]


@contextlib.contextmanager
def running_ui(database: Path) -> Iterator[int]:
    """The port of a server that is started as `make ui` starts it, but for its port and data base."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [word.replace("5000", str(port)) for word in make_ui()]
    words[words.index("--backend-store-uri") + 1] = f"sqlite:///{database}"
    path = database.with_suffix(".log")
    with open(path, "w") as log:
        server = subprocess.Popen(
            [str(Path(sys.executable).with_name("mlflow")), *words[1:]], cwd=database.parent, stdout=log, stderr=log,
            env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}, start_new_session=True,
        )  # fmt: skip
    try:
        deadline = time.monotonic() + 180
        while not answers(port):
            assert server.poll() is None, path.read_text()
            assert time.monotonic() < deadline, path.read_text()
            time.sleep(0.1)
        yield port
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)


def answers(port: int) -> bool:
    try:
        return bool(urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1).read())
    except OSError:
        return False


def stop_server(server: subprocess.Popen) -> None:
    os.killpg(server.pid, signal.SIGKILL)
    server.wait()


def wait_for(condition: Callable[[], Any], what: str, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"no {what} within {seconds:.0f} s"
        time.sleep(0.1)
