"""Display order, entry points, frame types and truncation of a video, from its packets, without decoding.

Packets are stored in decoding order; their pts gives the display order. Decoding may start at a key packet, but not all
are clean starts: an *open* one (H.264 recovery point, HEVC CRA) is followed by pictures that are shown before it and
refer to frames before it.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import av
import numpy as np

from bsp.video.mp4_index import outer_boxes
from bsp.video.time_limit import check

# FFmpeg's demuxer name -> the short name used here; only these containers carry a trustworthy pts per packet.
TIMED_CONTAINERS = {"mov,mp4,m4a,3gp,3g2,mj2": "mp4", "matroska,webm": "matroska"}


@dataclass(frozen=True, kw_only=True, eq=False)
class PacketTable:
    """What is known of the packets of one video stream, to find frames.

    ``pts``: int64 [frames], ascending, display time of each shown frame in stream ticks; None if unknown. ``entry``:
    bool [frames], decoding may start here and every frame from here on is exact. ``dts``: int64 [packets], decoding
    time of each in the order of the file; None if unknown or not rising. ``packets``: shown packets (frames, if every
    packet holds one). ``hidden``: an edit list or the codec hides some. ``closed``: every key packet is a clean start
    that nothing before it needs (H.264: IDR). ``bidirectional``: some MPEG-4 packet is a B picture. ``odd``: some
    packet may hold no picture of its own.
    """

    pts: np.ndarray | None
    dts: np.ndarray | None
    entry: np.ndarray
    packets: int
    hidden: bool
    closed: bool
    bidirectional: bool
    odd: bool


def scan_packets(
    packets: Iterator[av.Packet[av.VideoStream]],
    *,
    codec: str,
    container: str,
    extradata: bytes | None,
    stop: threading.Event,
) -> PacketTable:
    """Read all packets of one stream (in file order) into a table; nothing is decoded."""
    pts: list[int | None] = []
    dts: list[int | None] = []
    entry: list[bool] = []
    count = 0
    hidden = bidirectional = odd = False
    closed = first = True
    length_bytes = nal_length_bytes(extradata)
    for packet in packets:
        if not packet.size:
            continue
        check(stop)
        clean = key = packet.is_keyframe
        if codec == "h264" and key:
            idr, clean = _h264_start(memoryview(packet), length_bytes)
            closed = closed and idr
        elif codec == "mpeg4":
            bidirectional = bidirectional or _is_mpeg4_b(packet)
            odd = odd or packet.size < 20  # a "not coded" picture: no new frame
        if first and not key:
            odd, closed = True, False  # starts within a group of pictures: the first frames cannot be decoded
        first = False
        if packet.is_discard or (codec == "vp8" and not memoryview(packet)[0] >> 4 & 1):
            hidden = True
            continue
        count += 1
        pts.append(packet.pts)
        dts.append(packet.dts)
        entry.append(clean)
    timed = container in TIMED_CONTAINERS.values() and count > 0 and None not in pts
    if timed:
        times = np.array(pts, np.int64)
        order = np.argsort(times, kind="stable")
        times, starts = times[order], np.array(entry, bool)[order]
        timed = bool((np.diff(times) > 0).all())
    return PacketTable(
        pts=times if timed else None,
        dts=_rising(dts),
        entry=starts if timed else np.zeros(0, bool),
        packets=count,
        hidden=hidden,
        closed=closed,
        bidirectional=bidirectional,
        odd=odd,
    )


def _rising(ticks: list[int | None]) -> np.ndarray | None:
    if not ticks or None in ticks:
        return None
    found = np.array(ticks, np.int64)
    return found if (np.diff(found) > 0).all() else None


def nal_length_bytes(extradata: bytes | None) -> int:
    """Bytes of the length before each H.264 unit (ISO/IEC 14496-15 avcC), 0 for start codes (Annex B)."""
    if not extradata or len(extradata) < 7 or extradata[0] != 1:
        return 0
    return (extradata[4] & 3) + 1


def _h264_units(data: memoryview, length_bytes: int) -> Iterator[memoryview]:
    """The NAL units of one H.264 packet."""
    if length_bytes:
        at = 0
        while at + length_bytes < len(data):
            size = int.from_bytes(data[at : at + length_bytes], "big")
            at += length_bytes
            yield data[at : at + size]
            at += size
        return
    raw = bytes(data)
    at = raw.find(b"\0\0\1")
    while at >= 0:
        end = raw.find(b"\0\0\1", at + 3)
        yield data[at + 3 : end if end >= 0 else len(data)]
        at = end


def _h264_start(data: memoryview, length_bytes: int) -> tuple[bool, bool]:
    """(the packet is an IDR picture, frames shown from it on are exact when decoding starts here).

    A recovery point (ITU-T H.264 D.2.8) with recovery_frame_cnt 0 is such a start without being an IDR
    picture; with a larger count (intra refresh) the picture becomes whole only some frames later.
    """
    recovers = False
    for unit in _h264_units(data, length_bytes):
        if not len(unit):
            continue
        kind = unit[0] & 31
        if kind == 5:
            return True, True
        if kind == 6:
            recovers = recovers or _recovers_at_once(unit)
    return False, recovers


def is_disposable_h264(data: memoryview, length_bytes: int) -> bool:
    """Whether no other picture refers to the packet's: nal_ref_idc is 0 in all slices (ITU-T H.264, 7.4.1)."""
    slices = [unit[0] for unit in _h264_units(data, length_bytes) if len(unit) and 1 <= unit[0] & 31 <= 5]
    return bool(slices) and not any(header & 0x60 for header in slices)


def _recovers_at_once(sei: memoryview) -> bool:
    """Whether an H.264 SEI unit has a recovery point (type 6) whose recovery_frame_cnt, ue(v), is 0."""
    at = 1
    while at + 2 < len(sei):
        kind = size = 0
        while at < len(sei) and sei[at] == 255:
            kind, at = kind + 255, at + 1
        if at + 1 >= len(sei):
            return False
        kind, at = kind + sei[at], at + 1
        while at < len(sei) and sei[at] == 255:
            size, at = size + 255, at + 1
        if at + 1 >= len(sei):
            return False
        size, at = size + sei[at], at + 1
        if kind == 6:
            return bool(sei[at] & 0x80)  # ue(v) is 0 exactly if its first bit is 1
        at += size
    return False


def _is_mpeg4_b(packet: av.Packet[av.VideoStream]) -> bool:
    """Whether a picture in the packet is a B-VOP (ISO/IEC 14496-2: vop_coding_type 2 after start code B6)."""
    raw = bytes(packet)
    at = raw.find(b"\0\0\1\xb6")
    while 0 <= at < len(raw) - 4:
        if raw[at + 4] >> 6 == 2:
            return True
        at = raw.find(b"\0\0\1\xb6", at + 4)
    return False


def missing_bytes(path: str) -> str | None:
    """Message if the file is shorter than its container declares, else None.

    Reads the sizes that mp4 boxes, the RIFF header (AVI) and the Matroska segment declare; a few hundred
    bytes of the file at most.
    """
    actual = os.path.getsize(path)
    with open(path, "rb") as file:
        head = file.read(64)
        if head[:4] == b"RIFF":
            return _short(actual, int.from_bytes(head[4:8], "little") + 7, "RIFF chunk")  # 8, less a pad byte
        if head[:4] == b"\x1a\x45\xdf\xa3":
            return _matroska_missing(head, actual)
        boxes: set[bytes] = set()
        for name, at, _, size in outer_boxes(file.fileno()):
            boxes.add(name)
            if at + size > actual:  # junk after the last box is not a truncation
                is_cut = name in (b"mdat", b"moov", b"moof")
                return _short(actual, at + size, f"box '{name.decode()}'") if is_cut else None
        return None if b"moov" in boxes or not boxes else "truncated: the mp4 index (box 'moov') is missing"


def _matroska_missing(head: bytes, actual: int) -> str | None:
    at = 4
    size, at = _ebml_size(head, at)
    at += size or 0
    if head[at : at + 4] != b"\x18\x53\x80\x67":  # Segment
        return None
    size, at = _ebml_size(head, at + 4)
    return None if size is None else _short(actual, at + size, "Matroska segment")


def _ebml_size(data: bytes, at: int) -> tuple[int | None, int]:
    """(value of the EBML variable-length size at ``at`` or None for "unknown", position after it)."""
    if at >= len(data) or not data[at]:
        return None, at
    length = 9 - data[at].bit_length()
    value = int.from_bytes(data[at : at + length], "big") & ((1 << 7 * length) - 1)
    return (None if value == (1 << 7 * length) - 1 else value), at + length


def _short(actual: int, declared: int, part: str) -> str | None:
    if declared <= actual:
        return None
    return f"truncated: {part} needs {declared} bytes, the file has {actual}; download it again"
