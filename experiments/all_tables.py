"""Run every table and figure of the paper and write one report, results/REPORT.md.

python experiments/all_tables.py                           # profile mini: embedded data; about two hours on 2 cores
python experiments/all_tables.py --profile smoke           # minutes; the scores mean nothing
python experiments/all_tables.py --seeds 3                 # mean and standard deviation

Stages in the storage are not made again, so the tables share their encoders, and a stopped run continues.
The report names a script that fails; the others go on.
"""

import importlib
from pathlib import Path

from bsp_platform.plain_text import say
from bsp_platform.plan.options import Options, experiment_command
from bsp_platform.report.report import write_report
from bsp_platform.sweep.failures import collect_errors

ROOT = Path(__file__).resolve().parents[1]
# In this order each script finds as many of its stages as possible.
SCRIPTS = (
    "ablation_table4",
    "ablation_table5",
    "table1_activitynet",
    "table2_charades",
    "table3_crosstask",
    "table_supplement_thumos_hacs",
    "gebd",
    "ablation_depth",
    "figure2_synthesis",
    "figure4_feature_difference",
    "figure5_qualitative",
)
# Questions of our own, each with a command of its own, as their trainings would double the time.
OWN = ("ablation_start", "rivals", "ablation_statistics", "ablation_readout", "ablation_snippets")


def run_all(options: Options) -> int:
    """Run the scripts one after another; returns 1 if one of them failed."""
    if options.rows or options.fresh:
        raise ValueError("--rows and --fresh belong to a single table; to make all anew give another --storage")
    failures: dict[str, str] = {}
    for name in SCRIPTS:
        say(f"\n=== {name} ===")
        try:
            if importlib.import_module(name).main(options):
                failures[name] = "some rows failed; see above and the table"
        except (ValueError, RuntimeError, OSError, EOFError) as error:
            say(f"error: {error}")
            failures[name] = str(error)
        if options.dry_run:
            continue
        unwritten: list[str] = []  # errors of the last writing; on a full disk finished scripts still count
        with collect_errors(unwritten, "the report"):
            write_report(options.results, options.profile.name, SCRIPTS, failures)
    if options.dry_run:
        return 1 if failures else 0
    for trouble in unwritten:
        say(f"FAILED {trouble}")
    say(f"\nReport: {options.results / 'REPORT.md'}")
    return 1 if failures or unwritten else 0


if __name__ == "__main__":
    experiment_command(ROOT, run_all)()
