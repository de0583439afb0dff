"""One row and seed of a table: encoder, features, class scores, head, as stages in that order.

``run_row`` is the function that Ray Tune calls. It makes only what the store does not hold yet and reports
where it is; the scores lie in the store when it returns.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bsp.clips import BoundaryKind, plan_clip
from bsp_platform.cluster import Resources
from bsp_platform.extraction import extract_dataset
from bsp_platform.heads import CLASS_SCORES, make_class_scores, train_and_score
from bsp_platform.pretraining import WEIGHTS, train_encoder
from bsp_platform.profiles import Profile
from bsp_platform.recipes import ClassScoresRecipe, EncoderRecipe, FeatureRecipe, HeadRecipe
from bsp_platform.sources import Sources
from bsp_platform.stages import StageStore
from bsp_platform.streaming import ClipStream

REPORT_EVERY_S = 1.0


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row of a table. ``task`` None is a random encoder, "action" vanilla, else the pretext over ``kinds``."""

    name: str  # on the command line
    label: str  # in the table, as the paper prints it
    task: str | None
    kinds: tuple[BoundaryKind, ...] = ()
    paper: dict[str, float]  # the paper's scores, in percent


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """A table of the paper: its rows, and which scores are its columns."""

    name: str  # of the script, the results folder and the MLflow experiment
    title: str
    rows: tuple[Row, ...]
    columns: tuple[str, ...] = ("mAP@0.50", "mAP@0.75", "mAP@0.95", "mAP_avg")
    paper_data: str = ""  # data set of the paper's numbers


Cell = tuple[str, int]  # row name, seed


@dataclass(frozen=True, kw_only=True)
class RowRecipes:
    """The stages of one row and seed."""

    encoder: EncoderRecipe
    features: FeatureRecipe
    class_scores: ClassScoresRecipe
    head: HeadRecipe


def row_recipes(row: Row, seed: int, profile: Profile, sources: Sources, workers: int) -> RowRecipes:
    """All recipes of a row. Class scores come from the vanilla encoder of seed 0, for every row and seed."""

    def features(task: str | None, kinds: tuple[BoundaryKind, ...], encoder_seed: int) -> FeatureRecipe:
        encoder = profile.encoder_recipe(
            task,
            kinds,
            trimmed=sources.trimmed_print,
            num_actions=len(sources.trimmed.class_names),
            workers=workers,
            seed=encoder_seed,
        )
        return FeatureRecipe(encoder=encoder, untrimmed=sources.untrimmed_print, size_px=profile.augment.size_px)

    own = features(row.task, row.kinds, seed)
    scores = ClassScoresRecipe(features=features("action", (), 0), annotations=sources.annotations_print)
    head = HeadRecipe(
        features=own, class_scores=scores, head=profile.head, annotations=sources.annotations_print, seed=seed
    )
    return RowRecipes(encoder=own.encoder, features=own, class_scores=scores, head=head)


def stages_of(recipes: RowRecipes) -> list[tuple[str, Any]]:
    """(kind, recipe) of the stages that belong to this row alone."""
    return [("encoders", recipes.encoder), ("features", recipes.features), ("heads", recipes.head)]


def stage_seconds(store: StageStore, recipes: RowRecipes) -> dict[str, float]:
    """Seconds that each stage took when it was made."""
    return {kind: store.facts(store.folder(kind, recipe))["seconds"] for kind, recipe in stages_of(recipes)}


@dataclass(frozen=True, kw_only=True)
class RowJob:
    """What a trial needs besides its row and seed; references, not data."""

    storage: str
    resources: Resources
    catalog: Any  # ObjectRef of the Catalog
    untrimmed: Any  # ObjectRef of the LocalizationDataset
    recipes: dict[tuple[str, int], RowRecipes]


def run_row(config: dict[str, Any], job: RowJob) -> None:
    """Tune's function for ``config["cell"]`` = (row name, seed)."""
    import ray
    from ray import tune

    recipes = job.recipes[tuple(config["cell"])]
    runner = _RowRunner(job, ray.get(job.untrimmed), _throttled(tune.report))
    features = runner.features(recipes.features)
    scores = runner.class_scores(recipes.class_scores)
    runner.head(recipes.head, features, scores)
    tune.report({"stage": "scored"})


class _RowRunner:
    def __init__(self, job: RowJob, data, report: Callable[[dict[str, Any]], None]):
        self.job, self.data, self.report = job, data, report
        self.store = StageStore(job.storage)

    def _ensure(self, kind: str, recipe: Any, stage: str, build: Callable[[Path], dict]) -> Path:
        self.report({"stage": stage})
        waiting = {"stage": f"waiting for {stage}"}
        return self.store.ensure(kind, recipe, build, on_wait=lambda: self.report(waiting))[0]

    def encoder(self, recipe: EncoderRecipe) -> Path:
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
            return train_encoder(folder, recipe, stream, self.job.resources, callbacks=[TuneReportCallback()])

        return self._ensure("encoders", recipe, f"pretrain {recipe.name}", build)

    def features(self, recipe: FeatureRecipe) -> Path:
        weights = self.encoder(recipe.encoder) / WEIGHTS
        self.store.read_checked(weights.parent, WEIGHTS)

        def build(folder: Path) -> dict:
            def report(progress: dict) -> None:
                self.report({"stage": "features", **progress})

            return extract_dataset(folder, recipe, weights, self.data, self.job.resources, report)

        return self._ensure("features", recipe, "features", build)

    def class_scores(self, recipe: ClassScoresRecipe) -> Path:
        folder = self.store.find("class_scores", recipe)
        if folder is None:
            features = self.features(recipe.features)
            arguments = (features, self.data, _expected(recipe.features))
            folder = self._ensure(
                "class_scores",
                recipe,
                "class scores",
                lambda folder: self._remote(make_class_scores, folder, *arguments),
            )
        return folder / CLASS_SCORES

    def head(self, recipe: HeadRecipe, features: Path, class_scores: Path) -> Path:
        device = "cuda" if self.job.resources.gpus_per_head else "cpu"

        def build(folder: Path) -> dict:
            expected = _expected(recipe.features)
            return self._remote(
                train_and_score, folder, recipe, features, class_scores, self.data, expected, device=device
            )

        return self._ensure("heads", recipe, "head", build)

    def _remote(self, function: Callable, *arguments: Any, **keywords: Any) -> Any:
        """Run as a Ray task with the resources of a head, outside the trial's own tiny share."""
        import ray

        resources = self.job.resources
        task = ray.remote(function).options(
            num_cpus=resources.cpus_per_head, num_gpus=resources.gpus_per_head, scheduling_strategy="SPREAD"
        )
        return ray.get(task.remote(*arguments, **keywords))


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
