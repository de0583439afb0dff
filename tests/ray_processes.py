"""Find the processes of one Ray among those of a machine, by a mark in the environment that they inherit."""

from pathlib import Path

MARK = "BSP_TEST_MARK"
TRAINING = "RayTrainWorker"  # part of the title of Ray Train's workers
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
