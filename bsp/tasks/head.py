"""Interface of heads: two functions, ``train`` and ``score``, and their inputs; two more to use it on new videos.

A head is trained on the features of one subset and predicts and scores on another. It gets arrays, annotations and
settings, and returns documents and scores. ``keep`` gives what a model folder stores of a trained head, ``apply`` makes
functions of it that take the features of any video. tasks/heads.py lists the heads.
"""

from __future__ import annotations

import hashlib
import statistics
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, Literal, NamedTuple, NoReturn, Protocol, TypeVar

import numpy as np
from torch import Tensor

from bsp.errors import AnnotationError
from bsp.features.record import FeatureInfo, video_end_s
from bsp.localization.grounding.words import WordVectors
from bsp.statistics.per_video import PerVideo
from bsp.tasks.found import BoundaryCurve, Segment, best_first

HISTORY, SCORES = "history.json", "scores.json"
Blind = Literal["", "text", "video"]
ClassScores = Callable[[Sequence[str], Collection[str]], dict[str, np.ndarray]]


class Video(Protocol):
    """Interface of annotated videos."""

    @property
    def video_id(self) -> str:
        """Names the video's features."""

    @property
    def subset(self) -> str:
        """The name of its split."""


V = TypeVar("V", bound=Video)
Data = TypeVar("Data")
Settings = TypeVar("Settings")
Trained = TypeVar("Trained")


@dataclass(frozen=True)
class Features:
    """The features of all videos, read one video at a time."""

    read: Callable[[str], tuple[np.ndarray, FeatureInfo] | None]  # float32 [S, D] and their record by id; or None
    place: str = "the given features"  # for messages


@dataclass(frozen=True, kw_only=True)
class Sentences:
    """Settings of sentence inputs; for grounding heads only."""

    vectors: WordVectors | None = None  # None: word embeddings are learnt
    width: int = 300  # width of learnt embeddings
    train_vectors: bool = False  # train the given vectors further; the published codes freeze them
    blind: Blind = ""  # baselines that get no sentence, or no video
    held_out_every: int = 10  # one in so many training videos chooses the epoch instead of training; 0 = off


def no_class_scores(class_names: Sequence[str], video_ids: Collection[str]) -> NoReturn:
    """Default for heads without class scores: raises ValueError."""
    raise ValueError(f"this head needs class scores of {len(video_ids)} videos; its record must say so")


def _ignore(entry: dict[str, float]) -> None:
    pass


@dataclass(frozen=True, kw_only=True)
class HeadInputs(Generic[Data, Settings]):
    """Inputs of a head."""

    features: Features
    data: Data  # annotated videos, as a loader of bsp/datasets gives them
    settings: Settings
    subsets: tuple[str, str] = ("training", "validation")  # to train on, to predict and score on
    seed: int = 0
    device: str = "cpu"
    on_epoch: Callable[[dict[str, float]], None] = _ignore  # gets "epoch" and "loss", and what else a head records
    # Names of K classes and ids of videos -> float64 [K] by id. AnnotationError if a class or a video is not there.
    class_scores: ClassScores = no_class_scores
    sentences: Sentences = Sentences()


@dataclass(frozen=True, kw_only=True)
class Scored:
    """Predictions of a head and their scores."""

    predictions: dict[str, Any]  # by file name: a JSON document in a published format
    scores: dict[str, float]  # in percent: the columns of a table
    report: dict[str, Any] = field(default_factory=dict)  # full results of the metrics, by name
    facts: dict[str, Any] = field(default_factory=dict)  # counts, remarks


@dataclass(frozen=True, kw_only=True)
class Kept:
    """A trained head as it is stored."""

    settings: Any  # the frozen dataclass of the head, complete (also the features' width)
    tensors: dict[str, Tensor]  # weights
    class_names: tuple[str, ...] = ()  # of the K classes, in the order of class scores
    # JSON types: thresholds, vocabulary. run_head adds "features" (how those that it read were made) and "lengths" (of
    # the videos read in training).
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class VideoPart:
    """Features of a video, or of a window of one that is treated as a video; times are seconds from its beginning."""

    feat_SD: np.ndarray  # float32 [S, D]
    info: FeatureInfo
    duration_s: float
    class_scores: np.ndarray | None = None  # float64 [K], probabilities; None = not known


def _ranked(segments: list[Segment], windows: int) -> list[Segment]:
    return best_first(segments)


@dataclass(frozen=True, kw_only=True)
class Applied:
    """What a kept head does with a video's features; None: that is not in it. ValueError for features of others."""

    detect: Callable[[VideoPart], list[Segment]] | None = None  # best first
    ground: Callable[[VideoPart, str], list[Segment]] | None = None  # moments of a sentence, best first
    boundaries: Callable[[VideoPart], BoundaryCurve] | None = None
    unknown_words: Callable[[str], list[str]] | None = None  # of a sentence; ValueError if it has no known one
    whole_videos: bool = True  # a video much longer than those of the training is cut into windows
    # The segments of all windows, which overlap, and their number -> those of the video, best first.
    merge: Callable[[list[Segment], int], list[Segment]] = _ranked


@dataclass(frozen=True, kw_only=True)
class Head(Generic[Data, Settings, Trained]):
    """A localisation head. ``score`` and ``keep`` get the result of ``train``."""

    title: str  # for progress and messages
    data: type[Data]  # the annotations it reads
    settings: type[Settings]
    train: Callable[[HeadInputs[Data, Settings]], Trained]
    score: Callable[[HeadInputs[Data, Settings], Trained], Scored]
    # Both or none: what a model folder keeps; and the inverse, on a device ("cpu", "cuda").
    keep: Callable[[HeadInputs[Data, Settings], Trained], Kept] | None = None
    apply: Callable[[Kept, str], Applied] | None = None
    # Scores by the test videos that count, from the annotations, the settings, the subset that was scored, and a
    # function that reads a document of ``Scored.predictions`` by its name. None: only the whole subset has scores.
    per_video: Callable[[Data, Settings, str, Callable[[str], Any]], PerVideo] | None = None
    needs_class_scores: bool = False  # proposals get their class from video-level scores
    needs_sentences: bool = False

    def check(self, data: object, settings: object) -> None:
        """TypeError for annotations or settings of another type than the head's."""
        for given, wanted in ((data, self.data), (settings, self.settings)):
            if not isinstance(given, wanted):
                raise TypeError(f"{self.title} takes a {wanted.__name__}, not {type(given).__name__}")


class HeadRun(NamedTuple):
    """What :func:`run_head` gives."""

    documents: dict[str, Any]  # for JSON by file name: predictions, SCORES, HISTORY
    facts: dict[str, Any]  # "scores" in percent, "train_seconds", "score_seconds", and those of the head
    kept: Kept | None  # None for a head that cannot be kept


# Fields of a feature record that say how the features of all videos were made.
MADE_BY = ("feature_width", "snippet_frames", "stride_frames", "size_px", "encoder_hash", "precision")


def run_head(head: Head[Data, Settings, Trained], inputs: HeadInputs[Data, Settings]) -> HeadRun:
    """Train a head, predict and score. Raises as :meth:`Head.check`."""
    head.check(inputs.data, inputs.settings)
    history: list[dict[str, Any]] = []

    def on_epoch(entry: dict[str, float]) -> None:
        history.append(entry)
        inputs.on_epoch(entry)

    infos: dict[str, FeatureInfo] = {}  # read in training, also of videos that only choose the epoch

    def read(video_id: str) -> tuple[np.ndarray, FeatureInfo] | None:
        found = inputs.features.read(video_id)
        if found is not None:
            infos[video_id] = found[1]
        return found

    began = time.time()
    trained = head.train(replace(inputs, features=replace(inputs.features, read=read), on_epoch=on_epoch))
    trained_s = time.time() - began
    scored = head.score(inputs, trained)
    seconds = {"train_seconds": trained_s, "score_seconds": time.time() - began - trained_s}
    documents = {**scored.predictions, HISTORY: history, SCORES: {"scores": scored.scores, **scored.report}}
    kept = None
    if head.keep is not None:
        kept = head.keep(inputs, trained)
        kept = replace(kept, facts={**kept.facts, **_of_features(list(infos.values()))})
    return HeadRun(documents, {**seconds, "scores": scored.scores, **scored.facts}, kept)


def _of_features(infos: Sequence[FeatureInfo]) -> dict[str, Any]:
    """Facts on the features that were read: how they were made, and shortest, median and longest video."""
    if not infos:
        return {}
    lengths: dict[str, list[float]] = {
        "snippets": [info.snippets for info in infos],
        "seconds": [video_end_s(info) for info in infos],
    }
    spread = {unit: [min(of), statistics.median(of), max(of)] for unit, of in lengths.items()}
    return {"features": {name: getattr(infos[0], name) for name in MADE_BY}, "lengths": spread}


@dataclass(frozen=True)
class Split(Generic[V]):
    """The videos of one subset that have features, in the order of the annotations."""

    videos: list[V]
    features: list[np.ndarray]  # float32 [S, D] each
    infos: list[FeatureInfo]
    without: list[str]  # ids of the subset's videos without features


def hold_out(split: Split[V]) -> tuple[Split[V], Split[V]]:
    """(the rest, a tenth of the videos, one at least), by the hashes of their ids. AnnotationError for fewer than two.

    Choice: by hashes, so that a new video moves few others between the two.
    """
    ids = sorted((video.video_id for video in split.videos), key=lambda i: hashlib.sha256(i.encode()).hexdigest())
    if len(ids) < 2:
        raise AnnotationError("of one training video none can be held out to choose the epoch; set head.epoch_by=last")
    chosen = set(ids[: max(1, len(ids) // 10)])

    def part(wanted: bool) -> Split[V]:
        places = [k for k, video in enumerate(split.videos) if (video.video_id in chosen) == wanted]
        return Split(
            [split.videos[k] for k in places], [split.features[k] for k in places], [split.infos[k] for k in places], []
        )

    return replace(part(False), without=split.without), part(True)


def read_split(features: Features, videos: Iterable[V], subset: str) -> Split[V]:
    """Features of the videos of one subset. AnnotationError if none has any."""
    split: Split[V] = Split([], [], [], [])
    for video in videos:
        if video.subset != subset:
            continue
        found = features.read(video.video_id)
        if found is None:
            split.without.append(video.video_id)
        else:
            split.videos.append(video)
            split.features.append(found[0])
            split.infos.append(found[1])
    if not split.videos:
        raise AnnotationError(f"no video of subset {subset!r} has features in {features.place}; extract them first")
    return split
