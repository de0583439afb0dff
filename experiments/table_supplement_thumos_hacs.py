"""THUMOS-14 and HACS Segments 1.1 (the paper's supplement): G-TAD on vanilla and on vanilla + BSP features.

python experiments/table_supplement_thumos_hacs.py         # profile mini: embedded data, minutes on 2 cores
python experiments/table_supplement_thumos_hacs.py --seeds 3
python experiments/table_supplement_thumos_hacs.py --profile paper-r50 --kinetics DIR --thumos DIR --hacs DIR \
    --class-scores thumos=uNet_test.npy --class-scores hacs=FILE

THUMOS-14: sliding windows, thresholds 0.3 to 0.7. HACS: as ActivityNet. Of both the paper reports only the gain.
"""

from functools import partial
from pathlib import Path

from bsp.clips.plan import PAPER_KINDS
from bsp_platform.plan.options import experiment_command
from bsp_platform.plan.recipes import Stream
from bsp_platform.plan.rows import Claim, Experiment, Row
from bsp_platform.sweep.run import run

VANILLA, BSP = Stream(method="action"), Stream(method="classification", kinds=PAPER_KINDS)

THUMOS_HACS = Experiment(
    name="table_supplement_thumos_hacs",
    title="Supplement: THUMOS-14 and HACS Segments 1.1 with G-TAD, RGB only",
    paper_data="THUMOS-14 test and HACS 1.1 validation; absolute values are not in the paper",
    columns=("mAP@0.30", "mAP@0.40", "mAP@0.50", "mAP@0.60", "mAP@0.70", "mAP@0.75", "mAP@0.95", "mAP_avg"),
    note=(
        "mAP_avg is over 0.3:0.1:0.7 for THUMOS-14 and over 0.5:0.05:0.95 for HACS. The paper reports gains of BSP "
        "over an RGB-only baseline: +9.66 mAP@0.50 on THUMOS-14 and +0.78 average mAP on HACS."
    ),
    rows=tuple(
        Row(name=f"{data}-{name}", label=f"{title}, {label}", streams=streams, heads=(data,))
        for data, title in (("thumos", "THUMOS-14"), ("hacs", "HACS"))
        for name, label, streams in (
            ("vanilla", "vanilla", (VANILLA,)),
            ("bsp", "vanilla + BSP", (VANILLA, BSP)),
            ("two-vanilla", "control: 2 x vanilla", (VANILLA, Stream(method="action", seed_offset=1))),
        )
    ),
    claims=(
        Claim(
            text="THUMOS-14: BSP adds to vanilla (paper: +9.66)",
            higher="thumos-bsp", lower="thumos-vanilla", metric="mAP@0.50",
        ),
        Claim(
            text="HACS: BSP adds to vanilla (paper: +0.78)",
            higher="hacs-bsp", lower="hacs-vanilla", metric="mAP_avg",
        ),
        *(
            Claim(
                text=f"{title}: BSP adds more than a second vanilla",
                higher=f"{data}-bsp", lower=f"{data}-two-vanilla", metric=metric, paper=False,
            )
            for data, title, metric in (("thumos", "THUMOS-14", "mAP@0.50"), ("hacs", "HACS", "mAP_avg"))
        ),
    ),
)  # fmt: skip

main = partial(run, THUMOS_HACS)  # (options) -> exit status

if __name__ == "__main__":
    experiment_command(Path(__file__).resolve().parents[1], main)()
