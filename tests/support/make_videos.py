"""Writes small videos whose frames name themselves, with PyAV (the tests of the video reader use them).

Every frame shows its own number twice as 10 black or white blocks (plain in the upper rows, inverted in the
lower rows) over a noise texture that moves, so that a wrong frame is told from the right one by its pixels
alone, whatever the codec.
"""

from __future__ import annotations

import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

BITS = 10


def numbered_frames(count: int, *, width: int = 128, height: int = 96, first: int = 0) -> np.ndarray:
    """Frames that name themselves: uint8 [count, height, width, 3], numbers ``first`` .. ``first+count-1``.

    The code stands in the top quarter and, inverted, in the quarter below it; the rest is moving noise with a
    red square in the top left of the lower half (so that rotated and mirrored pictures can be told apart).
    """
    generator = np.random.Generator(np.random.Philox(key=[7, width * 10_000 + height]))
    coarse = generator.integers(40, 216, size=(height // 4 + 1, width // 4 + 1, 3), dtype=np.uint8)
    texture = np.repeat(np.repeat(coarse, 4, axis=0), 4, axis=1)[:height, :width]
    frames = np.empty((count, height, width, 3), np.uint8)
    band, block = height // 4, width // BITS
    for position in range(count):
        number = first + position
        frame = np.roll(texture, shift=(number, 2 * number), axis=(0, 1)).copy()
        for bit in range(BITS):
            white = 255 * ((number >> (BITS - 1 - bit)) & 1)
            columns = slice(bit * block, (bit + 1) * block)
            frame[:band, columns] = white
            frame[band : 2 * band, columns] = 255 - white
        frame[2 * band : 3 * band, : width // 4] = (220, 30, 30)
        frames[position] = frame
    return frames


def read_numbers(frames_THWC: np.ndarray) -> list[int]:
    """The numbers that upright frames show; -1 where code and inverted code do not differ clearly."""
    _, height, width, _ = frames_THWC.shape
    band, block = height // 4, width // BITS
    rows = slice(band // 4, band - band // 4)
    numbers = []
    for frame in frames_THWC.mean(axis=-1):
        number = 0
        for bit in range(BITS):
            columns = slice(bit * block + block // 4, (bit + 1) * block - block // 4)
            difference = frame[rows, columns].mean() - frame[band : 2 * band][rows, columns].mean()
            if abs(difference) < 60:
                number = -1
                break
            number = 2 * number + int(difference > 0)
        numbers.append(number)
    return numbers


def write_video(
    path: Path,
    frames_THWC: np.ndarray,
    *,
    codec: str = "libx264",
    options: dict[str, str] | None = None,
    fps: int = 25,
    times_ms: list[int] | None = None,
    container: dict[str, str] | None = None,
) -> Path:
    """Write frames [T, H, W, 3] to ``path``; its suffix names the container.

    ``options`` are the encoder's and ``container`` the muxer's; ``times_ms`` (ascending, one a frame) makes
    the frame rate variable.
    """
    _, height, width, _ = frames_THWC.shape
    with av.open(str(path), "w", options=container or {}) as output:
        stream = output.add_stream(codec, rate=fps)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.thread_count = 1
        stream.options = options or {}
        ticks = Fraction(1, fps) if times_ms is None else Fraction(1, 1000)
        stream.codec_context.time_base = ticks
        for position, pixels in enumerate(frames_THWC):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            frame.pts = position if times_ms is None else times_ms[position]
            frame.time_base = ticks
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return path


def write_cut(source: Path, path: Path, *, first_frame: int, fps: int = 25) -> Path:
    """Copy from ``first_frame`` on without encoding, like ``ffmpeg -ss ... -c copy``.

    The copy begins at the key frame before; the mp4 muxer hides the frames in between by an edit list.
    """
    with av.open(str(source)) as container, av.open(str(path), "w") as output:
        stream = container.streams.video[0]
        copy = output.add_stream_from_template(stream)
        offset = round(first_frame / (fps * stream.time_base))
        packets = [packet for packet in container.demux(stream) if packet.size]
        begin = max(i for i, packet in enumerate(packets) if packet.is_keyframe and packet.pts <= offset)
        for packet in packets[begin:]:
            packet.pts, packet.dts = packet.pts - offset, packet.dts - offset
            packet.stream = copy
            output.mux(packet)
    return path


def write_audio(path: Path, *, seconds: int = 1) -> Path:
    """Write a silent AAC track without any video."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16_000)
        frame_samples = 1024
        for position in range(seconds * 16_000 // frame_samples):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, frame_samples), np.float32), format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 16_000, position * frame_samples
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def spoil_slice(path: Path, frame: int) -> Path:
    """Overwrite the second half of an H.264 packet: FFmpeg decodes the picture, hides the hole and flags it."""
    with av.open(str(path)) as container:
        packet = [packet for packet in container.demux(video=0) if packet.size][frame]
        content = bytes(packet)
    data = bytearray(path.read_bytes())
    at = data.index(content) + len(content) // 2
    data[at : at + len(content) // 2] = b"\x55" * (len(content) // 2)
    path.write_bytes(data)
    return path


def x264(parameters: str) -> dict:
    return {"options": {"preset": "veryfast", "x264-params": f"scenecut=0:{parameters}"}}


TRACK_MATRICES = {1: (0, 1, -1, 0), 2: (-1, 0, 0, -1), 3: (0, -1, 1, 0)}


def write_rotated(path: Path, frames_THWC: np.ndarray, quarter_turns: int) -> Path:
    """Store the frames turned counter-clockwise and patch the mp4's track header to turn them back."""
    write_video(path, np.rot90(frames_THWC, quarter_turns, axes=(1, 2)), **x264("keyint=12:bframes=2"))
    data = bytearray(path.read_bytes())
    a, b, c, d = (value * 0x10000 for value in TRACK_MATRICES[quarter_turns])
    at = data.index(b"tkhd") + 4 + 40  # version 0: flags .. volume take 40 bytes
    unity = struct.pack(">9i", 0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000)
    assert data[at : at + 36] == unity
    data[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 0x40000000)
    path.write_bytes(data)
    return path
