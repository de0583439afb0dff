"""Plans of Pantomime videos for grounding (what happens when), and their rendering to frames.

A video cuts between two figures that differ in build and hat. Each performs several actions, some of them twice. A plan
is a pure function of (settings, split, number), independent of the number of videos. Times are in frames, 0-based,
half-open.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from bsp.datasets.pantomime.levers import Levers, acts_most, record
from bsp.datasets.pantomime.moves import ACTION_NAMES, action_pose, blend_poses, blend_ramp, idle_pose, running_phase
from bsp.datasets.pantomime.plan import check_picture, check_ranges, check_whole_snippets
from bsp.datasets.pantomime.sentences import Sentence, write_sentences
from bsp.datasets.pantomime.world import Look, Person, draw_look, draw_shot

CODE_VERSION = 1  # raise it with every change of what is rendered or written
SPLITS = ("train", "test")
# Choice: actors differ in shape, not colour. Features learnt from actions keep shape but not colour: a linear
# classifier separates these three by a snippet's features, but four colours of clothes only at chance.
ACTORS: dict[str, dict[str, Any]] = {
    "child": {"height": (0.48, 0.56), "thickness": (0.026, 0.045), "hat": 0.0},
    "giant": {"height": (0.72, 0.80), "thickness": (0.052, 0.062), "hat": 0.0},
    "wizard": {"height": (0.72, 0.80), "thickness": (0.022, 0.028), "hat": 1.0},
}
# Hues of clothes: different for the two actors; sentences do not mention them.
COLOURS = {"red": (255, 60, 60), "green": (40, 200, 60), "blue": (60, 110, 255), "yellow": (230, 190, 0)}
_KEY = 100  # first word of all random keys here; the other Pantomime sets use small ones
_PLAN, _LOOK, _SHOT, _POSE = range(4)  # purposes of random streams
_IDLE_S = 0.75  # shortest idle motion between moments that do not adjoin
_CUT_APART_S = 0.5  # from a cut that is no moment's end to the next cut, end of a moment or of the video
_BETWEEN_SHARE = 0.6  # share of changes of the actor that happen between two moments, where there is room
_RETURN_SHARE = 0.35  # share of cuts that come back to an earlier place of the actor
# Choice: videos are mostly idle and moments short, so that no fixed span of time fits many sentences.
_IDLE_SHARE = 0.45  # at least this share of a video's free room stays idle
_SHORT = 1.2  # Beta(1, this) draws a moment's length between the limits; 1 = uniform, more = shorter
_ID_LETTERS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True, kw_only=True)
class GroundingWorldSettings:
    """All settings that determine the bytes of the data set."""

    seed: int = 0  # >= 0
    size_px: int = 64  # frame width and height, even, 32..512
    fps: int = 12  # frames/s, 6..60
    actions: tuple[str, ...] = ACTION_NAMES  # at least two of ACTION_NAMES
    actors: tuple[str, ...] = tuple(ACTORS)  # at least two of ACTORS; two of them play in a video
    train: int = 150  # training videos, >= 0
    test: int = 150  # test videos, >= 0
    seconds: float = 24.0  # length of a video, s; a multiple of 8 frames
    moments: tuple[int, int] = (4, 6)  # fewest and most moments of a video, 4..7
    moment_seconds: tuple[float, float] = (2.0, 6.0)  # shortest and longest moment, s, >= 1
    sentences: tuple[int, int] = (3, 5)  # fewest and most sentences of a video, 1..5
    tempo: tuple[float, float] = (0.9, 1.35)  # cycles/s, drawn per moment, 0.2..3
    adjoining_share: float = 0.25  # share of neighbours without idle motion between them, 0..1
    boundary_cut_share: float = 0.25  # of moments' ends that get a cut, besides those where the actor changes, 0..1
    other_cuts_per_minute: float = 12.0  # cuts away from moments' ends, on average, 0..60
    noise: float = 1.0  # amount of sensor noise, 0 = none, 1 = standard deviations of 1-5 grey levels
    light: float = 1.0  # amount of lighting change, 0 = none, 1 = about 5%
    levers: Levers | None = field(default=None, metadata={"later": True})  # what makes it harder; None = version 1

    def __post_init__(self) -> None:
        check_picture(self)
        for name, known in (("actions", ACTION_NAMES), ("actors", tuple(ACTORS))):
            names = getattr(self, name)
            if not set(names) <= set(known) or len(set(names)) != len(names) or len(names) < 2:
                raise ValueError(f"{name} must be at least two different names out of {known}, not {names}")
        for name in ("train", "test"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be >= 0, not {getattr(self, name)}")
        limits = {"moments": (4, 7), "moment_seconds": (1, 600), "sentences": (1, 5), "tempo": (0.2, 3)}
        check_ranges(self, limits)
        check_whole_snippets(self, "seconds")
        count, shortest = self.moments[1], self.moment_seconds[0]
        needed = count * round(shortest * self.fps) + (count + 1) * math.ceil(_IDLE_S * self.fps)
        if self.frames < needed:
            raise ValueError(
                f"seconds must be at least {needed / self.fps:.4g} for {count} moments of {shortest:g} s with "
                f"{_IDLE_S:g} s of idle motion around each, not {self.seconds:g}"
            )
        for name, most in (("adjoining_share", 1), ("boundary_cut_share", 1), ("other_cuts_per_minute", 60),
                           ("noise", 60), ("light", 60)):  # fmt: skip
            if not 0 <= getattr(self, name) <= most:
                raise ValueError(f"{name} must be in 0..{most}, not {getattr(self, name)}")

    @property
    def frames(self) -> int:
        """Frames of every video."""
        return round(self.seconds * self.fps)

    def fingerprint(self) -> str:
        """16 hexadecimal digits that name the data set: all settings and the code version."""
        text = json.dumps({"kind": "grounding", "code_version": CODE_VERSION, **record(self)}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True, kw_only=True)
class Moment:
    """One actor doing one action, frames ``first`` to ``end`` (half-open)."""

    actor: int  # 0 or 1
    action: str
    first: int
    end: int


@dataclass(frozen=True, kw_only=True)
class Shot:
    """What one camera sees, frames ``first`` to ``end`` (half-open); shots cover the video in order."""

    actor: int  # 0 or 1, the one in the picture
    look: int  # number of the place among the video's
    first: int
    end: int


@dataclass(frozen=True, kw_only=True)
class GroundingPlan:
    """One video."""

    split: str  # one of SPLITS
    number: int  # among the videos of this split
    video_id: str  # 5 characters, as in Charades
    frames: int
    actors: tuple[str, str]  # of ACTORS
    clothes: tuple[str, str]  # of COLOURS, one per actor
    moments: tuple[Moment, ...]  # in order, none overlap
    shots: tuple[Shot, ...]
    sentences: tuple[Sentence, ...]

    @property
    def cuts(self) -> tuple[int, ...]:
        """First frames of all shots but the first."""
        return tuple(shot.first for shot in self.shots[1:])

    @property
    def boundaries(self) -> tuple[int, ...]:
        """Frames at which a moment begins or ends, each once, sorted."""
        return tuple(sorted({frame for moment in self.moments for frame in (moment.first, moment.end)}))


def _rng(settings: GroundingWorldSettings, split: str, number: int, *purpose: int) -> np.random.Generator:
    key = (_KEY, SPLITS.index(split), number, *purpose)
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(settings.seed, spawn_key=key)))


def _draw_two(rng: np.random.Generator, names: Sequence[str]) -> tuple[str, str]:
    first, second = rng.choice(names, 2, replace=False)
    return str(first), str(second)


def plan_video(settings: GroundingWorldSettings, split: str, number: int) -> GroundingPlan:
    """Decide video ``number`` of ``split``."""
    rng = _rng(settings, split, number, _PLAN)
    actors, clothes = _draw_two(rng, settings.actors), _draw_two(rng, list(COLOURS))
    cast = _draw_cast(settings, rng)
    spans = _draw_spans(settings, cast, rng)
    moments = tuple(
        Moment(actor=actor, action=action, first=first, end=end) for (actor, action), (first, end) in zip(cast, spans)
    )
    count = int(rng.integers(settings.sentences[0], settings.sentences[1] + 1))
    return GroundingPlan(
        split=split, number=number, video_id=_video_id(settings, split, number), frames=settings.frames,
        actors=actors, clothes=clothes, moments=moments, shots=_draw_shots(settings, moments, rng),
        sentences=write_sentences([(actors[actor], action) for actor, action in cast], count, rng),
    )  # fmt: skip


def _video_id(settings: GroundingWorldSettings, split: str, number: int) -> str:
    """Different for all videos of a seed: multiplying by a number coprime to 36^5 only permutes."""
    code = (2 * number + SPLITS.index(split) + 7919 * (settings.seed + 1)) * 22695477 % 36**5
    return "".join(_ID_LETTERS[code // 36**k % 36] for k in range(5))


def _draw_cast(settings: GroundingWorldSettings, rng: np.random.Generator) -> list[tuple[int, str]]:
    """Draw (actor, action) in order, until some moments differ only by actor and some only by order.

    One actor does an action twice (none more often) with something that happens once in between; another
    action, or the same, is done by both actors, by one of them once; one actor does different actions.
    """
    count = int(rng.integers(settings.moments[0], settings.moments[1] + 1))
    most = min(4, len(settings.actions))
    while True:
        actions = rng.permutation(len(settings.actions))[: int(rng.integers(2, most + 1))]
        actors, which = rng.integers(2, size=count), rng.choice(actions, count)
        cast = [(int(actor), settings.actions[action]) for actor, action in zip(actors, which)]
        times = Counter(cast)
        both = any(times[event] == 1 and (1 - event[0], event[1]) in times for event in times)
        twice = [[k for k, other in enumerate(cast) if other == event] for event in times if times[event] == 2]
        apart = any(times[event] == 1 for first, second in twice for event in cast[first:second])
        varied = any(sum(actor == who for actor, _ in times) > 1 for who in (0, 1))
        if max(times.values()) == 2 and both and apart and varied:
            return cast


def _draw_spans(
    settings: GroundingWorldSettings, cast: list[tuple[int, str]], rng: np.random.Generator
) -> list[tuple[int, int]]:
    """Frame ranges of the moments; repetitions of a moment do not adjoin."""
    count, frames = len(cast), settings.frames
    idle = math.ceil(_IDLE_S * settings.fps)
    least, most = (round(seconds * settings.fps) for seconds in settings.moment_seconds)
    gaps = np.array([idle] * (count + 1))
    for k, (one, two) in enumerate(pairwise(cast), start=1):
        if rng.random() < settings.adjoining_share and one != two:
            gaps[k] = 0
    room = frames - int(gaps.sum()) - least * count
    extra = (most - least) * rng.beta(1, _SHORT, count)
    extra *= min(1.0, (1 - _IDLE_SHARE) * room / max(extra.sum(), 1e-9))
    lengths = least + np.floor(extra).astype(int)
    free = frames - int(gaps.sum()) - int(lengths.sum())
    wide = gaps > 0
    gaps[wide] += rng.multinomial(free, rng.dirichlet(np.ones(wide.sum())))
    firsts = np.cumsum(gaps[:-1]) + np.cumsum(lengths) - lengths
    return [(int(first), int(first + length)) for first, length in zip(firsts, lengths)]


def _draw_shots(
    settings: GroundingWorldSettings, moments: tuple[Moment, ...], rng: np.random.Generator
) -> tuple[Shot, ...]:
    """Cuts where the actor changes, at a share of the moments' ends and elsewhere; actor and place of each shot."""
    frames, apart = settings.frames, math.ceil(_CUT_APART_S * settings.fps)
    cuts: set[int] = set()
    for one, two in pairwise(moments):
        if one.actor != two.actor:  # at the end of the one, at the beginning of the other, or between
            inner = range(one.end + apart, two.first - apart + 1)
            between = len(inner) and rng.random() < _BETWEEN_SHARE
            cuts.add(int(rng.choice(inner) if between else rng.choice((one.end, two.first))))
    edges = sorted({frame for moment in moments for frame in (moment.first, moment.end)})
    cuts |= {frame for frame in edges if rng.random() < settings.boundary_cut_share}
    taken = [0, frames, *edges, *cuts]
    for _ in range(rng.poisson(settings.other_cuts_per_minute * settings.seconds / 60)):
        frame = int(rng.integers(1, frames))
        if min(abs(frame - other) for other in taken) >= apart:
            cuts.add(frame)
            taken.append(frame)
    shots: list[Shot] = []
    owners: list[int] = []  # actor of each look
    for first, end in pairwise((0, *sorted(cuts), frames)):
        seen = {moment.actor for moment in moments if moment.first < end and moment.end > first}
        assert len(seen) <= 1
        actor = seen.pop() if seen else int(rng.integers(2))
        earlier = [look for look, owner in enumerate(owners) if owner == actor and look != shots[-1].look]
        if earlier and rng.random() < _RETURN_SHARE:
            look = int(rng.choice(earlier))
        else:
            look = len(owners)
            owners.append(actor)
        shots.append(Shot(actor=actor, look=look, first=first, end=end))
    return tuple(shots)


def plan_pose(settings: GroundingWorldSettings, plan: GroundingPlan) -> np.ndarray:
    """[T, P] pose through the whole video (moves.py): the moments' actions, idle elsewhere.

    At a boundary without a cut the two blend over 2 or 4 frames with the boundary in the middle.
    """
    rng = _rng(settings, plan.split, plan.number, _POSE)
    restless = settings.levers.restless if settings.levers else 0.0
    pose_TP = idle_pose(plan.frames, settings.fps, plan.cuts, rng, restless=restless)
    halves = {frame: int(rng.integers(1, 3)) for frame in plan.boundaries if frame not in plan.cuts}
    followed = {moment.first for moment in plan.moments}
    for moment in plan.moments:
        tempo = rng.uniform(*settings.tempo)
        phase = running_phase(rng, frames=plan.frames, fps=settings.fps, tempo=tempo, cuts=plan.cuts)
        weight_T = np.zeros(plan.frames, np.float32)
        weight_T[moment.first : moment.end] = 1
        for frame in (moment.first, moment.end):
            half = halves.get(frame, 0)
            if frame == moment.end and frame in followed:  # the next action blends in over this one
                weight_T[frame : frame + half] = 1
            elif half:
                ramp = blend_ramp(half)
                weight_T[frame - half : frame + half] = ramp if frame == moment.first else ramp[::-1]
        pose_TP = blend_poses(pose_TP, action_pose(moment.action, phase, rng), weight_T)
    return pose_TP


def draw_video(settings: GroundingWorldSettings, plan: GroundingPlan) -> np.ndarray:
    """uint8 [T, size_px, size_px, 3] RGB frames of the plan."""
    key = (settings, plan.split, plan.number)
    pose_TP = plan_pose(settings, plan)
    people = [Person(clothes=COLOURS[colour], **ACTORS[actor]) for actor, colour in zip(plan.actors, plan.clothes)]
    spans = [(moment.first, moment.end) for moment in plan.moments]
    looks: dict[int, Look] = {}
    for shot in plan.shots:
        if shot.look not in looks:
            rng, acts = _rng(*key, _LOOK, shot.look), acts_most(shot.first, shot.end, spans)
            looks[shot.look] = draw_look(rng, settings.size_px, people[shot.actor], levers=settings.levers, acts=acts)
    parts = [
        draw_shot(
            pose_TP[shot.first : shot.end], looks[shot.look], settings.size_px, _rng(*key, _SHOT, shot.first),
            noise=settings.noise, light=settings.light, levers=settings.levers, fps=settings.fps,
        )
        for shot in plan.shots
    ]  # fmt: skip
    return np.concatenate(parts)
