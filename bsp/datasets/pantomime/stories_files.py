"""The annotation files of Pantomime's stories, in the layouts of THUMOS-14, HACS, CrossTask and Kinetics-GEBD.

Columns and keys are those of the releases that the loaders in this folder read; values are Pantomime's.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from itertools import pairwise
from typing import Any

import numpy as np

from bsp.datasets.pantomime.moves import ACTION_NAMES
from bsp.datasets.pantomime.stories_plan import (
    NOTES,
    RELATED_TASK,
    TASKS,
    Act,
    StoryPlan,
    StorySettings,
    Task,
    performances,
    rng_of,
)

THUMOS, CROSSTASK = "games/thumos14", "tasks/crosstask_release"
_SITE = "https://example.org/pantomime"  # placeholder: the layouts have URLs
_OVERLAP_S = (0.1, 0.6)  # how far the rows of two steps without a pause overlap in half of the cases
_UNSORTED_SHARE = 0.1  # of the files of steps
RATERS = 5
DISTANCES = tuple(k / 20 for k in range(1, 11))  # share of the clip's length: 0.05, 0.10, ..., 0.50
_END_S, _APART_S = 0.3, 0.6  # the release drops what is nearer to an end of the clip, or to an earlier boundary
# Choice: probability that an attentive annotator misses a boundary, by its kind: cuts are easiest, speed changes
# hardest.
_MISSED = {"cut": 0.05, "action": 0.08, "speed": 0.4}
_CARE = (0.0, 0.25)  # an annotator's share of boundaries missed by inattention, drawn per clip
_JITTER_S = (0.05, 0.25)  # an annotator's standard deviation of times, drawn per clip
_EXTRA = 0.4  # boundaries on average that an annotator sees where nothing happens


def clip_name(settings: StorySettings, plan: StoryPlan) -> str:
    """Name as in Kinetics: id, and whole start and end seconds in a supposed source video."""
    end_s = plan.start_s + math.ceil(plan.frames / settings.fps)
    return f"{plan.video_id}_{plan.start_s:06d}_{end_s:06d}"


def annotation_files(settings: StorySettings, plans: list[StoryPlan]) -> dict[str, str]:
    """Contents of the annotation files by relative path."""
    by_split: dict[str, list[StoryPlan]] = {}
    for plan in plans:
        by_split.setdefault(plan.split, []).append(plan)
    train, test = by_split.get("games_train", []), by_split.get("games_test", [])
    texts = {
        f"{THUMOS}/val_Annotation.csv": _thumos_instances(settings, train),
        f"{THUMOS}/test_Annotation.csv": _thumos_instances(settings, test),
        f"{THUMOS}/test_groundtruth.csv": _thumos_videos(settings, test),
        f"{THUMOS}/thumos_gt.json": json.dumps(_thumos_truth(settings, {"train": train, "test": test})),
        "games/hacs.json": json.dumps(_hacs(settings, {"training": train, "validation": test}), indent=1),
        "truth.json": json.dumps({"fps": settings.fps, "videos": {plan.video_id: _truth(plan) for plan in plans}}),
    }
    texts |= _crosstask(settings, by_split.get("tasks", []))
    for name in ("train", "val"):
        records = {plan.video_id: _gebd(settings, plan) for plan in by_split.get(f"clips_{name}", [])}
        texts[f"clips/k400_mr345_{name}_min_change_duration0.3.json"] = json.dumps(records)
    return texts


def _table(rows: Iterable[Iterable[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _span_s(settings: StorySettings, act: Act, digits: int) -> tuple[float, float]:
    return round(act.first / settings.fps, digits), round(act.end / settings.fps, digits)


def _thumos_instances(settings: StorySettings, plans: list[StoryPlan]) -> str:
    """``<split>_Annotation.csv``: seconds with one decimal, exact frames; class number 0 is Ambiguous."""
    rows: list[tuple[object, ...]] = [("video", "type", "type_idx", "start", "end", "startFrame", "endFrame")]
    for plan in plans:
        for act in plan.acts:
            label = ("Ambiguous", 0) if act.faint else (act.action, ACTION_NAMES.index(act.action) + 1)
            rows.append((plan.video_id, *label, *_span_s(settings, act, 1), act.first, act.end))
    return _table(rows)


def _thumos_videos(settings: StorySettings, plans: list[StoryPlan]) -> str:
    """``test_groundtruth.csv``: one row per instance, by class (-1 = Ambiguous first), with the video's length."""
    rows = [
        (
            plan.video_id, *_span_s(settings, act, 1), act.first, act.end, round(plan.frames / settings.fps, 6),
            float(settings.fps), plan.frames, -1 if act.faint else ACTION_NAMES.index(act.action),
        )
        for plan in plans
        for act in plan.acts
    ]  # fmt: skip
    head = ("video-name", "t-init", "t-end", "f-init", "f-end", "video-duration", "frame-rate", "video-frames",
            "label-idx")  # fmt: skip
    return _table([head, *sorted(rows, key=lambda row: row[-1])])


def _thumos_truth(settings: StorySettings, subsets: dict[str, list[StoryPlan]]) -> dict[str, Any]:
    """``thumos_gt.json``, the ground truth of detections: no Ambiguous instances, times as text."""
    database = {
        plan.video_id: {
            "subset": subset,
            "annotations": [
                {"segment": [str(time_s) for time_s in _span_s(settings, act, 1)], "label": act.action}
                for act in plan.acts
                if not act.faint
            ],
        }
        for subset, plans in subsets.items()
        for plan in plans
    }
    return {"database": database}


def _hacs(settings: StorySettings, subsets: dict[str, list[StoryPlan]]) -> dict[str, Any]:
    """HACS Segments 1.1.1: seconds with two decimals, the duration as text."""
    database = {
        plan.video_id: {
            "annotations": [
                {"label": act.action, "segment": list(_span_s(settings, act, 2))} for act in plan.acts if not act.faint
            ],
            "subset": subset,
            "duration": f"{plan.frames / settings.fps:.6f}",
            "url": "",
        }
        for subset, plans in subsets.items()
        for plan in plans
    }
    return {"database": database}


def _crosstask(settings: StorySettings, plans: list[StoryPlan]) -> dict[str, str]:
    """The release folder: two lists of tasks, two of videos, one table of steps per video.

    The validation list holds every sixth video of a task. The related task has one video, without steps or file.
    """
    listed = [(TASKS[plan.task].number, plan.video_id, f"{_SITE}/{plan.video_id}") for plan in plans]
    validation = [row for row, plan in zip(listed, plans) if plan.number // len(TASKS) % 6 == 0]
    related = (RELATED_TASK.number, "no_video-00", f"{_SITE}/no_video-00")
    texts = {
        f"{CROSSTASK}/tasks_primary.txt": "".join(_task_block(task) for task in TASKS),
        f"{CROSSTASK}/tasks_related.txt": _task_block(RELATED_TASK),
        f"{CROSSTASK}/videos.csv": _table([*listed, related]),
        f"{CROSSTASK}/videos_val.csv": _table(validation),
    }
    for plan in plans:
        name = f"{CROSSTASK}/annotations/{TASKS[plan.task].number}_{plan.video_id}.csv"
        texts[name] = _table(step_rows(settings, plan))
    return texts


def _task_block(task: Task) -> str:
    steps = ",".join(name for _, name in task.steps)
    return f"{task.number}\n{task.title}\n{_SITE}/{task.number}\n{len(task.steps)}\n{steps}\n\n"


def step_rows(settings: StorySettings, plan: StoryPlan) -> list[tuple[int, float, float]]:
    """(number of the step from 1, start s, end s) of a task's video, with the flaws of the release.

    Where two steps adjoin, their rows overlap in half of the cases (the union stays exact); some lists are not in
    order.
    """
    rng = rng_of(settings, plan.split, plan.number, NOTES)
    numbers = {action: k for k, (action, _) in enumerate(TASKS[plan.task].steps, start=1)}
    spans = [[act.first / settings.fps, act.end / settings.fps] for act in plan.acts]
    for one, two in pairwise(spans):
        if one[1] == two[0] and rng.random() < 0.5:
            one[1] += rng.uniform(*_OVERLAP_S)
    rows = [
        (numbers[act.action], round(float(start), 2), round(float(end), 2))
        for act, (start, end) in zip(plan.acts, spans)
    ]
    if rng.random() < _UNSORTED_SHARE:
        rows = [rows[k] for k in rng.permutation(len(rows))]
    return rows


def boundary_kinds(plan: StoryPlan) -> dict[int, str]:
    """Kind of each generic boundary (frame): "cut", else "action" (begins or ends), else "speed"."""
    kinds = dict.fromkeys(plan.boundaries, "speed")
    edges = {frame for acts in performances(plan) for frame in (acts[0].first, acts[-1].end)}
    kinds |= dict.fromkeys(edges & kinds.keys(), "action")
    kinds |= dict.fromkeys(plan.cuts, "cut")
    return dict(sorted(kinds.items()))


def rate(settings: StorySettings, plan: StoryPlan) -> list[list[float]]:
    """Boundaries of each annotator, sorted seconds, after the release's processing.

    No boundary is nearer than 0.3 s to an end of the clip, none within 0.6 s after another one.
    """
    rng = rng_of(settings, plan.split, plan.number, NOTES)
    length_s = plan.frames / settings.fps
    kinds = boundary_kinds(plan)
    raters = []
    for _ in range(RATERS):
        care, jitter_s = rng.uniform(*_CARE), rng.uniform(*_JITTER_S)
        seen = [frame for frame, kind in kinds.items() if rng.random() >= max(care, _MISSED[kind])]
        times = np.array(seen) / settings.fps + jitter_s * rng.standard_normal(len(seen))
        times = np.sort([*times, *rng.uniform(0, length_s, rng.poisson(_EXTRA))])
        kept: list[float] = []
        for time_s in times:
            if _END_S <= time_s <= length_s - _END_S and (not kept or time_s - kept[-1] > _APART_S):
                kept.append(round(float(time_s), 5))
        raters.append(kept)
    return raters


def consistency(raters: Sequence[Sequence[float]], length_s: float) -> list[float]:
    """Per annotator, the mean F1 of the others against this one, in 0..1; needs two annotators or more.

    Choice: F1 of the benchmark's own rule (nearest unused time, within a share of the clip's length), averaged over
    its ten distances and over the other annotators. The paper says that F1 between annotators is averaged over
    several tolerances; its program is not released.
    """
    return [
        float(np.mean([
            _f1(other, one, share * length_s)
            for k, other in enumerate(raters) if k != j
            for share in DISTANCES
        ]))
        for j, one in enumerate(raters)
    ]  # fmt: skip


def _f1(found: Sequence[float], truth: Sequence[float], within_s: float) -> float:
    """F1 of ``found`` against ``truth``: each of ``truth``, in order, takes the nearest unused one."""
    left = list(found)
    matched = 0
    for time_s in truth:
        nearest = min(left, key=lambda other: abs(other - time_s), default=np.inf)
        if abs(nearest - time_s) <= within_s:
            left.remove(nearest)
            matched += 1
    # 2 * matched / (both counts) is F1 of precision and recall; two empty lists agree.
    return 2 * matched / (len(found) + len(truth)) if found or truth else 1.0


def _gebd(settings: StorySettings, plan: StoryPlan) -> dict[str, Any]:
    """One record of ``k400_mr345_<split>_min_change_duration0.3``."""
    raters = rate(settings, plan)
    agreement = consistency(raters, plan.frames / settings.fps)
    path = f"pantomime/{clip_name(settings, plan)}"
    return {
        "num_frames": plan.frames,
        "path_video": f"{path}.mp4",
        "fps": float(settings.fps),
        "video_duration": plan.frames / settings.fps,
        "path_frame": path,
        "f1_consis": agreement,
        "f1_consis_avg": float(np.mean(agreement)),
        "substages_myframeidx": [
            [float(min(plan.frames - 1, math.floor(time_s * settings.fps))) for time_s in times] for times in raters
        ],
        "substages_timestamps": raters,
    }


def _truth(plan: StoryPlan) -> dict[str, Any]:
    """Exact ground truth in frames, beyond the annotations; for tests, figures and analysis."""

    def where(cut: int) -> str:
        if cut in plan.boundaries:
            return "boundary"
        return "act" if any(act.first < cut < act.end for act in plan.acts) else "idle"

    facts = {
        "split": plan.split,
        "frames": plan.frames,
        "acts": [asdict(act) for act in plan.acts],
        "boundaries": plan.boundaries,
        "cuts": [{"frame": cut, "at": where(cut)} for cut in plan.cuts],
        "shots": [{"first": first, "end": end, "look": look} for first, end, look in plan.shots],
    }
    if plan.task >= 0:
        facts["task"] = TASKS[plan.task].number
    if plan.split.startswith("clips"):
        facts["generic_boundaries"] = [{"frame": frame, "kind": kind} for frame, kind in boundary_kinds(plan).items()]
    return facts
