"""A small Table 4 for tests/test_sweeps.py, run as a program: python small_sweep.py FOLDER [--rows a,b]."""

import sys
from dataclasses import replace
from pathlib import Path

import click

from bsp.augment import AugmentSettings
from bsp.clips import BoundaryKind
from bsp.datasets.pantomime import PantomimeSettings
from bsp.encoder import EncoderSettings
from bsp.pretrain import TrainSettings
from bsp_platform.options import Options
from bsp_platform.profiles import smoke
from bsp_platform.rows import Experiment, Row
from bsp_platform.sweeps import run

EXPERIMENT = Experiment(
    name="small",
    title="Small table for tests",
    paper_data="none",
    rows=(
        Row(name="random", label="random", task=None, paper={"mAP_avg": 1.0}),
        Row(
            name="cls-dc",
            label="{dc, ss} cls",
            task="classification",
            kinds=(BoundaryKind.DIFF_CLASS, BoundaryKind.SAME_SPEED),
            paper={"mAP_avg": 2.0},
        ),
        Row(name="reg-sc", label="{sc} reg", task="regression", kinds=(BoundaryKind.SAME_CLASS,), paper={}),
        Row(name="vanilla", label="vanilla", task="action", paper={"mAP_avg": 3.0}),
    ),
)


def small_profile(videos_per_class: int):
    return replace(
        smoke(),
        name="small",
        pantomime=PantomimeSettings(
            trimmed_per_class=videos_per_class,
            trimmed_val_per_class=0,
            untrimmed_train=4,
            untrimmed_val=4,
            untrimmed_seconds=12.0,
            actions=("wave", "squat", "walk", "kick"),
        ),
        encoder=EncoderSettings(depth=18, width=8),
        augment=AugmentSettings(size_px=32),
        train=TrainSettings(clips=1600, batch_size=8, learning_rate=0.02, log_every_steps=5, checkpoint_every_steps=20),
    )


@click.command()
@click.argument("folder", type=Path)
@click.option("--rows", default="")
@click.option("--videos-per-class", default=2)
def main(folder: Path, rows: str, videos_per_class: int) -> None:
    options = Options(
        profile=small_profile(videos_per_class),
        rows=tuple(filter(None, rows.split(","))),
        seeds=1,
        storage=folder / "storage",
        results=folder / "results",
        tracking_uri=None,
        tracking_home=folder / "mlflow",
        kinetics=None,
        activitynet=None,
        workers=1,
        cpus=2,
        gpus=None,
        fresh=False,
    )
    sys.exit(run(EXPERIMENT, options))


if __name__ == "__main__":
    main()
