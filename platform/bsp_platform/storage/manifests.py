"""The manifest of a stage: which recipe it is of, its files with their sizes and hashes, and how it was made.

A manifest carries the SHA-256 of itself in "check" (those of earlier versions have none), so that a changed
digit anywhere in it is noticed, not only in the hash of a file.
"""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bsp.io import PARTIAL
from bsp_platform.storage.errors import StageDamaged, retry
from bsp_platform.storage.files import in_threads, sha256_once
from bsp_platform.storage.names import leaving_link, stays_inside

MANIFEST = "manifest.json"
RUN = "_train"  # Ray Train's folder inside an encoder's
PROGRESS = "_progress.json"  # progress of the training of a head
SCRATCH = (RUN, PROGRESS)  # whole names: a video id, and so a feature file, may begin with "_"
FILES = "files"  # in the facts of a build: names of files that must exist at its end
_CHECK = "check"
_NAMED = 5  # damaged files that a message lists


def as_plain(value: object) -> Any:
    """A recipe as JSON types: dataclasses become dicts that carry their class name."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: as_plain(getattr(value, f.name)) for f in dataclasses.fields(value) if _counts(value, f)}
        return {"recipe": type(value).__name__, **fields}
    if isinstance(value, enum.Enum):
        return value.name
    if isinstance(value, (tuple, list)):
        return [as_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): as_plain(item) for key, item in value.items()}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"a recipe cannot hold {value!r} ({type(value).__name__})")


def _counts(value: object, field: dataclasses.Field) -> bool:
    """Fields marked "later" are newer than some results: at their default they must not change the hash."""
    return not field.metadata.get("later") or getattr(value, field.name) != field.default


def recipe_hash(recipe: object) -> str:
    """16 hex digits of the SHA-256 of the recipe's canonical JSON."""
    return plain_hash(as_plain(recipe))


def plain_hash(plain: object) -> str:
    """The same of a recipe that is JSON already, as it stands in manifests."""
    return _sha256_of(plain)[:16]


def _sha256_of(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def is_scratch(name: str) -> bool:
    """Whether a file of a stage's folder only serves to continue the stage."""
    return name.split("/")[0] in SCRATCH


def belongs(name: str) -> bool:
    """Whether a file of a stage's folder is part of its result: neither scratch nor incomplete."""
    return not is_scratch(name) and not name.endswith(PARTIAL) and name != MANIFEST


def result_files(folder: Path) -> list[str]:
    """Names of all files that belong to the result, relative to the folder, sorted.

    StageDamaged for a name that no manifest may hold, and for a link out of the folder.
    """
    files = (path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file())
    names = [name for name in files if belongs(name)]
    for name in names:
        if not stays_inside(name) or leaving_link(folder, name):
            raise StageDamaged(f"{folder / name}: such a name, or a link out of the folder, cannot be kept", (name,))
    return names


def describe(folder: Path, names: list[str]) -> dict[str, dict[str, Any]]:
    """By name, "bytes" and "sha256" of files in the folder."""

    def facts(name: str) -> dict[str, Any]:
        path = folder / name
        return {"bytes": retry(path.stat, path).st_size, "sha256": sha256_once(path)}

    return dict(zip(names, in_threads(facts, names), strict=True))


def make_manifest(recipe: object, files: dict, facts: dict[str, Any], seconds: float) -> dict[str, Any]:
    """The content of a stage's manifest, as JSON will have it, with its own checksum."""
    made = datetime.now(UTC).isoformat(timespec="seconds")
    content = {"recipe": as_plain(recipe), "files": files, "seconds": seconds, "made": made, "facts": facts}
    content = json.loads(json.dumps(content))  # as it will be read
    return {**content, _CHECK: _sha256_of(content)}


def parse_manifest(text: bytes, where: str | Path, recipe: object = None) -> dict[str, Any]:
    """The manifest in ``text``. StageDamaged if it is not whole, not as written, or not that of ``recipe``."""
    try:
        manifest = json.loads(text)
        check = manifest.pop(_CHECK, None)
        whole = all(key in manifest for key in ("recipe", "files", "seconds", "facts"))
        whole = whole and isinstance(manifest["facts"], dict) and isinstance(manifest["seconds"], int | float)
        for facts in manifest["files"].values():
            whole = whole and isinstance(facts["bytes"], int) and isinstance(facts["sha256"], str)
        unchanged = check is None or check == _sha256_of(manifest)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        whole = False
    if not whole:
        raise StageDamaged(f"{where} is not a whole manifest", (MANIFEST,))
    outside = next((name for name in manifest["files"] if not stays_inside(name)), None)
    if outside is not None:
        raise StageDamaged(
            f"{where} names {outside!r}, which is no file of its folder; it is not used (docs/storage.md says who must "
            f"be trusted)",
            (MANIFEST,),
        )
    if not unchanged:
        raise StageDamaged(f"{where} is damaged (it is not as it was written)", (MANIFEST,))
    if recipe is not None and manifest["recipe"] != json.loads(json.dumps(as_plain(recipe))):
        raise StageDamaged(f"{where} belongs to another recipe", (MANIFEST,))
    return manifest


def check_sizes(folder: Path, files: dict[str, dict]) -> None:
    """StageDamaged, naming them, if files of the manifest are missing, have another size, or lie elsewhere."""
    _refuse(folder, {name: wrong for name, facts in files.items() if (wrong := _wrong_size(folder, name, facts))})


def check_content(folder: Path, files: dict[str, dict]) -> None:
    """As :func:`check_sizes`, and every SHA-256; a file that was checked in this process is not read again."""

    def wrong(name: str) -> str | None:
        path, facts = folder / name, files[name]
        return _wrong_size(folder, name, facts) or (
            None if sha256_once(path) == facts["sha256"] else "is damaged: its SHA-256 differs from its manifest's"
        )

    found = zip(files, in_threads(wrong, files), strict=True)
    _refuse(folder, {name: text for name, text in found if text})


def _wrong_size(folder: Path, name: str, facts: dict) -> str | None:
    path = folder / name
    if leaving_link(folder, name):
        return "is reached by a link that leaves the folder"
    try:
        size = retry(path.stat, path).st_size
    except FileNotFoundError:
        size = None
    return None if size == facts["bytes"] else f"has {size} bytes, its manifest says {facts['bytes']}"


def _refuse(folder: Path, wrong: dict[str, str]) -> None:
    if not wrong:
        return
    listed = [f"{folder / name} {text}" for name, text in wrong.items()]
    more = f" and {len(listed) - _NAMED} more files" if len(listed) > _NAMED else ""
    raise StageDamaged("; ".join(listed[:_NAMED]) + more, tuple(wrong))
