"""Where an experiment's videos come from: the embedded data set, or folders given by path.

Both go through the same loaders; what is fingerprinted here becomes part of every recipe. Only what the
experiment's heads need is loaded.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np

from bsp.clips.catalog import Catalog
from bsp.datasets.activitynet import LocalizationDataset, load_activitynet, videos_folder
from bsp.datasets.charades_sta import GroundingDataset, load_charades_sta
from bsp.datasets.crosstask import load_crosstask
from bsp.datasets.gebd import load_gebd_folder
from bsp.datasets.hacs import load_hacs
from bsp.datasets.kinetics import load_kinetics_folder
from bsp.datasets.pantomime import render as pantomime
from bsp.datasets.pantomime.grounding import render_grounding
from bsp.datasets.pantomime.stories import render_stories
from bsp.datasets.thumos14 import load_thumos14
from bsp.encoders.checkpoints import checkpoint_architecture, load_tsm_checkpoint
from bsp.encoders.tsm import build_encoder
from bsp.files.text import is_hidden
from bsp.localization.grounding.words import WordVectors, load_glove, tokenise
from bsp_platform.plan.profiles import Profile
from bsp_platform.plan.tasks import Head, data_sets
from bsp_platform.storage.stages import file_sha256

MAX_MISSING_SHARE = 0.5  # of the videos of Charades-STA, as load_activitynet has it


@dataclass(frozen=True, kw_only=True)
class DataPaths:
    """Folders and files that the user gave; data folders are all None with an embedded profile."""

    kinetics: Path | None = None
    activitynet: Path | None = None
    charades: Path | None = None
    thumos: Path | None = None
    hacs: Path | None = None
    crosstask: Path | None = None
    gebd: Path | None = None
    # These may also go with an embedded profile:
    glove: Path | None = None
    class_scores: tuple[tuple[str, Path], ...] = ()  # (data set, published classification result)
    vanilla_weights: tuple[Path, ...] = ()  # checkpoints that stand for the vanilla encoder, by their depth


FOLDERS = tuple(f.name for f in fields(DataPaths) if f.name not in ("glove", "class_scores", "vanilla_weights"))


@dataclass(frozen=True, kw_only=True)
class GivenFile:
    """A file given by path whose content is part of the result."""

    path: str
    sha256: str
    report: str = ""  # of a checkpoint: what was loaded from it


@dataclass(frozen=True, kw_only=True)
class Sources:
    """The videos of an experiment and their fingerprints, by data set; only those that its heads need."""

    trimmed: Catalog
    trimmed_print: str
    data: Mapping[str, Any] = field(default_factory=dict)  # LocalizationDataset, GroundingDataset, ...
    videos_prints: Mapping[str, str] = field(default_factory=dict)  # of the video files
    labels_prints: Mapping[str, str] = field(default_factory=dict)  # of the annotations
    glove: WordVectors | None = None  # only the words that occur
    class_scores: Mapping[str, GivenFile] = field(default_factory=dict)  # by data set
    vanilla_weights: Mapping[int, GivenFile] = field(default_factory=dict)  # by depth

    @property
    def notes(self) -> list[str]:
        """Where word embeddings, class scores and given weights come from, for the output."""
        notes = [f"class scores of {name}: {Path(file.path).name}" for name, file in self.class_scores.items()]
        notes += [
            f"vanilla R{depth} is {Path(file.path).name}, as given" for depth, file in self.vanilla_weights.items()
        ]
        if "charades" in self.data:
            if self.glove is None:
                notes.append("word embeddings learnt from scratch (no GloVe file given)")
            else:
                notes.append(f"word embeddings {self.glove.name}, {self.glove.vectors.shape[1]}-d, frozen")
        return notes


def load_sources(
    profile: Profile, heads: Collection[Head], paths: DataPaths, *, storage: Path, progress: bool = True
) -> Sources:
    """Render or find the embedded data, or load the given folders. ValueError for a missing option."""
    wanted = sorted(data_sets(heads))
    if profile.pantomime is not None:
        given = [f"--{name}" for name in FOLDERS if getattr(paths, name)]
        if given:
            raise ValueError(
                f"profile {profile.name} renders its own videos; {' and '.join(given)} go with --profile paper"
            )
        root = pantomime.render(profile.pantomime, storage / "pantomime", progress=progress)
        folders = {name: _embedded(name, root, profile, storage / "pantomime", progress) for name in wanted}
        kinetics = root / "trimmed"
    else:
        missing = [f"--{name} DIR" for name in ("kinetics", *wanted) if not getattr(paths, name)]
        if missing:
            raise ValueError(f"profile {profile.name} needs {' and '.join(missing)}")
        folders = {name: getattr(paths, name) for name in wanted}
        kinetics = paths.kinetics
    trimmed = load_kinetics_folder(kinetics, cache_dir=storage / "catalogs")
    data = {name: _LOADERS[name](folder) for name, folder in folders.items()}
    glove = None
    if "charades" in data and paths.glove is not None:
        glove = _only_words_of(load_glove(paths.glove, cache_dir=storage / "glove"), data["charades"])
    return Sources(
        trimmed=trimmed,
        trimmed_print=trimmed.fingerprint(),
        data=data,
        videos_prints={name: _videos_print(d.videos, given=profile.pantomime is None) for name, d in data.items()},
        labels_prints={name: _labels_print(d) for name, d in data.items()},
        glove=glove,
        class_scores={name: _given(path) for name, path in paths.class_scores if name in data},
        vanilla_weights=_vanilla_weights(paths.vanilla_weights, profile),
    )


def _embedded(name: str, root: Path, profile: Profile, out: Path, progress: bool) -> Path:
    """The folder of one data set of the embedded world; ActivityNet's lies beside the trimmed videos in ``root``."""
    if name == "activitynet":
        return root / "untrimmed"
    if name == "charades":
        return render_grounding(profile.grounding, out, progress=progress)
    stories = render_stories(profile.stories, out, progress=progress)
    return stories / {"thumos": "games", "hacs": "games", "crosstask": "tasks", "gebd": "clips"}[name]


def _given(path: Path, report: str = "") -> GivenFile:
    return GivenFile(path=str(path.resolve()), sha256=file_sha256(path), report=report)


def _vanilla_weights(paths: Iterable[Path], profile: Profile) -> dict[int, GivenFile]:
    """Checkpoints by depth; ValueError for one of another width than the profile's, or two of one depth."""
    found: dict[int, GivenFile] = {}
    for path in paths:
        depth, width = checkpoint_architecture(path)
        if width != profile.encoder.width:
            raise ValueError(
                f"{path}: a ResNet-{depth} of width {width}, but profile {profile.name} uses width "
                f"{profile.encoder.width}; published weights go with --profile paper or paper-r50"
            )
        if depth in found:
            raise ValueError(f"{path}: --vanilla-weights already has a ResNet-{depth}, {found[depth].path}")
        report = load_tsm_checkpoint(build_encoder(replace(profile.encoder, depth=depth), seed=0), path)
        found[depth] = _given(path, str(report))
    return found


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


def _load_activitynet(folder: Path) -> LocalizationDataset:
    return load_activitynet(_one_json(folder, "--activitynet", "activity*net*"), videos_folder(folder))


def _load_charades(folder: Path) -> GroundingDataset:
    """The official files in ``folder``; refused when most of the videos are not there."""
    data = load_charades_sta(folder)
    if len(data.missing) > MAX_MISSING_SHARE * len(data.videos):
        raise ValueError(
            f"--charades {folder}: {len(data.missing)} of {len(data.videos)} videos have no file, for example "
            f"{data.missing[0]}.mp4; put the videos into {folder / 'videos'}"
        )
    return data


def _load_thumos(folder: Path) -> LocalizationDataset:
    return load_thumos14(_inside(folder, "thumos14"), videos_folder(folder))


def _load_hacs(folder: Path) -> LocalizationDataset:
    return load_hacs(_one_json(folder, "--hacs", "hacs*"), videos_folder(folder))


def _load_crosstask(folder: Path) -> Any:
    return load_crosstask(_inside(folder, "crosstask_release"), videos_folder(folder))


def _inside(folder: Path, name: str) -> Path:
    """``folder/name`` if there is such a folder of annotations, else the folder itself."""
    return folder / name if (folder / name).is_dir() else folder


def _one_json(folder: Path, option: str, pattern: str) -> Path:
    """The annotation file in ``folder``: the one that is called like the data set, else the only ``*.json``."""
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


_LOADERS = {
    "activitynet": _load_activitynet,
    "charades": _load_charades,
    "thumos": _load_thumos,
    "hacs": _load_hacs,
    "crosstask": _load_crosstask,
    "gebd": load_gebd_folder,
}


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def _videos_print(videos: Iterable, *, given: bool) -> str:
    """Names the files. Those of given videos changed when features learnt to say at which times their frames are shown:
    records of before would be believed where the frame rate varies. Embedded videos are of a constant rate."""
    found = [(v.video_id, Path(v.path).stat().st_size) for v in videos if v.path is not None]
    return _digest(["times of frames", found] if given else found)


def _labels_print(data: Any) -> str:
    if isinstance(data, GroundingDataset):
        moments = {
            subset: [(m.video_id, m.sentence, m.start_s, m.end_s) for m in of_subset]
            for subset, of_subset in data.moments.items()
        }
        return _digest([moments, [(v.video_id, v.duration_s) for v in data.videos]])
    if isinstance(data, LocalizationDataset):
        return _digest(
            [
                (v.video_id, v.subset, v.duration_s, [(i.label, i.start_s, i.end_s) for i in v.instances])
                for v in data.videos
            ]
        )
    return _digest([{k: v for k, v in asdict(video).items() if k != "path"} for video in data.videos])
