"""HACS Segments 1.1.1: the ActivityNet layout with durations as text and without version or taxonomy.

Same 200 classes, metric and thresholds as ActivityNet. Some instances have no length: they can be neither trained on
nor found, so they are left out on both sides, and named.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from bsp.datasets.activitynet import LocalizationDataset, localization_dataset, one_json, videos_folder
from bsp.datasets.results_json import check_ground_truth
from bsp.files.text import read_json

logger = logging.getLogger(__name__)


def load_hacs_folder(folder: Path) -> LocalizationDataset:
    """The annotation file in ``folder``, the videos in it or in its ``videos``. ValueError if there is no one file."""
    return load_hacs(one_json(folder, "--hacs", "hacs*"), videos_folder(folder))


def load_hacs(
    json_path: str | Path,
    video_folder: str | Path | None,
    *,
    subsets: Sequence[str] = ("training", "validation"),
    max_missing_share: float = 0.5,
) -> LocalizationDataset:
    """Read the annotation file (plain or gzipped) and find its videos, ``<id>.<ext>`` or ``v_<id>.<ext>``.

    Arguments and errors as :func:`bsp.datasets.activitynet.load_activitynet`. ``dropped`` names the instances of all
    subsets that do not end after their start; ``ground_truth`` is without them.
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
