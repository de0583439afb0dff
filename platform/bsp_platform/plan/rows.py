"""A table of the paper as data: its rows, the paper's numbers, and the recipes of all stages of a row and seed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from bsp.encoders.start import IMAGE, has_image_weights
from bsp.pretraining.held_out import Level
from bsp.tasks.head import HISTORY, SCORES, Blind
from bsp_platform.plain_text import say
from bsp_platform.plan.profiles import Profile
from bsp_platform.plan.recipes import (
    AnyHeadRecipe,
    ClassScoresFile,
    ClassScoresRecipe,
    EncoderRecipe,
    FeatureRecipe,
    Stream,
)
from bsp_platform.plan.sources import Sources
from bsp_platform.plan.tasks import TASKS, Task, find_task, head_recipe
from bsp_platform.storage.stages import StageStore


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row of a table: which encoders, whose features are concatenated, and which tasks score them."""

    name: str  # on the command line
    label: str  # in the table, as the paper prints it
    streams: tuple[Stream, ...]
    heads: tuple[str, ...] = ("gtad",)  # names of tasks: heads on data sets
    blind: Blind = ""  # grounding baselines without sentence or video
    paper: dict[str, float] = field(default_factory=dict)  # the paper's scores, in percent
    other: dict[str, float] = field(default_factory=dict)  # those of Experiment.other_paper, in percent


def varied(row: Row, suffix: str, words: str, **of_streams: Any) -> Row:
    """The row with other settings of all its streams; name and label say so, and it has no scores of the paper's."""
    streams = tuple(replace(stream, **of_streams) for stream in row.streams)
    return replace(row, name=f"{row.name}-{suffix}", label=f"{row.label}, {words}", streams=streams, paper={})


@dataclass(frozen=True, kw_only=True)
class Reference:
    """A row that the paper cites from elsewhere; printed with its source, never run."""

    label: str
    source: str
    paper: dict[str, float] = field(default_factory=dict)
    other: dict[str, float] = field(default_factory=dict)  # of Experiment.other_paper


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A relation between two rows that the paper states, or that its method promises; the report checks it."""

    text: str
    higher: str  # name of the row that should be above ...
    lower: str  # ... this one
    metric: str
    paper: bool = True  # the paper states it; False: ours, where the paper reports nothing


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """A table of the paper: its rows, and which scores are its columns."""

    name: str  # of the script, the results folder and the MLflow experiment
    title: str
    rows: tuple[Row, ...]
    columns: tuple[str, ...] = ("mAP@0.50", "mAP@0.75", "mAP@0.95", "mAP_avg")
    paper_data: str = ""  # data set of the paper's numbers
    other_paper: str = ""  # short name of another paper, whose numbers have columns of their own; "" = none
    other_data: str = ""  # data set of its numbers
    references: tuple[Reference, ...] = ()
    claims: tuple[Claim, ...] = ()
    note: str = ""  # printed under the table
    costs: bool = False  # also compare the cost of inference


Cell = tuple[str, int]  # row name, seed


class PretextScore(NamedTuple):
    """How well an encoder solves its pretext on clips of videos that it was not trained on."""

    stream: int  # of the row, from 0
    statistic: str  # "accuracy", "change_point_error" (frames), and those of two tasks together
    value: float
    level: Level  # by chance


@dataclass(frozen=True, kw_only=True)
class RowRecipes:
    """The stages of one row and seed, besides class scores."""

    encoders: tuple[EncoderRecipe, ...]  # one per stream
    heads: dict[str, AnyHeadRecipe]  # by name of the task
    tasks: dict[str, Task] = field(default_factory=TASKS.copy, compare=False)  # sent to the nodes with the recipes

    def features(self) -> Iterator[tuple[str, FeatureRecipe]]:
        """(data set, recipe) of the features that the heads read."""
        for name, head in self.heads.items():
            for recipe in head.streams:
                yield self.tasks[name].data.name, recipe

    def stages(self) -> list[tuple[str, Any]]:
        """(kind, recipe) of all of them, of the teachers, and of the weights that trainings start from."""
        needed = [recipe for encoder in self.encoders for recipe in encoder.needed]
        encoders = dict.fromkeys([*needed, *self.encoders])  # each once, in order
        return [
            *(("encoders", recipe) for recipe in encoders),
            *(("features", recipe) for recipe in dict.fromkeys(f for _, f in self.features())),
            *(("heads", recipe) for recipe in self.heads.values()),
        ]

    def class_scores(self) -> list[ClassScoresRecipe | ClassScoresFile]:
        """Of the heads that need them."""
        found = [getattr(head, "class_scores", None) for head in self.heads.values()]
        return [scores for scores in found if scores is not None]

    def finished(self, store: StageStore) -> bool:
        """Whether all heads are in the store."""
        return all(store.find("heads", head) for head in self.heads.values())

    def scores(self, store: StageStore) -> dict[str, float] | None:
        """All heads' scores in percent, or None if one is missing."""
        scores: dict[str, float] = {}
        for head in self.heads.values():
            folder = store.find("heads", head)
            if folder is None:
                return None
            scores |= json.loads((folder / SCORES).read_text("utf-8"))["scores"]
        return scores

    def pretexts(self, store: StageStore) -> list[PretextScore]:
        """Of the trained encoders in the store; none of those that were made before pretexts were scored."""
        found = []
        for stream, encoder in enumerate(self.encoders):
            folder = store.find("encoders", encoder)
            history = json.loads((folder / HISTORY).read_text("utf-8")) if folder is not None else []
            last = history[-1] if history else {}
            for name, value in last.items():
                if (chance := last.get(f"{name}_chance")) is not None:
                    level = Level(chance, last[f"{name}_margin"])
                    found.append(PretextScore(stream, name.removeprefix("held_out_"), value, level))
        return found

    def seconds(self, store: StageStore) -> dict[str, float]:
        """Seconds that the stages of each kind took when they were made; removed stages count as 0."""
        total: dict[str, float] = {}
        for kind, recipe in self.stages():
            seconds = store.facts(store.folder(kind, recipe))["seconds"] if store.has(kind, recipe) else 0.0
            total[kind] = total.get(kind, 0.0) + seconds
        return total


def data_sets(rows: Iterable[Row]) -> set[str]:
    """Names of the data sets that these rows are scored on."""
    return {find_task(name).data.name for row in rows for name in row.heads}


def startable(rows: Iterable[Row], profile: Profile, sources: Sources, *, named: bool) -> list[Row]:
    """The rows whose start weights are there; the others are named and left out.

    On real data image weights are a file, or come by pip for an encoder. ValueError for a row without any if the rows
    were ``named`` by the user, or the start was.
    """

    def lacks(stream: Stream) -> bool:
        encoder = profile.encoder_of(stream)
        comes = profile.still_train is not None or has_image_weights(encoder)
        return sources.start_of(encoder, stream) == IMAGE and stream.method != "random" and not comes

    rows = list(rows)
    lacking = [row for row in rows if any(map(lacks, row.streams))]
    if not lacking:
        return rows
    names = ", ".join(row.name for row in lacking)
    remedy = "give --start-weights FILE, such as torchvision's ResNet"
    if named or sources.start == IMAGE:
        raise ValueError(f"no image weights for the encoders of {names}: {remedy}")
    say(f"left out, as there are no image weights for their encoders: {names}; {remedy}")
    return [row for row in rows if row not in lacking]


def row_recipes(row: Row, seed: int, profile: Profile, sources: Sources, workers: int) -> RowRecipes:
    """All recipes of a row. Class scores come from the vanilla encoder of seed 0, for every row and seed."""

    def encoder(stream: Stream, of_seed: int) -> EncoderRecipe:
        return profile.encoder_recipe(
            stream,
            trimmed=sources.trimmed_print,
            num_actions=len(sources.trimmed.class_names),
            workers=workers,
            seed=of_seed + stream.seed_offset,
            weights={encoder: file.sha256 for encoder, file in sources.vanilla_weights.items()},
            start=sources.start_of(profile.encoder_of(stream), stream),
        )

    encoders = tuple(encoder(stream, seed) for stream in row.streams)
    vanilla = encoder(Stream(method="action"), 0)
    heads = {
        name: head_recipe(name, encoders, vanilla, seed, row.blind, profile, sources, row.streams) for name in row.heads
    }
    return RowRecipes(encoders=encoders, heads=heads)
