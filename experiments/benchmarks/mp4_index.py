"""The index of an mp4 file: the own box parser (bsp/video/mp4_index.py) against PyAV's packets, which say the same.

python experiments/benchmarks/mp4_index.py       # a minute on one core; writes videos to a temporary folder
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from bsp.datasets.pantomime.render import PantomimeSettings, render
from bsp.video.mp4_index import Mp4Index, read_mp4_index
from bsp.video.prepare import PrepareSettings, prepare_video
from bsp.video.readers import open_container, video_stream
from bsp.video.write import write_mp4

ROUNDS = 40
SIZES = ((256, 340, 1000), (720, 1280, 250))  # height, width, frames


def by_boxes(path: str) -> Mp4Index:
    """The index as ``Mp4Reader`` reads it."""
    file = os.open(path, os.O_RDONLY)
    try:
        return read_mp4_index(file)
    finally:
        os.close(file)


def by_packets(path: str) -> tuple[np.ndarray, np.ndarray]:
    """Offsets and sizes of all packets, int64 [frames] each, as FFmpeg's demuxer gives them."""
    with open_container(path) as container:
        stream = video_stream(container, path)
        places = [(packet.pos, packet.size) for packet in container.demux(stream) if packet.size]
    return tuple(np.array(places, np.int64).T)


def median_ms(function: Callable[[str], object], path: str) -> float:
    """Median milliseconds of a call."""
    times = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        function(path)
        times.append(time.perf_counter() - began)
    return 1000 * statistics.median(times)


def main() -> None:
    """Print a Markdown table."""
    print("| video | frames | KB | boxes, ms | packets, ms |\n| --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        world = PantomimeSettings(trimmed_per_class=1, trimmed_val_per_class=0, untrimmed_train=1, untrimmed_val=0)
        videos = sorted(render(world, work, progress=False).rglob("*.mp4"))
        cases = {"Pantomime, trimmed": videos[0], "Pantomime, untrimmed": videos[-1]}
        for height, width, frames in SIZES:
            pixels = np.random.default_rng(0).integers(0, 256, (16, height // 4, width // 4, 3), np.uint8)
            pixels = pixels.repeat(4, 1).repeat(4, 2)
            path = work / f"{height}.mp4"
            write_mp4(path, pixels[np.arange(frames) // 4 % 16], fps=25)
            cases[f"{width}x{height}"] = path
        cases["340x256, prepared"] = work / "prepared.mp4"
        prepare_video(work / "256.mp4", work / "prepared.mp4", PrepareSettings(short_side_px=256))
        for name, path in cases.items():
            index = by_boxes(str(path))
            if not all(map(np.array_equal, by_packets(str(path)), (index.offsets, index.sizes))):
                raise RuntimeError(f"{path}: boxes and packets differ")
            times = " | ".join(f"{median_ms(function, str(path)):.2f}" for function in (by_boxes, by_packets))
            print(f"| {name} | {len(index.sizes)} | {path.stat().st_size // 1000} | {times} |", flush=True)


if __name__ == "__main__":
    main()
