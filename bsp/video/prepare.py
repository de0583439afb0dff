"""Encode a video again so that reading a clip is cheap: small pictures, short distance between key frames.

With a key frame every 250 frames, reading a clip of eight frames decodes 125 frames on average, and training crops a
small picture anyway. The copy has the same frames at the same times, so frame numbers and seconds stay valid.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter

from bsp.errors import VideoDecodeError
from bsp.io import atomic_path
from bsp.video.read import VideoInfo, probe, read_frames, too_damaged
from bsp.video.readers import PyavReader
from bsp.video.time_limit import call_within
from bsp.video.times import count_and_ticks

_FINEST = 1_000_000  # ticks per second of a prepared file, at most, unless the source has more


@dataclass(frozen=True, kw_only=True)
class PrepareSettings:
    """How a video is encoded again; H.264 in mp4, no sound."""

    short_side_px: int = 128  # of the copy, at least 16; smaller videos keep their size
    # Choice: 8, as reading a clip of 8 frames then decodes at most 15.
    keyframe_interval: int = 8  # frames from one key frame to the next, at least 1 (every frame is one)
    # Choice: 20, better than x264's 23, as the pictures have been through one encoder before.
    crf: int = 20  # x264's quality, 1 (best) to 51
    preset: str = "veryfast"  # x264's effort

    def __post_init__(self) -> None:
        if self.short_side_px < 16:
            raise ValueError(f"short_side_px must be at least 16, not {self.short_side_px}")
        if self.keyframe_interval < 1:
            raise ValueError(f"keyframe_interval must be at least 1 frame, not {self.keyframe_interval}")
        if not 1 <= self.crf <= 51:
            raise ValueError(f"crf must lie in 1..51, not {self.crf}")


@dataclass(frozen=True, kw_only=True)
class PreparedVideo:
    """What :func:`prepare_video` made of one file."""

    path: str
    frames: int
    width: int
    height: int
    source_bytes: int
    target_bytes: int
    damaged_frames: int  # of the source, flagged by FFmpeg


def prepared_size(width: int, height: int, short_side_px: int) -> tuple[int, int]:
    """(width, height) of the copy: even, the aspect kept, never larger than the source (but for one odd pixel).

    340x256 at 128 gives 170x128; 341x257 at 300 gives 340x256.
    """
    scale = min(1.0, short_side_px / min(width, height))
    # Choice: to the nearest even number, but an odd size that is not scaled loses a pixel.
    even = [max(2, 2 * min(round(side * scale / 2), side // 2)) for side in (width, height)]
    return even[0], even[1]


def prepare_video(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    settings: PrepareSettings,
    *,
    time_limit_s: float = 3600.0,
) -> PreparedVideo:
    """Write ``target`` (an .mp4 name) from ``source``; it appears when it is complete and verified.

    The frames are those that ``bsp.video.read`` reads from the source, upright, scaled with an antialiased cubic filter
    (never enlarged) to even sizes; times are kept exactly. Raises VideoOpenError or VideoDecodeError naming the
    source when it is broken or too many of its frames are damaged, VideoTimeout, and ValueError when source and target
    are one file.
    """
    source, target = os.fspath(source), Path(target)
    if target.suffix != ".mp4":
        raise ValueError(f"{target}: a prepared video is an mp4 file; name it so")
    info = probe(source)
    if target.exists() and os.path.samefile(source, target):
        raise ValueError(f"{source}: source and target are the same file; choose another folder")
    width, height = prepared_size(info.width, info.height, settings.short_side_px)
    with atomic_path(target) as partial:
        damaged = call_within(lambda stop: _encode(info, partial, width, height, settings, stop), source, time_limit_s)
        too_damaged(source, damaged, info.frames)
        verify_prepared(source, partial)
    return PreparedVideo(
        path=str(target),
        frames=info.frames,
        width=width,
        height=height,
        source_bytes=os.path.getsize(source),
        target_bytes=target.stat().st_size,
        damaged_frames=damaged,
    )


def _encode(
    info: VideoInfo, target: Path, width: int, height: int, settings: PrepareSettings, stop: threading.Event
) -> int:
    """Write ``target``; returns how many of the source's frames FFmpeg flags as damaged."""
    ticks, tick = frame_ticks(info.path)
    if len(ticks) != info.frames:
        raise VideoDecodeError(info.path, f"{info.frames} frames, but the times of {len(ticks)}")
    # A finer tick that divides the source's tick, so that the last frame's duration can be stored.
    finer = 2 ** max(0, (_FINEST // tick.denominator).bit_length() - 1)
    fine, times = tick / finer, [place * finer for place in ticks]
    reader = PyavReader(info.path, stop)
    # ``x264-params``: the same bytes on every machine, and key frames that are clean starts, at fixed distances.
    fixed = f"open-gop=0:scenecut=0:cpu-independent=1:threads=1:keyint={settings.keyframe_interval}"
    # Choice: "fastdecode" (no CABAC, no deblocking) and no B pictures: a tenth more bytes for half the time of reading.
    options: dict[str, object] = {
        "preset": settings.preset,
        "crf": str(settings.crf),
        "tune": "fastdecode",
        "bf": "0",
        "x264-params": fixed,
    }
    # The time before the first frame is written in ticks of the movie, by default whole milliseconds.
    muxer = {"movflags": "+faststart", "movie_timescale": str(fine.denominator)}
    try:
        with av.open(str(target), "w", format="mp4", options=muxer) as output:
            stream = output.add_stream("libx264", rate=Fraction(info.fps).limit_denominator(1001))
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            stream.codec_context.thread_count = 1
            stream.codec_context.time_base = fine
            stream.options = options
            written, packets, damaged = 0, [], 0
            for pixels, is_damaged in _scaled_frames(reader, width, height, stop):
                if written == info.frames:
                    raise VideoDecodeError(info.path, f"holds more than the {info.frames} frames it was found to have")
                frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
                frame.pts, frame.time_base = times[written], fine
                packets += stream.encode(frame)
                output.mux(packets[:-1])
                packets = packets[-1:]
                written += 1
                damaged += is_damaged
            packets += stream.encode(None)
            # The last frame's duration makes the file's frame rate that of the source.
            packets[-1].duration = max(1, round(len(times) / Fraction(info.fps) / fine) - (times[-1] - times[0]))
            output.mux(packets)
    except av.error.FFmpegError as error:
        if isinstance(error, OSError):  # an error of the disk, not of the video
            raise
        raise VideoDecodeError(info.path, f"cannot be encoded again ({error.strerror}: its times?)") from None
    finally:
        reader.close()
    if written != info.frames:
        raise VideoDecodeError(info.path, f"only {written} of its {info.frames} frames can be decoded")
    return damaged


def _scaled_frames(
    reader: PyavReader, width: int, height: int, stop: threading.Event
) -> Iterator[tuple[np.ndarray, bool]]:
    """All frames in order, upright, uint8 RGB [height, width, 3], and whether FFmpeg flags them as damaged."""
    to_size = VideoReformatter()
    for frame in reader.frames(stop):
        quarter_turns = round(frame.rotation / 90) % 4  # counter-clockwise, like np.rot90
        stored_width, stored_height = (height, width) if quarter_turns % 2 else (width, height)
        scaled = to_size.reformat(
            frame,
            width=stored_width,
            height=stored_height,
            format="rgb24",
            interpolation=Interpolation.BICUBIC,
            threads=1,
        )
        yield np.ascontiguousarray(np.rot90(scaled.to_ndarray(), quarter_turns)), frame.is_corrupt


def frame_ticks(path: str | os.PathLike[str]) -> tuple[list[int], Fraction]:
    """Times of all frames in display order, from the start as players count, and the seconds of one tick.

    Without packet times (MPEG-TS, AVI) from decoded frames; if these are invalid, at the file's frame rate from 0.
    """
    stop = threading.Event()
    reader = PyavReader(os.fspath(path), stop)
    try:
        frames, ticks_T = count_and_ticks(reader, reader.scan(stop), stop)
        if ticks_T is not None:
            return ticks_T.tolist(), reader.tick()
        return list(range(frames)), 1 / Fraction(reader.fps()).limit_denominator(1001)
    finally:
        reader.close()


def verify_prepared(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> None:
    """Raise VideoDecodeError naming ``target`` unless it is a whole copy of ``source``.

    Frames and times must be equal, and the reader that ``probe`` chooses must read the first and the last frame.
    """
    target = os.fspath(target)
    wanted, wanted_tick = frame_ticks(source)
    found, found_tick = frame_ticks(target)
    if len(found) != len(wanted):
        raise VideoDecodeError(target, f"{len(found)} frames, but {len(wanted)} in {source}; prepare it again")
    for place, (theirs, ours) in enumerate(zip(wanted, found, strict=True)):
        if theirs * wanted_tick != ours * found_tick:
            raise VideoDecodeError(
                target,
                f"frame {place} is at {float(ours * found_tick):.6f} s, but at {float(theirs * wanted_tick):.6f} s "
                f"in {source}; prepare it again",
            )
    info = probe(target)
    if info.frames != len(wanted):
        raise VideoDecodeError(target, f"{info.frames} frames read, not {len(wanted)} as {source}; prepare it again")
    read_frames(target, np.array([0, info.frames - 1]), reader=info.reader)
