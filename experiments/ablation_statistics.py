"""Batch-norm statistics: Table 4's rows as trained, and estimated again on other snippets.

make ablation-statistics                                   # profile mini
python experiments/ablation_statistics.py --seeds 3        # mean and standard deviation

Encoders are those of Table 4; features and heads are new. "target": 960 unlabelled snippets of the training videos of
the target data; "plain": 960 clips of the pre-training data without a boundary.
"""

from functools import partial
from pathlib import Path

from ablation_table4 import TABLE_4
from bsp_platform.plan.options import experiment_command
from bsp_platform.plan.recipes import Statistics
from bsp_platform.plan.rows import Claim, Experiment, Row, varied
from bsp_platform.sweep.run import run

OTHERS: tuple[Statistics, ...] = ("target", "plain")


def _rows(row: Row) -> list[Row]:
    """The row as it is in Table 4, and with each of the other statistics."""
    return [row, *(varied(row, statistics, statistics, statistics=statistics) for statistics in OTHERS)]


STATISTICS = Experiment(
    name="ablation_statistics",
    title="Batch-norm statistics of Table 4's encoders: as trained, of target snippets, of plain clips; G-TAD",
    paper_data=TABLE_4.paper_data,
    rows=tuple(new for row in TABLE_4.rows for new in _rows(row)),
    claims=tuple(
        Claim(
            text=f"{row.label}: target snippets above as trained",
            higher=f"{row.name}-target",
            lower=row.name,
            metric="mAP_avg",
            paper=False,
        )
        for row in TABLE_4.rows
    ),
)

main = partial(run, STATISTICS)  # (options) -> exit status

if __name__ == "__main__":
    experiment_command(Path(__file__).resolve().parents[1], main)()
