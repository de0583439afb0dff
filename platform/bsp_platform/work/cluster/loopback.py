"""A Ray on one machine for its user alone: a private folder, sockets on the loopback address, a private token.

Ray 2.60 binds its servers to every interface, and gives its session folder mode 0777, whatever address is
given to ray.init. Only where clusters are disabled, on Windows and macOS, does it use the loopback address everywhere;
:func:`loopback_only` disables them here. It does not change a cluster that is joined.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import os
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

_PREFIX, _LOCK = "bsp-private-", "driver.lock"
# Ray's sockets have up to 70 characters below the folder, and an address of a Unix socket has 107 at most.
_LONGEST_BASE = 107 - 70 - len(f"/{_PREFIX}12345678/r")
_ABANDONED_S = 60.0  # a folder that has no lock after this time is not one that is being made
# Variables for Ray's processes, set only while Ray starts.
_ENVIRONMENT = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # all servers on the loopback address
    # Ray's exporters of metrics need no token. Two of them have no switch, but do not start with an invalid port (they
    # log it, and Ray goes on).
    "RAY_enable_metrics_collection": "0",
    "AUTOSCALER_METRIC_PORT": "-1",
    "DASHBOARD_METRIC_PORT": "-1",
    "GLOO_SOCKET_IFNAME": "lo",  # of connections between training processes
    "NCCL_SOCKET_IFNAME": "lo",
}


def private_folder() -> Path:
    """A new folder that only its user may enter (mode 0700), removed when this process ends.

    For Ray's session, and for Tune's files of a run. Folders of processes that were killed are removed too. It lies
    in ``RAY_TMPDIR``, in the system's folder for temporary files, or, as socket addresses are short, in /tmp.
    """
    base = Path(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir())
    if len(str(base)) > _LONGEST_BASE:
        base = Path("/tmp")
    _remove_abandoned(base)
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=base))  # mode 0700, a random name
    lock = os.open(folder / "new", os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)  # held until this process ends, however it ends
    (folder / "new").rename(folder / _LOCK)  # the name appears with the lock held
    atexit.register(_end, folder, os.getpid())
    return folder


def _end(folder: Path, pid: int) -> None:
    if os.getpid() == pid:  # not in a forked child
        if "ray" in sys.modules:
            sys.modules["ray"].shutdown()
        shutil.rmtree(folder, ignore_errors=True)


def _remove_abandoned(base: Path) -> None:
    for folder in base.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):  # another user's, or just removed
            if folder.is_symlink() or folder.stat().st_uid != os.getuid():
                continue
            if not (folder / _LOCK).exists():
                if time.time() - folder.stat().st_mtime > _ABANDONED_S:
                    shutil.rmtree(folder, ignore_errors=True)
                continue
            lock = os.open(folder / _LOCK, os.O_RDWR)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # BlockingIOError, an OSError: its driver lives
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(lock)


@contextlib.contextmanager
def loopback_only() -> Iterator[None]:
    """Within it ``ray.init(address="local")`` starts a Ray whose servers all listen on the loopback address."""
    from bsp_platform.work.cluster.ray_internals import ray_constants  # the environment was read when Ray was imported

    before = {name: os.environ.get(name) for name in _ENVIRONMENT}
    enabled = ray_constants.ENABLE_RAY_CLUSTER
    os.environ.update(_ENVIRONMENT)
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = enabled
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def private_token() -> None:
    """Ray's token, readable for its user alone; made here if there is none, as Ray's own is readable for all."""
    if os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH"):
        return
    path = Path.home() / ".ray" / "auth_token"
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not path.exists():
        handle, partial = tempfile.mkstemp(dir=path.parent)  # mode 0600
        with open(handle, "wb") as file:
            file.write(secrets.token_hex(32).encode())
        with contextlib.suppress(FileExistsError):  # another process was faster
            os.link(partial, path)
        os.unlink(partial)
    elif path.stat().st_mode & 0o077:
        path.chmod(0o600)


def is_loopback_only() -> bool:
    """Whether this process belongs to a Ray that listens on the loopback address only."""
    import ray

    return ray.util.get_node_ip_address() in ("127.0.0.1", "::1")
