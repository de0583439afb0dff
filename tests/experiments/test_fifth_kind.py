"""A further kind of boundary changes no recipe of the paper's tables, and no script of a table fails for it."""

import json
import os
import subprocess
import sys

import pytest

from bsp_platform.plan.profiles import PROFILES
from bsp_platform.plan.rows import row_recipes
from bsp_platform.search.space import make_setting, plan_trial, read_space
from bsp_platform.storage.manifests import recipe_hash
from paper_tables import SOURCES, TABLES
from repository import EXPERIMENTS, ROOT, SUPPORT


@pytest.mark.long
def test_the_papers_recipes_stay_what_they_are():
    places = (SUPPORT, EXPERIMENTS, ROOT, ROOT / "platform")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, places))}
    done = subprocess.run(
        [sys.executable, str(SUPPORT / "fifth_kind.py")], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    profile = PROFILES["mini"]()
    for table, experiment in TABLES.items():
        for row in experiment.rows:
            expected = [recipe_hash(recipe) for _, recipe in row_recipes(row, 0, profile, SOURCES, 1).stages()]
            assert found["hashes"][f"{table} {row.name}"] == expected, (table, row.name)
    space = {name: values[0] for name, values in read_space({}, profile).items()}
    searched = plan_trial(make_setting(space, profile.clips), 0, profile, SOURCES, 1).searched
    assert found["searched"] == recipe_hash(searched)
    assert found["kinds"] == ["dc", "sc", "ds", "ss"]
