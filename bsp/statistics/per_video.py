"""A score as a function of how often each test video counts; what a bootstrap over videos needs.

A bootstrap draws V of V videos with replacement. Drawing a video c times is counting it c times, so that a corpus
metric of many samples is one calculation on a table of counts: nothing is matched again, since detections, boundaries
and moments are matched within their video. Letters: B samples, V videos.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

_CELLS_AT_ONCE = 4_000_000  # of the tables of samples by detections: some 30 MB each


@dataclass(frozen=True)
class PerVideo:
    """The scores of one set of predictions as functions of the videos that count."""

    videos: tuple[str, ...]  # ids of all V, in the order of the counts
    # Counts, int [B, V] -> scores in percent by their names in tables, float64 [B]; nan for a sample that the metric
    # does not accept (without any instance).
    scores: Callable[[np.ndarray], dict[str, np.ndarray]]

    def identity(self) -> dict[str, float]:
        """The scores with every video once: those of the metric itself."""
        return {name: float(value_B[0]) for name, value_B in self.scores(np.ones((1, len(self.videos)), int)).items()}


def draw_counts(videos: int, samples: int, seed: int = 0) -> np.ndarray:
    """How often each of V videos is drawn, int64 [B, V], rows with sum V; the same numbers give the same samples."""
    if videos < 1 or samples < 1:
        raise ValueError(f"{samples} samples of {videos} videos: both must be at least 1")
    return np.random.default_rng(seed).multinomial(videos, np.full(videos, 1 / videos), size=samples)


def sample_blocks(samples: int, columns: int) -> Iterator[slice]:
    """Consecutive samples whose table with ``columns`` columns stays within a bound (or one sample)."""
    step = max(1, _CELLS_AT_ONCE // max(1, columns))
    for start in range(0, samples, step):
        yield slice(start, min(start + step, samples))
