"""Read frames of H.264 in mp4 without a demuxer: the index locates packets, FFmpeg decodes those needed.

The fastest reader (docs/performance.md), with the same pixels as ``PyavReader``, its fallback: opening a file takes a
tenth of a demuxer's time, only packets that a wanted frame needs are read, and pictures that no other picture refers to
are decoded only if wanted.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator

import av
import numpy as np

from bsp.errors import VideoDecodeError, VideoOpenError
from bsp.video.mp4_index import NotIndexed, read_mp4_index
from bsp.video.packets import PacketTable, is_disposable_h264, nal_length_bytes
from bsp.video.readers import PyavReader, open_error, out_of_range, rgb
from bsp.video.time_limit import check


class Mp4Reader:
    """The methods of the other readers, for files that ``probe`` gives it: closed groups, no rotation."""

    def __init__(self, path: str, stop: threading.Event):
        self.path = path
        self.damaged: set[int] = set()  # as PyavReader.damaged
        self._fallback: PyavReader | None = None  # for the whole file in order, and for damaged files
        self._file = -1
        try:
            self._file = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # O_NONBLOCK: do not wait for a pipe's writer
            self.index = read_mp4_index(self._file)
        except NotIndexed as error:
            self.close()
            fault = open_error(path)
            reason = (
                f"{error}; read it with reader 'pyav'" if fault.reason.startswith("cannot be opened") else fault.reason
            )
            raise VideoOpenError(path, reason) from None
        except (OSError, ValueError) as error:
            self.close()
            raise open_error(path, error) from None
        check(stop)
        self.frames = len(self.index.sizes)

    def read(self, wanted: np.ndarray, stop: threading.Event) -> np.ndarray:
        """Frames ``wanted`` (ascending, each once, at least one): uint8 [T, H, W, 3]."""
        if wanted[-1] >= self.frames:
            raise out_of_range(self.path, int(wanted[-1]), self.frames)
        try:
            return self.read_exactly(wanted, stop)
        except (av.error.FFmpegError, VideoDecodeError):  # damaged data: PyAV decides which frames can be read
            self.damaged.clear()
            return self._pyav_fallback(stop).read(wanted, stop)

    def chunk(self, count: int, stop: threading.Event) -> np.ndarray | None:
        """The next ``count`` frames or the rest of the file; None at its end."""
        return self._pyav_fallback(stop).chunk(count, stop)

    def close(self) -> None:
        """Close the file."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
        if self._fallback is not None:
            self._fallback.close()

    def _pyav_fallback(self, stop: threading.Event) -> PyavReader:
        if self._fallback is None:
            self._fallback = PyavReader(self.path, stop)
            self._fallback.damaged = self.damaged
        return self._fallback

    def read_exactly(self, wanted: np.ndarray, stop: threading.Event) -> np.ndarray:
        """As ``read`` without fallback: damage raises VideoDecodeError or FFmpegError."""
        index = self.index
        decoder = av.CodecContext.create("h264", "r")
        decoder.thread_count = 1
        decoder.extradata = index.decoder_setup
        if index.reordered:
            # If the stream does not state its reorder depth, the decoder guesses it and drops pictures.
            decoder.options = {"has_b_frames": "16"}  # the most that H.264 allows
        packets = np.argsort(index.display)[wanted]  # by display order
        starts = index.keys[np.searchsorted(index.keys, packets, side="right") - 1]
        out: np.ndarray | None = None
        done = 0
        while done < len(wanted):
            # A run: wanted frames that are decoded in one go from a key frame.
            first, stop_at = int(starts[done]), done + 1
            last = int(packets[done])
            while stop_at < len(wanted) and starts[stop_at] <= last + 1:
                last = max(last, int(packets[stop_at]))
                stop_at += 1
            run = wanted[done:stop_at].tolist()
            for frame in self._decode_run(decoder, first, last, set(run), stop):
                if frame.pts != run[0]:
                    continue
                if frame.is_corrupt:
                    self.damaged.add(run[0])
                del run[0]
                pixels = rgb(frame)
                if out is None:
                    out = np.empty((len(wanted), *pixels.shape), np.uint8)
                elif pixels.shape != out.shape[1:]:
                    raise VideoDecodeError(self.path, "the frame size changes within the file; encode it again")
                out[done] = pixels
                done += 1
                if not run:
                    break
            if run:
                raise VideoDecodeError(self.path, f"frame {run[0]} cannot be decoded; the file is damaged")
            decoder.flush_buffers()
        assert out is not None  # at least one frame was wanted, and each was found
        return out

    def _decode_run(
        self, decoder: av.VideoCodecContext, first: int, last: int, wanted: set[int], stop: threading.Event
    ) -> Iterator[av.VideoFrame]:
        """Frames of packets first .. last in display order, pts = position in that order; unneeded ones left out."""
        offsets, sizes = self.index.offsets[first : last + 1], self.index.sizes[first : last + 1]
        begin = int(offsets.min())
        data = memoryview(os.pread(self._file, int((offsets + sizes).max()) - begin, begin))
        length_bytes = nal_length_bytes(self.index.decoder_setup)
        places = self.index.display[first : last + 1].tolist()
        for place, offset, size in zip(places, (offsets - begin).tolist(), sizes.tolist(), strict=True):
            check(stop)
            unit = data[offset : offset + size]
            if place not in wanted and is_disposable_h264(unit, length_bytes):
                continue
            packet = av.Packet(unit)  # type: ignore[arg-type]  # it takes any buffer
            packet.pts = place
            yield from decoder.decode(packet)
        yield from decoder.decode(None)


def mp4_reads(path: str, table: PacketTable, first_HWC: np.ndarray, stop: threading.Event) -> bool:
    """Whether :class:`Mp4Reader` is exact: its index agrees with FFmpeg's demuxer, and frames decode.

    ``table`` is the demuxer's; ``first_HWC`` is the first frame, uint8 RGB, as it is stored.
    """
    # A key packet of an open group is no clean start, and an edit list hides packets that the index lists.
    if table.pts is None or table.hidden or table.odd or not table.closed:
        return False
    try:
        reader = Mp4Reader(path, stop)
    except VideoOpenError:
        return False
    try:
        index = reader.index
        if not (
            np.array_equal(np.diff(np.sort(index.ticks)), np.diff(table.pts))
            and np.array_equal(np.sort(index.display[index.keys]), np.flatnonzero(table.entry))
        ):
            return False
        # Frame 2, not 1: with B pictures frame 1 is disposable, so that decoding frame 2 tests leaving it out.
        some = reader.read_exactly(np.unique(np.minimum([0, 2, 5], reader.frames - 1)), stop)
        return np.array_equal(some[0], first_HWC)
    except (av.error.FFmpegError, VideoDecodeError):
        return False
    finally:
        reader.close()
