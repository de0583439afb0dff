"""Figure 5 of the paper: a success and a failure of vanilla + BSP (two streams) against vanilla alone.

python experiments/figure5_qualitative.py --seeds 3        # after ablation_table5.py with as many seeds: a minute
python experiments/figure5_qualitative.py --profile paper --kinetics DIR --activitynet DIR

Uses the detections of Table 5's rows "vanilla" and "2-stream" with G-TAD from the storage; what is missing there is
made first.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from ablation_table5 import TABLE_5
from bsp.figures.qualitative import TOP_SEGMENTS, choose_cases, coverage, draw_cases, make_case, truth_segments
from bsp.figures.style import BSP, VANILLA, spread, spread_text
from bsp.tasks.detection import DETECTIONS
from bsp_platform.plain_text import say
from bsp_platform.plan.options import Options, experiment_command
from bsp_platform.sweep.figures import finished_rows, publish

ROOT = Path(__file__).resolve().parents[1]
NAME, TITLE = "figure5_qualitative", "Figure 5: a success and a failure of BSP"
ROWS = {"vanilla": "vanilla", "vanilla + BSP": "two-stream"}  # name in the figure, row of Table 5
COLOURS = {"vanilla": VANILLA, "vanilla + BSP": BSP}
CAPTION = (
    "G-TAD's {top} best segments per video on vanilla features and on vanilla + BSP (two streams), below frames from "
    "the same times; dashed lines are the annotated starts and ends. Mean best tIoU: for each annotated action the "
    "best overlap that any of the {top} segments has with it, averaged.\n"
    "Chosen by rule: of {videos} validation videos the one that gains most by BSP in mean best tIoU and the one that "
    "loses most; seed 0. Over all videos: vanilla {vanilla}, vanilla + BSP {bsp}; {better} videos gain, {worse} lose "
    "(seed 0). {about}."
)


def main(options: Options) -> int:
    """Find the two cases and draw them; returns the exit status."""
    if options.dry_run:
        say("figure5_qualitative: --dry-run: draws what Table 5 has left in the storage; nothing is trained")
        return 0
    table_rows = [replace(row, heads=("gtad",)) for row in TABLE_5.rows if row.name in ROWS.values()]
    sources, store, recipes = finished_rows(NAME, table_rows, options, need="heads")
    videos = [
        video
        for video in sources.untrimmed("activitynet").videos
        if video.subset == "validation" and video.path is not None and len(truth_segments(video))
    ]
    means: dict[str, list[float]] = {method: [] for method in ROWS}
    for seed in reversed(range(options.seeds)):  # seed 0 comes last: it is the one that is drawn
        heads = {method: recipes[row, seed].heads["gtad"] for method, row in ROWS.items()}
        results = {
            method: json.loads((store.need("heads", head) / DETECTIONS).read_text("utf-8"))["results"]
            for method, head in heads.items()
        }
        covered = {method: coverage(videos, found) for method, found in results.items()}
        for method, covered_V in covered.items():
            means[method].insert(0, float(covered_V.mean()))
    gain_V = covered["vanilla + BSP"] - covered["vanilla"]
    cases, shown = [], []
    for what, place in zip(("Success: the largest gain", "Failure: the largest loss"), choose_cases(gain_V)):
        video = videos[place]
        head = f"{what}, {gain_V[place]:+.2f} in mean best tIoU (video {video.video_id})"
        cases.append(make_case(video, results, head))
        shown.append({"video": video.video_id, **{method: float(v[place]) for method, v in covered.items()}})
    facts = {"videos": len(videos), "better": int((gain_V > 0).sum()), "worse": int((gain_V < 0).sum())}
    caption = CAPTION.format(
        **facts, top=TOP_SEGMENTS, vanilla=spread_text(means["vanilla"]), bsp=spread_text(means["vanilla + BSP"]),
        about=options.profile.about[0].upper() + options.profile.about[1:],
    )  # fmt: skip
    summary: dict[str, dict[str, Any]] = {method: spread(values) for method, values in means.items()}
    publish(
        draw_cases(cases, colours=COLOURS, title=TITLE, caption=caption), options, name=NAME,
        content={"title": TITLE, "caption": caption, "mean_best_tIoU": summary, **facts, "shown": shown},
        key={f"{row} seed {seed}": r.heads["gtad"] for (row, seed), r in recipes.items()},
        params={"seeds": options.seeds, **facts},
        metrics={f"mean_best_tIoU/{ROWS[method]}": values["mean"] for method, values in summary.items()},
    )  # fmt: skip
    return 0


if __name__ == "__main__":
    experiment_command(ROOT, main)()
