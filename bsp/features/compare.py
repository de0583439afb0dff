"""Are two folders of features the same? On one grid, equal values, and what differs in how they were made.

Letters: S snippets of a video, D feature width.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from bsp.features.record import FeatureInfo, seconds_at
from bsp.features.store import read_features
from bsp.files.text import is_hidden

TOLERANCE = 1e-5  # largest difference of two equal values, as a share of the video's largest value
_NOT_COMPARED = ("video_id", "sha256", "npy_bytes", "record_sha256")
_GRID_S = 1e-3  # by which the times of snippets of one grid may differ, seconds


@dataclass(frozen=True, kw_only=True)
class VideoComparison:
    """One video that both have."""

    video_id: str
    same_grid: bool  # as many snippets, at the same times
    same_width: bool
    equal: bool  # every value within the tolerance
    difference: float  # largest of two values, as a share of the largest value; nan if not comparable
    cosine: tuple[float, ...]  # per snippet; () if not comparable
    records: tuple[tuple[str, str, str], ...]  # (field, value of A, value of B) that differ

    @property
    def worst(self) -> float:
        """The least cosine, nan if not comparable."""
        return min(self.cosine, default=float("nan"))


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two folders."""

    videos: tuple[VideoComparison, ...]
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]

    @property
    def same_grid(self) -> bool:
        """Whether all common videos have the same grid."""
        return all(video.same_grid for video in self.videos)

    @property
    def equal(self) -> bool:
        """Whether the folders hold the same videos, with the same grids and values."""
        return not (self.only_a or self.only_b) and all(video.equal for video in self.videos)

    @property
    def cosine(self) -> tuple[float, float]:
        """(least, median) over all comparable snippets; nan if there is none."""
        every = [value for video in self.videos for value in video.cosine]
        return (min(every), float(np.median(every))) if every else (float("nan"), float("nan"))

    @property
    def records(self) -> list[tuple[str, str, str, int]]:
        """(field, value of A, value of B, in how many videos) that differ, the most frequent first."""
        counts = Counter(difference for video in self.videos for difference in video.records)
        return [(*difference, count) for difference, count in counts.most_common()]


def video_ids(folder: Path) -> dict[str, str]:
    """Composed id -> id as the files are named, of all videos with features. ValueError if there is none."""
    names = [path.stem for path in folder.glob("*.npy") if not is_hidden(path)]
    if not names:
        raise ValueError(f"{folder}: holds no features (<id>.npy with <id>.json); extract or import them first")
    return {unicodedata.normalize("NFC", name): name for name in sorted(names)}


def compare_features(
    a: Path, b: Path, *, tolerance: float = TOLERANCE, progress: Callable[[int, int], None] = lambda done, total: None
) -> Comparison:
    """Compare all videos of two folders. ``progress`` gets videos done and all of them.

    Raises ValueError or FileNotFoundError, naming the file, for damaged or incomplete features.
    """
    ours, theirs = video_ids(a), video_ids(b)
    both = [name for name in ours if name in theirs]
    found = []
    for number, name in enumerate(both, 1):
        left, right = read_features(a, ours[name]), read_features(b, theirs[name])
        found.append(compare_video(left, right, tolerance=tolerance))
        progress(number, len(both))
    only_a = tuple(name for name in ours if name not in theirs)
    only_b = tuple(name for name in theirs if name not in ours)
    return Comparison(videos=tuple(found), only_a=only_a, only_b=only_b)


def compare_video(
    a: tuple[np.ndarray, FeatureInfo], b: tuple[np.ndarray, FeatureInfo], *, tolerance: float = TOLERANCE
) -> VideoComparison:
    """Compare the features [S, D] of one video. A snippet of zeros in both has the cosine 1, in one of them 0."""
    (feat_a, info_a), (feat_b, info_b) = a, b
    same_grid = len(feat_a) == len(feat_b) and bool(
        np.allclose(seconds_at(info_a, np.arange(len(feat_a) + 1)), seconds_at(info_b, np.arange(len(feat_b) + 1)),
                    rtol=0, atol=_GRID_S)
    )  # fmt: skip
    same_width = feat_a.shape[1] == feat_b.shape[1]
    difference, cosine = float("nan"), np.empty(0)
    if len(feat_a) == len(feat_b) and same_width:
        left, right = feat_a.astype(np.float64), feat_b.astype(np.float64)
        largest = max(float(np.abs(left).max()), float(np.abs(right).max()))
        difference = float(np.abs(left - right).max()) / largest if largest else 0.0
        norm_a, norm_b = np.linalg.norm(left, axis=1), np.linalg.norm(right, axis=1)
        product = norm_a * norm_b
        cosine = np.where(product > 0, (left * right).sum(1) / np.where(product > 0, product, 1), norm_a == norm_b)
        cosine = np.minimum(cosine, 1.0)  # rounding
    records = tuple(
        (field.name, _shown(getattr(info_a, field.name)), _shown(getattr(info_b, field.name)))
        for field in fields(FeatureInfo)
        if field.name not in _NOT_COMPARED and getattr(info_a, field.name) != getattr(info_b, field.name)
    )
    return VideoComparison(
        video_id=info_a.video_id,
        same_grid=same_grid,
        same_width=same_width,
        equal=same_grid and same_width and difference <= tolerance,
        difference=difference,
        cosine=tuple(map(float, cosine)),
        records=records,
    )


def _shown(value: Any) -> str:
    if isinstance(value, tuple) and len(value) > 4:
        return f"{len(value)} numbers, {value[0]} to {value[-1]}"
    return str(value) if len(str(value)) <= 24 else f"{str(value)[:20]}..."
