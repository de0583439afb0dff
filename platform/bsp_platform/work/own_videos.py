"""Features of anyone's videos with the encoders of a model folder (``bsp extract``), as an experiment's rows make them.

Choice: few videos on a CPU are read in this process; from RAY_FROM on, with a GPU, or on a cluster, Ray's actors read
them. Both make every forward pass of a video alike on a CPU, so the features are equal bit by bit.
"""

from __future__ import annotations

import csv
import io
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from bsp.errors import AnnotationError, FileError, TooManyBroken, most_broken
from bsp.features.store import read_feature_info
from bsp.files.text import read_table
from bsp.io import atomic_path, write_text
from bsp.models.folder import load_model, write_model
from bsp.models.model import ENCODER, Model
from bsp.models.streams import FeatureStream
from bsp.survey.listing import ListedVideo
from bsp_platform.plain_text import csv_cell, printable
from bsp_platform.plan.recipes import EncoderRecipe, FeatureRecipe
from bsp_platform.plan.resources import Resources
from bsp_platform.work.extraction import extract_on_cpus, is_extracted
from bsp_platform.work.extractor import ExtractionJob, Extractor
from bsp_platform.work.gpu_extraction import extract_on_gpus

log = logging.getLogger(__name__)
RAY_FROM = 16  # videos; fewer are done before a Ray would have started
MODEL = "model"  # the encoder's model folder inside the features folder
LIST = "videos.csv"  # which file each id is
COLUMNS = ("id", "path", "snippets", "problem", "bytes", "mtime_ns")
_WEIGHTS = ".weights.pt"  # while it runs


@dataclass(frozen=True, kw_only=True)
class Extracted:
    """What is in a features folder after an extraction."""

    folder: Path
    videos: int  # with complete features
    kept: int  # of them, from an earlier run
    snippets: int
    width: int
    broken: tuple[tuple[str, str], ...]  # (path, reason)


def feature_folders(model: Model, out: Path, stream: int | None = None) -> list[tuple[FeatureStream, Path]]:
    """Where the features of each stream go: ``out`` itself for one, ``out/1``, ``out/2``, ... for several.

    ``stream`` chooses one, from 1. ValueError for one that is not there, or has no encoder.
    """
    count = len(model.streams)
    if stream is not None and not 1 <= stream <= count:
        raise ValueError(f"--stream {stream}: the model has {count} streams, numbered from 1")
    chosen = list(range(count)) if stream is None else [stream - 1]
    for number in chosen:
        if model.streams[number].encoder is None:
            raise ValueError(
                f"stream {number + 1} of the model was made from imported features, so it has no encoder; extract with"
                " the program that made them, and bsp features import"
            )
    several = len(chosen) > 1
    return [(model.streams[number], out / str(number + 1) if several else out) for number in chosen]


def extract_videos(
    folder: Path,
    stream: FeatureStream,
    videos: Sequence[ListedVideo],
    *,
    resources: Resources | None,
    max_broken: float,
    report: Callable[[int, int, int], None] = lambda done, total, snippets: None,
) -> Extracted:
    """Features of the videos in ``folder`` as ``<id>.npy`` and ``<id>.json``, with ``model/`` and ``videos.csv``.

    ``resources``: of Ray, which must run; None = this process, on a CPU. Complete features of an unchanged file are
    kept. ``report`` gets videos done, all of them, and new snippets. Raises TooManyBroken, with the list, when more
    than ``max_broken`` (a share) of the videos cannot be read; FileError if the folder holds features made otherwise.
    """
    _claim(folder, stream)
    listed = _read_list(folder / LIST)
    kept = {video.video_id for video in videos if _is_done(folder, video, listed, stream)}
    todo = [video for video in videos if video.video_id not in kept]
    broken: dict[str, str] = {}
    snippets = 0
    for video in todo:  # of another file of this name, or of the same one before it changed
        for ending in (".json", ".npy"):
            (folder / f"{video.video_id}{ending}").unlink(missing_ok=True)
    _write_list(folder, videos, broken)
    report(len(kept), len(videos), 0)
    paths = {video.video_id: os.path.abspath(video.path) for video in videos}
    for number, row in enumerate(_rows(folder, stream, todo, resources), 1):
        name = str(row["video_id"])
        snippets += int(row["snippets"])
        if row["error"]:
            broken[name] = str(row["error"]).removeprefix(f"{paths[name]}: ")
        if len(broken) > most_broken(max_broken, len(videos)):
            _write_list(folder, videos, broken)
            lines = "\n  ".join(f"{paths[one]}: {why}" for one, why in list(broken.items())[:20])
            raise TooManyBroken(
                f"{len(broken)} of {len(videos)} videos cannot be read, more than --max-broken {max_broken:.0%}; repair"
                f" or remove them (bsp check names all), or allow more. What is done is kept in {folder}:\n  {lines}"
            )
        report(len(kept) + number, len(videos), snippets)
    _write_list(folder, videos, broken)
    done = [video for video in videos if video.video_id not in broken]
    return Extracted(
        folder=folder,
        videos=len(done),
        kept=len(kept),
        snippets=sum(read_feature_info(folder, video.video_id).snippets for video in done),
        width=stream.feature_width,
        broken=tuple((paths[name], why) for name, why in broken.items()),
    )


def _claim(folder: Path, stream: FeatureStream) -> None:
    """Write ``folder/model``, or check that it is this stream's."""
    place = folder / MODEL
    if place.exists():
        found = load_model(place).streams[0]
        for field in ("encoder_hash", "size_px", "precision", "snippet_frames"):
            ours, theirs = getattr(stream, field), getattr(found, field)
            if ours != theirs:
                raise FileError(
                    f"{folder}: holds features made otherwise ({field} {str(theirs)[:20]}, of this model"
                    f" {str(ours)[:20]}); choose another --out"
                )
        return
    if any(folder.glob("*.npy")):
        raise FileError(f"{folder}: holds features, and no {MODEL}/ that says how they were made; choose another --out")
    folder.mkdir(parents=True, exist_ok=True)
    write_model(place, Model(kind=ENCODER, streams=(stream,), provenance=stream.provenance))


def _is_done(folder: Path, video: ListedVideo, listed: dict[str, tuple[str, str]], stream: FeatureStream) -> bool:
    """Whether there are complete features of this encoder, of this file as it is now."""
    if listed.get(video.video_id) != (_text(os.path.abspath(video.path)), _stamp(video.path)):
        return False
    return is_extracted(folder, video.video_id, {"encoder_hash": stream.encoder_hash, "precision": stream.precision})


def _rows(
    folder: Path, stream: FeatureStream, videos: Sequence[ListedVideo], resources: Resources | None
) -> Iterator[dict[str, Any]]:
    """A row per video as it is finished: "video_id", "snippets", and "error" or ""."""
    if not videos:
        return
    assert stream.encoder is not None  # feature_folders looked
    weights = folder / _WEIGHTS
    # Choice: the actors read weights from a file as those of an experiment do; so there is one way to extract.
    with atomic_path(weights) as partial:
        torch.save({"encoder": {k: v.cpu() for k, v in stream.encoder.state_dict().items()}}, partial)
    recipe = FeatureRecipe(
        encoder=EncoderRecipe(encoder=stream.encoder.settings),
        untrimmed="",
        size_px=stream.size_px,
        precision=stream.precision,
        readout=stream.reading.readout,
        snippet_sampling=stream.reading.sampling,
    )
    job = ExtractionJob(recipe=recipe, weights=weights.absolute(), folder=folder.absolute())
    try:
        if resources is None:
            extractor = Extractor(job)
            for video in _absolute(videos):
                snippets, error = extractor.extract(video.video_id, video.path)
                yield {"video_id": video.video_id, "snippets": snippets, "error": error}
        elif resources.gpus_per_extractor:
            gpu_job = replace(job, gpus=resources.gpus_per_extractor)
            yield from extract_on_gpus(gpu_job, _absolute(videos), resources)
        else:
            few = replace(resources, extractors=min(resources.extractors, len(videos)))
            yield from extract_on_cpus(job, _absolute(videos), few)
    finally:
        weights.unlink(missing_ok=True)


def _absolute(videos: Sequence[ListedVideo]) -> list[ListedVideo]:
    return [replace(video, path=os.path.abspath(video.path)) for video in videos]


def cluster_resources(cpus: float, gpus: float) -> Resources:
    """Ray's whole size for the extraction: an actor per GPU and its share of the CPUs to decode, or one per CPU."""
    if gpus >= 1:
        actors = int(gpus)
        return Resources(
            extractors=actors,
            cpus_per_extractor=0.5,
            gpus_per_extractor=1.0,
            decoders_per_extractor=max(1, int((cpus - 0.5 * actors) / actors)),
            cpus_per_decoder=min(1.0, max(0.1, (cpus - 0.5 * actors) / actors)),
        )
    return Resources(extractors=max(1, int(cpus)), cpus_per_extractor=0.95)


def _stamp(path: str) -> str:
    try:
        status = os.stat(path)
    except OSError:
        return ""
    return f"{status.st_size},{status.st_mtime_ns}"


def _write_list(folder: Path, videos: Sequence[ListedVideo], broken: dict[str, str]) -> None:
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(COLUMNS)
    for video in videos:
        try:
            snippets: Any = read_feature_info(folder, video.video_id).snippets
        except (FileNotFoundError, ValueError):
            snippets = ""
        size, _, changed = _stamp(video.path).partition(",")
        problem = " ".join(broken.get(video.video_id, "").split())
        cells = [video.video_id, _text(os.path.abspath(video.path)), snippets, problem, size, changed]
        table.writerow([csv_cell(cell) for cell in cells])
    write_text(folder / LIST, text.getvalue())


def _read_list(path: Path) -> dict[str, tuple[str, str]]:
    """id -> (path, size and time of change) of an earlier run; what cannot be read is extracted again."""
    if not path.exists():
        return {}
    try:
        rows = [cells for _, cells in read_table(path, COLUMNS)]
    except AnnotationError as error:
        log.warning("%s; the videos are extracted again", error)
        return {}
    return {cells["id"].removeprefix("'"): (cells["path"], f"{cells['bytes']},{cells['mtime_ns']}") for cells in rows}


def _text(path: str) -> str:
    """A path as text: names that are not UTF-8, and control characters, escaped."""
    return printable(path.encode("utf-8", "backslashreplace").decode())
