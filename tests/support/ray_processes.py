"""Find the processes of one Ray among those of a machine, by a mark in the environment that they inherit."""

from pathlib import Path

MARK = "BSP_TEST_MARK"
TRAINING = "RayTrainWorker"  # part of the title of Ray Train's workers
LOOPBACK = ("127.0.0.1", "::1", "::ffff:127.0.0.1")
CLIP_MAKER = "ClipMaker"  # part of the title of the actors that make clips


def ray_processes(mark: str, title: str = TRAINING) -> list[int]:
    """Ids of the processes with ``title`` in theirs that descend from one with MARK=``mark`` in its environment."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes()
            environment = (folder / "environ").read_bytes().split(b"\0")
        except OSError:
            continue  # ended meanwhile
        if title.encode() in command and f"{MARK}={mark}".encode() in environment:
            found.append(int(folder.name))
    return found


def training_processes(mark: str) -> list[int]:
    return ray_processes(mark)


def listening(mark: str) -> list[tuple[str, str, int]]:
    """(name of the process, address, port) of every TCP and UDP socket that the processes with the mark listen on."""
    import psutil

    found = []
    for pid in ray_processes(mark, ""):
        try:
            process = psutil.Process(pid)
            sockets = [s for s in process.net_connections("inet") if s.status == "LISTEN" or (s.type == 2 and s.laddr)]
            found += [(process.name(), s.laddr.ip, s.laddr.port) for s in sockets]
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue  # ended meanwhile
    return found
