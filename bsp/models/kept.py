"""Trained heads and video classifiers as files: ``<name>.safetensors``, for heads with ``<name>.json`` beside it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from bsp.errors import FileError
from bsp.files.text import read_json
from bsp.files.weights import read_weights
from bsp.io import write_bytes, write_json
from bsp.localization.video_classifier import VideoClassifier, classifier_of
from bsp.models.settings import read_settings, settings_json
from bsp.tasks.head import Kept

HEAD, CLASSIFIER = "head", "classifier"
REMEDY = "copy the folder again, or make the model again"
_MOST_JSON = 256 * 2**20  # bytes; a vocabulary of a million words has 20 MB


def write_tensors(path: Path, tensors: Mapping[str, Tensor], *, float16: bool = False) -> None:
    """A safetensors file, complete or not at all.

    ``float16`` writes half of the bytes; ValueError if that would change a value (see :func:`as_float16`).
    """
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    if float16:
        halves = {name: tensor.half() for name, tensor in plain.items() if tensor.dtype == torch.float32}
        changed = [name for name, half in halves.items() if not torch.equal(half.float(), plain[name])]
        if changed:
            raise ValueError(f"{path}: {changed[:4]} have values that float16 does not; round them by as_float16 first")
        plain |= halves
    write_bytes(path, safetensors.torch.save(plain))


def as_float16(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors whose float32 values are rounded to those that float16 has, and still of their type."""
    return {name: of.half().to(of.dtype) if of.dtype == torch.float32 else of for name, of in tensors.items()}


def read_tensors(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The tensors of a safetensors file; float16 is widened to float32.

    FileError, naming it, if it is missing, damaged or not finite.
    """
    try:
        found = read_weights(path)
    except FileNotFoundError:
        raise FileError(f"{path}: no such file; {REMEDY}") from None
    if not isinstance(found, dict) or not all(isinstance(value, Tensor) for value in found.values()):
        raise FileError(f"{path}: not a list of tensors; {REMEDY}")
    broken = [k for k, value in found.items() if value.is_floating_point() and not bool(torch.isfinite(value).all())]
    if broken:
        raise FileError(f"{path}: values that are not finite in {broken[:4]}; {REMEDY}")
    return {name: of.float() if of.dtype == torch.float16 else of for name, of in found.items()}


def kept_json(kept: Kept) -> dict[str, Any]:
    """All of a kept head but its weights, as JSON types."""
    return {"settings": settings_json(kept.settings), "class_names": list(kept.class_names), "facts": kept.facts}


def kept_of(document: object, tensors: dict[str, Tensor], where: str) -> Kept:
    """The inverse of :func:`kept_json`. FileError, beginning with ``where``, for what it does not allow."""
    if not isinstance(document, dict) or not {"settings", "class_names", "facts"} <= set(document):
        raise FileError(f"{where}: needs settings, class_names and facts; {REMEDY}")
    names, facts = document["class_names"], document["facts"]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names) or not isinstance(facts, dict):
        raise FileError(f"{where}: class_names must be a list of texts, and facts an object; {REMEDY}")
    settings = read_settings(document["settings"], f"{where}: settings")
    return Kept(settings=settings, tensors=tensors, class_names=tuple(names), facts=facts)


def write_kept(folder: Path, kept: Kept) -> None:
    """``head.safetensors`` and ``head.json``."""
    write_tensors(folder / f"{HEAD}.safetensors", kept.tensors)
    write_json(folder / f"{HEAD}.json", kept_json(kept))


def read_kept(folder: Path) -> Kept:
    """What :func:`write_kept` wrote. FileError, naming the file, if it is missing or damaged."""
    path = folder / f"{HEAD}.json"
    tensors = read_tensors(folder / f"{HEAD}.safetensors")
    return kept_of(read_json(path, max_bytes=_MOST_JSON), tensors, str(path))


def write_classifier(folder: Path, classifier: VideoClassifier) -> None:
    """``classifier.safetensors``."""
    arrays = classifier.arrays()
    write_tensors(folder / f"{CLASSIFIER}.safetensors", {name: torch.from_numpy(of) for name, of in arrays.items()})


def read_classifier(folder: Path) -> VideoClassifier:
    """What :func:`write_classifier` wrote. FileError, naming the file, if it is missing or damaged."""
    path = folder / f"{CLASSIFIER}.safetensors"
    arrays: dict[str, np.ndarray] = {name: tensor.numpy() for name, tensor in read_tensors(path).items()}
    try:
        return classifier_of(arrays)
    except (KeyError, IndexError, ValueError) as error:
        raise FileError(f"{path}: not a video classifier ({error}); {REMEDY}") from None
