"""Where an experiment's videos come from: the embedded data set, or folders given by path.

Both go through the same loaders; what is fingerprinted here becomes part of every recipe. Only what the
experiment's heads need is loaded.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bsp.catalog import Catalog
from bsp.datasets import pantomime
from bsp.datasets.activitynet import LocalizationDataset, load_activitynet
from bsp.datasets.charades_sta import GroundingDataset, load_charades_sta
from bsp.datasets.kinetics import load_class_folders, load_kinetics_csv
from bsp.datasets.pantomime_grounding import render_grounding
from bsp.text import WordVectors, load_glove, tokenise
from bsp_platform.profiles import Profile

MAX_MISSING_SHARE = 0.5  # of the videos of Charades-STA, as load_activitynet has it


@dataclass(frozen=True, kw_only=True)
class DataPaths:
    """Folders and files that the user gave; all None with an embedded profile."""

    kinetics: Path | None = None
    activitynet: Path | None = None
    charades: Path | None = None
    glove: Path | None = None  # may also go with an embedded profile


@dataclass(frozen=True, kw_only=True)
class Sources:
    """The videos of an experiment and their fingerprints; None and "" where no head needs them."""

    trimmed: Catalog
    trimmed_print: str
    untrimmed: LocalizationDataset | None = None
    untrimmed_print: str = ""  # of the video files
    annotations_print: str = ""  # of labels, segments and subsets
    grounding: GroundingDataset | None = None
    grounding_print: str = ""  # of the video files
    moments_print: str = ""  # of sentences, times and durations
    glove: WordVectors | None = None  # only the words that occur

    @property
    def text_note(self) -> str:
        """Where word embeddings come from, for the output of grounding tables."""
        if self.grounding is None:
            return ""
        if self.glove is None:
            return "word embeddings learnt from scratch (no GloVe file given)"
        return f"word embeddings {self.glove.name}, {self.glove.vectors.shape[1]}-d, frozen"


def load_sources(
    profile: Profile, heads: Collection[str], paths: DataPaths, *, storage: Path, progress: bool = True
) -> Sources:
    """Render or find the embedded data, or load the given folders. ValueError for a missing option."""
    detect, ground = "gtad" in heads, bool({"2dtan", "lgi"} & set(heads))
    untrimmed = grounding = glove = None
    if profile.pantomime is not None:
        given = [f"--{name}" for name in ("kinetics", "activitynet", "charades") if getattr(paths, name)]
        if given:
            raise ValueError(
                f"profile {profile.name} renders its own videos; {' and '.join(given)} go with --profile paper"
            )
        root = pantomime.render(profile.pantomime, storage / "pantomime", progress=progress)
        trimmed = load_kinetics_csv(
            root / "trimmed" / "train.csv", root / "trimmed" / "videos", cache_dir=storage / "catalogs"
        )
        if detect:
            untrimmed = load_activitynet(root / "untrimmed" / "activitynet.json", root / "untrimmed" / "videos")
        if ground:
            grounding = load_charades_sta(render_grounding(profile.grounding, storage / "pantomime", progress=progress))
    else:
        needed = {"kinetics": True, "activitynet": detect, "charades": ground}
        missing = [f"--{name} DIR" for name, wanted in needed.items() if wanted and not getattr(paths, name)]
        if missing:
            raise ValueError(f"profile {profile.name} needs {' and '.join(missing)}")
        trimmed = _load_kinetics(paths.kinetics, storage / "catalogs")
        untrimmed = _load_activitynet(paths.activitynet) if detect else None
        grounding = _load_charades(paths.charades) if ground else None
    if grounding is not None and paths.glove is not None:
        glove = _only_words_of(load_glove(paths.glove, cache_dir=storage / "glove"), grounding)
    return Sources(
        trimmed=trimmed,
        trimmed_print=trimmed.fingerprint(),
        untrimmed=untrimmed,
        untrimmed_print=_videos_print(untrimmed.videos) if untrimmed else "",
        annotations_print=_annotations_print(untrimmed) if untrimmed else "",
        grounding=grounding,
        grounding_print=_videos_print(grounding.videos) if grounding else "",
        moments_print=_moments_print(grounding) if grounding else "",
        glove=glove,
    )


def _only_words_of(glove: WordVectors, data: GroundingDataset) -> WordVectors:
    """The vectors of the words that occur under either tokeniser: megabytes instead of hundreds of them."""
    sentences = [moment.sentence for moments in data.moments.values() for moment in moments]
    occurring = {word for sentence in sentences for rule in ("2dtan", "lgi") for word in tokenise(sentence, rule)}
    rows = [row for row, word in enumerate(glove.words) if word in occurring]
    return WordVectors(
        words=tuple(glove.words[row] for row in rows),
        vectors=np.ascontiguousarray(glove.vectors[rows]),
        name=glove.name,
        sha256=glove.sha256,
    )


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


def _load_charades(folder: Path) -> GroundingDataset:
    """The official files in ``folder``; refused when most of the videos are not there."""
    data = load_charades_sta(folder)
    if len(data.missing) > MAX_MISSING_SHARE * len(data.videos):
        raise ValueError(
            f"--charades {folder}: {len(data.missing)} of {len(data.videos)} videos have no file, for example "
            f"{data.missing[0]}.mp4; put the videos into {folder / 'videos'}"
        )
    return data


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def _videos_print(videos: Iterable) -> str:
    return _digest([(v.video_id, Path(v.path).stat().st_size) for v in videos if v.path is not None])


def _annotations_print(data: LocalizationDataset) -> str:
    return _digest(
        [
            (v.video_id, v.subset, v.duration_s, [(i.label, i.start_s, i.end_s) for i in v.instances])
            for v in data.videos
        ]
    )


def _moments_print(data: GroundingDataset) -> str:
    moments = {
        subset: [(m.video_id, m.sentence, m.start_s, m.end_s) for m in of_subset]
        for subset, of_subset in data.moments.items()
    }
    return _digest([moments, [(v.video_id, v.duration_s) for v in data.videos]])
