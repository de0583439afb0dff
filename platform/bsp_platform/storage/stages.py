"""Content-addressed results: find, claim, publish.

An expensive result (an encoder, a feature set, a trained head) is a *stage*. Its *recipe*, a frozen
dataclass of everything that determines the result, is hashed, and the hash names the stage's folder:
``<storage>/<kind>/<hash>``. A stage is complete when its manifest exists, names this recipe, and every file
in it has the recorded size and SHA-256. A claim is a lock that ends with the process that holds it: two
processes never make the same stage, and none waits for a dead one.

The storage is a folder that all nodes see, or ``s3://bucket/prefix``, of which every node keeps copies under the same
names (placement.py): callers get local paths either way.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bsp_platform.storage.errors import StageDamaged, named_disk_full
from bsp_platform.storage.files import file_sha256
from bsp_platform.storage.manifests import (
    FILES,
    MANIFEST,
    check_content,
    check_sizes,
    describe,
    make_manifest,
    parse_manifest,
    recipe_hash,
    result_files,
)
from bsp_platform.storage.placement import BucketWithCopies, SharedFolder
from bsp_platform.storage.s3 import is_address

log = logging.getLogger(__name__)
REPLACED = "replaced"  # folder of stages that were put aside


@dataclass(frozen=True)
class Stored:
    """A file or folder of a complete stage, named for another node: see :meth:`StageStore.pack_paths`."""

    name: str  # "features/<hash>" or "encoders/<hash>/encoder.pt"


class StageStore:
    """The stages of one storage.

    ``root``: a folder (local disk, or a file system with locks that all nodes share, such as NFS 4), or
    ``s3://bucket/prefix``. ValueError if it cannot be used. It may be sent to other nodes: there it keeps
    copies in that node's own cache. ``files`` says where the files lie and copies them between nodes.
    """

    def __init__(self, root: str | Path):
        self.files = BucketWithCopies(str(root)) if is_address(root) else SharedFolder(root)
        self.root = self.files.root  # of this node: the storage itself, or the copies
        self.address = self.files.address  # the value of --storage
        self.bucket = self.files.bucket  # None for a folder

    def __reduce__(self):
        return StageStore, (self.address,)

    def folder(self, kind: str, recipe: object) -> Path:
        """Where the stage is, complete or not."""
        return self.root / kind / recipe_hash(recipe)

    # --- find -------------------------------------------------------------------------------------------------

    def find(self, kind: str, recipe: object) -> Path | None:
        """The folder of a complete stage, or None. Every file's SHA-256 has been compared with the manifest, once in
        this process; damage is named in the log and counts as absent."""
        return self._if_complete(self.folder(kind, recipe), recipe, self.check)

    def need(self, kind: str, recipe: object) -> Path:
        """As :meth:`find`, for a stage that must be there: StageDamaged if it is not."""
        found = self.find(kind, recipe)
        if found is None:
            where = self.where(self.files.name(self.folder(kind, recipe)))
            raise StageDamaged(f"{where} is not complete; run this again")
        return found

    def has(self, kind: str, recipe: object) -> bool:
        """Whether there is a complete stage, by its manifest and sizes alone: copies nothing, hashes nothing."""

        def check_manifest(folder: Path, recipe: object) -> None:
            files = self._manifest(folder, recipe)["files"]
            if self.bucket is None:  # on S3 it would cost a request per file
                check_sizes(folder, files)

        return self._if_complete(self.folder(kind, recipe), recipe, check_manifest) is not None

    def _if_complete(self, folder: Path, recipe: object, check: Callable[[Path, object], object]) -> Path | None:
        try:
            check(folder, recipe)
        except FileNotFoundError:
            return None
        except StageDamaged as error:
            log.warning("%s; it will be made again", error)
            return None
        return folder

    def check(self, folder: Path, recipe: object) -> dict:
        """The manifest of a complete stage. FileNotFoundError without one, StageDamaged if files differ."""
        manifest = self._manifest(folder, recipe)
        with named_disk_full(self.root, self.files.remedy):
            self.files.download_stage(folder, manifest)
        check_content(folder, manifest["files"])
        return manifest

    def _manifest(self, folder: Path, recipe: object = None) -> dict:
        name = self.files.name(folder / MANIFEST)
        where, text = self.files.where(name), self.files.read(name)
        if text is None:
            raise FileNotFoundError(f"{where}: there is none")
        return parse_manifest(text, where, recipe)

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

    def claim(
        self, folder: Path, on_wait: Callable[[], None] | None = None
    ) -> AbstractContextManager[Callable[[], None]]:
        """Hold the right to make the stage in ``folder``; ``on_wait`` is called once a second while waiting. Gives a
        function that raises StorageUnavailable if the right has been lost meanwhile."""
        return self.files.claim(self.files.name(folder), on_wait)

    @contextmanager
    def only_one(self, name: str) -> Iterator[None]:
        """RuntimeError for a second run called ``name`` at the same time. The claim of a dead run has no effect, on S3
        after its lease has run out."""
        began, expiry_s = time.monotonic(), self.files.expiry_s
        warned = False

        def wait() -> None:
            nonlocal warned
            if time.monotonic() - began > expiry_s:
                raise RuntimeError(
                    f"{name} with --storage {self.address} is already running; wait for it, stop it, or choose "
                    f"another --storage"
                )
            if not warned:
                warned = True
                log.warning("%s: waiting up to %.0f s to see whether an earlier run still lives", name, expiry_s)

        with self.claim(self.root / name, wait):
            yield

    def ensure(
        self,
        kind: str,
        recipe: object,
        build: Callable[[Path], dict[str, Any] | None],
        *,
        on_wait: Callable[[], None] | None = None,
    ) -> tuple[Path, bool]:
        """The folder of the stage, made by ``build(folder)`` if need be, and whether it was found.

        ``build`` may find unfinished work of an earlier call in the folder and continue it. It returns extra facts for
        the manifest; ``FILES`` among them names files without which the stage is not published (StageDamaged). All
        files in the folder are recorded, except ``SCRATCH``, which is removed once the stage is complete. Damaged
        files of an earlier stage are put aside first.
        """
        found = self.find(kind, recipe)
        if found:
            return found, True
        folder = self.folder(kind, recipe)
        with self.claim(folder, on_wait) as check_claim:
            try:
                self.check(folder, recipe)
                return folder, True
            except FileNotFoundError:
                pass
            except StageDamaged as error:
                damaged = dict.fromkeys([MANIFEST, *error.names])
                self.files.move(folder, self._replaced(kind, folder), damaged)
            began = time.time()
            with named_disk_full(self.root, self.files.remedy):
                folder.mkdir(parents=True, exist_ok=True)
                facts = build(folder) or {}
                files = describe(folder, result_files(folder))
                lost = sorted(set(facts.pop(FILES, ())) - set(files))
                if lost:
                    raise StageDamaged(f"{folder / lost[0]} is lost, and {len(lost) - 1} more files", tuple(lost))
                manifest = make_manifest(recipe, files, facts, time.time() - began)
                self.files.upload(folder, list(files), again=False)
                check_claim()
                self.files.publish(folder, manifest)
            self.files.remove_scratch(folder)
        return folder, False

    def put_aside(self, kind: str, recipe: object) -> Path | str | None:
        """Move a stage (complete or not) to ``replaced/`` so that it is made anew; nothing is deleted."""
        folder = self.folder(kind, recipe)
        target = self._replaced(kind, folder)
        if not self.files.move_folder(folder, target):
            return None
        return target if self.bucket is None else self.where(self.files.name(target))

    def _replaced(self, kind: str, folder: Path) -> Path:
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%f")
        return self.root / REPLACED / stamp / kind / folder.name

    # --- notes ------------------------------------------------------------------------------------------------

    def where(self, name: str) -> str:
        """The full path or address of the file ``name``, for messages."""
        return self.files.where(name)

    def read_note(self, name: str) -> bytes | None:
        """A small file that belongs to no stage, such as the record of a search; None if there is none."""
        return self.files.read(name)

    def write_note(self, name: str, content: bytes) -> None:
        """Write or replace a note, complete or not at all."""
        self.files.write(name, content)

    def notes(self, folder: str) -> list[str]:
        """Names of all notes below ``folder``, sorted."""
        return self.files.names(folder)

    # --- arguments for other nodes ----------------------------------------------------------------------------

    def pack_paths(self, value: Any) -> Any:
        """An argument for another node: on S3, paths of this store (also in lists) become :class:`Stored`."""
        if isinstance(value, list | tuple):
            return type(value)(self.pack_paths(item) for item in value)
        if self.bucket and isinstance(value, Path) and value.is_relative_to(self.root):
            return Stored(self.files.name(value))
        return value

    def local_path(self, value: Path | Stored) -> Path:
        """This node's path of a result of :meth:`pack_paths`; nothing is copied or checked."""
        return self.root / value.name if isinstance(value, Stored) else value

    def download_paths(self, value: Any) -> Any:
        """Inverse of :meth:`pack_paths`: a :class:`Stored` is copied to this node, checked, and returned as a path."""
        if isinstance(value, list | tuple):
            return type(value)(self.download_paths(item) for item in value)
        if not isinstance(value, Stored):
            return value
        kind, stage, *rest = value.name.split("/")
        folder = self.root / kind / stage
        manifest = self._manifest(folder)
        if rest:
            self.files.download(folder, {n: f for n, f in manifest["files"].items() if n == "/".join(rest)})
        else:
            self.files.download_stage(folder, manifest)
        return folder.joinpath(*rest)
