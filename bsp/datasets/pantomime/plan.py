"""Plans of Pantomime videos (what happens when), and their rendering to frames.

A plan is a pure function of (settings, split, class, number), independent of the number of videos, so a larger data set
of the same seed begins with the videos of a smaller one. Times are in frames, 0-based, half-open.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np

from bsp.datasets.pantomime.levers import Levers, acts_most, long_instance, record, seen_classes
from bsp.datasets.pantomime.moves import (
    ACTION_NAMES,
    ALL_ACTION_NAMES,
    action_pose,
    blend_poses,
    blend_ramp,
    idle_pose,
    running_phase,
)
from bsp.datasets.pantomime.world import Look, draw_look, draw_shots

CODE_VERSION = 3  # raise it with every change of what is rendered: cached data of other versions is not used
SPLITS = ("trimmed_train", "trimmed_val", "untrimmed_train", "untrimmed_val")  # order enters the random keys
_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
_PLAN, _LOOK, _SHOT, _POSE = range(4)  # purposes of random streams
# Choice: other cuts are about one snippet away from boundaries and each other, so that they can be separated.
_CUT_APART_S = 0.75
# Choice: share of cuts that return to an earlier look, so that the scene is no cue either.
_RETURN_SHARE = 0.35


def check_picture(settings: Any) -> None:
    """ValueError unless ``seed``, ``size_px`` and ``fps`` of the settings can be drawn and encoded."""
    if settings.seed < 0:
        raise ValueError(f"seed must be >= 0, not {settings.seed}")
    if not 32 <= settings.size_px <= 512 or settings.size_px % 2:
        raise ValueError(f"size_px must be even and in 32..512, not {settings.size_px}")
    if not 6 <= settings.fps <= 60 or settings.fps != int(settings.fps):
        raise ValueError(f"fps must be a whole number in 6..60, not {settings.fps}")


def check_ranges(settings: Any, limits: Mapping[str, tuple[float, float]]) -> None:
    """ValueError unless each named field is (low, high), in order and within its limits."""
    for name, (least, most) in limits.items():
        low, high = getattr(settings, name)
        if not least <= low <= high <= most:
            raise ValueError(f"{name} must be (low, high) with {least} <= low <= high <= {most}, not {(low, high)}")


def check_whole_snippets(settings: Any, name: str) -> None:
    """ValueError unless the seconds in field ``name`` are a multiple of 8 frames."""
    seconds = getattr(settings, name)
    frames = seconds * settings.fps
    if frames != round(frames) or round(frames) % 8:
        raise ValueError(
            f"{name} * fps must be a multiple of 8 frames (one snippet), not {frames:g} "
            f"({seconds:g} s at {settings.fps} frames/s)"
        )


@dataclass(frozen=True, kw_only=True)
class PantomimeSettings:
    """All settings that determine the bytes of a Pantomime data set."""

    seed: int = 0  # >= 0
    size_px: int = 64  # frame width and height, even, 32..512
    fps: int = 12  # frames/s, 6..60
    actions: tuple[str, ...] = ACTION_NAMES  # classes, a subset of ALL_ACTION_NAMES
    trimmed_per_class: int = 40  # training videos per class, >= 0
    trimmed_val_per_class: int = 6  # validation videos per class, >= 0
    untrimmed_train: int = 120  # videos of subset "training", >= 0
    untrimmed_val: int = 200  # videos of subset "validation", >= 0
    trimmed_seconds: tuple[float, float] = (4.0, 6.0)  # shortest and longest trimmed video, s, >= 1
    untrimmed_seconds: float = 24.0  # length of an untrimmed video, s; a multiple of 8 frames, >= 5
    instance_seconds: tuple[float, float] = (2.5, 9.0)  # shortest and longest action instance, s, >= 1
    max_instances: int = 3  # 1..max_instances per untrimmed video, fewer where they do not fit
    tempo: tuple[float, float] = (0.9, 1.35)  # cycles/s, drawn per video, 0.2..3
    boundary_cut_share: float = 0.5  # share of action boundaries that coincide with a cut, 0..1
    other_cuts_per_minute: float = 5.0  # cuts that are no boundaries, on average, >= 0
    noise: float = 1.0  # amount of sensor noise, 0 = none, 1 = standard deviations of 1-5 grey levels
    light: float = 1.0  # amount of lighting change, 0 = none, 1 = about 5%
    levers: Levers | None = field(default=None, metadata={"later": True})  # what makes it harder; None = version 1

    def __post_init__(self) -> None:
        check_picture(self)
        unknown = [name for name in self.actions if name not in ALL_ACTION_NAMES]
        if unknown or not self.actions or len(set(self.actions)) != len(self.actions):
            raise ValueError(f"actions must be different names out of {ALL_ACTION_NAMES}, not {self.actions}")
        for name in ("trimmed_per_class", "trimmed_val_per_class", "untrimmed_train", "untrimmed_val"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be >= 0, not {getattr(self, name)}")
        limits = {"trimmed_seconds": (1, 600), "instance_seconds": (1, 600), "tempo": (0.2, 3)}
        check_ranges(self, limits)
        check_whole_snippets(self, "untrimmed_seconds")
        if self.untrimmed_seconds < self.instance_seconds[0] + 2:
            raise ValueError(
                f"untrimmed_seconds must leave 1 s of idle motion on both sides of an instance of "
                f"{self.instance_seconds[0]:g} s, not {self.untrimmed_seconds:g}"
            )
        if self.max_instances < 1:
            raise ValueError(f"max_instances must be >= 1, not {self.max_instances}")
        if not 0 <= self.boundary_cut_share <= 1:
            raise ValueError(f"boundary_cut_share must be in 0..1, not {self.boundary_cut_share}")
        for name in ("other_cuts_per_minute", "noise", "light"):
            if not 0 <= getattr(self, name) <= 60:
                raise ValueError(f"{name} must be in 0..60, not {getattr(self, name)}")

    @property
    def untrimmed_frames(self) -> int:
        """Frames of every untrimmed video."""
        return round(self.untrimmed_seconds * self.fps)

    @property
    def trimmed_actions(self) -> tuple[str, ...]:
        """The classes of the trimmed videos."""
        return seen_classes(self.actions, self.levers.unseen_classes) if self.levers else self.actions

    def fingerprint(self) -> str:
        """16 hexadecimal digits that name the data set: all settings and the code version."""
        text = json.dumps({"code_version": CODE_VERSION, **record(self)}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True, kw_only=True)
class VideoPlan:
    """One video. ``shots`` and ``instances`` are half-open frame ranges; shots cover the video in order."""

    split: str  # one of SPLITS
    label: str  # the one action class that occurs
    number: int  # among the videos of this split and class
    video_id: str  # 11 characters
    start_s: int  # trimmed: where the clip claims to begin in its source, s; untrimmed 0
    frames: int
    tempo: float  # cycles/s
    instances: tuple[tuple[int, int], ...]
    shots: tuple[tuple[int, int, int], ...]  # (first, end, number of the look)

    @property
    def cuts(self) -> tuple[int, ...]:
        """First frames of all shots but the first."""
        return tuple(first for first, _, _ in self.shots[1:])

    @property
    def boundaries(self) -> tuple[int, ...]:
        """Frames at which an instance begins or ends, without the video's own ends."""
        return tuple(frame for span in self.instances for frame in span if 0 < frame < self.frames)


def _rng(settings: PantomimeSettings, split: str, label: str, number: int, *purpose: int) -> np.random.Generator:
    key = (SPLITS.index(split), ALL_ACTION_NAMES.index(label), number, *purpose)
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(settings.seed, spawn_key=key)))


def plan_video(settings: PantomimeSettings, split: str, label: str, number: int) -> VideoPlan:
    """Decide video ``number`` of ``split`` and class ``label``."""
    rng = _rng(settings, split, label, number, _PLAN)
    video_id = "".join(_ALPHABET[k] for k in rng.integers(0, 64, 11))
    tempo = float(rng.uniform(*settings.tempo))
    start_s = 0
    instances: tuple[tuple[int, int], ...] = ()
    cuts: tuple[int, ...] = ()
    if split.startswith("trimmed"):
        low, high = (round(seconds * settings.fps) for seconds in settings.trimmed_seconds)
        frames = int(rng.integers(low, high + 1))
        instances, start_s = ((0, frames),), int(rng.integers(0, 240))
    else:
        frames = settings.untrimmed_frames
        instances = _draw_instances(settings, rng)
        cuts = _draw_cuts(settings, instances, rng)
    shots = draw_places(frames, cuts, rng, instances if settings.levers else None)
    return VideoPlan(
        split=split, label=label, number=number, video_id=video_id, start_s=start_s, frames=frames,
        tempo=tempo, instances=instances, shots=shots,
    )  # fmt: skip


def draw_places(
    frames: int, cuts: Iterable[int], rng: np.random.Generator, spans: Sequence[tuple[int, int]] | None
) -> tuple[tuple[int, int, int], ...]:
    """Shots between cuts, (first, end, number of the look); some come back to an earlier look.

    With ``spans`` of acting, shots that mostly act come back to looks of such shots only, and likewise idle ones.
    """
    shots: list[tuple[int, int, int]] = []
    acting: list[bool] = []  # of each look
    for first, end in pairwise((0, *cuts, frames)):
        acts = spans is not None and acts_most(first, end, spans)
        earlier = [look for look, other in enumerate(acting) if look != shots[-1][2] and other == acts]
        if earlier and rng.random() < _RETURN_SHARE:
            look = int(rng.choice(earlier))
        else:
            look = len(acting)
            acting.append(acts)
        shots.append((first, end, look))
    return tuple(shots)


def draw_looks(
    settings: Any,
    shots: Iterable[tuple[int, int, int]],
    spans: Sequence[tuple[int, int]],
    rng_of_look: Callable[[int], np.random.Generator],
) -> dict[int, Look]:
    """The looks of a video's shots by number; ``spans`` of acting (half-open frames) tell places of acting."""
    first_shots: dict[int, tuple[int, int]] = {}
    for first, end, look in shots:
        first_shots.setdefault(look, (first, end))
    return {
        look: draw_look(rng_of_look(look), settings.size_px, levers=settings.levers, acts=acts_most(*shot, spans))
        for look, shot in first_shots.items()
    }


def _draw_instances(settings: PantomimeSettings, rng: np.random.Generator) -> tuple[tuple[int, int], ...]:
    """1..max_instances frame ranges with at least 1 s of idle motion around each."""
    frames, idle = settings.untrimmed_frames, settings.fps
    if settings.levers and rng.random() < settings.levers.long_instances:
        return long_instance(frames, idle, rng)
    least, most = (round(seconds * settings.fps) for seconds in settings.instance_seconds)
    count = int(rng.integers(1, settings.max_instances + 1))
    count = min(count, (frames - idle) // (least + idle))
    lengths = rng.uniform(least, most, count)
    room = frames - idle * (count + 1) - least * count
    extra = lengths - least
    # Choice: at least a fifth of the video's free room stays idle, so that no video is all action.
    extra *= min(1.0, 0.8 * room / max(extra.sum(), 1e-9))
    lengths = least + np.floor(extra).astype(int)
    free = frames - idle * (count + 1) - int(lengths.sum())
    gaps = idle + rng.multinomial(free, rng.dirichlet(np.ones(count + 1)))
    spans, at = [], 0
    for gap, length in zip(gaps, lengths):
        spans.append((int(at + gap), int(at + gap + length)))
        at = spans[-1][1]
    return tuple(spans)


def _draw_cuts(
    settings: PantomimeSettings, instances: tuple[tuple[int, int], ...], rng: np.random.Generator
) -> tuple[int, ...]:
    """Cuts at a share of the boundaries, and others away from them, inside idle motion and inside actions."""
    frames, apart = settings.untrimmed_frames, round(_CUT_APART_S * settings.fps)
    boundaries = [frame for span in instances for frame in span]
    cuts = [frame for frame in boundaries if rng.random() < settings.boundary_cut_share]
    taken = [0, frames, *boundaries]
    for _ in range(rng.poisson(settings.other_cuts_per_minute * settings.untrimmed_seconds / 60)):
        frame = int(rng.integers(1, frames))
        if min(abs(frame - other) for other in taken) >= apart:
            cuts.append(frame)
            taken.append(frame)
    return tuple(sorted(cuts))


def plan_pose(settings: PantomimeSettings, plan: VideoPlan) -> np.ndarray:
    """[T, P] pose through the whole video (moves.py): the action inside instances, idle outside.

    At a boundary without a cut the two blend over 2 or 4 frames with the boundary in the middle: its frame
    is the first with more action than idle (or the other way round).
    """
    rng = _rng(settings, plan.split, plan.label, plan.number, _POSE)
    phase = running_phase(rng, frames=plan.frames, fps=settings.fps, tempo=plan.tempo, cuts=plan.cuts)
    action_TP = action_pose(plan.label, phase, rng)
    if plan.instances == ((0, plan.frames),):
        return action_TP
    restless = settings.levers.restless if settings.levers else 0.0
    idle_TP = idle_pose(plan.frames, settings.fps, plan.cuts, rng, restless=restless)
    weight_T = np.zeros(plan.frames, np.float32)
    for first, end in plan.instances:
        weight_T[first:end] = 1
    for frame in plan.boundaries:
        if frame in plan.cuts:
            continue
        half = int(rng.integers(1, 3))
        ramp = blend_ramp(half)
        weight_T[frame - half : frame + half] = ramp if weight_T[frame] == 1 else 1 - ramp
    return blend_poses(idle_TP, action_TP, weight_T)


def draw_video(settings: PantomimeSettings, plan: VideoPlan) -> np.ndarray:
    """uint8 [T, size_px, size_px, 3] RGB frames of the plan."""
    key = (settings, plan.split, plan.label, plan.number)
    pose_TP = plan_pose(settings, plan)
    if settings.levers and plan.split.startswith("trimmed"):
        settings = replace(settings, levers=settings.levers.of_trimmed())
    looks = draw_looks(settings, plan.shots, plan.instances, lambda look: _rng(*key, _LOOK, look))
    return draw_shots(pose_TP, plan.shots, looks, settings, lambda first: _rng(*key, _SHOT, first))
