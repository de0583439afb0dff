"""Where an experiment's videos come from: the embedded data set, or folders given by path.

Both go through the same loaders; what is fingerprinted here becomes part of every recipe.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from bsp.catalog import Catalog
from bsp.datasets import pantomime
from bsp.datasets.activitynet import LocalizationDataset, load_activitynet
from bsp.datasets.kinetics import load_class_folders, load_kinetics_csv
from bsp_platform.profiles import Profile


@dataclass(frozen=True)
class Sources:
    """The videos of an experiment and their fingerprints."""

    trimmed: Catalog
    untrimmed: LocalizationDataset
    trimmed_print: str
    untrimmed_print: str  # of the video files
    annotations_print: str  # of labels, segments and subsets


def load_sources(
    profile: Profile, *, storage: Path, kinetics: Path | None, activitynet: Path | None, progress: bool = True
) -> Sources:
    """Render or find the embedded data, or load the given folders. ValueError for a missing option."""
    if profile.pantomime is not None:
        if kinetics or activitynet:
            raise ValueError(
                f"profile {profile.name} renders its own videos; --kinetics and --activitynet go with --profile paper"
            )
        root = pantomime.render(profile.pantomime, storage / "pantomime", progress=progress)
        trimmed = load_kinetics_csv(
            root / "trimmed" / "train.csv", root / "trimmed" / "videos", cache_dir=storage / "catalogs"
        )
        untrimmed = load_activitynet(root / "untrimmed" / "activitynet.json", root / "untrimmed" / "videos")
    else:
        if not (kinetics and activitynet):
            raise ValueError(f"profile {profile.name} needs --kinetics DIR and --activitynet DIR")
        trimmed = _load_kinetics(kinetics, storage / "catalogs")
        untrimmed = _load_activitynet(activitynet)
    return Sources(trimmed, untrimmed, trimmed.fingerprint(), _videos_print(untrimmed), _annotations_print(untrimmed))


def _load_kinetics(folder: Path, cache_dir: Path) -> Catalog:
    """``folder/train.csv`` (official) with the videos below the folder, or one folder per class."""
    csv_path = folder / "train.csv"
    if csv_path.exists():
        return load_kinetics_csv(csv_path, folder, cache_dir=cache_dir)
    return load_class_folders(folder, cache_dir=cache_dir)


def _load_activitynet(folder: Path) -> LocalizationDataset:
    """The one JSON file in ``folder``, with the videos in ``folder/videos`` or in the folder itself."""
    if not folder.is_dir():
        raise ValueError(f"--activitynet {folder}: no such folder")
    files = sorted(p for p in folder.iterdir() if p.name.endswith((".json", ".json.gz")))
    if len(files) != 1:
        raise ValueError(f"--activitynet {folder}: expected one annotation file (*.json), found {len(files)}")
    videos = folder / "videos"
    return load_activitynet(files[0], videos if videos.is_dir() else folder)


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def _videos_print(data: LocalizationDataset) -> str:
    files = [(v.video_id, Path(v.path).stat().st_size) for v in data.videos if v.path is not None]
    return _digest(files)


def _annotations_print(data: LocalizationDataset) -> str:
    return _digest(
        [
            (v.video_id, v.subset, v.duration_s, [(i.label, i.start_s, i.end_s) for i in v.instances])
            for v in data.videos
        ]
    )
