"""Pantomime, the embedded data set: a seeded world of stick figures, written in published formats.

``render(settings, out_dir)`` writes real H.264 files with Kinetics and ActivityNet annotations to
``out_dir/<fingerprint>/`` in parallel, keeps what is already there, and writes ``manifest.json`` last:

    trimmed/videos/<class>/<id>_<start6>_<end6>.mp4   trimmed/train.csv  trimmed/val.csv
    untrimmed/videos/v_<id>.mp4   untrimmed/activitynet.json
    untrimmed/truth.json   what the annotations do not say: exact frames, cuts, shots

For testing programs, not evidence about real videos. From a shell (about 1 min on 2 cores):

    python -m bsp.datasets.pantomime.render --out data/pantomime --preview
"""

from __future__ import annotations

import csv
import errno
import io
import json
import logging
import math
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from filelock import FileLock, Timeout
from tqdm import tqdm

from bsp import apart
from bsp.datasets.pantomime.levers import record
from bsp.datasets.pantomime.plan import CODE_VERSION, PantomimeSettings, VideoPlan, draw_video, plan_video
from bsp.io import write_text
from bsp.video.write import write_mp4

__all__ = ["CODE_VERSION", "PantomimeSettings", "VideoSet", "is_complete", "plan_all", "render", "render_set"]

_LOG = logging.getLogger(__name__)
_BYTES_PER_PIXEL = 0.12  # upper bound: measured 0.07 at 64 px with the default noise
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@dataclass(frozen=True, kw_only=True)
class VideoSet:
    """Functions that define one kind of data set for :func:`render_set`; module-level, so that they can be pickled.

    Settings have ``fps``, ``size_px`` and ``fingerprint()``; plans have ``frames`` and ``split``.
    """

    title: str  # for the progress bar and messages
    about: str  # for the manifest
    code_version: int
    plan_all: Callable[[Any], list[Any]]  # settings -> plans
    video_path: Callable[[Any, Any], str]  # settings, plan -> path relative to the folder
    draw_video: Callable[[Any, Any], np.ndarray]  # settings, plan -> uint8 [T, H, W, 3]
    annotation_files: Callable[[Any, list[Any]], dict[str, str]]  # settings, plans -> text by relative path


def plan_all(settings: PantomimeSettings) -> list[VideoPlan]:
    """The plans of all videos of the data set: trimmed by class, then untrimmed with the classes in turn."""
    plans = [
        plan_video(settings, split, label, number)
        for split, count in (
            ("trimmed_train", settings.trimmed_per_class),
            ("trimmed_val", settings.trimmed_val_per_class),
        )
        for label in settings.trimmed_actions
        for number in range(count)
    ]
    classes = len(settings.actions)
    plans += [
        plan_video(settings, split, settings.actions[k % classes], k // classes)
        for split, count in (
            ("untrimmed_train", settings.untrimmed_train),
            ("untrimmed_val", settings.untrimmed_val),
        )
        for k in range(count)
    ]
    assert len({plan.video_id for plan in plans}) == len(plans)
    return plans


def video_path(settings: PantomimeSettings, plan: VideoPlan) -> str:
    """Path of the plan's video relative to the data set's folder, with forward slashes."""
    if plan.split.startswith("untrimmed"):
        return f"untrimmed/videos/v_{plan.video_id}.mp4"
    return f"trimmed/videos/{plan.label}/{plan.video_id}_{plan.start_s:06d}_{_end_s(settings, plan):06d}.mp4"


def _end_s(settings: PantomimeSettings, plan: VideoPlan) -> int:
    return plan.start_s + math.ceil(plan.frames / settings.fps)


def is_complete(folder: str | Path) -> bool:
    """Whether ``folder`` holds a finished data set: its manifest, and every file at the size it names."""
    folder = Path(folder)
    try:
        files = json.loads((folder / "manifest.json").read_text("utf-8"))["files"]
        return all((folder / name).stat().st_size == size for name, size in files.items())
    except (OSError, ValueError, KeyError, TypeError):
        return False


def render(
    settings: PantomimeSettings, out_dir: str | Path, *, workers: int | None = None, progress: bool = True
) -> Path:
    """Write the data set to ``out_dir/<fingerprint>/`` and return that folder; at once if it is complete.

    ``workers`` processes (default: all cores; 1 = in this process) draw one video each; the bytes do not depend on
    their number. The next call continues an interrupted one and redraws missing files. A file lock beside the folder
    serialises callers. Raises OSError that names the folder, and the bytes needed where the disk is full; RuntimeError
    if a process dies; ValueError for bad ``workers``.
    """
    return render_set(_PANTOMIME, settings, out_dir, workers=workers, progress=progress)


def render_set(
    kind: VideoSet, settings: Any, out_dir: str | Path, *, workers: int | None = None, progress: bool = True
) -> Path:
    """As :func:`render`, for any :class:`VideoSet`."""
    if workers is not None and workers < 1:
        raise ValueError(f"workers must be >= 1 or None for all cores, not {workers}")
    folder = Path(out_dir) / settings.fingerprint()
    if is_complete(folder):
        return folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _lock(folder):
            if not is_complete(folder):
                _render(kind, settings, folder, workers=workers or os.cpu_count() or 1, progress=progress)
    except OSError as error:
        raise _with_remedy(error, kind, settings, folder) from error
    return folder


def _lock(folder: Path) -> FileLock:
    lock = FileLock(folder.with_name(folder.name + ".lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        _LOG.warning("another process is rendering %s; waiting for it", folder)
        lock.acquire()
    return lock


def _render(kind: VideoSet, settings: Any, folder: Path, *, workers: int, progress: bool) -> None:
    plans = kind.plan_all(settings)
    paths = {kind.video_path(settings, plan): plan for plan in plans}
    known = _sizes_on_record(folder)
    todo = {name: plan for name, plan in paths.items() if not _is_whole(folder / name, plan.frames, known.get(name))}
    needed, free = _bytes_needed(settings, todo.values()), shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(errno.ENOSPC, f"only {free:,} bytes are free")
    for parent in {(folder / name).parent for name in todo}:
        parent.mkdir(parents=True, exist_ok=True)
        for left in parent.glob(".*.partial"):  # by processes that were ended while they wrote; the lock is ours
            left.unlink(missing_ok=True)
    bar = tqdm(
        total=len(paths),
        initial=len(paths) - len(todo),
        desc=kind.title,
        unit="video",
        mininterval=0.5,
        disable=None if progress else True,  # None: shown on a terminal only
    )
    with bar:
        if workers == 1 or len(todo) < 2:
            for name, plan in todo.items():
                make_video(settings, plan, str(folder / name), kind.draw_video)
                bar.update()
        else:
            _render_parallel(kind, settings, folder, todo, min(workers, len(todo)), bar)
    texts = kind.annotation_files(settings, plans)
    for name, text in texts.items():
        write_text(folder / name, text)
    manifest = {
        "data_set": kind.about,
        "code_version": kind.code_version,
        "fingerprint": settings.fingerprint(),
        "settings": record(settings),
        "videos": dict(Counter(plan.split for plan in plans)),
        "frames": sum(plan.frames for plan in plans),
        "files": {name: (folder / name).stat().st_size for name in sorted([*paths, *texts])},
    }
    write_text(folder / "manifest.json", json.dumps(manifest, indent=1))


def _render_parallel(
    kind: VideoSet, settings: Any, folder: Path, todo: dict[str, Any], workers: int, bar: tqdm
) -> None:
    calls = [(settings, plan, str(folder / name), kind.draw_video) for name, plan in todo.items()]
    for outcome in apart.in_order(make_video, calls, workers):
        if isinstance(outcome, apart.ProcessDied):
            raise RuntimeError(
                f"a process that draws videos for {folder} was ended (memory?); finished videos are kept"
            ) from outcome
        bar.update()


def make_video(settings: Any, plan: Any, path: str, draw: Callable[[Any, Any], np.ndarray] = draw_video) -> None:
    """Draw one video and write it to ``path``; the file appears only when it is complete."""
    try:
        write_mp4(path, draw(settings, plan), fps=settings.fps)
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error)) from None  # PyAV's own class does not pickle


def _sizes_on_record(folder: Path) -> dict[str, int]:
    try:
        return dict(json.loads((folder / "manifest.json").read_text("utf-8"))["files"])
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _is_whole(path: Path, frames: int, size: int | None) -> bool:
    """Whether a video from an earlier call is complete, by its recorded size, else its number of frames."""
    if not path.is_file():
        return False
    if size is not None:
        return path.stat().st_size == size
    import av

    try:
        with av.open(str(path)) as container:
            return container.streams.video[0].frames == frames
    except (av.FFmpegError, IndexError):
        return False


def _bytes_needed(settings: Any, plans: Iterable[Any]) -> int:
    return sum(4096 + int(_BYTES_PER_PIXEL * plan.frames * settings.size_px**2) for plan in plans)


def _with_remedy(error: OSError, kind: VideoSet, settings: Any, folder: Path) -> OSError:
    """The same error with folder and remedy in its message."""
    reason = error.strerror or str(error)
    if error.errno in _FULL:
        needed = _bytes_needed(settings, kind.plan_all(settings))
        return OSError(
            errno.ENOSPC,
            f"the disk is full ({reason}): {kind.title} needs about {needed:,} bytes in {folder}; make room or "
            "choose another folder, then call again (finished videos are kept)",
        )
    return OSError(
        error.errno or errno.EIO,
        f"cannot write to {folder} ({reason}: {error.filename}); choose a folder that is writable",
    )


def _annotation_files(settings: PantomimeSettings, plans: list[VideoPlan]) -> dict[str, str]:
    """Contents of the annotation files by relative path."""
    return {
        "trimmed/train.csv": _kinetics_csv(settings, plans, "trimmed_train", "train"),
        "trimmed/val.csv": _kinetics_csv(settings, plans, "trimmed_val", "val"),
        "untrimmed/activitynet.json": json.dumps(_activitynet(settings, plans), indent=1),
        "untrimmed/truth.json": json.dumps(_truth(settings, plans)),
    }


def _kinetics_csv(settings: PantomimeSettings, plans: list[VideoPlan], split: str, name: str) -> str:
    """The official Kinetics table: whole seconds, one row per clip."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(("label", "youtube_id", "time_start", "time_end", "split", "is_cc"))
    for plan in plans:
        if plan.split == split:
            rows.writerow((plan.label, plan.video_id, plan.start_s, _end_s(settings, plan), name, 0))
    return text.getvalue()


def _activitynet(settings: PantomimeSettings, plans: list[VideoPlan]) -> dict[str, Any]:
    """The official ActivityNet layout; times are frame / fps."""
    root = {"nodeName": "Root", "nodeId": 0, "parentName": None, "parentId": None}
    leaves = [
        {"nodeName": label, "nodeId": k + 1, "parentName": "Root", "parentId": 0}
        for k, label in enumerate(settings.actions)
    ]
    subsets = {"untrimmed_train": "training", "untrimmed_val": "validation"}
    database = {
        plan.video_id: {
            "duration": plan.frames / settings.fps,
            "subset": subsets[plan.split],
            "resolution": f"{settings.size_px}x{settings.size_px}",
            "url": "",
            "annotations": [
                {"segment": [first / settings.fps, end / settings.fps], "label": plan.label}
                for first, end in plan.instances
            ],
        }
        for plan in plans
        if plan.split in subsets
    }
    return {"version": f"PANTOMIME {CODE_VERSION}", "taxonomy": [root, *leaves], "database": database}


def _truth(settings: PantomimeSettings, plans: list[VideoPlan]) -> dict[str, Any]:
    """What the renderer knows beyond the annotations, in frames; for tests, figures and other formats."""

    def where(plan: VideoPlan, cut: int) -> str:
        if cut in plan.boundaries:
            return "boundary"
        return "action" if any(first < cut < end for first, end in plan.instances) else "idle"

    videos = {
        plan.video_id: {
            "label": plan.label,
            "split": plan.split,
            "frames": plan.frames,
            "cycles_per_s": plan.tempo,
            "instances": plan.instances,
            "boundaries": plan.boundaries,
            "cuts": [{"frame": cut, "at": where(plan, cut)} for cut in plan.cuts],
            "shots": [{"first": first, "end": end, "look": look} for first, end, look in plan.shots],
        }
        for plan in plans
        if plan.split.startswith("untrimmed")
    }
    return {"fps": settings.fps, "videos": videos}


_PANTOMIME = VideoSet(
    title="Pantomime", about="Pantomime (synthetic; a proving ground, not evidence about real videos)",
    code_version=CODE_VERSION, plan_all=plan_all, video_path=video_path, draw_video=draw_video,
    annotation_files=_annotation_files,
)  # fmt: skip
_DEFAULT = PantomimeSettings()


@click.command(help="Render Pantomime, the embedded data set.")
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path),
    help="Folder; the data goes to OUT/<fingerprint>.",
)
@click.option("--preview", is_flag=True, help="Also write contact sheets (PNG) to look at.")
@click.option("--workers", type=int, default=None, help="Processes; default all cores.")
@click.option("--seed", default=_DEFAULT.seed, show_default=True)
@click.option("--size-px", default=_DEFAULT.size_px, show_default=True)
@click.option("--fps", default=_DEFAULT.fps, show_default=True)
@click.option("--trimmed-per-class", default=_DEFAULT.trimmed_per_class, show_default=True)
@click.option("--trimmed-val-per-class", default=_DEFAULT.trimmed_val_per_class, show_default=True)
@click.option("--untrimmed-train", default=_DEFAULT.untrimmed_train, show_default=True)
@click.option("--untrimmed-val", default=_DEFAULT.untrimmed_val, show_default=True)
@click.option("--untrimmed-seconds", default=_DEFAULT.untrimmed_seconds, show_default=True)
def main(out: Path, preview: bool, workers: int | None, **sizes: Any) -> None:
    """Render into ``out`` and print the folder; ``sizes`` are fields of the settings."""
    try:
        folder = render(PantomimeSettings(**sizes), out, workers=workers)
        click.echo(folder)
        if preview:
            from bsp.datasets.pantomime.preview import write_preview

            for picture in write_preview(folder):
                click.echo(picture)
    except (ValueError, OSError) as error:
        raise click.ClickException(str(error)) from error


if __name__ == "__main__":
    from bsp.datasets.pantomime.render import main as importable_main  # other processes must find its functions by name

    importable_main()
