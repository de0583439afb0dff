"""Model folders of finished rows: ``<row>-seed<k>[-<head>]``, assembled from the stages, beside the tables.

A folder that is there and belongs to the same weights is left alone. Equal files of several folders (the encoder that
gives all rows their classes) are one file on disk, by hard links.
"""

from __future__ import annotations

import functools
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bsp.errors import FileError
from bsp.files.text import read_json, safe_name
from bsp.io import atomic_path
from bsp.models.folder import MODEL, write_model
from bsp.models.kept import CLASSIFIER, HEAD, read_classifier, read_kept
from bsp.models.model import Model
from bsp.models.streams import FeatureStream, stream_of
from bsp.tasks.heads import HEADS
from bsp_platform.plan.profiles import Profile
from bsp_platform.plan.recipes import AnyHeadRecipe, ClassScoresRecipe, EncoderRecipe, FeatureRecipe
from bsp_platform.plan.rows import Cell, Experiment, RowRecipes
from bsp_platform.plan.sources import Sources
from bsp_platform.report.tables import commit
from bsp_platform.storage.files import sha256_once
from bsp_platform.storage.manifests import as_plain, recipe_hash
from bsp_platform.storage.stages import StageStore
from bsp_platform.work.pretraining import WEIGHTS, load_encoder

_FRESH = "--fresh makes its stages anew, and the model with them"


class NoModel(Exception):
    """Why a row has no model folder."""


@dataclass(frozen=True)
class RowModels:
    """What :func:`write_row_models` did."""

    folders: dict[tuple[str, int, str], Path]  # by row, seed and task; also those that were there
    made: int  # how many of them are new
    notes: tuple[str, ...]  # a line for each row without a model, or with one that lacks something


def write_row_models(
    experiment: Experiment,
    profile: Profile,
    sources: Sources,
    store: StageStore,
    recipes: Mapping[Cell, RowRecipes],
    folder: Path,
) -> RowModels:
    """Make the model folders that ``folder`` lacks, of every row and seed whose heads are in the store."""
    facts = {"experiment": experiment.name, "profile": profile.name, **_versions()}
    labels = {row.name: row.label for row in experiment.rows}
    stream = functools.lru_cache(maxsize=4)(functools.partial(_stream, store))
    folders: dict[tuple[str, int, str], Path] = {}
    made, notes = 0, []
    for (row, seed), of_row in recipes.items():
        if not of_row.finished(store):
            continue
        for task, head in of_row.heads.items():
            more = f"-{task}" if len(of_row.heads) > 1 else ""
            path = folder / safe_name(f"{row}-seed{seed}{more}", "a row's model")
            data = of_row.tasks[task].data.name
            prints = {"name": data, "videos": sources.videos_prints[data], "annotations": sources.labels_prints[data]}
            about = {**facts, "row": labels.get(row, row), "seed": seed, "task": task, "data": prints}
            about["licence"] = licence(head, data, rendered=profile.pantomime is not None)
            try:
                stages = _stages(store, head)
                if not _is_of(path, stages):
                    model = _model(of_row, task, head, store, stream, {**about, "stages": stages})
                    _replace(path, model)
                    made += 1
                folders[row, seed, task] = path
                if getattr(head, "class_scores", None) is not None and CLASSIFIER not in stages:
                    notes.append(f"{path.name}: detections without a class, as there is no classifier in the storage")
            except (NoModel, FileError) as error:
                notes.append(f"no model of {row} seed {seed}, {task}: {error}")
    return RowModels(folders, made, tuple(notes))


@dataclass(frozen=True)
class BestModel:
    """The model of the highest score of a table."""

    cell: Cell
    task: str
    folder: Path
    headline: str  # the score: an average if the table has one


def best_model(
    columns: Sequence[str], scores: Mapping[Cell, Mapping[str, float]], folders: Mapping[tuple[str, int, str], Path]
) -> BestModel | None:
    """``folders``: by row, seed and task. None without a model."""
    headline = next((name for name in columns if name.endswith("avg")), columns[0])
    ranked = sorted((cell for cell in scores if headline in scores[cell]), key=lambda cell: -scores[cell][headline])
    for cell in ranked:
        for (row, seed, task), folder in folders.items():
            if (row, seed) == cell:
                return BestModel(cell, task, folder, headline)
    return None


def _versions() -> dict[str, str]:
    return {"bsp": version("bsp-platform"), "commit": commit(), "torch": version("torch")}


def licence(head: AnyHeadRecipe, data: str, *, rendered: bool) -> str:
    """Under which terms the weights may be used, as far as the program knows."""
    if rendered:
        return "Apache-2.0: trained on videos that this project renders"
    encoders = {encoder for stream in head.streams for encoder in (stream.encoder, *stream.encoder.teachers)}
    begun = sorted({name for encoder in encoders for name in (encoder.weights, encoder.start) if name})
    given = f", and from the weights {', '.join(name[:12] for name in begun)}" if begun else ""
    return f"not stated: made from the data given for {data} and for pre-training{given}, whose terms hold"


def _stages(store: StageStore, head: AnyHeadRecipe) -> dict[str, str]:
    """What a model is made of: hashes of recipes and, as --fresh keeps those, of the trained weights."""
    folder = store.find("heads", head)
    if folder is None or not (folder / f"{HEAD}.safetensors").is_file():
        raise NoModel(f"an earlier version trained it and kept no weights of its head; {_FRESH}")
    found = {"head recipe": recipe_hash(head), HEAD: sha256_once(folder / f"{HEAD}.safetensors")}
    for number, stream in enumerate(head.streams):
        found[f"features {number + 1}"] = recipe_hash(stream)
    scores = getattr(head, "class_scores", None)
    if scores is not None:
        found["class scores"] = recipe_hash(scores)
        path = (store.find("class_scores", scores) or folder) / f"{CLASSIFIER}.safetensors"
        if isinstance(scores, ClassScoresRecipe) and path.is_file():
            found[CLASSIFIER] = sha256_once(path)
    return found


def _is_of(path: Path, stages: Mapping[str, str]) -> bool:
    """Whether the folder holds a model of these stages, all of its files with their size."""
    try:
        document = read_json(path / MODEL)
        sizes = {name: facts["bytes"] for name, facts in document["files"].items()}
        whole = all((path / safe_name(name, path)).stat().st_size == size for name, size in sizes.items())
        return whole and bool(sizes) and document["provenance"]["stages"] == stages
    except (FileError, OSError, KeyError, TypeError, AttributeError):
        return False


def _stream(store: StageStore, recipe: FeatureRecipe) -> FeatureStream:
    """The encoder of features, as extraction uses it."""
    folder = store.find("encoders", recipe.encoder)
    if folder is None:
        raise NoModel(f"its encoder {recipe.encoder.name} is no longer in the storage; {_FRESH}")
    weights = store.read_checked(store.need("features", recipe) if recipe.statistics else folder, WEIGHTS)
    encoder = load_encoder(weights, EncoderRecipe(encoder=recipe.encoder.encoder.for_snippets()))
    provenance = {"recipe": as_plain(recipe.encoder), "recipe_hash": recipe_hash(recipe.encoder)}
    return stream_of(
        encoder,
        size_px=recipe.size_px,
        precision=recipe.precision,
        name=recipe.encoder.name,
        provenance=provenance | ({"statistics": recipe.statistics} if recipe.statistics else {}),
        reading=recipe.reading,
    )


def _model(
    recipes: RowRecipes, task: str, head: AnyHeadRecipe, store: StageStore, stream: Any, provenance: dict[str, Any]
) -> Model:
    record = recipes.tasks[task].head
    kind = next((name for name, known in HEADS.items() if known is record), None)
    if kind is None:
        raise NoModel(f"its head {record.title} has no name in HEADS (bsp/tasks/heads.py)")
    kept = read_kept(store.need("heads", head))
    streams = [stream(recipe) for recipe in head.streams]
    classifier, reads = None, 0
    scores = getattr(head, "class_scores", None)
    if CLASSIFIER in provenance["stages"] and isinstance(scores, ClassScoresRecipe):
        classifier = read_classifier(store.need("class_scores", scores))
        places = [place for place, recipe in enumerate(head.streams) if recipe == scores.features]
        reads = places[0] if places else len(streams)
        streams += [] if places else [stream(scores.features)]
    try:
        return Model(
            kind=kind, streams=tuple(streams), head_streams=len(head.streams), kept=kept, classifier=classifier,
            classifier_stream=reads, provenance=provenance,
        )  # fmt: skip
    except ValueError as error:  # stages that were made anew one by one
        raise NoModel(f"its stages do not fit together ({error}); {_FRESH}") from None


def _replace(path: Path, model: Model) -> None:
    """Write the folder, in place of one of other weights."""
    if path.exists():
        if not (path / MODEL).is_file() and any(path.iterdir()):
            raise NoModel(f"{path} holds other things; move them away")
        shutil.rmtree(path)
    write_model(path, model)
    known: dict[tuple[int, str], Path] = {}
    for other in sorted(path.parent.glob(f"*/{MODEL}")):
        if other.parent != path:
            known |= {(facts["bytes"], facts["sha256"]): other.parent / name for name, facts in _files(other.parent)}
    for name, facts in _files(path):
        twin = known.get((facts["bytes"], facts["sha256"]))
        if twin is not None and sha256_once(twin) == facts["sha256"]:
            _link(twin, path / name)


def _files(folder: Path) -> list[tuple[str, dict[str, Any]]]:
    try:
        return [
            (name, facts) for name, facts in read_json(folder / MODEL)["files"].items() if (folder / name).is_file()
        ]
    except (FileError, KeyError, TypeError, AttributeError):
        return []


def _link(twin: Path, path: Path) -> None:
    """Make ``path`` the same file as its ``twin``, where the file system can."""
    try:
        with atomic_path(path) as partial:
            os.link(twin, partial)
    except OSError:
        return  # as it was, a file of its own
