"""Where a storage's files lie: in a folder that all nodes see, or on S3, of which each node keeps copies.

:class:`StageStore` uses both in the same way. Both take the names of files relative to the storage
("features/<hash>/manifest.json") and paths below ``root``.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from typing_extensions import override

from bsp_platform.storage import leases
from bsp_platform.storage.errors import StageDamaged, StorageUnavailable, UnsafeName, retry
from bsp_platform.storage.files import file_lock, in_threads, sha256_once, write_bytes, write_json
from bsp_platform.storage.manifests import MANIFEST, SCRATCH, belongs, describe, is_scratch
from bsp_platform.storage.names import leaving_link
from bsp_platform.storage.s3 import THREADS, Bucket

log = logging.getLogger(__name__)
CACHE_VARIABLE = "BSP_CACHE"


class SharedFolder:
    """A folder that all nodes see, such as a local disk of one machine or NFS 4: nothing is ever copied."""

    bucket: Bucket | None = None
    remedy = "move the folder and pass --storage"  # for a full disk

    def __init__(self, root: str | Path, option: str = "--storage"):
        self.root = Path(root).expanduser().resolve()
        self.address = str(self.root)  # the value of --storage
        try:
            self.root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(f"cannot use {self.root} as {option}: {error.strerror}") from error

    @property
    def expiry_s(self) -> float:
        """Seconds after which a claim that is still held belongs to a living process."""
        return 0.0

    def name(self, path: Path) -> str:
        """A path below ``root`` as a name."""
        return path.relative_to(self.root).as_posix()

    def where(self, name: str) -> str:
        """The full path or address of a file, for messages."""
        return str(self.root / name)

    def read(self, name: str) -> bytes | None:
        """The content of a small file; None if there is none."""
        path = self.root / name
        try:
            return retry(path.read_bytes, path)
        except FileNotFoundError:
            return None

    def write(self, name: str, content: bytes) -> None:
        """Write or replace a small file, whole or not at all."""
        write_bytes(self.root / name, content)

    def names(self, folder: str) -> list[str]:
        """Names of all files below ``folder``, sorted."""
        return sorted(self.name(path) for path in (self.root / folder).rglob("*") if path.is_file())

    def listing(self) -> dict[str, tuple[int, float]]:
        """Bytes and time of the last change (seconds since 1970) of all files of the storage, by name."""
        found = {}
        for path in self.root.rglob("*"):
            with suppress(FileNotFoundError):  # removed meanwhile
                facts = path.lstat()
                if not path.is_dir():
                    found[self.name(path)] = facts.st_size, facts.st_mtime
        return found

    def remove(self, names: Iterable[str]) -> None:
        """Remove files by their names, in this order, and folders that become empty; missing ones are no error."""
        for name in names:
            path = self.root / name
            path.unlink(missing_ok=True)
            for folder in path.relative_to(self.root).parents[:-1]:
                try:
                    (self.root / folder).rmdir()
                except OSError:  # not empty
                    break

    @contextmanager
    def claim(self, name: str, on_wait: Callable[[], None] | None) -> Iterator[Callable[[], None]]:
        """Hold the claim ``name``; ``on_wait`` is called once a second while another one does. Gives a function that
        raises StorageUnavailable if the claim has been lost."""
        with file_lock(self.root / f"{name}.lock", on_wait):
            yield lambda: None

    def move(self, folder: Path, target: Path, names: Iterable[str]) -> None:
        """Move files of a stage, in this order, without those that are missing. Of a name that leads out of the
        folder the link itself is moved, not its target."""
        for name in names:
            name = leaving_link(folder, name) or name
            if os.path.lexists(folder / name):
                (target / name).parent.mkdir(parents=True, exist_ok=True)
                retry(partial((folder / name).replace, target / name), folder / name)

    def move_folder(self, folder: Path, target: Path) -> bool:
        """Move all files of a stage; whether there were any."""
        if not folder.exists():
            return False
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(folder, target)
        return True

    def remove_scratch(self, folder: Path) -> None:
        """Remove files that the build of a stage wrote for continuing it."""
        for path in (folder / name for name in SCRATCH):
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)

    def download(self, folder: Path, files: Mapping[str, dict[str, Any]]) -> None:
        """Copy to this node the ``files`` (name to "bytes" and "sha256") that it lacks. StageDamaged if they differ."""

    def download_stage(self, folder: Path, manifest: dict[str, Any]) -> None:
        """Copy to this node the missing files of a complete stage, and its manifest."""

    def download_unfinished(self, folder: Path) -> None:
        """Copy to this node the uploaded files of a stage without a manifest, which the caller must check."""

    def upload(self, folder: Path, names: list[str], *, again: bool = True) -> dict[str, dict[str, Any]]:
        """Copy files of a stage from this node; their sizes and hashes if they were copied. Without ``again`` only
        those that the storage lacks or has with other content."""
        return {}

    def publish(self, folder: Path, manifest: dict[str, Any]) -> None:
        """Write the manifest, as the last file: the stage is complete."""
        write_json(folder / MANIFEST, manifest)


class BucketWithCopies(SharedFolder):
    """``s3://bucket/prefix``. ``root`` is this node's folder of copies (``BSP_CACHE``,
    ``~/.cache/bsp``), which are compared with their manifest before use and may be deleted."""

    bucket: Bucket
    remedy = f"set {CACHE_VARIABLE} to a larger disk"

    def __init__(self, address: str):
        self.bucket = Bucket(address)
        cache = os.environ.get(CACHE_VARIABLE) or Path.home() / ".cache" / "bsp"
        super().__init__(Path(cache) / self.bucket.bucket / self.bucket.prefix, CACHE_VARIABLE)
        self.address = self.bucket.address

    @override
    def where(self, name: str) -> str:
        return self.bucket.where(name)

    @override
    def read(self, name: str) -> bytes | None:
        return self.bucket.read(name)

    @override
    def write(self, name: str, content: bytes) -> None:
        self.bucket.write(name, content)

    @override
    def names(self, folder: str) -> list[str]:
        return sorted(f"{folder}/{name}" for name in self.bucket.sizes(folder))

    @override
    def listing(self) -> dict[str, tuple[int, float]]:
        return self.bucket.listing()

    @override
    def remove(self, names: Iterable[str]) -> None:
        for name in names:
            self.bucket.delete(name)
            super().remove([name])  # the copy

    @property
    def expiry_s(self) -> float:
        """A little longer than a lease holds."""
        return 1.2 * leases.LEASE_S

    @contextmanager
    @override
    def claim(self, name: str, on_wait: Callable[[], None] | None) -> Iterator[Callable[[], None]]:
        with leases.claim(self.bucket, f"{name}.lease", on_wait) as lease:
            yield lease.check

    @override
    def move(self, folder: Path, target: Path, names: Iterable[str]) -> None:
        for name in names:
            self.bucket.move(self.name(folder / name), self.name(target / name))

    @override
    def move_folder(self, folder: Path, target: Path) -> bool:
        names = sorted(self.bucket.sizes(self.name(folder)), key=lambda name: name != MANIFEST)  # that one first
        self.move(folder, target, names)
        return super().move_folder(folder, target) or bool(names)

    @override
    def remove_scratch(self, folder: Path) -> None:
        super().remove_scratch(folder)
        name = self.name(folder)
        try:
            scratch = [f"{name}/{file}" for file in self.bucket.sizes(name) if is_scratch(file)]
            in_threads(self.bucket.delete, scratch, THREADS)
        except (StorageUnavailable, UnsafeName) as error:  # which must not fail a stage that is complete
            where, files = self.where(name), ", ".join(SCRATCH)
            log.warning("left behind in %s, to be removed by hand: %s: %s", where, files, error)

    @override
    def download(self, folder: Path, files: Mapping[str, dict[str, Any]]) -> None:
        def is_lost(name: str) -> bool:
            path, sha256 = folder / name, files[name]["sha256"]
            if path.exists():
                if sha256_once(path) == sha256:
                    return False
                log.warning("%s is another one than the storage's: copied again", path)
            for _ in range(2):
                try:
                    self.bucket.download(self.name(path), path)
                except FileNotFoundError:
                    return True
                if sha256_once(path) == sha256:
                    return False
                path.unlink()
            return True

        lost = in_threads(is_lost, files, THREADS)
        damaged = tuple(name for name, is_damaged in zip(files, lost, strict=True) if is_damaged)
        if damaged:
            listed = ", ".join(self.where(self.name(folder / name)) for name in damaged[:5])
            raise StageDamaged(
                f"{len(damaged)} files are missing or differ from their manifest (SHA-256): {listed}; remove that "
                f"{MANIFEST}, and the stage is made again",
                damaged,
            )

    @override
    def download_stage(self, folder: Path, manifest: dict[str, Any]) -> None:
        self.download(folder, manifest["files"])
        super().publish(folder, manifest)

    @override
    def download_unfinished(self, folder: Path) -> None:
        names = [name for name in self.bucket.sizes(self.name(folder)) if belongs(name)]
        todo = [folder / name for name in names if not (folder / name).exists()]
        in_threads(lambda path: self.bucket.download(self.name(path), path), todo, THREADS)

    @override
    def upload(self, folder: Path, names: list[str], *, again: bool = True) -> dict[str, dict[str, Any]]:
        files = describe(folder, names)

        def one(name: str) -> None:
            target, sha256 = self.name(folder / name), files[name]["sha256"]
            if again or self.bucket.sha256(target) != sha256:
                self.bucket.upload(folder / name, target, sha256)

        in_threads(one, names, THREADS)
        return files

    @override
    def publish(self, folder: Path, manifest: dict[str, Any]) -> None:
        self.bucket.write(self.name(folder / MANIFEST), json.dumps(manifest).encode())
        super().publish(folder, manifest)
