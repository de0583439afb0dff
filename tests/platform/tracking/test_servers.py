"""MLflow's servers answer to their own names alone: started as the Makefile and the cluster files start them."""

import http.client
import shlex

import pytest
import yaml

from mlflow_runs import make_ui, running_ui
from repository import ROOT

pytestmark = pytest.mark.server  # MLflow's

SECURITY = {
    "--host": "127.0.0.1",
    "--allowed-hosts": "localhost:5000,127.0.0.1:5000",
    "--cors-allowed-origins": "http://localhost:5000,http://127.0.0.1:5000",
}


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
    assert options(make_ui()) == SECURITY
    with running_ui(tmp_path / "mlflow.db") as port:
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
