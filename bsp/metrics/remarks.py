"""Probable reasons of a low score of valid files: other spelling of names, times in another unit or order.

The functions compare predictions with annotations and return one sentence with examples and the likely cause, or "" for
ordinary results, good or bad. A unit is only suggested if the times are impossible as written (beyond their videos, or
all below 1) and would match a fifth of the annotations in that unit, or half of them if the videos' lengths are
unknown. Letters: P predictions, G annotations of a video.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from bsp.metrics.detection import segment_tiou

MAX_VIDEOS, MAX_PREDICTIONS = 300, 20  # looked at: of the videos, and of each video's predictions the best
FOUND_AT = 0.5  # tIoU
# Least share of annotations matched in another unit, and least factor over the share matched as written.
LEAST_FOUND, TIMES_MORE = 0.2, 3
MOST_FOUND = 0.5  # least share if lengths are unknown: times after the last annotation may be within the video
USUAL_RATES = (30.0, 25.0, 24.0, 50.0, 60.0, 15.0, 12.0, 10.0)  # frames per second, tried if unknown


@dataclass(frozen=True)
class VideoTimes:
    """Annotations and predictions of one video: intervals [G, 2], [P, 2], or moments [G], [P]; best first."""

    name: str
    truth: np.ndarray
    found: np.ndarray
    length: float | None = None  # of the video in the unit of the truth; None if unknown
    rate: float | None = None  # frames per second; None if unknown
    in_frames: bool = False  # the truth is in frames, not seconds

    @property
    def unit(self) -> str:
        """Unit of all times of the video."""
        return "frames" if self.in_frames else "s"


Change = Callable[[np.ndarray, VideoTimes], np.ndarray]


def time_remark(videos: Sequence[VideoTimes], *, is_zero: bool) -> str:
    """Probable mistake in the predicted times, with an example; "" if they look ordinary.

    is_zero: the score is 0; then at least an example of unmatched times is given.
    """
    videos = [video for video in videos if len(video.truth) and len(video.found)][:MAX_VIDEOS]
    if not videos:
        return ""
    reversed_ = sum(int((v.found[:, 1] < v.found[:, 0]).sum()) for v in videos if v.found.ndim == 2)
    total = sum(len(video.found) for video in videos)
    if reversed_ > total / 2:
        video = next(v for v in videos if (v.found[:, 1] < v.found[:, 0]).any())
        one = replace(video, found=video.found[video.found[:, 1] < video.found[:, 0]])
        return f"{reversed_} of {total} predictions end before they start, so they match nothing: {_example(one)}"
    all_known = all(video.length for video in videos)
    least = max(LEAST_FOUND if all_known else MOST_FOUND, TIMES_MORE * _share_found(videos, lambda times, _: times))
    shares = {cause: _share_found(videos, change) for cause, possible, change in _units(videos, is_zero) if possible}
    cause = max(shares, key=shares.__getitem__, default=None)
    if cause is not None and shares[cause] >= least:
        return f"The predicted times are probably {cause}: {_example(videos[0])}"
    return f"No prediction matches. For example: {_example(videos[0])}" if is_zero else ""


def _units(videos: Sequence[VideoTimes], is_zero: bool) -> Iterable[tuple[str, bool, Change]]:
    """(unit, whether the times are possible in it, function that converts them to the truth's unit)."""
    ends = np.array([video.found.max() for video in videos])
    extents = np.array([video.length or video.truth.max() for video in videos])
    too_late = bool(np.median(ends / np.maximum(extents, 1e-9)) > 1.5)
    all_known = all(video.length for video in videos)
    if videos[0].in_frames:
        lengths, rates = ([getattr(video, name) for video in videos] for name in ("length", "rate"))
        seconds = np.divide(lengths, rates)
        yield "seconds instead of frames", bool((ends <= np.add(seconds, 1)).all()), lambda t, v: t * v.rate
    else:
        yield "milliseconds instead of seconds", too_late, lambda times, _: times / 1000
        if all(video.rate for video in videos):
            yield "frames instead of seconds", too_late, lambda t, v: t / v.rate
        else:
            for rate in USUAL_RATES:
                text = f"frames instead of seconds (about {rate:g} a second)"
                yield text, too_late and (all_known or is_zero), _divided_by(rate)
    if all_known:
        is_short = bool(extents.min() > 2)
        yield "fractions of the video's length", is_short and bool((ends <= 1.05).all()), lambda t, v: t * v.length
        percent = bool((ends <= 105).all() and (ends > 1.5 * extents).any())
        yield "percent of the video's length", percent, lambda t, v: t * v.length / 100


def _divided_by(rate: float) -> Change:
    return lambda times, _: times / rate


def _share_found(videos: Sequence[VideoTimes], change: Change) -> float:
    """Share of the annotations, in videos with predictions, that the predictions match; 0..1."""
    found = total = 0
    for video in videos:
        times = change(np.asarray(video.found, float), video)
        if times.ndim == 2:
            near = segment_tiou(times[None, :MAX_PREDICTIONS], np.asarray(video.truth, float)[:, None]) >= FOUND_AT
        else:
            tolerance = 0.05 * (video.length or float(np.max(video.truth)))
            near = np.abs(times[None] - np.asarray(video.truth, float)[:, None]) <= tolerance
        found, total = found + int(near.any(1).sum()), total + len(video.truth)
    return found / max(total, 1)


def _example(video: VideoTimes) -> str:
    def first_of(times: np.ndarray) -> str:
        first = np.asarray(times, float)[0]
        return " to ".join(f"{time:g}" for time in np.atleast_1d(first))

    length = f", which is {video.length:g} {video.unit} long" if video.length else ""
    return f"{video.name!r}{length}: predicted {first_of(video.found)}, annotated {first_of(video.truth)} {video.unit}"
