"""Cache of decoded videos, least recently used first to go, limited in bytes.

Useful if all videos fit (the embedded data set: 300 MB decoded), useless otherwise. Pixels are unchanged.
"""

from __future__ import annotations

from collections import OrderedDict

import numpy as np

from bsp.errors import VideoError
from bsp.video.read import read_frames

_LARGEST_SHARE = 1 / 16  # of the cache; a longer video is read frame by frame as if there were no cache


class FrameCache:
    """LRU cache of decoded videos. ``max_bytes`` 0 switches it off. Not thread-safe."""

    def __init__(self, max_bytes: int):
        if max_bytes < 0:
            raise ValueError(f"max_bytes must be 0 (off) or more, not {max_bytes}")
        self.max_bytes = max_bytes
        self.bytes = 0
        self.damaged = 0  # returned frames so far that FFmpeg flags as damaged, repeats included
        self._videos: OrderedDict[str, tuple[np.ndarray, np.ndarray]] = OrderedDict()  # frames, which are damaged
        self._uncached: set[str] = set()

    def read(
        self, path: str, indices: np.ndarray, *, first: int, frames: int, reader: str, time_limit_s: float
    ) -> np.ndarray:
        """As :func:`bsp.video.read.read_frames`; ``first`` and ``frames`` give the used part of the file.

        ``indices`` must lie in [first, first + frames).
        """
        kept = self._videos.get(path)
        if kept is not None:
            self._videos.move_to_end(path)
            whole, is_damaged = kept
            self.damaged += int(is_damaged[indices - first].sum())
            return whole[indices - first]
        damaged: set[int] = set()
        some = read_frames(path, indices, reader=reader, time_limit_s=time_limit_s, damaged=damaged)
        if damaged:
            self.damaged += int(np.isin(indices, list(damaged)).sum())
        if not self.max_bytes or path in self._uncached:
            return some
        needed = frames * some[0].nbytes
        if needed > self.max_bytes * _LARGEST_SHARE:
            self._uncached.add(path)
            return some
        span = np.arange(first, first + frames)
        try:
            whole = read_frames(path, span, reader=reader, time_limit_s=time_limit_s, damaged=damaged)
        except VideoError:  # damage elsewhere in the file must not cost a clip that was read
            self._uncached.add(path)
            return some
        while self._videos and self.bytes + whole.nbytes > self.max_bytes:
            self.bytes -= self._videos.popitem(last=False)[1][0].nbytes
        self._videos[path] = whole, np.isin(span, list(damaged))
        self.bytes += whole.nbytes
        return whole[indices - first]
