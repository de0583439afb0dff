"""THUMOS14: untrimmed videos of 20 sports, in the files of the G-TAD release.

The official "validation" videos are the training set, "test" the test set. One CSV row is one instance, in seconds.
"Ambiguous" is not an action class: in training its segments are class-agnostic positives, in the test they are not
ground truth (a detection there is a false positive, as in all Python evaluators).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bsp.datasets.activitynet import LocalizationDataset, folder_inside, localization_dataset, videos_folder
from bsp.datasets.results_json import check_ground_truth
from bsp.errors import AnnotationError
from bsp.files.text import clean_id, clean_label, is_hidden, read_json, read_table, refuse_alike

logger = logging.getLogger(__name__)

TRAINING, TEST = "validation", "test"  # the names of the official splits
AMBIGUOUS = "Ambiguous"


def load_thumos14_folder(folder: Path) -> LocalizationDataset:
    """The annotation files in ``folder`` or its ``thumos14``, and the videos in it or in its ``videos``."""
    return load_thumos14(folder_inside(folder, "thumos14"), videos_folder(folder))


def load_thumos14(
    folder: str | Path, video_folder: str | Path | None = None, *, max_missing_share: float = 0.5
) -> LocalizationDataset:
    """Read the annotation files in ``folder`` and find the videos of both splits in one ``video_folder``.

    The files, plain or gzipped, are recognised by the end of their names: ``val_Annotation.csv``,
    ``test_Annotation.csv``, and optionally ``test_groundtruth.csv`` (durations) and ``thumos_gt.json`` (ground truth;
    default: the test CSV without Ambiguous). Class names are those of the two CSVs, Ambiguous left out.

    Test videos that are not in the evaluation file (in the release 270, 1292 and 1496) are left out of the data set, as
    are Ambiguous rows of test videos; ``dropped`` names both. An unknown ``duration_s`` (all training videos in the
    release) is set to the end of the last instance, a lower bound: use the duration of the video or its features.
    ``ground_truth`` is the evaluation file as read (subset "test").

    video_folder: None skips the search. max_missing_share: as in load_activitynet.
    Raises AnnotationError for a missing or malformed file, naming file, line, value and remedy.
    """
    folder = Path(folder)
    training_csv, test_csv = (_find(folder, ending) for ending in ("val_Annotation.csv", "test_Annotation.csv"))
    durations_csv = _find_if_there(folder, "test_groundtruth.csv")
    truth_json = _find_if_there(folder, "thumos_gt.json")

    training, test = _read_instances(training_csv), _read_instances(test_csv)
    shared = sorted(set(training) & set(test))
    if shared:
        raise AnnotationError(f"{test_csv}: videos also in {training_csv.name}: {', '.join(shared[:5])}; remove them")
    durations = _read_durations(durations_csv) if durations_csv else {}
    truth = read_json(truth_json) if truth_json else _without_ambiguous(test)
    evaluated = _evaluated_videos(truth, test, str(truth_json or test_csv), test_csv.name)

    evaluation = (truth_json or test_csv).name
    records = {video_id: _record(rows, TRAINING, durations.get(video_id)) for video_id, rows in training.items()}
    dropped = []
    for video_id, rows in test.items():
        if video_id not in evaluated:
            dropped.append(f"{test_csv.name}: video {video_id} is not evaluated ({evaluation})")
            continue
        records[video_id] = _record(rows, TEST, durations.get(video_id))
        dropped += [
            f"{test_csv.name}: line {line}: {AMBIGUOUS} in {video_id}, {start_s} to {end_s} s"
            for label, start_s, end_s, line in rows
            if label == AMBIGUOUS
        ]
    if dropped:
        logger.warning("%s: %d videos and ambiguous rows are left out of the test set", folder, len(dropped))

    data = localization_dataset(
        {"database": records}, str(folder), video_folder, subsets=(TRAINING, TEST), max_missing_share=max_missing_share
    )
    return replace(
        data,
        class_names=tuple(name for name in data.class_names if name != AMBIGUOUS),
        ground_truth=truth,
        dropped=tuple(dropped),
    )


Row = tuple[str, float, float, int]  # label, start and end in seconds, line of the file (from 1)


def _read_instances(path: Path) -> dict[str, list[Row]]:
    """Rows of an annotation CSV by video, in the order of the file."""
    videos: dict[str, list[Row]] = {}
    labels: dict[str, str] = {}  # and where the first of each stands
    for line, row in read_table(path, ("video", "type", "type_idx", "start", "end")):
        start_s, end_s = (_number(row[key], f"{path}: line {line}: {key}") for key in ("start", "end"))
        if not row["video"] or not row["type"] or not 0 <= start_s < end_s:
            raise AnnotationError(
                f"{path}: line {line}: {row['video']!r}, {row['type']!r} from {start_s} to {end_s} s is no instance "
                "(a video, a class, 0 <= start < end); correct the line or remove it"
            )
        label = clean_label(row["type"])
        labels.setdefault(label, f"{path}: line {line}")
        if (row["type_idx"] == "0") != (label == AMBIGUOUS):
            raise AnnotationError(
                f"{path}: line {line}: type_idx {row['type_idx']!r} of {label!r}, but 0 means {AMBIGUOUS} and nothing "
                "else does; correct the line"
            )
        videos.setdefault(clean_id(row["video"]), []).append((label, start_s, end_s, line))
    refuse_alike(labels.items(), "the class")
    if not videos:
        raise AnnotationError(f"{path}: has no instance; copy the file again")
    return videos


def _read_durations(path: Path) -> dict[str, float]:
    durations: dict[str, float] = {}
    for line, row in read_table(path, ("video-name", "video-duration")):
        where = f"{path}: line {line}: video-duration"
        if not row["video-name"]:
            raise AnnotationError(f"{path}: line {line}: video-name is empty; correct the line")
        video_id = clean_id(row["video-name"])
        duration_s = _number(row["video-duration"], where)
        if duration_s <= 0 or durations.setdefault(video_id, duration_s) != duration_s:
            raise AnnotationError(
                f"{where}: {duration_s} s of {video_id!r} is not above 0 or not that of its first row; correct it"
            )
    return durations


def _without_ambiguous(test: dict[str, list[Row]]) -> dict[str, Any]:
    """The ground truth without thumos_gt.json: test videos with at least one instance of an action class."""
    records = {video_id: _record(rows, TEST, None) for video_id, rows in test.items()}
    return {"database": {video_id: record for video_id, record in records.items() if record["annotations"]}}


def _evaluated_videos(truth: Any, test: dict[str, list[Row]], name: str, csv_name: str) -> set[str]:
    database = check_ground_truth(truth, name)
    evaluated = {video_id for video_id, record in database.items() if record["subset"] == TEST}
    unknown = sorted(evaluated - set(test))
    if unknown or not evaluated:
        raise AnnotationError(
            f"{name}: {len(unknown)} of {len(evaluated)} videos of subset {TEST!r} are not in {csv_name}"
            f"{': ' if unknown else ''}{', '.join(unknown[:5])}; take both files from one release"
        )
    return evaluated


def _record(rows: Sequence[Row], subset: str, duration_s: float | None) -> dict[str, Any]:
    """One video in the ActivityNet layout; Ambiguous rows only in training."""
    kept = [row for row in rows if subset == TRAINING or row[0] != AMBIGUOUS]
    return {
        "subset": subset,
        "duration": duration_s or max(end_s for _, _, end_s, _ in rows),
        "annotations": [{"label": label, "segment": [start_s, end_s]} for label, start_s, end_s, _ in kept],
    }


def _number(text: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise AnnotationError(f"{where}: {text!r} is no number of seconds; correct it")
    return value


def _find(folder: Path, ending: str) -> Path:
    """The file with this ending; AnnotationError if there is none."""
    found = _find_if_there(folder, ending)
    if found is None:
        raise AnnotationError(
            f"{folder}: no file ends with {ending} (or {ending}.gz); copy it there from the G-TAD release"
        )
    return found


def _find_if_there(folder: Path, ending: str) -> Path | None:
    """The file whose name ends with ``ending`` or ``ending``.gz, preferring the plain one; None if there is none."""
    if not folder.is_dir():
        raise AnnotationError(f"{folder}: no such folder of THUMOS14 annotations")
    for suffix in ("", ".gz"):
        found = sorted(p for p in folder.iterdir() if p.name.endswith(ending + suffix) and not is_hidden(p))
        if len(found) > 1:
            names = ", ".join(path.name for path in found)
            raise AnnotationError(f"{folder}: {len(found)} files end with {ending}{suffix}: {names}; keep one")
        if found:
            return found[0]
    return None
