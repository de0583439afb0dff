"""Generic event boundary detection (the workshop version's framing): F1 at relative distances, several annotators.

python experiments/gebd.py                                 # profile mini: embedded data, minutes on 2 cores
python experiments/gebd.py --seeds 3                       # mean and standard deviation
python experiments/gebd.py --profile paper-r50 --kinetics DIR --gebd DIR

(a) unsupervised: boundaries are peaks of the difference between neighbouring snippets' features; only the threshold
is chosen on training clips. (b) supervised: a linear layer on frozen features before and after a candidate. The paper
gives no number for this task; the variant of the metric is the challenge's.
"""

from functools import partial
from pathlib import Path

from bsp.clips.plan import PAPER_KINDS
from bsp_platform.plan.options import experiment_command
from bsp_platform.plan.recipes import Stream
from bsp_platform.plan.rows import Claim, Experiment, Reference, Row
from bsp_platform.sweep.run import run

VANILLA, BSP = Stream(method="action"), Stream(method="classification", kinds=PAPER_KINDS)
ENCODERS = (
    ("random", "random", (Stream(method="random"),)),
    ("vanilla", "vanilla", (VANILLA,)),
    ("bsp", "BSP", (BSP,)),
    ("two-stream", "2-stream", (VANILLA, BSP)),
    ("two-vanilla", "control: 2 x vanilla", (VANILLA, Stream(method="action", seed_offset=1))),
)
HEADS = (("peaks", "unsupervised", "boundary-peaks"), ("head", "linear head", "boundary-head"))
SOURCE = "Kinetics-GEBD validation, as later papers and the authors' notebooks print them; other encoders"

GEBD = Experiment(
    name="gebd",
    title="Generic event boundary detection, frozen features",
    paper_data="none: the paper does not evaluate this task",
    columns=("F1@0.05", "F1_mean", "precision@0.05", "recall@0.05"),
    references=(
        Reference(label="PA, unsupervised (corrected)", source=SOURCE, paper={"F1@0.05": 35.2, "F1_mean": 51.2}),
        Reference(label="PC, supervised, fine-tuned", source=SOURCE, paper={"F1@0.05": 62.5, "F1_mean": 81.7}),
        Reference(label="DDM-Net", source=SOURCE, paper={"F1@0.05": 76.4, "F1_mean": 87.3}),
    ),
    rows=tuple(
        Row(name=f"{head}-{name}", label=f"{way}, {label}", streams=streams, heads=(task,))
        for head, way, task in HEADS
        for name, label, streams in ENCODERS
    ),
    claims=tuple(
        Claim(text=f"{way}: {text}", higher=f"{head}-{high}", lower=f"{head}-{low}", metric="F1@0.05", paper=False)
        for head, way, _ in HEADS
        for text, high, low in (
            ("BSP above vanilla", "bsp", "vanilla"),
            ("two-stream above vanilla", "two-stream", "vanilla"),
            ("two-stream above two vanilla", "two-stream", "two-vanilla"),
            ("BSP above random", "bsp", "random"),
        )
    ),
)

main = partial(run, GEBD)  # (options) -> exit status

if __name__ == "__main__":
    experiment_command(Path(__file__).resolve().parents[1], main)()
