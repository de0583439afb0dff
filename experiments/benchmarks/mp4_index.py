"""The index of an mp4 file: the own box parser (bsp/video/mp4_index.py) against PyAV's packets, with equal results.

python experiments/benchmarks/mp4_index.py VIDEO.mp4 ...
"""

from __future__ import annotations

import sys
import timeit
from functools import partial
from pathlib import Path

import numpy as np

from bsp.video.mp4_index import read_mp4_index
from bsp.video.readers import open_container, video_stream


def by_boxes(path: str) -> np.ndarray:
    """Offset and size of each packet, int64 [frames, 2], as ``Mp4Reader`` finds them."""
    with open(path, "rb", buffering=0) as file:
        index = read_mp4_index(file.fileno())
    return np.stack([index.offsets, index.sizes], axis=1)


def by_packets(path: str) -> np.ndarray:
    """The same from FFmpeg's demuxer."""
    with open_container(path) as container:
        packets = container.demux(video_stream(container, path))
        return np.array([(packet.pos, packet.size) for packet in packets if packet.size], np.int64)


def main() -> None:
    """Print a Markdown table of the files that are named."""
    print("| video | frames | KB | boxes, ms | packets, ms |\n| --- | --- | --- | --- | --- |")
    for name in sys.argv[1:]:
        if not np.array_equal(by_boxes(name), by_packets(name)):
            raise SystemExit(f"{name}: boxes and packets differ")
        times = [1000 * min(timeit.repeat(partial(find, name), number=1, repeat=40)) for find in (by_boxes, by_packets)]
        path = Path(name)
        print(
            f"| {path.name} | {len(by_boxes(name))} | {path.stat().st_size // 1000} | {times[0]:.2f} | {times[1]:.2f} |"
        )


if __name__ == "__main__":
    main()
