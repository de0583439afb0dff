"""A complete data set: a folder with ``annotations.csv`` (columns video, start_s, end_s, label) and ``<video>.mp4``.

A data set is a loader and a record. ``DATA_SETS["short"] = SHORT`` (bsp/datasets/data_sets.py) makes it known: scripts
get an option ``--short DIR``, and tasks can pair it with every head that reads what the loader returns.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bsp.datasets.activitynet import LocalizationDataset, localization_dataset
from bsp.datasets.data_sets import DataSet
from bsp.errors import AnnotationError
from bsp.files.text import read_table
from bsp.video.read import probe


def load_short(folder: Path) -> LocalizationDataset:
    """Annotations and videos in ``folder``. AnnotationError for a CSV that is not there or has other columns.

    Every second video, by name, is for testing. ActivityNet's document is built, whose checks (times that are numbers,
    labels, missing videos) are those of ``localization_dataset``.
    """
    path = folder / "annotations.csv"
    found = read_table(path, ("video", "start_s", "end_s", "label"))  # AnnotationError for a missing column
    database: dict[str, Any] = {}
    for line, row in sorted(found, key=lambda pair: pair[1]["video"]):
        if row["video"] not in database:
            video = probe(folder / f"{row['video']}.mp4")
            subset = "validation" if len(database) % 2 else "training"
            database[row["video"]] = {"subset": subset, "duration": video.frames / video.fps, "annotations": []}
        try:
            segment = [float(row["start_s"]), float(row["end_s"])]
        except ValueError as error:
            raise AnnotationError(f"{path}: line {line}: {error}; write seconds as numbers") from None
        instance = {"label": row["label"], "segment": segment}
        database[row["video"]]["annotations"].append(instance)
    return localization_dataset(
        {"database": database}, str(folder), folder, subsets=("training", "validation"), max_missing_share=0
    )


SHORT = DataSet(name="short", title="short videos", load=load_short)
