"""Table 1 of the paper: temporal action localisation with G-TAD, on vanilla and on vanilla + BSP features, R18 and R50.

python experiments/table1_activitynet.py                   # profile mini: embedded data, minutes on 2 cores
python experiments/table1_activitynet.py --seeds 3         # mean and standard deviation
python experiments/table1_activitynet.py --profile paper --kinetics DIR --activitynet DIR --class-scores FILE

RGB only, frozen encoders. Classes come from one set of video-level scores for all rows: a published classification
result (--class-scores, the CUHK 2017 JSON) or, without one, our linear classifier on vanilla features.
"""

from functools import partial
from pathlib import Path

from bsp.clips.plan import PAPER_KINDS
from bsp_platform.plan.options import experiment_command
from bsp_platform.plan.recipes import Stream
from bsp_platform.plan.rows import Claim, Experiment, Reference, Row
from bsp_platform.sweep.run import run

COLUMNS = ("mAP@0.50", "mAP@0.75", "mAP@0.95", "mAP_avg")
SOURCE = "Table 1 of the paper, ActivityNet-1.3 validation"


def _scores(values: tuple[float | None, ...]) -> dict[str, float]:
    return {name: value for name, value in zip(COLUMNS, values, strict=True) if value is not None}


def _cited(method: str, *values: float | None) -> Reference:
    return Reference(label=method, source=SOURCE, paper=_scores(values))


def _row(name: str, label: str, encoder: str, with_bsp: bool, *paper: float) -> Row:
    vanilla = Stream(method="action", encoder=encoder)
    bsp = Stream(method="classification", kinds=PAPER_KINDS, encoder=encoder)
    return Row(name=name, label=label, streams=(vanilla, bsp) if with_bsp else (vanilla,), paper=_scores(paper))


TABLE_1 = Experiment(
    name="table1_activitynet",
    title="Table 1: temporal action localisation with G-TAD, RGB only",
    paper_data="TSM pre-trained on Kinetics-400, G-TAD on ActivityNet-1.3 validation (R18 rows: its Table 5)",
    references=(
        _cited("Singh et al.", 34.47, None, None, None),
        _cited("Wang et al.", 43.65, None, None, None),
        _cited("Chao et al.", 38.23, 18.30, 1.30, 20.22),
        _cited("SCC", 40.00, 17.90, 4.70, 21.70),
        _cited("CDC", 45.30, 26.00, 0.20, 23.80),
        _cited("R-C3D", 26.80, None, None, None),
        _cited("BSN", 46.45, 29.96, 8.02, 30.03),
        _cited("P-GCN", 48.26, 33.16, 3.27, 31.11),
        _cited("BMN", 50.07, 34.78, 8.29, 33.85),
        _cited("BC-GNN", 50.56, 34.75, 9.37, 34.26),
        _cited("G-TAD", 50.36, 34.60, 9.02, 34.09),
    ),
    rows=(
        _row("r18-vanilla", "R18, vanilla", "r18", False, 49.64, 34.16, 7.68, 33.59),
        _row("r18-bsp", "R18, vanilla + BSP", "r18", True, 50.09, 34.66, 7.95, 33.96),
        _row("r50-vanilla", "R50, vanilla", "r50", False, 50.01, 35.07, 8.02, 34.26),
        _row("r50-bsp", "R50, vanilla + BSP", "r50", True, 50.94, 35.61, 7.98, 34.75),
    ),
    claims=(
        Claim(text="R18: BSP adds to vanilla", higher="r18-bsp", lower="r18-vanilla", metric="mAP_avg"),
        Claim(text="R50: BSP adds to vanilla", higher="r50-bsp", lower="r50-vanilla", metric="mAP_avg"),
        Claim(text="R50 above R18, vanilla", higher="r50-vanilla", lower="r18-vanilla", metric="mAP_avg"),
        Claim(text="R50 above R18, with BSP", higher="r50-bsp", lower="r18-bsp", metric="mAP_avg"),
    ),
)

main = partial(run, TABLE_1)  # (options) -> exit status

if __name__ == "__main__":
    experiment_command(Path(__file__).resolve().parents[1], main)()
