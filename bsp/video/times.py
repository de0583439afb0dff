"""When the frames of a video are shown: by their own time stamps, never by frame number / average rate.

Phones, screen recorders and editors write files of variable frame rate, and some files begin with a late first frame;
there frame number / average rate is off by seconds. With time stamps of a constant rate, frame k is at k / fps
(``VideoInfo.uniform``), and no times are stored.
"""

from __future__ import annotations

import functools
import os
import threading
from typing import TYPE_CHECKING

import numpy as np

from bsp.errors import VideoDecodeError, VideoOpenError
from bsp.video.packets import TIMED_CONTAINERS, PacketTable
from bsp.video.readers import PyavReader
from bsp.video.time_limit import call_within

if TYPE_CHECKING:
    from bsp.video.read import VideoInfo

JUMP_S = 10.0  # a longer gap between two frames may be a jump of the clock
UNIFORM_FRAMES = 0.5  # by which a frame of a uniform video may be off the constant rate, in frames


def is_plain_avi(reader: PyavReader, table: PacketTable) -> bool:
    """Whether a file is MPEG-4 in AVI with one frame per packet, in display order."""
    plain = not (table.bidirectional or table.hidden)
    return plain and (reader.container_name, reader.codec_name) == ("avi", "mpeg4")


def count_and_times(reader: PyavReader, table: PacketTable, stop: threading.Event) -> tuple[int, np.ndarray | None]:
    """As :func:`count_and_ticks`, with times in seconds: float64 [frames]."""
    frames, ticks_T = count_and_ticks(reader, table, stop)
    if ticks_T is None:
        return frames, None
    times_T = ticks_T * float(reader.tick())
    times_T.flags.writeable = False
    return frames, times_T


def count_and_ticks(reader: PyavReader, table: PacketTable, stop: threading.Event) -> tuple[int, np.ndarray | None]:
    """(number of frames, their ticks from the start: int64 [frames], or None if unknown: frame k is at k / fps).

    From the packets if they have times, else by decoding all frames. Raises VideoOpenError
    for a clock that jumps.
    """
    ticks_T: np.ndarray | None
    if not table.odd and table.pts is not None:
        frames, ticks_T = len(table.pts), _from_start(reader, table.pts)
    elif not table.odd and is_plain_avi(reader, table):
        frames, ticks_T = table.packets, None if table.dts is None else _from_start(reader, table.dts)
    else:
        reader.rewind()
        stamps = [(frame.pts, frame.dts) for frame in reader.frames(stop)]
        frames, ticks_T = len(stamps), _decoded_ticks(reader, table, stamps)
    if ticks_T is not None and reader.container_name in ("mpegts", "mpeg"):
        _check_clock(reader.path, ticks_T * float(reader.tick()))
    return frames, ticks_T


def _decoded_ticks(
    reader: PyavReader, table: PacketTable, stamps: list[tuple[int | None, int | None]]
) -> np.ndarray | None:
    """The same from the (pts, dts) of all decoded frames; None if these are absent or not rising."""
    if not stamps or not reader.tick():
        return None
    is_avi = reader.container_name == "avi"
    pts, dts = (list(column) for column in zip(*stamps, strict=True))
    if None not in pts and (np.diff(pts) > 0).all():
        ticks_T = np.array(pts, np.int64)
    elif is_avi and reader.codec_name != "mpeg4":
        known = [tick for tick in dts if tick is not None]
        if len(known) < 2 or dts[: len(known)] != known or (np.diff(known) <= 0).any():
            return None
        # Choice: the last frames, flushed at the end of the file, have no time: they follow at the median distance.
        step = round(float(np.median(np.diff(known))))
        ticks_T = np.append(known, known[-1] + step * np.arange(1, len(dts) - len(known) + 1)).astype(np.int64)
    else:
        return None
    if is_avi and table.dts is not None and not table.odd:
        # AVI has times of packets only, in decoding order. A frame has the time of the packet after which the decoder
        # returned it: with B pictures all are late by the same delay. The first is shown at the first packet's time.
        ticks_T = ticks_T - (ticks_T[0] - table.dts[0])
    return _from_start(reader, ticks_T)


def _check_clock(path: str, times_T: np.ndarray) -> None:
    """Raise VideoOpenError if the clock of a stream jumps ahead, as where recordings were joined by ``cat``."""
    steps = np.diff(times_T)
    # Choice: jumps are gaps of over 10 s (FFmpeg's limit too) that make up most of the time, while most frames follow
    # each other within a second. A shorter gap may be a lost signal, and stays.
    gaps = steps[steps > JUMP_S]
    if len(gaps) and gaps.sum() > (times_T[-1] - times_T[0]) / 2 and np.median(steps) < 1:
        place = int(np.argmax(steps))
        raise VideoOpenError(
            path,
            f"its clock jumps by {steps[place]:.0f} s at frame {place + 1}; remux it: ffmpeg -i IN -c copy OUT.mp4",
        )


def start_tick(reader: PyavReader, first: int) -> int:
    """The time, in the stream's ticks, that is 0 s of a file whose first frame is at tick ``first``.

    Choice: where players begin to count. In mp4 and Matroska that is 0 of their time line, also for a late first frame
    and after the sound is removed (bsp prepare). Clocks of other containers (MPEG-TS) start anywhere: there it is the
    earliest picture or sound, as for mpv and ffmpeg -ss.
    """
    if reader.container_name in TIMED_CONTAINERS.values():
        return min(0, first)
    start_s, tick = reader.start_s(), float(reader.tick())
    # The container's is rounded to microseconds.
    return round(start_s / tick) if start_s is not None and start_s < first * tick - 1e-5 else first


def _from_start(reader: PyavReader, ticks_T: np.ndarray) -> np.ndarray:
    return ticks_T - start_tick(reader, int(ticks_T[0]))


def rate_of(times_T: np.ndarray, container_fps: float) -> tuple[float, bool]:
    """(frames per second, whether frame k is shown at k / fps within UNIFORM_FRAMES) of frames shown at ``times_T``.

    ``container_fps`` is the container's figure, 0 = unknown. The rate is 0 for a single frame of unknown rate.
    """
    index_T = np.arange(len(times_T))
    seen_fps = (len(times_T) - 1) / (times_T[-1] - times_T[0]) if len(times_T) > 1 else 0.0
    # Choice: the container's figure (e.g. 30000/1001) where it fits the time stamps, else the average that these show.
    for fps in (container_fps, float(seen_fps)):
        if fps > 0 and (np.abs((times_T - times_T[0]) * fps - index_T) <= UNIFORM_FRAMES).all():
            return fps, bool((np.abs(times_T * fps - index_T) <= UNIFORM_FRAMES).all())
    return float(seen_fps), False


def frame_times(path: str | os.PathLike[str], *, time_limit_s: float = 600.0) -> np.ndarray:
    """When each frame is shown: float64 [frames], rising, seconds from where a player begins to count.

    From the packets, else by decoding the file, else k / fps.
    Raises VideoOpenError, VideoDecodeError or VideoTimeout.
    """
    path = os.fspath(path)
    return call_within(lambda stop: _frame_times(path, stop), path, time_limit_s)


def _frame_times(path: str, stop: threading.Event) -> np.ndarray:
    reader = PyavReader(path, stop)
    try:
        frames, times_T = count_and_times(reader, reader.scan(stop), stop)
        if not frames:
            raise VideoDecodeError(path, "no frame can be decoded")
        if times_T is not None:
            return times_T
        if reader.fps() <= 0:
            raise VideoOpenError(path, "its frame rate is unknown; encode it again")
        return np.arange(frames) / reader.fps()
    finally:
        reader.close()


def video_times(info: VideoInfo) -> np.ndarray:
    """:func:`frame_times` of a probed video, k / fps for a uniform one; VideoDecodeError if the frames changed."""
    if info.uniform:
        return np.arange(info.frames) / info.fps
    times_T = _kept_times(info.path, os.stat(info.path).st_mtime_ns)
    if len(times_T) != info.frames:
        raise VideoDecodeError(info.path, f"{info.frames} frames, but the times of {len(times_T)}; encode it again")
    return times_T


@functools.lru_cache(maxsize=16)  # a long video may hold many clips of a list
def _kept_times(path: str, changed_ns: int) -> np.ndarray:
    return frame_times(path)


def end_of(times_T: np.ndarray, fps: float) -> float:
    """When the last frame's time on the screen ends, seconds."""
    # Choice: the last frame lasts as long as the one before it; containers store its duration differently or not at
    # all.
    return float(times_T[-1] + (times_T[-1] - times_T[-2] if len(times_T) > 1 else 1 / fps))


def frames_at(info: VideoInfo, times_s: np.ndarray | float) -> np.ndarray:
    """Which frames are shown at ``times_s``: positions, float64 of the same shape; k.5 is half-way through frame k.

    Below 0 before the first frame, above the number of frames after the last one. Raises as :func:`video_times`.
    """
    if info.uniform:
        return np.asarray(times_s, float) * info.fps
    times_T = video_times(info)
    return positions_at(times_s, np.append(times_T, end_of(times_T, info.fps)), info.fps)


def frame_seconds(info: VideoInfo, frames: np.ndarray | float) -> np.ndarray:
    """When ``frames`` (positions, as of :func:`frames_at`, whose inverse it is) are shown, seconds."""
    if info.uniform:
        return np.asarray(frames, float) / info.fps
    times_T = video_times(info)
    return times_at(frames, np.append(times_T, end_of(times_T, info.fps)), info.fps)


def positions_at(times_s: np.ndarray | float, knots_K: np.ndarray, per_second: float) -> np.ndarray:
    """Piecewise linear: position k at time ``knots_K[k]`` (rising), ``per_second`` positions before and after them."""
    times_s, last = np.asarray(times_s, float), len(knots_K) - 1
    inside = np.interp(times_s, knots_K, np.arange(len(knots_K)))
    after = last + (times_s - knots_K[-1]) * per_second
    before = (times_s - knots_K[0]) * per_second
    return np.where(times_s < knots_K[0], before, np.where(times_s > knots_K[-1], after, inside))


def times_at(positions: np.ndarray | float, knots_K: np.ndarray, per_second: float) -> np.ndarray:
    """The inverse of :func:`positions_at`."""
    positions, last = np.asarray(positions, float), len(knots_K) - 1
    inside = np.interp(positions, np.arange(len(knots_K)), knots_K)
    after = knots_K[-1] + (positions - last) / per_second
    before = knots_K[0] + positions / per_second
    return np.where(positions < 0, before, np.where(positions > last, after, inside))
