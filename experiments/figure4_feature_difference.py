"""Figure 4 of the paper: do features of neighbouring snippets differ more at a boundary, under BSP and vanilla?

python experiments/figure4_feature_difference.py --seeds 3 # after ablation_table4.py with as many seeds: a minute
python experiments/figure4_feature_difference.py --profile paper --kinetics DIR --activitynet DIR

Uses the features of Table 4's rows "S cls" and "vanilla" from the storage; what is missing there is made first.
"""

from pathlib import Path
from typing import Any

from ablation_table4 import TABLE_4
from bsp.datasets.activitynet import LocalizationDataset, UntrimmedVideo
from bsp.figures.difference import (
    PairPicture,
    Pairs,
    boundaries_of,
    choose_example,
    draw_differences,
    gather_pairs,
    mean_differences,
    pair_kinds,
    pair_picture,
    percentiles,
    separability,
)
from bsp.figures.style import BSP, VANILLA, spread, spread_text
from bsp.tasks.detection import read_untrimmed
from bsp.tasks.head import Split
from bsp_platform.plain_text import say
from bsp_platform.plan.options import Options, experiment_command
from bsp_platform.plan.rows import Claim, RowRecipes
from bsp_platform.report.claims import check_claims
from bsp_platform.storage.stages import StageStore
from bsp_platform.sweep.figures import finished_rows, publish
from bsp_platform.work.heads import listed

ROOT = Path(__file__).resolve().parents[1]
NAME, TITLE = "figure4_feature_difference", "Figure 4: differences of neighbouring snippet features"
ROWS = {"BSP": "cls-S", "vanilla": "vanilla"}  # encoder in the figure, row of Table 4
COLOURS = {"BSP": BSP, "vanilla": VANILLA}
CLAIM = Claim(text="BSP tells boundary pairs apart better than vanilla", higher="BSP", lower="vanilla", metric="AUC")
CAPTION = (
    "Top: two snippets of 8 frames, once with an annotated start or end of an action in the first of them only, once "
    "without any, and the absolute difference of their features (each of Euclidean length 1, the {width} entries as a "
    "matrix), all on one colour scale. Bottom: the mean of that difference for all {pairs} pairs of neighbouring "
    "snippets of the validation videos ({boundary} at a boundary; {left_out} more with one in the second snippet are "
    "left out), seed 0. AUC: how likely a pair at a boundary differs more than one without; 0.5 is chance.\n"
    "Chosen by rule: of all boundaries the one whose percentile among the pairs without, BSP minus vanilla, is the "
    "median ({gain:+.0f} points), and its nearest pair without; seed 0. {about}."
)


def load_validation(recipes: RowRecipes, store: StageStore, data: LocalizationDataset) -> Split[UntrimmedVideo]:
    """The validation videos' features of a row with one stream."""
    ((_, recipe),) = recipes.features()
    features = listed([store.need("features", recipe)], {"size_px": recipe.size_px})
    return read_untrimmed(features, data, "validation")


def picture(
    position: int, pairs: Pairs, sets: dict[str, Split[UntrimmedVideo]], percents: dict, means: dict
) -> PairPicture:
    """The pair at ``position`` with the differences of all encoders."""
    number = pairs.video[position]
    found = sets["BSP"]
    notes = {
        name: f"mean {means[name][position]:.4f}: above {percent_P[position]:.0f}%\nof the pairs without a boundary"
        for name, percent_P in percents.items()
    }
    features = {name: s.features[number] for name, s in sets.items()}
    return pair_picture(found.videos[number], int(pairs.pair[position]), features, found.infos[number], notes)


def main(options: Options) -> int:
    """Compare the encoders' differences and draw them; returns the exit status."""
    if options.dry_run:
        say("figure4_feature_difference: --dry-run: draws what Table 4 has left in the storage; nothing is trained")
        return 0
    table_rows = [row for row in TABLE_4.rows if row.name in ROWS.values()]
    sources, store, recipes = finished_rows(NAME, table_rows, options, need="features")
    data = sources.untrimmed("activitynet")
    auc: dict[str, list[float]] = {name: [] for name in ROWS}
    for seed in reversed(range(options.seeds)):  # seed 0 comes last: it is the one that is drawn
        sets = {name: load_validation(recipes[row, seed], store, data) for name, row in ROWS.items()}
        found = sets["BSP"]
        pairs = gather_pairs(
            [
                pair_kinds(boundaries_of(video, info), info.snippets, info.stride_frames)
                for video, info in zip(found.videos, found.infos, strict=True)
            ]
        )
        means = {name: mean_differences(s.features, pairs) for name, s in sets.items()}
        for name, mean_P in means.items():
            auc[name].insert(0, separability(mean_P, pairs.boundary))
    percents = {name: percentiles(mean_P, pairs.boundary) for name, mean_P in means.items()}
    shown = choose_example(percents["BSP"], percents["vanilla"], pairs)
    pictures = [picture(position, pairs, sets, percents, means) for position in shown]
    gain = float(percents["BSP"][shown[0]] - percents["vanilla"][shown[0]])
    facts = {"pairs": len(pairs.pair), "boundary": int(pairs.boundary.sum()), "left_out": pairs.left_out}
    caption = CAPTION.format(
        **facts, gain=gain, width=found.features[0].shape[1],
        about=options.profile.about[0].upper() + options.profile.about[1:],
    )  # fmt: skip
    figure = draw_differences(
        pictures, means, pairs.boundary, colours=COLOURS, title=TITLE, caption=caption,
        heads={name: f"{name}: AUC {spread_text(values)}" for name, values in auc.items()},
    )  # fmt: skip
    summary: dict[str, dict[str, Any]] = {name: spread(values) for name, values in auc.items()}
    rows = [
        {"name": name, "paper": {}, "scores": {"AUC": {"seeds": {str(k): 100 * v for k, v in enumerate(values)}}}}
        for name, values in auc.items()
    ]
    publish(
        figure, options, name=NAME,
        content={
            "title": TITLE, "caption": caption, "AUC": summary, "claims": check_claims([CLAIM], rows), **facts,
            "shown": [p.head for p in pictures],
            "shown_gain": gain,
        },
        key={f"{row} seed {seed}": list(r.encoders) for (row, seed), r in recipes.items()},
        params={"seeds": options.seeds, **facts},
        metrics={f"AUC/{name}": values["mean"] for name, values in summary.items()},
    )  # fmt: skip
    return 0


if __name__ == "__main__":
    experiment_command(ROOT, main)()
