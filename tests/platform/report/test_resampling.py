"""Resampled scores of rows from what their heads left in a storage; what is gone is named."""

from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest

from bsp.statistics.per_video import PerVideo, draw_counts
from bsp_platform.plan.rows import Claim
from bsp_platform.report.resampling import resample_rows
from bsp_platform.storage.files import write_json
from bsp_platform.storage.stages import StageStore

CLAIM = Claim(text="a above b", higher="a", lower="b", metric="score")


@dataclass(frozen=True)
class Recipe:
    name: str
    head: str = "settings"


def per_video(data, settings, subset, read):
    """The score is the mean over videos of what is predicted for each, minus what is annotated."""
    assert (settings, subset) == ("settings", "validation")
    value_V = np.array([read("found.json")[video] - data[video] for video in data])
    return PerVideo(tuple(data), lambda counts_BV: {"score": counts_BV @ value_V / len(value_V)})


def finished(store, **found):
    """Recipes of rows of seed 0 whose heads left ``found``, by row."""
    task = SimpleNamespace(
        head=SimpleNamespace(per_video=per_video),
        data=SimpleNamespace(name="data", subsets=("training", "validation")),
    )
    recipes = {}
    for row, document in found.items():
        store.ensure("heads", Recipe(row), lambda folder, d=document: write_json(folder / "found.json", d) or {})
        recipes[row, 0] = SimpleNamespace(heads={"task": Recipe(row)}, tasks={"task": task})
    return recipes


DATA = {"data": {"x": 1.0, "y": 2.0}}


def test_rows_in_relations_are_scored_on_the_same_samples(tmp_path):
    store = StageStore(tmp_path)
    recipes = finished(store, a={"x": 4.0, "y": 9.0}, b={"x": 2.0, "y": 2.0}, c={"x": 0.0, "y": 0.0})
    scores = {("a", 0): {"score": 5.0}, ("b", 0): {"score": 0.5}, ("c", 0): {"score": -1.5}}
    found, notes = resample_rows([CLAIM], recipes, scores, DATA, store)
    assert notes == []
    assert set(found) == {("a", 0), ("b", 0)}  # no relation names c
    counts = draw_counts(2, 1000)
    assert found["a", 0]["score"].values == pytest.approx(counts @ [3.0, 7.0] / 2)
    assert found["b", 0]["score"].values == pytest.approx(counts @ [1.0, 0.0] / 2)
    assert found["a", 0]["score"].videos == ("x", "y")


def test_predictions_that_are_gone_or_of_another_score_are_named(tmp_path):
    store = StageStore(tmp_path)
    recipes = finished(store, a={"x": 4.0, "y": 9.0}, b={"x": 2.0, "y": 2.0})
    scores = {("a", 0): {"score": 5.0}, ("b", 0): {"score": 0.75}}
    (store.folder("heads", Recipe("a")) / "found.json").unlink()
    found, (of_a, of_b) = resample_rows([CLAIM], recipes, scores, DATA, StageStore(tmp_path))
    assert found == {("a", 0): {}, ("b", 0): {}}
    assert of_a.startswith("a seed 0, task: its videos could not be resampled (StageDamaged: ")
    assert "its predictions give score 0.5000, but its score is 0.7500" in of_b
    assert resample_rows([CLAIM], recipes, {}, DATA, store) == ({}, [])  # nothing has finished
