"""Backbone depth (the paper's supplement): R18, R34 and R50, vanilla and vanilla + BSP, G-TAD.

python experiments/ablation_depth.py                       # profile mini: embedded data; shares Table 1's encoders
python experiments/ablation_depth.py --seeds 3             # mean and standard deviation
python experiments/ablation_depth.py --profile paper --kinetics DIR --activitynet DIR   # GPUs, real data

The supplement's own numbers were not at hand; R18 and R50 are given in the paper's Tables 5 and 1.
"""

from functools import partial
from pathlib import Path

from bsp.clips.plan import PAPER_KINDS
from bsp_platform.plan.options import experiment_command
from bsp_platform.plan.recipes import Stream
from bsp_platform.plan.rows import Claim, Experiment, Row
from bsp_platform.sweep.run import run
from table1_activitynet import TABLE_1


def _row(name: str, label: str, *methods: str) -> Row:
    kinds = {"action": (), "classification": PAPER_KINDS}
    streams = tuple(Stream(method=method, kinds=kinds[method], encoder="r34") for method in methods)
    return Row(name=name, label=label, streams=streams)


_R18, _R50 = TABLE_1.rows[:2], TABLE_1.rows[2:]

DEPTH = Experiment(
    name="ablation_depth",
    title="Backbone depth: R18, R34, R50 with G-TAD",
    paper_data="TSM pre-trained on Kinetics-400, G-TAD on ActivityNet-1.3 validation; R34 is not given",
    costs=True,
    rows=(
        *_R18,
        _row("r34-vanilla", "R34, vanilla", "action"),
        _row("r34-bsp", "R34, vanilla + BSP", "action", "classification"),
        *_R50,
    ),
    claims=(
        *TABLE_1.claims,
        Claim(
            text="R34: BSP adds to vanilla", higher="r34-bsp", lower="r34-vanilla", metric="mAP_avg", paper=False
        ),
        Claim(text="R34 above R18, vanilla", higher="r34-vanilla", lower="r18-vanilla", metric="mAP_avg", paper=False),
        Claim(text="R50 above R34, vanilla", higher="r50-vanilla", lower="r34-vanilla", metric="mAP_avg", paper=False),
    ),
)  # fmt: skip

main = partial(run, DEPTH)  # (options) -> exit status

if __name__ == "__main__":
    experiment_command(Path(__file__).resolve().parents[1], main)()
