"""Figure 2: how each boundary type is synthesised, as film strips from real clips of the stream.

For every kind the source videos' frames stand above the clip that :func:`bsp.clips.synthesis.synthesise` makes of
them, at the places they take in it. On top, for comparison, a real action boundary of an untrimmed video.
Letters: T = 2 * half_len frames of a clip, H W image. Frame numbers in labels count from 0 in the file, clip
positions from 1 as in the paper.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from bsp.clips.catalog import Catalog
from bsp.clips.plan import (
    PAPER_KINDS,
    BoundaryKind,
    ClipPlan,
    ClipSettings,
    fit_stride,
    place_offsets,
    plan_clip,
    speed_offsets,
    transition_epsilon,
)
from bsp.clips.synthesis import decode, synthesise
from bsp.datasets.activitynet import LocalizationDataset
from bsp.figures import style
from bsp.video.read import READERS, probe, read_frames
from bsp.video.times import frame_seconds, frames_at

_LABEL_CHARACTERS = 22
_LABEL_IN, _CELL_IN, _UNDER_IN, _HEAD_IN, _PAD_IN = 1.75, 0.92, 0.22, 0.42, 0.3


@dataclass(frozen=True, kw_only=True, eq=False)
class StripRow:
    """One line of a figure: frames at places 0..T-1 of the clip, each with a text below it."""

    label: str  # left of the frames
    frames: np.ndarray  # uint8 [n, H, W, 3]
    first: int  # place of the first one
    under: tuple[str, ...]  # n texts
    marked: tuple[int, ...] = ()  # places whose frames get a coloured border: the blended ones


@dataclass(frozen=True, kw_only=True, eq=False)
class Panel:
    """A boundary type with its rows."""

    head: str  # what it is
    rows: tuple[StripRow, ...]
    change: float | None  # where the marker points, in clip places (1.0 = between first and second); None = no change
    facts: dict[str, Any]  # for the record beside the figure


def first_of_each_kind(catalog: Catalog, settings: ClipSettings, seed: int) -> list[ClipPlan]:
    """The first clip of every kind in the stream of ``seed``, in the order of the labels."""
    settings = replace(settings, kinds=PAPER_KINDS, plain_clips=0)
    plans: dict[int, ClipPlan] = {}
    for index in count():
        plan = plan_clip(catalog, settings, seed, index)
        if plan.kind is not None:
            plans.setdefault(plan.kind, plan)
        if len(plans) == len(PAPER_KINDS):
            break
    return [plans[kind] for kind in PAPER_KINDS]


def speed_change(catalog: Catalog, plan: ClipPlan, settings: ClipSettings) -> tuple[float, int]:
    """(gamma, stride in frames) of a diff-speed plan, not stored in it: the settings' first gamma that fits."""
    (planned,), (video,) = plan.frames, plan.videos
    if plan.change_point is None:
        raise ValueError(f"clip {plan.index} has no change")
    t = round(plan.change_point) + 1
    length = int(catalog.frames[video])
    anywhere = np.random.Generator(np.random.Philox(0))  # only distances from the first frame are compared
    for gamma in settings.gammas:
        steps = speed_offsets(half_len=settings.half_len, change_point=t, gamma=gamma)
        stride = fit_stride(float(steps[-1]), stride_frames=settings.stride_frames, frames=length)
        frames = place_offsets(steps, stride_frames=stride, frames=length, generator=anywhere)
        if np.array_equal(frames - frames[0], planned - planned[0]):
            return gamma, stride
    raise ValueError(f"clip {plan.index} was not planned with these settings, gammas {settings.gammas}")


def synthesis_panel(catalog: Catalog, plan: ClipPlan, settings: ClipSettings) -> Panel:
    """Sources and synthesised clip of one plan. Raises the VideoErrors of reading."""
    assert plan.kind is not None  # plain clips have no panel
    sources = decode(catalog, plan)
    clip = synthesise(plan, sources)
    classes = [catalog.class_names[catalog.labels[video]] for video in plan.videos]
    t = None if plan.change_point is None else round(plan.change_point) + 1
    facts: dict[str, Any] = {
        "kind": BoundaryKind(plan.kind).name, "clip": plan.index, "classes": classes, "t": t,
        "videos": [catalog.paths[video].decode() for video in plan.videos],
        "frames": [frames.tolist() for frames in plan.frames], "weights_of_first": plan.weights.tolist(),
    }  # fmt: skip
    length, synthesised = len(clip), f"synthesised clip,\nlabel y = {plan.kind:d}"
    if t is not None and len(sources) == 2:
        sides = [
            StripRow(
                label=f"video {name}\n“{classes[place]}”",
                frames=style.thumbnails(sources[place], like=clip),
                first=0 if place == 0 else length - len(sources[1]),
                under=tuple(f"{name} {frame}" for frame in plan.frames[place]),
            )
            for place, name in enumerate("AB")
        ]
        blended = tuple(k for k in range(length) if 0 < plan.weights[k] < 1)
        clip_row = StripRow(
            label=synthesised, frames=style.thumbnails(clip), first=0, under=_mixed(plan), marked=blended
        )
        epsilon = 0
        if plan.kind == BoundaryKind.DIFF_CLASS:
            epsilon = transition_epsilon(half_len=settings.half_len, epsilon=settings.epsilon, change_point=t)
            head = f"Different class, Eq. (1): two different actions, blended around frame t = {t} (ε = {epsilon})"
        else:
            head = f"Same class, Eq. (2): two videos of the same action, joined after frame t = {t} (no blending)"
        facts["epsilon"] = epsilon
        return Panel(head=head, rows=(*sides, clip_row), change=t - 0.5 if blended else t, facts=facts)
    if t is None:
        row = StripRow(
            label=f"video “{classes[0]}”\nas it is, label y = {plan.kind:d}", frames=style.thumbnails(clip), first=0,
            under=tuple(f"{frame}" for frame in plan.frames[0]),
        )  # fmt: skip
        head = "Same speed: frames of one video at its own rate; the class without a boundary"
        return Panel(head=head, rows=(row,), change=None, facts=facts)
    gamma, stride = speed_change(catalog, plan, settings)
    video = plan.videos[0]
    last = int(catalog.first_frame[video] + catalog.frames[video]) - 1
    original = np.minimum(plan.frames[0][0] + np.arange(length) * stride, last)  # the video's last frame repeats
    shown = read_frames(catalog.path(video), original, reader=READERS[catalog.readers[video]])
    rows = (
        StripRow(
            label=f"video\n“{classes[0]}”", frames=style.thumbnails(shown), first=0,
            under=tuple(f"{frame}" for frame in original),
        ),
        StripRow(
            label=synthesised, frames=style.thumbnails(clip), first=0,
            under=tuple(f"{frame}" for frame in plan.frames[0]),
        ),
    )  # fmt: skip
    rate = f"{gamma:g} times as fast" if gamma > 1 else f"{1 / gamma:g} times slower, frames repeat"
    head = f"Different speed, Eq. (3): one video, after frame t = {t} at rate γ = {gamma:g} ({rate})"
    return Panel(head=head, rows=rows, change=t, facts=facts | {"gamma": gamma})


def real_panel(data: LocalizationDataset, settings: ClipSettings, seed: int) -> Panel:
    """As many frames around a real action boundary: of untrimmed video number ``seed`` that has one inside.

    Raises ValueError when no video with a file has an instance that starts within it.
    """
    half = settings.half_len * settings.stride_frames
    # Choice: the start of an instance, at the rate of the synthetic clips.
    starting = [
        (video, instance)
        for video in data.videos
        if video.path is not None
        for instance in video.instances[:1]
        if 1.0 < instance.start_s < video.duration_s - 1.0
    ]
    if not starting:
        raise ValueError("no untrimmed video has an action that starts at least a second inside it")
    video, instance = starting[seed % len(starting)]
    info = probe(video.file)
    boundary = round(float(frames_at(info, instance.start_s)))
    frames = boundary + np.arange(-settings.half_len, settings.half_len) * settings.stride_frames
    if half > boundary or frames[-1] >= info.frames:
        raise ValueError(f"{video.path}: lacks frames around its {instance.start_s} s; choose another seed")
    row = StripRow(
        label=f"untrimmed video\n“{instance.label}” starts",
        frames=style.thumbnails(read_frames(video.file, frames, reader=info.reader)),
        first=0,
        under=tuple(f"{time_s:.2f} s" for time_s in frame_seconds(info, frames)),
    )
    facts = {"kind": "real", "video": video.video_id, "label": instance.label, "start_s": instance.start_s}
    head = f"Real boundary, for comparison: annotated start of an action at {instance.start_s:.2f} s"
    return Panel(head=head, rows=(row,), change=settings.half_len, facts=facts)


def draw_synthesis(panels: Sequence[Panel], *, title: str, caption: str) -> Figure:
    """All panels below each other; the same clip position stands at the same place throughout."""
    length = max(row.first + len(row.frames) for panel in panels for row in panel.rows)
    heights = [[_row_height(row) for row in panel.rows] for panel in panels]
    content = sum(_HEAD_IN + sum(rows) + _PAD_IN for rows in heights)
    width = _LABEL_IN + length * _CELL_IN + 2 * style.MARGIN_IN
    figure = style.new_figure(width, content, title=title, caption=caption)
    top = 0.7
    for panel, rows in zip(panels, heights):
        style.add_text(figure, style.MARGIN_IN, top + 0.1, panel.head, fontweight="bold")
        top += _HEAD_IN
        left = style.MARGIN_IN + _LABEL_IN
        if panel.change is not None:
            style.add_text(
                figure, left + panel.change * _CELL_IN, top - 0.1, "▼", color=style.CHANGE, ha="center", fontsize=12
            )
        for row, height in zip(panel.rows, rows):
            label = "\n".join(textwrap.fill(line, _LABEL_CHARACTERS) for line in row.label.splitlines())
            style.add_text(figure, style.MARGIN_IN, top + (height - _UNDER_IN) / 2, label)
            axes = style.add_axes(figure, left, top, length * _CELL_IN, height)
            _draw_row(axes, row, height, length)
            top += height
        top += _PAD_IN
    return figure


def _draw_row(axes: Axes, row: StripRow, height_in: float, length: int) -> None:
    """Frames at the top of the axes, their texts below; y from 0 (bottom) to 1."""
    bottom = _UNDER_IN / height_in
    empty = sorted(set(range(length)) - set(range(row.first, row.first + len(row.frames))))
    for place in empty:
        axes.add_patch(_box(place, bottom, facecolor="#F1F1F1", edgecolor="none"))
    for place, (frame, text) in enumerate(zip(row.frames, row.under, strict=True), start=row.first):
        axes.imshow(frame, extent=(place + 0.02, place + 0.98, bottom, 1), aspect="auto")
        blended = place in row.marked
        axes.text(
            place + 0.5, bottom - 0.02, text, ha="center", va="top", fontsize=style.SMALL_PT,
            color=style.CHANGE if blended else "black",
        )  # fmt: skip
        if blended:
            axes.add_patch(_box(place, bottom, facecolor="none", edgecolor=style.CHANGE, linewidth=2.5))
    axes.set(xlim=(0, length), ylim=(0, 1))
    axes.axis("off")


def _box(place: float, bottom: float, **style: Any) -> Rectangle:
    return Rectangle((place + 0.02, bottom), 0.96, 1 - bottom, **style)


def _row_height(row: StripRow) -> float:
    height, width = row.frames.shape[1:3]
    return 0.96 * _CELL_IN * height / width + _UNDER_IN


def _mixed(plan: ClipPlan) -> tuple[str, ...]:
    """Under each frame of a two-video clip: the file's frame, or the weights of both where they are blended."""
    start = len(plan.weights) - len(plan.frames[1])
    texts = []
    for place, weight in enumerate(plan.weights):
        if 0 < weight < 1:
            texts.append(f"{weight:.2f}A + {1 - weight:.2f}B".replace("0.", "."))
        elif weight == 1:
            texts.append(f"A {plan.frames[0][place]}")
        else:
            texts.append(f"B {plan.frames[1][place - start]}")
    return tuple(texts)
