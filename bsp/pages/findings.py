"""What was found in one video, as plain data: the input of every output format, and a JSON document that keeps it.

Times are seconds from where a player begins to count.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from bsp.errors import FileError

_FIRST_SEGMENTS = 12


class ScoredSegment(Protocol):
    """A segment that a model found; any object with these attributes."""

    @property
    def label(self) -> str:
        """Its class, or "" where a model names none."""

    @property
    def start_s(self) -> float:
        """Where it begins."""

    @property
    def end_s(self) -> float:
        """Where it ends."""

    @property
    def score(self) -> float:
        """Higher is better."""


class ScoredBoundaries(Protocol):
    """Boundaries that a model found, and the curve that it found them on; any object with these attributes."""

    @property
    def times_s(self) -> np.ndarray:
        """float64 [N], rising."""

    @property
    def scores(self) -> np.ndarray:
        """[N], higher is better."""

    @property
    def curve_times_s(self) -> np.ndarray:
        """float64 [M], rising."""

    @property
    def curve(self) -> np.ndarray:
        """[M], how much looks like a boundary at these times."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """A segment that a model found (or, without a meaning of its score, one of the ground truth)."""

    label: str
    start_s: float
    end_s: float
    score: float = 1.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Curve:
    """Boundaries and the curve that they were found on."""

    times_s: np.ndarray  # float64 [N]
    scores: np.ndarray  # float64 [N]
    curve_times_s: np.ndarray  # float64 [M]
    curve: np.ndarray  # float64 [M]


@dataclass(frozen=True, kw_only=True, eq=False)
class Findings:
    """All that is known about one video after a model has looked at it."""

    video_id: str  # names the video in results of several
    video: str  # path of the file
    duration_s: float
    segments: Sequence[ScoredSegment] = ()
    boundaries: ScoredBoundaries | None = None
    truth: Sequence[Found] = ()  # annotated instances, if there are any to compare with
    sentence: str = ""  # that was looked for, if any
    shown_from: float | None = None  # score from which segments are shown at first; None: see shown_at_first
    made: Mapping[str, str] = field(default_factory=dict)  # how it was made, by what it is: "model", "encoder", ...
    notes: tuple[str, ...] = ()  # what a reader must know first


def least_shown(findings: Findings) -> float:
    """Score from which segments are shown before anybody has chosen."""
    if findings.shown_from is not None:
        return findings.shown_from
    scores = sorted((float(segment.score) for segment in findings.segments), reverse=True)
    # Choice: from half of the best score on, 12 at most. Scores of heads have no common scale (products of G-TAD's are
    # far below 1), and lists of a hundred overlapping candidates tell a reader nothing.
    return max(scores[0] / 2, scores[:_FIRST_SEGMENTS][-1]) if scores else 0.0


def shown_at_first(findings: Findings) -> list[ScoredSegment]:
    """The segments that :func:`least_shown` leaves, best first."""
    least = least_shown(findings)
    return [segment for segment in best_first(findings.segments) if segment.score >= least]


def best_first(segments: Sequence[ScoredSegment]) -> list[ScoredSegment]:
    """Segments by falling score; of equal scores the earlier."""
    return sorted(segments, key=lambda s: (-s.score, s.start_s))


def to_document(findings: Findings) -> dict[str, Any]:
    """All fields as a JSON document; :func:`from_document` is the inverse."""
    curve = findings.boundaries
    return {
        "video_id": findings.video_id,
        "video": findings.video,
        "duration_s": findings.duration_s,
        "segments": [_segment(s) for s in findings.segments],
        "boundaries": None
        if curve is None
        else {
            name: np.asarray(getattr(curve, name), np.float64).tolist()
            for name in ("times_s", "scores", "curve_times_s", "curve")
        },
        "truth": [_segment(s) for s in findings.truth],
        "sentence": findings.sentence,
        "shown_from": findings.shown_from,
        "made": dict(findings.made),
        "notes": list(findings.notes),
    }


def from_document(document: Mapping[str, Any], name: str = "findings") -> Findings:
    """The findings of a document. FileError, beginning with ``name``, for any other document."""
    try:
        curve = document["boundaries"]
        arrays = None if curve is None else {key: np.array(curve[key], np.float64) for key in curve}
        return Findings(
            video_id=str(document["video_id"]),
            video=str(document["video"]),
            duration_s=_finite(document["duration_s"]),
            segments=[_found(record) for record in document["segments"]],
            boundaries=None if arrays is None else Curve(**arrays),
            truth=[_found(record) for record in document["truth"]],
            sentence=str(document["sentence"]),
            shown_from=None if document["shown_from"] is None else _finite(document["shown_from"]),
            made={str(key): str(value) for key, value in document["made"].items()},
            notes=tuple(map(str, document["notes"])),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise FileError(f"{name}: not a record of findings ({type(error).__name__}: {error}); delete it") from None


def _segment(segment: ScoredSegment) -> dict[str, Any]:
    return {
        "label": segment.label,
        "start_s": float(segment.start_s),
        "end_s": float(segment.end_s),
        "score": float(segment.score),
    }


def _found(record: Mapping[str, Any]) -> Found:
    start_s, end_s, score = (_finite(record[key]) for key in ("start_s", "end_s", "score"))
    return Found(label=str(record["label"]), start_s=start_s, end_s=end_s, score=score)


def _finite(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{value!r} is no finite number")
    return number
