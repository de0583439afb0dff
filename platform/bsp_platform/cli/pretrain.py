"""``bsp pretrain``: an encoder from one's own videos, as a model folder."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bsp_platform.cli.common import SOME_LEFT_OUT, FileCommand, LazyChoice, not_nan
from bsp_platform.plain_text import duration
from bsp_platform.plan.device import DEVICES

if TYPE_CHECKING:
    from bsp.clips.catalog import Catalog
    from bsp.datasets.kinetics import OwnVideos
    from bsp_platform.plan.own import OwnConfig
    from bsp_platform.plan.recipes import Stream
    from bsp_platform.storage.stages import StageStore
    from bsp_platform.sweep.own.settings import OwnOptions, Resolved
    from bsp_platform.sweep.own.training import HeldOutScores, OwnTraining

_HELD_OUT = 0.1  # share of the videos that are kept out of training
# Choice: a long video without classes counts by its length, as so many pieces; Kinetics' clips have ten seconds.
_STRETCH_S = 10.0


def _profiles() -> list[str]:
    from bsp_platform.plan.profiles import PROFILES

    return ["own", *sorted(PROFILES)]


@click.command(cls=FileCommand)
@click.argument("videos", type=click.Path(exists=True, readable=True, path_type=Path))
@click.option("--pretext", help="S, vanilla, kinds as dc+ss or {dc,ss}, regression:dc+sc, two-head, distillation, "
              "arrow-of-time, speediness, pace.  [default: S; without classes ds+ss]")  # fmt: skip
@click.option("--encoder", help="tsm_lite0, tsm_r18, tsm_r34, tsm_r50; tsm_r18w32: width 32.  [default: tsm_lite0 if "
              "the extra [start] is installed, else tsm_r18]")  # fmt: skip
@click.option("--start", metavar="random|image|FILE", help="Weights that the training starts from.  [default: image "
              "for tsm_lite0, if the extra is installed, else random]")  # fmt: skip
@click.option("--profile", type=LazyChoice(_profiles), default="own", show_default=True,
              help="own: settings chosen from the videos and the machine.")  # fmt: skip
@click.option(
    "--minutes",
    type=click.FloatRange(min=0.5),
    callback=not_nan,
    help="Train about so long; measures the machine first.",
)
@click.option("--set", "settings", multiple=True, metavar="NAME=VALUE",
              help="Change a setting, such as train.clips=51200; may be repeated. --dry-run lists all.")  # fmt: skip
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--workers", type=click.IntRange(min=1), help="Processes that share each step.  [default: chosen]")
@click.option("--cpus", type=click.IntRange(min=1), help="CPUs for a Ray started here.  [default: all]")
@click.option(
    "--device", type=click.Choice(DEVICES), default="auto", show_default=True, help="auto: a GPU if there is one."
)
@click.option("--storage", envvar="BSP_STORAGE", default="storage", show_default=True, metavar="FOLDER|s3://...",
              help="For checkpoints and the encoder.")  # fmt: skip
@click.option("--tracking-uri", envvar="MLFLOW_TRACKING_URI", help="MLflow store  [default: SQLite in mlflow/]")
@click.option("--max-broken", type=click.FloatRange(0, 1), callback=not_nan, default=0.05, show_default=True,
              help="Share of the videos that may be broken.")  # fmt: skip
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="The model folder; must be free."
)
@click.option("--dry-run", is_flag=True, help="Only print what would be done, with all settings.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout; messages go to stderr.")
def pretrain(**given: Any) -> None:
    """Train an encoder on boundaries that are made of VIDEOS.

    \b
    bsp pretrain VIDEOS --out ENCODER
    bsp pretrain VIDEOS --pretext dc+ss --minutes 30 --out ENCODER
    bsp pretrain list.csv --pretext S --set train.clips=51200 --out ENCODER

    VIDEOS is a folder with one folder of videos per class, a folder of videos without classes, or a CSV list with the
    columns video,label (start_s,end_s): see docs/pretraining.md. Broken videos are left out and named. The same command
    again continues. Then: bsp extract VIDEOS --model ENCODER --out FEATURES. Exit codes: 0 done; 1 an input is
    malformed or missing; 2 wrong usage; 3 done, but some videos were left out.
    """
    from bsp_platform.sweep.own.settings import OwnOptions

    if _run(OwnOptions(**given)):
        raise click.exceptions.Exit(SOME_LEFT_OUT)


def _run(given: OwnOptions) -> int:
    """Returns how many videos were left out."""
    from bsp.datasets.kinetics import load_own_videos
    from bsp.pretraining.pretexts import too_short
    from bsp_platform.plan.options import storage_place
    from bsp_platform.plan.own_pretext import classes_needed, default_pretext, parse_pretext
    from bsp_platform.storage.stages import StageStore
    from bsp_platform.sweep.own.settings import keep_choice, refuse_other, resolve
    from bsp_platform.sweep.own.training import OwnTraining, held_out_scores

    began = time.time()
    store = StageStore(storage_place(given.storage))
    given.say(f"looking at {given.videos} ...")
    own = load_own_videos(given.videos, max_skipped_share=given.max_broken, cache_dir=store.root / "catalogs")
    pretext = given.pretext or default_pretext(own.has_classes)
    stream = parse_pretext(pretext)
    needs = classes_needed(stream)
    if needs and not own.has_classes:
        raise ValueError(
            f"--pretext {pretext}: {needs}, but {given.videos} is {own.how}. One video is enough for ds and ss only: "
            "--pretext ds+ss, or regression:ds; or put the videos into a folder for each class. arrow-of-time, "
            "speediness and pace need no classes either"
        )
    given.say(f"pretext {pretext}: " + (f"needs classes, as {needs}" if needs else "needs no classes"))
    left_out = len(own.catalog.skipped)
    catalog = own.catalog if own.has_classes else own.catalog.in_stretches(_STRETCH_S)
    for line in _about_videos(own, catalog):
        given.say(line)
    training, held_out = _split(catalog, stream, given)
    resolved = resolve(given, stream, training)
    config, recipe = resolved.config, resolved.recipe
    _print_config(given, resolved)
    short = too_short(recipe.training.pretext, recipe.training.clips, training)
    if short:
        given.say(short)
    job = OwnTraining(
        name=pretext,
        recipe=recipe,
        training=training,
        held_out=held_out,
        held_out_clips=config.held_out_clips,
        start_files=resolved.start_files,
    )
    found = store.find("encoders", recipe)
    result: dict[str, Any] = {"out": str(given.out), "encoder": recipe.name, "left_out": list(own.catalog.skipped)}
    if given.dry_run:
        given.say(f"dry run: {recipe.name} {'is in the storage' if found else 'would be trained'}; nothing was written")
        scores = None
    else:
        refuse_other(given.out, recipe)
        if not found:
            keep_choice(given, resolved)
        scores = _train(given, job, store, config) if not found else held_out_scores(job, store)
        _write(given, job, store, resolved, scores)
        lost = store.facts(store.need("encoders", recipe)).get("skipped_clips", [])
        left_out += len(lost)
        for line in lost[:20]:
            given.say(f"left out: {line}")
        for line in scores.lines() if scores else ["no videos were kept out, so what it does on new ones is not known"]:
            given.say(line)
        given.say(f"written: {given.out} ({recipe.encoder.name}, {duration(time.time() - began)}); next: bsp extract "
                  f"VIDEOS --model {given.out} --out FEATURES")  # fmt: skip
    if given.as_json:
        from bsp_platform.plan.overrides import as_lines

        settings = dict(line.split(" = ", 1) for line in as_lines(config))
        numbers = None if scores is None else {
            "scores": scores.scores, "chance": {name: level.value for name, level in scores.chance.items()},
            "training": scores.training, "at_chance": scores.at_chance, "clips": scores.clips, "videos": scores.videos,
        }  # fmt: skip
        click.echo(json.dumps(result | {"settings": settings, "reasons": list(resolved.reasons), "held_out": numbers}))
    return left_out


def _about_videos(own: OwnVideos, catalog: Catalog) -> list[str]:
    count, parts = len(own.catalog), len(catalog)
    lines = [f"{count:,} videos, {duration(float(own.catalog.seconds().sum()))} in all: {own.how}"]
    if parts > count:
        lines.append(
            f"long videos count by their length, as pieces of about {_STRETCH_S:g} s: {parts:,} in all; the cuts and "
            "changes that are in them stay where they are"
        )
    return lines


def _split(catalog: Catalog, stream: Stream, given: OwnOptions) -> tuple[Catalog, Catalog | None]:
    """Videos to train on, and those that are kept out. ValueError if the pretext cannot be made of them."""
    from bsp.pretraining.held_out import split_held_out

    split = split_held_out(catalog, _HELD_OUT)
    training, held_out = catalog.select(split.training), None
    if len(split.held_out):
        kept = catalog.select(split.held_out)
        try:
            _plan_some(kept, stream)
            held_out = kept
        except ValueError:
            training = catalog  # too few of some class: rather train on them
    try:
        _plan_some(training, stream)
    except ValueError as error:
        raise ValueError(f"{given.videos}: {error}; give more videos, or another --pretext") from None
    if held_out is None:
        given.say("too few videos to keep some out of training")
    else:
        files = len(set(held_out.paths.tolist()))
        given.say(
            f"{files} of {len(set(catalog.paths.tolist()))} videos are kept out of training, to score the pretext"
        )
    return training, held_out


def _plan_some(catalog: Catalog, stream: Stream) -> None:
    """ValueError if some kind of clip cannot be made of these videos."""
    from bsp.clips.plan import ClipSettings, plan_clip
    from bsp.pretraining.pretexts import make_pretext
    from bsp_platform.plan.own_pretext import ONE_VIDEO, classes_needed

    if classes_needed(stream) and len(set(catalog.labels.tolist())) < 2 and stream.method not in (
        "classification", "regression",
    ):  # fmt: skip
        raise ValueError("classifying actions needs videos of two classes")
    plan = make_pretext(stream.method, stream.kinds, 0).plan if stream.method in ONE_VIDEO else plan_clip
    for index in range(max(1, len(stream.kinds))):
        plan(catalog, ClipSettings(kinds=stream.kinds), 0, index)


def _print_config(given: OwnOptions, resolved: Resolved) -> None:
    from bsp_platform.plan.overrides import as_lines

    for line in resolved.reasons:
        given.say(f"  {line}")
    given.say("settings, each of which --set changes:")
    for line in as_lines(resolved.config, resolved.before):
        given.say(f"  {line}")


def _train(given: OwnOptions, job: OwnTraining, store: StageStore, config: OwnConfig) -> HeldOutScores | None:
    """Train, with a run in MLflow; the scores on videos that are kept out."""
    from bsp_platform.plan.options import Options
    from bsp_platform.plan.overrides import as_lines
    from bsp_platform.storage.manifests import recipe_hash
    from bsp_platform.sweep.own.training import finished_record, train_own
    from bsp_platform.sweep.ray_log import RayLog
    from bsp_platform.tracking.record import new_record, now_ms
    from bsp_platform.tracking.tracker import Tracker

    options = Options(
        profile=config.profile(), storage=store.address, results=given.out.parent, tracking_home=Path("mlflow"),
        tracking_uri=given.tracking_uri, workers=config.workers, cpus=given.cpus, device=given.device,
    )  # fmt: skip
    params = dict(line.split(" = ", 1) for line in as_lines(config)) | {"pretext": job.name, "seed": given.seed}
    record = new_record(
        "pretrain", recipe_hash(job.recipe), f"{job.name} {config.encoder.name} seed {given.seed}", params,
        note=f"Pre-training on {given.videos}: `bsp pretrain`. Curves: training/; scores on videos that were kept out "
        "of training: scores/.", data={"videos": str(job.recipe.trimmed)},
    )  # fmt: skip
    import ray

    joined = ray.is_initialized()
    ray_log = RayLog.of_run(store.root if not store.bucket else given.out.parent, "pretrain", err=given.as_json)
    tracker = Tracker(given.tracking_uri, "pretrain", options.tracking_home, store)
    record = tracker.begin(record)
    try:
        with ray_log:
            try:
                scores = train_own(job, options, store, tracker, record, ray_log)
            finally:  # within the log, as Ray's workers speak to its end
                if not joined:
                    ray.shutdown()
        tracker.show(finished_record(record, job, store, scores))
    except BaseException as error:
        tracker.show(record.with_state("FAILED", now_ms(), str(error)[:500]))
        raise
    finally:
        tracker.close()
    return scores


def _write(
    given: OwnOptions, job: OwnTraining, store: StageStore, resolved: Resolved, scores: HeldOutScores | None
) -> None:
    """The model folder, unless it is there."""
    from bsp_platform.plan.overrides import as_lines
    from bsp_platform.sweep.own.settings import model_of
    from bsp_platform.sweep.own.training import write_own_model

    if model_of(given.out):
        return
    facts = {"profile": given.profile, "pretext": job.name, "seed": given.seed, "settings": as_lines(resolved.config)}
    facts |= {"machine": resolved.known["machine"], "command": "bsp pretrain"}
    write_own_model(given.out, job, store, facts, scores)
