"""Which frames a snippet has: 8 consecutive ones, as the paper says, or 8 out of 64 at stride 8, as the next
manuscript of the same author has it, in the same grid.

make ablation-snippets                                     # profile mini
python experiments/ablation_snippets.py --seeds 3          # mean and standard deviation

Encoders are those of Table 4; features and heads are new.
"""

from functools import partial
from pathlib import Path

from ablation_table4 import TABLE_4
from bsp_platform.plan.options import experiment_command
from bsp_platform.plan.rows import Experiment, varied
from bsp_platform.sweep.run import run

ROWS = ("random", "cls-S", "vanilla")


SNIPPETS = Experiment(
    name="ablation_snippets",
    title="Frames of a snippet: 8 consecutive, or 8 out of 64; G-TAD",
    paper_data=TABLE_4.paper_data,
    rows=tuple(
        new
        for row in TABLE_4.rows
        if row.name in ROWS
        for new in (row, varied(row, "64x8", "8 of 64 frames", snippet_sampling="64x8"))
    ),
)

main = partial(run, SNIPPETS)  # (options) -> exit status

if __name__ == "__main__":
    experiment_command(Path(__file__).resolve().parents[1], main)()
