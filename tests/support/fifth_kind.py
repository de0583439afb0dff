"""The program of test_fifth_kind.py: recipe hashes of all tables in a world with one more kind of boundary.

The enum's source gets another member before anything imports it, as somebody's change of that line would do.
"""

import importlib.util
import json
import sys

SPEC = importlib.util.find_spec("bsp.clips.plan")
LAST = "    SAME_SPEED = 3\n"
source = SPEC.loader.get_source(SPEC.name)
assert source.count(LAST) == 1
module = importlib.util.module_from_spec(SPEC)
sys.modules[SPEC.name] = module
exec(compile(source.replace(LAST, f"{LAST}    REVERSED = 4\n"), SPEC.origin, "exec"), module.__dict__)

from bsp_platform.plan.rows import row_recipes  # noqa: E402
from bsp_platform.search.space import KINDS, make_setting, plan_trial, read_space  # noqa: E402
from bsp_platform.storage.manifests import recipe_hash  # noqa: E402
from paper_tables import PROFILES, SOURCES, TABLES  # noqa: E402

assert len(module.BoundaryKind) == 5
profile = PROFILES["mini"]()
found = {
    f"{table} {row.name}": [recipe_hash(recipe) for _, recipe in row_recipes(row, 0, profile, SOURCES, 1).stages()]
    for table, experiment in TABLES.items()
    for row in experiment.rows
}
space = {name: values[0] for name, values in read_space({}, profile).items()}
searched = plan_trial(make_setting(space, profile.clips), 0, profile, SOURCES, 1).searched
print(json.dumps({"hashes": found, "searched": recipe_hash(searched), "kinds": list(KINDS)}))
