"""One row and seed of a table: encoders, features, class scores, heads, as stages in that order.

``run_row`` is the function that Ray Tune calls. It makes only what the store does not hold yet and reports
where it is; the scores lie in the store when it returns.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from bsp.clips import plan_clip
from bsp_platform.cluster import Resources
from bsp_platform.extraction import extract_dataset
from bsp_platform.grounding_heads import train_and_ground
from bsp_platform.heads import CLASS_SCORES, PROGRESS, SCORES, make_class_scores, train_and_score
from bsp_platform.pretraining import WEIGHTS, train_encoder
from bsp_platform.profiles import Profile
from bsp_platform.recipes import (
    ClassScoresRecipe,
    EncoderRecipe,
    FeatureRecipe,
    GroundingRecipe,
    HeadRecipe,
    Stream,
)
from bsp_platform.sources import Sources
from bsp_platform.stages import StageStore
from bsp_platform.streaming import ClipStream

REPORT_EVERY_S = 1.0
Head = Literal["gtad", "2dtan", "lgi"]


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row of a table: which encoders, whose features are concatenated, and which heads score them."""

    name: str  # on the command line
    label: str  # in the table, as the paper prints it
    streams: tuple[Stream, ...]
    heads: tuple[Head, ...] = ("gtad",)
    blind: Literal["", "text", "video"] = ""  # grounding baselines without sentence or video
    paper: dict[str, float]  # the paper's scores, in percent


@dataclass(frozen=True, kw_only=True)
class Reference:
    """A row that the paper cites from elsewhere; printed with its source, never run."""

    label: str
    source: str
    paper: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """A table of the paper: its rows, and which scores are its columns."""

    name: str  # of the script, the results folder and the MLflow experiment
    title: str
    rows: tuple[Row, ...]
    columns: tuple[str, ...] = ("mAP@0.50", "mAP@0.75", "mAP@0.95", "mAP_avg")
    paper_data: str = ""  # data set of the paper's numbers
    references: tuple[Reference, ...] = ()
    costs: bool = False  # also compare the cost of inference

    @property
    def heads(self) -> frozenset[Head]:
        return frozenset(head for row in self.rows for head in row.heads)


Cell = tuple[str, int]  # row name, seed


@dataclass(frozen=True, kw_only=True)
class RowRecipes:
    """The stages of one row and seed, besides class scores."""

    encoders: tuple[EncoderRecipe, ...]  # one per stream
    features: tuple[FeatureRecipe, ...]  # of all heads
    heads: dict[Head, HeadRecipe | GroundingRecipe]

    def stages(self) -> list[tuple[str, Any]]:
        """(kind, recipe) of all of them, and of the teachers."""
        teachers = [teacher for encoder in self.encoders for teacher in encoder.teachers]
        encoders = dict.fromkeys([*teachers, *self.encoders])  # each once, in order
        return [
            *(("encoders", recipe) for recipe in encoders),
            *(("features", recipe) for recipe in dict.fromkeys(self.features)),
            *(("heads", recipe) for recipe in self.heads.values()),
        ]

    @property
    def class_scores(self) -> ClassScoresRecipe | None:
        return self.heads["gtad"].class_scores if "gtad" in self.heads else None

    def finished(self, store: StageStore) -> bool:
        return all(store.find("heads", head) for head in self.heads.values())

    def scores(self, store: StageStore) -> dict[str, float] | None:
        """All heads' scores in percent, or None if one is missing."""
        folders = [store.find("heads", head) for head in self.heads.values()]
        if None in folders:
            return None
        return {k: v for folder in folders for k, v in json.loads((folder / SCORES).read_text())["scores"].items()}

    def seconds(self, store: StageStore) -> dict[str, float]:
        """Seconds that the stages of each kind took when they were made."""
        total: dict[str, float] = {}
        for kind, recipe in self.stages():
            total[kind] = total.get(kind, 0.0) + store.facts(store.folder(kind, recipe))["seconds"]
        return total


def row_recipes(row: Row, seed: int, profile: Profile, sources: Sources, workers: int) -> RowRecipes:
    """All recipes of a row. Class scores come from the vanilla encoder of seed 0, for every row and seed."""

    def encoder(stream: Stream, of_seed: int) -> EncoderRecipe:
        return profile.encoder_recipe(
            stream,
            trimmed=sources.trimmed_print,
            num_actions=len(sources.trimmed.class_names),
            workers=workers,
            seed=of_seed + stream.seed_offset,
        )

    def features(recipe: EncoderRecipe, videos: str) -> FeatureRecipe:
        return FeatureRecipe(encoder=recipe, untrimmed=videos, size_px=profile.augment.size_px)

    encoders = tuple(encoder(stream, seed) for stream in row.streams)
    heads: dict[Head, HeadRecipe | GroundingRecipe] = {}
    for name in row.heads:
        if name == "gtad":
            own = tuple(features(recipe, sources.untrimmed_print) for recipe in encoders)
            shared = features(encoder(Stream(method="action"), 0), sources.untrimmed_print)
            scores = ClassScoresRecipe(features=shared, annotations=sources.annotations_print)
            heads[name] = HeadRecipe(
                features=own[0], more_streams=own[1:], class_scores=scores, head=profile.head,
                annotations=sources.annotations_print, seed=seed,
            )  # fmt: skip
        else:
            heads[name] = GroundingRecipe(
                streams=tuple(features(recipe, sources.grounding_print) for recipe in encoders),
                head=profile.tan2d if name == "2dtan" else profile.lgi,
                glove=sources.glove.sha256 if sources.glove else None,
                word_width=profile.word_width,
                moments=sources.moments_print,
                blind=row.blind,
                seed=seed,
            )
    every = tuple(recipe for head in heads.values() for recipe in head.streams)
    return RowRecipes(encoders=encoders, features=every, heads=heads)


@dataclass(frozen=True, kw_only=True)
class RowJob:
    """What a trial needs besides its row and seed; references, not data."""

    storage: str
    resources: Resources
    catalog: Any  # ObjectRef of the Catalog
    videos: dict[str, Any]  # by fingerprint: ObjectRef of the LocalizationDataset or GroundingDataset
    glove: Any  # ObjectRef of WordVectors or None
    recipes: dict[Cell, RowRecipes]


def run_row(config: dict[str, Any], job: RowJob) -> None:
    """Tune's function for ``config["cell"]`` = (row name, seed)."""
    from ray import tune

    recipes = job.recipes[tuple(config["cell"])]
    runner = _RowRunner(job, _throttled(tune.report))
    # The last stream first: rows that run side by side often share the first one, and would wait for it.
    for recipe in reversed(recipes.features):
        runner.features(recipe)
    for recipe in recipes.heads.values():
        runner.head(recipe)
    tune.report({"stage": "scored"})


class _RowRunner:
    def __init__(self, job: RowJob, report: Callable[[dict[str, Any]], None]):
        self.job, self.report = job, report
        self.store = StageStore(job.storage)

    def _ensure(self, kind: str, recipe: Any, stage: str, build: Callable[[Path], dict]) -> Path:
        self.report({"stage": stage})
        waiting = {"stage": f"waiting for {stage}"}
        return self.store.ensure(kind, recipe, build, on_wait=lambda: self.report(waiting))[0]

    def encoder(self, recipe: EncoderRecipe) -> Path:
        if found := self.store.find("encoders", recipe):
            return found
        teachers = [self.weights(teacher) for teacher in reversed(recipe.teachers)][::-1]

        def build(folder: Path) -> dict:
            import ray
            from ray.tune.integration.ray_train import TuneReportCallback

            if recipe.pretext is None:
                return train_encoder(folder, recipe, None, self.job.resources)
            catalog = ray.get(self.job.catalog)
            for index in range(max(1, len(recipe.clips.kinds))):  # refuse an impossible kind before starting
                plan_clip(catalog, recipe.clips, recipe.seed, index)
            stream = ClipStream(
                catalog=self.job.catalog,
                clips=recipe.clips,
                augment=recipe.augment,
                seed=recipe.seed,
                batch_size=recipe.train.batch_size,
                length=recipe.train.clips,
                frame_cache_mb=self.job.resources.frame_cache_mb,
            )
            return train_encoder(
                folder, recipe, stream, self.job.resources, teachers=teachers, callbacks=[TuneReportCallback()]
            )

        return self._ensure("encoders", recipe, f"pretrain {recipe.name}", build)

    def weights(self, recipe: EncoderRecipe) -> Path:
        """The weight file of a complete encoder, after checking its hash."""
        return self.store.read_checked(self.encoder(recipe), WEIGHTS)

    def features(self, recipe: FeatureRecipe) -> Path:
        if found := self.store.find("features", recipe):
            return found
        weights = self.weights(recipe.encoder)

        def build(folder: Path) -> dict:
            import ray

            def report(progress: dict) -> None:
                self.report({"stage": "features", **progress})

            data = ray.get(self.job.videos[recipe.untrimmed])
            return extract_dataset(folder, recipe, weights, data, self.job.resources, report)

        return self._ensure("features", recipe, "features", build)

    def class_scores(self, recipe: ClassScoresRecipe) -> Path:
        folder = self.store.find("class_scores", recipe)
        if folder is None:
            features = self.features(recipe.features)
            arguments = (features, self.job.videos[recipe.features.untrimmed], _expected(recipe.features))
            folder = self._ensure(
                "class_scores",
                recipe,
                "class scores",
                lambda folder: self._remote(make_class_scores, "class scores", folder, *arguments),
            )
        return folder / CLASS_SCORES

    def head(self, recipe: HeadRecipe | GroundingRecipe) -> Path:
        device = "cuda" if self.job.resources.gpus_per_head else "cpu"
        features = [self.features(stream) for stream in recipe.streams]
        data, expected = self.job.videos[recipe.streams[0].untrimmed], _expected(recipe.streams[0])
        if isinstance(recipe, HeadRecipe):
            function, extra, stage = train_and_score, self.class_scores(recipe.class_scores), "head G-TAD"
        else:
            stage = "head 2D-TAN" if hasattr(recipe.head, "pool") else "head LGI"
            function, extra = train_and_ground, self.job.glove

        def build(folder: Path) -> dict:
            return self._remote(function, stage, folder, recipe, features, extra, data, expected, device=device)

        return self._ensure("heads", recipe, stage, build)

    def _remote(self, function: Callable, stage: str, folder: Path, *arguments: Any, **keywords: Any) -> Any:
        """Run as a Ray task with the resources of a head, outside the trial's own tiny share; report how far it is."""
        import ray

        resources = self.job.resources
        task = ray.remote(function).options(
            num_cpus=resources.cpus_per_head, num_gpus=resources.gpus_per_head, scheduling_strategy="SPREAD"
        )
        (folder / PROGRESS).unlink(missing_ok=True)  # of an earlier, interrupted try
        waiting = [task.remote(folder, *arguments, **keywords)]
        while not ray.wait(waiting, timeout=REPORT_EVERY_S)[0]:
            with contextlib.suppress(OSError, ValueError):  # not there yet
                self.report({"stage": stage, **json.loads((folder / PROGRESS).read_text())})
        return ray.get(waiting[0])


def _expected(recipe: FeatureRecipe) -> dict[str, Any]:
    """Sidecar fields that features of this recipe must have."""
    return {"size_px": recipe.size_px}


def _throttled(report: Callable[[dict[str, Any]], None]) -> Callable[[dict[str, Any]], None]:
    """Pass on the first report of each stage, and then at most one a second."""
    last: dict[str, Any] = {"stage": None, "at": 0.0}

    def throttled(progress: dict[str, Any]) -> None:
        now = time.monotonic()
        if progress.get("stage") != last["stage"] or now - last["at"] >= REPORT_EVERY_S:
            last.update(stage=progress.get("stage"), at=now)
            report(progress)

    return throttled


def reason(error: BaseException) -> str:
    """What a user can act on, out of Ray's wrappers: the kind of the innermost error and its message."""
    for _ in range(10):
        failures = getattr(error, "worker_failures", None)
        inner = next(iter(failures.values())) if failures else None
        inner = inner or getattr(error, "cause", None) or error.__cause__
        if not isinstance(inner, BaseException) or inner is error:
            break
        error = inner
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[-1] if "Traceback" in text else text
