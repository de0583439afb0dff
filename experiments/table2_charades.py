"""Table 2 of the paper: video grounding with 2D-TAN and LGI, on vanilla and on vanilla + BSP features.

python experiments/table2_charades.py                      # profile mini: embedded data, minutes on 2 cores
python experiments/table2_charades.py --seeds 3            # mean and standard deviation
python experiments/table2_charades.py --profile paper-r50 --kinetics DIR --charades DIR --glove FILE

The blind rows show what the sentences, or the videos, give away by themselves. The two heads are scored by
their own published protocols, which differ (docs/choices.md).
"""

from functools import partial
from pathlib import Path

from bsp.clips.plan import PAPER_KINDS
from bsp_platform.plan.options import experiment_command
from bsp_platform.plan.recipes import Stream
from bsp_platform.plan.rows import Claim, Experiment, Reference, Row
from bsp_platform.sweep.run import run

VANILLA, BSP = Stream(method="action"), Stream(method="classification", kinds=PAPER_KINDS)
COLUMNS = ("R1@0.3", "R1@0.5", "R1@0.7", "mIoU")
SOURCE = "Table 2 of the paper, Charades-STA test set"


def _scores(*values: float | None) -> dict[str, float]:
    return {name: value for name, value in zip(COLUMNS, values, strict=True) if value is not None}


def _cited(method: str, *values: float | None) -> Reference:
    return Reference(label=method, source=SOURCE, paper=_scores(*values))


TABLE_2 = Experiment(
    name="table2_charades",
    title="Table 2: video grounding with 2D-TAN and LGI",
    paper_data="TSM pre-trained on Kinetics-400, Charades-STA test",
    columns=COLUMNS,
    references=(
        _cited("CTRL", None, 21.42, 7.15, None),
        _cited("SMRL", None, 24.36, 9.01, None),
        _cited("SAP", None, 27.42, 13.36, None),
        _cited("MLVI", 54.70, 35.60, 15.80, None),
        _cited("MAN", None, 46.53, 22.72, None),
        _cited("DRN", None, 53.09, 31.75, None),
        _cited("2D-TAN", None, 42.80, 23.25, None),
    ),
    rows=(
        Row(
            name="2dtan-vanilla", label="2D-TAN, vanilla", streams=(VANILLA,), heads=("2dtan",),
            paper=_scores(None, 48.36, 27.88, None),
        ),
        Row(
            name="2dtan-bsp", label="2D-TAN, vanilla + BSP", streams=(VANILLA, BSP), heads=("2dtan",),
            paper=_scores(None, 51.64, 29.57, None),
        ),
        Row(
            name="lgi-vanilla", label="LGI, vanilla", streams=(VANILLA,), heads=("lgi",),
            paper=_scores(60.67, 45.65, 23.87, 43.40),
        ),
        Row(
            name="lgi-bsp", label="LGI, vanilla + BSP", streams=(VANILLA, BSP), heads=("lgi",),
            paper=_scores(68.76, 53.63, 29.27, 50.55),
        ),
        *(
            Row(
                name=f"{head}-{blind}-blind", label=f"{label}, {blind}-blind", streams=(VANILLA, BSP), heads=(head,),
                blind=blind, paper={},
            )
            for head, label in (("2dtan", "2D-TAN"), ("lgi", "LGI"))
            for blind in ("text", "video")
        ),
    ),
    claims=tuple(
        Claim(text=f"{label}: BSP adds to vanilla", higher=f"{head}-bsp", lower=f"{head}-vanilla", metric="R1@0.5")
        for head, label in (("2dtan", "2D-TAN"), ("lgi", "LGI"))
    ),
)  # fmt: skip

main = partial(run, TABLE_2)  # (options) -> exit status

if __name__ == "__main__":
    experiment_command(Path(__file__).resolve().parents[1], main)()
