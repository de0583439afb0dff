"""What a model finds in a video: segments, and event boundaries with the curve that they are read from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A part of a video: an action, a step, or the moment of a sentence."""

    label: str  # a class name, or the sentence; "" = of no class (class-agnostic)
    start_s: float  # seconds from the beginning of the video
    end_s: float
    score: float  # higher is surer; comparable within one model


@dataclass(frozen=True, kw_only=True, eq=False)
class BoundaryCurve:
    """Event boundaries of a video, ascending, and the curve over its gaps between snippets. Letters: N, M."""

    times_s: np.ndarray  # float64 [N], of the boundaries
    scores: np.ndarray  # float64 [N], height of the curve at each
    curve_times_s: np.ndarray  # float64 [M], of the gaps
    curve: np.ndarray  # float64 [M]


def best_first(segments: list[Segment]) -> list[Segment]:
    """By falling score; equal ones stay in their order."""
    return sorted(segments, key=lambda segment: -segment.score)
