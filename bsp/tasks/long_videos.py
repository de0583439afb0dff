"""Videos much longer than those of the training: cut into windows that overlap, each treated as a video, then merged.

G-TAD, 2D-TAN and LGI resize a whole video to their grid. A video of 40 minutes on a grid that learnt two minutes would
have cells of half a minute.
Letters: S snippets, N segments.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from bsp.features.record import FeatureInfo, seconds_at, snippets_at, video_end_s
from bsp.localization.gtad.decode import soft_nms
from bsp.tasks.found import Segment, best_first
from bsp.tasks.head import Applied, VideoPart

# Choice: videos up to half longer than the longest of the training stay whole, as scoring treats test videos.
MUCH_LONGER = 1.5


def windows_of(length_s: float, window_s: float) -> list[tuple[float, float]]:
    """Starts and ends of the windows of a video, seconds: one if it is at most ``MUCH_LONGER`` times ``window_s`` long.

    Choice: they overlap by half, so that what is shorter than half a window lies whole in one of them; the last one
    ends with the video.
    """
    if length_s <= MUCH_LONGER * window_s:
        return [(0.0, length_s)]
    starts = [*np.arange(0.0, length_s - window_s, window_s / 2).tolist(), length_s - window_s]
    return [(start_s, start_s + window_s) for start_s in starts]


def window_part(
    feat_SD: np.ndarray, info: FeatureInfo, start_s: float, end_s: float
) -> tuple[np.ndarray, FeatureInfo, float]:
    """The snippets between two times as a video of their own, at least one; and when it begins, seconds."""
    first, last = snippets_at(info, np.array([start_s, end_s]))
    begin = min(max(0, int(np.floor(first + 1e-6))), info.snippets - 1)
    end = min(max(begin + 1, int(np.ceil(last - 1e-6))), info.snippets)
    begins_s = float(seconds_at(info, begin)) - info.offset_frames / info.fps
    at_end = end == info.snippets
    if info.times_s is None:
        frames = (info.frames if at_end else end * info.stride_frames + info.offset_frames) - begin * info.stride_frames
        return feat_SD[begin:end], replace(info, frames=frames, snippets=end - begin), begins_s
    begins_s = info.times_s[begin]
    times_s = tuple(time_s - begins_s for time_s in info.times_s[begin : end + 1])
    end_s = video_end_s(info) - begins_s if at_end else times_s[-1]
    frames = info.frames if at_end else end * info.stride_frames
    frames -= begin * info.stride_frames
    return (
        feat_SD[begin:end],
        replace(info, frames=frames, snippets=end - begin, times_s=times_s, end_s=end_s),
        begins_s,
    )


def over_windows(
    applied: Applied,
    find: Callable[[VideoPart], list[Segment]],
    whole: VideoPart,
    window_s: float | None,
    class_scores: Callable[[float, float], np.ndarray | None],
) -> list[Segment]:
    """``find`` on the whole video, or on each of its windows, merged by ``applied.merge``; best first.

    window_s: longest video of the training, None = not known, so nothing is cut. class_scores: of the part between two
    times in seconds.
    """
    windows = windows_of(video_end_s(whole.info), window_s) if window_s and applied.whole_videos else []
    if len(windows) < 2:
        return find(replace(whole, class_scores=class_scores(0.0, np.inf)))
    found: list[Segment] = []
    for start_s, end_s in windows:
        feat_SD, info, begins_s = window_part(whole.feat_SD, whole.info, start_s, end_s)
        part = VideoPart(
            feat_SD=feat_SD, info=info, duration_s=video_end_s(info), class_scores=class_scores(start_s, end_s)
        )
        found += [replace(s, start_s=s.start_s + begins_s, end_s=s.end_s + begins_s) for s in find(part)]
    return applied.merge(found, len(windows))


def _by_label(segments: Sequence[Segment]) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """(label, times [N, 2], scores [N]) of each label."""
    for label in dict.fromkeys(segment.label for segment in segments):
        mine = [segment for segment in segments if segment.label == label]
        yield label, np.array([(s.start_s, s.end_s) for s in mine]), np.array([s.score for s in mine])


def soft_merged(segments: Sequence[Segment], *, sigma: float) -> list[Segment]:
    """Gaussian Soft-NMS in each class, best first; all with a score above 0 stay."""
    merged = []
    for label, times_N2, score_N in _by_label(segments):
        # With a candidate of score 0 outside of the video, which is the one that soft_nms never takes.
        times_N2, score_N = np.concatenate([times_N2, [[-2.0, -1.0]]]), np.append(score_N, 0.0)
        kept_N2, kept_N = soft_nms(times_N2, score_N, sigma=sigma, max_proposals=len(score_N))
        rows = zip(kept_N2.tolist(), kept_N.tolist(), strict=True)
        merged += [Segment(label=label, start_s=a, end_s=b, score=score) for (a, b), score in rows]
    return best_first(merged)


def hard_merged(segments: Sequence[Segment], *, tiou: float, most: int) -> list[Segment]:
    """The best ``most`` segments of which no two of a label overlap by more than ``tiou``, best first."""
    kept: list[Segment] = []
    for segment in best_first(list(segments)):
        if len(kept) == most:
            break
        if all(other.label != segment.label or _tiou(segment, other) <= tiou for other in kept):
            kept.append(segment)
    return kept


def _tiou(one: Segment, two: Segment) -> float:
    overlap = min(one.end_s, two.end_s) - max(one.start_s, two.start_s)
    hull = max(one.end_s, two.end_s) - min(one.start_s, two.start_s)
    return max(0.0, overlap) / hull if hull > 0 else 1.0
