"""The program that bsp/files/hdf5.py starts: answers questions about HDF5 files on its standard input, one JSON line
each, with a JSON line and the bytes of an array.

It reads no other file. It limits its own memory and time, because a damaged file can send the HDF5 library into an
endless loop or make it unpack without end.
"""

from __future__ import annotations

import json
import math
import os
import resource
import signal
import stat
import sys
from typing import Any

import h5py
import numpy as np

MEMORY_BYTES = 3 * 2**30  # of this process, with its libraries
SECONDS = 120  # per question
CPU_SECONDS = 3  # of CPU for the description of an array: damaged lists are endless loops
MAX_ARRAY_BYTES = 2**30  # one video: 10 hours of 2,048 numbers, one row every 8 frames at 30 frames per second
_MOST_PACKED = 1100  # gzip makes zeros 1,032 times smaller
_MAX_CHUNK_BYTES = 64 * 2**20
_FILTERS = {h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32, h5py.h5z.FILTER_LZF}
_MAX_ATTRIBUTE_BYTES = 64 * 2**10


class Refused(Exception):
    """The file holds something unsupported; the message says what."""


def linked(group: h5py.Group, name: str) -> h5py.Group | h5py.Dataset | None:
    """The object of a name in a group; None if there is none. Refused if it lies outside this file."""
    found = group
    for part in name.split("/"):
        if not isinstance(found, h5py.Group) or not part or not found.id.links.exists(part.encode()):
            return None
        if found.id.links.get_info(part.encode()).type != h5py.h5l.TYPE_HARD:
            raise Refused(f"{part} is a link to another place or file, which is not followed; store the array itself")
        found = found[part]
    return found


def check(data: h5py.Dataset, file_bytes: int) -> None:
    """Raises Refused unless the data set is an array of numbers stored in this file."""
    made = data.id.get_create_plist()
    if made.get_external_count() or made.get_layout() == h5py.h5d.VIRTUAL:
        raise Refused("its numbers lie in other files, which are not opened; store them in this one")
    filters = {made.get_filter(k)[0] for k in range(made.get_nfilters())}
    if filters - _FILTERS:
        raise Refused(f"packed by the filter {min(filters - _FILTERS)}; pack it with gzip, or not at all")
    if data.dtype.kind not in "fiu" or data.dtype.itemsize > 8:
        raise Refused(f"items of the type {str(data.dtype)[:60]}, not numbers")
    if not 1 <= len(data.shape) <= 8 or not all(data.shape):
        raise Refused(f"the shape {str(data.shape)[:60]}, not rows of numbers")
    size, stored = math.prod(data.shape) * data.dtype.itemsize, data.id.get_storage_size()
    packed = filters & {h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_LZF}
    most = _MOST_PACKED * stored if packed else stored
    chunk = math.prod(data.chunks) * data.dtype.itemsize if data.chunks else 0
    if stored > file_bytes or size > most or size > MAX_ARRAY_BYTES or chunk > max(_MAX_CHUNK_BYTES, size):
        raise Refused(f"{size:,} bytes are declared, of which {stored:,} are in the file; copy or make it again")
    if packed:
        pieces: list[int] = []
        data.id.chunk_iter(lambda piece: pieces.append(piece.size))
        if max(pieces) > chunk + chunk // 100 + 1024:  # incompressible data hardly grows
            raise Refused(f"a piece of {max(pieces):,} packed bytes for {chunk:,}; copy or make it again")


def attributes_of(data: h5py.Dataset) -> dict[str, Any]:
    """The attributes of a data set, text and numbers; Refused for other types and large ones."""
    found = {}
    for name in data.attrs:
        kept = data.attrs.get_id(name)
        text = h5py.check_string_dtype(kept.dtype) is not None
        if not (text or kept.dtype.kind in "fiu") or kept.get_storage_size() > _MAX_ATTRIBUTE_BYTES:
            raise Refused(f"the attribute {name[:60]!r} is no text and no number")
        value = data.attrs[name]
        found[name] = value.tolist() if isinstance(value, np.generic | np.ndarray) else value
    return found


def answer(question: dict[str, Any]) -> tuple[dict[str, Any], np.ndarray | None]:
    """(JSON response, array that follows it or None) to a request: a path, and the name of a data set or None."""
    found = os.stat(question["path"])
    if not stat.S_ISREG(found.st_mode):
        raise Refused("not a regular file")
    with h5py.File(question["path"], "r") as file:
        name = question["name"]
        if name is None:
            return {"names": sorted(file)}, None
        data = linked(file, name)
        group = file if data is None else data
        if isinstance(data, h5py.Group) and len(data) == 1:  # 2D-TAN's ActivityNet file: <id>/c3d_features
            data = linked(data, next(iter(data)))
        if not isinstance(data, h5py.Dataset):
            return {"inside": sorted(group)[:5] if isinstance(group, h5py.Group) else []}, None
        check(data, found.st_size)
        attributes = attributes_of(data) if question["attributes"] else {}
        signal.setitimer(signal.ITIMER_PROF, 0)
        array = np.ascontiguousarray(data[()])
        return {"dtype": array.dtype.str, "shape": array.shape, "attributes": attributes}, array


def main() -> None:
    """Serve requests from standard input, one JSON object per line, within bounds of memory and time."""
    _, already = resource.getrlimit(resource.RLIMIT_AS)
    most = MEMORY_BYTES if already == resource.RLIM_INFINITY else min(MEMORY_BYTES, already)
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for line in sys.stdin.buffer:
        signal.alarm(SECONDS)  # both end the process at any point
        signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
        array = None
        try:
            reply, array = answer(json.loads(line))
            head = json.dumps(reply)
        except Exception as error:  # the library raises a dozen kinds
            array, head = None, json.dumps({"error": str(error)[:300] or type(error).__name__})
        signal.alarm(0)
        signal.setitimer(signal.ITIMER_PROF, 0)
        sys.stdout.buffer.write(head.encode() + b"\n")
        if array is not None:
            sys.stdout.buffer.write(array.data.cast("B"))
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
