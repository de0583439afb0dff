"""Claims on object storage: the right to make a stage, where no file lock ends with its process.

A claim is a small object, created only if there is none (a conditional write), which its holder writes again
every few seconds. A claim that has not been written for LEASE_S belongs to a dead process: another process
replaces it by a conditional write. Its age is measured by the server's clock alone.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from bsp_platform.storage.errors import StorageUnavailable
from bsp_platform.storage.s3 import Bucket

log = logging.getLogger(__name__)
# Choice: a minute. After a driver or its machine died, the next run waits so long at most before it makes the
# stage itself; a living holder renews its claim six times a minute.
LEASE_S = 60.0
_RENEWALS = 6  # per lease time
_ASK_EVERY_S = 1.0


class Lease:
    """A claim that is held; :meth:`check` before publishing what was made under it."""

    def __init__(self, bucket: Bucket, name: str, etag: str, content: bytes):
        self.bucket, self.name, self.etag, self.content = bucket, name, etag, content
        self._lost, self._done = False, threading.Event()
        self._thread = threading.Thread(target=self._renew, name=f"lease {name}", daemon=True)
        self._thread.start()

    def _renew(self) -> None:
        while not self._done.wait(LEASE_S / _RENEWALS):
            try:
                self._write()
            except Exception as error:  # whatever the network raises: the next turn tries again
                log.warning("%s could not be renewed: %s", self.bucket.where(self.name), error)

    def _write(self) -> None:
        etag = self.bucket.write_if(self.name, self.content, self.etag)
        if etag is None:
            found = self.bucket.look(self.name)
            if found and found[0] == self.content:  # the write succeeded, its answer was lost
                etag = found[1]
        self._lost, self.etag = etag is None, etag or self.etag

    def check(self) -> None:
        """StorageUnavailable if somebody else has taken the claim over, as after this machine was suspended."""
        self._write()
        if self._lost:
            raise StorageUnavailable(
                f"{self.bucket.where(self.name)}: this process was silent for more than {LEASE_S:.0f} s and another "
                f"one has taken over; run the same command again to use what it makes"
            )

    def release(self) -> None:
        """Stop renewing, and remove the object; if that fails, the claim expires."""
        self._done.set()
        self._thread.join()
        if not self._lost:
            try:
                self.bucket.delete(self.name)
            except Exception as error:  # the claim expires
                log.warning("%s stays for %.0f s: %s", self.bucket.where(self.name), LEASE_S, error)


@contextmanager
def claim(bucket: Bucket, name: str, on_wait: Callable[[], None] | None = None) -> Iterator[Lease]:
    """Hold the claim ``name``; ``on_wait`` is called once a second while another holder lives, and may raise."""
    holder = {"host": socket.gethostname(), "pid": os.getpid(), "id": uuid.uuid4().hex, "lease_s": LEASE_S}
    content = json.dumps(holder).encode()
    while True:
        etag = bucket.write_if(name, content, None)
        if etag is None:
            found = bucket.look(name)
            if found is None:
                continue  # released in between
            other, its_etag, written, now = found
            if other == content:
                etag = its_etag  # ours: the write succeeded, its answer was lost
            elif (now - written).total_seconds() > _lease_of(other):
                etag = bucket.write_if(name, content, its_etag)
                if etag:
                    holder_was = other.decode("utf-8", "replace")
                    log.warning("%s: its holder %s is dead; taken over", bucket.where(name), holder_was)
        if etag is not None:
            break
        if on_wait:
            on_wait()
        time.sleep(_ASK_EVERY_S)
    lease = Lease(bucket, name, etag, content)
    try:
        yield lease
    finally:
        lease.release()


def _lease_of(content: bytes) -> float:
    """Seconds within which the holder renews its claim; LEASE_S for a claim that cannot be read."""
    try:
        return float(json.loads(content)["lease_s"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return LEASE_S
