"""Model folders in MLflow's registry: ``models:/NAME@ALIAS`` for ``bsp detect --model``, and a pyfunc for others.

A version is a copy of the folder, known by the hash of its ``model.json``: registered again, it is found, not copied.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from bsp.files.text import safe_name
from bsp.io import atomic_path
from bsp_platform.tracking.mlflow_store import MlflowStore, shown_uri

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

_HASH_TAG = "bsp.model"  # of a version: SHA-256 of its model.json
_ADDRESS = re.compile(r"models:/(?P<name>[^/@]+)(?:@(?P<alias>[^/@]+)|/(?P<number>\d+))")
_MODEL = "model.json"
_NEEDED = ("torch", "numpy", "safetensors")  # what a pyfunc needs beside this project


def registry(tracking_uri: str | None = None, home: Path = Path("mlflow")) -> MlflowStore:
    """The store whose registry is meant, as for experiments: ``tracking_uri``, else the variable MLFLOW_TRACKING_URI,
    else the SQLite file in ``home``."""
    return MlflowStore(tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or None, home)


def model_folder(text: str, tracking_uri: str | None = None, home: Path = Path("mlflow")) -> Path:
    """The model folder that ``text`` names: a path, or ``models:/NAME@ALIAS`` or ``models:/NAME/VERSION``.

    A folder on another machine is copied into ``home`` once. ValueError, with what there is, for a name, alias or
    version that the registry does not have, and for another address.
    """
    if not text.startswith("models:"):
        return Path(text)
    found = _ADDRESS.fullmatch(text)
    if found is None:
        raise ValueError(f"{text}: write models:/NAME@ALIAS or models:/NAME/VERSION")
    store = registry(tracking_uri, home)
    file = Path(store.uri.removeprefix("sqlite:///"))
    if store.uri.startswith("sqlite:///") and not file.is_file():  # else MLflow would make an empty one
        raise ValueError(f"{text}: there is no MLflow in {file.parent}; set MLFLOW_TRACKING_URI, or go to its folder")
    known = _version(store, text, **found.groupdict())
    places = sorted(path.parent for path in (_downloaded(store, known, home) / "data").glob(f"*/{_MODEL}"))
    if len(places) != 1:
        raise ValueError(f"{text}: version {known.version} holds no model folder of this program; register one")
    return places[0]


def _version(store: MlflowStore, text: str, name: str, alias: str | None, number: str | None) -> ModelVersion:
    from mlflow.exceptions import MlflowException

    try:
        if alias is not None:
            return store.client.get_model_version_by_alias(name, alias)
        return store.client.get_model_version(name, str(number))
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
    known = [
        f"models:/{model.name}@{alias}" for model in store.client.search_registered_models() for alias in model.aliases
    ]
    raise ValueError(
        f"{text}: not in the registry of {shown_uri(store.uri)}, which has {', '.join(known) or 'no models'}; "
        "bsp register adds one"
    )


def _downloaded(store: MlflowStore, known: ModelVersion, home: Path) -> Path:
    """Where MLflow's files of a version lie here; a local registry's are where they are."""
    from mlflow.artifacts import download_artifacts

    source = store.client.get_model_version_download_uri(known.name, known.version)
    if source.startswith("file:") or Path(source).is_dir():
        return Path(download_artifacts(artifact_uri=source))
    place = home / "models" / re.sub(r"[^\w.-]", "_", known.name) / str(known.version)
    if not (place / "MLmodel").is_file():
        place.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(place) as partial:
            partial.mkdir()
            download_artifacts(artifact_uri=source, dst_path=str(partial), tracking_uri=store.uri)
    return place


def register(
    folder: Path, name: str, alias: str = "", *, store: MlflowStore | None = None, run_id: str | None = None
) -> str:
    """Register a model folder under ``name``, as made by the run if given; the alias moves to it. Returns its address.

    ValueError if ``folder`` is no model folder or the name is not allowed.
    """
    store = store or registry()
    if not (folder / _MODEL).is_file():
        raise ValueError(f"{folder}: not a model folder, it has no {_MODEL}")
    if not re.fullmatch(r"[\w.+ -]+", name) or not re.fullmatch(r"[A-Za-z][\w-]*|", alias) or re.match(r"v\d+$", alias):
        raise ValueError(f"name {name!r}, alias {alias!r}: letters, digits, . + - and _; an alias is not v1, v2, ...")
    digest = hashlib.sha256((folder / _MODEL).read_bytes()).hexdigest()
    versions = store.client.search_model_versions(f"name = '{name}'")
    found = next((known for known in versions if known.tags.get(_HASH_TAG) == digest), None)
    number = found.version if found else _log(store, folder, name, digest, run_id)
    if alias:
        store.client.set_registered_model_alias(name, alias, str(number))
    return f"models:/{name}@{alias}" if alias else f"models:/{name}/{number}"


def _log(store: MlflowStore, folder: Path, name: str, digest: str, run_id: str | None) -> str:
    """Log the folder as a model of the run, or of a run of its own, and make it a version. Returns its number."""
    import mlflow
    from mlflow.entities import LoggedModelOutput, LoggedModelStatus
    from mlflow.exceptions import MlflowException

    from bsp_platform.tracking import pyfunc

    client, document = store.client, json.loads((folder / _MODEL).read_text("utf-8"))
    tags = {"kind": str(document["kind"]), _HASH_TAG: digest, "folder": folder.name}
    if run_id is None:
        run_id = client.create_run(store.experiment_id("models"), run_name=folder.name).info.run_id
        client.set_terminated(run_id)
    experiment_id = client.get_run(run_id).info.experiment_id
    logged = client.create_logged_model(
        experiment_id, name=re.sub(r"[^\w-]", "_", folder.name), source_run_id=run_id, tags=tags
    )
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        # MLflow copies what it is given twice: so it is given model.json, and the weights join as links.
        small, saved = Path(temporary) / folder.name, Path(temporary) / "saved"
        small.mkdir()
        shutil.copy(folder / _MODEL, small)
        mlflow.pyfunc.save_model(
            str(saved), loader_module=pyfunc.__name__, data_path=str(small), signature=pyfunc.signature(tags["kind"]),
            input_example=pyfunc.example(tags["kind"]), metadata=tags,
            pip_requirements=[f"{package}=={version(package)}" for package in _NEEDED],
        )  # fmt: skip
        for file in document["files"]:
            _link(folder / safe_name(file, folder / _MODEL), saved / "data" / folder.name / file)
        client.log_model_artifacts(logged.model_id, str(saved))
    client.finalize_logged_model(logged.model_id, LoggedModelStatus.READY)
    client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step=0)])
    with contextlib.suppress(MlflowException):  # it is there already
        client.create_registered_model(name)
    provenance = {key: text for key, text in document.get("provenance", {}).items() if isinstance(text, str | int)}
    made = client.create_model_version(
        name, logged.artifact_location, run_id, tags=tags, model_id=logged.model_id,
        description="\n".join(f"- {key}: {text}" for key, text in {"kind": tags["kind"], **provenance}.items()),
    )  # fmt: skip
    # As MLflow does for a version that it makes of a logged model: the run's page shows it as registered.
    versions = json.dumps([{"name": name, "version": int(made.version)}])
    client.set_logged_model_tags(logged.model_id, {"mlflow.modelVersions": versions})
    return str(made.version)


def _link(file: Path, to: Path) -> None:
    try:
        os.link(file, to)
    except OSError:
        shutil.copy(file, to)
