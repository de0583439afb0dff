"""Figure 4: do neighbouring snippets differ more at a boundary? BSP and vanilla features side by side (Section 4.3).

"We visualize the absolute difference of feature representations from two consecutive snippets, while a natural
boundary only appears in the first snippet." A pair is two neighbouring snippets, number p = snippets p and p + 1.
Letters: S snippets of a video, D feature width, P pairs of all videos together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from sklearn.metrics import roc_auc_score

from bsp.datasets.activitynet import UntrimmedVideo
from bsp.features.record import FeatureInfo, seconds_at, snippets_at
from bsp.figures import style
from bsp.video.read import read_frames

PLAIN, BOUNDARY, LEFT_OUT = 0, 1, -1


@dataclass(frozen=True, kw_only=True, eq=False)
class Pairs:
    """Pairs of neighbouring snippets of all videos, without those that are left out."""

    video: np.ndarray  # int64 [P], position of the video
    pair: np.ndarray  # int64 [P], number of the first of the two snippets
    boundary: np.ndarray  # bool [P]
    left_out: int  # number of pairs left out


def neighbour_differences(feat_SD: np.ndarray) -> np.ndarray:
    """Absolute differences of neighbouring snippets' features of length 1, float64 [S - 1, D] in 0..1.

    Features that are all 0 are unchanged.
    """
    # Choice: "normalized" is read as Euclidean length 1 per snippet, so that two encoders share one scale.
    length_S1 = np.linalg.norm(feat_SD.astype(np.float64), axis=1, keepdims=True)
    unit_SD = np.divide(feat_SD, length_S1, out=np.zeros(feat_SD.shape), where=length_S1 > 0)
    return np.abs(np.diff(unit_SD, axis=0))


def pair_kinds(boundaries: Sequence[float], snippets: int, stride: int) -> np.ndarray:
    """int8 [S - 1]: BOUNDARY if one lies in the first snippet only, PLAIN if in neither, otherwise LEFT_OUT.

    ``boundaries`` are in frames from the first snippet's start (a change between frames b - 1 and b is at b), may be
    fractions, and count only inside the video. One on the edge of two snippets belongs to the earlier snippet.
    ``stride`` is in frames.
    """
    holds = np.zeros(snippets, bool)
    inside = [b for b in boundaries if 0 < b < snippets * stride]
    holds[[int(np.ceil(b / stride)) - 1 for b in inside]] = True
    first, second = holds[:-1], holds[1:]
    # Choice: a pair whose second snippet has a boundary is left out: the difference partly reflects it.
    return np.where(second, LEFT_OUT, np.where(first, BOUNDARY, PLAIN)).astype(np.int8)


def boundaries_of(video: UntrimmedVideo, info: FeatureInfo) -> list[float]:
    """Starts and ends of the video's instances, in frames from its first snippet's start, as annotated.

    Where the frames are not even in time, linearly between the snippets' starts.
    """
    times = [time_s for instance in video.instances for time_s in (instance.start_s, instance.end_s)]
    return (snippets_at(info, np.array(times)) * info.stride_frames).tolist()


def gather_pairs(kinds: Sequence[np.ndarray]) -> Pairs:
    """One table from the :func:`pair_kinds` of every video. Raises ValueError without pairs of both kinds."""
    video = np.repeat(np.arange(len(kinds)), [len(k) for k in kinds])
    pair = np.concatenate([np.arange(len(k)) for k in kinds])
    kind = np.concatenate(kinds)
    kept = kind != LEFT_OUT
    if not (kind == BOUNDARY).any() or not (kind == PLAIN).any():
        raise ValueError(
            f"{len(kinds)} videos have {(kind == BOUNDARY).sum()} pairs of snippets at a boundary and "
            f"{(kind == PLAIN).sum()} without one; both are needed"
        )
    return Pairs(video=video[kept], pair=pair[kept], boundary=kind[kept] == BOUNDARY, left_out=int((~kept).sum()))


def mean_differences(features: Sequence[np.ndarray], pairs: Pairs) -> np.ndarray:
    """Mean over the features' entries of the difference of each pair, float64 [P]; ``features`` [S, D] per video."""
    means = [neighbour_differences(feat_SD).mean(axis=1) for feat_SD in features]
    return np.array([means[video][pair] for video, pair in zip(pairs.video, pairs.pair)])


def separability(difference_P: np.ndarray, boundary_P: np.ndarray) -> float:
    """Area under the ROC curve: how likely a boundary's difference is above another pair's, 0.5 is chance."""
    return float(roc_auc_score(boundary_P, difference_P))


def percentiles(difference_P: np.ndarray, boundary_P: np.ndarray) -> np.ndarray:
    """Share of the pairs without a boundary whose difference is below each pair's, percent [P]; equal ones half."""
    others = np.sort(difference_P[~boundary_P])
    below = np.searchsorted(others, difference_P, "left") + np.searchsorted(others, difference_P, "right")
    return 50.0 * below / len(others)


def choose_example(bsp_P: np.ndarray, vanilla_P: np.ndarray, pairs: Pairs) -> tuple[int, int]:
    """The typical boundary and a pair to compare with, as positions in ``pairs``.

    From the :func:`percentiles` of all pairs: the boundary whose percentile under BSP minus that under vanilla is
    the (lower) median, of videos that also have pairs without one; the earlier of equals. Beside it the nearest of
    those pairs, the earlier of equals. Raises ValueError if no video has both.
    """
    candidates = np.flatnonzero(pairs.boundary & np.isin(pairs.video, pairs.video[~pairs.boundary]))
    if not len(candidates):
        raise ValueError("no video has both a pair of snippets at a boundary and one without")
    order = np.argsort((bsp_P - vanilla_P)[candidates], kind="stable")
    chosen = int(candidates[order[(len(order) - 1) // 2]])
    others = np.flatnonzero(~pairs.boundary & (pairs.video == pairs.video[chosen]))
    return chosen, int(others[np.abs(pairs.pair[others] - pairs.pair[chosen]).argmin()])


def as_matrix(vector_D: np.ndarray) -> np.ndarray:
    """[D] as the most nearly square matrix of D entries, never higher than wide; 2048 becomes 32 x 64."""
    width = len(vector_D)
    rows = max(r for r in range(1, int(np.sqrt(width)) + 1) if width % r == 0)
    return vector_D.reshape(rows, width // rows)


@dataclass(frozen=True, kw_only=True, eq=False)
class PairPicture:
    """One pair of snippets with its differences under both encoders."""

    head: str
    frames: np.ndarray  # uint8 [2 T, H, W, 3], those of both snippets
    boundary: float | None  # in frames from the first one; None = no boundary
    differences: dict[str, np.ndarray]  # by encoder, [D]
    notes: dict[str, str]  # by encoder, below the matrix


def pair_picture(
    video: UntrimmedVideo,
    pair: int,
    features: dict[str, np.ndarray],
    info: FeatureInfo,
    notes: dict[str, str],
) -> PairPicture:
    """Pair number ``pair`` of a video with its frames; ``features`` [S, D] by encoder, ``info`` of one of them.

    Raises the VideoErrors of reading.
    """
    first = pair * info.stride_frames
    inside = [b - first for b in boundaries_of(video, info) if first < b <= first + info.stride_frames]
    what = "Boundary in the first snippet" if inside else "No boundary, same video"
    frames = np.arange(first, first + 2 * info.stride_frames) + info.offset_frames
    return PairPicture(
        head=f"{what}: {video.video_id}, from {float(seconds_at(info, pair)):.1f} s",
        frames=style.thumbnails(read_frames(video.file, frames)),
        boundary=inside[0] if inside else None,
        differences={name: neighbour_differences(feat_SD)[pair] for name, feat_SD in features.items()},
        notes=notes,
    )


def draw_differences(
    pictures: Sequence[PairPicture],
    values: dict[str, np.ndarray],
    boundary_P: np.ndarray,
    *,
    colours: dict[str, str],
    heads: dict[str, str],
    title: str,
    caption: str,
) -> Figure:
    """Pairs as frames and matrices, one colour scale for all, and below a histogram of ``values`` [P] per encoder.

    ``colours`` and ``heads`` (titles of the histograms) are by encoder, in the order of ``values``.
    """
    frame_in, matrix_in, gap_in = 0.72, 2.35, 0.3
    half = len(pictures[0].frames) // 2
    height_to_width = pictures[0].frames.shape[1] / pictures[0].frames.shape[2]
    strip_in = half * frame_in
    encoders = list(values)
    # Choice: the scale ends at the 99.5th percentile, so that single outliers do not determine the scale.
    top_value = float(np.percentile(np.concatenate([d for p in pictures for d in p.differences.values()]), 99.5))
    rows, columns = as_matrix(next(iter(pictures[0].differences.values()))).shape
    block_in = max(2 * (frame_in * height_to_width + 0.22), matrix_in * rows / columns + 0.3) + 0.45
    width = style.MARGIN_IN * 2 + strip_in + len(encoders) * (matrix_in + gap_in) + 0.9
    histogram_in = 2.3
    content_in = 0.35 + len(pictures) * block_in + histogram_in + 0.85
    figure = style.new_figure(width, content_in, title=title, caption=caption)
    top, left_matrix = 1.05, style.MARGIN_IN + strip_in + gap_in
    for place, name in enumerate(encoders):
        left = left_matrix + place * (matrix_in + gap_in) + matrix_in / 2
        style.add_text(figure, left, 0.85, name, ha="center", fontweight="bold", color=colours[name])
    for picture in pictures:
        style.add_text(figure, style.MARGIN_IN, top + 0.02, picture.head, fontweight="bold")
        _draw_pair(figure, picture, top + 0.25, frame_in)
        for place, name in enumerate(encoders):
            left = left_matrix + place * (matrix_in + gap_in)
            axes = style.add_axes(figure, left, top + 0.25, matrix_in, matrix_in * rows / columns)
            shown = axes.imshow(
                as_matrix(picture.differences[name]), cmap="YlOrRd", vmin=0, vmax=top_value, aspect="auto"
            )
            axes.set(xticks=[], yticks=[])
            below = top + 0.25 + matrix_in * rows / columns + 0.08
            style.add_text(figure, left, below, picture.notes[name], va="top", fontsize=style.SMALL_PT)
        top += block_in
    right = left_matrix + len(encoders) * (matrix_in + gap_in) - 0.15
    bar = style.add_axes(figure, right, 1.3, 0.13, len(pictures) * block_in - 0.8)
    figure.colorbar(shown, cax=bar, label="|difference| of an entry", extend="max").ax.tick_params(
        labelsize=style.SMALL_PT
    )
    _draw_histograms(figure, top + 0.35, histogram_in, width, values, boundary_P, colours, heads)
    return figure


def _draw_pair(figure: Figure, picture: PairPicture, top_in: float, frame_in: float) -> None:
    """The first snippet's frames above the second one's, the boundary marked in the first."""
    half = len(picture.frames) // 2
    height_in = frame_in * picture.frames.shape[1] / picture.frames.shape[2]
    for place, frames in enumerate((picture.frames[:half], picture.frames[half:])):
        line_top = top_in + place * (height_in + 0.26)
        axes = style.add_axes(figure, style.MARGIN_IN, line_top, half * frame_in, height_in)
        style.draw_strip(axes, frames)
        name = "first snippet" if place == 0 else "second snippet"
        style.add_text(figure, style.MARGIN_IN, line_top + height_in + 0.11, name, fontsize=style.SMALL_PT)
        if place == 0 and picture.boundary is not None:
            axes.axvline(picture.boundary, color=style.CHANGE, linewidth=3, clip_on=False)
            x = style.MARGIN_IN + picture.boundary * frame_in
            style.add_text(
                figure, x, line_top + height_in + 0.11, "▲ boundary", color=style.CHANGE, fontsize=style.SMALL_PT,
                ha="center" if 1 < picture.boundary < half - 1 else ("left" if picture.boundary <= 1 else "right"),
            )  # fmt: skip


def _draw_histograms(
    figure: Figure,
    top_in: float,
    height_in: float,
    width_in: float,
    values: dict[str, np.ndarray],
    boundary_P: np.ndarray,
    colours: dict[str, str],
    heads: dict[str, str],
) -> None:
    """One panel per encoder, same bins: pairs without a boundary in grey, those at one in the encoder's colour."""
    every = np.concatenate(list(values.values()))
    bins = np.linspace(0, every.max(), 41).tolist()
    left_in, gap_in = style.MARGIN_IN + 0.5, 0.45
    panel_in = (width_in - left_in - style.MARGIN_IN - gap_in * (len(values) - 1)) / len(values)
    for place, (name, value_P) in enumerate(values.items()):
        axes = style.add_axes(figure, left_in + place * (panel_in + gap_in), top_in, panel_in, height_in)
        axes.hist(value_P[~boundary_P], bins, density=True, color=style.OTHER, alpha=0.7, label="no boundary")
        axes.hist(value_P[boundary_P], bins, density=True, color=colours[name], alpha=0.6, label="boundary")
        axes.set(xlim=(0, bins[-1]), yticks=[])
        axes.set_title(heads[name], fontsize=style.TEXT_PT, color=colours[name], fontweight="bold")
        axes.set_xlabel("mean |difference| of neighbouring snippets", fontsize=style.TEXT_PT)
        axes.tick_params(labelsize=style.SMALL_PT)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=style.SMALL_PT)
        if place == 0:
            axes.set_ylabel("share of pairs (density)", fontsize=style.TEXT_PT)
