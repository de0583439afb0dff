"""Figure 5: the videos where boundary-sensitive features help and hurt most, as film strips over a time axis.

Both cases are chosen by a rule from all videos: the largest gain and the largest loss in how well the first few
detections cover the annotated instances. Letters: G instances, K segments, V videos.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from bsp.datasets.activitynet import UntrimmedVideo
from bsp.figures import style
from bsp.metrics.detection import segment_tiou
from bsp.video.read import probe, read_frames
from bsp.video.times import frame_seconds, frames_at

# Choice: three, because more lines are unreadable and the videos hold one to three actions.
TOP_SEGMENTS = 3
_LABEL_IN, _STRIP_IN, _COLUMN_IN, _LANE_IN = 1.3, 9.0, 1.5, 0.24
_STRIP_FRAMES, _COLUMN_CHARACTERS = 14, 22


def top_segments(detections: Sequence[dict[str, Any]], count: int = TOP_SEGMENTS) -> tuple[np.ndarray, np.ndarray]:
    """The first ``count`` different segments of a video's detections: seconds float64 [K, 2], scores [K], best first.

    A segment that is listed with several classes counts once, with its best score; of equal scores the earlier.
    """
    best: dict[tuple[float, float], float] = {}
    for detection in sorted(detections, key=lambda d: -d["score"]):
        best.setdefault(tuple(detection["segment"]), float(detection["score"]))
    chosen = list(best.items())[:count]
    return np.array([s for s, _ in chosen], float).reshape(-1, 2), np.array([score for _, score in chosen], float)


def truth_segments(video: UntrimmedVideo) -> np.ndarray:
    """The annotated instances in seconds, float64 [G, 2], without empty and reversed ones."""
    return np.array([(i.start_s, i.end_s) for i in video.instances if i.end_s > i.start_s], float).reshape(-1, 2)


def mean_best_tiou(truth_G2: np.ndarray, segments_K2: np.ndarray) -> float:
    """Mean over the instances (at least one) of the best tIoU that any of the segments has with it; 0..1."""
    if not len(segments_K2):
        return 0.0
    return float(segment_tiou(truth_G2[:, None], segments_K2[None]).max(axis=1).mean())


def coverage(videos: Sequence[UntrimmedVideo], results: dict[str, list[dict[str, Any]]]) -> np.ndarray:
    """:func:`mean_best_tiou` of each video's top segments, float64 [V]; a video without detections has 0."""
    return np.array([mean_best_tiou(truth_segments(v), top_segments(results.get(v.video_id, []))[0]) for v in videos])


def choose_cases(gain_V: np.ndarray) -> tuple[int, int]:
    """Positions of the largest gain and of the largest loss; the first of equals."""
    return int(gain_V.argmax()), int(gain_V.argmin())


@dataclass(frozen=True, kw_only=True, eq=False)
class Case:
    """One video of the figure."""

    head: str
    frames: np.ndarray  # uint8 [n, H, W, 3], from the middles of n equal parts of the video
    duration_s: float
    labels: str  # classes of the instances
    truth: np.ndarray  # seconds [G, 2]
    segments: dict[str, tuple[np.ndarray, np.ndarray]]  # by method: seconds [K, 2] and scores [K], best first


def make_case(video: UntrimmedVideo, results: dict[str, dict[str, list[Any]]], head: str) -> Case:
    """The picture of one video under all methods; ``results`` by method and video id. Raises VideoErrors."""
    info = probe(video.file)
    shares = (np.arange(_STRIP_FRAMES) + 0.5) / _STRIP_FRAMES
    places = frames_at(info, shares * float(frame_seconds(info, info.frames))).clip(0, info.frames - 1) + 1e-6
    return Case(
        head=head,
        frames=style.thumbnails(read_frames(video.file, places.astype(np.int64), reader=info.reader)),
        duration_s=video.duration_s,
        labels=", ".join(dict.fromkeys(f"“{i.label}”" for i in video.instances)),
        truth=truth_segments(video),
        segments={method: top_segments(of.get(video.video_id, [])) for method, of in results.items()},
    )


def draw_cases(cases: Sequence[Case], *, colours: dict[str, str], title: str, caption: str) -> Figure:
    """Per case a film strip, below it the instances and each method's segments on the same time axis."""
    lanes = 1 + sum(TOP_SEGMENTS for _ in cases[0].segments) + 0.5 * len(cases[0].segments)
    strips = [_STRIP_IN / _STRIP_FRAMES * c.frames.shape[1] / c.frames.shape[2] for c in cases]
    width = 2 * style.MARGIN_IN + _LABEL_IN + _STRIP_IN + 0.15 + _COLUMN_IN
    content = sum(0.35 + strip + 0.1 + lanes * _LANE_IN + 0.85 for strip in strips) - 0.5
    figure = style.new_figure(width, content, title=title, caption=caption)
    top, left = 0.7, style.MARGIN_IN + _LABEL_IN
    for case, strip in zip(cases, strips):
        style.add_text(figure, style.MARGIN_IN, top + 0.1, case.head, fontweight="bold")
        top += 0.35
        axes = style.add_axes(figure, left, top, _STRIP_IN, strip)
        style.draw_strip(axes, case.frames, step=case.duration_s / _STRIP_FRAMES)
        top += strip + 0.1
        axes = style.add_axes(figure, left, top, _STRIP_IN, lanes * _LANE_IN)
        _draw_lanes(axes, case, lanes, colours)
        _name_lanes(figure, case, top, colours)
        top += lanes * _LANE_IN + 0.85
    return figure


def _lane_tops(case: Case) -> dict[str, float]:
    """Where the lanes of the truth and of every method begin, in lanes from the top."""
    return {"": 0.0} | {method: 1.5 + (TOP_SEGMENTS + 0.5) * k for k, method in enumerate(case.segments)}


def _draw_lanes(axes: Axes, case: Case, lanes: float, colours: dict[str, str]) -> None:
    """Bars over time; a thin line follows every start and end of an instance through all lanes."""
    tops = _lane_tops(case)
    for start, end in case.truth:
        axes.add_patch(Rectangle((start, tops[""] + 0.1), end - start, 0.8, color=style.TRUTH))
        for time_s in (start, end):
            axes.axvline(time_s, color=style.TRUTH, linewidth=1, linestyle=(0, (4, 3)), zorder=0)
    for method, (segments_K2, _) in case.segments.items():
        for rank, (start, end) in enumerate(segments_K2):
            top = tops[method] + rank + 0.14
            alpha = (1.0, 0.6, 0.35)[rank]
            axes.add_patch(Rectangle((start, top), end - start, 0.72, color=colours[method], alpha=alpha, linewidth=0))
    axes.set(xlim=(0, case.duration_s), ylim=(lanes, 0), yticks=[])
    axes.set_xlabel("seconds", fontsize=style.SMALL_PT)
    axes.tick_params(labelsize=style.SMALL_PT)
    axes.spines[["top", "right", "left"]].set_visible(False)


def _name_lanes(figure: Figure, case: Case, top_in: float, colours: dict[str, str]) -> None:
    """Write the methods' names on the left, each segment's score and best tIoU with an instance on the right."""
    right = style.MARGIN_IN + _LABEL_IN + _STRIP_IN + 0.15
    tops = _lane_tops(case)

    def lane(place: float) -> float:
        return top_in + (place + 0.5) * _LANE_IN

    style.add_text(figure, style.MARGIN_IN, lane(0), "annotated", color=style.TRUTH, fontweight="bold")
    labels = textwrap.shorten(case.labels, _COLUMN_CHARACTERS, placeholder=" …")
    style.add_text(figure, right, lane(0), labels, fontsize=style.SMALL_PT, color=style.TRUTH)
    for method, (segments_K2, score_K) in case.segments.items():
        mean = mean_best_tiou(case.truth, segments_K2)
        style.add_text(figure, style.MARGIN_IN, lane(tops[method]), method, color=colours[method], fontweight="bold")
        note = f"mean best\ntIoU {mean:.2f}"
        style.add_text(figure, style.MARGIN_IN, lane(tops[method] + 1.5), note, fontsize=style.SMALL_PT)
        for rank, (segment, score) in enumerate(zip(segments_K2, score_K)):
            best = segment_tiou(case.truth, segment[None]).max()
            text = f"score {score:.2f}  tIoU {best:.2f}"
            style.add_text(figure, right, lane(tops[method] + rank), text, fontsize=style.SMALL_PT)
