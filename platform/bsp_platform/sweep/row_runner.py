"""Make one row and seed of a table: encoders, features, class scores, heads, as stages in that order.

``run_row`` is the function that Ray Tune calls. It makes the stages that the store lacks and reports its progress;
the scores are in the store when it returns.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from bsp.clips.augment import AugmentSettings
from bsp.clips.plan import ClipSettings
from bsp.files.text import parse_json
from bsp_platform.plan.recipes import AnyHeadRecipe, ClassScoresFile, ClassScoresRecipe, EncoderRecipe, FeatureRecipe
from bsp_platform.plan.resources import Resources
from bsp_platform.plan.rows import Cell, RowRecipes
from bsp_platform.plan.tasks import TASKS, Task
from bsp_platform.storage.errors import StageDamaged, causes
from bsp_platform.storage.manifests import FILES, PROGRESS, result_files
from bsp_platform.storage.stages import StageStore, Stored
from bsp_platform.work.cluster.assigned_device import assigned_device
from bsp_platform.work.extraction import extract_dataset
from bsp_platform.work.extractor import reestimate
from bsp_platform.work.heads import CLASS_SCORES, Expected, convert_class_scores, make_class_scores, train_and_score
from bsp_platform.work.pretraining import WEIGHTS, HeldOut, given_encoder, train_encoder
from bsp_platform.work.probe import BoundaryProbe, held_out_score
from bsp_platform.work.streaming import ClipStream, clip_stream

if TYPE_CHECKING:
    from ray import ObjectRef

log = logging.getLogger(__name__)
T = TypeVar("T")
REPORT_EVERY_S = 1.0


@dataclass(frozen=True, kw_only=True)
class RowJob:
    """Inputs of a trial besides its row and seed; data sets as references into the object store."""

    storage: str
    resources: Resources
    catalog: ObjectRef  # of the Catalog
    data: dict[str, ObjectRef]  # by name of the data set
    glove: ObjectRef  # of WordVectors or None
    class_scores: dict[str, str]  # by name of the data set: path of a given classification result
    weights: dict[str, str]  # by SHA-256: path of a given checkpoint, or of start weights
    recipes: dict[Cell, RowRecipes]
    probes: dict[EncoderRecipe, BoundaryProbe] = field(default_factory=dict)  # scores of encoders while they train
    held_out: dict[EncoderRecipe, HeldOut] = field(default_factory=dict)  # likewise of pretexts
    validation: ObjectRef | None = None  # of the Catalog of trimmed videos that are not trained on


def run_row(config: dict[str, Any], job: RowJob) -> None:
    """Tune's function for ``config["cell"]`` = (row name, seed)."""
    from ray import tune

    recipes = job.recipes[tuple(config["cell"])]
    runner = _RowRunner(job, _throttled(tune.report))
    retry_damaged(lambda: runner.row(recipes))
    tune.report({"stage": "scored"})


def run_encoders(config: dict[str, Any], job: RowJob) -> None:
    """As :func:`run_row`, for encoders alone."""
    from ray import tune

    runner = _RowRunner(job, _throttled(tune.report))
    for recipe in job.recipes[tuple(config["cell"])].encoders:
        retry_damaged(partial(runner.encoder, recipe))
    tune.report({"stage": "trained"})


def retry_damaged(work: Callable[[], T]) -> T:
    """``work()``; if a stage that it uses turns out damaged, a second time, which makes that stage again."""
    try:
        return work()
    except Exception as error:
        damage = next((e for e in causes(error) if isinstance(e, StageDamaged)), None)
        if damage is None:
            raise
        log.warning("%s; what is lost is made again", damage)
        return work()


class _RowRunner:
    def __init__(self, job: RowJob, report: Callable[[dict[str, Any]], None]):
        self.job, self.report = job, report
        self.store = StageStore(job.storage)

    def row(self, recipes: RowRecipes) -> None:
        # The last stream first: rows that run at the same time often share the first one and would wait for each other.
        for data, recipe in reversed(list(recipes.features())):
            self.features(data, recipe)
        for name, head in recipes.heads.items():
            self.head(recipes.tasks[name], head)

    def _ensure(self, kind: str, recipe: object, stage: str, build: Callable[[Path], dict]) -> Path:
        self.report({"stage": stage})
        waiting = {"stage": f"waiting for {stage}"}
        return self.store.ensure(kind, recipe, build, on_wait=lambda: self.report(waiting))[0]

    def encoder(self, recipe: EncoderRecipe) -> Path:
        if found := self.store.find("encoders", recipe):
            return found
        teachers = [self.weights(teacher) for teacher in reversed(recipe.teachers)][::-1]
        start = self.weights(recipe.start_recipe) if recipe.start_recipe else None
        still = self.weights(recipe.still) if recipe.still and recipe.pretext is None else None

        def build(folder: Path) -> dict:
            import ray

            from bsp_platform.sweep.training_reports import Beginnings, Records

            if recipe.weights or (recipe.start and recipe.pretext is None):
                given = self.job.weights.get(recipe.weights or recipe.start)
                return given_encoder(folder, recipe, Path(given) if given else still)
            if recipe.pretext is None:
                return train_encoder(folder, recipe, None, self.job.resources, store=self.store)
            pretext, clips, _, _ = recipe.training
            catalog = ray.get(self.job.catalog)
            for index in range(max(1, len(clips.kinds))):  # refuse an impossible kind before starting
                pretext.plan(catalog, clips, recipe.seed, index)
            stream = clip_stream(recipe, self.job.catalog, frame_cache_mb=self.job.resources.frame_cache_mb)
            return train_encoder(
                folder,
                recipe,
                stream,
                self.job.resources,
                teachers=teachers,
                start=start,
                callbacks=[Records(), Beginnings(f"pretrain {recipe.name}")],
                probe=self.job.probes.get(recipe),
                held_out=self.job.held_out.get(recipe) or held_out_score(self.job.validation, recipe),
                store=self.store,
            )

        return self._ensure("encoders", recipe, f"pretrain {recipe.name}", build)

    def weights(self, recipe: EncoderRecipe) -> Path:
        """The weight file of a complete encoder, after checking its hash."""
        return self.store.read_checked(self.encoder(recipe), WEIGHTS)

    def features(self, data: str, recipe: FeatureRecipe) -> Path:
        """Features of the videos of a data set."""
        if found := self.store.find("features", recipe):
            return found
        weights = self.weights(recipe.encoder)

        def build(folder: Path) -> dict:
            import ray

            def report(progress: dict) -> None:
                self.report({"stage": f"features {data}", **progress})

            videos, of = ray.get(self.job.data[data]), weights
            if recipe.statistics:
                if not (folder / WEIGHTS).exists():  # else of an interrupted extraction
                    self._reestimate(folder, data, recipe, weights, videos)
                of = folder / WEIGHTS
            facts = extract_dataset(folder, recipe, of, videos, self.job.resources, report, store=self.store)
            if recipe.statistics:
                facts[FILES] = [*facts[FILES], WEIGHTS]
            return facts

        return self._ensure("features", recipe, f"features {data}", build)

    def _reestimate(self, folder: Path, data: str, recipe: FeatureRecipe, weights: Path, videos: Any) -> None:
        """Put the encoder with other batch-norm statistics into the folder of the features."""
        import ray

        source: Any
        if recipe.statistics == "target":
            training = next(t.data.subsets[0] for t in TASKS.values() if t.data.name == data)
            source = [v.path for v in videos.videos if v.path is not None and v.subset == training]
        else:
            of = recipe.encoder
            clips = of.clips or ClipSettings()
            plain = replace(clips, half_len=of.encoder.for_snippets().clip_frames // 2, kinds=(), plain_clips=0)
            augment = of.augment or AugmentSettings(size_px=recipe.size_px)
            stream = ClipStream(
                catalog=None, clips=plain, augment=augment, seed=recipe.statistics_seed, batch_size=1, length=0
            )
            source = (ray.get(self.job.catalog), stream)
        device = "cuda" if self.job.resources.gpus_per_head else "cpu"
        self._remote(reestimate, f"statistics {data}", folder, recipe, weights, source, device=device)

    def class_scores(self, task: Task, recipe: ClassScoresRecipe | ClassScoresFile) -> Path:
        """The file of class scores for the test videos of a task's data set."""
        name, title = task.data.name, "class scores"
        folder = self.store.find("class_scores", recipe)
        if folder is None:
            data, subsets = self.job.data[name], task.data.subsets
            work: Callable[..., dict[str, Any]]
            arguments: tuple[Any, ...]
            if isinstance(recipe, ClassScoresFile):
                work, arguments = convert_class_scores, (Path(self.job.class_scores[name]), data, subsets[1])
            else:
                features = self.features(name, recipe.features)
                work, arguments = make_class_scores, (features, data, _expected(recipe.features), subsets)
            folder = self._ensure(
                "class_scores", recipe, title, lambda folder: self._remote(work, title, folder, *arguments)
            )
        return folder / CLASS_SCORES

    def head(self, task: Task, recipe: AnyHeadRecipe) -> Path:
        name, stage = task.data.name, f"head {task.head.title}"
        device = "cuda" if self.job.resources.gpus_per_head else "cpu"
        features = [self.features(name, stream) for stream in recipe.streams]
        scores = None if (of := getattr(recipe, "class_scores", None)) is None else self.class_scores(task, of)

        def build(folder: Path) -> dict:
            arguments = (task.head, recipe, features, scores, self.job.data[name])
            keywords = {"expect": _expected(recipe.streams[0]), "subsets": task.data.subsets, "glove": self.job.glove}
            return self._remote(train_and_score, stage, folder, *arguments, **keywords, device=device)

        return self._ensure("heads", recipe, stage, build)

    def _remote(self, function: Callable, stage: str, folder: Path, *arguments: Any, **keywords: Any) -> Any:
        """Run as a Ray task with the resources of a head (the trial holds almost none); report its progress."""
        import ray

        resources, store = self.job.resources, self.store
        task = ray.remote(run_on_node).options(
            num_cpus=resources.cpus_per_head, num_gpus=resources.gpus_per_head, scheduling_strategy="SPREAD"
        )
        (folder / PROGRESS).unlink(missing_ok=True)  # of an earlier, interrupted try
        waiting = [task.remote(store, function, *map(store.pack_paths, (folder, *arguments)), **keywords)]
        while not ray.wait(waiting, timeout=REPORT_EVERY_S)[0]:
            with contextlib.suppress(OSError, ValueError, TypeError):  # no progress file yet
                self.report({"stage": stage, **parse_json((folder / PROGRESS).read_bytes(), PROGRESS)})
        facts, files = ray.get(waiting[0])
        store.files.download(folder, files)
        return facts


def run_on_node(
    store: StageStore, function: Callable[..., Any], folder: Path | Stored, *arguments: Any, **keywords: Any
) -> tuple[Any, dict[str, dict]]:
    """``function(folder, ...)`` as a Ray task on any node; its result, and the files that it uploaded to S3 (with
    storage in a folder none). A keyword ``device`` ("cpu" or "cuda") becomes the device that Ray gave the task."""
    folder = store.local_path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if "device" in keywords:
        keywords["device"] = str(assigned_device(keywords["device"] == "cuda"))
    facts = function(folder, *map(store.download_paths, arguments), **keywords)
    return facts, store.files.upload(folder, result_files(folder))


def _expected(recipe: FeatureRecipe) -> Expected:
    """Sidecar fields that features of this recipe must have."""
    return {"size_px": recipe.size_px, "precision": recipe.precision}


def _throttled(report: Callable[[dict[str, Any]], None]) -> Callable[[dict[str, Any]], None]:
    """Pass on the first report of each stage, and then at most one a second."""
    last: dict[str, Any] = {"stage": None, "at": 0.0}

    def throttled(progress: dict[str, Any]) -> None:
        now = time.monotonic()
        if progress.get("stage") != last["stage"] or now - last["at"] >= REPORT_EVERY_S:
            last.update(stage=progress.get("stage"), at=now)
            report(progress)

    return throttled
