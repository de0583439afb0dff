"""A run of Ray Tune, as tables and searches share it: Ray with the planned resources, the job, and the tuner."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TextIO

import ray
from ray import tune
from typing_extensions import override

from bsp.errors import AnnotationError
from bsp_platform.plain_text import say
from bsp_platform.plan.options import Options
from bsp_platform.plan.rows import Cell, RowRecipes
from bsp_platform.plan.sources import Sources
from bsp_platform.storage.stages import StageStore
from bsp_platform.sweep.failures import collect_errors
from bsp_platform.sweep.live import waiting
from bsp_platform.sweep.row_runner import RowJob
from bsp_platform.work.cluster.loopback import private_folder
from bsp_platform.work.cluster.planning import plan_lines, start_planned
from bsp_platform.work.cluster.start import TRIAL_RESOURCES
from bsp_platform.work.probe import WORKERS, is_scored, load_validation, release_workers


def start_job(
    options: Options, store: StageStore, sources: Sources, recipes: dict[Cell, RowRecipes], console: TextIO
) -> tuple[RowJob, int]:
    """Start or join Ray and print the plan; the job that all trials share, and how many of them run at a time."""
    with waiting("starting Ray", console):
        plan = start_planned(options)
    for line in plan_lines(plan, options):
        say(line, file=console)
    job = RowJob(
        storage=store.address,
        resources=plan.resources,
        catalog=ray.put(sources.trimmed),
        data={name: ray.put(data) for name, data in sources.data.items()},
        glove=ray.put(sources.glove),
        class_scores={name: file.path for name, file in sources.class_scores.items()},
        weights={f.sha256: f.path for f in (*sources.vanilla_weights.values(), *sources.start_weights.values())},
        recipes=recipes,
        validation=_validation(sources, recipes, store),
    )
    return job, plan.rows


def _validation(sources: Sources, recipes: dict[Cell, RowRecipes], store: StageStore) -> Any:
    """A reference to the trimmed videos that are not trained on; None without any, or if nothing is scored on them."""
    scored = any(kind == "encoders" and is_scored(recipe) for r in recipes.values() for kind, recipe in r.stages())
    if not scored or sources.validation is None:
        return None
    names = sources.trimmed.class_names
    try:
        return ray.put(load_validation(sources.validation, names, cache_dir=store.root / "catalogs"))
    except AnnotationError as error:
        say(f"no held-out accuracy: {error}")
        return None


def run_trials(
    trial: Callable[..., None],
    job: object,
    config: tune.TuneConfig,
    callback: tune.Callback,
    troubles: list[str],
    param_space: dict[str, Any] | None = None,
) -> None:
    """Run ``trial(config, job)`` for all trials."""
    tuner = tune.Tuner(
        tune.with_resources(tune.with_parameters(trial, job=job), TRIAL_RESOURCES),
        param_space=param_space,
        tune_config=config,
        run_config=tune.RunConfig(
            name=time.strftime("%Y%m%d-%H%M%S"),
            storage_path=str(private_folder() / "tune"),  # it holds pickles, which a storage must not
            callbacks=[callback, FreePlaces()],
            verbose=0,
        ),
    )
    with collect_errors(troubles, "Ray Tune"):  # at the end it reads files, which a full disk leaves incomplete
        tuner.fit()


class FreePlaces(tune.Callback):
    """Removes the placement group of a training whose trial has ended before it: Ray keeps it till its job ends."""

    def __init__(self) -> None:
        self.places: dict[str, str] = {}  # by trial

    def __getstate__(self) -> dict[str, Any]:
        return {}  # as all our callbacks

    @override
    def on_trial_result(self, iteration, trials, trial, result, **info):
        if WORKERS in result:
            self.places[trial.trial_id] = result[WORKERS]

    @override
    def on_trial_complete(self, iteration, trials, trial, **info):
        release_workers(self.places.pop(trial.trial_id, ""))

    on_trial_error = on_trial_complete
