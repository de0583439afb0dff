"""A Ray of our own: nobody else reaches it. Its sockets in mid-training: test_faults_training.py."""

import fcntl
import os
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bsp_platform.work.cluster import loopback
from ray_processes import LOOPBACK, MARK, listening


def answer(port: int, path: str) -> bytes:
    """The first bytes that a server sends to a request for ``path`` without a token; none if it says nothing."""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        connection.settimeout(5)
        try:
            return connection.recv(100)
        except OSError:
            return b""


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.ray
def test_ray_is_reached_by_its_user_alone(ray_session):
    @ray_session.remote(num_cpus=0.1)
    class Worker:
        def pid(self) -> int:
            return os.getpid()

    worker = Worker.remote()
    assert ray_session.get(worker.pid.remote())
    found = listening(os.environ[MARK])
    assert {"gcs_server", "raylet", "ray::Worker"} <= {name.partition(".")[0] for name, _, _ in found}
    assert [one for one in found if one[1] not in LOOPBACK] == []
    for name, _, port in found:
        for path in ("/", "/metrics", "/api/version", "/nodes?view=summary", "/api/jobs/"):
            said = answer(port, path)
            refused = not said.startswith(b"HTTP/") or b" 401 " in said.splitlines()[0]
            # Only the dashboard's empty page, which then asks for the token, is there for everybody.
            assert refused or (path == "/" and b"text/html" in said), (name, port, path, said)
    session = Path(ray_session._private.worker._global_node.get_session_dir_path())
    # Ray's processes give their folders mode 0777, again and again; the one around them lets nobody in.
    assert mode(session.parent.parent) == 0o700
    assert not {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "DASHBOARD_METRIC_PORT"} & set(os.environ)
    token = Path.home() / ".ray" / "auth_token"
    assert os.environ.get("RAY_AUTH_TOKEN") or mode(token) == 0o600


def test_the_folder_of_a_process_that_was_killed_is_removed_and_that_of_one_that_lives_is_not(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    program = (
        "from bsp_platform.work.cluster import loopback; loopback._LONGEST_BASE = 1000; "
        "print(loopback.private_folder(), flush=True); input()"
    )
    start = [sys.executable, "-c", program]
    lives, dies = (subprocess.Popen(start, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2))
    kept, left = (Path(process.stdout.readline().strip()) for process in (lives, dies))
    assert kept.parent == left.parent == tmp_path
    assert mode(kept) == 0o700
    (left / "r" / "session").mkdir(parents=True)
    dies.kill()
    dies.wait()
    just_made, old, link = (tmp_path / f"bsp-private-{name}" for name in ("new", "old", "link"))
    just_made.mkdir()
    old.mkdir()
    os.utime(old, (time.time() - 3600,) * 2)
    (tmp_path / "elsewhere").mkdir()
    link.symlink_to(tmp_path / "elsewhere")
    loopback._remove_abandoned(tmp_path)
    assert kept.exists()
    assert just_made.exists()
    assert not left.exists()
    assert not old.exists()
    assert (tmp_path / "elsewhere").exists()
    lives.communicate("\n", timeout=60)  # ends by itself
    assert not kept.exists()


def test_a_long_folder_for_temporary_files_is_not_used(tmp_path, monkeypatch):
    long = tmp_path / ("x" * 60)
    long.mkdir()
    monkeypatch.setenv("RAY_TMPDIR", str(long))
    done = subprocess.run(
        [sys.executable, "-c", "from bsp_platform.work.cluster import loopback; print(loopback.private_folder())"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert Path(done.stdout.strip()).parent == Path("/tmp")
    assert not Path(done.stdout.strip()).exists()


def test_a_token_is_made_for_its_user_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH", raising=False)
    path = tmp_path / ".ray" / "auth_token"
    loopback.private_token()
    made = path.read_text()
    assert len(bytes.fromhex(made)) == 32
    assert (mode(path), mode(path.parent)) == (0o600, 0o700)
    path.chmod(0o644)
    loopback.private_token()
    assert (mode(path), path.read_text()) == (0o600, made)


def test_the_environment_is_as_it_was_after_ray_has_started(monkeypatch):
    import ray  # noqa: F401  (sets variables of its own)

    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "eth7")
    before = dict(os.environ)
    with loopback.loopback_only():
        assert os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] == "0"
    assert dict(os.environ) == before


def test_a_lock_is_what_keeps_a_folder(tmp_path):
    folder = tmp_path / "bsp-private-x"
    folder.mkdir()
    with open(folder / "driver.lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        loopback._remove_abandoned(tmp_path)
        assert folder.exists()
    loopback._remove_abandoned(tmp_path)
    assert not folder.exists()
