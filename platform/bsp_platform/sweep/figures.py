"""Shared by the figure scripts: making the rows that a figure needs, and writing it to files and to MLflow.

A figure has one MLflow run per configuration, found by its key: making the figure again replaces the run's files
and adds no second run.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from matplotlib.figure import Figure

from bsp.figures.style import save_figure
from bsp_platform.plain_text import say
from bsp_platform.plan.options import Options
from bsp_platform.plan.rows import Cell, Experiment, Row, RowRecipes, data_sets, row_recipes
from bsp_platform.plan.sources import Sources, load_sources
from bsp_platform.report.tables import commit, hardware
from bsp_platform.storage.files import write_json
from bsp_platform.storage.manifests import recipe_hash
from bsp_platform.storage.stages import StageStore
from bsp_platform.tracking.record import new_record, now_ms
from bsp_platform.tracking.tracker import Tracker


def finished_rows(
    name: str, rows: Sequence[Row], options: Options, *, need: Literal["features", "heads"]
) -> tuple[Sources, StageStore, dict[Cell, RowRecipes]]:
    """Sources, store, and the recipes of all ``rows`` and seeds, whose stages of kind ``need`` are complete.

    Missing stages are made first, as the rows of an experiment called ``<name>_rows``; stages that a table has made
    are used. Raises RuntimeError if a row fails, ValueError for ``--rows``.
    """
    if options.rows:
        raise ValueError(f"--rows {','.join(options.rows)}: a figure always needs all its rows; leave the option out")
    store = StageStore(options.storage)
    experiment = Experiment(name=f"{name}_rows", title=f"Rows of {name}", rows=tuple(rows))
    sources = load_sources(options.profile, data_sets(rows), options.data, storage=store.root)
    recipes = {
        (row.name, seed): row_recipes(row, seed, options.profile, sources, options.workers)
        for row in rows
        for seed in range(options.seeds)
    }
    if options.fresh or not all(_are_complete(r, store, need) for r in recipes.values()):
        from bsp_platform.sweep.run import run  # Ray and Tune are loaded only when a stage is missing

        if run(experiment, options):
            raise RuntimeError(f"{name}: not all its rows could be made; see above")
    return sources, store, recipes


def _are_complete(recipes: RowRecipes, store: StageStore, need: Literal["features", "heads"]) -> bool:
    return all(store.find(kind, recipe) for kind, recipe in recipes.stages() if kind == need)


def publish(
    figure: Figure,
    options: Options,
    *,
    name: str,
    content: dict[str, Any],
    key: dict[str, Any],
    params: dict[str, Any],
    metrics: dict[str, float],
) -> Path:
    """Write ``<results>/<name>/<profile>/figure.{png,pdf,json}``, log them and the numbers; returns the folder.

    ``content`` becomes the JSON, with "title" and "caption"; profile, hardware and commit are added. ``key`` (JSON
    values, recipes) and the metrics decide which MLflow run this is: a run never holds two values of one metric.
    """
    profile = options.profile
    folder = options.results / name / profile.name
    paths = [*save_figure(figure, folder), folder / "figure.json"]
    write_json(
        paths[-1],
        {"profile": profile.name, "about": profile.about, "hardware": hardware(), "commit": commit(), **content},
    )
    tracker = Tracker(options.tracking_uri, name, options.tracking_home, StageStore(options.storage))
    rounded = {metric: round(value, 6) for metric, value in metrics.items()}
    key_hash = recipe_hash({"key": key, "metrics": rounded})
    params = {"profile": profile.name, **params}
    note = f"{content['title']}\n\n{content['caption']}\n\nThe picture is in the artifacts. Data: {profile.about}."
    record = new_record(name, f"{profile.name}/{key_hash}", f"{name} {profile.name}", params, note=note)
    record = tracker.begin(record)
    tracker.end(record.with_numbers(rounded, time_ms=now_ms()), paths)
    say(f"{content['title']}: {folder}/figure.{{png,pdf,json}}\nMLflow: {tracker.mlflow.ui_command()}")
    return folder
