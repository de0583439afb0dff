"""``bsp train steps | boundaries | thumos``: the other tasks' heads on features that are there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import click

from bsp_platform.cli.common import INPUT_FILE, INPUT_FOLDER, print_percentages
from bsp_platform.cli.train import (
    check_features,
    complete,
    note,
    train,
    training_options,
    videos_without_features,
)
from bsp_platform.plain_text import say


@train.command()
@training_options
@click.option("--crosstask", type=INPUT_FOLDER, required=True, help="Folder of CrossTask's release.")
def steps(crosstask: Path, **common: Any) -> None:
    """Step localisation: a linear classifier of actionness on CrossTask, our 3:1 split, framewise AP."""
    from bsp.datasets.crosstask import load_crosstask
    from bsp_platform.work.actionness_heads import train_and_score_actionness

    release = crosstask / "crosstask_release"
    data = load_crosstask(release if release.is_dir() else crosstask)
    _train(train_and_score_actionness, data, "actionness", f"actionness, {crosstask}", crosstask, **common)


@train.command()
@training_options
@click.option("--gebd", type=INPUT_FOLDER, required=True, help="Folder with k400_*train* and k400_*val* (.pkl, .json).")
@click.option(
    "--way",
    type=click.Choice(["peaks", "head"]),
    required=True,
    help="peaks: of the difference of neighbouring features, no labels but for one threshold. head: a linear layer.",
)
def boundaries(gebd: Path, way: Literal["peaks", "head"], **common: Any) -> None:
    """Event boundaries: train on Kinetics-GEBD's training clips, F1 on its validation clips (challenge rules)."""
    from bsp.datasets.gebd import load_gebd_folder
    from bsp_platform.work.boundary_heads import train_and_score_boundaries

    settings = "peaks" if way == "peaks" else "boundary_head"
    data = load_gebd_folder(gebd, find_files=False)
    _train(train_and_score_boundaries, data, settings, f"boundaries by {way}, {gebd}", gebd, **common)


@train.command()
@training_options
@click.option("--thumos", type=INPUT_FOLDER, required=True, help="Folder with THUMOS-14's annotation files.")
@click.option("--class-scores", type=INPUT_FILE, help="UntrimmedNet's .npy.  [default: a linear classifier]")
def thumos(thumos: Path, class_scores: Path | None, **common: Any) -> None:
    """G-TAD on windows: train on THUMOS-14's validation videos, detect in its test videos, mAP at 0.3:0.1:0.7."""
    from bsp.datasets.thumos14 import TEST, TRAINING, load_thumos14
    from bsp_platform.work.heads import CLASS_SCORES, convert_class_scores, make_class_scores
    from bsp_platform.work.window_heads import train_and_score_windows

    def classes(folder: Path, data: Any, expect: dict[str, Any]) -> Path:
        if class_scores is None:
            make_class_scores(folder, common["folders"][0], data, expect, (TRAINING, TEST))
        else:
            convert_class_scores(folder, class_scores, data, TEST)
        return folder / CLASS_SCORES

    data = load_thumos14(thumos)
    _train(train_and_score_windows, data, "thumos", f"G-TAD on windows, {thumos}", thumos, classes=classes, **common)


def _train(
    work: Callable[..., dict[str, Any]],
    data: Any,
    settings: str,
    title: str,
    annotations: Path,
    *,
    classes: Callable[[Path, Any, dict[str, Any]], Path] | None = None,
    folders: tuple[Path, ...],
    out: Path,
    profile: str,
    seed: int,
    threads: int,
    device: str,
    max_missing: float,
) -> None:
    """Run a head's work function, which leaves out videos without features; print and keep what comes out.

    ``classes`` makes the file of class scores from the videos that have features.
    """
    from bsp_platform.plan.profiles import PROFILES
    from bsp_platform.plan.recipes import TaskRecipe

    expect = check_features(folders)
    without = videos_without_features(folders, [video.video_id for video in data.videos], max_missing)
    present = replace(data, videos=tuple(video for video in data.videos if video.video_id not in without))
    recipe = TaskRecipe(streams=(), head=getattr(PROFILES[profile](), settings), annotations="", seed=seed)
    with complete(out) as folder:
        extra = classes(folder, present, expect) if classes else None
        facts = work(folder, recipe, folders, extra, data, expect, device=device, threads=threads)
        note(folder, recipe, folders, annotations=annotations)
    print_percentages(title, facts["scores"])
    say(f"written: {out}")
