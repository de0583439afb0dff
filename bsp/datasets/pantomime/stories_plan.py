"""Plans of Pantomime's story videos (what happens when), and their rendering to frames.

Three kinds of stories: *games* (one action repeated between idle motion), *tasks* (steps in order) and *clips* (a
few events in a row). A plan is a pure function of (settings, split, number), independent of the number of videos, so a
larger data set begins with the videos of a smaller one. Times are in frames, 0-based, half-open.
Letters: T frames, P pose channels, N acts.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from bsp.datasets.pantomime.levers import Levers, record
from bsp.datasets.pantomime.moves import ACTION_NAMES, action_pose, blend_poses, blend_ramp, idle_pose, running_phase
from bsp.datasets.pantomime.plan import check_picture, check_ranges, draw_looks, draw_places
from bsp.datasets.pantomime.world import draw_shots

CODE_VERSION = 2  # raise it with every change of what is rendered or written
SPLITS = ("games_train", "games_test", "tasks", "clips_train", "clips_val")  # order enters the random keys
_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
_KEY = 200  # first word of all random keys here; the other Pantomime sets use smaller ones
_PLAN, _LOOK, _SHOT, _POSE, NOTES = range(5)  # purposes of random streams
_CUT_APART_S = 0.75  # from a cut that is no edge of an act to the next cut, edge or end of the video
_IDLE_SHARE = 0.4  # at least this share of the room that a game or task leaves free stays idle
# Choice: some games have one faint performance, half way between the action and idling, for the class "Ambiguous" of
# THUMOS-14.
_FAINT_SHARE, _FAINT_S, _FAINT_WEIGHT = 0.25, (1.0, 2.0), 0.5
_SKIPPED_SHARE, _REPEATED_SHARE, _MOST_REPEATS = 0.15, 0.2, 2  # of a task's steps
_ADJOINING_SHARE = 0.3  # of neighbouring steps, without idle motion between them
_EVENTS, _EVENT_S = (2, 4), 2.0  # fewest and most events of a clip; the shortest, s
_IDLE_EVENT_SHARE, _SPEED_SHARE = 0.25, 0.35  # of a clip's events: idle motion; the same action at another speed
_PACES = (0.5, 1.0, 2.0)  # speeds of an action, relative to the clip's tempo
# Choice: every cut is a boundary of a clip, and the easiest kind; so about a third of a clip's boundaries are cuts.
_CLIP_CUTS = 0.4  # times as many cuts of both sorts as in games and tasks


@dataclass(frozen=True, kw_only=True)
class Task:
    """An ordered list of steps, as in CrossTask."""

    number: int
    title: str
    steps: tuple[tuple[str, str], ...]  # (action, name of the step); the actions are different


TASKS = (
    Task(number=10210, title="Greet an Audience", steps=(
        ("walk", "walk on stage"), ("wave", "wave to the crowd"), ("bow", "bow to the front row"))),
    Task(number=30417, title="Warm Up for a Match", steps=(
        ("arm circles", "circle the arms"), ("windmill", "turn from side to side"),
        ("jumping jack", "do jumping jacks"), ("squat", "bend the knees"))),
    Task(number=50623, title="Box With a Shadow", steps=(
        ("jump", "hop into the ring"), ("box", "punch the air"), ("squat", "duck a blow"),
        ("kick", "kick the air"), ("wave", "wave to the corner"))),
    Task(number=70839, title="Dance in a Circle", steps=(
        ("bow", "bow to the partner"), ("jumping jack", "leap with open arms"), ("windmill", "swing the arms"),
        ("kick", "kick to the side"))),
)  # fmt: skip
RELATED_TASK = Task(number=90104, title="Cool Down After a Match", steps=(
    ("walk", "walk slowly"), ("squat", "stretch the legs")))  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class StorySettings:
    """All settings that determine the bytes of the data set."""

    seed: int = 0  # >= 0
    size_px: int = 64  # frame width and height, even, 32..512
    fps: int = 12  # frames/s, 6..60
    games_train: int = 90  # training videos, >= 0; the ten actions in turn
    games_test: int = 60  # test videos, >= 0
    tasks: int = 30  # videos of each of the four tasks, >= 0; loaders split them
    clips_train: int = 200  # training clips, >= 0
    clips_val: int = 100  # validation clips, >= 0
    game_seconds: tuple[float, float] = (30.0, 60.0)  # shortest and longest game, s
    task_seconds: tuple[float, float] = (24.0, 36.0)  # shortest and longest video of a task, s
    clip_seconds: tuple[float, float] = (11.0, 13.0)  # shortest and longest clip, s, >= 8
    instances: tuple[int, int] = (3, 8)  # fewest and most instances of a game, 1..100
    act_seconds: tuple[float, float] = (2.0, 6.0)  # shortest and longest instance or step, s, >= 1
    tempo: tuple[float, float] = (0.9, 1.35)  # cycles/s, drawn per video, 0.4..2
    boundary_cut_share: float = 0.5  # share of the acts' edges that coincide with a cut, 0..1
    other_cuts_per_minute: float = 5.0  # cuts away from edges, on average, 0..60
    noise: float = 1.0  # amount of sensor noise, 0 = none, 1 = standard deviations of 1-5 grey levels
    light: float = 1.0  # amount of lighting change, 0 = none, 1 = about 5%
    levers: Levers | None = field(default=None, metadata={"later": True})  # what makes it harder; None = version 1

    def __post_init__(self) -> None:
        check_picture(self)
        for name in SPLITS:
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be >= 0, not {getattr(self, name)}")
        limits = {
            "game_seconds": (1, 600), "task_seconds": (1, 600), "clip_seconds": (_EVENTS[1] * _EVENT_S, 600),
            "instances": (1, 100), "act_seconds": (1, 600), "tempo": (0.4, 2),
        }  # fmt: skip
        check_ranges(self, limits)
        most_steps = max(len(task.steps) for task in TASKS) + _MOST_REPEATS
        faint = self.frames(_FAINT_S[0]) + self.fps
        for name, count, more in (("game", self.instances[1], faint), ("task", most_steps, 0)):
            needed = count * self.frames(self.act_seconds[0]) + (count + 1) * self.fps + more
            shortest = getattr(self, f"{name}_seconds")[0]
            if self.frames(shortest) < needed:
                raise ValueError(
                    f"{name}_seconds must begin at {needed / self.fps:.4g} or more for {count} acts of "
                    f"{self.act_seconds[0]:g} s with 1 s of idle motion around each, not at {shortest:g}"
                )
        for name, most in (("boundary_cut_share", 1), ("other_cuts_per_minute", 60), ("noise", 60), ("light", 60)):
            if not 0 <= getattr(self, name) <= most:
                raise ValueError(f"{name} must be in 0..{most}, not {getattr(self, name)}")

    def frames(self, seconds: float) -> int:
        """Seconds in frames, to the nearest."""
        return round(seconds * self.fps)

    def fingerprint(self) -> str:
        """16 hexadecimal digits that name the data set: all settings and the code version."""
        text = json.dumps({"kind": "stories", "code_version": CODE_VERSION, **record(self)}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True, kw_only=True)
class Act:
    """One action, frames ``first`` to ``end`` (half-open)."""

    action: str
    first: int
    end: int
    tempo: float  # cycles/s
    faint: bool = False  # performed half way: ambiguous


@dataclass(frozen=True, kw_only=True)
class StoryPlan:
    """One video. ``shots`` are (first, end, number of the look), half-open; they cover the video in order."""

    split: str  # one of SPLITS
    number: int  # among the videos of this split
    video_id: str  # as in THUMOS-14 for games, 11 characters for others
    frames: int
    task: int  # position in TASKS, -1 where it is no task
    start_s: int  # clips: start in a supposed source video, s; others 0
    acts: tuple[Act, ...]  # in order, none overlap; idle motion elsewhere
    shots: tuple[tuple[int, int, int], ...]

    @property
    def cuts(self) -> tuple[int, ...]:
        """First frames of all shots but the first."""
        return tuple(first for first, _, _ in self.shots[1:])

    @property
    def spans(self) -> tuple[tuple[int, int], ...]:
        """Frames of the acts, half-open."""
        return tuple((act.first, act.end) for act in self.acts)

    @property
    def boundaries(self) -> tuple[int, ...]:
        """Frames at which an act begins or ends, each once, sorted, without the video's own ends."""
        edges = {frame for act in self.acts for frame in (act.first, act.end)}
        return tuple(sorted(edges - {0, self.frames}))


def rng_of(settings: StorySettings, split: str, number: int, *purpose: int) -> np.random.Generator:
    """Random generator of one purpose for one video."""
    key = (_KEY, SPLITS.index(split), number, *purpose)
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(settings.seed, spawn_key=key)))


def plan_video(settings: StorySettings, split: str, number: int) -> StoryPlan:
    """Decide video ``number`` of ``split``."""
    rng = rng_of(settings, split, number, _PLAN)
    video_id = "".join(_ALPHABET[k] for k in rng.integers(0, 64, 11))
    kind = split.split("_")[0].removesuffix("s")
    low, high = (settings.frames(seconds) for seconds in getattr(settings, f"{kind}_seconds"))
    frames = int(rng.integers(low, high + 1))
    tempo = float(rng.uniform(*settings.tempo))
    task, start_s = -1, 0
    if kind == "game":
        video_id = f"video_{'validation' if split == 'games_train' else 'test'}_{number + 1:07d}"
        acts = _draw_game(settings, ACTION_NAMES[number % len(ACTION_NAMES)], frames, tempo, rng)
    elif kind == "task":
        task = number % len(TASKS)
        acts = _draw_task(settings, TASKS[task], frames, tempo, rng)
    else:
        start_s = int(rng.integers(0, 240))
        acts = _draw_events(settings, frames, tempo, rng)
    plan = StoryPlan(
        split=split, number=number, video_id=video_id, frames=frames, task=task, start_s=start_s, acts=acts,
        shots=(),
    )  # fmt: skip
    cuts = _draw_cuts(settings, frames, plan.boundaries, _CLIP_CUTS if kind == "clip" else 1.0, rng)
    shots = draw_places(frames, cuts, rng, plan.spans if settings.levers else None)
    return StoryPlan(**{**vars(plan), "shots": shots})


def _draw_game(
    settings: StorySettings, action: str, frames: int, tempo: float, rng: np.random.Generator
) -> tuple[Act, ...]:
    """One action several times, with at least 1 s of idle motion around each; maybe one faint."""
    count = int(rng.integers(settings.instances[0], settings.instances[1] + 1))
    limits_s = [settings.act_seconds] * count
    faint = -1
    if rng.random() < _FAINT_SHARE:
        faint = int(rng.integers(count + 1))
        limits_s.insert(faint, _FAINT_S)
    spans = _draw_spans(settings, frames, limits_s, (), rng)
    return tuple(
        Act(action=action, first=first, end=end, tempo=tempo, faint=k == faint) for k, (first, end) in enumerate(spans)
    )


def _draw_task(
    settings: StorySettings, task: Task, frames: int, tempo: float, rng: np.random.Generator
) -> tuple[Act, ...]:
    """The steps in order, at least two different ones; some left out, some done twice, some without a pause."""
    done = rng.random(len(task.steps)) >= _SKIPPED_SHARE
    while done.sum() < 2:
        done[rng.integers(len(done))] = True
    steps = list(np.flatnonzero(done))
    for _ in range(_MOST_REPEATS):
        if rng.random() < _REPEATED_SHARE * len(task.steps) / _MOST_REPEATS:  # right after, or after the next step
            at = int(rng.integers(len(steps)))
            steps.insert(at + int(rng.integers(1, 3)), steps[at])
    adjoining = [
        k
        for k, (one, two) in enumerate(pairwise(steps), start=1)
        if rng.random() < _ADJOINING_SHARE and one != two  # repetitions are separated by a pause
    ]
    spans = _draw_spans(settings, frames, [settings.act_seconds] * len(steps), adjoining, rng)
    return tuple(
        Act(action=task.steps[step][0], first=first, end=end, tempo=tempo) for step, (first, end) in zip(steps, spans)
    )


def _draw_events(settings: StorySettings, frames: int, tempo: float, rng: np.random.Generator) -> tuple[Act, ...]:
    """Events that fill a clip; neighbours differ in the action, in its speed, or one of them is idle."""
    count = int(rng.integers(_EVENTS[0], _EVENTS[1] + 1))
    least = settings.frames(_EVENT_S)
    lengths = least + rng.multinomial(frames - count * least, rng.dirichlet(np.full(count, 2.0)))
    ends = np.cumsum(lengths)
    acts: list[Act] = []
    action: str | None = None
    pace = 1
    for k, (length, end) in enumerate(zip(lengths, ends)):
        choice = rng.random()
        if choice < _SPEED_SHARE and action is not None:
            pace = int(rng.choice([p for p in range(len(_PACES)) if p != pace]))
        elif choice > 1 - _IDLE_EVENT_SHARE and (action is not None or k == 0):
            action, pace = None, 1
        else:
            action, pace = str(rng.choice([name for name in ACTION_NAMES if name != action])), 1
        if action is not None:
            acts.append(Act(action=action, first=int(end - length), end=int(end), tempo=tempo * _PACES[pace]))
    return tuple(acts)


def _draw_spans(
    settings: StorySettings,
    frames: int,
    limits_s: list[tuple[float, float]],
    adjoining: Collection[int],
    rng: np.random.Generator,
) -> list[tuple[int, int]]:
    """Frame ranges with lengths within the limits; no gap before those whose positions are in ``adjoining``."""
    least_N, most_N = (np.array([settings.frames(limit[side]) for limit in limits_s]) for side in (0, 1))
    gaps = np.full(len(limits_s) + 1, settings.fps)
    gaps[list(adjoining)] = 0
    extra_N = (most_N - least_N) * rng.random(len(limits_s))
    room = frames - int(gaps.sum()) - int(least_N.sum())
    extra_N *= min(1.0, (1 - _IDLE_SHARE) * room / max(extra_N.sum(), 1e-9))
    lengths_N = least_N + np.floor(extra_N).astype(int)
    wide = gaps > 0
    free = frames - int(gaps.sum()) - int(lengths_N.sum())
    gaps[wide] += rng.multinomial(free, rng.dirichlet(np.ones(wide.sum())))
    firsts_N = np.cumsum(gaps[:-1]) + np.cumsum(lengths_N) - lengths_N
    return [(int(first), int(first + length)) for first, length in zip(firsts_N, lengths_N)]


def _draw_cuts(
    settings: StorySettings, frames: int, edges: tuple[int, ...], factor: float, rng: np.random.Generator
) -> tuple[int, ...]:
    """Cuts at a share of the acts' edges, and others away from them; ``factor`` scales both."""
    cuts = [frame for frame in edges if rng.random() < factor * settings.boundary_cut_share]
    taken = [0, frames, *edges]
    for _ in range(rng.poisson(factor * settings.other_cuts_per_minute * frames / settings.fps / 60)):
        frame = int(rng.integers(1, frames))
        if min(abs(frame - other) for other in taken) >= _CUT_APART_S * settings.fps:
            cuts.append(frame)
            taken.append(frame)
    return tuple(sorted(cuts))


def performances(plan: StoryPlan) -> list[list[Act]]:
    """The acts, grouped: adjoining acts of one action (a change of speed) form one performance."""
    parts: list[list[Act]] = []
    for act in plan.acts:
        if parts and (parts[-1][-1].end, parts[-1][-1].action) == (act.first, act.action):
            parts[-1].append(act)
        else:
            parts.append([act])
    return parts


def plan_pose(settings: StorySettings, plan: StoryPlan) -> np.ndarray:
    """[T, P] pose through the whole video (moves.py): the acts' actions, idle elsewhere.

    Where an action begins or ends without a cut, it and its neighbour blend over 2 or 4 frames with the
    boundary in the middle. Where only its speed changes, the movement goes on from the same pose.
    """
    rng = rng_of(settings, plan.split, plan.number, _POSE)
    restless = settings.levers.restless if settings.levers else 0.0
    pose_TP = idle_pose(plan.frames, settings.fps, plan.cuts, rng, restless=restless)
    halves = {frame: int(rng.integers(1, 3)) for frame in plan.boundaries if frame not in plan.cuts}
    parts = performances(plan)
    followed = {acts[0].first for acts in parts}
    for acts in parts:
        first, end = acts[0].first, acts[-1].end
        tempo_T = np.full(plan.frames, acts[0].tempo)
        for act in acts[1:]:
            tempo_T[act.first :] = act.tempo
        phase = running_phase(rng, frames=plan.frames, fps=settings.fps, tempo=tempo_T, cuts=plan.cuts)
        weight_T = np.zeros(plan.frames, np.float32)
        weight_T[first:end] = 1
        for frame in (first, end):
            half = halves.get(frame, 0)
            if frame == end and frame in followed:  # the next action blends in over this one
                weight_T[frame : frame + half] = 1
            elif half:
                ramp = blend_ramp(half)
                weight_T[frame - half : frame + half] = ramp if frame == first else ramp[::-1]
        if acts[0].faint:
            weight_T *= _FAINT_WEIGHT
        pose_TP = blend_poses(pose_TP, action_pose(acts[0].action, phase, rng), weight_T)
    return pose_TP


def draw_video(settings: StorySettings, plan: StoryPlan) -> np.ndarray:
    """uint8 [T, size_px, size_px, 3] RGB frames of the plan."""
    key = (settings, plan.split, plan.number)
    pose_TP = plan_pose(settings, plan)
    looks = draw_looks(settings, plan.shots, plan.spans, lambda look: rng_of(*key, _LOOK, look))
    return draw_shots(pose_TP, plan.shots, looks, settings, lambda first: rng_of(*key, _SHOT, first))
