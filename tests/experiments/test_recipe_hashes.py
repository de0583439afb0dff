"""Stages are found by the hashes of their recipes: those of every row, written down before the code was moved.

``fixtures/recipe_hashes.json`` holds them as the first grouping of the code found them. A change here makes results
that took days invisible: raise a recipe's ``code`` instead, or give a new field metadata "later".
"""

import json

import pytest

from bsp_platform.plan.profiles import PROFILES
from bsp_platform.plan.rows import row_recipes
from bsp_platform.storage.manifests import recipe_hash
from bsp_platform.sweep.tracking import naming_settings
from paper_tables import SOURCES, TABLES
from repository import FIXTURES

WRITTEN = json.loads((FIXTURES / "recipe_hashes.json").read_text("utf-8"))


def hashes(table: str, profile: str) -> dict[str, list[str]]:
    """ "row, seed" -> "kind hash" of each of its stages, class scores included."""
    found = {}
    for row in TABLES[table].rows:
        for seed in (0, 1):
            recipes = row_recipes(row, seed, PROFILES[profile](), SOURCES, 1)
            stages = [*recipes.stages(), *(("class_scores", scores) for scores in recipes.class_scores())]
            found[f"{row.name}, {seed}"] = sorted({f"{kind} {recipe_hash(recipe)}" for kind, recipe in stages})
    return found


@pytest.mark.parametrize("profile", sorted({profile for _, profile in map(str.split, WRITTEN)}))
@pytest.mark.parametrize("table", sorted({table for table, _ in map(str.split, WRITTEN)}))
def test_stages_made_earlier_are_found(table, profile):
    assert hashes(table, profile) == WRITTEN[f"{table} {profile}"]


@pytest.mark.parametrize(
    ("profile", "written"),
    [("smoke", "7b455eb50e584f04"), ("mini", "e94c7388656d77e6"), ("paper", "ba629c01c61d9c5a"),
     ("paper-r50", "68ef2e9100200c64")],
)  # fmt: skip
def test_runs_shown_in_mlflow_earlier_are_found(profile, written):
    assert recipe_hash(naming_settings(PROFILES[profile]())) == written
