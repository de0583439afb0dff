"""Where the frames of an mp4 file lie, from the file's own index (ISO/IEC 14496-12), without opening a demuxer.

FFmpeg's demuxer gives the same packets in 0.5 to 14 ms, this module in 0.1 ms (docs/performance.md): the demuxer reads
every packet, and decodes to guess what the index states. Only plain files are supported: one H.264 track, not
fragmented. ``bsp.video.read.probe`` compares the index with FFmpeg's demuxer once per file.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

_HEAD_BYTES = 16_384  # the whole index of a prepared video of 10 s, if it comes first in the file
_MAX_INDEX_BYTES = 2**28  # a larger index is a sign of damage
_FIRST_BOXES = (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"styp")
_VISUAL_ENTRY_BYTES = 78  # of a sample description before its inner boxes (ISO/IEC 14496-12, 12.1.3)


class NotIndexed(ValueError):
    """The file has no index that this module supports; the message says why."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Mp4Index:
    """The packets of an mp4 file's H.264 track, in decoding order.

    ``ticks``: int64 [frames], when each packet's frame is shown (any edit list left aside); ``display``: int64
    [frames], its place in that order. ``keys``: int64, packets at which decoding may start, rising. ``decoder_setup``:
    the avcC box (ISO/IEC 14496-15).
    """

    offsets: np.ndarray  # int64 [frames], bytes from the start of the file
    sizes: np.ndarray  # int64 [frames], bytes
    keys: np.ndarray
    ticks: np.ndarray
    display: np.ndarray
    decoder_setup: bytes

    @property
    def reordered(self) -> bool:
        """Whether some frame is shown before one that is decoded earlier (B pictures)."""
        return bool((np.diff(self.display) != 1).any())


def read_mp4_index(file: int) -> Mp4Index:
    """The index of an open file (descriptor). Raises NotIndexed, or OSError of reading."""
    moov = _moov(file)
    try:
        return _parse(moov)
    except (ValueError, IndexError, KeyError) as error:
        if isinstance(error, NotIndexed):
            raise
        raise NotIndexed(f"its mp4 index is damaged ({error})") from None


def _moov(file: int) -> bytes:
    """The content of the box 'moov'."""
    head = os.pread(file, _HEAD_BYTES, 0)
    for name, at, skip, size in outer_boxes(file, head):
        if name == b"moov" and size <= _MAX_INDEX_BYTES:
            whole = head[at : at + size] if at + size <= len(head) else os.pread(file, size, at)
            if len(whole) == size:
                return whole[skip:]
    raise NotIndexed("it has no mp4 index (box 'moov')")


def outer_boxes(file: int, head: bytes = b"") -> Iterator[tuple[bytes, int, int, int]]:
    """(name, place, bytes before its content, bytes as declared) of each outermost box of an open file, the last one
    perhaps cut off; none if it is no mp4 file. ``head`` is its beginning, if that has been read."""
    at, end = 0, os.fstat(file).st_size
    while at + 8 <= end:
        start = head[at : at + 16] if at + 16 <= len(head) else os.pread(file, 16, at)
        size, name, skip = int.from_bytes(start[:4], "big"), start[4:8], 8
        if size == 1:
            size, skip = int.from_bytes(start[8:16], "big"), 16
        elif size == 0:  # to the end of the file
            size = end - at
        if size < skip or (at == 0 and name not in _FIRST_BOXES):
            return
        yield name, at, skip, size
        at += size


def _boxes(data: bytes, at: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """(name, start and end of the content) of each box in data[at:end]."""
    while at + 8 <= end:
        size, name, skip = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8], 8
        if size == 1:
            size, skip = int.from_bytes(data[at + 8 : at + 16], "big"), 16
        elif size == 0:
            size = end - at
        if size < skip or at + size > end:
            raise NotIndexed(f"its mp4 index is damaged (box {name!r})")
        yield name, at + skip, at + size
        at += size


def _inside(data: bytes, at: int, end: int, *names: bytes) -> tuple[int, int]:
    """Start and end of the content of a box, by the names from the outside to the inside; KeyError if there is none."""
    for wanted in names:
        at, end = next(((a, e) for name, a, e in _boxes(data, at, end) if name == wanted), (-1, -1))
        if at < 0:
            raise KeyError(wanted.decode())
    return at, end


def _parse(moov: bytes) -> Mp4Index:
    outer = list(_boxes(moov, 0, len(moov)))
    if any(name == b"mvex" for name, _, _ in outer):
        raise NotIndexed("an mp4 file in fragments")
    tracks = [(a, e) for name, a, e in outer if name == b"trak"]
    tracks = [track for track in tracks if _handler(moov, *track) == b"vide"]
    if len(tracks) != 1:
        raise NotIndexed(f"an mp4 file with {len(tracks)} video tracks")
    at, end = _inside(moov, *tracks[0], b"mdia", b"minf", b"stbl")
    tables = {name: (a, e) for name, a, e in _boxes(moov, at, end)}

    def numbers(name: bytes, columns: int = 1, *, kind: str = ">u4") -> np.ndarray:
        """The rows of a table: four bytes, the number of rows, the rows."""
        start, _ = tables[name]
        count = columns * int.from_bytes(moov[start + 4 : start + 8], "big")
        found = np.frombuffer(moov, kind, count, start + 8).astype(np.int64)
        return found.reshape(-1, columns) if columns > 1 else found

    setup = _decoder_setup(moov, *tables[b"stsd"])
    sizes = _sizes(moov, *tables[b"stsz"])
    offsets = _offsets(
        numbers(b"stco") if b"stco" in tables else numbers(b"co64", kind=">u8"), numbers(b"stsc", 3), sizes
    )
    keys = numbers(b"stss") - 1 if b"stss" in tables else np.arange(len(sizes))
    steps = _decode_runs(numbers(b"stts", 2), len(sizes))
    ticks = np.cumsum(steps) - steps
    if b"ctts" in tables:
        ticks += _decode_runs(numbers(b"ctts", 2, kind=">i4"), len(sizes))
    display = np.empty(len(sizes), np.int64)
    display[np.argsort(ticks, kind="stable")] = np.arange(len(sizes))
    if not len(sizes) or not len(keys) or keys[0] != 0 or (np.diff(keys) <= 0).any() or keys[-1] >= len(sizes):
        raise NotIndexed("an mp4 file that does not begin with a key frame")
    return Mp4Index(offsets=offsets, sizes=sizes, keys=keys, ticks=ticks, display=display, decoder_setup=setup)


def _handler(moov: bytes, at: int, end: int) -> bytes:
    start, _ = _inside(moov, at, end, b"mdia", b"hdlr")
    return moov[start + 8 : start + 12]


def _decoder_setup(moov: bytes, at: int, end: int) -> bytes:
    entries = list(_boxes(moov, at + 8, end))
    if len(entries) != 1 or entries[0][0] != b"avc1":
        raise NotIndexed(
            f"an mp4 file of {' and '.join(name.decode('latin-1') for name, _, _ in entries)}, not of H.264"
        )
    start, stop = _inside(moov, entries[0][1] + _VISUAL_ENTRY_BYTES, entries[0][2], b"avcC")
    return moov[start:stop]


def _sizes(moov: bytes, at: int, end: int) -> np.ndarray:
    same, count = int.from_bytes(moov[at + 4 : at + 8], "big"), int.from_bytes(moov[at + 8 : at + 12], "big")
    if same:
        raise NotIndexed("an mp4 file whose packets have all one size")
    return np.frombuffer(moov[at + 12 : end], ">u4", count).astype(np.int64)


def _decode_runs(runs: np.ndarray, packets: int) -> np.ndarray:
    """Run-length decoding: one value per packet, from rows (number of packets, their value)."""
    counts, values = runs.T
    if counts.min() < 0 or counts.sum() != packets:
        raise NotIndexed("its mp4 index contradicts itself")
    return np.repeat(values, counts)


def _offsets(chunk_offsets: np.ndarray, runs: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Each packet's byte offset: packets of a chunk are contiguous; ``runs``: (first chunk, packets per chunk, _)."""
    first_chunk, per_chunk, _ = runs.T
    chunks = np.diff(first_chunk, append=len(chunk_offsets) + 1)
    if first_chunk[0] != 1 or (chunks < 1).any() or (chunks * per_chunk).sum() != len(sizes):
        raise NotIndexed("its mp4 index contradicts itself")
    packets = np.repeat(per_chunk, chunks)
    before = np.cumsum(sizes) - sizes  # bytes of all packets before each
    first_packet = np.cumsum(packets) - packets
    return np.repeat(chunk_offsets - before[np.minimum(first_packet, len(sizes) - 1)], packets) + before
