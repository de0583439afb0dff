"""``bsp check``, ``bsp extract`` and ``bsp compare-features``: from a person's videos to features."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bsp_platform.cli.common import (
    INPUT_FILE,
    INPUT_FOLDER,
    OUTPUT_FILE,
    SOME_LEFT_OUT,
    FileCommand,
    LazyChoice,
    not_nan,
    progress_shown,
)
from bsp_platform.plain_text import say
from bsp_platform.plan.device import DEVICES, Device

if TYPE_CHECKING:
    from bsp.models.model import Model
    from bsp.survey.listing import Listing
    from bsp_platform.plan.resources import Resources
    from bsp_platform.work.own_videos import Extracted

_VIDEOS = click.argument(
    "videos", nargs=-1, required=True, type=click.Path(exists=True, readable=True), metavar="VIDEOS..."
)
_JSON = click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout; messages go to stderr.")


def _say(lines: Iterable[str], err: bool) -> None:
    for line in lines:
        say(line, err=err)


@click.command(cls=FileCommand)
@_VIDEOS
@click.option(
    "--annotations",
    type=INPUT_FILE,
    help="ActivityNet's JSON, or CSV: video,start_s,end_s,label (or sentence); video,time_s.",
)
@click.option(
    "--report",
    type=OUTPUT_FILE,
    default="check.csv",
    show_default=True,
    help="A row per video; continued if it exists.",
)
@click.option("--decode", is_flag=True, help="Decode every frame, which finds damaged pictures; slow.")
@click.option("--workers", type=click.IntRange(min=1), help="Processes.  [default: one per core]")
@_JSON
def check(
    videos: tuple[str, ...],
    annotations: Path | None,
    report: Path,
    decode: bool,
    workers: int | None,
    as_json: bool,
) -> None:
    """Look for broken, short and odd VIDEOS (folders or files), and whether annotations fit them.

    \b
    bsp check my_videos
    bsp check my_videos --annotations labels.csv --report check.csv

    Suggests a grid for G-TAD from the lengths of videos and instances. Run again, only new, changed and unreadable
    files are looked at. Exit codes: 0 all can be used; 1 no video can, or the annotations have faults; 3 some videos
    cannot be used.
    """
    from bsp.survey.annotations import check_annotations
    from bsp.survey.grid import suggest_grid
    from bsp.survey.listing import list_videos
    from bsp.survey.videos import check_videos
    from bsp_platform.report.survey_lines import annotation_lines, train_line, video_lines

    listing = list_videos(videos)
    with progress_shown("looking at videos", "file") as show:
        rows = check_videos(
            listing.videos,
            report=report,
            decode=decode,
            workers=workers or os.cpu_count() or 1,
            progress=lambda done, total, row: show(done, total),
        )
    usable = [row for row in rows if row.usable]
    checked = None
    if annotations is not None:
        checked = check_annotations(annotations, {row.id: row.duration_s for row in usable})
    grid = None
    if usable and (checked is None or checked.what == "actions"):
        instances = [(one.start_s, one.end_s) for one in checked.instances] if checked else []
        # Of the videos that the head is trained on: longer ones are cut into windows when it is used.
        named = set(checked.videos) if checked else set()
        of = [row for row in usable if row.id in named] or usable
        grid = suggest_grid([row.duration_s for row in of], [row.fps for row in of], instances)
    if as_json:
        document = {
            "videos": [asdict(row) | {"usable": row.usable} for row in rows],
            "not_videos": listing.others,
            "annotations": checked and [asdict(finding) for finding in checked.findings],
            "grid": grid and asdict(grid),
            "command": train_line(checked, annotations) if usable else None,
        }
        click.echo(json.dumps(document))
    _say(video_lines(listing, rows, report), as_json)
    if checked is not None:
        _say(annotation_lines(checked), as_json)
    if grid is not None:
        _say([f"- {reason}" for reason in grid.reasons], as_json)
        where = "windows" if grid.on_windows else "whole videos"
        cells = f"{grid.cells} cells on {where}, proposals of up to {grid.max_duration}"
        say(f"- suggested for G-TAD: {cells}; bsp train chooses them itself", err=as_json)
    is_faulty = checked is not None and any(finding.grave for finding in checked.findings)
    if usable and not is_faulty:
        say(f"To train: {train_line(checked, annotations)}", err=as_json)
    if not usable or is_faulty:
        raise click.exceptions.Exit(1)
    if len(usable) < len(rows):
        raise click.exceptions.Exit(SOME_LEFT_OUT)


def _layouts() -> tuple[str, ...]:
    from bsp.features.interchange_files import LAYOUTS

    return LAYOUTS


@click.command(cls=FileCommand)
@_VIDEOS
@click.option("--model", required=True, help="Model folder of an encoder or a head, or models:/NAME@ALIAS.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="Folder of the features.")
@click.option("--stream", type=click.IntRange(min=1), help="One encoder of a model with several.  [default: all]")
@click.option("--format", "layout", type=LazyChoice(_layouts, case_sensitive=False), help="Also write OUT-FORMAT.")
@click.option(
    "--device", type=click.Choice(DEVICES), default="auto", show_default=True, help="auto: a GPU if there is one."
)
@click.option("--workers", type=click.IntRange(min=1), help="CPUs of a Ray that is started here.  [default: all]")
@click.option(
    "--max-broken",
    type=click.FloatRange(0, 1),
    callback=not_nan,
    default=0.1,
    show_default=True,
    help="Share of the videos that may be unreadable.",
)
@_JSON
def extract(
    videos: tuple[str, ...],
    model: str,
    out: Path,
    stream: int | None,
    layout: Any,
    device: Device,
    workers: int | None,
    max_broken: float,
    as_json: bool,
) -> None:
    """Snippet features of VIDEOS (folders or files), made exactly as those that the model was trained on.

    \b
    bsp extract my_videos --model ENCODER --out FEATURES
    bsp extract my_videos --model ENCODER --out FEATURES --format opentad

    Encoder, picture size, snippets and precision are the model's. A model with several encoders gets a folder for
    each, OUT/1, OUT/2, ..., to be given to bsp train as --features OUT/1 --features OUT/2. Run again, only what is
    missing, damaged or changed is done. Exit codes: 0 done; 1 the model or too many videos cannot be read; 3 done,
    but some videos were left out.
    """
    from bsp.models.folder import load_model
    from bsp.survey.listing import list_videos
    from bsp_platform.report.survey_lines import name_lines
    from bsp_platform.work.own_videos import extract_videos, feature_folders

    loaded: Model = load_model(_model_folder(model))
    folders = feature_folders(loaded, out, stream)
    targets = [folder.with_name(f"{folder.name}-{layout}") for _, folder in folders] if layout else []
    _refuse_taken(targets)
    listing = list_videos(videos)
    _say(name_lines(listing), True)
    done: list[Extracted] = []
    with _where(len(listing.videos), device, workers, out) as resources:
        for number, (of, folder) in enumerate(folders, 1):
            name = of.name or f"stream {number}"
            with progress_shown(f"features of {name}" if len(folders) > 1 else "features", "video") as show:
                done.append(
                    extract_videos(
                        folder,
                        of,
                        listing.videos,
                        resources=resources,
                        max_broken=max_broken,
                        report=_with_snippets(show),
                    )
                )
    _export(done, targets, layout)
    broken = dict(entry for one in done for entry in one.broken)
    for path, why in broken.items():
        say(f"left out: {path}: {why}", err=True)
    for one in done:
        kept = f" ({one.kept:,} were there)" if one.kept else ""
        say(f"{one.folder}: {one.videos:,} videos{kept}, {one.snippets:,} snippets of width {one.width}", err=as_json)
    for target in targets:
        say(f"written: {target}", err=as_json)
    if as_json:
        click.echo(json.dumps(_extracted_json(done, targets, listing)))
    else:
        features = " ".join(f"--features {one.folder}" for one in done)
        say(f"Next: bsp train gtad {features} --annotations labels.csv --out MODEL")
    if broken:
        raise click.exceptions.Exit(SOME_LEFT_OUT)


def _with_snippets(show: Callable[..., None]) -> Callable[[int, int, int], None]:
    return lambda done, total, made: show(done, total, f"{made:,} snippets")


def _model_folder(text: str) -> Path:
    if text.startswith("models:"):
        from bsp_platform.tracking.registry import model_folder

        return Path(model_folder(text))
    if not Path(text).is_dir():
        raise click.BadParameter(f"folder {text} does not exist", param_hint="--model")
    return Path(text)


def _refuse_taken(targets: Sequence[Path]) -> None:
    from bsp.features.interchange_files import refuse_existing

    for target in targets:
        refuse_existing(target)


def _export(done: Sequence[Extracted], targets: Sequence[Path], layout: Any) -> None:
    from bsp.features.interchange import export_features

    for one, target in zip(done, targets, strict=False):
        export_features(one.folder, target, layout=layout)


def _extracted_json(done: Sequence[Extracted], targets: Sequence[Path], listing: Listing) -> Mapping[str, Any]:
    return {
        "features": [
            {
                "folder": str(one.folder),
                "videos": one.videos,
                "kept": one.kept,
                "snippets": one.snippets,
                "width": one.width,
            }
            for one in done
        ],
        "exported": [str(target) for target in targets],
        "ids": {video.path: video.video_id for video in listing.videos},
        "left_out": [
            {"path": path, "reason": why} for path, why in dict(e for one in done for e in one.broken).items()
        ],
    }


@contextmanager
def _where(videos: int, device: Device, workers: int | None, out: Path) -> Iterator[Resources | None]:
    """The resources of a Ray that runs meanwhile, or None: few videos on a CPU are read in this process."""
    from bsp_platform.plan.device import choose_device, local_gpus, no_gpu_here
    from bsp_platform.work.own_videos import RAY_FROM, cluster_resources

    joins = bool(os.environ.get("RAY_ADDRESS"))
    gpus = 0 if device == "cpu" else local_gpus()
    if not joins:
        choose_device(device, gpus, no_gpu_here())  # refuses --device cuda
        if not gpus and (videos < RAY_FROM or workers == 1):
            yield None
            return
    import ray

    from bsp_platform.sweep.ray_log import RayLog
    from bsp_platform.work.cluster.start import cluster_size, start_ray

    joined = ray.is_initialized()
    say("starting Ray ..." if not joins else "joining the cluster ...", err=True)
    with RayLog(out / ".ray.log"):
        start_ray(cpus=workers, gpus=gpus)
        try:
            cpus, there = cluster_size()
            choose_device(device, there, "the cluster has no GPU; add a node with one")
            yield cluster_resources(cpus, 0 if device == "cpu" else there)
        finally:
            if not joined:
                ray.shutdown()


@click.command("compare-features", cls=FileCommand)
@click.argument("a", type=INPUT_FOLDER)
@click.argument("b", type=INPUT_FOLDER)
@click.option(
    "--tolerance",
    type=click.FloatRange(min=0),
    callback=not_nan,
    default=1e-5,
    show_default=True,
    help="Largest difference of equal values, as a share of a video's largest value.",
)
@_JSON
def compare_features(a: Path, b: Path, tolerance: float, as_json: bool) -> None:
    """Are the features in folders A and B on the same grid, and equal? How were they made differently?

    \b
    bsp compare-features FEATURES OTHERS

    Exit codes: 0 equal within the tolerance; 1 damaged or no features; 3 different.
    """
    from bsp.features.compare import compare_features as compare
    from bsp_platform.report.survey_lines import comparison_lines

    with progress_shown("comparing", "video") as show:
        found = compare(a, b, tolerance=tolerance, progress=show)
    if as_json:
        plain = asdict(found) | {"equal": found.equal, "same_grid": found.same_grid}
        plain["cosine"] = dict(zip(("min", "median"), found.cosine, strict=True))
        click.echo(json.dumps(_without_nan(plain), allow_nan=False))
    _say(comparison_lines(found, a, b), as_json)
    if not found.equal:
        raise click.exceptions.Exit(SOME_LEFT_OUT)


def _without_nan(value: Any) -> Any:
    """JSON has no nan: null instead."""
    if isinstance(value, dict):
        return {key: _without_nan(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(one) for one in value]
    return None if isinstance(value, float) and value != value else value
