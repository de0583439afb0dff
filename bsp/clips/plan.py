"""Clip plans: the numbered stream of clips to synthesise, decided without opening a video (paper, Section 3.2).

``plan_clip`` turns ``(catalog, settings, seed, index)`` into a small record, independent of the number of workers and
their order. ``clips/synthesis.py`` makes its pixels. The paper counts frames from 1, the code from 0 (paper's i = our i
+ 1); only ``ClipSettings.change_point`` and ``t`` below are in the paper's counting, where they say how many frames
come before the change. Letters: N videos, T = 2 * half_len frames of a clip.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from functools import lru_cache

import numpy as np

from bsp.clips.catalog import Catalog


class BoundaryKind(IntEnum):
    """Boundary types: the four of Section 3.2, whose order is the label y of Section 3.3."""

    DIFF_CLASS = 0
    SAME_CLASS = 1
    DIFF_SPEED = 2
    SAME_SPEED = 3

    @property
    def short(self) -> str:
        """The paper's letters: dc, sc, ds, ss."""
        return "".join(word[0] for word in self.name.lower().split("_"))


# The paper's "S". Further kinds do not belong here: recipes and tables of the paper must not change.
PAPER_KINDS = (
    BoundaryKind.DIFF_CLASS,
    BoundaryKind.SAME_CLASS,
    BoundaryKind.DIFF_SPEED,
    BoundaryKind.SAME_SPEED,
)


@dataclass(frozen=True, kw_only=True)
class ClipSettings:
    """How clips are made. The defaults are the paper's four-way classification on 8-frame clips."""

    half_len: int = 4  # tau, frames; at least 1. A clip has 2 * half_len frames, 8 for TSM's snippets
    # Choice: 1 (the paper gives no value); with 8 frames more would leave hardly a pure frame. Figure 2's
    # merge is short too.
    epsilon: int = 1  # half the transition of a diff-class clip, frames; 0 (a hard cut) to half_len
    # Choice: the paper names no gamma; halves and doubles, and twice that, on both sides of 1.
    gammas: tuple[float, ...] = (0.25, 0.5, 2.0, 4.0)  # new rates of a diff-speed clip; above 0, not 1
    # Choice: drawn for every kind. Eq. (1) and (2) put the change at tau, which would make regressing it a
    # constant and let a classifier learn "middle" instead of "change". half_len here gives the paper's
    # equations exactly.
    change_point: int | None = None  # t, frames before the change, 1 to 2 * half_len - 1; None draws it
    # Choice: 2, because one frame has no motion, hence no speed.
    min_segment: int = 2  # frames, 1 to half_len; a drawn t lies in [min_segment, 2 * half_len - min_segment]
    # Choice: consecutive frames at a fixed stride from a random start, as features are extracted later (8
    # consecutive frames per snippet); the paper's "uniform frame sampling" leaves the rate open.
    stride_frames: int = 1  # source frames from one clip frame to the next, at least 1; less in short videos
    kinds: tuple[BoundaryKind, ...] = PAPER_KINDS  # position = label; () = plain clips, label = class
    # Plain action clips beside each kind once in every block of the stream, for training both tasks jointly;
    # 0 = none. ("later" fields count in a recipe only off their default, so that older results stay valid.)
    plain_clips: int = field(default=0, metadata={"later": True})

    def __post_init__(self) -> None:
        length = 2 * self.half_len
        if self.half_len < 1:
            raise ValueError(f"half_len must be at least 1 frame, not {self.half_len}")
        if not 0 <= self.epsilon <= self.half_len:
            raise ValueError(f"epsilon must lie in 0..{self.half_len} frames (half_len), not {self.epsilon}")
        if any(not 0 < gamma < float("inf") or gamma == 1 for gamma in self.gammas):
            raise ValueError(f"gammas must be finite, above 0, and not 1 (no change), not {self.gammas}")
        if self.change_point is None and not 1 <= self.min_segment <= self.half_len:
            raise ValueError(f"min_segment must lie in 1..{self.half_len} (half_len), not {self.min_segment}")
        if self.change_point is not None and not 1 <= self.change_point < length:
            raise ValueError(f"change_point must be None or lie in 1..{length - 1}, not {self.change_point}")
        if self.stride_frames < 1:
            raise ValueError(f"stride_frames must be at least 1, not {self.stride_frames}")
        if self.plain_clips < 0 or (self.plain_clips and not self.kinds):
            raise ValueError(f"plain_clips must be 0 or more, and 0 without kinds, not {self.plain_clips}")
        object.__setattr__(self, "kinds", tuple(BoundaryKind(kind) for kind in self.kinds))
        object.__setattr__(self, "gammas", tuple(float(gamma) for gamma in self.gammas))
        if len(set(self.kinds)) != len(self.kinds):
            raise ValueError(f"kinds must differ from each other; got {[kind.name for kind in self.kinds]}")
        if BoundaryKind.DIFF_SPEED in self.kinds and not self.gammas:
            raise ValueError("DIFF_SPEED needs at least one gamma; gammas is empty")


@dataclass(frozen=True, kw_only=True, eq=False)
class ClipPlan:
    """One clip of the stream. Arrays may be shared between plans and are read-only."""

    index: int  # position in the stream, from 0 through all epochs
    kind: int | None  # a BoundaryKind, or None for a plain action clip
    label: int  # position of the kind in ClipSettings.kinds; the action class of a plain clip
    videos: tuple[int, ...]  # one or two positions in the catalog
    # Per video int64 frame numbers of the FILE, rising, with repeats. Of two videos, the first one's are the
    # first frames of the clip and the second one's the last; where they overlap the weights blend them.
    frames: tuple[np.ndarray, ...]
    weights: np.ndarray  # float32 [T] in [0, 1], the share of the first video (1 = only the first)
    change_point: float | None  # 0-based position of the change (the paper's t minus 1), None without one
    augment_seed: int  # seeds the one augmentation draw of the clip, 0..2**63 - 1

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ClipPlan) and self._identity() == other._identity()

    def __hash__(self) -> int:
        return hash(self._identity())

    def _identity(self) -> tuple[object, ...]:
        arrays = tuple(array.tobytes() for array in (*self.frames, self.weights))
        return (self.index, self.kind, self.label, self.videos, self.change_point, self.augment_seed, arrays)


def first_video_weights(*, half_len: int, epsilon: int, change_point: int | None = None) -> np.ndarray:
    """Blend weights of the first video in a two-video clip, Eq. (1); Eq. (2) with ``epsilon`` 0.

    Returns [2 * half_len] float32 in [0, 1]; the second video has one minus these. ``half_len`` (tau) and ``epsilon``
    are in frames, 0 <= epsilon <= half_len; 0 is a hard cut. half_len=4, epsilon=1 gives 1 1 1 .5 0 0 0 0.
    ``change_point`` is a t in place of Eq. (1)'s tau, 1..2 * half_len - 1 (None: tau). Near an end of the clip epsilon
    is reduced (``transition_epsilon``), so that the transition is always complete.
    """
    t = half_len if change_point is None else change_point
    epsilon = transition_epsilon(half_len=half_len, epsilon=epsilon, change_point=t)
    paper_i = np.arange(1, 2 * half_len + 1)
    if epsilon == 0:
        return (paper_i <= t).astype(np.float32)
    return np.clip((t + epsilon - paper_i) / (2 * epsilon), 0, 1).astype(np.float32)


def transition_epsilon(*, half_len: int, epsilon: int, change_point: int) -> int:
    """Epsilon in frames, reduced so that (t - epsilon, t + epsilon] lies in the clip; as given at t = tau."""
    # Choice: shrink on both sides, so that the weights still pass from 1 to 0 and are 1/2 at i = t.
    return min(epsilon, change_point, 2 * half_len - change_point)


def speed_offsets(*, half_len: int, change_point: int, gamma: float) -> np.ndarray:
    """Eq. (3) before rounding: float64 [2 * half_len], steps of the original rate from the first frame.

    ``change_point`` is the paper's t. half_len=2, t=2, gamma=.5 gives 0 1 1.5 2 (the paper's f_1 f_2 f_2.5
    f_3).
    """
    paper_i = np.arange(1, 2 * half_len + 1)
    return np.where(paper_i <= change_point, paper_i, change_point + gamma * (paper_i - change_point)) - 1.0


def fit_stride(extent: float, *, stride_frames: int, frames: int) -> int:
    """The largest stride up to ``stride_frames`` at which ``extent`` steps fit in ``frames``, at least 1."""
    # Choice: for a short video first the stride is reduced, then frames are repeated (place_offsets). Leaving videos
    # out or wrapping around would add or hide a boundary.
    while stride_frames > 1 and int(extent * stride_frames + 0.5) >= frames:
        stride_frames -= 1
    return stride_frames


def place_offsets(
    offsets: np.ndarray, *, stride_frames: int, frames: int, generator: np.random.Generator
) -> np.ndarray:
    """Frame numbers within a video of ``frames`` frames, int64 in [0, frames), same length as ``offsets``.

    ``offsets`` are rising float64 steps from 0, ``stride_frames`` source frames each. If they fit, the start is drawn
    uniformly from all that do; the nearest frame is taken. If not (a short video), they are stretched over the whole
    video and frames repeat; proportions, hence gamma, are kept up to rounding.
    """
    # Choice: halves round up. With gamma .5 that gives even steps (1 2 3 4 5 5 6 6 for t = 4), where rounding
    # half to even gives 1 2 3 4 4 5 6 6.
    extent = float(offsets[-1])
    last = int(extent * stride_frames + 0.5)
    if last < frames:
        start = int(generator.integers(frames - last))
        return np.floor(offsets * stride_frames + 0.5).astype(np.int64) + start  # same rounding as for ``last``
    return np.floor(offsets * ((frames - 1) / extent) + 0.5).astype(np.int64)


def plan_clip(catalog: Catalog, settings: ClipSettings, seed: int, index: int) -> ClipPlan:
    """Clip ``index`` (0-based, through all epochs) of the stream of ``seed``; both below 2**64. Pure.

    Every aligned block of len(kinds) + plain_clips indices has each kind once and that many plain clips, in an
    order drawn per block, so every batch is balanced. No frame lies outside its video; see ``fit_stride`` and
    ``place_offsets`` for short ones.
    Raises ValueError when the catalog has no videos for a kind (one class only; no class with two videos).
    """
    if index < 0 or seed < 0:
        raise ValueError(f"seed and index must be 0 or more, not {seed} and {index}")
    generator = np.random.Generator(np.random.Philox(key=np.array((seed, index), dtype=np.uint64)))
    augment_seed = int(generator.integers(2**63))
    kind, label = None, -1
    if settings.kinds:
        place = place_in_block(len(settings.kinds) + settings.plain_clips, seed, index)
        if place < len(settings.kinds):
            kind, label = settings.kinds[place], place
    if kind is not None and kind not in PAPER_KINDS:
        raise ValueError(f"plan_clip has no plan for {kind!r}; its pretext must bring one")

    t = 0
    if kind is not None and kind != BoundaryKind.SAME_SPEED:
        t = settings.change_point or int(
            generator.integers(settings.min_segment, 2 * settings.half_len - settings.min_segment + 1)
        )
    videos: tuple[int, ...]
    if kind in (BoundaryKind.DIFF_CLASS, BoundaryKind.SAME_CLASS):
        pick = _two_classes if kind == BoundaryKind.DIFF_CLASS else _two_of_a_class
        videos = pick(catalog, generator)
        epsilon = settings.epsilon if kind == BoundaryKind.DIFF_CLASS else 0
        weights, offsets = _two_video_layout(settings.half_len, epsilon, t)
    else:
        # Choice: uniform over videos, with replacement, so that any index can be planned alone.
        videos = (int(generator.integers(len(catalog))),)
        gamma = 1.0
        if kind == BoundaryKind.DIFF_SPEED:
            gamma = settings.gammas[int(generator.integers(len(settings.gammas)))]
        weights, offsets = _one_video_layout(settings.half_len, t, gamma)
    if kind is None:
        label = int(catalog.labels[videos[0]])

    lengths = [int(catalog.frames[video]) for video in videos]
    # Choice: both halves of a two-video clip use the smaller of their strides; a difference would add a speed
    # change.
    stride_frames = min(
        fit_stride(float(steps[-1]), stride_frames=settings.stride_frames, frames=length)
        for steps, length in zip(offsets, lengths)
    )
    frames = tuple(
        place_offsets(steps, stride_frames=stride_frames, frames=length, generator=generator)
        + catalog.first_frame[video]
        for steps, length, video in zip(offsets, lengths, videos)
    )
    return ClipPlan(
        index=index,
        kind=kind,
        label=label,
        videos=videos,
        frames=frames,
        weights=weights,
        # The paper's t names its change in Eq. (3), and Eq. (1)'s weights are 1/2 at i = tau: mu of Section
        # 3.3 is t counted from 1, so t - 1 here. SAME_SPEED and plain clips have none.
        change_point=float(t - 1) if t else None,
        augment_seed=augment_seed,
    )


def place_in_block(places: int, seed: int, index: int) -> int:
    """Place of clip ``index`` in its block: a permutation of range(places) per block of that many indices."""
    if places == 1:
        return 0
    block, position = divmod(index, places)
    key = np.array((seed, block), dtype=np.uint64)
    # The counter's top word separates this stream from the clips' streams, which start at counter 0.
    generator = np.random.Generator(np.random.Philox(key=key, counter=(0, 0, 0, 1)))
    return int(generator.permutation(places)[position])


def _two_classes(catalog: Catalog, generator: np.random.Generator) -> tuple[int, int]:
    """Two videos of different classes: the first uniform over all, the second over the other classes."""
    first = int(generator.integers(len(catalog)))
    label = catalog.labels[first]
    start, stop = int(catalog.class_offsets[label]), int(catalog.class_offsets[label + 1])
    others = len(catalog) - (stop - start)
    if others == 0:
        name = catalog.class_names[label]
        raise ValueError(f"DIFF_CLASS needs videos of two classes; all {len(catalog)} videos are of {name!r}")
    place = int(generator.integers(others))
    return first, int(catalog.order[place if place < start else place + stop - start])


def _two_of_a_class(catalog: Catalog, generator: np.random.Generator) -> tuple[int, int]:
    """Two different videos of one class; the first is uniform over the videos that have a partner."""
    pairable = int(catalog.pair_offsets[-1])
    if pairable == 0:
        raise ValueError(f"SAME_CLASS needs a class with two videos; the {len(catalog)} videos have a class each")
    draw = int(generator.integers(pairable))
    label = int(np.searchsorted(catalog.pair_offsets, draw, side="right")) - 1
    start, stop = int(catalog.class_offsets[label]), int(catalog.class_offsets[label + 1])
    first = start + draw - int(catalog.pair_offsets[label])
    second = start + int(generator.integers(stop - start - 1))
    return int(catalog.order[first]), int(catalog.order[second if second < first else second + 1])


@lru_cache(maxsize=4096)
def _two_video_layout(half_len: int, epsilon: int, t: int) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
    """Weights and the steps of both videos, Eq. (1) and (2): t + epsilon and 2 * tau - t + epsilon frames."""
    weights = first_video_weights(half_len=half_len, epsilon=epsilon, change_point=t)
    epsilon = transition_epsilon(half_len=half_len, epsilon=epsilon, change_point=t)
    return _frozen(weights), tuple(
        _frozen(np.arange(length, dtype=np.float64)) for length in (t + epsilon, 2 * half_len - t + epsilon)
    )


@lru_cache(maxsize=4096)
def _one_video_layout(half_len: int, t: int, gamma: float) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
    """Weights (all 1) and the steps of the one video, Eq. (3)."""
    steps = speed_offsets(half_len=half_len, change_point=t, gamma=gamma)
    return _frozen(np.ones(2 * half_len, np.float32)), (_frozen(steps),)


def _frozen(array: np.ndarray) -> np.ndarray:
    array.flags.writeable = False
    return array
