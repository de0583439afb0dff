"""All tables and figures in the smoke profile, with some of their rows, for test_all_tables.py: a program.

python smoke_tables.py [the options of the scripts]. One process, so that Ray starts once.
"""

import importlib
import sys
from dataclasses import replace

from repository import EXPERIMENTS, ROOT

sys.path.append(str(EXPERIMENTS))

# Enough rows of every table that all heads run, one on fused features; test_sweeps.py trains the fused encoders.
ROWS = {
    "ablation_table4": ("random", "vanilla"),
    "ablation_start": ("image",),
    "ablation_table5": ("vanilla",),
    "rivals": ("speediness",),
    "table1_activitynet": ("r18-bsp",),
    "table2_charades": ("2dtan-vanilla", "lgi-vanilla"),
    "table3_crosstask": ("vanilla",),
    "table_supplement_thumos_hacs": ("thumos-vanilla", "hacs-vanilla"),
    "gebd": ("peaks-vanilla", "head-vanilla"),
    "ablation_depth": ("r18-vanilla",),
    "ablation_statistics": ("random-target",),  # nothing more is trained
    "ablation_readout": ("random-three",),
    "ablation_snippets": ("random-64x8",),
}


def main(options) -> int:
    """Run the scripts as all_tables.py does, with these rows; returns 1 at the first that fails."""
    from all_tables import OWN, SCRIPTS

    for name in (*SCRIPTS, *OWN):
        print(f"=== {name} ===", flush=True)
        if importlib.import_module(name).main(replace(options, rows=ROWS.get(name, ()))):
            return 1
    return 0


if __name__ == "__main__":
    from bsp_platform.plan.options import experiment_command

    experiment_command(ROOT, main)()
