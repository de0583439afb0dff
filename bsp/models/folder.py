"""Model folders: ``model.json`` and ``*.safetensors``, written whole, every file's size and SHA-256 checked on loading.

``model.json`` says how everything is put together and carries a SHA-256 of itself. Nothing is unpickled, and no name in
it leaves the folder. docs/models.md describes the fields.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from bsp.encoders.build import ENCODERS, build_encoder
from bsp.encoders.contract import Encoder
from bsp.errors import FileError
from bsp.features.interchange_files import refuse_existing
from bsp.features.reading import PAPER, Reading
from bsp.features.store import CODE_VERSION, encoder_hash
from bsp.files.text import read_json, safe_name
from bsp.io import atomic_path, write_json
from bsp.models.kept import (
    CLASSIFIER,
    HEAD,
    REMEDY,
    kept_json,
    kept_of,
    read_classifier,
    read_tensors,
    write_classifier,
    write_tensors,
)
from bsp.models.model import ENCODER, Model
from bsp.models.settings import read_settings, settings_json
from bsp.models.streams import FeatureStream
from bsp.tasks.heads import HEADS

FORMAT = 1
MODEL = "model.json"
_CHECK = "sha256"  # of model.json itself, without this field
_MOST_JSON = 256 * 2**20  # bytes
# What building a network from settings and facts of a file, whose types are checked but not their sense, can raise.
_MISFITS = (ValueError, RuntimeError, LookupError, TypeError, AttributeError, ArithmeticError, MemoryError)
_PLAIN = [f.name for f in fields(FeatureStream) if f.name not in ("encoder", "mean", "std", "provenance", "reading")]
_TYPES: dict[str, type[Any]] = {
    "kind": str, "head_streams": int, "classifier_stream": int, "streams": list, "provenance": dict, "files": dict,
}  # fmt: skip


def write_model(folder: str | os.PathLike[str], model: Model, *, float16: bool = False) -> None:
    """Write a model folder, complete or not at all. FileExistsError unless ``folder`` is free or empty.

    ``float16``: the weights of encoders and head in half of the bytes; ValueError if that would change one.
    """
    folder = Path(folder)
    refuse_existing(folder)
    with atomic_path(folder) as partial:
        partial.mkdir()
        document: dict[str, Any] = {
            "format": FORMAT,
            "kind": model.kind,
            "streams": [_write_stream(partial, number, stream, float16) for number, stream in enumerate(model.streams)],
            "head_streams": model.head_streams,
            "classifier_stream": model.classifier_stream,
            "provenance": model.provenance,
            "head": None,
        }
        if model.kept is not None:
            write_tensors(partial / f"{HEAD}.safetensors", model.kept.tensors, float16=float16)
            document["head"] = kept_json(model.kept)
        if model.classifier is not None:
            write_classifier(partial, model.classifier)
        document["files"] = {path.name: _facts(path) for path in sorted(partial.glob("*.safetensors"))}
        document = json.loads(json.dumps(document, allow_nan=False))  # as it will be read
        write_json(partial / MODEL, {**document, _CHECK: _own_hash(document)})


def load_model(path: str | os.PathLike[str], *, device: str = "cpu") -> Model:
    """The model in a folder, ready for videos, on ``device`` ("cpu", "cuda").

    FileError, naming file, value and remedy, for a folder that is incomplete, changed, damaged or of another version.
    """
    folder = Path(path)
    document, where = _document(folder), str(folder / MODEL)
    for name, facts in document["files"].items():
        _check_file(folder, name, facts)
    streams = tuple(
        _read_stream(folder, number, of, f"{where}: streams[{number}]", device)
        for number, of in enumerate(document["streams"])
    )
    kept = classifier = None
    if document.get("head") is not None:
        tensors = read_tensors(_listed(folder, f"{HEAD}.safetensors", document))
        kept = kept_of(document["head"], tensors, f"{where}: head")
    if f"{CLASSIFIER}.safetensors" in document["files"]:
        classifier = read_classifier(folder)
    kind = document["kind"]
    if kind != ENCODER and kind not in HEADS:
        raise FileError(f"{where}: kind is {kind!r:.80}, known are {', '.join([ENCODER, *HEADS])}; update the program")
    if kept is not None and kind in HEADS and type(kept.settings) is not HEADS[kind].settings:
        raise FileError(f"{where}: head: {type(kept.settings).__name__} are no settings of {kind!r}; {REMEDY}")
    try:
        model = Model(
            kind=kind,
            streams=streams,
            head_streams=document["head_streams"],
            kept=kept,
            classifier=classifier,
            classifier_stream=document["classifier_stream"],
            provenance=document["provenance"],
            device=device,
        )
        _ = model.applied  # the weights fit, or nothing is loaded
    except _MISFITS as error:
        raise FileError(f"{folder}: its parts do not fit together ({str(error)[:300]}); {REMEDY}") from None
    return model


def load_encoder(path: str | os.PathLike[str], *, stream: int = 0, device: str = "cpu") -> Encoder:
    """The encoder of one stream of a model folder: a plain ``nn.Module`` in evaluation mode.

    It takes float clips [B, T, 3, size, size], normalised by its ``mean`` and ``std``. Raises as :func:`load_model`,
    ValueError for a stream that is not there or was imported.
    """
    folder = Path(path)
    document, where = _document(folder), str(folder / MODEL)
    listed = document["streams"]
    if not 0 <= stream < len(listed):
        raise ValueError(f"{where}: has {len(listed)} streams, none is number {stream} (the first is 0)")
    file = listed[stream].get("file") if isinstance(listed[stream], dict) else None
    if isinstance(file, str) and file in document["files"]:
        _check_file(folder, file, document["files"][file])
    found = _read_stream(folder, stream, listed[stream], f"{where}: streams[{stream}]", device)
    if found.encoder is None:
        raise ValueError(f"{where}: stream {stream} was made from imported features; there is no encoder in the model")
    return found.encoder


def _document(folder: Path) -> dict[str, Any]:
    """The content of model.json, its parts of the right types."""
    path = folder / MODEL
    if not path.is_file():
        raise FileError(f"{folder}: not a model folder, it has no {MODEL}; give the folder that holds it")
    document = read_json(path, max_bytes=_MOST_JSON)
    version = document.get("format") if isinstance(document, dict) else None
    if not isinstance(document, dict) or version != FORMAT:
        raise FileError(f"{path}: format is {version!r:.80}, this program reads {FORMAT}; update the program")
    for name, kind in _TYPES.items():
        if type(document.get(name)) is not kind:
            raise FileError(f"{path}: {name} cannot be {document.get(name)!r:.80}; {REMEDY}")
    check = document.pop(_CHECK, None)
    if check != _own_hash(document):
        raise FileError(f"{path}: {_CHECK} is {check!r:.80}, not that of its content: it was changed; {REMEDY}")
    return document


def _own_hash(document: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _facts(path: Path) -> dict[str, Any]:
    with open(path, "rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _check_file(folder: Path, name: str, facts: object) -> None:
    path = folder / safe_name(name, folder / MODEL)
    if not path.is_file():
        raise FileError(f"{path}: missing, but {MODEL} lists it; {REMEDY}")
    found = _facts(path)
    if found != facts:
        raise FileError(f"{path}: is {found}, {MODEL} says {facts!r:.200}; it was changed or damaged: {REMEDY}")


def _listed(folder: Path, name: object, document: dict[str, Any]) -> Path:
    """The path of a file that model.json lists."""
    if not isinstance(name, str) or name not in document["files"]:
        raise FileError(f"{folder / MODEL}: needs the file {name!r:.80}, which it does not list; {REMEDY}")
    return folder / safe_name(name, folder / MODEL)


def _write_stream(folder: Path, number: int, stream: FeatureStream, float16: bool) -> dict[str, Any]:
    record: dict[str, Any] = {name: getattr(stream, name) for name in _PLAIN}
    record |= {"mean": list(stream.mean), "std": list(stream.std), "provenance": stream.provenance}
    if stream.reading != PAPER:
        record["reading"] = asdict(stream.reading)
    if stream.encoder is None:
        return {**record, "file": None, "settings": None}
    name = f"encoder{number}.safetensors"
    write_tensors(folder / name, stream.encoder.state_dict(), float16=float16)
    return {**record, "file": name, "settings": settings_json(stream.encoder.settings)}


def _read_stream(folder: Path, number: int, record: object, where: str, device: str) -> FeatureStream:
    numbers = {"feature_width": int, "snippet_frames": int, "stride_frames": int, "size_px": int, "code_version": int}
    kinds: dict[str, type[Any]] = {
        **numbers, "encoder_hash": str, "precision": str, "name": str, "mean": list, "std": list, "provenance": dict,
    }  # fmt: skip
    if not isinstance(record, dict) or any(type(record.get(name)) is not kind for name, kind in kinds.items()):
        found = {name: record.get(name) for name in kinds} if isinstance(record, dict) else record
        raise FileError(f"{where}: fields missing or of a wrong type: {found!r:.300}; {REMEDY}")
    if record["precision"] not in ("float32", "bfloat16"):
        raise FileError(f"{where}: precision is {record['precision']!r:.80}, not float32 or bfloat16; {REMEDY}")
    plain = {name: record[name] for name in _PLAIN}
    plain |= {"mean": tuple(record["mean"]), "std": tuple(record["std"]), "provenance": record["provenance"]}
    plain["reading"] = reading = _read_reading(record.get("reading", {}), where)
    if record.get("file") is None:
        return FeatureStream(encoder=None, **plain)
    if record["code_version"] != CODE_VERSION:
        raise FileError(
            f"{where}: features were made by version {record['code_version']} of the extraction, this program has "
            f"{CODE_VERSION}, whose features differ; use the program that made the model, or train again"
        )
    encoder = _read_encoder(folder, record, where)
    asked = (
        reading.width(encoder.feature_width),
        encoder.clip_frames,
        encoder.clip_frames,
        tuple(encoder.mean),
        tuple(encoder.std),
    )
    names = ("feature_width", "snippet_frames", "stride_frames", "mean", "std")
    for name, value in zip(names, asked, strict=True):
        if plain[name] != value:
            raise FileError(f"{where}: {name} is {plain[name]!r:.80}, of the encoder {value!r:.80}; {REMEDY}")
    if (found := encoder_hash(encoder, reading)) != record["encoder_hash"]:
        raise FileError(
            f"{where}: encoder_hash is {record['encoder_hash']:.80}, that of its weights and settings "
            f"{found}: it gives other features than it did; use the program that made the model"
        )
    return FeatureStream(encoder=encoder.to(device), **plain)


def _read_reading(record: object, where: str) -> Reading:
    """How snippets are read; of models that do not say, as in the paper."""
    try:
        return Reading(**record)  # type: ignore[arg-type]  # checked by the class
    except (TypeError, ValueError) as error:
        raise FileError(f"{where}: reading is {record!r:.80}: {error}; {REMEDY}") from None


def _read_encoder(folder: Path, record: dict[str, Any], where: str) -> Encoder:
    settings = read_settings(record.get("settings"), f"{where}: settings", tuple(ENCODERS))
    path = folder / safe_name(str(record["file"]), where)
    tensors = read_tensors(path)
    try:
        encoder = build_encoder(settings, 0)
        encoder.load_state_dict(tensors)
    except _MISFITS as error:
        raise FileError(f"{path}: not the weights of {settings.name} ({str(error)[:300]}); {REMEDY}") from None
    return encoder.eval()
