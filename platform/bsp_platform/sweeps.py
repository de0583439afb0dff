"""Ray Tune: the rows of a table x seeds, as trials; MLflow and a live view in the driver.

What the store already holds is not run again: a finished table costs seconds, a killed sweep continues with
the same command, and a failed row is reported while the others go on.
"""

from __future__ import annotations

import json
import time
from contextlib import contextmanager
from pathlib import Path

import ray
from filelock import FileLock, Timeout
from ray import tune

from bsp_platform.cluster import cluster_size, start_ray
from bsp_platform.heads import SCORES
from bsp_platform.live import LiveView
from bsp_platform.options import Options
from bsp_platform.rows import (
    Cell,
    Experiment,
    Row,
    RowJob,
    RowRecipes,
    reason,
    row_recipes,
    run_row,
    stage_seconds,
    stages_of,
)
from bsp_platform.sources import Sources, load_sources
from bsp_platform.stages import StageStore
from bsp_platform.sweep_tracking import SweepTracking
from bsp_platform.tables import print_table, write_tables


def run(experiment: Experiment, options: Options) -> int:
    """Run what is missing, write and print the table. Returns the exit status: 1 if a row failed."""
    began = time.time()
    profile = options.profile
    rows = _chosen(experiment, options.rows)
    store = StageStore(options.storage)
    with only_one(store.root / f"{experiment.name}.lock", f"{experiment.name} with --storage {store.root}"):
        sources = load_sources(profile, storage=store.root, kinetics=options.kinetics, activitynet=options.activitynet)
        recipes = {
            (row.name, seed): row_recipes(row, seed, profile, sources, options.workers)
            for seed in range(options.seeds)
            for row in rows
        }
        if options.fresh:
            _put_aside(store, recipes)
        tracking = SweepTracking(experiment, profile, sources, options)
        todo = [cell for cell, r in recipes.items() if store.find("heads", r.head) is None]
        reused = {cell: _found_stages(store, r) for cell, r in recipes.items()}
        print(
            f"{experiment.title}: {len(recipes)} runs, {len(recipes) - len(todo)} already finished",
            flush=True,
        )
        tracking.open(recipes, store)
        failures = _run_missing(todo, recipes, store, sources, options, tracking) if todo else {}
        scores, seconds = {}, {}
        for cell, r in recipes.items():
            folder = store.find("heads", r.head)
            if folder is not None:
                scores[cell] = json.loads((folder / SCORES).read_text())["scores"]
                seconds[cell] = stage_seconds(store, r)
            tracking.close_cell(cell)
        results = options.results / experiment.name / profile.name
        table = write_tables(
            results,
            experiment=experiment,
            profile=profile,
            rows=rows,
            seeds=options.seeds,
            scores=scores,
            failures=failures,
            reused=reused,
            seconds=seconds,
            duration_s=time.time() - began,
        )
        tracking.close(rows, scores, failures, results)
    print_table(table)
    print(f"Tables: {results}/table.{{json,csv,md}}")
    print(f"MLflow: {tracking.tracker.ui_command()}\n  compare: {tracking.compare_url()}")
    for (name, seed), text in failures.items():
        print(f"FAILED {name} seed {seed}: {text}")
    return 1 if failures else 0


def _chosen(experiment: Experiment, names: tuple[str, ...]) -> list[Row]:
    known = {row.name: row for row in experiment.rows}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(f"--rows {','.join(unknown)}: unknown; the rows are {', '.join(known)}")
    return [row for row in experiment.rows if not names or row.name in names]


@contextmanager
def only_one(path: Path, what: str):
    """Refuse a second run of the same sweep at the same time. The system frees the lock of a dead process."""
    lock = FileLock(str(path))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise RuntimeError(f"{what} is already running; wait for it, stop it, or choose another --storage") from None
    try:
        yield
    finally:
        lock.release()


def _put_aside(store: StageStore, recipes: dict[Cell, RowRecipes]) -> None:
    moved = {
        store.put_aside(kind, recipe)
        for r in recipes.values()
        for kind, recipe in [*stages_of(r), ("class_scores", r.class_scores)]
    } - {None}
    if moved:
        print(f"--fresh: {len(moved)} stages moved to {store.root / 'replaced'}; delete that folder at will")


def _found_stages(store: StageStore, recipes: RowRecipes) -> list[str]:
    return [kind for kind, recipe in stages_of(recipes) if store.find(kind, recipe) is not None]


def _run_missing(
    todo: list[Cell],
    recipes: dict[Cell, RowRecipes],
    store: StageStore,
    sources: Sources,
    options: Options,
    tracking: SweepTracking,
) -> dict[Cell, str]:
    """Tune over the missing cells. Returns why cells failed."""
    resources = options.profile.resources(options.workers)
    if options.cpus:
        resources.rows_at_a_time(options.cpus, 1e9)  # refuse before starting anything
    start_ray(cpus=options.cpus)
    cpus, gpus = cluster_size()
    at_a_time = resources.rows_at_a_time(options.cpus or cpus, gpus if options.gpus is None else options.gpus)
    job = RowJob(
        storage=str(store.root),
        resources=resources,
        catalog=ray.put(sources.trimmed),
        untrimmed=ray.put(sources.untrimmed),
        recipes={cell: recipes[cell] for cell in todo},
    )
    ordered = sorted(todo, key=lambda cell: _turn(cell, recipes[cell]))
    with LiveView(ordered, at_a_time) as view:
        tuner = tune.Tuner(
            tune.with_resources(tune.with_parameters(run_row, job=job), {"CPU": 0.01}),
            param_space={"cell": tune.grid_search([list(cell) for cell in ordered])},
            tune_config=tune.TuneConfig(max_concurrent_trials=at_a_time, reuse_actors=True),
            run_config=tune.RunConfig(
                name=time.strftime("%Y%m%d-%H%M%S"),
                storage_path=str(store.root / "tune"),
                callbacks=[Watch(tracking, view)],
                verbose=0,
            ),
        )
        grid = tuner.fit()
    failures = {}
    for result in grid:
        cell = tuple(result.config["cell"])
        if result.error is not None:
            failures[cell] = reason(result.error)
        elif store.find("heads", recipes[cell].head) is None:
            failures[cell] = "stopped before it was finished"
    return failures


def _turn(cell: Cell, recipes: RowRecipes) -> tuple[int, int]:
    """Sort key: the vanilla encoder whose class scores all rows wait for comes first, random ones, which
    would only wait, last."""
    if recipes.encoder == recipes.class_scores.features.encoder:
        return -1, 0
    return cell[1], int(recipes.encoder.pretext is None)


class Watch(tune.Callback):
    """Tune's news, in the driver: to the screen and to MLflow."""

    def __init__(self, tracking: SweepTracking, view: LiveView):
        self.tracking, self.view = tracking, view

    def __getstate__(self) -> dict:
        return {}  # Tune pickles its callbacks to restore a sweep; ours continues from the store instead

    def on_trial_result(self, iteration, trials, trial, result, **info):
        cell = tuple(trial.config["cell"])
        self.view.update(cell, result)
        if "loss" in result and "step" in result:
            self.tracking.pretrain_record(cell, result)

    def on_trial_complete(self, iteration, trials, trial, **info):
        self.view.update(tuple(trial.config["cell"]), {"stage": "finished"})
        self.tracking.close_cell(tuple(trial.config["cell"]))

    def on_trial_error(self, iteration, trials, trial, **info):
        self.view.update(tuple(trial.config["cell"]), {"stage": "FAILED"})
