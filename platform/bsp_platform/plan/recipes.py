"""Recipes: frozen records of everything that determines a result. Their hashes name the stages (see storage/stages.py).

A recipe holds fingerprints of files instead of paths. A stage's ``code`` number is raised when
its code changes what it produces. A field with metadata "later" was added after results existed: at its
default it does not enter the hash, so that those results are still found.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, get_args

from bsp.clips.augment import AugmentSettings
from bsp.clips.plan import BoundaryKind, ClipSettings
from bsp.encoders.contract import Architecture
from bsp.encoders.start import IMAGE
from bsp.features.reading import Reading, Readout, Sampling
from bsp.features.store import Precision
from bsp.localization.gtad.network import GTADSettings
from bsp.pretraining.contract import Pretext
from bsp.pretraining.loop import TrainSettings
from bsp.pretraining.pretexts import PRETEXTS
from bsp.tasks.head import Blind

Start = Literal["", "random", "image"]
Statistics = Literal["", "target", "plain"]
FUSIONS = ("two-head", "distillation")  # methods that train one encoder for action classes and a second pretext


@dataclass(frozen=True, kw_only=True)
class Stream:
    """One encoder of a table's row, before data and seed are known. Features of several are concatenated."""

    # "random", "image" (start weights as they are), the name of a pretext in PRETEXTS ("action" is vanilla), or one of
    # FUSIONS
    method: str
    kinds: tuple[BoundaryKind, ...] = ()  # that "classification" and "regression" are over
    second: str = "classification"  # of FUSIONS: the pretext beside "action"
    seed_offset: int = 0  # added to the row's seed
    encoder: str = ""  # name of one of the profile's ``encoders``; "" = its own
    start: Start = ""  # what its training starts from; "" = as the experiment's option says
    statistics: Statistics = ""  # as of FeatureRecipe, likewise the next two
    readout: Readout = ""
    snippet_sampling: Sampling = ""

    def __post_init__(self) -> None:
        for name, known in ((self.method, ("random", IMAGE, *PRETEXTS, *FUSIONS)), (self.second, tuple(PRETEXTS))):
            if name not in known:
                raise ValueError(f"no way of pre-training is called {name!r}; there are {', '.join(known)}")

    def __str__(self) -> str:
        kinds = "+".join(kind.name.lower() for kind in self.kinds)
        second = self.second if self.second != "classification" else kinds
        other = f" seed+{self.seed_offset}" if self.seed_offset else ""
        encoder = f" {self.encoder}" if self.encoder else ""
        start = f" from {self.start}" if self.start else ""
        features = (f"statistics={self.statistics}" if self.statistics else "", self.readout, self.snippet_sampling)
        how = "".join(f" {name}" for name in features if name)
        return f"{self.method}{f'({second})' if second else ''}{encoder}{other}{start}{how}"


class Training(NamedTuple):
    """The parts of a recipe that only a trained encoder has."""

    pretext: Pretext
    clips: ClipSettings
    augment: AugmentSettings
    train: TrainSettings


@dataclass(frozen=True, kw_only=True)
class EncoderRecipe:
    """Frozen encoder weights. ``pretext`` None is not trained: random (only encoder and seed count) or, with
    ``weights`` or ``start``, a published checkpoint as it is."""

    encoder: Architecture
    pretext: Pretext | None = None
    clips: ClipSettings | None = None
    augment: AugmentSettings | None = None
    train: TrainSettings | None = None
    trimmed: str | None = None  # fingerprint of the catalog
    workers: int = 1  # data-parallel processes: batch norm and the order of sums depend on it
    seed: int = 0
    teachers: tuple[EncoderRecipe, ...] = field(default=(), metadata={"later": True})  # action, boundary
    weights: str = field(default="", metadata={"later": True})  # SHA-256 of a checkpoint file; "" = none
    zero_residual: bool = field(default=False, metadata={"later": True})  # blocks begin as their shortcuts
    # What it starts from: "" random weights, "image" those of ``still`` or, without it, ImageNet's that come by pip
    # (bsp/encoders/start.py), else SHA-256 of a file.
    start: str = field(default="", metadata={"later": True})
    still: EncoderRecipe | None = field(default=None, metadata={"later": True})  # a classifier of single pictures
    code: int = 1

    def __post_init__(self) -> None:
        parts = (self.pretext, self.clips, self.augment, self.train, self.trimmed)
        if any(part is None for part in parts) and any(part is not None for part in parts):
            raise ValueError("a trained encoder needs pretext, clips, augment, train and trimmed; a random one none")
        if self.weights and self.pretext is not None:
            raise ValueError("weights from a file are taken as they are: such an encoder has no pretext")
        if self.still and self.start != IMAGE:
            raise ValueError("a classifier of still pictures gives the start weights called image, and no others")
        if self.start and (self.weights or self.teachers or self.zero_residual):
            raise ValueError(
                "start weights go with no other beginning: published weights as they are, the student's copy of its"
                " teacher, or blocks that begin as their shortcuts (zero_residual, for random weights)"
            )
        teachers = self.pretext.teachers if self.pretext else 0
        if len(self.teachers) != teachers:
            raise ValueError(f"this pretext needs {teachers} teachers, not {len(self.teachers)}")
        if self.pretext is not None and self.clips is not None:
            frames = self.pretext.clip_frames(self.clips)
            if frames != self.encoder.clip_frames:
                raise ValueError(
                    f"{self.encoder.name} takes clips of {self.encoder.clip_frames} frames, but half_len "
                    f"{self.clips.half_len} gives {frames}; change one of the two"
                )
        if teachers and self.teachers[0].encoder != self.encoder:
            raise ValueError("the student starts as a copy of the action teacher: their encoders must be the same")

    @property
    def name(self) -> str:
        """Readable file name: what was learnt, backbone, seed, steps."""
        if self.weights:
            return f"given_{self.encoder.name}_{self.weights[:8]}"
        if self.pretext is None and self.start:
            seed = f"_seed{self.still.seed}" if self.still else ""
            return f"{self.start[:8]}_{self.encoder.name}{seed}"
        if self.pretext is None:
            return f"random_{self.encoder.name}_seed{self.seed}"
        name = f"{self.pretext.name}_{self.encoder.name}_seed{self.seed}_step{self.training.train.steps}"
        return f"{name}_from_{self.start[:8]}" if self.start else name

    @property
    def start_recipe(self) -> EncoderRecipe | None:
        """The stage of the weights that its training starts from, untrained; None for random ones and teachers'."""
        if not self.start or self.pretext is None:
            return None
        return EncoderRecipe(encoder=self.encoder.for_snippets(), start=self.start, still=self.still)

    @property
    def needed(self) -> list[EncoderRecipe]:
        """The stages that must be there before it, the first ones first; a stage may be named twice."""
        direct = [recipe for recipe in (self.still, *self.teachers, self.start_recipe) if recipe]
        return [recipe for one in direct for recipe in (*one.needed, one)]

    @property
    def training(self) -> Training:
        """How it is trained. ValueError for an encoder that is not."""
        if self.pretext is None or self.clips is None or self.augment is None or self.train is None:
            raise ValueError(f"{self.name} is not trained")
        return Training(self.pretext, self.clips, self.augment, self.train)


@dataclass(frozen=True, kw_only=True)
class FeatureRecipe:
    """Snippet features of all untrimmed videos under one encoder."""

    encoder: EncoderRecipe
    untrimmed: str  # fingerprint of the videos
    size_px: int  # what the encoder sees, square
    precision: Precision = field(default="float32", metadata={"later": True})  # that the encoder computes in
    # Batch-norm statistics: "" as trained; "target" estimated again on unlabelled snippets of the training videos of
    # the data, "plain" on clips of the pre-training data without a boundary.
    statistics: Statistics = field(default="", metadata={"later": True})
    statistics_videos: str = field(default="", metadata={"later": True})  # fingerprint of those videos
    statistics_seed: int = field(default=0, metadata={"later": True})  # which snippets or clips
    readout: Readout = field(default="", metadata={"later": True})  # bsp/features/reading.py
    snippet_sampling: Sampling = field(default="", metadata={"later": True})
    code: int = 1

    def __post_init__(self) -> None:
        if self.statistics not in get_args(Statistics):
            raise ValueError(f"statistics cannot be {self.statistics!r}; there are {get_args(Statistics)}")
        if self.snippet_sampling and self.encoder.encoder.for_snippets().clip_frames != 8:
            raise ValueError(f"snippet_sampling {self.snippet_sampling} is for encoders of 8 frames")

    @property
    def reading(self) -> Reading:
        """How features are read off the encoder. ValueError for unknown names."""
        return Reading(readout=self.readout, sampling=self.snippet_sampling)


@dataclass(frozen=True, kw_only=True)
class ClassScoresRecipe:
    """Video-level class scores, one set shared by all rows of a comparison: a linear classifier, trained on
    the training videos' ``features``."""

    features: FeatureRecipe
    annotations: str  # fingerprint of labels and subsets
    code: int = 1


@dataclass(frozen=True, kw_only=True)
class ClassScoresFile:
    """Video-level class scores from a published classification result, given by path."""

    sha256: str
    annotations: str  # fingerprint of the data set whose videos and classes are looked up in it
    code: int = 1


@dataclass(frozen=True, kw_only=True)
class HeadRecipe:
    """A trained G-TAD head, its detections on the validation videos, and their scores."""

    features: FeatureRecipe
    class_scores: ClassScoresRecipe | ClassScoresFile
    head: GTADSettings
    annotations: str
    seed: int = 0
    more_streams: tuple[FeatureRecipe, ...] = field(default=(), metadata={"later": True})  # concatenated
    code: int = 1

    @property
    def streams(self) -> tuple[FeatureRecipe, ...]:
        """All feature streams, concatenated in this order."""
        return (self.features, *self.more_streams)


@dataclass(frozen=True, kw_only=True)
class GroundingRecipe:
    """A trained 2D-TAN or LGI head, its moments for the test sentences, and their scores."""

    streams: tuple[FeatureRecipe, ...]
    head: Any  # the settings of the head, such as TAN2DSettings or LGISettings
    glove: str | None  # SHA-256 of the GloVe file; None = embeddings learnt from scratch
    word_width: int  # width of embeddings that are learnt; unused with GloVe
    moments: str  # fingerprint of sentences, times and durations
    held_out_every: int = 10  # one in so many training videos chooses the epoch instead of training; 0 = off
    blind: Blind = ""  # baselines that get no sentence, or no video
    seed: int = 0
    code: int = 1


@dataclass(frozen=True, kw_only=True)
class TaskRecipe:
    """A trained head of another task (THUMOS-14, step localisation, event boundaries), its predictions and scores."""

    streams: tuple[FeatureRecipe, ...]
    head: Any  # the settings of the head; their class says which one it is
    annotations: str  # fingerprint
    class_scores: ClassScoresRecipe | ClassScoresFile | None = None  # THUMOS-14 only
    seed: int = 0
    code: int = 1


AnyHeadRecipe = HeadRecipe | GroundingRecipe | TaskRecipe
