"""Records for MLflow, on disk until the tracking store has them.

Every tracking store has a folder ``<home>/outbox/<hash of its URI>``, and every process that writes to the store
a file of JSON lines there, the first of which names the experiment. A record is in the file before it is sent,
so a killed process loses none; the file is emptied whenever all of it has been sent, and deleted at the end. A
file whose writer is dead is what that process could not send: whoever comes next delivers it
(:mod:`bsp_platform.tracking.delivery`).
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import re
import shutil
import threading
import time
import uuid
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock

from bsp_platform.storage.names import stays_inside

log = logging.getLogger(__name__)
Record = dict[str, Any]
_STORE, _REFUSED = "store.json", "refused.jsonl"


def shown_uri(uri: str) -> str:
    """Without the password that some hold."""
    return re.sub(r"(://[^/:@]+):[^/@]+@", r"\1:***@", uri)


class Outbox:
    """The folder of one tracking store."""

    def __init__(self, home: Path, uri: str):
        self.uri = uri
        self.folder = home.absolute() / "outbox" / hashlib.sha256(uri.encode()).hexdigest()[:12]
        self.folder.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(PermissionError):  # another user's
            self.folder.parent.chmod(0o700)  # what stands in it is believed, and files that it names are sent

    @staticmethod
    def all_in(home: Path) -> list[Outbox]:
        """Those of all stores that were used with this home. ValueError for a damaged record of one."""

        def uri(path: Path) -> str:
            try:
                return str(json.loads(path.read_text("utf-8"))["uri"])
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                raise ValueError(
                    f'{path} is damaged ({error}); write {{"uri": "..."}} there, with the address of the MLflow store'
                ) from None

        return [Outbox(home, uri(path)) for path in sorted((home / "outbox").glob(f"*/{_STORE}"))]

    @property
    def answered(self) -> bool:
        """The store has answered once, so its address is right."""
        return (self.folder / _STORE).exists()

    def store_answered(self) -> None:
        if not self.answered:
            partial = self.folder / f"{uuid.uuid4().hex}.partial"
            partial.touch(mode=0o600)  # a URI may hold a password
            partial.write_text(json.dumps({"uri": self.uri}) + "\n", "utf-8")
            partial.replace(self.folder / _STORE)

    def delivering(self) -> FileLock:
        """One process at a time delivers to a store, so that no two create the same run."""
        return FileLock(str(self.folder / "delivering.lock"))

    def new_file(self, header: Record) -> OutboxFile:
        return OutboxFile(self.folder / f"{time.time_ns()}-{os.getpid()}-{uuid.uuid4().hex[:6]}.jsonl", header)

    def left(self, own: Path | None = None) -> Iterator[OutboxFile]:
        """Files of dead writers, oldest first, now ours; without the caller's ``own``."""
        for path in self.files():
            if path == own:
                continue
            try:
                file = OutboxFile(path)
            except (BlockingIOError, FileNotFoundError):
                continue  # its writer lives, or it has just been delivered
            if file.waiting and "experiment" not in file.header:
                path.rename(path.with_suffix(".damaged"))
                log.warning("%s: the first line is damaged; the file is put aside as *.damaged", path)
            else:
                yield file

    def files(self) -> list[Path]:
        return sorted(path for path in self.folder.glob("*-*.jsonl"))

    def keep_copy(self, path: Path) -> Path:
        """A copy of a file that may be written again before it is sent."""
        folder = self.folder / "files" / uuid.uuid4().hex
        try:
            folder.mkdir(parents=True)
            return Path(shutil.copy2(path, folder / path.name))
        except OSError as error:
            if not path.is_file():
                raise
            log.warning("%s: no copy made (%s); it is sent from where it lies", path, error)
            return path.absolute()

    def drop_copy(self, path: Path) -> None:
        copies = self.folder / "files"
        name = path.relative_to(copies).as_posix() if path.is_relative_to(copies) else ""
        if stays_inside(name) and name.count("/") == 1:
            shutil.rmtree(path.parent, ignore_errors=True)

    def refuse(self, record: Record, reason: str) -> None:
        """Set aside a record that the store will never take."""
        log.warning("MLflow refuses a record, now in %s: %s", self.refused, reason)
        with self.refused.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"reason": reason, **record}) + "\n")

    @property
    def refused(self) -> Path:
        return self.folder / _REFUSED


class OutboxFile:
    """The records of one process; its lock is held as long as the process lives.

    Raises BlockingIOError if another process holds it, FileNotFoundError if it is gone.
    """

    def __init__(self, path: Path, header: Record | None = None):
        self.path = path
        flags = os.O_RDWR | os.O_APPEND | (os.O_CREAT | os.O_EXCL if header else 0)
        self._fd = os.open(path, flags, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not os.fstat(self._fd).st_nlink:
                raise FileNotFoundError(path)
        except OSError:
            os.close(self._fd)
            raise
        self._mutex = threading.Lock()
        self._unwritten: list[bytes] = []  # the disk is full: in memory only
        self._queue: deque[Record] = deque()
        if header is not None:
            self.header = header
            os.write(self._fd, _line(header))
        else:
            self.header, *records = read_records(path) or [{}]
            self._queue.extend(records)

    def append(self, record: Record) -> None:
        with self._mutex:
            self._queue.append(record)
            self._unwritten.append(_line(record))
            self._write()

    def _write(self) -> None:
        while self._unwritten:
            size, line = os.fstat(self._fd).st_size, self._unwritten[0]
            try:
                if os.write(self._fd, line) < len(line):
                    raise OSError("no room for a whole record")
            except OSError as error:
                os.ftruncate(self._fd, size)
                log.warning("%s: %s; %d records are in memory only", self.path, error, len(self._unwritten))
                return
            self._unwritten.pop(0)

    @property
    def waiting(self) -> int:
        return len(self._queue)

    def head(self, points: int) -> list[Record]:
        """The oldest record, and if it holds metrics also the next such ones, up to so many points."""
        with self._mutex:
            group: list[Record] = []
            for record in self._queue:
                if group and not (record["do"] == group[0]["do"] == "metrics"):
                    break
                points -= len(record.get("points", ()))
                if group and points < 0:
                    break
                group.append(record)
            return group

    def sent(self, count: int) -> None:
        """The oldest ``count`` records need no keeping any more."""
        with self._mutex:
            for _ in range(count):
                self._queue.popleft()
            if not self._queue:
                self._unwritten.clear()
                os.ftruncate(self._fd, 0)
                os.write(self._fd, _line(self.header))

    def later(self) -> None:
        """The oldest record comes last."""
        with self._mutex:
            self._queue.rotate(-1)

    def close(self) -> None:
        """Delete the file if nothing waits; leave it to whoever comes next otherwise."""
        with self._mutex:
            if self._queue:
                self._write()
            else:
                self.path.unlink(missing_ok=True)
            os.close(self._fd)


def read_records(path: Path) -> list[Record]:
    """Header and records; what a killed process wrote by half, or a disk has damaged, is named and left out."""
    records = []
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            record = json.loads(line)
            if not isinstance(record, dict) or (number > 1 and "do" not in record):
                raise ValueError("no record")
        except (ValueError, RecursionError):
            log.warning("%s: line %d is not whole and is left out", path, number)
            continue
        records.append(record)
    return records


def _line(record: Record) -> bytes:
    return json.dumps(record).encode() + b"\n"
