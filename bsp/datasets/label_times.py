"""Annotated times for training labels: clipped to the video, dropped if empty, and counted.

Published annotations hold instances that are empty, run backwards or leave their video (docs/datasets.md has the
numbers). All heads that make labels use this module. The metrics must not: they use the ground truth as written.
Letters: G instances of a video, K of them kept.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from bsp.errors import AnnotationError

logger = logging.getLogger(__name__)
_SHOWN = 3  # examples in a log line
# Choice: with a larger share dropped the times are considered wrong; ActivityNet loses 10 of 15,410.
MAX_DROPPED_SHARE = 0.5
# Choice: an annotated length differs from that of the features if the difference exceeds both; published lengths are
# rounded, and features may omit the last frames or have a nominal frame rate.
OTHER_LENGTH_SHARE, OTHER_LENGTH_S = 0.1, 1.0


def cut_to_extent(times_G2: Sequence[Sequence[float]] | np.ndarray, extent: float) -> tuple[np.ndarray, np.ndarray]:
    """Intervals cut to [0, extent], float64 [K, 2], and which have a part left, bool [G]; any unit.

    Choice: a reversed interval is dropped, not swapped, as either time may be wrong.
    """
    times_G2 = np.clip(np.asarray(times_G2, np.float64).reshape(-1, 2), 0.0, extent)
    kept_G = times_G2[:, 0] < times_G2[:, 1]
    return times_G2[kept_G], kept_G


def why_nothing_is_left(start_s: float, end_s: float, duration_s: float) -> str:
    """Why ``cut_to_extent`` leaves nothing of an interval, for messages."""
    if start_s >= end_s:
        return "is empty or runs backwards"
    if start_s >= duration_s or end_s <= 0:
        return f"lies {'after' if start_s >= duration_s else 'before'} the video's {duration_s:g} s"
    return "lies outside its video's features"


def length_remark(lengths: Iterable[tuple[str, float, float]]) -> str | None:
    """One line about videos whose annotated length is not that of their features; None if all fit.

    ``lengths``: video id, seconds by the annotations, seconds by the record of its features, both above 0.
    """
    lengths = list(lengths)
    other = [
        (video_id, annotated_s, ours_s)
        for video_id, annotated_s, ours_s in lengths
        if abs(annotated_s - ours_s) > max(OTHER_LENGTH_S, OTHER_LENGTH_SHARE * ours_s)
    ]
    if not other:
        return None
    video_id, annotated_s, ours_s = other[0]
    thousandfold = sum(900 < annotated_s / ours_s < 1100 for _, annotated_s, ours_s in lengths)
    likely = "are they in milliseconds" if 2 * thousandfold > len(lengths) else "are they of these videos, in seconds"
    return (
        f"the annotated durations of {len(other)} of {len(lengths)} videos are not those of their features, such as"
        f" {video_id}: {annotated_s:g} s, but {ours_s:g} s by its features; {likely}?"
    )


@dataclass
class LabelTimes:
    """Counts of clipped and dropped instances over the videos of a subset."""

    instances: int = 0  # all of them
    cut: list[str] = field(default_factory=list)  # those that exceed their video, as "video: start to end s"
    dropped: list[str] = field(default_factory=list)  # those of which nothing is left, as "video: start to end s why"

    def inside(
        self,
        video_id: str,
        times_s: Sequence[Sequence[float]] | np.ndarray,
        duration_s: float,
        *,
        places: np.ndarray | None = None,
        extent: float | None = None,
    ) -> np.ndarray:
        """A video's instances clipped to it, float64 [K, 2]; ``times_s`` [G, 2] are their seconds as annotated.

        places: the same [G, 2] in the unit of the labels (cells, fractions), which end at ``extent``; by default
            seconds, which end with the video.
        """
        times_G2 = np.asarray(times_s, np.float64).reshape(-1, 2)
        kept_K2, kept_G = cut_to_extent(*((times_G2, duration_s) if places is None else (places, extent)))
        self.instances += len(times_G2)
        for (start_s, end_s), kept in zip(times_G2.tolist(), kept_G, strict=True):
            if not kept:
                why = why_nothing_is_left(start_s, end_s, duration_s)
                self.dropped.append(f"{video_id}: {start_s:g} to {end_s:g} s {why}")
            elif start_s < 0 or end_s > duration_s:
                self.cut.append(f"{video_id}: {start_s:g} to {end_s:g} s of {duration_s:g} s")
        return kept_K2

    def moments_inside(self, video_id: str, times_s: Sequence[float], duration_s: float) -> list[float]:
        """The boundaries (single times, s) within [0, duration_s], in their order."""
        self.instances += len(times_s)
        self.dropped += [
            f"{video_id}: {time_s:g} s is outside its {duration_s:g} s"
            for time_s in times_s
            if not 0 <= time_s <= duration_s
        ]
        return [time_s for time_s in times_s if 0 <= time_s <= duration_s]

    def report(self, what: str) -> None:
        """One line in the log about what was cut or dropped, if anything; ``what``: "training instances"."""
        parts = [
            f"{len(lines)} {verb} ({'; '.join(lines[:_SHOWN])}{'; ...' if len(lines) > _SHOWN else ''})"
            for verb, lines in (("dropped", self.dropped), ("cut at their video's end", self.cut))
            if lines
        ]
        if parts:
            logger.warning("labels of %d %s: %s", self.instances, what, ", ".join(parts))

    def require_most(self, what: str) -> None:
        """AnnotationError, with an example, if there are no instances or more than MAX_DROPPED_SHARE are dropped."""
        if not self.instances:
            raise AnnotationError(f"there are no {what}: no video that has features is annotated with any")
        if len(self.dropped) > MAX_DROPPED_SHARE * self.instances:
            raise AnnotationError(
                f"{len(self.dropped)} of {self.instances} {what} leave nothing to learn from, such as"
                f" {self.dropped[0]}. Are their times in seconds, not in milliseconds or frames, and are the durations"
                " and features of these videos?"
            )

    def facts(self) -> dict[str, int | list[str]]:
        """JSON record: number of instances, number clipped, and the dropped ones (first hundred)."""
        return {"instances": self.instances, "cut": len(self.cut), "dropped": self.dropped[:100]}
