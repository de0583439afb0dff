"""Small tables for test_sweeps.py, run as a program: python small_sweep.py FOLDER [--table T] [--rows a,b]."""

import sys
from dataclasses import replace
from pathlib import Path

import click

import toy_pretext  # noqa: F401 (a pretext and an encoder of others)
from bsp.clips.augment import AugmentSettings
from bsp.clips.plan import PAPER_KINDS
from bsp.datasets.data_sets import DATA_SETS
from bsp.datasets.pantomime.render import PantomimeSettings
from bsp.encoders.tsm import EncoderSettings
from bsp.pretraining.loop import TrainSettings
from bsp_platform.plan.options import Options
from bsp_platform.plan.profiles import smoke
from bsp_platform.plan.recipes import Stream
from bsp_platform.plan.rows import Claim, Experiment, Reference, Row
from bsp_platform.plan.tasks import TASKS, Task
from bsp_platform.sweep.run import run
from toy_encoder import ToyEncoderSettings
from toy_head import NEAREST_MEAN, NearestMeanSettings

TASKS["nearest-mean"] = Task(
    head=NEAREST_MEAN, data=DATA_SETS["activitynet"], settings=lambda profile: NearestMeanSettings()
)
DC, SC, _, SS = PAPER_KINDS
VANILLA, CUTS = Stream(method="action"), Stream(method="classification", kinds=(DC, SS))


def row(name: str, label: str, *streams: Stream, paper: dict | None = None, **more) -> Row:
    return Row(name=name, label=label, streams=streams, paper=paper or {}, **more)


PRETEXTS = Experiment(
    name="small",
    title="Small table for tests",
    paper_data="none",
    rows=(
        row("random", "random", Stream(method="random"), paper={"mAP_avg": 1.0}),
        row("cls-dc", "{dc, ss} cls", CUTS, paper={"mAP_avg": 2.0}),
        row("reg-sc", "{sc} reg", Stream(method="regression", kinds=(SC,))),
        row("vanilla", "vanilla", VANILLA, paper={"mAP_avg": 3.0}),
    ),
    claims=(Claim(text="vanilla above random", higher="vanilla", lower="random", metric="mAP_avg"),),
)
OTHER = replace(PRETEXTS, name="other", rows=tuple(row for row in PRETEXTS.rows if row.name in ("cls-dc", "vanilla")))
FUSION = Experiment(
    name="small",
    title="Small fusion table for tests",
    paper_data="none",
    columns=("R1@0.5", "mIoU", "mAP_avg"),
    references=(Reference(label="Other", source="a paper", paper={"mIoU": 12.5}),),
    costs=True,
    rows=(
        row("cls-dc", "{dc, ss} cls", CUTS),
        row("two-stream", "2-stream", VANILLA, CUTS, heads=("2dtan", "gtad")),
        row("two-head", "2-head", Stream(method="two-head", kinds=(DC, SS)), heads=("lgi",)),
        row("distillation", "feat dist", Stream(method="distillation", kinds=(DC, SS)), heads=("2dtan",)),
        row("blind", "2D-TAN, text-blind", VANILLA, heads=("2dtan",), blind="text"),
        row(
            "toys",
            "toys",
            Stream(method="two-head", second="direction", encoder="toy"),
            heads=("gtad", "nearest-mean"),
        ),
    ),
)


def small_profile(videos_per_class: int, clips: int = 1600):
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
        encoders={"toy": ToyEncoderSettings()},
        augment=AugmentSettings(size_px=32),
        train=TrainSettings(
            clips=clips, batch_size=8, learning_rate=0.02, log_every_steps=5, checkpoint_every_steps=20
        ),
        two_head_train=TrainSettings(clips=160, batch_size=8, learning_rate=0.02, log_every_steps=5),
        grounding=replace(smoke().grounding, train=4, test=3),
    )


@click.command()
@click.argument("folder", type=Path)
@click.option("--table", type=click.Choice(["pretexts", "other", "fusion"]), default="pretexts")
@click.option("--rows", default="")
@click.option("--videos-per-class", default=2)
@click.option("--clips", default=1600)
def main(folder: Path, table: str, rows: str, videos_per_class: int, clips: int) -> None:
    options = Options(
        profile=small_profile(videos_per_class, clips),
        rows=tuple(filter(None, rows.split(","))),
        storage=folder / "storage",
        results=folder / "results",
        tracking_home=folder / "mlflow",
        cpus=2,
    )
    sys.exit(run({"pretexts": PRETEXTS, "other": OTHER, "fusion": FUSION}[table], options))


if __name__ == "__main__":
    main()
