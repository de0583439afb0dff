"""``bsp train``: a localisation head on existing features, our own or imported ones, without Ray or MLflow."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from bsp_platform.cli.common import INPUT_FILE, INPUT_FOLDER, FileCommandGroup, LazyChoice, print_percentages
from bsp_platform.plain_text import say
from bsp_platform.plan.device import DEVICES, Device, local_device

if TYPE_CHECKING:
    from collections.abc import Callable

    from bsp.datasets.activitynet import LocalizationDataset
    from bsp.datasets.data_sets import Annotated


def _profiles() -> list[str]:
    from bsp_platform.plan.profiles import PROFILES

    return sorted(PROFILES)


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
    """The options that all heads have."""
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
            type=LazyChoice(_profiles),
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
def gtad(annotations: Path, class_scores: Path | None, **common: Any) -> None:
    """G-TAD: train on the subset "training", detect in "validation", evaluate by the ActivityNet protocol."""
    from bsp.datasets.activitynet import load_activitynet
    from bsp.tasks.detection import require_instances

    def load() -> LocalizationDataset:
        data = load_activitynet(annotations, None)
        for subset in ("training", "validation"):
            require_instances(data.videos, subset, str(annotations))
        return data

    common["consequence"] = "Those of the validation subset count as videos without a detection."
    _train("gtad", load, annotations=annotations, class_scores=class_scores, **common)


@train.command()
@training_options
@click.option("--thumos", type=INPUT_FOLDER, required=True, help="Folder with THUMOS-14's annotation files.")
@click.option("--class-scores", type=INPUT_FILE, help="UntrimmedNet's .npy.  [default: a linear classifier]")
def thumos(thumos: Path, class_scores: Path | None, **common: Any) -> None:
    """G-TAD on windows: train on THUMOS-14's validation videos, detect in its test videos, mAP at 0.3:0.1:0.7."""
    from bsp.datasets.thumos14 import load_thumos14

    _train("thumos", lambda: load_thumos14(thumos), annotations=thumos, class_scores=class_scores, **common)


@train.command()
@training_options
@click.option("--head", type=click.Choice(["2dtan", "lgi"]), required=True)
@click.option("--charades", type=INPUT_FOLDER, required=True, help="Folder with the files of Charades-STA.")
@click.option("--glove", type=INPUT_FILE, help="GloVe text file, also .gz.  [default: words learnt from scratch]")
def grounding(head: Literal["2dtan", "lgi"], charades: Path, **common: Any) -> None:
    """2D-TAN or LGI: train on Charades-STA's training split, ground the test sentences, evaluate by its protocol."""
    from bsp.datasets.charades_sta import load_charades_sta

    common["consequence"] = "Their test sentences count as not found."
    _train(head, lambda: load_charades_sta(charades), annotations=charades, **common)


@train.command()
@training_options
@click.option("--crosstask", type=INPUT_FOLDER, required=True, help="Folder of CrossTask's release.")
def steps(crosstask: Path, **common: Any) -> None:
    """Step localisation: a linear classifier of actionness on CrossTask, our 3:1 split, framewise AP."""
    from bsp.datasets.activitynet import folder_inside
    from bsp.datasets.crosstask import load_crosstask

    release = folder_inside(crosstask, "crosstask_release")
    _train("actionness", lambda: load_crosstask(release), annotations=crosstask, **common)


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

    _train(f"boundary-{way}", lambda: load_gebd_folder(gebd, find_files=False), annotations=gebd, **common)


def _train(
    name: str,
    load: Callable[[], Annotated],
    *,
    annotations: Path,
    class_scores: Path | None = None,
    glove: Path | None = None,
    consequence: str = "",
    folders: tuple[Path, ...],
    out: Path,
    profile: str,
    seed: int,
    threads: int,
    device: str,
    max_missing: float,
) -> None:
    """Run the head of a task on the videos with features; print the scores and write all results.

    The features are checked before the annotations are loaded.
    """
    from dataclasses import replace

    from bsp.datasets.activitynet import LocalizationDataset
    from bsp.localization.grounding.words import load_glove
    from bsp.tasks.head import HeadInputs, Sentences
    from bsp_platform.plan.profiles import PROFILES
    from bsp_platform.plan.tasks import TASKS
    from bsp_platform.storage.manifests import as_plain
    from bsp_platform.work import heads

    task, complete_profile = TASKS[name], PROFILES[profile]()
    expect = check_features(folders)
    data = load()
    used = [video.video_id for video in data.videos]
    without = videos_without_features(folders, used, max_missing, consequence)
    vectors = None if glove is None else load_glove(glove)
    settings = task.settings(complete_profile)
    with complete(out) as folder:
        scores = None
        if task.head.needs_class_scores:
            assert isinstance(data, LocalizationDataset)  # as all data of heads that need class scores
            present = replace(data, videos=tuple(video for video in data.videos if video.video_id not in without))
            scores = folder / heads.CLASS_SCORES
            if class_scores is None:
                heads.make_class_scores(folder, folders[0], present, expect, task.data.subsets)
            else:
                heads.convert_class_scores(folder, class_scores, present, task.data.subsets[1])
        inputs = HeadInputs(
            features=heads.listed(folders, expect),
            data=data,
            settings=settings,
            subsets=task.data.subsets,
            seed=seed,
            device=device,
            class_scores=heads.scores_in(scores),
            sentences=Sentences(vectors=vectors, width=complete_profile.word_width),
        )
        facts = heads.run_and_write(folder, task.head, inputs, threads=threads)
        files = {"annotations": annotations, "class_scores": class_scores, "glove": glove}
        used_settings: dict[str, Any] = {key: path and str(path) for key, path in files.items()}
        used_settings |= {"task": name, "features": [*map(str, folders)], "head": as_plain(settings), "seed": seed}
        (folder / "settings.json").write_text(json.dumps(used_settings, indent=1), "utf-8")
    words = f", words: {facts['words']}" if "words" in facts else ""
    print_percentages(f"{task.head.title}, {annotations}{words}", facts["scores"])
    say(f"written: {out}")


def check_features(folders: tuple[Path, ...]) -> dict[str, int | str]:
    """Print the streams; ValueError for mixed features. Returns the fields that all records have in common."""
    from bsp.features.interchange import uniform_record
    from bsp_platform.work.listed_features import check_listed

    records = []
    for folder in folders:
        check_listed(folder)
        ids, record = uniform_record(folder)
        records.append(record)
        # All features of a folder have one precision; those of two streams may differ, as each has its own encoder.
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
    """Those of the videos that a stream lacks; their number is printed with the ``consequence``.

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
    """A temporary folder, renamed to ``out`` at the end and removed after an error."""
    from bsp.features.interchange_files import refuse_existing
    from bsp.io import atomic_path
    from bsp_platform.storage.manifests import PROGRESS

    refuse_existing(out)
    with atomic_path(out) as partial:
        partial.mkdir()
        yield partial
        (partial / PROGRESS).unlink(missing_ok=True)
