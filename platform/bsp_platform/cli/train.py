"""``bsp train``: a localisation head on features that are there, our own or imported ones, without Ray or MLflow."""

from __future__ import annotations

import json
import math
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from bsp_platform.cli.common import INPUT_FILE, INPUT_FOLDER, FileCommandGroup, print_percentages
from bsp_platform.plain_text import say
from bsp_platform.work.cluster.device import DEVICES, Device, local_device

if TYPE_CHECKING:
    from collections.abc import Callable

# Profiles with different heads; written out (a test compares them), as importing plan/profiles.py takes seconds.
PROFILE_NAMES = ("smoke", "mini", "paper")


@click.group(cls=FileCommandGroup)
def train() -> None:
    """Train a localisation head on features and print its scores."""


def _device(ctx: click.Context, param: click.Parameter, wanted: Device) -> str:
    """ "cpu" or "cuda"; refused where there is none."""
    try:
        return local_device(wanted)
    except ValueError as error:
        raise click.BadParameter(str(error), ctx, param) from None


def training_options(command: Callable) -> Callable:
    """The options that both heads have."""
    for option in (
        click.option(
            "--max-missing",
            type=click.FloatRange(0, 100),
            default=10,  # Choice: published features lack a few percent of the videos, those that left YouTube
            show_default=True,
            help="Refuse if more of the annotated videos have no features, in percent.",
        ),
        click.option(
            "--device",
            type=click.Choice(DEVICES),
            default="auto",
            show_default=True,
            callback=_device,
            help="auto: a GPU if PyTorch has one.",
        ),
        click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True, help="Of the CPU."),
        click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True),
        click.option(
            "--profile",
            type=click.Choice(PROFILE_NAMES),
            default="paper",
            show_default=True,
            help="Whose settings the head gets; mini and smoke have narrow, short ones.",
        ),
        click.option(
            "--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="Folder; must be free."
        ),
        click.option(
            "--features",
            "folders",
            type=INPUT_FOLDER,
            required=True,
            multiple=True,
            help="Folder of features; given again, a further stream, concatenated.",
        ),
    ):
        command = option(command)
    return command


@train.command()
@training_options
@click.option("--annotations", type=INPUT_FILE, required=True, help="ActivityNet's JSON (or of this layout); also .gz.")
@click.option(
    "--class-scores",
    type=INPUT_FILE,
    help="Published video-level class scores.  [default: a linear classifier on the first features]",
)
def gtad(
    folders: tuple[Path, ...],
    annotations: Path,
    class_scores: Path | None,
    out: Path,
    profile: str,
    seed: int,
    threads: int,
    device: str,
    max_missing: float,
) -> None:
    """G-TAD: train on the subset "training", detect in "validation", evaluate by the ActivityNet protocol."""
    from dataclasses import replace

    from bsp.datasets.activitynet import load_activitynet
    from bsp_platform.plan.profiles import PROFILES
    from bsp_platform.plan.recipes import TaskRecipe
    from bsp_platform.storage.stages import file_sha256
    from bsp_platform.work.heads import (
        CLASS_SCORES,
        convert_class_scores,
        make_class_scores,
        require_instances,
        train_and_score,
    )

    expect = check_features(folders)
    data = load_activitynet(annotations, None)
    for subset in ("training", "validation"):
        require_instances(data.videos, subset, str(annotations))
    used = [video.video_id for video in data.videos if video.subset in ("training", "validation")]
    consequence = "Those of the validation subset count as videos without a detection."
    without = videos_without_features(folders, used, max_missing, consequence)
    present = replace(data, videos=tuple(video for video in data.videos if video.video_id not in without))
    # No stage is made, so the recipe is only what train_and_score reads of it: the head's settings and the seed.
    recipe = TaskRecipe(streams=(), head=PROFILES[profile]().head, annotations=file_sha256(annotations), seed=seed)
    with complete(out) as folder:
        if class_scores is None:
            make_class_scores(folder, folders[0], present, expect)
        else:
            convert_class_scores(folder, class_scores, present, "validation")
        arguments = (recipe, folders, folder / CLASS_SCORES, present, expect)
        facts = train_and_score(folder, *arguments, device=device, threads=threads)
        note(folder, recipe, folders, annotations=annotations, class_scores=class_scores)
    print_percentages(f"G-TAD, {annotations.name}", facts["scores"])
    say(f"written: {out}")


@train.command()
@training_options
@click.option("--head", type=click.Choice(["2dtan", "lgi"]), required=True)
@click.option("--charades", type=INPUT_FOLDER, required=True, help="Folder with the files of Charades-STA.")
@click.option("--glove", type=INPUT_FILE, help="GloVe text file, also .gz.  [default: words learnt from scratch]")
def grounding(
    folders: tuple[Path, ...],
    head: Literal["2dtan", "lgi"],
    charades: Path,
    glove: Path | None,
    out: Path,
    profile: str,
    seed: int,
    threads: int,
    device: str,
    max_missing: float,
) -> None:
    """2D-TAN or LGI: train on Charades-STA's training split, ground the test sentences, evaluate by its protocol."""
    from bsp.datasets.charades_sta import load_charades_sta
    from bsp.localization.grounding.words import load_glove
    from bsp_platform.plan.profiles import PROFILES
    from bsp_platform.plan.recipes import GroundingRecipe
    from bsp_platform.work.grounding_heads import train_and_ground

    expect = check_features(folders)
    data = load_charades_sta(charades)
    settings = PROFILES[profile]()
    vectors = None if glove is None else load_glove(glove)
    recipe = GroundingRecipe(
        streams=(),
        head=settings.tan2d if head == "2dtan" else settings.lgi,
        glove=None if vectors is None else vectors.sha256,
        word_width=settings.word_width,
        moments="",
        seed=seed,
    )
    used = [video.video_id for video in data.videos]
    videos_without_features(folders, used, max_missing, "Their test sentences count as not found.")
    with complete(out) as folder:
        facts = train_and_ground(folder, recipe, folders, vectors, data, expect, device=device, threads=threads)
        note(folder, recipe, folders, charades=charades, glove=glove)
    print_percentages(f"{head}, {charades}, words: {facts['words']}", facts["scores"])
    say(f"written: {out}")


def check_features(folders: tuple[Path, ...]) -> dict[str, Any]:
    """Say what the streams are; refuse folders of mixed features. Returns what the heads may expect of every record."""
    from bsp.features.interchange import uniform_record
    from bsp_platform.work.listed_features import check_listed

    records = []
    for folder in folders:
        check_listed(folder)
        ids, record = uniform_record(folder)
        records.append(record)
        # The precision must be one within a folder, but not of all streams: each has an encoder of its own, and a
        # head sees the same streams in training and in test. What is not ordinary is said.
        precision = "" if record.precision == "float32" else f", {record.precision}"
        width, stride = record.feature_width, record.stride_frames
        say(f"{folder}: {len(ids)} videos, width {width}, stride {stride} frames{precision}")
    strides = {record.stride_frames for record in records}
    if len(strides) > 1:
        raise ValueError(
            f"the streams have strides of {' and '.join(map(str, sorted(strides)))} frames; extract or import all"
            " with the same one"
        )
    return {"stride_frames": records[0].stride_frames}


def videos_without_features(
    folders: tuple[Path, ...], video_ids: list[str], max_missing: float, consequence: str = ""
) -> set[str]:
    """Of these videos, those that some stream lacks; how many is said, with the ``consequence``.

    ValueError if none is left, or more than ``max_missing`` percent are without.
    """
    from bsp.files.spelling import name_remark
    from bsp_platform.work.listed_features import has_features

    without = {i for i in video_ids if not all(has_features(folder, i) for folder in folders)}
    if len(without) == len(set(video_ids)):
        present = sorted(path.stem for path in folders[0].glob("*.json"))
        other = name_remark(present, without)
        raise ValueError(
            f"none of the {len(without)} annotated videos, such as {video_ids[0]}, has features in"
            f" {', '.join(map(str, folders))}; {other or 'are the ids the same'}? Import them with --prefix, or rename"
        )
    if without:
        share = 100 * len(without) / len(set(video_ids))
        said = f"{len(without)} of {len(set(video_ids))} annotated videos have no features, such as {min(without)}."
        if share > max_missing:
            raise ValueError(
                f"{said} That is {share:.1f} %, more than --max-missing {max_missing:g}: extract or import the rest, or"
                f" allow it with --max-missing {math.ceil(share)}"
            )
        say(f"{said} {consequence}".strip(), err=True)
    return without


@contextmanager
def complete(out: Path) -> Iterator[Path]:
    """A folder to work in that becomes ``out`` at the end, or vanishes with an error."""
    from bsp.features.interchange_files import refuse_existing
    from bsp_platform.storage.manifests import PROGRESS

    refuse_existing(out)
    partial = out.with_name(f".{out.name}.{uuid.uuid4().hex}.partial")
    partial.mkdir(parents=True)
    try:
        yield partial
        (partial / PROGRESS).unlink(missing_ok=True)
        if out.is_dir():
            out.rmdir()  # an empty one
        partial.replace(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def note(folder: Path, recipe: Any, folders: tuple[Path, ...], **inputs: Path | None) -> None:
    """settings.json: all that decided the result."""
    from bsp_platform.storage.stages import as_plain

    story = {key: None if path is None else str(path) for key, path in inputs.items()}
    story |= {"features": [str(path) for path in folders], "head": as_plain(recipe.head), "seed": recipe.seed}
    (folder / "settings.json").write_text(json.dumps(story, indent=1), "utf-8")
