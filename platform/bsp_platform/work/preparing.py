"""Ray Data: a folder of videos in, a prepared copy of it out (``bsp prepare``).

A prepared video is written completely or not at all, so the same command continues a stopped one, and a lost worker
costs the videos of its task.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bsp.errors import TooManyBroken, most_broken
from bsp.io import write_json
from bsp.video.prepare import PrepareSettings
from bsp.video.prepared_folder import HIDDEN, copy_others, prepare_one
from bsp_platform.plain_text import duration

RAY_LOG = f"{HIDDEN}/ray.log"
REPORT = f"{HIDDEN}/report.json"  # not beside the annotations: loaders expect one *.json there
_VIDEOS_PER_TASK = 8  # about three seconds of 10 s videos: large beside a task's overhead, small to do again


@dataclass(frozen=True, kw_only=True)
class PrepareJob:
    """Inputs of a task. All nodes see root and out."""

    root: Path
    out: Path
    settings: PrepareSettings
    prepare: Callable[..., dict[str, Any]] = prepare_one


@dataclass
class Progress:
    """The progress of a preparation."""

    total: int
    done: int = 0
    kept: int = 0  # of the done: were there already
    bytes_before: int = 0
    bytes_after: int = 0
    frames: int = 0
    damaged: dict[str, int] = field(default_factory=dict)  # name: its damaged frames, if it has any
    damage_not_counted: int = 0  # of the kept: videos whose record is older than the count
    work_s: float = 0.0  # of all tasks, also of earlier runs
    broken: list[str] = field(default_factory=list)  # "name: reason"
    began: float = field(default_factory=time.time)

    def add(self, row: dict[str, Any]) -> None:
        """Count one video's row."""
        self.done += 1
        if row["error"]:
            self.broken.append(f"{row['name']}: {row['error']}")
            return
        self.kept += bool(row["kept"])
        self.bytes_before += int(row["source_bytes"])
        self.bytes_after += int(row["target_bytes"])
        self.frames += int(row["frames"])
        self.damage_not_counted += row["damaged_frames"] < 0
        if row["damaged_frames"] > 0:
            self.damaged[str(row["name"])] = int(row["damaged_frames"])
        self.work_s += float(row["seconds"])

    def line(self) -> str:
        """One line: number of videos, rate, remaining time."""
        elapsed = max(time.time() - self.began, 1e-6)
        # Choice: the rate of all videos, kept ones too; exact once the kept ones are counted.
        left_s = (self.total - self.done) * elapsed / max(self.done, 1)
        return (
            f"{self.done:,} of {self.total:,} videos, {self.done / elapsed:.1f}/s, {duration(left_s)} left, "
            f"{self.bytes_before / 2**20:,.0f} MiB to {self.bytes_after / 2**20:,.0f} MiB, {len(self.broken)} broken"
        )


def prepare_folder(
    root: Path,
    out: Path,
    names: Sequence[str],
    others: Sequence[str],
    settings: PrepareSettings,
    *,
    max_broken_share: float = 0.05,
    report: Callable[[Progress], None] = lambda progress: None,
    prepare: Callable[..., dict[str, Any]] = prepare_one,
) -> dict[str, Any]:
    """Prepare the videos ``names`` below ``root`` into ``out``; what is done and undamaged is kept. Ray must run.

    ``find_videos`` gives root, names and the other files, which are copied; ``open_folder`` must have accepted ``out``.
    Returns, and writes to ``out/.prepared/report.json``: counts, bytes before and after, seconds, the broken videos by
    name, and the number of damaged frames of each video that has some. Raises TooManyBroken, with the list, when more
    than ``max_broken_share`` of the videos are broken;
    OSError when results cannot be written. ``prepare`` is for tests.
    """
    import ray

    from bsp_platform.work.cluster.ray_internals import data_context

    copied, left_out = copy_others(root, out, others)
    job = PrepareJob(root=root.absolute(), out=out.absolute(), settings=settings, prepare=prepare)
    with data_context():
        rows = ray.data.from_items(
            [{"name": name} for name in names], override_num_blocks=-(-len(names) // _VIDEOS_PER_TASK)
        )
        task: Any = _prepare_batch  # Ray's types have no functions with further arguments
        made = rows.map_batches(task, fn_args=(job,), batch_size=None, batch_format="numpy", num_cpus=1)
    progress = Progress(total=len(names))
    for row in made.iter_rows():
        if row["fatal"]:
            raise OSError(f"preparing stopped at {row['name']}: {row['fatal']}; run the same command again to continue")
        progress.add(row)
        if len(progress.broken) > most_broken(max_broken_share, len(names)):
            raise TooManyBroken(
                f"{len(progress.broken)} of {len(names)} videos under {root} are broken, more than "
                f"{max_broken_share:.0%}; repair or remove them, or allow a larger share, such as --max-broken "
                f"{min(1.0, len(progress.broken) / len(names) + 0.01):.2f}. What is finished is kept in {out}:\n  "
                + "\n  ".join(progress.broken[:20])
            )
        report(progress)
    facts = {
        "videos": len(names) - len(progress.broken),
        "kept": progress.kept,
        "frames": progress.frames,
        "bytes_before": progress.bytes_before,
        "bytes_after": progress.bytes_after,
        "seconds": round(time.time() - progress.began, 1),
        "work_seconds": round(progress.work_s, 1),
        "broken": sorted(progress.broken),
        "damaged_frames": dict(sorted(progress.damaged.items())),
        "damage_not_counted": progress.damage_not_counted,
        "copied": copied,
        "not_copied": left_out,
        "settings": asdict(settings),
    }
    write_json(out / REPORT, facts)
    return facts


_COLUMNS = {
    "source_bytes": np.int64,
    "target_bytes": np.int64,
    "frames": np.int64,
    "damaged_frames": np.int64,
    "seconds": np.float64,
    "kept": np.bool_,
}


def _prepare_batch(batch: dict[str, np.ndarray], job: PrepareJob) -> dict[str, np.ndarray]:
    """The task: one row per video, with "error" (the video is broken) and "fatal" (the disk is), or "" each."""
    rows = []
    for name in batch["name"].tolist():
        try:
            rows.append({"damaged_frames": -1} | job.prepare(job.root, job.out, name, job.settings))
        except OSError as error:
            rows.append({"name": name, "fatal": str(error)})
            break
    columns: dict[str, np.ndarray] = {
        key: np.array([row.get(key, 0) for row in rows], kind) for key, kind in _COLUMNS.items()
    }
    texts = {key: np.array([row.get(key, "") for row in rows], np.str_) for key in ("name", "error", "fatal")}
    return columns | texts
