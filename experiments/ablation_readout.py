"""What a snippet's feature is read off by: the mean over its frames, or other statistics of their vectors.

make ablation-readout                                      # profile mini
python experiments/ablation_readout.py --seeds 3           # mean and standard deviation

Encoders are those of Table 4; features and heads are new. "three" is mean, standard deviation and mean absolute
difference, three times as wide; the others have the width of the mean: "thirds" reads each third channel by one of
the three.
"""

from functools import partial
from pathlib import Path
from typing import get_args

from ablation_table4 import TABLE_4
from bsp.features.reading import Readout
from bsp_platform.plan.options import experiment_command
from bsp_platform.plan.rows import Experiment, Row, varied
from bsp_platform.sweep.run import run

ROWS = ("random", "reg-dc", "cls-S", "vanilla")


def _read(row: Row, readout: Readout) -> Row:
    if not readout:
        return row
    return varied(row, readout, readout, readout=readout)


READOUT = Experiment(
    name="ablation_readout",
    title="Readouts of the same encoders: mean over a snippet's frames, and other statistics; G-TAD",
    paper_data=TABLE_4.paper_data,
    rows=tuple(_read(row, readout) for row in TABLE_4.rows if row.name in ROWS for readout in get_args(Readout)),
)

main = partial(run, READOUT)  # (options) -> exit status

if __name__ == "__main__":
    experiment_command(Path(__file__).resolve().parents[1], main)()
