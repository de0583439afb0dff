"""Recipes: the frozen records of all that decides a result. Their hashes name the stages (see stages.py).

Paths are not part of a recipe, fingerprints of what lies there are. A stage's ``code`` number is raised when
its code changes what it produces.
"""

from __future__ import annotations

from dataclasses import dataclass

from bsp.augment import AugmentSettings
from bsp.clips import ClipSettings
from bsp.encoder import EncoderSettings
from bsp.localization.gtad import GTADSettings
from bsp.pretext import PretextSettings
from bsp.pretrain import TrainSettings


@dataclass(frozen=True, kw_only=True)
class EncoderRecipe:
    """Frozen encoder weights. ``pretext`` None is a random encoder: then only encoder and seed count."""

    encoder: EncoderSettings
    pretext: PretextSettings | None = None
    clips: ClipSettings | None = None
    augment: AugmentSettings | None = None
    train: TrainSettings | None = None
    trimmed: str | None = None  # fingerprint of the catalog
    workers: int = 1  # data-parallel processes: batch norm and the order of sums depend on it
    seed: int = 0
    code: int = 1

    def __post_init__(self) -> None:
        parts = (self.pretext, self.clips, self.augment, self.train, self.trimmed)
        if any(part is None for part in parts) and any(part is not None for part in parts):
            raise ValueError("a trained encoder needs pretext, clips, augment, train and trimmed; a random one none")

    @property
    def name(self) -> str:
        """Readable file name: what was learnt, backbone, seed, steps."""
        backbone = f"tsm_r{self.encoder.depth}w{self.encoder.width}"
        if self.pretext is None:
            return f"random_{backbone}_seed{self.seed}"
        kinds = "+".join("".join(word[0] for word in kind.name.lower().split("_")) for kind in self.pretext.kinds)
        task = {"classification": "cls", "regression": "reg", "action": "action"}[self.pretext.task]
        what = f"{kinds}_{task}" if kinds else task
        return f"{what}_{backbone}_seed{self.seed}_step{self.train.steps}"


@dataclass(frozen=True, kw_only=True)
class FeatureRecipe:
    """Snippet features of all untrimmed videos under one encoder."""

    encoder: EncoderRecipe
    untrimmed: str  # fingerprint of the videos
    size_px: int  # what the encoder sees, square
    code: int = 1


@dataclass(frozen=True, kw_only=True)
class ClassScoresRecipe:
    """Video-level class scores, one set shared by all rows of a comparison: a linear classifier, trained on
    the training videos' ``features``."""

    features: FeatureRecipe
    annotations: str  # fingerprint of labels and subsets
    code: int = 1


@dataclass(frozen=True, kw_only=True)
class HeadRecipe:
    """A trained G-TAD head, its detections on the validation videos, and their scores."""

    features: FeatureRecipe
    class_scores: ClassScoresRecipe
    head: GTADSettings
    annotations: str
    seed: int = 0
    code: int = 1
