"""ActivityNet and HACS Segments: one JSON with all annotations and a folder with the untrimmed videos.

Videos are found by file name and not opened. Times are seconds as annotated: a few instances end after the video,
are empty or run backwards. Code that makes labels must clip or drop these; the metrics must not.
"""

from __future__ import annotations

import logging
import os
import unicodedata
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from bsp.datasets.results_json import VideoRecord, check_ground_truth, require_subset, without_blocked
from bsp.errors import AnnotationError, TooManyBroken
from bsp.files.text import VIDEO_EXTENSIONS, is_hidden, read_json, safe_name

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Instance:
    """One annotated action; 0-based seconds, not necessarily within the video."""

    label: str
    start_s: float
    end_s: float


@dataclass(frozen=True)
class UntrimmedVideo:
    """One annotated video; ``path`` is None when no file of it was found (or looked for)."""

    video_id: str  # as in the JSON, without "v_"
    path: str | None
    duration_s: float
    subset: str
    instances: tuple[Instance, ...]

    @property
    def file(self) -> str:
        """``path``, where a file is needed; ValueError, naming the video, if there is none."""
        if self.path is None:
            raise ValueError(f"{self.video_id}: no video file was found")
        return self.path


@dataclass(frozen=True)
class LocalizationDataset:
    """The videos asked for, in the order of the file, also those without a video file."""

    videos: tuple[UntrimmedVideo, ...]
    class_names: tuple[str, ...]  # all classes of the file, whatever the subset, in alphabetical order
    missing: tuple[str, ...]  # ids of the videos without a file
    ground_truth: dict[str, Any]  # the JSON as read, which is what the metrics take
    dropped: tuple[str, ...] = ()  # videos and instances left out by the loader, as "file: what, why"


def load_activitynet(
    json_path: str | Path,
    video_folder: str | Path | None,
    *,
    subsets: Sequence[str] = ("training", "validation"),
    max_missing_share: float = 0.5,
    blocked: Collection[str] = (),
) -> LocalizationDataset:
    """Read an annotation file (plain or gzipped) and find its videos, ``v_<id>.<ext>`` or ``<id>.<ext>``.

    video_folder: None skips the search; every path is then None and nothing is missing. subsets: which to keep, exact
    names; the testing subset has no annotations, and need not have the key. max_missing_share: 0..1; missing videos are
    logged and listed; above this share TooManyBroken is raised. blocked: video ids to leave out, also with "v_" before
    them.
    Raises AnnotationError for malformed JSON (file, line and column), a wrong or missing field (its place and
    value) or an unknown subset; FileNotFoundError when the folder does not exist.
    """
    return localization_dataset(
        read_json(json_path),
        str(json_path),
        video_folder,
        subsets=subsets,
        max_missing_share=max_missing_share,
        blocked=blocked,
    )


def load_hacs(
    json_path: str | Path,
    video_folder: str | Path | None,
    *,
    subsets: Sequence[str] = ("training", "validation"),
    max_missing_share: float = 0.5,
) -> LocalizationDataset:
    """Read the annotation file (plain or gzipped) and find its videos, ``<id>.<ext>`` or ``v_<id>.<ext>``.

    HACS Segments 1.1.1 has the ActivityNet layout, with durations as text and without version or taxonomy. Arguments
    and errors as :func:`load_activitynet`. Instances that do not end after their start can be neither trained on nor
    found: they are removed from ``videos`` and ``ground_truth`` of all subsets, and listed in ``dropped``.
    """
    name = str(json_path)
    database = check_ground_truth(read_json(json_path), name)
    cleaned, dropped = {}, []
    for video_id, record in database.items():
        kept = []
        for number, instance in enumerate(record["annotations"]):
            start_s, end_s = instance["segment"]
            if start_s < end_s:
                kept.append(instance)
            else:
                where = f"{name}: database.{video_id}.annotations[{number}]"
                dropped.append(f"{where}: {instance['label']!r} from {start_s} to {end_s} s has no length")
        cleaned[video_id] = {**record, "annotations": kept}
    if dropped:
        logger.warning("%d instances are left out: %s", len(dropped), "; ".join(dropped[:20]))
    data = localization_dataset(
        {"database": cleaned}, name, video_folder, subsets=subsets, max_missing_share=max_missing_share
    )
    return replace(data, dropped=tuple(dropped))


def localization_dataset(
    document: Any,
    name: str,
    video_folder: str | Path | None,
    *,
    subsets: Sequence[str],
    max_missing_share: float,
    blocked: Collection[str] = (),
) -> LocalizationDataset:
    """The data set of an annotation document in the ActivityNet layout; ``name`` is used in error messages.

    Other arguments as in :func:`load_activitynet`.
    """
    if not 0 <= max_missing_share <= 1:
        raise ValueError(f"max_missing_share must be in 0..1, not {max_missing_share}")
    if isinstance(subsets, str) or not subsets:
        raise ValueError(f"subsets must be a sequence of one or more names, not {subsets!r}")
    database = check_ground_truth(document, name)
    for subset in subsets:
        require_subset(database, subset, name)
    of_subsets = [video_id for video_id, record in database.items() if record["subset"] in subsets]
    kept = without_blocked(of_subsets, blocked)
    chosen = {safe_name(video_id, f"{name}: database"): database[video_id] for video_id in kept}
    paths: dict[str, str] = {}
    missing: tuple[str, ...] = ()
    if video_folder is not None:
        paths = find_videos(video_folder, chosen)
        missing = tuple(video_id for video_id in chosen if video_id not in paths)
    if missing:
        _report_missing(missing, len(chosen), max_missing_share, str(video_folder))
    videos = tuple(_untrimmed_video(video_id, record, paths.get(video_id), name) for video_id, record in chosen.items())
    # Choice: class names come from the whole file, so that every subset numbers its classes alike.
    labels = {instance["label"] for record in database.values() for instance in record["annotations"]}
    return LocalizationDataset(videos=videos, class_names=tuple(sorted(labels)), missing=missing, ground_truth=document)


def _untrimmed_video(video_id: str, record: VideoRecord, path: str | None, name: str) -> UntrimmedVideo:
    where = f"{name}: database.{video_id}.duration"
    if "duration" not in record:
        raise AnnotationError(f"{where}: is missing")
    if record["duration"] <= 0:
        raise AnnotationError(f"{where}: must be above 0 seconds, found {record['duration']}")
    instances = tuple(Instance(item["label"], *item["segment"]) for item in record["annotations"])
    return UntrimmedVideo(video_id, path, record["duration"], record["subset"], instances)


def load_activitynet_folder(folder: Path) -> LocalizationDataset:
    """Load the annotation file of ``folder``; videos are in it or its ``videos``. ValueError unless there is one."""
    return load_activitynet(one_json(folder, "--activitynet", "activity*net*"), videos_folder(folder))


def load_hacs_folder(folder: Path) -> LocalizationDataset:
    """As :func:`load_activitynet_folder`, for HACS Segments."""
    return load_hacs(one_json(folder, "--hacs", "hacs*"), videos_folder(folder))


def one_json(folder: Path, option: str, pattern: str) -> Path:
    """The annotation file in ``folder``: the one whose name matches ``pattern``, else the only ``*.json``."""
    if not folder.is_dir():
        raise ValueError(f"{option} {folder}: no such folder")
    files = sorted(p for p in folder.iterdir() if p.name.endswith((".json", ".json.gz")) and not is_hidden(p))
    files = [p for p in files if fnmatch(p.name.lower(), pattern)] or files
    if len(files) != 1:
        found = ", ".join(p.name for p in files[:5]) or "none"
        raise ValueError(
            f"{option} {folder}: expected one annotation file, {pattern}.json or the only *.json (or .json.gz) in the "
            f"folder, found {found}"
        )
    return files[0]


def folder_inside(folder: Path, name: str) -> Path:
    """``folder/name`` if it exists, else ``folder``."""
    return folder / name if (folder / name).is_dir() else folder


def videos_folder(folder: str | Path) -> Path:
    """Folder of a data set's videos: ``folder/videos`` if it exists, else ``folder``."""
    return folder_inside(Path(folder), "videos")


def find_videos(folder: str | Path, video_ids: Collection[str]) -> dict[str, str]:
    """Paths of the videos directly in the folder, by one listing of it.

    A video is ``v_<id>.<ext>``, ``<id>.<ext>`` or, of an id with "v_", the name without it; accents of names on disk
    may be decomposed. AnnotationError if two ids match one file.
    """
    if not os.path.isdir(folder):
        raise FileNotFoundError(f"{folder}: no such folder of videos")
    preference = {suffix: rank for rank, suffix in enumerate(VIDEO_EXTENSIONS)}
    by_stem: dict[str, tuple[int, str]] = {}
    with os.scandir(folder) as entries:
        for entry in entries:
            stem, suffix = os.path.splitext(unicodedata.normalize("NFC", entry.name))
            rank = preference.get(suffix.lower())
            if rank is None or is_hidden(entry.name):
                continue
            if stem not in by_stem or (rank, entry.name) < by_stem[stem]:
                by_stem[stem] = (rank, entry.name)
    # An id may itself begin with "v_", so all possible names are looked up.
    found: dict[str, str] = {}
    owner: dict[str, str] = {}
    for video_id in video_ids:
        stem = unicodedata.normalize("NFC", video_id)
        hit = by_stem.get(f"v_{stem}") or by_stem.get(stem) or by_stem.get(stem.removeprefix("v_"))
        if hit is not None:
            found[video_id] = os.path.join(folder, hit[1])
            if owner.setdefault(hit[1], video_id) != video_id:
                raise AnnotationError(f"{found[video_id]}: would be both {owner[hit[1]]!r} and {video_id!r}; rename it")
    return found


def _report_missing(missing: tuple[str, ...], looked_for: int, max_share: float, folder: str) -> None:
    share = len(missing) / looked_for
    names = ", ".join(missing[:20]) + (f" and {len(missing) - 20} more" if len(missing) > 20 else "")
    message = f"{folder}: {len(missing)} of {looked_for} annotated videos have no file: {names}"
    if share > max_share:
        raise TooManyBroken(f"{message}; the share {share:.3f} is above max_missing_share={max_share}")
    logger.warning(message)
