"""Linear probes on frozen snippet features: what the streams of Table 5 add to vanilla.

python experiments/tools/probe_streams.py --seeds 3     # after ablation_table5.py with as many seeds; a minute or two

For each combination of streams a logistic regression reads three neighbouring snippets (standardised) and tells
whether the middle one holds a boundary of an action, a cut, or nothing but action. Average precision on the
validation videos. Only for embedded data: where the cuts are is known there alone.
"""

import json
import statistics
import sys
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
from rich.console import Console
from rich.table import Table
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from bsp.encoders.tsm import SNIPPET_FRAMES
from bsp.tasks.detection import read_untrimmed
from bsp_platform.plain_text import escape_unencodable, printable
from bsp_platform.plan.options import storage_place
from bsp_platform.plan.profiles import PROFILES
from bsp_platform.plan.rows import Row, row_recipes
from bsp_platform.plan.sources import DataPaths, Sources, load_sources
from bsp_platform.storage.files import write_json
from bsp_platform.storage.stages import StageStore
from bsp_platform.work.heads import listed

sys.path.append(str(Path(__file__).resolve().parents[1]))
from ablation_table5 import BSP, TABLE_5

ROOT = Path(__file__).resolve().parents[2]
TARGETS = ("boundary", "cut", "action")
ROWS = (*TABLE_5.rows, Row(name="bsp", label="BSP alone", streams=(BSP,), paper={}))
STRENGTH = 0.01  # inverse regularisation of the probe, the same for all


def snippet_targets(truth: dict, snippets: int) -> np.ndarray:
    """bool [S, 3]: the snippet holds a boundary; holds a cut; lies wholly inside an action."""
    out = np.zeros((snippets, 3), bool)
    out[[frame // SNIPPET_FRAMES for frame in truth["boundaries"]], 0] = True
    out[[cut["frame"] // SNIPPET_FRAMES for cut in truth["cuts"]], 1] = True
    for first, end in truth["instances"]:
        out[-(-first // SNIPPET_FRAMES) : end // SNIPPET_FRAMES, 2] = True
    return out


def windows(feat_SD: np.ndarray) -> np.ndarray:
    """[S, 3 D]: each snippet between its neighbours; the ends repeat themselves."""
    padded = np.concatenate([feat_SD[:1], feat_SD, feat_SD[-1:]])
    return np.concatenate([padded[:-2], padded[1:-1], padded[2:]], axis=1)


def probe(row: Row, seed: int, profile, sources: Sources, store: StageStore, truth: dict) -> dict[str, float]:
    """Average precision in percent by target. RuntimeError without features."""
    streams = row_recipes(replace(row, heads=("gtad",)), seed, profile, sources, 1).heads["gtad"].streams
    found_folders = [store.find("features", recipe) for recipe in streams]
    folders = [folder for folder in found_folders if folder]
    if len(folders) < len(streams):
        raise RuntimeError(f"no features of row {row.name} seed {seed}; run ablation_table5.py with --seeds {seed + 1}")
    sets = {}
    for subset in ("training", "validation"):
        found = read_untrimmed(listed(folders), sources.untrimmed("activitynet"), subset)
        targets = [snippet_targets(truth[v.video_id], len(f)) for v, f in zip(found.videos, found.features)]
        sets[subset] = np.concatenate([windows(f) for f in found.features]), np.concatenate(targets)
    (train, train_targets), (test, test_targets) = sets["training"], sets["validation"]
    out = {}
    for column, name in enumerate(TARGETS):
        model = make_pipeline(StandardScaler(), LogisticRegression(C=STRENGTH, max_iter=500))
        model.fit(train, train_targets[:, column])
        out[name] = 100 * average_precision_score(test_targets[:, column], model.decision_function(test))
        out[f"{name} chance"] = 100 * float(test_targets[:, column].mean())
    return out


@click.command(context_settings={"show_default": True})
@click.option("--profile", type=click.Choice(["smoke", "mini"]), default="mini")
@click.option("--seeds", type=click.IntRange(1), default=1)
@click.option("--storage", type=storage_place, default=ROOT / "storage", envvar="BSP_STORAGE")
@click.option("--results", type=Path, default=ROOT / "results")
def main(profile: str, seeds: int, storage: str | Path, results: Path) -> None:
    """Probe the features that Table 5 left in the storage."""
    escape_unencodable()
    settings, store = PROFILES[profile](), StageStore(storage)
    sources = load_sources(settings, {"activitynet"}, DataPaths(), storage=store.root)
    truth_path = Path(sources.untrimmed("activitynet").videos[0].file).parents[1] / "truth.json"
    truth = json.loads(truth_path.read_text("utf-8"))["videos"]
    content, table = {}, Table("streams", *TARGETS, title=f"Average precision (%), linear probes, {settings.about}")
    for row in ROWS:
        try:
            runs = [probe(row, seed, settings, sources, store, truth) for seed in range(seeds)]
        except RuntimeError as error:
            raise click.ClickException(printable(error, lines=True)) from error
        content[row.name] = runs
        cells = []
        for name in TARGETS:
            values = [run[name] for run in runs]
            spread = f" ± {statistics.stdev(values):.1f}" if seeds > 1 else ""
            cells.append(f"{statistics.fmean(values):.1f}{spread}")
        table.add_row(row.label, *cells)
    table.add_row("chance", *(f"{content['vanilla'][0][f'{name} chance']:.1f}" for name in TARGETS))
    Console(width=120).print(table)
    folder = results / "probe_streams" / profile
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "probes.json", {"about": settings.about, "rows": content})


if __name__ == "__main__":
    main()
