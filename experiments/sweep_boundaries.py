"""Search the settings that the paper leaves open: epsilon, gamma, change point, stride, tau, boundary mix, fusion.

python experiments/sweep_boundaries.py                              # profile mini: 12 trials proposed by Optuna, ASHA
python experiments/sweep_boundaries.py --search grid --space fusion=alone --space epsilon=0,1,2 --proxy none
python experiments/sweep_boundaries.py --profile paper --kinetics DIR --activitynet DIR --trials 40   # GPUs, real data

Every trial is pre-trained, its features are extracted and a G-TAD head is trained on them: mAP_avg is what the
search maximises. A linear probe for boundaries, read during pre-training, stops poor trials early. Encoders,
features and heads are shared with Table 4 and between trials; the same command continues, more --trials extend.
"""

from pathlib import Path
from typing import Any

import click

from bsp_platform.plan.options import Options, experiment_command
from bsp_platform.search.run import run_search
from bsp_platform.search.space import read_space
from bsp_platform.search.state import SearchOptions
from bsp_platform.work.probe import ProbeSettings

ROOT = Path(__file__).resolve().parents[1]
NAME = "sweep_boundaries"

# Values to try, separated by commas; + joins the parts of one value. Other parameters stay as in the profile.
# --space replaces this dictionary.
SPACE = {
    "epsilon": "0,1,2,4",  # half the transition of dc, frames
    "gammas": "0.5+2,0.25+4,0.25+0.5+2+4",  # new rates of ds
    "min_segment": "1,2,4",  # change point in [min_segment, 2 tau - min_segment]; tau: always in the middle
    "stride": "1,2,4",  # source frames from one clip frame to the next
    "tau": "2,4,8",  # half a clip, frames; features always come from snippets of 8 frames
    "kinds": "dc+ss,sc+ss,dc+sc+ss,dc+sc+ds+ss",  # boundary mix, classified
    "fusion": "alone,two-stream,two-head,distillation",  # with the vanilla encoder
}


def main(options: Options, chosen: dict[str, Any]) -> int:
    """Run the search; returns the exit status."""
    texts = {}
    for text in chosen.pop("space"):
        name, sign, values = text.partition("=")
        if not sign or name in texts:
            raise ValueError(f"--space {text}: write NAME=VALUE,VALUE,... and each name once")
        texts[name] = values
    probe = ProbeSettings(videos=chosen.pop("probe_videos"))
    spec = SearchOptions(name=NAME, space=read_space(texts or SPACE, options.profile), probe=probe, **chosen)
    return run_search(spec, options)


def search_command() -> click.Command:
    """The options that all experiments share, and those of a search."""
    chosen: dict[str, Any] = {}

    def keep(_ctx: click.Context, param: click.Parameter, value: object) -> None:
        chosen[str(param.name)] = value

    command = experiment_command(ROOT, lambda options: main(options, chosen))
    several: list[tuple[str, dict[str, Any]]] = [
        ("--probe-videos", {"type": click.IntRange(4), "default": 60, "help": "training videos that the probe reads"}),
        ("--clips", {"type": click.IntRange(1), "help": "shorter training of the searched encoders, clips"}),
        ("--search-seed", {"type": click.IntRange(0), "default": 0, "help": "of the proposals"}),
        ("--eta", {"type": click.IntRange(2), "default": 2, "help": "of ASHA: at a rung about 1/eta go on"}),
        ("--proxy", {"type": click.Choice(["asha", "none"]), "default": "asha", "help": "stop by the probe or not"}),
        ("--space", {"multiple": True, "metavar": "NAME=V,V,...", "help": "values to try, instead of SPACE"}),
        ("--trials", {"type": click.IntRange(1), "help": "how many [default: 12, or the whole grid]"}),
        ("--search", {"type": click.Choice(["grid", "random", "optuna"]), "default": "optuna", "help": "how"}),
    ]
    for name, settings in several:
        command = click.option(name, callback=keep, expose_value=False, **settings)(command)
    return command


if __name__ == "__main__":
    search_command()()
