"""Table 4 from both starts: the pretext tasks trained from random weights and from those of an image classifier.

python experiments/ablation_start.py                       # profile mini; shares Table 4's encoders
python experiments/ablation_start.py --seeds 3             # mean and standard deviation
python experiments/ablation_start.py --profile paper --kinetics DIR --activitynet DIR --start-weights FILE

On the embedded data the image classifier is a stage of its own: the ResNet without temporal shift, trained on single
frames of the trimmed videos. The paper does not say what its encoders start from. Its numbers stand at the
rows from random weights: its pretext rows are all below an encoder that knows ImageNet's classes (LoFi's number).
"""

from dataclasses import replace
from functools import partial
from pathlib import Path

from ablation_table4 import TABLE_4
from bsp_platform.plan.options import experiment_command
from bsp_platform.plan.recipes import Start
from bsp_platform.plan.rows import Claim, Experiment, Row
from bsp_platform.sweep.run import run

STARTS: tuple[Start, ...] = ("random", "image")
UNTRAINED = ("random", "image")  # rows that are the starts themselves
TRAINED = tuple(row for row in TABLE_4.rows if row.name not in UNTRAINED)


def _from(row: Row, start: Start) -> Row:
    streams = tuple(replace(stream, start=start) for stream in row.streams)
    return replace(
        row,
        name=f"{row.name}-{start}",
        label=f"{row.label}, from {start}",
        streams=streams,
        paper=row.paper if start == "random" else {},
    )


START = Experiment(
    name="ablation_start",
    title="Start weights: Table 4 from random and from image weights, G-TAD, temporal action localisation",
    paper_data=f"{TABLE_4.paper_data}; it does not say what training starts from",
    other_paper=TABLE_4.other_paper,
    other_data=TABLE_4.other_data,
    rows=(
        *(row for row in TABLE_4.rows if row.name in UNTRAINED),
        *(_from(row, start) for row in TRAINED for start in STARTS),
    ),
    claims=(
        Claim(text="image only above random", higher="image", lower="random", metric="mAP_avg", paper=False),
        *(
            Claim(text=f"{row.label}: from image above from random", higher=f"{row.name}-image",
                  lower=f"{row.name}-random", metric="mAP_avg", paper=False)
            for row in TRAINED
        ),
        *(
            Claim(text=f"{row.label} from image above image only", higher=f"{row.name}-image", lower="image",
                  metric="mAP_avg", paper=False)
            for row in TRAINED
        ),
        # Those of Table 4 within each start; "random" is the random encoder in both.
        *(
            replace(claim, text=f"{claim.text}, from {start}", higher=f"{claim.higher}-{start}",
                    lower=claim.lower if claim.lower in UNTRAINED else f"{claim.lower}-{start}")
            for start in STARTS for claim in TABLE_4.claims
        ),
    ),
)  # fmt: skip

main = partial(run, START)  # (options) -> exit status

if __name__ == "__main__":
    experiment_command(Path(__file__).resolve().parents[1], main)()
