"""Scores of finished rows on resampled test videos, from the predictions that their heads left in the storage.

All rows and seeds of a data set are scored on the same samples, so that differences of rows are paired. Nothing is
trained or predicted again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from bsp.files.text import parse_json
from bsp.statistics.paired import SAMPLES
from bsp.statistics.per_video import PerVideo, draw_counts
from bsp_platform.plain_text import say
from bsp_platform.plan.recipes import AnyHeadRecipe
from bsp_platform.plan.rows import Cell, Claim, RowRecipes
from bsp_platform.plan.tasks import Task
from bsp_platform.storage.stages import StageStore

_SAME_SCORE = 1e-6  # percent points between a stored score and the one of the stored predictions


@dataclass(frozen=True)
class Samples:
    """One score of one row and seed."""

    videos: tuple[str, ...]  # that were resampled
    values: np.ndarray  # float64 [B], percent


Resampled = Mapping[Cell, Mapping[str, Samples]]  # by metric


def resample_rows(
    claims: Iterable[Claim],
    recipes: Mapping[Cell, RowRecipes],
    scores: Mapping[Cell, Mapping[str, float]],
    data: Mapping[str, object],
    store: StageStore,
) -> tuple[dict[Cell, dict[str, Samples]], list[str]]:
    """The resampled scores of all finished cells whose rows occur in a claim, and notes on those that have none.

    ``scores``: of finished cells; ``data``: annotations by name of the data set. A row whose predictions are gone,
    cannot be read, or do not give the stored score is named in the notes and left out.
    """
    named = {name for claim in claims for name in (claim.higher, claim.lower)}
    cells = [cell for cell in recipes if cell[0] in named and cell in scores]
    if cells:
        say(f"resampling the test videos of {len(cells)} runs {SAMPLES} times, for the relations between rows")
    out: dict[Cell, dict[str, Samples]] = {}
    notes = []
    for cell in cells:
        out[cell] = {}
        for name, recipe in recipes[cell].heads.items():
            task = recipes[cell].tasks[name]
            if task.head.per_video is None:
                continue
            try:
                per_video = _per_video(task, recipe, data[task.data.name], store)
                out[cell] |= _samples(per_video, scores[cell])
            except (OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
                why = f"{type(error).__name__}: {str(error)[:200]}"
                notes.append(f"{cell[0]} seed {cell[1]}, {name}: its videos could not be resampled ({why})")
    return out, notes


def _per_video(task: Task, recipe: AnyHeadRecipe, data: Any, store: StageStore) -> PerVideo:
    folder = store.need("heads", recipe)
    assert task.head.per_video is not None

    def read(name: str) -> Any:
        return parse_json(store.read_checked(folder, name).read_bytes(), folder / name)

    return task.head.per_video(data, recipe.head, task.data.subsets[1], read)


def _samples(per_video: PerVideo, stored: Mapping[str, float]) -> dict[str, Samples]:
    """ValueError if the predictions do not give the stored scores."""
    for name, value in per_video.identity().items():
        if abs(value - stored.get(name, value)) > _SAME_SCORE:
            raise ValueError(f"its predictions give {name} {value:.4f}, but its score is {stored[name]:.4f}")
    values = per_video.scores(draw_counts(len(per_video.videos), SAMPLES))
    return {name: Samples(per_video.videos, value_B) for name, value_B in values.items()}
