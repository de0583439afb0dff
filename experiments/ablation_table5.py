"""Table 5 of the paper: how to join boundary-sensitive and action-classification pre-training (Section 3.4).

python experiments/ablation_table5.py                      # profile mini: embedded data, minutes on 2 cores
python experiments/ablation_table5.py --seeds 3            # mean and standard deviation
python experiments/ablation_table5.py --profile paper --kinetics DIR --activitynet DIR --charades DIR --glove FILE

Two rows are controls that the paper lacks: is two-stream more than an ensemble (two vanilla encoders), and more
than width (vanilla and random)?
"""

from functools import partial
from pathlib import Path

from bsp.clips.plan import PAPER_KINDS
from bsp_platform.plan.options import experiment_command
from bsp_platform.plan.recipes import Stream
from bsp_platform.plan.rows import Claim, Experiment, Row
from bsp_platform.sweep.run import run

ALL = PAPER_KINDS
VANILLA, BSP = Stream(method="action"), Stream(method="classification", kinds=ALL)
COLUMNS = ("R1@0.5", "R1@0.7", "mAP@0.50", "mAP@0.75", "mAP@0.95", "mAP_avg")


def _row(name: str, label: str, *streams: Stream, paper: tuple[float, ...] = ()) -> Row:
    scores = dict(zip(COLUMNS, paper, strict=True)) if paper else {}
    return Row(name=name, label=label, streams=streams, heads=("2dtan", "gtad"), paper=scores)


TABLE_5 = Experiment(
    name="ablation_table5",
    title="Table 5: feature fusion methods, 2D-TAN for video grounding and G-TAD for action localisation",
    paper_data="TSM R18 pre-trained on Kinetics-400; 2D-TAN on Charades-STA, G-TAD on ActivityNet-1.3",
    columns=COLUMNS,
    costs=True,
    rows=(
        _row("vanilla", "vanilla", VANILLA, paper=(39.78, 22.15, 49.64, 34.16, 7.68, 33.59)),
        _row("two-stream", "2-stream", VANILLA, BSP, paper=(44.01, 24.95, 50.09, 34.66, 7.95, 33.96)),
        _row(
            "two-head", "2-head", Stream(method="two-head", kinds=ALL),
            paper=(39.95, 22.85, 49.50, 34.00, 8.38, 33.54),
        ),
        _row(
            "distillation", "feat dist", Stream(method="distillation", kinds=ALL),
            paper=(44.65, 24.73, 49.67, 34.40, 7.74, 33.74),
        ),
        _row("two-vanilla", "control: 2 x vanilla", VANILLA, Stream(method="action", seed_offset=1)),
        _row("vanilla-random", "control: vanilla + random", VANILLA, Stream(method="random")),
    ),
    claims=tuple(
        Claim(text=f"{text} ({task})", higher=high, lower=low, metric=metric, paper=paper)
        for task, metric in (("G-TAD", "mAP_avg"), ("2D-TAN", "R1@0.5"))
        for text, high, low, paper in (
            ("two-stream above vanilla", "two-stream", "vanilla", True),
            ("distillation above vanilla", "distillation", "vanilla", True),
            ("two-stream above two-head", "two-stream", "two-head", True),
            ("distillation above two-head", "distillation", "two-head", True),
            ("two-stream above two vanilla", "two-stream", "two-vanilla", False),
            ("two-stream above vanilla + random", "two-stream", "vanilla-random", False),
        )
    ),
)  # fmt: skip

main = partial(run, TABLE_5)  # (options) -> exit status

if __name__ == "__main__":
    experiment_command(Path(__file__).resolve().parents[1], main)()
