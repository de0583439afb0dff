"""Read videos: probe a file once, then read frames by index or the whole file in order.

H.264 in mp4 is read through the file's own index, other files that decord reads exactly by decord, the rest by PyAV;
one probe per file decides and the name of the reader is kept with the file (catalog), so that reading a clip opens
the file once and looks at nothing else. Frames are
uint8 RGB, upright (rotation metadata applied), numbered from 0 in display order. Every call has a time limit.
Legend: T frames, H height, W width.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import av
import numpy as np

from bsp.errors import VideoDecodeError, VideoOpenError, VideoTimeout
from bsp.mp4_reader import Mp4Reader, mp4_reads
from bsp.time_limit import call_within
from bsp.video_packets import PacketTable, missing_bytes
from bsp.video_readers import DecordReader, PyavReader, rgb
from bsp.video_times import decoded_times, rate_of, table_times

READERS = ("decord", "pyav", "mp4")  # a catalog holds positions in it: append only
READER_CLASSES = {"decord": DecordReader, "pyav": PyavReader, "mp4": Mp4Reader}

# What decord 0.6 was seen to read exactly, as (container, codec); see possible_readers() for the conditions.
# H.264 in AVI, MPEG-TS, MPEG-2 and HEVC with open groups give wrong frames without an error, AV1 no frame.
DECORD_READS = {
    ("mp4", "h264"),
    ("mp4", "mpeg4"),
    ("mp4", "vp9"),
    ("matroska", "h264"),
    ("matroska", "mpeg4"),
    ("matroska", "vp8"),
    ("matroska", "vp9"),
    ("avi", "mpeg4"),
}


@dataclass(frozen=True, kw_only=True)
class VideoInfo:
    """What :func:`probe` found out about one file."""

    path: str
    frames: int  # frames shown, exact
    fps: float  # frames per second, above 0; the average where they are not uniform
    uniform: bool  # frame k is shown at k / fps, within half a frame; else see video_times.frame_times
    width: int  # pixels, upright (after rotation)
    height: int  # pixels, upright (after rotation)
    codec: str  # FFmpeg's name: "h264", "hevc", "vp9", ...
    reader: str  # which of READERS reads this file exactly


def probe(path: str | os.PathLike[str], *, time_limit_s: float = 60.0) -> VideoInfo:
    """Look at one file: exact number of frames, and which reader reads it exactly.

    Frames are counted from the packets where those can be trusted (mp4, mov, mkv, webm; AVI with plain
    MPEG-4), else by decoding. Raises VideoOpenError (missing, empty, truncated, no video), VideoDecodeError
    (not one frame can be decoded) or VideoTimeout.
    """
    path = os.fspath(path)
    return call_within(lambda stop: _probe(path, stop), path, time_limit_s)


def _probe(path: str, stop: threading.Event) -> VideoInfo:
    reader = PyavReader(path, stop)
    try:
        if os.path.isfile(path) and (problem := missing_bytes(path)):
            raise VideoOpenError(path, problem)
        first = reader.first_frame(stop)
        height, width, _ = rgb(first).shape
        reader.rewind()
        table = reader.scan(stop)
        possible = possible_readers(table, container=reader.container_name, codec=reader.codec_name)
        choice = next(name for name in possible if name == "pyav" or _agrees(name, path, table, first, stop))
        frames, times_T = table.packets, table_times(reader, table)
        if choice == "pyav" and (table.pts is None or table.odd):
            reader.rewind()
            pts = [frame.pts for frame in reader.frames(stop)]
            frames, times_T = len(pts), decoded_times(reader, pts)
        fps, uniform = reader.fps(), True
        if times_T is not None:
            fps, uniform = rate_of(times_T, fps)
        if fps <= 0:
            raise VideoOpenError(path, "its frame rate is unknown; encode it again")
        codec = reader.codec_name
    finally:
        reader.close()
    return VideoInfo(
        path=path, frames=frames, fps=fps, uniform=uniform, width=width, height=height, codec=codec, reader=choice
    )


def possible_readers(table: PacketTable, *, container: str, codec: str) -> tuple[str, ...]:
    """Which of READERS may give exact frames, best first, from the packets alone (facts: tests/test_video.py).

    decord's seeking is wrong without an error where a key packet is not a clean start (H.264 open GOP or
    intra refresh), where MPEG-4 has B pictures, and where an edit list or the codec hides packets.
    """
    if (container, codec) not in DECORD_READS or table.hidden or table.odd:
        return ("pyav",)
    if (codec == "h264" and not table.closed) or table.bidirectional:
        return ("pyav",)
    if table.pts is None:
        return ("decord", "pyav") if container == "avi" else ("pyav",)
    return ("mp4", "decord", "pyav") if (container, codec) == ("mp4", "h264") else ("decord", "pyav")


def _agrees(name: str, path: str, table: PacketTable, first: av.VideoFrame, stop: threading.Event) -> bool:
    """The reader opens the file, counts the same frames, and gives the first one; in a rotated file the same as PyAV's.

    (decord 0.6 gives none for a few widths, such as 48 and 72 px; "mp4" does not rotate.)
    """
    if name == "mp4":
        return not first.rotation and mp4_reads(path, table, rgb(first), stop)
    try:
        reader = DecordReader(path, stop)
        if reader.frames != table.packets:
            return False
        ours = reader.read(np.array([0]), stop)[0]
    except (VideoOpenError, VideoDecodeError):
        return False
    if not first.rotation:
        return True
    theirs = rgb(first)
    return ours.shape == theirs.shape and float(np.abs(ours.astype(np.int16) - theirs).mean()) < 4.0


def read_frames(
    path: str | os.PathLike[str],
    indices: np.ndarray,
    *,
    reader: str | None = None,
    time_limit_s: float = 60.0,
) -> np.ndarray:
    """Frames by index, in one pass over the file: uint8 RGB [T, H, W, 3], upright, in the order asked.

    ``indices``: T >= 1 integers, 0-based in display order, any order, repeats allowed. ``reader``: one of
    READERS as :func:`probe` found it; None probes first (slower). ``time_limit_s`` is in seconds of wall
    clock, for the file. Raises VideoDecodeError (index out of range: names it and the frame count),
    VideoOpenError or VideoTimeout.
    """
    path = os.fspath(path)
    indices = np.asarray(indices)
    if indices.ndim != 1 or not indices.size or not np.issubdtype(indices.dtype, np.integer):
        raise ValueError(f"indices must be integers [T], T >= 1, not {indices.dtype} {list(indices.shape)}")
    wanted, places = np.unique(indices.astype(np.int64), return_inverse=True)
    _check_reader(reader)

    def work(stop: threading.Event) -> np.ndarray:
        name = reader or _probe(path, stop).reader
        source = READER_CLASSES[name](path, stop)
        try:
            if wanted[0] < 0:
                raise VideoDecodeError(path, f"frame {wanted[0]} asked, but frames are numbered from 0")
            return source.read(wanted, stop)
        finally:
            source.close()

    frames = call_within(work, path, time_limit_s)
    return frames if np.array_equal(wanted, indices) else frames[places]


def iter_frames(
    path: str | os.PathLike[str],
    *,
    chunk_frames: int,
    reader: str | None = None,
    time_limit_s: float = 60.0,
) -> Iterator[np.ndarray]:
    """The whole video in order, in one pass: pieces of uint8 RGB [chunk_frames, H, W, 3].

    Only the last piece is shorter. The file is opened at the first piece. Raises as :func:`read_frames`.
    """
    path = os.fspath(path)
    if chunk_frames < 1:
        raise ValueError(f"chunk_frames must be at least 1 frame, not {chunk_frames}")
    _check_reader(reader)

    # Choice: the limit holds for each piece, not for the whole file: an hour-long video is not an error, and
    # the time that the consumer spends between two pieces must not count.
    def start(stop: threading.Event):
        name = reader or _probe(path, stop).reader
        return READER_CLASSES[name](path, stop)

    def read_piece(source):
        return lambda stop: source.chunk(chunk_frames, stop)

    def pieces() -> Iterator[np.ndarray]:
        source = call_within(start, path, time_limit_s)
        abandoned = False
        try:
            while (piece := call_within(read_piece(source), path, time_limit_s)) is not None:
                yield piece
        except VideoTimeout:
            abandoned = True  # its thread may still be inside the decoder
            raise
        finally:
            if not abandoned:
                source.close()

    return pieces()


def _check_reader(reader: str | None) -> None:
    if reader is not None and reader not in READERS:
        raise ValueError(f"reader must be one of {READERS} or None, not {reader!r}")


def resize_frames(frames_THWC: np.ndarray, height: int, width: int) -> np.ndarray:
    """Antialiased bilinear resize of uint8 [T, H, W, C] to [T, height, width, C], whatever the aspect."""
    if height < 1 or width < 1:
        raise ValueError(f"the new size must be at least 1x1 px, not {width}x{height}")
    if frames_THWC.shape[1:3] == (height, width):
        return frames_THWC
    # Here, as the many processes that only read or write files start two seconds sooner without PyTorch.
    import torch
    from torch.nn import functional

    if not frames_THWC.flags.writeable:  # torch wants writable memory; frames from an object store are not
        frames_THWC = frames_THWC.copy()
    frames_TCHW = torch.from_numpy(frames_THWC).permute(0, 3, 1, 2)
    resized = functional.interpolate(
        frames_TCHW, size=(height, width), mode="bilinear", align_corners=False, antialias=True
    )
    return np.ascontiguousarray(resized.permute(0, 2, 3, 1).numpy())


def fit_frames(frames_THWC: np.ndarray, height: int, width: int) -> np.ndarray:
    """Scale uint8 [T, H, W, C] to cover height x width, cut out the centre: [T, height, width, C]."""
    _, old_height, old_width, _ = frames_THWC.shape
    scale = max(height / old_height, width / old_width)
    cover_height = max(height, round(old_height * scale))
    cover_width = max(width, round(old_width * scale))
    covering = resize_frames(frames_THWC, cover_height, cover_width)
    top, left = (cover_height - height) // 2, (cover_width - width) // 2
    return np.ascontiguousarray(covering[:, top : top + height, left : left + width])
