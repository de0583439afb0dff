"""Heads on stages: features read and checked against their manifests, results written as the files of a stage.

Heads themselves are in bsp/tasks. The sweep calls these functions as Ray tasks with the planned resources.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bsp.datasets.activitynet import LocalizationDataset
from bsp.datasets.class_scores import read_class_scores
from bsp.features.interchange import uniform_record
from bsp.features.record import FeatureInfo
from bsp.features.streams import concatenate_streams
from bsp.localization.grounding.words import WordVectors
from bsp.models.folder import MODEL, load_model, write_model
from bsp.models.kept import CLASSIFIER, HEAD, read_classifier, read_kept, write_classifier, write_kept
from bsp.models.model import Model
from bsp.models.streams import FeatureStream, imported_stream
from bsp.tasks.class_scores import class_scores_document, classify_videos
from bsp.tasks.head import ClassScores, Features, Head, HeadInputs, Sentences, no_class_scores, run_head
from bsp_platform.plan.recipes import AnyHeadRecipe, GroundingRecipe
from bsp_platform.storage.errors import retry
from bsp_platform.storage.files import write_json
from bsp_platform.storage.manifests import PROGRESS
from bsp_platform.work.listed_features import has_features, read_listed

CLASS_SCORES = "class_scores.json"
Expected = dict[str, int | str]  # fields of the features' records and what they must be


def listed(folders: Sequence[Path], expect: Expected | None = None) -> Features:
    """The features in ``folders``, streams concatenated; a video needs features in all of them.

    Reading raises StageDamaged for features that are lost or changed since their manifest, or a stage without
    manifest, and ValueError where a record is not what ``expect`` says.
    """

    def read(video_id: str) -> tuple[np.ndarray, FeatureInfo] | None:
        if not all([has_features(folder, video_id) for folder in folders]):
            return None
        return concatenate_streams([read_listed(folder, video_id, expect) for folder in folders])

    return Features(read, str(folders[0]))


def make_class_scores(
    folder: Path,
    features: Path,
    data: LocalizationDataset,
    expect: Expected,
    subsets: tuple[str, str] = ("training", "validation"),
) -> dict[str, float]:
    """Train the shared video classifier on the first of ``subsets``; write it and the scores of the second's videos."""
    found = classify_videos(listed([features], expect), data, subsets)
    write_json(folder / CLASS_SCORES, class_scores_document(data.class_names, found.scores))
    retry(lambda: write_classifier(folder, found.classifier), folder)
    return {"accuracy": found.accuracy}


def convert_class_scores(folder: Path, given: Path, data: LocalizationDataset, subset: str) -> dict[str, Any]:
    """The scores of a published classification result for the videos of one subset, as a stage's file."""
    videos = [video.video_id for video in data.videos if video.subset == subset]
    scores = read_class_scores(given, data.class_names, videos)
    write_json(folder / CLASS_SCORES, class_scores_document(data.class_names, scores))
    return {"file": given.name, "videos": len(scores)}


def train_and_score(
    folder: Path,
    head: Head[Any, Any, Any],
    recipe: AnyHeadRecipe,
    features: Sequence[Path],
    class_scores: Path | None,
    data: object,
    *,
    expect: Expected,
    subsets: tuple[str, str] = ("training", "validation"),
    glove: WordVectors | None = None,
    device: str = "cpu",
) -> dict[str, Any]:
    """Run ``head`` with the settings of ``recipe`` on the ``features`` of all its streams, as :func:`run_and_write`."""
    sentences = Sentences()
    if isinstance(recipe, GroundingRecipe):
        sentences = Sentences(
            vectors=glove, width=recipe.word_width, blind=recipe.blind, held_out_every=recipe.held_out_every
        )
    inputs = HeadInputs(
        features=listed(features, expect),
        data=data,
        settings=recipe.head,
        subsets=subsets,
        seed=recipe.seed,
        device=device,
        class_scores=scores_in(class_scores),
        sentences=sentences,
    )
    return run_and_write(folder, head, inputs)


def scores_in(path: Path | None) -> ClassScores:
    """The class scores in the file; without a file a function that refuses."""
    return no_class_scores if path is None else partial(read_class_scores, path)


def stream_of_features(folder: Path, record: FeatureInfo) -> FeatureStream:
    """The encoder that made the features in ``folder``, from the model beside them (``bsp extract`` leaves one).

    Without one, as of imported features, a stream without encoder. ValueError if the model made other features than
    the ``record`` says.
    """
    if not (folder / "model" / MODEL).is_file():
        return imported_stream(record, folder.name)
    stream = load_model(folder / "model").streams[0]
    if stream.encoder_hash != record.encoder_hash:
        raise ValueError(
            f"{folder / 'model'}: is the encoder {stream.encoder_hash[:12]}, but the features beside it were made by "
            f"{record.encoder_hash:.12}; extract them again"
        )
    return stream


def streams_of_features(folders: Sequence[Path]) -> list[FeatureStream]:
    """As :func:`stream_of_features`, of each folder."""
    return [stream_of_features(folder, uniform_record(folder)[1]) for folder in folders]


def write_trained_model(
    folder: Path, kind: str, streams: Sequence[FeatureStream], provenance: Mapping[str, Any]
) -> Model | None:
    """Turn the files of a trained head in ``folder`` (:func:`run_and_write`, :func:`make_class_scores`) into those of a
    model folder, beside its results. None for a head that cannot be kept."""
    if not (folder / f"{HEAD}.json").is_file():
        return None
    made = (folder / f"{CLASSIFIER}.safetensors").is_file()
    model = Model(
        kind=kind,
        streams=tuple(streams),
        head_streams=len(streams),
        kept=read_kept(folder),
        classifier=read_classifier(folder) if made else None,
        provenance=dict(provenance),
    )
    (folder / f"{HEAD}.json").unlink()  # model.json holds it
    whole = folder / "whole"
    write_model(whole, model)
    for path in sorted(whole.iterdir()):
        path.replace(folder / path.name)
    whole.rmdir()
    return model


def run_and_write(
    folder: Path,
    head: Head[Any, Any, Any],
    inputs: HeadInputs[Any, Any],
    *,
    threads: int = 1,
    show: Callable[[int, int, Mapping[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """Run a head; its facts. Writes predictions, scores in percent, the training history and the trained head (files of
    :func:`bsp.models.kept.write_kept`) into ``folder``.

    After every epoch the progress is written there (``PROGRESS``), and ``show`` gets epochs done, all, and the entry.
    """
    torch.set_num_threads(threads)
    epochs, passed = getattr(inputs.settings, "epochs", 1), itertools.count(1)

    def on_epoch(entry: dict[str, Any]) -> None:
        at = next(passed)
        write_json(folder / PROGRESS, {"at": at, "total": epochs, "loss": entry["loss"]})
        if show is not None:
            show(at, epochs, entry)

    done = run_head(head, replace(inputs, on_epoch=on_epoch))
    for name, document in done.documents.items():
        write_json(folder / name, document)
    if (kept := done.kept) is not None:
        retry(lambda: write_kept(folder, kept), folder)
    return done.facts
