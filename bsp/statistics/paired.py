"""The difference of two rows over seeds and videos: interval, verdict, and what could have been seen at all.

Every seed trains both rows anew and scores them on the same test videos: seeds and videos are crossed. Two things
could have come out otherwise, and the variance of the mean difference is the sum of both.

- **Videos**: paired bootstrap (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 6; for a metric of
  a test set: Berg-Kirkpatrick et al., EMNLP 2012). Videos are drawn with replacement, the same for both rows and all
  seeds; the metric of the whole set is computed again; the variance of the mean difference over the samples counts.
- **Seeds**: the variance of the seeds' differences over their number (Bouthillier et al., Accounting for Variance in
  Machine Learning Benchmarks, MLSys 2021: start weights and order of data are part of what varies).

Choice: variances are added instead of drawing seeds as well (Owen, The pigeonhole bootstrap, 2007), since drawing from
2 to 5 seeds gives a variance that is too small by (K - 1) / K and knows no heavy tails; the interval is Student's, with
the degrees of freedom of Welch and Satterthwaite (1946). What of a seed's difference depends on the videos is in both
parts, so that the interval is rather too wide. Letters: B samples, K seeds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

LEVEL = 0.95  # of intervals
POWER = 0.8  # with which the detectable difference would be seen
SAMPLES = 1000

Verdict = Literal["appears", "reversed", "no difference", "not run"]


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Mean difference of two rows in the unit of their scores, with its uncertainty."""

    mean: float
    seeds: int
    error_of_seeds: float | None  # standard error of the mean from seeds; None: one seed, unknown
    error_of_videos: float | None  # likewise from videos; None: no predictions to resample
    low: float  # the interval
    high: float
    detectable: float  # a true difference of this size would be seen with probability POWER

    @property
    def verdict(self) -> Verdict:
        """Whether 0 is outside of the interval, and on which side."""
        if self.low > 0:
            return "appears"
        return "reversed" if self.high < 0 else "no difference"

    @property
    def bound(self) -> float:
        """No difference, either way, is larger than this (by the interval)."""
        return max(abs(self.low), abs(self.high))


def paired_difference(
    differences_K: Sequence[float], resampled_KB: np.ndarray | None = None, *, videos: int = 0
) -> Difference | None:
    """The analysis above.

    differences: first row minus second, one per seed. resampled: the same on B samples of the videos, float64 [K, B],
    column b of all seeds on the same sample, nan where the metric has no value; only of seeds whose predictions are
    there, None if there are none.
    videos: how many there are, for the degrees of freedom.

    Returns None where nothing can be said: no seed, or one seed and nothing resampled. ValueError for more seeds in
    ``resampled`` than in ``differences``.
    """
    from scipy.stats import t as student

    seeds = len(differences_K)
    if not seeds:
        return None
    mean = float(np.mean(differences_K))
    parts: list[tuple[float, int]] = []  # variance of the mean, degrees of freedom
    of_seeds = of_videos = None
    if seeds > 1:
        of_seeds = float(np.std(differences_K, ddof=1)) / math.sqrt(seeds)
        parts.append((of_seeds**2, seeds - 1))
    if resampled_KB is not None:
        if len(resampled_KB) > seeds:
            raise ValueError(f"{len(resampled_KB)} rows of resampled differences for {seeds} seeds")
        mean_B = np.mean(resampled_KB, axis=0)
        mean_B = mean_B[~np.isnan(mean_B)]
        if len(mean_B) > 1 and videos > 1:
            of_videos = float(np.std(mean_B, ddof=1))
            parts.append((of_videos**2, videos - 1))
    if not parts:
        return None
    variance = sum(part for part, _ in parts)
    error, quantile, power = math.sqrt(variance), 0.0, 0.0
    if variance > 0:
        freedom = variance**2 / sum(part**2 / degrees for part, degrees in parts)
        quantile, power = (float(student.ppf(p, freedom)) for p in ((1 + LEVEL) / 2, POWER))
    return Difference(
        mean=mean,
        seeds=seeds,
        error_of_seeds=of_seeds,
        error_of_videos=of_videos,
        low=mean - quantile * error,
        high=mean + quantile * error,
        detectable=(quantile + power) * error,
    )
