"""Content-addressed results: find, claim, publish.

What is expensive to make (an encoder, a feature set, a trained head) is a *stage*. Its *recipe*, a frozen
dataclass of all that decides the result, is hashed, and the hash names the stage's folder:
``<storage>/<kind>/<hash>``. A stage is complete when its manifest exists, names this recipe, and every file
in it has the recorded size and SHA-256. A claim is a lock that ends with its holder, so two processes never
make the same stage and nobody waits for a dead one.

The storage is a folder that all nodes see, or ``s3://bucket/prefix``. With the latter every node keeps copies
in a folder of its own, under the same names (``BSP_CACHE``, ``~/.cache/bsp``): callers get local paths either
way. What S3 holds is the truth; a copy is compared with its manifest before it is used, and may be deleted.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bsp_platform.storage import leases
from bsp_platform.storage.errors import (
    StageDamaged,
    StorageFull,
    StorageUnavailable,
    UnsafeName,
    named_disk_full,
    retry,
)
from bsp_platform.storage.files import file_lock, file_sha256, in_threads, sha256_once, write_json, write_whole
from bsp_platform.storage.manifests import (
    FILES,
    MANIFEST,
    SCRATCH,
    as_plain,
    belongs,
    check_content,
    check_sizes,
    describe,
    is_scratch,
    make_manifest,
    parse_manifest,
    recipe_hash,
    result_files,
)
from bsp_platform.storage.names import leaving_link
from bsp_platform.storage.s3 import THREADS, Bucket, is_address

__all__ = [
    "MANIFEST", "StageDamaged", "StageStore", "StorageFull", "StorageUnavailable", "Stored", "as_plain",
    "file_sha256", "named_disk_full", "recipe_hash", "write_json",
]  # fmt: skip
log = logging.getLogger(__name__)
CACHE_VARIABLE = "BSP_CACHE"
_REPLACED = "replaced"


@dataclass(frozen=True)
class Stored:
    """A file or folder of a complete stage, as another node can find it: see :meth:`StageStore.elsewhere`."""

    name: str  # "features/<hash>" or "encoders/<hash>/encoder.pt"


class StageStore:
    """The stages of one storage.

    ``root``: a folder (local disk, or a file system with locks that all nodes share, such as NFS 4), or
    ``s3://bucket/prefix``. ValueError if it cannot be used. It may be sent to other nodes: there it keeps
    copies in that node's own cache.
    """

    def __init__(self, root: str | Path):
        self.bucket = Bucket(str(root)) if is_address(root) else None
        if self.bucket:
            cache = os.environ.get(CACHE_VARIABLE) or Path.home() / ".cache" / "bsp"
            self.root = Path(cache).expanduser().resolve() / self.bucket.bucket / self.bucket.prefix
        else:
            self.root = Path(root).expanduser().resolve()
        self.address = self.bucket.address if self.bucket else str(self.root)  # what one gives to --storage
        try:
            self.root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            what = f"as {CACHE_VARIABLE}" if self.bucket else "as --storage"
            raise ValueError(f"cannot use {self.root} {what}: {error.strerror}") from error

    def __reduce__(self):
        return StageStore, (self.address,)

    def folder(self, kind: str, recipe: Any) -> Path:
        return self.root / kind / recipe_hash(recipe)

    def _name(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()

    # --- find -------------------------------------------------------------------------------------------------

    def find(self, kind: str, recipe: Any) -> Path | None:
        """The folder of a complete stage, or None. Every file's SHA-256 has been compared with the manifest, once in
        this process; damage is named in the log and counts as absent."""
        return self._if_whole(self.folder(kind, recipe), recipe, self.check)

    def need(self, kind: str, recipe: Any) -> Path:
        """As :meth:`find`, for a stage that must be there: StageDamaged if it is not."""
        found = self.find(kind, recipe)
        if found is None:
            raise StageDamaged(f"{self.where(self._name(self.folder(kind, recipe)))} is not complete; run this again")
        return found

    def has(self, kind: str, recipe: Any) -> bool:
        """Whether there is a complete stage, by its manifest and sizes alone: copies nothing, hashes nothing."""

        def glance(folder: Path, recipe: Any) -> None:
            files = self._manifest(folder, recipe)["files"]
            if not self.bucket:
                check_sizes(folder, files)

        return self._if_whole(self.folder(kind, recipe), recipe, glance) is not None

    def _if_whole(self, folder: Path, recipe: Any, check: Callable[[Path, Any], Any]) -> Path | None:
        try:
            check(folder, recipe)
        except FileNotFoundError:
            return None
        except StageDamaged as error:
            log.warning("%s; it will be made again", error)
            return None
        return folder

    def check(self, folder: Path, recipe: Any) -> dict:
        """The manifest of a complete stage. FileNotFoundError without one, StageDamaged if files differ."""
        manifest = self._manifest(folder, recipe)
        if self.bucket:
            with named_disk_full(self.root, self._remedy):
                self.fetch(folder, manifest["files"])
                write_json(folder / MANIFEST, manifest)  # for readers of the folder
        check_content(folder, manifest["files"])
        return manifest

    def _manifest(self, folder: Path, recipe: Any = None) -> dict:
        path = folder / MANIFEST
        if not self.bucket:
            return parse_manifest(retry(path.read_bytes, path), path, recipe)
        name = self._name(path)
        text = self.bucket.read(name)
        if text is None:
            raise FileNotFoundError(f"{self.bucket.where(name)}: no such object")
        return parse_manifest(text, self.bucket.where(name), recipe)

    def read_checked(self, folder: Path, name: str) -> Path:
        """The path of a stage's file after comparing its SHA-256 with the manifest."""
        path, files = folder / name, self._manifest(folder)["files"]
        try:
            whole = file_sha256(path) == files[name]["sha256"]
        except (FileNotFoundError, KeyError):
            raise StageDamaged(f"{path} is lost; remove {folder}", (name,)) from None
        if not whole:
            raise StageDamaged(f"{path} is damaged (SHA-256 differs from its manifest); remove {folder}", (name,))
        return path

    def facts(self, folder: Path) -> dict:
        """What the stage's builder recorded, and "seconds" it took."""
        manifest = self._manifest(folder)
        return {**manifest["facts"], "seconds": manifest["seconds"]}

    # --- make -------------------------------------------------------------------------------------------------

    def claim(self, folder: Path, on_wait: Callable[[], None] | None = None) -> AbstractContextManager:
        """Hold the right to make the stage in ``folder``; ``on_wait`` is called once a second while waiting."""
        if self.bucket:
            return leases.claim(self.bucket, self._name(folder) + ".lease", on_wait)
        return file_lock(folder.with_name(folder.name + ".lock"), on_wait)

    @contextmanager
    def only_one(self, name: str) -> Iterator[None]:
        """Refuse (RuntimeError) a second run called ``name`` at the same time. A dead one is no hindrance; on S3 it
        takes its lease time to see that."""
        began, patience = time.monotonic(), 1.2 * leases.LEASE_S if self.bucket else 0.0
        said: list[str] = []

        def wait() -> None:
            if time.monotonic() - began > patience:
                raise RuntimeError(
                    f"{name} with --storage {self.address} is already running; wait for it, stop it, or choose "
                    f"another --storage"
                )
            if not said:
                said.append(name)
                log.warning("%s: waiting up to %.0f s to see whether an earlier run still lives", name, patience)

        with self.claim(self.root / name, wait):
            yield

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
        the manifest; ``FILES`` among them names files without which the stage is not published (StageDamaged). All
        files in the folder when it returns are recorded, except ``SCRATCH``, which is
        removed once the stage is complete. Damaged files of an earlier one are put aside first.
        """
        found = self.find(kind, recipe)
        if found:
            return found, True
        folder = self.folder(kind, recipe)
        with self.claim(folder, on_wait) as lease:
            try:
                self.check(folder, recipe)
                return folder, True
            except FileNotFoundError:
                pass
            except StageDamaged as error:
                self._move_to(self._replaced(kind, folder), folder, [MANIFEST, *error.names])
            began = time.time()
            with named_disk_full(self.root, self._remedy):
                folder.mkdir(parents=True, exist_ok=True)
                facts = build(folder) or {}
                files = describe(folder, result_files(folder))
                lost = sorted(set(facts.pop(FILES, ())) - set(files))
                if lost:
                    raise StageDamaged(f"{folder / lost[0]} is lost, and {len(lost) - 1} more files", tuple(lost))
                manifest = make_manifest(recipe, files, facts, time.time() - began)
                if self.bucket:
                    self.keep(folder, list(files), again=False)
                    lease.check()
                    self.bucket.write(self._name(folder / MANIFEST), json.dumps(manifest).encode())
                write_json(folder / MANIFEST, manifest)
            self._remove_scratch(folder)
        return folder, False

    def _remove_scratch(self, folder: Path) -> None:
        """What the build left for continuing it; a storage that fails now must not fail a stage that is complete."""
        for path in (folder / name for name in SCRATCH):
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
        if self.bucket:
            try:
                names = self.bucket.sizes(self._name(folder))
                scratch = [f"{self._name(folder)}/{name}" for name in names if is_scratch(name)]
                in_threads(self.bucket.delete, scratch, THREADS)
            except (StorageUnavailable, UnsafeName) as error:
                where = self.bucket.where(folder.name)
                log.warning("left behind in %s, to be removed by hand: %s: %s", where, ", ".join(SCRATCH), error)

    def put_aside(self, kind: str, recipe: Any) -> Path | str | None:
        """Move a stage (complete or not) to ``replaced/`` so that it is made anew; nothing is deleted."""
        folder, target = self.folder(kind, recipe), self._replaced(kind, self.folder(kind, recipe))
        objects = self.bucket.sizes(self._name(folder)) if self.bucket else {}
        if not folder.exists() and not objects:
            return None
        self._move_to(target, folder, sorted(objects, key=lambda name: name != MANIFEST))  # that one first
        if folder.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(folder, target)
        return self.bucket.where(self._name(target)) if self.bucket else target

    def _replaced(self, kind: str, folder: Path) -> Path:
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%f")
        return self.root / _REPLACED / stamp / kind / folder.name

    def _move_to(self, target: Path, folder: Path, names: list[str]) -> None:
        """Move files of a stage, in this order; what is not there is passed over. Of a name that leads out of the
        folder the link is moved, and not what it leads to."""
        for name in dict.fromkeys(names):
            name = name if self.bucket else leaving_link(folder, name) or name
            if self.bucket:
                self.bucket.move(self._name(folder / name), self._name(target / name))
            elif os.path.lexists(folder / name):
                (target / name).parent.mkdir(parents=True, exist_ok=True)
                retry(lambda name=name: (folder / name).replace(target / name), folder / name)

    # --- notes ------------------------------------------------------------------------------------------------

    def where(self, name: str) -> str:
        """The full path or address of what is called ``name``, for messages."""
        return self.bucket.where(name) if self.bucket else str(self.root / name)

    def read_note(self, name: str) -> bytes | None:
        """A small file that belongs to no stage, such as the record of a search; None if there is none."""
        if self.bucket:
            return self.bucket.read(name)
        path = self.root / name
        return retry(path.read_bytes, path) if path.exists() else None

    def write_note(self, name: str, content: bytes) -> None:
        """Write or replace it, whole or not at all."""
        if self.bucket:
            return self.bucket.write(name, content)
        path = self.root / name
        retry(lambda: path.parent.mkdir(parents=True, exist_ok=True), path.parent)
        write_whole(path, lambda file: file.write(content))

    # --- other nodes ------------------------------------------------------------------------------------------

    @property
    def _remedy(self) -> str:
        return f"set {CACHE_VARIABLE} to a larger disk" if self.bucket else "move the folder and pass --storage"

    def elsewhere(self, value: Any) -> Any:
        """An argument for another node: on S3, paths of this store (also in lists) become :class:`Stored`."""
        if isinstance(value, list | tuple):
            return type(value)(self.elsewhere(item) for item in value)
        if self.bucket and isinstance(value, Path) and value.is_relative_to(self.root):
            return Stored(self._name(value))
        return value

    def here(self, value: Any) -> Any:
        """The argument back on this node; on S3 a :class:`Stored` is copied here first, checked, and becomes a path."""
        if isinstance(value, list | tuple):
            return type(value)(self.here(item) for item in value)
        if not isinstance(value, Stored):
            return value
        kind, stage, *rest = value.name.split("/")
        folder = self.root / kind / stage
        manifest = self._manifest(folder)
        wanted = {name: f for name, f in manifest["files"].items() if not rest or name == "/".join(rest)}
        self.fetch(folder, wanted)
        if not rest:
            write_json(folder / MANIFEST, manifest)  # for readers of the folder
        return folder.joinpath(*rest)

    def place(self, value: Path | Stored) -> Path:
        """The path on this node of what :meth:`elsewhere` named, as it is: nothing is copied or checked."""
        return self.root / value.name if isinstance(value, Stored) else value

    def fetch(self, folder: Path, files: dict[str, dict]) -> None:
        """On S3: copy the ``files`` (name to "bytes" and "sha256") that this node lacks; StageDamaged if they differ
        from that. In a folder: nothing."""
        if not self.bucket:
            return

        def one(name: str) -> str | None:
            path, sha256 = folder / name, files[name]["sha256"]
            if path.exists():
                if sha256_once(path) == sha256:
                    return None
                log.warning("%s is another one than the storage's: copied again", path)
            for _ in range(2):
                try:
                    self.bucket.download(self._name(path), path)
                except FileNotFoundError:
                    return name
                if sha256_once(path) == sha256:
                    return None
                path.unlink()
            return name

        damaged = tuple(name for name in in_threads(one, files, THREADS) if name)
        if damaged:
            listed = ", ".join(self.bucket.where(self._name(folder / name)) for name in damaged[:5])
            raise StageDamaged(
                f"{len(damaged)} files are missing or differ from their manifest (SHA-256): {listed}; remove that "
                f"{MANIFEST}, and the stage is made again",
                damaged,
            )

    def fetch_half_done(self, folder: Path) -> None:
        """On S3: copy what other nodes have :meth:`kept <keep>` of a stage without a manifest and this one lacks. It is
        for the caller to check. In a folder: nothing."""
        if self.bucket:
            kept = [name for name in self.bucket.sizes(self._name(folder)) if belongs(name)]
            todo = [folder / name for name in kept if not (folder / name).exists()]
            in_threads(lambda path: self.bucket.download(self._name(path), path), todo, THREADS)

    def keep(self, folder: Path, names: list[str], *, again: bool = True) -> dict[str, dict]:
        """On S3: upload files of a half-done stage, in threads, and return their sizes and hashes; unless ``again``,
        not those that are there with the same content. In a folder they are kept already."""
        if not self.bucket:
            return {}
        files = describe(folder, names)

        def one(name: str) -> None:
            target, sha256 = self._name(folder / name), files[name]["sha256"]
            if again or self.bucket.sha256(target) != sha256:
                self.bucket.upload(folder / name, target, sha256)

        in_threads(one, names, THREADS)
        return files
