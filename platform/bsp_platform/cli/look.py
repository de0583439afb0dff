"""``bsp detect``, ``bsp boundaries`` and ``bsp ground``: what a model finds in videos, as files and as pages."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bsp.errors import VideoError
from bsp_platform.cli.common import INPUT_FILE, INPUT_FOLDER, SOME_LEFT_OUT, not_nan, progress_shown
from bsp_platform.plain_text import plain_table, printable, say
from bsp_platform.plan.device import Device

if TYPE_CHECKING:
    import numpy as np

    from bsp.features.record import FeatureInfo
    from bsp.models.model import Model
    from bsp.pages.findings import Findings
    from bsp.pages.look import Question, What
    from bsp.survey.annotations import AnnotatedInstance

_FORMATS = "json,csv,vtt,html"
_ROWS = 12  # of a table on the console
VIDEOS = click.Path(exists=True, readable=True, path_type=Path)


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options that the three commands share."""

    model: Path | str
    out: Path
    features: tuple[Path, ...]  # of each stream, or the folder of all; () = extract them
    annotations: Path | None
    threshold: float | None
    top: int | None
    formats: tuple[str, ...]
    device: Device
    as_json: bool
    tracking_uri: str | None = None  # of the registry, for a model of that


def _formats(ctx: click.Context, param: click.Parameter, value: str) -> tuple[str, ...]:
    chosen = tuple(dict.fromkeys(part.strip().lower() for part in value.split(",") if part.strip()))
    unknown = [part for part in chosen if part not in _FORMATS.split(",")]
    if unknown or not chosen:
        raise click.BadParameter(f"{', '.join(unknown) or 'nothing'}: choose among {_FORMATS}", ctx, param)
    return chosen


def shared_options(
    model_help: str, out: str, *, needs_model: bool
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorator with the options of all three commands, which come as one ``options`` argument; ``out``: default."""
    options = [
        click.option("--model", "model", required=needs_model, help=model_help),
        click.option(
            "--out", type=click.Path(file_okay=False, path_type=Path), default=Path(out), show_default=True,
            help="Folder of the results; a video whose results of the same model are there is not computed again.",
        ),
        click.option(
            "--features", type=INPUT_FOLDER, multiple=True,
            help="Features made by bsp extract with this model, by video; of several streams: once for each, in order.",
        ),
        click.option("--annotations", type=INPUT_FILE, help="Ground truth, shown beside: ActivityNet's JSON or CSV."),
        click.option("--threshold", type=float, callback=not_nan, help="Keep what has at least this score."),
        click.option("--top", type=click.IntRange(min=1), help="Keep the best so many of each video."),
        click.option("--format", "formats", default=_FORMATS, show_default=True, callback=_formats, help="Which."),
        click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True),
        click.option(
            "--tracking-uri", envvar="MLFLOW_TRACKING_URI",
            help="MLflow store of models:/NAME.  [default: $MLFLOW_TRACKING_URI, else mlflow/mlflow.db here]",
        ),
        click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout, and nothing else there."),
    ]  # fmt: skip

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


_MODEL = "Model folder, or models:/NAME@ALIAS of MLflow's registry."


@click.command()
@click.argument("videos", nargs=-1, required=True, type=VIDEOS)
@shared_options(_MODEL, "found", needs_model=True)
def detect(videos: tuple[Path, ...], model: str, **options: Any) -> None:
    """Find the segments of VIDEOS (files or folders): class, start, end, score.

    \b
    bsp detect video.mp4 --model MODEL --out PAGES
    bsp detect VIDEOS --model models:/mine@best --out PAGES --threshold 0.2 --json

    Writes results.json (ActivityNet's layout), results.csv and, for each video, subtitles (.vtt) and a page (.html)
    with the video, its segments on a time line, and change points. A broken video is named and left out: exit code 3.
    """
    from bsp.pages.look import Question

    run_look(videos, Question(what="detect"), Options(model=model, **options))


@click.command()
@click.argument("videos", nargs=-1, required=True, type=VIDEOS)
@shared_options(
    f"{_MODEL}  [default: the one that comes with bsp, trained on stick figures]", "boundaries", needs_model=False
)
def boundaries(videos: tuple[Path, ...], model: str | None, **options: Any) -> None:
    """Find where something changes in VIDEOS (files or folders).

    \b
    bsp boundaries video.mp4
    bsp boundaries VIDEOS --model MODEL --out PAGES --top 20

    Takes every model: one without a boundary head shows the peaks of how much its features change. Writes results.json
    ({video: [seconds]}), results.csv and, for each video, chapters (.vtt) and a page (.html). A broken video is named
    and left out: exit code 3.
    """
    from bsp.pages.look import Question

    run_look(videos, Question(what="boundaries"), Options(model=model or shipped_model(), **options))


@click.command()
@click.argument("video", type=VIDEOS)
@click.argument("sentence")
@shared_options(_MODEL, "moments", needs_model=True)
def ground(video: Path, sentence: str, model: str, **options: Any) -> None:
    """Find the moments of VIDEO (a file or folder) that SENTENCE describes.

    \b
    bsp ground video.mp4 "a person opens the door" --model MODEL

    Writes results.json (as bsp evaluate grounding reads it), results.csv, subtitles (.vtt) and a page (.html).
    """
    from bsp.pages.look import Question

    if not sentence.strip():
        raise click.BadParameter("the sentence is empty", param_hint="SENTENCE")
    run_look((video,), Question(what="ground", sentence=sentence), Options(model=model, **options))


def shipped_model() -> Path:
    """Folder of the model that comes with the package. ClickException if the installation lacks it."""
    import bsp

    folder = Path(bsp.__file__).parent / "models" / "shipped"
    if not (folder / "model.json").is_file():
        raise click.ClickException(f"{folder}: this installation has no model of its own; give one with --model")
    return folder


def open_model(text: Path | str, device: Device, tracking_uri: str | None = None) -> tuple[Model, Path]:
    """The model of a folder or of MLflow's registry, and its folder. ClickException for one that cannot be read."""
    import bsp
    from bsp_platform.plan.device import local_device

    try:
        device = local_device(device)
        registered = isinstance(text, str) and text.startswith("models:/")
        folder = _registered(str(text), tracking_uri) if registered else Path(text)
        return bsp.load_model(folder, device=device), folder
    except ValueError as error:  # FileError, and what a registry refuses
        raise click.ClickException(printable(error, lines=True)) from error


def _registered(name: str, tracking_uri: str | None) -> Path:
    """The folder of a model in MLflow's registry."""
    from bsp_platform.tracking.registry import model_folder

    return model_folder(name, tracking_uri=tracking_uri)


def run_look(videos: tuple[Path, ...], question: Question, options: Options) -> None:
    """Look at all videos, print and write what was found; exit code 3 if some were left out, 1 if all were."""
    from bsp.pages.look import model_hash, selected
    from bsp.pages.results import claim, earlier_findings, named_videos, write_of_all

    files = named_videos(videos)
    model, folder = open_model(options.model, options.device, options.tracking_uri)
    truth = _truth(options.annotations)
    try:
        claim(options.out, question.what)
    except ValueError as error:
        raise click.ClickException(printable(error, lines=True)) from error
    found: list[Findings] = []
    rows: list[dict[str, Any]] = []
    left_out: list[dict[str, str]] = []
    for number, (name, path) in enumerate(files.items(), 1):
        try:
            findings, written, again = _one(
                name, path, question, model, folder, truth, options, f"{number}/{len(files)}"
            )
        except VideoError as error:
            left_out.append({"video": str(path), "reason": error.reason})
            say(f"left out: {error}", err=True)
            continue
        except ValueError as error:
            raise click.ClickException(printable(error, lines=True)) from error
        found.append(findings)
        rows.append(_row(findings, written))
        if not options.as_json:
            _print(findings, question.what, written, again)
    written = {}
    if found:
        before = earlier_findings(options.out, files, model_hash(folder))
        before = [selected(one, threshold=options.threshold, top=options.top) for one in before]
        written = write_of_all(options.out, [*before, *found], question.what, options.formats)
    if options.as_json:
        document: dict[str, Any] = {"model": str(folder), "videos": rows, "left_out": left_out}
        document["files"] = {kind: str(path) for kind, path in written.items()}
        click.echo(json.dumps(document, indent=1))
    elif written:
        for note in dict.fromkeys(note for findings in found for note in findings.notes):
            say(f"\n{note}")
        say(f"\nall videos: {', '.join(map(str, written.values()))}")
    if left_out:
        say(f"{len(left_out)} of {len(files)} videos left out", err=True)
        raise click.exceptions.Exit(SOME_LEFT_OUT if found else 1)


def _one(
    name: str, path: Path, question: Question, model: Model, folder: Path, truth: dict[str, list[AnnotatedInstance]],
    options: Options, place: str,
) -> tuple[Findings, dict[str, Path], bool]:  # fmt: skip
    """Findings of a video, its files by format, and whether the findings were there before."""
    from bsp.files.spelling import other_v
    from bsp.pages.look import look, model_hash, selected, with_truth
    from bsp.pages.results import keep_findings, kept_findings, key_of, write_of_video
    from bsp.video.read import probe

    info = probe(path)
    features = _features_of(path, name, question, model, options.features) if options.features else None
    hashed = [repr(of) for _, of in features or ()]
    key = key_of(model_hash(folder), path, what=question.what, sentence=question.sentence, features=hashed)
    findings = kept_findings(options.out, name, key)
    again = findings is not None
    if findings is None:
        with progress_shown(f"{place} {path.name}", "snippet", leave=False) as progress:
            findings = look(model, info, question, video_id=name, features=features, progress=progress)
        keep_findings(options.out, name, key, findings, model_hash=model_hash(folder))
    instances = truth.get(name) or truth.get(other_v(name))
    if instances is not None:
        findings = with_truth(findings, instances)
    findings = selected(findings, threshold=options.threshold, top=options.top)
    return findings, write_of_video(options.out, name, findings, info, question.what, options.formats), again


def _features_of(
    path: Path, name: str, question: Question, model: Model, given: tuple[Path, ...]
) -> list[tuple[np.ndarray, FeatureInfo]]:
    """Features of a video of each stream that is needed. VideoError if there are none of it."""
    from bsp.errors import VideoError
    from bsp_platform.work.listed_features import has_features, read_listed

    needed = len(model.streams) if question.what == "detect" else model.head_streams
    folders = list(given)
    if len(folders) == 1 < needed:  # as bsp extract leaves them
        folders = [given[0] / str(number + 1) for number in range(needed)]
    if len(folders) < needed or not all(folder.is_dir() for folder in folders):
        raise click.ClickException(
            f"--features {given[0]}: the model reads {needed} streams; give the folder that bsp extract made, which has"
            f" {' and '.join(str(number + 1) for number in range(needed))} in it, or --features once for each, in order"
        )
    for folder in folders[:needed]:
        if not has_features(folder, name):
            raise VideoError(str(path), f"{folder} has no features of {name}; extract them with this model")
    return [read_listed(folder, name) for folder in folders[:needed]]


def _truth(path: Path | None) -> dict[str, list[AnnotatedInstance]]:
    """Annotated instances by video. ClickException, naming the first fault, for a file with faults."""
    if path is None:
        return {}
    from bsp.survey.annotations import check_annotations

    checked = check_annotations(path, None)
    if grave := [finding for finding in checked.findings if finding.grave]:
        more = f" (and {len(grave) - 1} more: bsp check --annotations)" if len(grave) > 1 else ""
        raise click.ClickException(printable(f"{grave[0]}{more}", lines=True))
    found: dict[str, list[AnnotatedInstance]] = {}
    for instance in checked.instances:
        found.setdefault(instance.video_id, []).append(instance)
    return found


def _row(findings: Findings, written: dict[str, Path]) -> dict[str, Any]:
    """A video in the document of --json."""
    from bsp.pages.findings import to_document

    document = to_document(findings)
    row = {key: document[key] for key in ("video_id", "video", "duration_s", "segments")}
    if (curve := document["boundaries"]) is not None:
        row["boundaries"] = {key: curve[key] for key in ("times_s", "scores")}
    if findings.sentence:
        row["sentence"] = findings.sentence
    return row | {"notes": list(findings.notes), "files": {kind: str(path) for kind, path in written.items()}}


def _print(findings: Findings, what: What, written: dict[str, Path], again: bool) -> None:
    """A video's best findings on the console."""
    from rich.console import Console

    from bsp.pages.findings import shown_at_first
    from bsp.pages.formats import clock

    head = f"{findings.video_id}, {clock(findings.duration_s)} long" + (" (found before)" if again else "")
    if what == "boundaries" and (curve := findings.boundaries) is not None:
        say(f"\n{head}: {len(curve.times_s)} change points")
        best = sorted(sorted(range(len(curve.times_s)), key=lambda k: -curve.scores[k])[:_ROWS])
        rows: list[tuple[str, ...]] = [(clock(curve.times_s[k]), f"{curve.scores[k]:.3f}") for k in best]
        table = plain_table(("time", "score"), rows, first_left=True)
        more = len(curve.times_s) - len(rows)
    else:
        shown = shown_at_first(findings)
        say(f"\n{head}: {len(findings.segments)} candidate segments")
        rows = [(s.label or "segment", clock(s.start_s), clock(s.end_s), f"{s.score:.3f}") for s in shown[:_ROWS]]
        table = plain_table(("segment", "start", "end", "score"), rows, first_left=True)
        more = len(findings.segments) - len(rows)
    if rows:
        Console().print(table)
    if more > 0:
        say(f"and {more} of lower scores")
    if "html" in written:
        say(f"page: {written['html']}")
