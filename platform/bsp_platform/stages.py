"""Content-addressed results: find, claim, publish.

What is expensive to make (an encoder, a feature set, a trained head) is a *stage*. Its *recipe*, a frozen
dataclass of all that decides the result, is hashed, and the hash names the stage's folder:
``<storage>/<kind>/<hash>``. A stage is complete when its manifest exists, names this recipe, and every file
in it has the recorded size. A claim is a lock that the operating system frees when its holder dies, so two
processes never make the same stage and nobody waits for a dead one.
"""

from __future__ import annotations

import dataclasses
import enum
import errno
import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

log = logging.getLogger(__name__)
MANIFEST = "manifest.json"


class StorageFull(RuntimeError):
    """The disk is full. What is complete stays; the same command continues once there is room."""


class StageDamaged(RuntimeError):
    """A file of a complete stage does not match its manifest."""


def as_plain(value: Any) -> Any:
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


def _counts(value: Any, field: dataclasses.Field) -> bool:
    """Fields marked "later" came when results existed: at their default they must not change old hashes."""
    return not field.metadata.get("later") or getattr(value, field.name) != field.default


def recipe_hash(recipe: Any) -> str:
    """16 hex digits of the SHA-256 of the recipe's canonical JSON."""
    text = json.dumps(as_plain(recipe), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def file_sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: Path, value: Any) -> None:
    """Write JSON so that readers see the old file or the whole new one."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    partial.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n")
    partial.replace(path)


class StageStore:
    """The stages under one storage folder (local disk or a shared file system with locks, such as NFS 4)."""

    def __init__(self, root: str | Path):
        self.root = Path(root).expanduser().resolve()
        try:
            self.root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(f"cannot use {self.root} as --storage: {error.strerror}") from error

    def folder(self, kind: str, recipe: Any) -> Path:
        return self.root / kind / recipe_hash(recipe)

    def find(self, kind: str, recipe: Any) -> Path | None:
        """The folder of a complete stage, or None. Damage is named in the log and counts as absent."""
        folder = self.folder(kind, recipe)
        try:
            self.check(folder, recipe)
        except FileNotFoundError:
            return None
        except StageDamaged as error:
            log.warning("%s; it will be made again", error)
            return None
        return folder

    def check(self, folder: Path, recipe: Any) -> dict:
        """The manifest of a complete stage. FileNotFoundError without one, StageDamaged if files differ."""
        manifest_path = folder / MANIFEST
        text = manifest_path.read_text()
        try:
            manifest = json.loads(text)
            files = manifest["files"]
        except (ValueError, KeyError, TypeError):
            raise StageDamaged(f"{manifest_path} is not a whole manifest") from None
        if manifest["recipe"] != json.loads(json.dumps(as_plain(recipe))):
            raise StageDamaged(f"{manifest_path} belongs to another recipe")
        for name, facts in files.items():
            path = folder / name
            size = path.stat().st_size if path.exists() else None
            if size != facts["bytes"]:
                raise StageDamaged(f"{path} has {size} bytes, its manifest says {facts['bytes']}")
        return manifest

    def read_checked(self, folder: Path, name: str) -> Path:
        """The path of a stage's file after comparing its SHA-256 with the manifest."""
        facts = json.loads((folder / MANIFEST).read_text())["files"][name]
        path = folder / name
        if file_sha256(path) != facts["sha256"]:
            raise StageDamaged(f"{path} is damaged (SHA-256 differs from its manifest); remove {folder}")
        return path

    @contextmanager
    def claim(self, folder: Path, on_wait: Callable[[], None] | None = None) -> Iterator[None]:
        """Hold the right to make the stage in ``folder``; ``on_wait`` is called once a second while waiting."""
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(str(folder) + ".lock")
        while True:
            try:
                lock.acquire(timeout=1)
                break
            except Timeout:
                if on_wait:
                    on_wait()
        try:
            yield
        finally:
            lock.release()

    def ensure(
        self,
        kind: str,
        recipe: Any,
        build: Callable[[Path], dict[str, Any] | None],
        *,
        on_wait: Callable[[], None] | None = None,
    ) -> tuple[Path, bool]:
        """The folder of the stage, made by ``build(folder)`` if need be, and whether it was found.

        ``build`` may find its own half-done work in the folder and continue it; it returns extra facts for
        the manifest. All files in the folder when it returns are recorded, except names starting with "_".
        """
        found = self.find(kind, recipe)
        if found:
            return found, True
        folder = self.folder(kind, recipe)
        with self.claim(folder, on_wait):
            found = self.find(kind, recipe)
            if found:
                return found, True
            began = time.time()
            with named_disk_full(self.root):
                folder.mkdir(parents=True, exist_ok=True)
                facts = build(folder) or {}
                self._publish(folder, recipe, facts, time.time() - began)
        return folder, False

    def _publish(self, folder: Path, recipe: Any, facts: dict[str, Any], seconds: float) -> None:
        files = {}
        for path in sorted(folder.rglob("*")):
            name = path.relative_to(folder).as_posix()
            if path.is_file() and not name.startswith("_") and name != MANIFEST:
                files[name] = {"bytes": path.stat().st_size, "sha256": file_sha256(path)}
        made = datetime.now(UTC).isoformat(timespec="seconds")
        manifest = {
            "recipe": as_plain(recipe),
            "files": files,
            "seconds": seconds,
            "made": made,
            "facts": facts,
        }
        write_json(folder / MANIFEST, manifest)

    def facts(self, folder: Path) -> dict:
        """What the stage's builder recorded, and "seconds" it took."""
        manifest = json.loads((folder / MANIFEST).read_text())
        return {**manifest["facts"], "seconds": manifest["seconds"]}

    def put_aside(self, kind: str, recipe: Any) -> Path | None:
        """Move a stage (complete or not) to ``replaced/`` so that it is made anew; nothing is deleted."""
        folder = self.folder(kind, recipe)
        if not folder.exists():
            return None
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%f")
        target = self.root / "replaced" / stamp / kind / folder.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(folder, target)
        return target


@contextmanager
def named_disk_full(root: Path) -> Iterator[None]:
    """Turn "no space left on device" into a :class:`StorageFull` that names the folder and the remedy."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        free = shutil.disk_usage(root).free
        raise StorageFull(
            f"no space left under {root} ({free / 1e6:.0f} MB free). What is finished is kept: free some "
            f"space, or move the folder and pass --storage, and run the same command again"
        ) from error
