"""The settings that a search varies: how boundaries are made, and how the encoder joins the vanilla one.

A ``Setting`` becomes the recipes of a row: encoders, features and head, shared with the tables and with other
trials. Parameters without effect (epsilon without dc, gammas without ds) are None, so that such settings are one trial.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, get_args

from bsp.clips.plan import PAPER_KINDS, BoundaryKind, ClipSettings
from bsp.pretraining.loop import TrainSettings
from bsp_platform.plan.profiles import Profile
from bsp_platform.plan.recipes import EncoderRecipe, FeatureRecipe, Stream
from bsp_platform.plan.rows import RowRecipes
from bsp_platform.plan.sources import Sources
from bsp_platform.plan.tasks import head_recipe

Fusion = Literal["alone", "two-stream", "two-head", "distillation"]
KINDS = {kind.short: kind for kind in PAPER_KINDS}  # dc, sc, ds, ss


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One point of the search space. The fields are the names on the command line."""

    fusion: Fusion  # the searched encoder alone, beside vanilla, with a second head, or distilled
    kinds: tuple[str, ...]  # boundary mix, of dc sc ds ss, in this order; at least 2
    epsilon: int | None  # half the transition of dc, frames, 0 to tau
    gammas: tuple[float, ...] | None  # new rates of ds
    min_segment: int  # change point in [min_segment, 2 tau - min_segment], frames; tau fixes it in the middle
    stride: int  # source frames from one clip frame to the next
    tau: int  # half the clip, frames

    def clips(self, base: ClipSettings) -> ClipSettings:
        """Settings of the clips; parameters without effect are as in ``base``. ValueError for an impossible setting."""
        return replace(
            base,
            half_len=self.tau,
            epsilon=self.epsilon if self.epsilon is not None else min(base.epsilon, self.tau),
            gammas=self.gammas if self.gammas is not None else base.gammas,
            change_point=None,
            min_segment=self.min_segment,
            stride_frames=self.stride,
            kinds=self.boundary_kinds,
        )

    @property
    def boundary_kinds(self) -> tuple[BoundaryKind, ...]:
        """The kinds as members of BoundaryKind."""
        return tuple(KINDS[name] for name in self.kinds)

    @classmethod
    def from_plain(cls, record: Mapping[str, Any]) -> Setting:
        """The setting back from ``dataclasses.asdict`` or its JSON."""
        values: dict[str, Any] = {k: tuple(value) if isinstance(value, list) else value for k, value in record.items()}
        return cls(**values)

    def values(self) -> dict[str, str]:
        """By parameter, the value as it is written on the command line; "-" for one without effect."""
        return {name: shown(value) for name, value in asdict(self).items()}

    def __str__(self) -> str:
        return ", ".join(f"{name} {value}" for name, value in self.values().items() if value != "-")


PARAMETERS = tuple(field.name for field in fields(Setting))


def shown(value: object) -> str:
    """A value as text: "dc+ss", "0.25+4", "1", "-" for None."""
    if value is None:
        return "-"
    if isinstance(value, tuple | list):
        return "+".join(map(shown, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def read_value(name: str, text: str) -> Any:
    """The value of parameter ``name`` from its text. ValueError names both."""
    try:
        if name == "fusion":
            if text not in get_args(Fusion):
                raise ValueError(f"it is one of {', '.join(get_args(Fusion))}")
            return text
        if name == "kinds":
            unknown = [part for part in text.split("+") if part not in KINDS]
            if unknown or len(set(text.split("+"))) < 2:
                raise ValueError(f"a mix is two or more of {', '.join(KINDS)}, joined by +")
            return tuple(kind for kind in KINDS if kind in text.split("+"))
        if name == "gammas":
            return tuple(sorted(float(part) for part in text.split("+")))
        return int(text)
    except ValueError as error:
        raise ValueError(f"{name}={text}: {error}") from None


Space = dict[str, tuple[Any, ...]]  # by parameter, in the order of PARAMETERS: the values to try


def read_space(texts: Mapping[str, str], base: Profile) -> Space:
    """The space from texts such as {"epsilon": "0,1,2"}; a parameter that is not named stays as in the profile.

    Raises ValueError for an unknown parameter or a value that it cannot have.
    """
    unknown = sorted(set(texts) - set(PARAMETERS))
    if unknown:
        raise ValueError(f"unknown parameter {', '.join(unknown)}; a search varies {', '.join(PARAMETERS)}")
    clips = base.clips
    usual = {
        "fusion": "alone",
        "kinds": "+".join(name for name, kind in KINDS.items() if kind in clips.kinds),
        "epsilon": shown(clips.epsilon),
        "gammas": shown(clips.gammas),
        "min_segment": shown(clips.min_segment),
        "stride": shown(clips.stride_frames),
        "tau": shown(clips.half_len),
    }
    space = {}
    for name in PARAMETERS:
        values = [read_value(name, text.strip()) for text in texts.get(name, usual[name]).split(",")]
        space[name] = tuple(dict.fromkeys(values))
    return space


def make_setting(values: Mapping[str, Any], base: ClipSettings) -> Setting | None:
    """The setting with these values, or None if it is impossible (epsilon or min_segment above tau)."""
    values = dict(values)
    if "dc" not in values["kinds"]:
        values["epsilon"] = None
    if "ds" not in values["kinds"]:
        values["gammas"] = None
    setting = Setting(**values)
    try:
        setting.clips(base)
    except ValueError:
        return None
    return setting


def all_settings(space: Space, base: ClipSettings) -> Iterator[Setting]:
    """Each possible and different setting of the space once, the last parameter varying fastest."""
    seen = set()
    for values in itertools.product(*space.values()):
        setting = make_setting(dict(zip(space, values, strict=True)), base)
        if setting is not None and setting not in seen:
            seen.add(setting)
            yield setting


@dataclass(frozen=True, kw_only=True)
class TrialPlan:
    """The stages of a setting and seed, and which of its encoders is the searched one."""

    recipes: RowRecipes
    searched: EncoderRecipe

    @property
    def searched_features(self) -> FeatureRecipe:
        """The features of the searched encoder."""
        return next(recipe for _, recipe in self.recipes.features() if recipe.encoder == self.searched)

    @property
    def train(self) -> TrainSettings:
        """How the searched encoder is trained."""
        assert self.searched.train is not None, "no search varies an encoder that is not trained"
        return self.searched.train


def plan_trial(
    setting: Setting, seed: int, profile: Profile, sources: Sources, workers: int, clips: int | None = None
) -> TrialPlan:
    """The recipes of a trial. ``clips`` shortens the training of the searched encoder (and of its boundary teacher).

    The vanilla encoder is the profile's own, as in Tables 4 and 5, whatever is varied. Only as the teacher of a
    student with another tau it is trained on clips of that length, since a teacher sees the student's clips.
    """
    data: dict[str, Any] = {
        "trimmed": sources.trimmed_print,
        "num_actions": len(sources.trimmed.class_names),
        "workers": workers,
        "weights": {encoder: file.sha256 for encoder, file in sources.vanilla_weights.items()},
    }
    varied = replace(
        profile,
        encoder=profile.encoder.for_clips(2 * setting.tau),
        clips=setting.clips(profile.clips),
        train=_shortened(profile.train, clips),
        two_head_train=_shortened(profile.two_head_train, 2 * clips if clips else None),
    )
    kinds = setting.boundary_kinds
    vanilla = profile.encoder_recipe(Stream(method="action"), seed=seed, **data)
    shared = profile.encoder_recipe(Stream(method="action"), seed=0, **data)  # of the class scores
    method = "classification" if setting.fusion in ("alone", "two-stream") else setting.fusion
    searched = varied.encoder_recipe(Stream(method=method, kinds=kinds), seed=seed, **data)
    if searched.teachers:
        action = vanilla
        if setting.tau != profile.clips.half_len:
            plain = replace(profile.clips, half_len=setting.tau, epsilon=0, min_segment=1)
            longer = replace(profile, encoder=varied.encoder, clips=plain)
            action = longer.encoder_recipe(Stream(method="action"), seed=seed, **data)
        searched = replace(searched, teachers=(action, searched.teachers[1]))
    encoders = (vanilla, searched) if setting.fusion == "two-stream" else (searched,)
    head = head_recipe("gtad", encoders, shared, seed, "", profile, sources)
    return TrialPlan(recipes=RowRecipes(encoders=encoders, heads={"gtad": head}), searched=searched)


def _shortened(train: TrainSettings, clips: int | None) -> TrainSettings:
    """The same with fewer clips; the warm-up keeps its share of the steps."""
    if clips is None:
        return train
    if clips > train.clips:
        raise ValueError(f"--clips {clips} is more than the profile's {train.clips}; it only shortens the training")
    steps = clips // train.batch_size
    return replace(train, clips=clips, warmup_steps=train.warmup_steps * steps // train.steps)
