"""Table 4 of the paper: which boundary-sensitive pretext task helps temporal action localisation?

python experiments/ablation_table4.py                      # profile mini: embedded data, minutes on 2 cores
python experiments/ablation_table4.py --seeds 3            # mean and standard deviation
python experiments/ablation_table4.py --profile paper --kinetics DIR --activitynet DIR   # GPUs, real data
"""

from pathlib import Path

from bsp.clips import BoundaryKind
from bsp_platform.options import experiment_command
from bsp_platform.rows import Experiment, Row
from bsp_platform.sweeps import run

DC, SC, DS, SS = BoundaryKind


def _paper(at_50: float, at_75: float, at_95: float, average: float) -> dict[str, float]:
    return {"mAP@0.50": at_50, "mAP@0.75": at_75, "mAP@0.95": at_95, "mAP_avg": average}


TABLE_4 = Experiment(
    name="ablation_table4",
    title="Table 4: boundary-sensitive pretext tasks, G-TAD, temporal action localisation",
    paper_data="TSM R18 pre-trained on Kinetics-400, G-TAD on ActivityNet-1.3 validation",
    rows=(
        Row(name="random", label="random", task=None, paper=_paper(40.44, 24.99, 6.85, 25.58)),
        Row(
            name="reg-dc",
            label="{dc} reg",
            task="regression",
            kinds=(DC,),
            paper=_paper(40.88, 26.64, 5.73, 26.56),
        ),
        Row(
            name="reg-sc",
            label="{sc} reg",
            task="regression",
            kinds=(SC,),
            paper=_paper(42.48, 27.78, 6.56, 27.75),
        ),
        Row(
            name="reg-ds",
            label="{ds} reg",
            task="regression",
            kinds=(DS,),
            paper=_paper(44.00, 29.05, 4.82, 28.77),
        ),
        Row(
            name="cls-dc",
            label="{dc, ss} cls",
            task="classification",
            kinds=(DC, SS),
            paper=_paper(44.32, 29.16, 6.66, 29.17),
        ),
        Row(
            name="cls-sc",
            label="{sc, ss} cls",
            task="classification",
            kinds=(SC, SS),
            paper=_paper(44.24, 29.20, 6.25, 29.09),
        ),
        Row(
            name="cls-ds",
            label="{ds, ss} cls",
            task="classification",
            kinds=(DS, SS),
            paper=_paper(45.00, 29.89, 6.47, 29.75),
        ),
        Row(
            name="cls-S",
            label="S cls",
            task="classification",
            kinds=(DC, SC, DS, SS),
            paper=_paper(45.39, 30.26, 6.33, 29.97),
        ),
        Row(name="vanilla", label="vanilla", task="action", paper=_paper(49.64, 34.16, 7.68, 33.59)),
    ),
)

if __name__ == "__main__":
    experiment_command(Path(__file__).resolve().parents[1], lambda options: run(TABLE_4, options))()
