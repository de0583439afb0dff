"""``bsp train``: a localisation head on existing features, our own or imported ones, without Ray or MLflow.

Labels are published annotation files or a CSV file of one's own; what comes out is a model folder with the results.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from bsp_platform.cli.common import (
    INPUT_FILE,
    INPUT_FOLDER,
    FileCommandGroup,
    LazyChoice,
    complete,
    epochs_shown,
    kept_epoch,
    print_percentages,
)
from bsp_platform.plain_text import say
from bsp_platform.plan.device import DEVICES, Device, local_device

if TYPE_CHECKING:
    from collections.abc import Callable

    from bsp.datasets.activitynet import LocalizationDataset
    from bsp.datasets.data_sets import Annotated
    from bsp_platform.plan.own_heads import Chosen
    from bsp_platform.work.listed_features import Found


def _profiles() -> list[str]:
    from bsp_platform.plan.own_heads import OWN
    from bsp_platform.plan.profiles import PROFILES

    return sorted({*PROFILES, OWN})


@click.group(cls=FileCommandGroup)
def train() -> None:
    """Train a localisation head on features, print its scores, and keep it as a model folder.

    \b
    bsp train gtad --features FEATURES --annotations labels.csv --out MODEL
    bsp train gtad --features FEATURES --annotations labels.csv --out MODEL --set head.epochs=20 --set head.cells=64

    labels.csv: a line "video,start_s,end_s,label" for each action (docs/training.md). MODEL is what bsp detect, bsp
    boundaries and bsp ground take; its scores, predictions and history lie beside the weights.
    """


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
            help="Whose settings the head gets; own: by the data.  [default: own for a CSV file, else paper]",
        ),
        click.option(
            "--set", "changes", multiple=True, metavar="NAME=VALUE", help="A field of the settings: head.epochs=20."
        ),
        click.option(
            "--validation-share",
            type=click.FloatRange(0, 1, min_open=True, max_open=True),
            default=0.2,
            show_default=True,
            help="Videos held out to score on, where a CSV file has no column subset.",
        ),
        click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout, and nothing else there."),
        click.option(
            "--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="Folder; must be free."
        ),
        click.option(
            "--features",
            "folders",
            type=INPUT_FOLDER,
            required=True,
            multiple=True,
            help="Folder of features, with all its streams; given again, a further stream, concatenated.",
        ),
    ):
        command = option(command)
    return command


@train.command()
@training_options
@click.option(
    "--annotations",
    type=INPUT_FILE,
    required=True,
    help="CSV video,start_s,end_s,label; or ActivityNet's JSON; also .gz.",
)
@click.option(
    "--head", type=click.Choice(["gtad", "gtad-windows"]), help="Whole videos, or windows.  [default: by the data]"
)
@click.option(
    "--class-scores",
    type=INPUT_FILE,
    help="Published video-level class scores.  [default: a linear classifier on the first features]",
)
def gtad(annotations: Path, head: str | None, class_scores: Path | None, **common: Any) -> None:
    """G-TAD: train on the subset "training", detect in "validation", evaluate by the ActivityNet protocol.

    \b
    bsp train gtad --features FEATURES --annotations labels.csv --out MODEL
    """
    from bsp.datasets.activitynet import load_activitynet
    from bsp.datasets.own import is_table, load_own_actions
    from bsp.tasks.detection import require_instances

    def load(found: Found) -> LocalizationDataset:
        if is_table(annotations):
            return load_own_actions(annotations, found.durations_s, validation_share=common["validation_share"])
        data = load_activitynet(annotations, None)
        for subset in ("training", "validation"):
            require_instances(data.videos, subset, str(annotations))
        return data

    def choose(found: Found, data: Any, width: int) -> Chosen:
        from bsp_platform.plan.own_heads import choose_detector

        return choose_detector(data, found.infos, "training", width, head)

    common["consequence"] = "Those of the validation subset count as videos without a detection."
    common["choose"] = choose
    _train(head or "gtad", load, annotations=annotations, class_scores=class_scores, **common)


@train.command()
@training_options
@click.option("--thumos", type=INPUT_FOLDER, required=True, help="Folder with THUMOS-14's annotation files.")
@click.option("--class-scores", type=INPUT_FILE, help="UntrimmedNet's .npy.  [default: a linear classifier]")
def thumos(thumos: Path, class_scores: Path | None, **common: Any) -> None:
    """G-TAD on windows: train on THUMOS-14's validation videos, detect in its test videos, mAP at 0.3:0.1:0.7."""
    from bsp.datasets.thumos14 import load_thumos14

    _train("thumos", lambda found: load_thumos14(thumos), annotations=thumos, class_scores=class_scores, **common)


@train.command()
@training_options
@click.option("--head", type=click.Choice(["2dtan", "lgi"]), default="2dtan", show_default=True)
@click.option("--annotations", type=INPUT_FILE, help="CSV video,start_s,end_s,sentence.")
@click.option("--charades", type=INPUT_FOLDER, help="Instead: folder with the files of Charades-STA.")
@click.option("--glove", type=INPUT_FILE, help="GloVe text file, also .gz.  [default: words learnt from scratch]")
@click.option("--train-words", is_flag=True, help="Train the vectors of --glove further; they are frozen otherwise.")
@click.option(
    "--held-out-every",
    type=click.IntRange(min=0),
    default=10,
    show_default=True,
    help="One in so many training videos chooses the epoch that is kept; 0: the last one is.",
)
def grounding(head: Literal["2dtan", "lgi"], annotations: Path | None, charades: Path | None, **common: Any) -> None:
    """2D-TAN or LGI: train on sentences and their moments, ground those of the test videos, evaluate by the protocol.

    \b
    bsp train grounding --features FEATURES --annotations sentences.csv --out MODEL
    """
    from bsp.datasets.charades_sta import load_charades_sta
    from bsp.datasets.own import load_own_moments

    given = _one_of(annotations, charades, "--charades")

    def load(found: Found) -> Annotated:
        if annotations is None:
            return load_charades_sta(given, find_files=False)
        return load_own_moments(annotations, found.durations_s, validation_share=common["validation_share"])

    if common["train_words"] and common["glove"] is None:
        raise click.UsageError("--train-words goes with --glove; words without vectors are always trained")
    common["consequence"] = "Their test sentences count as not found."
    _train(head, load, annotations=given, **common)


@train.command()
@training_options
@click.option("--crosstask", type=INPUT_FOLDER, required=True, help="Folder of CrossTask's release.")
def steps(crosstask: Path, **common: Any) -> None:
    """Step localisation: a linear classifier of actionness on CrossTask, our 3:1 split, framewise AP."""
    from bsp.datasets.activitynet import folder_inside
    from bsp.datasets.crosstask import load_crosstask

    release = folder_inside(crosstask, "crosstask_release")
    _train("actionness", lambda found: load_crosstask(release), annotations=crosstask, **common)


@train.command()
@training_options
@click.option("--annotations", type=INPUT_FILE, help="CSV video,time_s.")
@click.option("--gebd", type=INPUT_FOLDER, help="Instead: folder with k400_*train* and k400_*val* (.pkl, .json).")
@click.option(
    "--way",
    type=click.Choice(["peaks", "head"]),
    required=True,
    help="peaks: of the difference of neighbouring features, no labels but for one threshold. head: a linear layer.",
)
def boundaries(annotations: Path | None, gebd: Path | None, way: Literal["peaks", "head"], **common: Any) -> None:
    """Event boundaries: train on the training videos, F1 on the validation videos (rules of the challenge).

    \b
    bsp train boundaries --way head --features FEATURES --annotations boundaries.csv --out MODEL
    """
    from bsp.datasets.gebd import load_gebd_folder
    from bsp.datasets.own import load_own_boundaries

    given = _one_of(annotations, gebd, "--gebd")

    def load(found: Found) -> Annotated:
        if annotations is None:
            return load_gebd_folder(given, find_files=False)
        share = common["validation_share"]
        return load_own_boundaries(annotations, found.durations_s, found.rates, validation_share=share)

    _train(f"boundary-{way}", load, annotations=given, **common)


def _one_of(annotations: Path | None, folder: Path | None, option: str) -> Path:
    given = [path for path in (annotations, folder) if path is not None]
    if len(given) != 1:
        raise click.UsageError(f"give either --annotations or {option}")
    return given[0]


def _train(
    name: str,
    load: Callable[[Found], Annotated],
    *,
    annotations: Path,
    class_scores: Path | None = None,
    glove: Path | None = None,
    train_words: bool = False,
    held_out_every: int = 10,
    consequence: str = "",
    choose: Callable[[Found, Any, int], Chosen] | None = None,
    folders: tuple[Path, ...],
    out: Path,
    profile: str | None,
    changes: tuple[str, ...],
    validation_share: float,
    seed: int,
    threads: int,
    device: str,
    max_missing: float,
    as_json: bool,
) -> None:
    """Run the head of a task on the videos with features; print the scores and write the model with all results.

    The features are checked before the annotations are loaded.
    """
    from dataclasses import replace

    from bsp.datasets.activitynet import LocalizationDataset
    from bsp.datasets.own import is_table
    from bsp.localization.grounding.words import load_glove
    from bsp.tasks.head import HISTORY, HeadInputs, Sentences
    from bsp_platform.plan.own_heads import OWN, head_name, head_settings
    from bsp_platform.plan.tasks import TASKS
    from bsp_platform.storage.manifests import as_plain
    from bsp_platform.work import heads
    from bsp_platform.work.listed_features import (
        check_features,
        records_of,
        stream_folders,
        subsets_of,
        videos_without_features,
    )

    folders = stream_folders(folders)
    expect = check_features(folders, err=as_json)
    found, streams = records_of(folders[0]), heads.streams_of_features(folders)
    data = load(found)
    is_own = is_table(annotations) and annotations.is_file()
    profile = profile or (OWN if is_own else "paper")
    used = [video.video_id for video in data.videos]
    without = videos_without_features(folders, used, max_missing, consequence)
    vectors = None if glove is None else load_glove(glove)
    task = TASKS[name] if name in TASKS else TASKS["thumos"]
    pick = None if choose is None else partial(choose, found, data, sum(of.feature_width for of in streams))
    subsets = ("training", "validation") if isinstance(data, LocalizationDataset) and choose else task.data.subsets
    examples = len(set(subsets_of(data).get(subsets[0], ())) - without)
    head, settings, word_width = head_settings(task, profile, pick, examples, changes, as_json)
    kind = head_name(head)
    if is_own:
        _say_split(data, subsets[1], err=as_json)
    with complete(out) as folder:
        scores = None
        if head.needs_class_scores:
            assert isinstance(data, LocalizationDataset)  # as all data of heads that need class scores
            present = replace(data, videos=tuple(video for video in data.videos if video.video_id not in without))
            scores = folder / heads.CLASS_SCORES
            if class_scores is None:
                heads.make_class_scores(folder, folders[0], present, expect, subsets)
            else:
                heads.convert_class_scores(folder, class_scores, present, subsets[1])
        inputs = HeadInputs(
            features=heads.listed(folders, expect),
            data=data,
            settings=settings,
            subsets=subsets,
            seed=seed,
            device=device,
            class_scores=heads.scores_in(scores),
            sentences=Sentences(
                vectors=vectors, width=word_width, train_vectors=train_words, held_out_every=held_out_every
            ),
        )
        with epochs_shown(head.title) as show:
            facts = heads.run_and_write(folder, head, inputs, threads=threads, show=show)
        if line := kept_epoch(json.loads((folder / HISTORY).read_text("utf-8"))):
            say(line, err=as_json)
        files = {"annotations": annotations, "class_scores": class_scores, "glove": glove}
        used_settings: dict[str, Any] = {key: path and str(path) for key, path in files.items()}
        used_settings |= {"task": name, "head_name": kind, "profile": profile, "features": [*map(str, folders)]}
        used_settings |= {"head": as_plain(settings), "seed": seed, "subsets": subsets_of(data)}
        (folder / "settings.json").write_text(json.dumps(used_settings, indent=1), "utf-8")
        model = heads.write_trained_model(folder, kind, streams, _provenance(used_settings, facts))
    if as_json:
        click.echo(json.dumps({"model": str(out), "scores": facts["scores"], "settings": used_settings}))
    else:
        words = f", words: {facts['words']}" if "words" in facts else ""
        print_percentages(f"{head.title}, {annotations}{words}", facts["scores"])
    say(f"written: {out}", err=as_json)
    if model is not None:
        _say_use(model, out, err=as_json)


def _say_split(data: Any, scored: str, *, err: bool) -> None:
    """The videos of the subset ``scored`` by name: what a person wants to know of a split that was drawn."""
    from bsp_platform.work.listed_features import subsets_of

    subsets = subsets_of(data)
    names = subsets[scored]
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    trained = sum(map(len, subsets.values())) - len(names)
    say(f"{trained} videos to train on, {len(names)} to score on: {', '.join(names[:8])}{more}", err=err)
    if len(names) < 10:
        found = {i.label for video in data.videos for i in getattr(video, "instances", ()) if video.subset == scored}
        of = f" They hold {len(found)} of {len(data.class_names)} classes." if found else ""
        say(f"Scores on fewer than ten videos say little.{of}", err=err)


def _provenance(settings: Mapping[str, Any], facts: Mapping[str, Any]) -> dict[str, Any]:
    from importlib.metadata import version

    return {
        "made_by": "bsp train",
        "bsp": version("bsp-platform"),
        "torch": version("torch"),
        "settings": {name: settings[name] for name in ("annotations", "features", "profile", "seed")},
        "scores": dict(facts["scores"]),
        "licence": "not stated: made from the data and the encoders given, whose terms hold",
    }


def _say_use(model: Any, out: Path, *, err: bool) -> None:
    if not model.has_encoders:
        say(
            "The features were imported, so this model has no encoder: it takes features of the same kind, not videos.",
            err=err,
        )
        return
    use = {"2dtan": "ground", "lgi": "ground", "boundary-peaks": "boundaries", "boundary-head": "boundaries"}
    sentence = ' "a sentence"' if use.get(model.kind) == "ground" else ""
    say(f"Next: bsp {use.get(model.kind, 'detect')} VIDEO{sentence} --model {out} --out PAGES", err=err)
