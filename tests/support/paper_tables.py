"""The paper's tables as data, with the recipes that their rows have for made-up sources."""

import importlib
from types import SimpleNamespace

from bsp_platform.plan.profiles import PROFILES
from bsp_platform.plan.rows import row_recipes
from bsp_platform.plan.sources import Sources

DATA_SETS = ("activitynet", "charades", "thumos", "hacs", "crosstask", "gebd")
SOURCES = Sources(
    trimmed=SimpleNamespace(class_names=("wave", "walk", "kick")),
    trimmed_print="t",
    videos_prints={name: f"{name} videos" for name in DATA_SETS},
    labels_prints={name: f"{name} labels" for name in DATA_SETS},
)


def load(script: str, name: str):
    return getattr(importlib.import_module(script), name)


TABLES = {
    "table1": load("table1_activitynet", "TABLE_1"),
    "table2": load("table2_charades", "TABLE_2"),
    "table3": load("table3_crosstask", "TABLE_3"),
    "table4": load("ablation_table4", "TABLE_4"),
    "start": load("ablation_start", "START"),
    "table5": load("ablation_table5", "TABLE_5"),
    "supplement": load("table_supplement_thumos_hacs", "THUMOS_HACS"),
    "gebd": load("gebd", "GEBD"),
    "depth": load("ablation_depth", "DEPTH"),
    "rivals": load("rivals", "RIVALS"),
}


def recipes(table: str, row: str, seed: int = 0, profile: str = "mini"):
    found = next(r for r in TABLES[table].rows if r.name == row)
    return row_recipes(found, seed, PROFILES[profile](), SOURCES, 1)
