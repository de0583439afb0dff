"""How much of a clip stream is in memory at a time: pure arithmetic from settings to numbers.

A task of a clip maker makes ``task_clips`` clips, 16 MiB at most whatever the batch size: a batch is assembled where
it is copied to the training device. What is in flight (tasks that run or wait at clip makers, finished blocks that wait
for the trainer, blocks that the trainer takes) is bounded, and Ray's object store is made large enough for it.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

from bsp_platform.plan.resources import Resources

MIB = 2**20
MEMORY = "BSP_MEMORY_GB"  # GiB, where the system's number is wrong (some sandboxes)
TASK_BYTES = 16 * MIB  # of clips, at most; a larger block only waits longer (docs/performance.md)
ROW_BYTES = 256  # of a clip's label, number, times and the like, with room to spare
_AHEAD = 8  # tasks that run or wait at a clip maker; it finishes fewer in a turn of Ray Data's loop, 0.15 s
_TAKEN = 5  # blocks at the trainer: one is copied, the others are on their way through Ray Data's iterator
_OTHERS_BYTES = 512 * MIB  # of the object store, for all that is not clips: catalogs, features, heads, Ray's own
_BEFORE_SPILLING = 0.8  # share of an object store above which Ray writes objects to disk
_LEAST_BYTES = 768 * MIB  # of the object store, where the machine has it
_OF_MEMORY, _OF_SHM = 0.4, 0.9  # shares of a machine that the object store may take
_STORE_FLOOR = 128 * MIB  # Ray refuses less than 75 MiB


@dataclass(frozen=True, kw_only=True)
class StreamSize:
    """One training process's stream of clips."""

    makers: int  # clip makers
    task_clips: int  # clips that a maker makes at a time, at most
    task_bytes: int  # of the block that this makes, at most
    ahead: int  # tasks that may run or wait at one clip maker

    @property
    def tasks(self) -> int:
        """Tasks that run or wait at makers and finished blocks that the trainer has not asked for, at most."""
        return self.makers * self.ahead

    @property
    def in_flight_bytes(self) -> int:
        """Bytes of clips in the object store, at most: those of ``tasks`` and what the trainer takes."""
        return (self.tasks + _TAKEN) * self.task_bytes


def stream_size(clip: int, makers: int, room_bytes: int | None = None) -> StreamSize:
    """The cut of a stream of clips of ``clip`` bytes for ``makers``, to fit into ``room_bytes`` (None: no limit).

    With less room fewer tasks wait at a maker, one at least; with still less they are smaller, one clip at least.
    8 frames of 224 px (1,204,224 bytes) give tasks of 13 clips. ValueError for makers or sizes below 1.
    """
    if min(clip, makers) < 1:
        raise ValueError(f"a clip of {clip} bytes and makers {makers} must be at least 1")
    row = clip + ROW_BYTES
    most = TASK_BYTES if room_bytes is None else min(TASK_BYTES, room_bytes // (makers + _TAKEN))
    clips = max(1, most // row)
    ahead = _AHEAD
    if room_bytes is not None:
        ahead = min(_AHEAD, max(1, (room_bytes // (clips * row) - _TAKEN) // makers))
    return StreamSize(makers=makers, task_clips=clips, task_bytes=clips * row, ahead=ahead)


def streams_at_a_time(cpus: float, resources: Resources) -> int:
    """Streams that share a cluster's object store: as many as training processes with their makers fit on its CPUs."""
    each = resources.cpus_per_worker + resources.makers_per_worker * resources.cpus_per_maker
    return max(1, int((cpus + 1e-9) // each))


def room_of_stream(store_bytes: float, streams: int) -> int:
    """Bytes of an object store that one of ``streams`` may fill with clips; 40% of a small store is for others."""
    return int(_BEFORE_SPILLING * store_bytes - min(_OTHERS_BYTES, 0.4 * store_bytes)) // streams


@dataclass(frozen=True, kw_only=True)
class StorePlan:
    """Ray's object store for a plan, and the streams that it has room for. ``str()`` is a line for the user."""

    stream: StreamSize
    streams: int
    store_bytes: int

    @property
    def object_store_mb(self) -> int:
        """For ``start_ray``; MiB."""
        return self.store_bytes // MIB

    def __str__(self) -> str:
        each = " for each training process" if self.streams > 1 else ""
        return (
            f"clip stream: clip makers {self.stream.makers}{each}, clips per task {self.stream.task_clips}, at most "
            f"{self.streams * self.stream.in_flight_bytes / MIB:,.0f} MiB in flight; object store "
            f"{self.store_bytes / MIB:,.0f} MiB"
        )


def clip_bytes(half_len: int, size_px: int) -> int:
    """Bytes of one clip's pixels, uint8 [2 * half_len, size_px, size_px, 3]."""
    return 2 * half_len * size_px**2 * 3


def plan_within(clip: int, cpus: float, resources: Resources, store_bytes: int) -> StorePlan:
    """The streams of ``resources`` on ``cpus`` with a given object store; ``clip`` is bytes."""
    streams = streams_at_a_time(cpus, resources)
    stream = stream_size(clip, resources.makers_per_worker, room_of_stream(store_bytes, streams))
    return StorePlan(stream=stream, streams=streams, store_bytes=store_bytes)


def store_plan(clip: int, cpus: float, resources: Resources, most_bytes: int) -> StorePlan:
    """The object store for ``resources`` on ``cpus``, ``most_bytes`` at most, and its streams."""
    wanted = stream_size(clip, resources.makers_per_worker).in_flight_bytes * streams_at_a_time(cpus, resources)
    wanted = math.ceil((wanted + _OTHERS_BYTES) / _BEFORE_SPILLING)
    store = max(_STORE_FLOOR, min(max(wanted, _LEAST_BYTES), most_bytes))
    return plan_within(clip, cpus, resources, -(-store // MIB) * MIB)  # ``start_ray`` takes MiB


def store_limit(memory_bytes: int, shm_bytes: int) -> int:
    """Bytes of a machine that an object store may take.

    Where /dev/shm is too small Ray puts the store into a file below its temporary folder (and refuses to start when
    more than 10 GB are asked for), so that what is in /dev/shm bounds it too.
    """
    return int(min(_OF_MEMORY * memory_bytes, _OF_SHM * shm_bytes))


def memory_bytes() -> int:
    """Memory of this machine or, if it is less, of this process's control group."""
    if given := os.environ.get(MEMORY):
        return int(float(given) * 2**30)
    import psutil

    memory = psutil.virtual_memory().total
    for name in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        text = Path(name).read_text("ascii").strip() if os.path.exists(name) else ""
        if text.isdigit():
            memory = min(memory, int(text))
    return memory


def machine_limit() -> int:
    """:func:`store_limit` of this machine, or of the container that this process is in."""
    memory = memory_bytes()
    if not os.path.isdir("/dev/shm"):
        return store_limit(memory, memory)
    shm = os.statvfs("/dev/shm")
    return store_limit(memory, shm.f_bavail * shm.f_frsize)
