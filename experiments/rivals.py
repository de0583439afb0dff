"""Rivals of boundary-sensitive pre-training on the same encoder and head: arrow of time, speediness, pace prediction.

python experiments/rivals.py                               # profile mini; shares the encoders of Tables 4 and 5
python experiments/rivals.py --seeds 3                     # mean and standard deviation
python experiments/rivals.py --profile paper --kinetics DIR --activitynet DIR   # GPUs, real data

Each alone and as a second stream beside vanilla. LoFi's numbers stand in columns of their own: a later manuscript of
the paper's first author, with TSM R18 and G-TAD like Table 4, whose vanilla row is the paper's digit for digit.
"""

from dataclasses import replace
from functools import partial
from pathlib import Path

from ablation_table4 import TABLE_4
from ablation_table5 import TABLE_5
from bsp.clips.plan import PAPER_KINDS
from bsp_platform.plan.options import experiment_command
from bsp_platform.plan.recipes import Stream
from bsp_platform.plan.rows import Claim, Experiment, Reference, Row
from bsp_platform.sweep.run import run

VANILLA, BSP = Stream(method="action"), Stream(method="classification", kinds=PAPER_KINDS)
ARROW, SPEED, PACE = (Stream(method=name) for name in ("arrow-of-time", "speediness", "pace"))
SOURCE = "LoFi, TSM R18, one stream"
OF_TABLE_4 = {row.name: row for row in TABLE_4.rows}


def _scores(*scores: float) -> dict[str, float]:
    return dict(zip(TABLE_4.columns, scores, strict=True)) if scores else {}


def _row(name: str, label: str, *streams: Stream, paper: tuple[float, ...] = (), lofi: tuple[float, ...] = ()) -> Row:
    return Row(name=name, label=label, streams=streams, paper=_scores(*paper), other=_scores(*lofi))


# The order of the paper and of LoFi: by what the encoder knows, then with a second stream.
ROWS = (
    OF_TABLE_4["random"],
    _row("arrow", "arrow of time", ARROW, lofi=(44.14, 28.87, 5.90, 28.82)),
    _row("speediness", "speediness", SPEED, lofi=(44.50, 29.52, 6.14, 29.39)),
    _row("pace", "pace prediction", PACE),
    OF_TABLE_4["cls-S"],
    OF_TABLE_4["image"],
    replace(OF_TABLE_4["vanilla"], other=_scores(49.64, 34.16, 7.68, 33.59)),
    _row("vanilla-arrow", "vanilla + arrow of time", VANILLA, ARROW, lofi=(49.79, 34.48, 7.70, 33.72)),
    _row("vanilla-speediness", "vanilla + speediness", VANILLA, SPEED, lofi=(49.84, 34.11, 7.50, 33.75)),
    _row("vanilla-pace", "vanilla + pace prediction", VANILLA, PACE),
    _row("two-stream", "vanilla + S cls", VANILLA, BSP, paper=(50.09, 34.66, 7.95, 33.96)),
    _row("two-vanilla", "control: 2 x vanilla", VANILLA, Stream(method="action", seed_offset=1)),
)
NAMES = (("arrow", "arrow of time"), ("speediness", "speediness"), ("pace", "pace prediction"))


def _claim(higher: str, lower: str, text: str) -> Claim:
    """None of the paper's; where LoFi has both numbers, the text says its difference."""
    lofi = [row.other["mAP_avg"] for name in (higher, lower) for row in ROWS if row.name == name and row.other]
    text += f" (LoFi: {lofi[0] - lofi[1]:+.2f})" if len(lofi) == 2 else ""
    return Claim(text=text, higher=higher, lower=lower, metric="mAP_avg", paper=False)


RIVALS = Experiment(
    name="rivals",
    title="Rivals: other temporal pretext tasks on the same encoder, G-TAD, temporal action localisation",
    paper_data=f"{TABLE_4.paper_data} (its Tables 4 and 5)",
    other_paper="LoFi",
    other_data="another paper (Low-Fidelity Video Encoder Optimization), TSM R18 on Kinetics-400, G-TAD on "
    "ActivityNet-1.3 validation (its Tables 1 and 7)",
    references=(
        Reference(
            label="vanilla, then classes of the target's segments",
            source=f"{SOURCE}; uses labels of the target data, as no row does",
            other=_scores(49.87, 34.58, 7.85, 33.84),
        ),
        Reference(
            label="LoFi", source=f"{SOURCE}; trained with the head on the target data, as no row is",
            other=_scores(50.68, 35.16, 8.16, 34.49),
        ),
    ),
    rows=ROWS,
    claims=(
        *(_claim(name, "random", f"{label} above random") for name, label in NAMES),
        *(_claim("cls-S", name, f"S cls above {label}") for name, label in NAMES),
        *(_claim(f"vanilla-{name}", "vanilla", f"vanilla + {label} above vanilla") for name, label in NAMES),
        *(_claim(f"vanilla-{name}", "two-vanilla", f"vanilla + {label} above two vanilla") for name, label in NAMES),
        *(_claim("two-stream", f"vanilla-{name}", f"vanilla + S above vanilla + {label}") for name, label in NAMES),
        # Those of Tables 4 and 5 about rows that are here as well.
        *(claim for table in (TABLE_4, TABLE_5) for claim in table.claims
          if claim.metric == "mAP_avg" and {claim.higher, claim.lower} <= {row.name for row in ROWS}),
    ),
)  # fmt: skip

main = partial(run, RIVALS)  # (options) -> exit status

if __name__ == "__main__":
    experiment_command(Path(__file__).resolve().parents[1], main)()
