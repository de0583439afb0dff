"""The data of an experiment: the embedded data set, or folders given by path.

Both use the same loaders; the fingerprints made here are part of every recipe. Only the data sets that the
experiment's rows need are loaded.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from bsp.clips.catalog import Catalog
from bsp.datasets.activitynet import LocalizationDataset
from bsp.datasets.charades_sta import GroundingDataset
from bsp.datasets.data_sets import DATA_SETS, Annotated, Embedded, VideoFile
from bsp.datasets.kinetics import load_kinetics_folder
from bsp.datasets.pantomime.render import render
from bsp.encoders.build import build_encoder
from bsp.encoders.checkpoints import choose_settings, load_checkpoint
from bsp.encoders.contract import Architecture
from bsp.encoders.start import IMAGE
from bsp.errors import FileError
from bsp.localization.grounding.words import WordVectors, load_glove, tokenise
from bsp_platform.plan.profiles import Profile
from bsp_platform.plan.recipes import Start, Stream
from bsp_platform.storage.files import file_sha256


@dataclass(frozen=True, kw_only=True)
class DataPaths:
    """Folders and files that the user gave."""

    folders: Mapping[str, Path] = field(default_factory=dict)  # "kinetics", and of DATA_SETS
    glove: Path | None = None
    class_scores: tuple[tuple[str, Path], ...] = ()  # (data set, published classification result)
    vanilla_weights: tuple[Path, ...] = ()  # checkpoints used as the vanilla encoder
    start: Start = "random"  # of trainings whose row names none
    start_weights: tuple[Path, ...] = ()  # checkpoints that the start "image" means, one for each encoder


@dataclass(frozen=True, kw_only=True)
class GivenFile:
    """A file given by path whose content is part of the result."""

    path: str
    sha256: str
    report: str = ""  # of a checkpoint: what was loaded from it


@dataclass(frozen=True, kw_only=True)
class Sources:
    """The videos of an experiment and their fingerprints, by data set; only those that are wanted."""

    trimmed: Catalog
    trimmed_print: str
    data: Mapping[str, Annotated] = field(default_factory=dict)
    videos_prints: Mapping[str, str] = field(default_factory=dict)  # of the video files
    labels_prints: Mapping[str, str] = field(default_factory=dict)  # of the annotations
    glove: WordVectors | None = None  # only the words that occur
    class_scores: Mapping[str, GivenFile] = field(default_factory=dict)  # by data set
    vanilla_weights: Mapping[Architecture, GivenFile] = field(default_factory=dict)  # by encoder
    start: Start = "random"  # of trainings whose row names none
    start_weights: Mapping[Architecture, GivenFile] = field(default_factory=dict)  # by encoder: what "image" is
    validation: Path | None = None  # folder with trimmed videos that are not trained on: val.csv and videos

    def start_of(self, encoder: Architecture, stream: Stream) -> str:
        """What the encoder of a stream begins with, as it stands in recipes."""
        start = IMAGE if stream.method == IMAGE else stream.start or self.start
        if start != IMAGE:
            return ""
        given = self.start_weights.get(encoder.for_snippets())
        return given.sha256 if given else IMAGE

    def untrimmed(self, name: str) -> LocalizationDataset:
        """A data set of untrimmed videos with instances. TypeError if it is of another kind."""
        data = self.data[name]
        if not isinstance(data, LocalizationDataset):
            raise TypeError(f"{name} is no data set of untrimmed videos with instances")
        return data

    @property
    def reports(self) -> list[str]:
        """What was loaded from the given weights."""
        return [file.report for file in (*self.vanilla_weights.values(), *self.start_weights.values())]

    @property
    def notes(self) -> list[str]:
        """Where word embeddings, class scores and given weights come from, for the output."""
        notes = [f"class scores of {name}: {Path(file.path).name}" for name, file in self.class_scores.items()]
        notes += [
            f"vanilla {encoder.name} is {Path(file.path).name}, as given"
            for encoder, file in self.vanilla_weights.items()
        ]
        if self.start == IMAGE:
            notes.append("trainings start from image weights")
        notes += [
            f"image weights of {encoder.name} are {Path(file.path).name}, as given"
            for encoder, file in self.start_weights.items()
        ]
        if any(isinstance(data, GroundingDataset) for data in self.data.values()):
            if self.glove is None:
                notes.append("word embeddings learnt from scratch (no GloVe file given)")
            else:
                notes.append(f"word embeddings {self.glove.name}, {self.glove.vectors.shape[1]}-d, frozen")
        return notes


def load_sources(
    profile: Profile,
    wanted: Collection[str],
    paths: DataPaths,
    *,
    storage: Path,
    caches: Path | None = None,
    progress: bool = True,
) -> Sources:
    """Render or find the embedded data, or load the given folders, of the data sets in ``wanted``.

    A data set without an embedded version is given by its folder in every profile. What is found
    in files is remembered in ``caches`` (None: the storage). ValueError for a missing option.
    """
    caches = caches or storage
    folders = dict(paths.folders)
    if profile.pantomime is not None:
        embedded = {name: data_set.embedded for name, data_set in DATA_SETS.items()}
        given = [f"--{name}" for name in folders if name == "kinetics" or embedded[name]]
        if given:
            raise ValueError(
                f"profile {profile.name} renders its own videos; {' and '.join(given)} go with --profile paper"
            )
        out = storage / "pantomime"
        root = render(profile.pantomime, out, progress=progress)
        world = Embedded(root=root, out=out, grounding=profile.grounding, stories=profile.stories, progress=progress)
        folders |= {name: make(world) for name in sorted(wanted) if (make := embedded[name])}
        folders["kinetics"] = root / "trimmed"
    missing = [f"--{name} DIR" for name in ("kinetics", *sorted(wanted)) if name not in folders]
    if missing:
        raise ValueError(f"profile {profile.name} needs {' and '.join(missing)}")
    trimmed = load_kinetics_folder(folders["kinetics"], cache_dir=caches / "catalogs")
    data = {name: DATA_SETS[name].load(folders[name]) for name in sorted(wanted)}
    glove = None
    sentences = [d for d in data.values() if isinstance(d, GroundingDataset)]
    if sentences and paths.glove is not None:
        glove = _only_words_of(load_glove(paths.glove, cache_dir=caches / "glove"), sentences)
    return Sources(
        trimmed=trimmed,
        trimmed_print=trimmed.fingerprint(),
        data=data,
        videos_prints={name: _videos_print(d.videos, given=profile.pantomime is None) for name, d in data.items()},
        labels_prints={name: _digest(DATA_SETS[name].labels(d)) for name, d in data.items()},
        glove=glove,
        class_scores={name: _given_file(path) for name, path in paths.class_scores if name in data},
        vanilla_weights=_given_weights(paths.vanilla_weights, profile, "--vanilla-weights"),
        start=paths.start,
        start_weights=_given_weights(paths.start_weights, profile, "--start-weights"),
        validation=folders["kinetics"] if profile.pantomime is not None else None,
    )


def _given_file(path: Path, report: str = "") -> GivenFile:
    return GivenFile(path=str(path.resolve()), sha256=file_sha256(path), report=report)


def _given_weights(paths: Iterable[Path], profile: Profile, option: str) -> dict[Architecture, GivenFile]:
    """Checkpoints by encoder; ValueError for one that fits none of the profile's, or two of one encoder."""
    found: dict[Architecture, GivenFile] = {}
    offered = [encoder.for_snippets() for encoder in profile.known_encoders]
    for path in paths:
        try:
            settings = choose_settings(path, offered)
        except FileError as error:
            raise FileError(f"{error}; this is profile {profile.name}, published weights go with paper") from None
        if settings in found:
            raise ValueError(f"{path}: {option} already has {settings.name}, {found[settings].path}")
        found[settings] = _given_file(path, str(load_checkpoint(build_encoder(settings, seed=0), path)))
    return found


def _only_words_of(glove: WordVectors, data: Iterable[GroundingDataset]) -> WordVectors:
    """The vectors of the words that occur under either tokeniser: megabytes instead of hundreds of them."""
    sentences = [moment.sentence for one in data for moments in one.moments.values() for moment in moments]
    occurring = {word for sentence in sentences for rule in ("2dtan", "lgi") for word in tokenise(sentence, rule)}
    rows = [row for row, word in enumerate(glove.words) if word in occurring]
    return WordVectors(
        words=tuple(glove.words[row] for row in rows),
        vectors=np.ascontiguousarray(glove.vectors[rows]),
        name=glove.name,
        sha256=glove.sha256,
    )


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def _videos_print(videos: Iterable[VideoFile], *, given: bool) -> str:
    """Fingerprint of ids and sizes. The text "times of frames" keeps features of given videos from being reused that
    were made before records held frame times, as those are wrong at variable frame rates."""
    found = [(v.video_id, Path(v.path).stat().st_size) for v in videos if v.path is not None]
    return _digest(["times of frames", found] if given else found)
