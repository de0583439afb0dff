"""Ray Tune: the rows of a table x seeds, as trials; MLflow and a live view in the driver.

What the store already holds is not run again: a finished table costs seconds, a killed sweep continues with
the same command, and a failed row is reported while the others go on.
"""

from __future__ import annotations

import json
import logging
import time
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
from filelock import FileLock, Timeout
from ray import tune

from bsp_platform.cluster import cluster_size, start_ray
from bsp_platform.heads import DETECTIONS, HISTORY, SCORES
from bsp_platform.live import LiveView
from bsp_platform.options import Options
from bsp_platform.pretraining import WEIGHTS
from bsp_platform.profiles import Profile
from bsp_platform.rows import Row, RowJob, RowRecipes, reason, row_recipes, run_row
from bsp_platform.sources import Sources, load_sources
from bsp_platform.stages import StageStore, as_plain, recipe_hash
from bsp_platform.tables import print_table, write_tables
from bsp_platform.tracking import Tracker, mlflow_name


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """A table of the paper: its rows, and which scores are its columns."""

    name: str  # of the script, the results folder and the MLflow experiment
    title: str
    rows: tuple[Row, ...]
    columns: tuple[str, ...] = ("mAP@0.50", "mAP@0.75", "mAP@0.95", "mAP_avg")
    paper_data: str = ""  # data set of the paper's numbers


log = logging.getLogger(__name__)
Cell = tuple[str, int]  # row name, seed


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
        tracking.open(rows, recipes)
        failures = _run_missing(todo, recipes, store, sources, options, tracking) if todo else {}
        scores, seconds = {}, {}
        for cell, r in recipes.items():
            folder = store.find("heads", r.head)
            if folder is not None:
                scores[cell] = json.loads((folder / SCORES).read_text())["scores"]
                seconds[cell] = _stage_seconds(store, r)
            tracking.close_cell(cell, r, store, failures.get(cell))
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


def _stages(recipes: RowRecipes) -> list[tuple[str, Any]]:
    return [("encoders", recipes.encoder), ("features", recipes.features), ("heads", recipes.head)]


def _put_aside(store: StageStore, recipes: dict[Cell, RowRecipes]) -> None:
    moved = {
        store.put_aside(kind, recipe)
        for r in recipes.values()
        for kind, recipe in [*_stages(r), ("class_scores", r.class_scores)]
    } - {None}
    if moved:
        print(f"--fresh: {len(moved)} stages moved to {store.root / 'replaced'}; delete that folder at will")


def _found_stages(store: StageStore, recipes: RowRecipes) -> list[str]:
    return [kind for kind, recipe in _stages(recipes) if store.find(kind, recipe) is not None]


def _stage_seconds(store: StageStore, recipes: RowRecipes) -> dict[str, float]:
    return {kind: store.facts(store.folder(kind, recipe))["seconds"] for kind, recipe in _stages(recipes)}


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

    def on_trial_error(self, iteration, trials, trial, **info):
        self.view.update(tuple(trial.config["cell"]), {"stage": "FAILED"})


class SweepTracking:
    """The MLflow side of one sweep: a parent, a child per row and seed, curves, scores, files."""

    CURVE = ("loss", "accuracy", "change_point_error", "clips_per_s", "data_wait_share", "learning_rate")

    def __init__(self, experiment: Experiment, profile: Profile, sources: Sources, options: Options):
        self.experiment, self.profile = experiment, profile
        self.results = options.results / experiment.name / profile.name
        self.tracker = Tracker(options.tracking_uri, experiment.name, options.tracking_home)
        settings = as_plain(replace(profile, resources=None))
        data = {"trimmed": sources.trimmed_print, "untrimmed": sources.untrimmed_print}
        self.key = f"{profile.name}/{recipe_hash({'settings': settings, **data, 'workers': options.workers})}"
        self.settings = {"profile": profile.name, "about": profile.about, **data}
        self.runs: dict[Cell, str] = {}
        self.new: dict[Cell, bool] = {}

    def open(self, rows: list[Row], recipes: dict[Cell, RowRecipes]) -> None:
        tracker = self.tracker
        self.parent = tracker.run(self.key, f"{self.experiment.name} {self.profile.name}")
        tracker.params(self.parent, self.settings)
        by_name = {row.name: (k, row) for k, row in enumerate(self.experiment.rows)}
        for cell, r in recipes.items():
            number, row = by_name[cell[0]]
            tags = {f"paper.{mlflow_name(metric)}": str(value) for metric, value in row.paper.items()}
            tags |= {"paper.data": self.experiment.paper_data, "row": row.label}
            name = f"{number + 1:02d} {row.label} seed {cell[1]}"
            self.runs[cell] = tracker.run(f"{self.key}/{recipe_hash(r.head)}", name, parent=self.parent, tags=tags)
            head = r.head.head
            params = {
                "row_order": number + 1, "row": row.label, "task": row.task or "random", "seed": cell[1],
                "kinds": "+".join(kind.name.lower() for kind in row.kinds), "profile": self.profile.name,
                "depth": r.encoder.encoder.depth, "width": r.encoder.encoder.width, "size_px": r.features.size_px,
                "clips": r.encoder.train.clips if r.encoder.train else 0,
                "learning_rate": r.encoder.train.learning_rate if r.encoder.train else 0,
                "head_cells": head.cells, "head_epochs": head.epochs, "encoder_hash": recipe_hash(r.encoder),
            }  # fmt: skip
            tracker.params(self.runs[cell], params)

    def pretrain_record(self, cell: Cell, result: dict[str, Any]) -> None:
        record = {name: result[name] for name in self.CURVE if name in result}
        self.tracker.history(self.runs[cell], "pretrain/", [{"step": result["step"], **record}])

    def close_cell(self, cell: Cell, r: RowRecipes, store: StageStore, failure: str | None) -> None:
        run_id, tracker = self.runs[cell], self.tracker
        folder = store.find("heads", r.head)
        if folder is None or failure:
            tracker.finish(run_id, "FAILED")
            return
        if "mAP_avg" not in self._logged(run_id):
            encoder = store.folder("encoders", r.encoder)
            seen = tracker.logged_steps(run_id, "pretrain/loss")
            curve = json.loads((encoder / HISTORY).read_text())
            tracker.history(run_id, "pretrain/", [record for record in curve if record["step"] not in seen])
            tracker.history(run_id, "head/", json.loads((folder / HISTORY).read_text()), axis="epoch")
            seconds = {f"seconds/{kind}": value for kind, value in _stage_seconds(store, r).items()}
            tracker.metrics(run_id, {**json.loads((folder / SCORES).read_text())["scores"], **seconds})
            for path in (folder / SCORES, folder / DETECTIONS, encoder / WEIGHTS):
                tracker.artifact(run_id, path)
        tracker.finish(run_id)

    def _logged(self, run_id: str) -> dict[str, float]:
        try:
            return self.tracker.client.get_run(run_id).data.metrics
        except Exception as error:  # server gone: log again rather than lose
            log.warning("MLflow did not answer: %s", error)
            return {}

    def close(self, rows: list[Row], scores: dict, failures: dict, results: Path) -> None:
        for row in rows:
            of_row = [value for (name, _), value in scores.items() if name == row.name]
            if of_row:
                means = {f"{m}/{row.name}": sum(s[m] for s in of_row) / len(of_row) for m in self.experiment.columns}
                self.tracker.metrics(self.parent, means)
        for path in sorted(results.glob("table.*")):
            self.tracker.artifact(self.parent, path)
        self.tracker.finish(self.parent, "FAILED" if failures else "FINISHED")
        self.tracker.close(results / "unsent.txt")

    def compare_url(self) -> str:
        return self.tracker.compare_url(list(self.runs.values()))
