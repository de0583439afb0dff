"""Profile ``paper``, cut down, from videos in folders to the scores of all heads: the real-data path.

    python experiments/benchmarks/end_to_end.py --work DIR            # on a GPU: R18 at 224 px, compiled; minutes
    python experiments/benchmarks/end_to_end.py --work DIR --tiny     # on two cores: two minutes

The embedded videos are rendered into folders and given back through the options for real data, so everything but the
numbers is that of ``--profile paper``: vanilla, a boundary pretext and its distillation are trained, features made,
and G-TAD, 2D-TAN, LGI, actionness and both ways to event boundaries trained and scored. Writes DIR/end_to_end.json:
seconds, scores, the plan, and what Ray was asked for by every stage. The scores mean nothing.
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import click

import bsp_platform  # noqa: F401  (first: it sets the environment that Ray reads)
from bsp.clips.augment import AugmentSettings
from bsp.clips.plan import BoundaryKind
from bsp.datasets.pantomime.grounding import render_grounding
from bsp.datasets.pantomime.render import PantomimeSettings, render
from bsp.datasets.pantomime.stories import render_stories
from bsp.encoders.tsm import EncoderSettings
from bsp.localization.gtad.network import GTADSettings
from bsp.pretraining.loop import TrainSettings
from bsp_platform.plan.device import DEVICES, Device
from bsp_platform.plan.options import Options
from bsp_platform.plan.profiles import Profile, paper, smoke
from bsp_platform.plan.recipes import Stream
from bsp_platform.plan.rows import Experiment, Row
from bsp_platform.plan.sources import DataPaths
from bsp_platform.sweep.run import run
from bsp_platform.work.cluster.planning import refuse_early
from bsp_platform.work.cluster.start import DASHBOARD

KINDS = (BoundaryKind.DIFF_CLASS, BoundaryKind.SAME_SPEED)
EXPERIMENT = Experiment(
    name="end_to_end",
    title="Profile paper, cut down",
    paper_data="none",
    columns=("mAP_avg", "mIoU"),
    rows=(
        Row(
            name="vanilla", label="vanilla", streams=(Stream(method="action"),), paper={},
            heads=("gtad", "actionness", "boundary-peaks", "boundary-head"),
        ),
        Row(
            name="distillation", label="feat dist", streams=(Stream(method="distillation", kinds=KINDS),), paper={},
            heads=("2dtan", "lgi"),
        ),
    ),
)  # fmt: skip


Settings = TypeVar("Settings")


def embedded(settings: Settings | None) -> Settings:
    """The settings of an embedded data set, which profile smoke has."""
    assert settings is not None
    return settings


def data_folders(work: Path) -> DataPaths:
    """The embedded videos in the published layouts, as the options for real data take them."""
    small = smoke()
    world = PantomimeSettings(
        trimmed_per_class=2, trimmed_val_per_class=0, untrimmed_train=4, untrimmed_val=4, untrimmed_seconds=12.0,
        actions=("wave", "squat", "walk", "kick"),
    )  # fmt: skip
    pantomime = render(world, work / "data", progress=False)
    few = replace(embedded(small.stories), games_train=1, games_test=1, tasks=2, clips_train=5, clips_val=3)
    stories = render_stories(few, work / "data", progress=False)
    grounding = render_grounding(replace(embedded(small.grounding), train=5, test=3), work / "data", progress=False)
    return DataPaths(
        folders={
            "kinetics": pantomime / "trimmed",
            "activitynet": pantomime / "untrimmed",
            "charades": grounding,
            "crosstask": stories / "tasks",
            "gebd": stories / "clips",
        }
    )


def cut_down(tiny: bool) -> Profile:
    """Profile paper with few clips and epochs; ``tiny``: also small pictures, a narrow encoder, not compiled."""
    profile, small = paper(), smoke()
    if not tiny:
        train = replace(profile.train, clips=128 * 60, warmup_steps=5, log_every_steps=20, checkpoint_every_steps=30)
        return replace(
            profile,
            train=train,
            two_head_train=train,
            head=replace(profile.head, epochs=2),
            boundary_head=replace(profile.boundary_head, epochs=2),
            actionness=replace(profile.actionness, epochs=2),
            tan2d=replace(profile.tan2d, epochs=1),
            lgi=replace(profile.lgi, epochs=1),
        )
    train = TrainSettings(clips=48, batch_size=8, log_every_steps=3, checkpoint_every_steps=3)
    planned = profile.resources
    return replace(
        profile,
        encoder=EncoderSettings(depth=18, width=8),
        augment=AugmentSettings(size_px=32),
        train=train,
        two_head_train=train,
        head=GTADSettings(feature_width=64, cells=24, max_duration=24, epochs=2),
        tan2d=small.tan2d,
        lgi=small.lgi,
        boundary_head=replace(profile.boundary_head, epochs=2),
        actionness=replace(profile.actionness, epochs=2),
        word_width=small.word_width,
        resources=lambda workers, device: replace(planned(workers, device), compile_training=False),
    )


def asked_for() -> dict[str, list[float]]:
    """GPUs that Ray was asked for, by name of the class or function: state of the running Ray."""
    import ray
    from ray.util.state import list_actors, list_tasks

    found: dict[str, list[float]] = {}
    address = ray.get_runtime_context().gcs_address  # others may have a Ray of theirs on this machine
    for one in list_actors(address, detail=True, limit=10_000):
        found.setdefault(one.class_name, []).append(_gpus(one.required_resources))
    for task in list_tasks(address, detail=True, limit=10_000, filters=[("type", "=", "NORMAL_TASK")]):
        found.setdefault(task.func_or_class_name, []).append(_gpus(task.required_resources))
    return {name: sorted(set(amounts)) for name, amounts in found.items()}


def _gpus(needs: dict[str, float] | None) -> float:
    """Of a placement group or not."""
    return max([amount for name, amount in (needs or {}).items() if name.startswith("GPU")], default=0.0)


@click.command()
@click.option("--work", type=click.Path(path_type=Path), required=True, help="data, storage, results")
@click.option("--tiny", is_flag=True, help="small pictures and networks")
@click.option("--device", type=click.Choice(DEVICES), default="auto", show_default=True)
@click.option("--cpus", type=click.IntRange(1))
def main(work: Path, tiny: bool, device: Device, cpus: int | None) -> None:
    """Run it; exit status 1 if a row failed."""
    began = time.time()
    work = work.absolute()
    options = Options(
        profile=cut_down(tiny),
        storage=work / "storage",
        results=work / "results",
        tracking_home=work / "mlflow",
        cpus=cpus,
        device=device,
    )
    refuse_early(options)
    options = replace(options, data=data_folders(work))
    rendered = time.time()
    os.environ.setdefault(DASHBOARD, "1")  # it answers what Ray was asked for
    status = run(EXPERIMENT, options)
    table = json.loads((work / "results" / EXPERIMENT.name / "paper" / "table.json").read_text(encoding="utf-8"))
    result = {
        "failed": status,
        "seconds": round(time.time() - rendered, 1),
        "rendering_seconds": round(rendered - began, 1),
        "gpus": asked_for(),
        "table": table,
    }
    (work / "end_to_end.json").write_text(json.dumps(result, indent=1), encoding="utf-8")
    print(f"profile paper, cut down: {result['seconds']} s, {'FAILED' if status else 'all heads scored'}")
    sys.exit(status)


if __name__ == "__main__":
    main()
