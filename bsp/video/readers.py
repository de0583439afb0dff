"""The general video reader behind :mod:`bsp.video.read`: PyAV, for every file that FFmpeg reads.

A reader is opened once per call, decodes with one FFmpeg thread, and gives upright uint8 RGB frames named by display
order. Its methods are ``read`` (frames by number), ``chunk`` (the next frames) and ``close``; ``damaged`` has the
numbers of returned frames that FFmpeg flagged. Raises VideoOpenError or VideoDecodeError with the file's name.
Legend: T frames, H height, W width.
"""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Iterator
from fractions import Fraction
from typing import Protocol, cast

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from bsp.errors import VideoDecodeError, VideoOpenError
from bsp.video.packets import TIMED_CONTAINERS, PacketTable, missing_bytes, scan_packets
from bsp.video.time_limit import check

# The allowed demuxers, whatever the file's name: others (file lists, playlists, session descriptions, image patterns)
# would make FFmpeg open other files or the network.
DEMUXERS = ("mov", "matroska", "avi", "flv", "mpeg", "mpegvideo", "mpegts", "asf", "ogg")
_ONLY_THIS_FILE = {"format_whitelist": ",".join(DEMUXERS), "protocol_whitelist": "file"}

# PyAV's exceptions for damaged data; IndexError: a packet of an undeclared stream.
_DAMAGE = (av.error.FFmpegError, IndexError)


def open_container(path: str) -> av.container.InputContainer:
    """The file at ``path``, opened by one of DEMUXERS, which open no other file. Raises as ``av.open``."""
    return av.open(os.path.abspath(path), metadata_errors="ignore", options=_ONLY_THIS_FILE)


def out_of_range(path: str, index: int, frames: int) -> VideoDecodeError:
    """The error for a frame number beyond the end of the file."""
    return VideoDecodeError(path, f"frame {index} asked, but the file has {frames} frames (0 to {frames - 1})")


def open_error(path: str, error: BaseException | None = None) -> VideoOpenError:
    """The error that says why a file cannot be opened (slow; called after a failure)."""
    reason = plain_fault(path)
    if reason is None:
        try:
            reason = missing_bytes(path) or _why_av_refuses(path)
        except OSError as problem:
            reason = f"cannot be read: {problem.strerror}"
    return VideoOpenError(path, reason or f"cannot be opened ({_brief(error)})")


def plain_fault(path: str) -> str | None:
    """Why the file cannot be opened, from the file system alone (opening a pipe would wait for a writer)."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return "a link to a file that is gone" if os.path.islink(path) else "no such file"
    except (OSError, ValueError) as problem:  # ValueError: a zero byte in the name
        return f"cannot be read: {getattr(problem, 'strerror', None) or problem}"
    if stat.S_ISDIR(status.st_mode):
        return "a folder, not a video file"
    if not stat.S_ISREG(status.st_mode):
        return "not a file (a pipe, socket or device)"
    if not status.st_size:
        return "empty file (0 bytes); download it again"
    return None


def _why_av_refuses(path: str) -> str | None:
    try:
        with open_container(path) as container:
            if not container.streams.video:
                return "no video stream (audio only?)"
            return None
    except av.error.ArgumentError:  # a format that FFmpeg knows, but not one of DEMUXERS
        return f"not a video file ({', '.join(DEMUXERS)}) but a list, playlist, picture or the like; not opened"
    except av.error.FFmpegError as problem:
        return f"not a video that FFmpeg can read ({problem.strerror})"


def _brief(error: BaseException | None) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][-160:]}" if lines else type(error).__name__


_thread = threading.local()  # .to_rgb: one converter for all frames, as a new one sets up its tables again


def rgb(frame: av.VideoFrame) -> np.ndarray:
    """Upright uint8 RGB [H, W, 3] of a decoded frame."""
    if not hasattr(_thread, "to_rgb"):
        _thread.to_rgb = VideoReformatter()
    # One thread: by default the converter starts a pool of threads, which outlives the read.
    pixels = _thread.to_rgb.reformat(frame, format="rgb24", threads=1).to_ndarray()
    quarter_turns = round(frame.rotation / 90) % 4  # counter-clockwise, like np.rot90
    return np.ascontiguousarray(np.rot90(pixels, quarter_turns)) if quarter_turns else pixels


class FrameReader(Protocol):
    """Interface of the readers: the frames of one open file, by number or in pieces."""

    damaged: set[int]  # numbers of frames flagged as damaged; may be shared with another reader

    def __init__(self, path: str, stop: threading.Event): ...

    def read(self, wanted: np.ndarray, stop: threading.Event) -> np.ndarray:
        """Frames by number, int64 [T], rising: uint8 [T, H, W, 3]."""

    def chunk(self, count: int, stop: threading.Event) -> np.ndarray | None:
        """The next ``count`` frames or, at the end, fewer; None after the last one."""

    def close(self) -> None:
        """Let go of the file."""


class PyavReader:
    """PyAV: exact for every file tried. Seeks where packet times allow, else decodes from the start."""

    def __init__(self, path: str, stop: threading.Event):
        self.path = path
        self.damaged: set[int] = set()
        if fault := plain_fault(path):
            raise VideoOpenError(path, fault)
        self._open()
        check(stop)
        self._frames: Iterator[tuple[int, av.VideoFrame]] | None = None

    def _open(self) -> None:
        try:
            self._container = open_container(self.path)
        except (av.error.FFmpegError, OSError, ValueError) as error:
            raise open_error(self.path, error) from None
        try:
            self._stream = video_stream(self._container, self.path)
        except VideoOpenError:
            self.close()
            raise

    @property
    def container_name(self) -> str:
        """The container: "mp4", "matroska", or FFmpeg's name of the format."""
        name = self._container.format.name
        return TIMED_CONTAINERS.get(name, name)

    @property
    def codec_name(self) -> str:
        """FFmpeg's name of the video codec, such as "h264"."""
        return self._stream.codec_context.codec.canonical_name

    def fps(self) -> float:
        """Average frame rate from the container, 0 if unknown."""
        return float(self._stream.average_rate or self._stream.guessed_rate or 0)

    def tick(self) -> Fraction:
        """Seconds of one tick of the frames' times; 0 if unknown."""
        return Fraction(self._stream.time_base or 0)

    def start_s(self) -> float | None:
        """Time of the earliest picture or sound, rounded to microseconds; None if unknown."""
        start = self._container.start_time
        return None if start is None else start / av.time_base

    def scan(self, stop: threading.Event) -> PacketTable:
        """Read the packets from the present position to the end of the file; nothing is decoded."""
        try:
            return scan_packets(
                self._container.demux(self._stream),
                codec=self.codec_name,
                container=self.container_name,
                extradata=self._stream.codec_context.extradata,
                stop=stop,
            )
        except _DAMAGE as error:
            raise VideoDecodeError(self.path, f"its packets cannot be read ({_brief(error)})") from None

    def first_frame(self, stop: threading.Event) -> av.VideoFrame:
        """Decode and return the first frame shown (from the present position on)."""
        for frame in self._decode(stop):
            return frame
        raise VideoDecodeError(self.path, "no frame can be decoded")

    def rewind(self) -> None:
        """Go back to the start of the file (opens it again: exact in every format)."""
        self.close()
        self._open()

    def frames(self, stop: threading.Event) -> Iterator[av.VideoFrame]:
        """Decode everything from the present position on."""
        return self._decode(stop)

    def read(self, wanted: np.ndarray, stop: threading.Event) -> np.ndarray:
        """Frames ``wanted`` (ascending, each once, at least one): uint8 [T, H, W, 3]."""
        if self.container_name in TIMED_CONTAINERS.values():
            table = self.scan(stop)
            if table.pts is not None and not table.odd:
                if wanted[-1] >= len(table.pts):
                    raise out_of_range(self.path, int(wanted[-1]), len(table.pts))
                try:
                    return self._read_by_time(wanted, table, stop, seek=True)
                except VideoDecodeError:  # seek missed its target, or damaged data: decode from the start
                    self.rewind()
                    self.damaged.clear()
                    return self._read_by_time(wanted, table, stop, seek=False)
            self.rewind()
        return self._read_by_count(wanted, stop)

    def chunk(self, count: int, stop: threading.Event) -> np.ndarray | None:
        """The next ``count`` frames or what is left of the file; None at its end."""
        if self._frames is None:
            # The generator lives longer than this call: it must check the ``stop`` of the current call.
            self._frames = enumerate(self._decode(None))
        frames = []
        for index, frame in self._frames:
            frames.append(self._shown(index, frame))
            check(stop)
            if len(frames) == count:
                break
        return self._stack(frames) if frames else None

    def _read_by_time(self, wanted: np.ndarray, table: PacketTable, stop: threading.Event, *, seek: bool) -> np.ndarray:
        """Find frames by their times, decoding from the entry points before them (or once from the start)."""
        assert table.pts is not None  # read() looked
        entries = np.flatnonzero(table.entry)
        found: list[np.ndarray] = []
        decoding = self._decode(stop)
        position, landing = -2, None  # index of the last frame found; time at which a seek must land
        for index in wanted.tolist():
            place = int(np.searchsorted(entries, index, side="right")) - 1
            start = int(entries[place]) if place >= 0 else 0
            if seek and (start > position + 1 or position < 0):
                landing = int(table.pts[start])
                decoding = self._decode(stop, seek_to=landing)
            target = int(table.pts[index])
            for frame in decoding:
                if frame.pts is None or frame.pts > target:
                    raise VideoDecodeError(self.path, f"frame {index} cannot be decoded; the file is damaged")
                if landing is not None and frame.pts >= landing:
                    # The demuxer started later than asked, or a packet is marked as key frame by mistake.
                    if frame.pts != landing or not frame.key_frame:
                        raise VideoDecodeError(self.path, f"seeking to frame {start} missed it")
                    landing = None
                if frame.pts == target:
                    found.append(self._shown(index, frame))
                    position = index
                    break
            else:
                raise VideoDecodeError(self.path, f"frame {index} cannot be decoded; the file is damaged")
        return self._stack(found)

    def _read_by_count(self, wanted: np.ndarray, stop: threading.Event) -> np.ndarray:
        """Decode from the start of the file and count frames; independent of the container's times."""
        frames: list[np.ndarray] = []
        targets, position = wanted.tolist(), -1
        for position, frame in enumerate(self._decode(stop)):
            if position == targets[len(frames)]:
                frames.append(self._shown(position, frame))
                if len(frames) == len(targets):
                    return self._stack(frames)
        raise out_of_range(self.path, targets[-1], position + 1)

    def _shown(self, index: int, frame: av.VideoFrame) -> np.ndarray:
        if frame.is_corrupt:
            self.damaged.add(index)
        return rgb(frame)

    def _decode(self, stop: threading.Event | None, seek_to: int | None = None) -> Iterator[av.VideoFrame]:
        try:
            if seek_to is not None:
                self._container.seek(seek_to, stream=self._stream)
            for frame in self._container.decode(self._stream):
                if stop is not None:
                    check(stop)
                yield frame
        except _DAMAGE as error:
            raise VideoDecodeError(self.path, f"PyAV cannot decode it ({_brief(error)})") from None

    def _stack(self, frames: list[np.ndarray]) -> np.ndarray:
        if len({frame.shape for frame in frames}) > 1:
            raise VideoDecodeError(self.path, "the frame size changes within the file; encode it again")
        return np.stack(frames)

    def close(self) -> None:
        """Let go of the file."""
        self._container.close()


def video_stream(container: av.container.InputContainer, path: str) -> av.VideoStream:
    """The main video stream, set to one decoding thread."""
    stream = container.streams.best("video")
    if stream is None or stream.disposition & av.stream.Disposition.attached_pic:
        raise VideoOpenError(path, "no video stream (audio only?)")
    if stream.codec_context is None:
        raise VideoOpenError(path, "no decoder for its video codec; encode it again, e.g. as H.264")
    stream.codec_context.thread_count = 1
    return cast(av.VideoStream, stream)
