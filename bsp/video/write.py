"""Write frames as an H.264 mp4 file with PyAV."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from bsp.io import atomic_path


def write_mp4(
    path: str | Path,
    frames_THWC: np.ndarray,
    *,
    fps: float,
    gop_frames: int = 12,
    crf: int = 23,
    preset: str = "veryfast",
) -> None:
    """Write uint8 RGB frames [T, H, W, 3] to ``path``; the file appears only when it is complete.

    ``fps`` is in frames per second, ``gop_frames`` the largest key-frame distance, ``crf`` x264's quality
    (0 lossless to 51 worst). H and W must be even (4:2:0 chroma). One encoder thread, closed GOPs, so the
    bytes depend on the input alone. Raises ValueError for a wrong shape, dtype or odd size.
    """
    if frames_THWC.ndim != 4 or frames_THWC.shape[-1] != 3 or frames_THWC.dtype != np.uint8:
        raise ValueError(f"frames must be uint8 [T, H, W, 3], not {frames_THWC.dtype} {list(frames_THWC.shape)}")
    _, height, width, _ = frames_THWC.shape
    if height % 2 or width % 2:
        raise ValueError(f"H.264 4:2:0 needs an even frame size, not {width}x{height}; pad or crop by one pixel")
    with atomic_path(path) as partial, av.open(str(partial), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.thread_count = 1
        stream.options = {
            "crf": str(crf),
            "preset": preset,
            "g": str(gop_frames),
            # cpu-independent: x264's AVX-512 code otherwise gives other bytes from run to run.
            "x264-params": "open-gop=0:scenecut=0:cpu-independent=1",
        }
        for frame_HWC in frames_THWC:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame_HWC, format="rgb24")))
        container.mux(stream.encode(None))
