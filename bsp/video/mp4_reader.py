"""Read frames of H.264 in mp4 without a demuxer: its index says where each packet lies, FFmpeg decodes those needed.

The fastest way found (docs/performance.md), and the pixels are those of ``PyavReader``, its fallback:
opening costs a tenth of a demuxer's, only the packets that a wanted frame needs are read, and pictures that no other
picture refers to are not decoded unless they are wanted.
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
            self._file = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # which does not wait for a pipe's writer
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
        except (av.error.FFmpegError, VideoDecodeError):  # damaged data: what PyAV says counts
            self.damaged.clear()
            return self._pyav_fallback(stop).read(wanted, stop)

    def chunk(self, count: int, stop: threading.Event) -> np.ndarray | None:
        """The next ``count`` frames or what is left of the file; None at its end."""
        return self._pyav_fallback(stop).chunk(count, stop)

    def close(self) -> None:
        """Let go of the file."""
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
        """As ``read``, but damage raises VideoDecodeError or an error of FFmpeg."""
        index = self.index
        decoder = av.CodecContext.create("h264", "r")
        decoder.thread_count = 1
        decoder.extradata = index.decoder_setup
        if index.reordered:
            # Where the stream itself does not say how far it reorders, the decoder would guess and drop pictures.
            decoder.options = {"has_b_frames": "16"}  # the most that H.264 allows
        packets = np.argsort(index.display)[wanted]  # by display order
        starts = index.keys[np.searchsorted(index.keys, packets, side="right") - 1]
        out: np.ndarray | None = None
        done = 0
        while done < len(wanted):
            # A run: frames that are reached from one key frame by decoding on.
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
        """Frames of the packets first .. last in display order, their place on the screen as pts; some left out."""
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
    """:class:`Mp4Reader` reads it exactly: its index says what FFmpeg's demuxer does, and the first frames come out.

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
        # Not frame 1: with B pictures that one is disposable, and must be left out for the one after it.
        some = reader.read_exactly(np.unique(np.minimum([0, 2, 5], reader.frames - 1)), stop)
        return np.array_equal(some[0], first_HWC)
    except (av.error.FFmpegError, VideoDecodeError):
        return False
    finally:
        reader.close()
