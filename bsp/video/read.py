"""Read videos: probe a file once, then read frames by index or the whole file in order.

H.264 in mp4 is read through the file's own index, single frames of plain MPEG-4 in AVI by decord, the rest by PyAV;
probe chooses the reader once per file and the catalog stores its name, so that reading a clip opens the file once
without probing. Frames are uint8 RGB, upright (rotation metadata applied), numbered from 0 in display order. Every call
has a time limit. Frames that FFmpeg flags as damaged are returned; their numbers are reported on request.
Legend: T frames, H height, W width.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from bsp.errors import VideoDecodeError, VideoOpenError, VideoTimeout
from bsp.video.decord_reader import DecordReader, decord_reads
from bsp.video.mp4_reader import Mp4Reader, mp4_reads
from bsp.video.packets import missing_bytes
from bsp.video.readers import FrameReader, PyavReader, open_error, rgb
from bsp.video.time_limit import call_within
from bsp.video.times import count_and_times, is_plain_avi, rate_of

READERS = ("decord", "pyav", "mp4")  # a catalog holds positions in it: append only
READER_CLASSES: dict[str, type[FrameReader]] = {"decord": DecordReader, "pyav": PyavReader, "mp4": Mp4Reader}

# Choice: share of the frames of a file. FFmpeg flags a damaged picture but not later ones that refer to it, so with a
# tenth flagged most of the video is likely damaged; with fewer, dropping the video would lose more.
MAX_DAMAGED_SHARE = 0.1


@dataclass(frozen=True, kw_only=True)
class VideoInfo:
    """What :func:`probe` found out about one file."""

    path: str
    frames: int  # frames shown, exact
    fps: float  # frames per second, above 0; the average where they are not uniform
    uniform: bool  # frame k is shown at k / fps, within half a frame; else see times.frame_times
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
        try:
            problem = missing_bytes(path)
        except OSError as error:
            raise open_error(path, error) from None
        if problem:
            raise VideoOpenError(path, problem)
        first = reader.first_frame(stop)
        height, width, _ = rgb(first).shape
        reader.rewind()
        table = reader.scan(stop)
        container, codec = reader.container_name, reader.codec_name
        exact = (
            (container, codec) == ("mp4", "h264")
            and not first.rotation  # reader "mp4" does not rotate
            and mp4_reads(path, table, rgb(first), stop)
        )
        frames, times_T = count_and_times(reader, table, stop)
        choice = "mp4" if exact else "pyav"
        if is_plain_avi(reader, table) and not table.odd:
            reader.rewind()
            choice = "decord" if decord_reads(path, reader, stop) else "pyav"
        fps, uniform = reader.fps(), True
        if times_T is not None:
            fps, uniform = rate_of(times_T, fps)
        if fps <= 0:
            raise VideoOpenError(path, "its frame rate is unknown; encode it again")
    finally:
        reader.close()
    return VideoInfo(
        path=path,
        frames=frames,
        fps=fps,
        uniform=uniform,
        width=width,
        height=height,
        codec=codec,
        reader=choice,
    )


def too_damaged(path: str, damaged: int, frames: int) -> None:
    """Raise VideoDecodeError if more than MAX_DAMAGED_SHARE of the file's frames are flagged as damaged."""
    if damaged > MAX_DAMAGED_SHARE * frames:
        raise VideoDecodeError(
            path, f"{damaged} of {frames} frames are damaged, more than {MAX_DAMAGED_SHARE:.0%}; download it again"
        )


def damage_line(damaged: Mapping[str, int], frames: int) -> str:
    """One line for the log of a run: damaged frames by video, and the number of frames of all videos."""
    worst = sorted(damaged, key=damaged.__getitem__, reverse=True)[:5]
    named = ", ".join(f"{name} {damaged[name]}" for name in worst) + (", ..." if len(damaged) > len(worst) else "")
    return f"damaged pictures: {sum(damaged.values()):,} of {frames:,} frames, in {len(damaged):,} videos ({named})"


def read_frames(
    path: str | os.PathLike[str],
    indices: np.ndarray,
    *,
    reader: str | None = None,
    time_limit_s: float = 60.0,
    damaged: set[int] | None = None,
) -> np.ndarray:
    """Frames by index, in one pass over the file: uint8 RGB [T, H, W, 3], upright, in the order asked.

    ``indices``: T >= 1 integers, 0-based in display order, any order, repeats allowed. ``reader``: one of
    READERS as :func:`probe` found it; None probes first (slower). ``time_limit_s`` is in seconds of wall
    clock, for the file. ``damaged`` receives the numbers of those of the frames that FFmpeg flags as damaged. Raises
    VideoDecodeError (index out of range: names it and the frame count), VideoOpenError or VideoTimeout.
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
            frames = source.read(wanted, stop)
            if damaged is not None:
                damaged.update(source.damaged)
            return frames
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
    damaged: set[int] | None = None,
) -> Iterator[np.ndarray]:
    """The whole video in order, in one pass: pieces of uint8 RGB [chunk_frames, H, W, 3].

    Only the last piece is shorter. The file is opened at the first piece. ``damaged`` as in :func:`read_frames`, filled
    piece by piece. Raises as :func:`read_frames`.
    """
    path = os.fspath(path)
    if chunk_frames < 1:
        raise ValueError(f"chunk_frames must be at least 1 frame, not {chunk_frames}")
    _check_reader(reader)

    # Choice: the limit holds for each piece, not for the whole file: an hour-long video is not an error, and
    # the time that the consumer spends between two pieces must not count.
    def start(stop: threading.Event) -> FrameReader:
        name = reader or _probe(path, stop).reader
        source = READER_CLASSES[name](path, stop)
        if damaged is not None:
            source.damaged = damaged
        return source

    def read_piece(source: FrameReader) -> Callable[[threading.Event], np.ndarray | None]:
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
    # Imported late: processes that only read or write files start two seconds faster without PyTorch.
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
