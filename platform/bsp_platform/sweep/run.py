"""Run a table: its rows x seeds as trials of Ray Tune, with MLflow and a live view in the driver.

Stages that are in the store are not made again: a finished table takes seconds, a killed sweep continues with
the same command, and a failed row is reported while the others go on.
"""

from __future__ import annotations

import threading
import time
from importlib import import_module
from typing import TextIO

from ray import tune
from typing_extensions import override

from bsp.pretraining.pretexts import too_short
from bsp_platform.plain_text import say
from bsp_platform.plan.options import Options
from bsp_platform.plan.recipes import ClassScoresRecipe
from bsp_platform.plan.rows import Cell, Experiment, Row, RowRecipes, data_sets, row_recipes, startable
from bsp_platform.plan.sources import Sources, load_sources
from bsp_platform.report.costs import row_costs
from bsp_platform.report.resampling import Samples, resample_rows
from bsp_platform.report.tables import SweepResult, print_table, table_content, write_tables
from bsp_platform.storage.manifests import recipe_hash
from bsp_platform.storage.stages import StageStore
from bsp_platform.sweep.dry_run import dry_run
from bsp_platform.sweep.example_page import write_example
from bsp_platform.sweep.failures import NO_ROOM, collect_errors, reason_of_trial
from bsp_platform.sweep.live import LiveView
from bsp_platform.sweep.models import RowModels, best_model, write_row_models
from bsp_platform.sweep.ray_log import RayLog
from bsp_platform.sweep.row_runner import run_row
from bsp_platform.sweep.tracking import SweepTracking
from bsp_platform.sweep.tuning import run_trials, start_job
from bsp_platform.work.bottleneck import WaitWatch
from bsp_platform.work.cluster.planning import refuse_early
from bsp_platform.work.cluster.start import object_store


def run(experiment: Experiment, options: Options) -> int:
    """Run the rows that are not finished, write and print the table. Returns the exit status: 1 if a row failed."""
    began = time.time()
    profile = options.profile
    rows = _chosen(experiment, options.rows)
    if options.dry_run:
        return dry_run(experiment, rows, options)
    refuse_early(options)
    # Its import takes seconds, in which this process mostly waits for the processes that render or that are Ray's.
    threading.Thread(target=import_module, args=("mlflow",), name="import mlflow", daemon=True).start()
    store = StageStore(options.storage)
    with store.only_one(experiment.name):
        sources = load_sources(profile, data_sets(rows), options.data, storage=store.root)
        for note in (*sources.notes, *sources.reports):
            say(note)
        rows = startable(rows, profile, sources, named=bool(options.rows))
        recipes = {
            (row.name, seed): row_recipes(row, seed, profile, sources, options.workers)
            for seed in range(options.seeds)
            for row in rows
        }
        short = _too_short(recipes, sources)
        for note in short:
            say(note)
        if options.fresh:
            _put_aside(store, recipes)
        troubles: list[str] = []  # errors besides failed rows; the table of finished rows is shown nevertheless
        tracking = SweepTracking(experiment, profile, sources, options, store)
        todo = {cell: r for cell, r in recipes.items() if not r.finished(store)}
        reused = {cell: _found_stages(store, r) for cell, r in recipes.items()}
        say(f"{experiment.title}: {len(recipes)} runs, {len(recipes) - len(todo)} already finished")
        _print_reused({cell: reused[cell] for cell in todo})
        tracking.open(recipes)
        ray_log = RayLog.of_run(options.results if store.bucket else store.root, experiment.name)
        failures: dict[Cell, str] = {}
        if todo:
            load = tracking.tracker.system_metrics(tracking.parent)
            with collect_errors(troubles, "the rows", NO_ROOM), load, ray_log:
                _run_missing(todo, store, sources, options, tracking, ray_log.console, failures, troubles)
            failures |= {c: "not finished" for c in todo if c not in failures and not recipes[c].finished(store)}
        scores, seconds, pretexts = {}, {}, {}
        for cell, r in recipes.items():
            found = r.scores(store)
            if found is not None:
                scores[cell], seconds[cell] = found, r.seconds(store)
            pretexts[cell] = r.pretexts(store)
            with collect_errors(troubles, f"MLflow's record of {cell[0]} seed {cell[1]}"):
                tracking.close_cell(cell, failures.get(cell, ""))
        costs: dict[str, dict] = {}
        if experiment.costs:
            with collect_errors(troubles, "the cost of inference"):
                costs = row_costs(rows, profile, store)
                tracking.costs(costs)
        resampled: dict[Cell, dict[str, Samples]] = {}
        notes: list[str] = []
        with collect_errors(troubles, "the analysis of differences"):
            resampled, notes = resample_rows(experiment.claims, recipes, scores, sources.data, store)
        results = options.results / experiment.name / profile.name
        result = SweepResult(
            experiment=experiment,
            profile=profile,
            rows=rows,
            seeds=options.seeds,
            scores=scores,
            failures=failures,
            reused=reused,
            seconds=seconds,
            pretexts=pretexts,
            costs=costs,
            notes=[*sources.notes, *short, *notes],
            resampled=resampled,
            duration_s=time.time() - began,
        )
        models = RowModels({}, 0, ())
        with collect_errors(troubles, f"the models in {results}"):
            models = write_row_models(experiment, profile, sources, store, recipes, results / "models")
        best = best_model(experiment.columns, scores, models.folders)
        example = None
        if best is not None:
            with collect_errors(troubles, f"the example page in {results}"):
                of = recipes[best.cell].tasks[best.task].data
                example = write_example(best.folder, sources.data[of.name], of.subsets[1], results)
        table = table_content(result)
        with collect_errors(troubles, f"the tables in {results}"):
            write_tables(results, table)
        with collect_errors(troubles, "MLflow's record of the sweep"):
            tracking.close(failures, results, best)
    print_table(table)
    say(f"Tables: {results}/table.{{json,csv,md}}")
    say(f"Models: {results}/models: {len(models.folders)}, {models.made} of them new")
    if best is not None and example is not None:
        say(f"Example: {example}: what the best row finds in a video")
    for note in models.notes:
        say(f"  {note}")
    say(f"MLflow: {tracking.tracker.mlflow.ui_command()}")
    say(f"  the table: {tracking.table_url()}\n  charts: {tracking.compare_url()}")
    for (name, seed), text in failures.items():
        say(f"FAILED {name} seed {seed}: {text}")
    for trouble in troubles:
        say(f"FAILED {trouble}")
    if failures or troubles:
        say(f"What Ray and its workers said: {ray_log.path}")
    return 1 if failures or troubles else 0


def _too_short(recipes: dict[Cell, RowRecipes], sources: Sources) -> list[str]:
    """A line for each pretext that some videos are too short for. ValueError if all are."""
    trained = [e for r in recipes.values() for encoder in r.encoders for e in (encoder, *encoder.teachers) if e.pretext]
    lines = [too_short(e.training.pretext, e.training.clips, sources.trimmed) for e in trained]
    return [line for line in dict.fromkeys(lines) if line]


def _chosen(experiment: Experiment, names: tuple[str, ...]) -> list[Row]:
    known = {row.name: row for row in experiment.rows}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(f"--rows {','.join(unknown)}: unknown; the rows are {', '.join(known)}")
    return [row for row in experiment.rows if not names or row.name in names]


def _put_aside(store: StageStore, recipes: dict[Cell, RowRecipes]) -> None:
    moved = {
        store.put_aside(kind, recipe)
        for r in recipes.values()
        for kind, recipe in [*r.stages(), *(("class_scores", scores) for scores in r.class_scores())]
    } - {None}
    if moved:
        say(f"--fresh: {len(moved)} stages moved to {store.address}/replaced; delete that folder at will")


def _found_stages(store: StageStore, recipes: RowRecipes) -> dict[str, list[str]]:
    """By kind, the stages of a row that are in the store: encoders by name, others by hash."""
    found: dict[str, list[str]] = {}
    for kind, recipe in recipes.stages():
        if store.has(kind, recipe):
            found.setdefault(kind, []).append(recipe.name if kind == "encoders" else recipe_hash(recipe))
    return found


def _print_reused(found: dict[Cell, dict[str, list[str]]]) -> None:
    """One line for each stage that is not made again, with the rows that use it."""
    users: dict[tuple[str, str], list[str]] = {}
    for cell, stages in found.items():
        for kind, names in stages.items():
            for name in names:
                users.setdefault((kind, name), []).append(f"{cell[0]} seed {cell[1]}")
    for (kind, name), cells in sorted(users.items()):
        say(f"reused from storage: {kind}/{name} for {', '.join(cells)}")


def _run_missing(
    recipes: dict[Cell, RowRecipes],
    store: StageStore,
    sources: Sources,
    options: Options,
    tracking: SweepTracking,
    console: TextIO,
    failures: dict[Cell, str],
    troubles: list[str],
) -> None:
    """Run ``recipes`` as trials of Tune. Why a cell failed is put into ``failures`` when it fails."""
    job, at_a_time = start_job(options, store, sources, recipes, console)
    ordered = sorted(recipes, key=lambda cell: _start_order(cell, recipes[cell]))
    with LiveView(ordered, at_a_time, console) as view:
        waits = WaitWatch(job.resources, lambda: object_store().spilled_mb)
        run_trials(
            run_row,
            job,
            tune.TuneConfig(max_concurrent_trials=at_a_time, reuse_actors=True),
            Watch(tracking, view, waits, failures),
            troubles,
            {"cell": tune.grid_search([list(cell) for cell in ordered])},
        )


def _start_order(cell: Cell, recipes: RowRecipes) -> tuple[int, int, int]:
    """Sort key: the row whose encoder makes the class scores of all rows is first; within a seed, rows that use
    other rows' encoders (teachers) or train nothing are last, as they would only wait."""
    for shared in recipes.class_scores():
        if isinstance(shared, ClassScoresRecipe) and recipes.encoders == (shared.features.encoder,):
            return -1, 0, 0
    waits = sum(len(encoder.teachers) for encoder in recipes.encoders)
    return cell[1], waits, int(all(encoder.pretext is None for encoder in recipes.encoders))


class Watch(tune.Callback):
    """Callback of Tune in the driver: passes reports of trials on to the live view and to MLflow."""

    def __init__(self, tracking: SweepTracking, view: LiveView, waits: WaitWatch, failures: dict[Cell, str]):
        self.tracking, self.view, self.waits, self.failures = tracking, view, waits, failures

    def __getstate__(self) -> dict:
        return {}  # Tune pickles its callbacks to restore a sweep; ours continues from the store instead

    @override
    def on_trial_result(self, iteration, trials, trial, result, **info):
        cell = tuple(trial.config["cell"])
        self.view.update(cell, result)
        if "record" in result:
            self.tracking.pretrain_record(cell, result)
            warning = self.waits.record((*cell, result["encoder"]), result["record"])
            if warning:
                self.view.warn(cell, warning)
                self.tracking.warn(cell, result["encoder"], warning)

    @override
    def on_trial_complete(self, iteration, trials, trial, **info):
        self.view.update(tuple(trial.config["cell"]), {"stage": "finished"})
        self.tracking.close_cell(tuple(trial.config["cell"]))

    @override
    def on_trial_error(self, iteration, trials, trial, **info):
        cell = tuple(trial.config["cell"])
        # Now, because at the end Tune gives no errors at all if it cannot read one of them.
        self.failures[cell] = reason_of_trial(trial)
        self.view.update(cell, {"stage": "FAILED"})
        self.tracking.close_cell(cell, self.failures[cell])
