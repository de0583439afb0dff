"""CrossTask: instructional videos with the times of their task's steps, in the layout of the public release.

A release folder holds tasks_primary.txt (blocks of id, title, URL, number of steps, step names), videos.csv (task,
YouTube id, URL) and annotations/<task>_<video>.csv (step number from 1, start, end in seconds). Only the 18 primary
tasks have annotations. Rows may overlap and need not be in order. Durations are not in the release; they are read from
the videos or their feature records.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NoReturn

from bsp.clips.catalog import report_skips
from bsp.datasets.activitynet import find_videos, folder_inside, videos_folder
from bsp.errors import AnnotationError
from bsp.files.text import clean_id, clean_label, is_hidden, read_csv, read_text, refuse_alike, safe_name

Subset = Literal["training", "test"]

_BLOCK = 5  # lines of a task: id, title, URL, number of steps, step names
_REMEDY = "correct it or unpack the release again"


@dataclass(frozen=True)
class Task:
    """One primary task."""

    task_id: str
    title: str
    url: str
    steps: tuple[str, ...]  # names in the order of the recipe; step number n is steps[n - 1]


@dataclass(frozen=True)
class Step:
    """One annotated step, as written: it may overlap others and end after the video."""

    number: int  # 1..len(task.steps)
    start_s: float  # >= 0
    end_s: float  # > start_s


@dataclass(frozen=True)
class CrossTaskVideo:
    """One video of a primary task; ``path`` is None when no file of it was found (or looked for)."""

    video_id: str  # YouTube's
    path: str | None
    subset: Subset
    task_id: str
    steps: tuple[Step, ...]  # sorted by start, end, number
    url: str


@dataclass(frozen=True)
class CrossTaskDataset:
    """All videos of the primary tasks, in the order of videos.csv, also those without a file."""

    videos: tuple[CrossTaskVideo, ...]
    tasks: tuple[Task, ...]  # in the order of tasks_primary.txt
    missing: tuple[str, ...]  # ids of the videos without a file


def load_crosstask_folder(folder: Path) -> CrossTaskDataset:
    """The release in ``folder`` or its ``crosstask_release``, and the videos in it or in its ``videos``."""
    return load_crosstask(folder_inside(folder, "crosstask_release"), videos_folder(folder))


def load_crosstask(
    release_folder: str | Path, video_folder: str | Path | None = None, *, max_missing_share: float = 0.5
) -> CrossTaskDataset:
    """Read the release and find its videos, ``<id>.<ext>`` or ``v_<id>.<ext>``; ``held_out_videos`` makes the subsets.

    video_folder: None skips the search; every path is then None and nothing is missing.
    max_missing_share: 0..1; missing videos are logged and listed, above this share TooManyBroken names them.
    Raises AnnotationError (file, line, value) for anything malformed, for a video of a primary task without its
    annotation file, an annotation file of no listed video, or a video in two primary tasks; FileNotFoundError when
    the video folder does not exist.
    """
    folder = Path(release_folder)
    tasks = read_tasks(folder / "tasks_primary.txt")
    task_of = {task.task_id: task for task in tasks}
    rows = [row for row in _read_video_list(folder / "videos.csv") if row[0] in task_of]
    if not rows:
        raise AnnotationError(f"{folder / 'videos.csv'}: has no video of a task in tasks_primary.txt; {_REMEDY}")
    # Features are stored under the YouTube id, so two videos must not share it (no two of the release do).
    twice = [video_id for video_id, count in Counter(row[1] for row in rows).items() if count > 1]
    if twice:
        where = " and ".join(f"{task_id}_{video_id}" for task_id, video_id, _ in rows if video_id == twice[0])
        raise AnnotationError(f"{folder / 'videos.csv'}: one video twice: {where}; keep one of them")
    annotations = folder / "annotations"
    _check_no_other_files(annotations, {f"{task_id}_{video_id}" for task_id, video_id, _ in rows})
    test = {video_id for task_id in task_of for video_id in held_out_videos([v for t, v, _ in rows if t == task_id])}
    paths = find_videos(video_folder, [row[1] for row in rows]) if video_folder is not None else {}
    videos = tuple(
        CrossTaskVideo(
            video_id=video_id,
            path=paths.get(video_id),
            subset="test" if video_id in test else "training",
            task_id=task_id,
            steps=read_steps(annotations / f"{task_id}_{video_id}.csv", len(task_of[task_id].steps)),
            url=url,
        )
        for task_id, video_id, url in rows
    )
    missing = tuple(video.video_id for video in videos if video.path is None) if video_folder is not None else ()
    report_skips(
        [(video_id, "no such file") for video_id in missing],
        len(videos),
        max_missing_share,
        what=f"CrossTask videos are not in {video_folder}",
    )
    return CrossTaskDataset(videos=videos, tasks=tasks, missing=missing)


def held_out_videos(video_ids: Sequence[str]) -> frozenset[str]:
    """The test videos among those of one task: one in four, whatever the order that they are given in.

    Choice: the paper's 3 : 1 split is not published. Ids are ordered by their SHA-256 (hex), and the second of every
    four is a test video, which rounds a quarter to the nearest whole number (the half up).
    """
    ordered = sorted(video_ids, key=lambda video_id: hashlib.sha256(video_id.encode()).hexdigest())
    return frozenset(ordered[1::4])


def read_tasks(path: str | Path) -> tuple[Task, ...]:
    """The tasks of tasks_primary.txt or tasks_related.txt. Raises AnnotationError with file and line."""
    lines = [line.strip() for line in read_text(path).split("\n")]
    starts = [n for n, line in enumerate(lines) if line and (n == 0 or not lines[n - 1])]
    tasks: list[Task] = []
    for start in starts:
        block = lines[start : start + _BLOCK]
        after = lines[start + _BLOCK : start + _BLOCK + 1]
        if len(block) < _BLOCK or not all(block) or any(after):
            _fail(path, start, lines[start], "does not begin a task: id, title, URL, number of steps, names of steps")
        task_id, title, url, count, names = block
        steps = tuple(clean_label(name) for name in names.split(",") if name.strip())
        if count != str(len(steps)) or len(steps) != names.count(",") + 1:
            _fail(path, start + 3, count, f"is not the number of step names in the next line, {len(steps)}")
        if any(task.task_id == task_id for task in tasks):
            _fail(path, start, task_id, "is a task for the second time")
        refuse_alike(((step, f"{path}: line {start + 5}") for step in steps), "the step")
        tasks.append(Task(safe_name(task_id, f"{path}: line {start + 1}"), title, url, steps))
    if not tasks:
        raise AnnotationError(f"{path}: has no task; {_REMEDY}")
    return tuple(tasks)


def read_steps(path: str | Path, count: int) -> tuple[Step, ...]:
    """The steps of one annotation file, by start, end and number; ``count`` is the task's number of steps.

    Raises AnnotationError with file and line for an invalid row, and for a file without steps.
    """
    steps = []
    for number, row in _rows(path, columns=3):
        try:
            step, start_s, end_s = int(row[0]), float(row[1]), float(row[2])
        except ValueError:
            _fail(path, number, ",".join(row), "is not '<step number>,<start seconds>,<end seconds>'")
        if not 1 <= step <= count:
            _fail(path, number, row[0], f"is not a step of its task, which are 1..{count}")
        if not 0 <= start_s < end_s < math.inf:
            _fail(path, number, ",".join(row), "does not end after its start, or starts before 0 s")
        steps.append(Step(step, start_s, end_s))
    return tuple(sorted(steps, key=lambda step: (step.start_s, step.end_s, step.number)))


def _read_video_list(path: Path) -> list[tuple[str, str, str]]:
    """(task id, video id, URL) of every row, all tasks."""
    rows = []
    for number, row in _rows(path, columns=3):
        if not (row[0] and row[1]):
            _fail(path, number, ",".join(row), "is not '<task id>,<video id>,<URL>'")
        where = f"{path}: line {number + 1}"
        rows.append((safe_name(row[0], where), safe_name(clean_id(row[1]), where), row[2]))
    return rows


def _check_no_other_files(folder: Path, expected: set[str]) -> None:
    """AnnotationError if the folder has a CSV file of no listed video."""
    if not folder.is_dir():
        raise AnnotationError(f"{folder}: no such folder; {_REMEDY}")
    names = [path.name for path in folder.glob("*.csv") if not is_hidden(path)]
    other = sorted(name for name in names if name.removesuffix(".csv") not in expected)
    if other:
        raise AnnotationError(
            f"{folder}: {len(other)} files belong to no video of a primary task in videos.csv, for example"
            f" {', '.join(other[:3])}; add their rows or remove them"
        )


def _rows(path: str | Path, *, columns: int) -> list[tuple[int, list[str]]]:
    """(line from 0, fields without outer blanks) of every line that is not blank; at least one."""
    rows = [(line - 1, row) for line, row in read_csv(path)]
    if not rows:
        raise AnnotationError(f"{path}: has no row; {_REMEDY}")
    for number, row in rows:
        if len(row) != columns:
            _fail(path, number, ",".join(row), f"has {len(row)} fields, not {columns}")
    return rows


def _fail(path: str | Path, number: int, value: str, problem: str) -> NoReturn:
    shown = value if len(value) <= 80 else value[:77] + "..."
    raise AnnotationError(f"{path}: line {number + 1}: {shown!r} {problem}; {_REMEDY}")
