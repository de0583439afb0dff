"""MLflow's servers answer to their own names alone: started as the Makefile and the cluster files start them."""

import http.client
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from repository import ROOT

pytestmark = pytest.mark.server  # MLflow's

SECURITY = {
    "--host": "127.0.0.1",
    "--allowed-hosts": "localhost:5000,127.0.0.1:5000",
    "--cors-allowed-origins": "http://localhost:5000,http://127.0.0.1:5000",
}


def make_ui() -> list[str]:
    """The words of the command that `make ui` runs, from `mlflow` on."""
    printed = subprocess.run(["make", "-n", "ui"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    line = next(line for line in printed.replace("\\\n", " ").splitlines() if "mlflow server" in line)
    words = shlex.split(line)
    return words[next(k for k, word in enumerate(words) if word.endswith("mlflow")) :]


def cluster_server(name: str) -> list[str]:
    """The same of a cluster file: the argument of `sh -c` in the command that starts the server."""
    commands = yaml.safe_load((ROOT / name).read_text("utf-8"))["head_start_ray_commands"]
    (command,) = (command for command in commands if "mlflow server" in command)
    words = shlex.split(command)
    inner = words[words.index("-c") + 1]
    return shlex.split(inner.partition("exec ")[2])


def options(words: list[str]) -> dict[str, str]:
    return {word: words[k + 1] for k, word in enumerate(words) if word in SECURITY}


def status(port: int, host: str, path: str, method: str = "GET", origin: str = "") -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    headers = {"Host": host, "Content-Type": "application/json"} | ({"Origin": origin} if origin else {})
    connection.request(method, path, b'{"max_results": 1}' if method == "POST" else None, headers)
    return connection.getresponse().status


@pytest.mark.parametrize("name", ["cluster.yaml", "cluster_local.yaml"])
def test_the_cluster_files_start_a_server_with_the_same_names(name):
    assert options(cluster_server(name)) == SECURITY


def test_a_server_of_make_ui_answers_to_its_own_names_alone(tmp_path):
    words = make_ui()
    assert options(words) == SECURITY
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [word.replace("5000", str(port)) for word in words]
    words[words.index("--backend-store-uri") + 1] = f"sqlite:///{tmp_path}/mlflow.db"
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with open(tmp_path / "log", "w") as log:
        server = subprocess.Popen(
            [str(Path(sys.executable).with_name("mlflow")), *words[1:]],
            cwd=tmp_path, env=environment, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    try:
        deadline = time.time() + 180
        while True:
            try:
                if status(port, "x", "/health") == 200:
                    break
            except OSError:
                pass
            assert server.poll() is None, (tmp_path / "log").read_text()
            assert time.time() < deadline, (tmp_path / "log").read_text()
            time.sleep(0.1)
        search = "/api/2.0/mlflow/experiments/search"
        for host in (f"localhost:{port}", f"127.0.0.1:{port}"):
            assert status(port, host, search, "POST") == 200, host
            assert status(port, host, "/") == 200, host
        # By default MLflow takes "10.*", which a name such as 10.evil.example fits too.
        for host in (
            "evil.example",
            f"evil.example:{port}",
            "10.0.0.7",
            "192.168.1.5",
            "10.evil.example",
            "172.16.a.b",
        ):
            assert status(port, host, search, "POST") == 403, host
            assert status(port, host, "/") == 403, host
        assert status(port, f"localhost:{port}", search, "POST", "http://evil.example") == 403
        assert status(port, f"localhost:{port}", search, "POST", f"http://localhost:{port}") == 200
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)
