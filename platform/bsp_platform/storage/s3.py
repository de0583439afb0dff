"""Objects under ``s3://bucket/prefix``: read, write, list, move, and conditional writes.

Any S3-compatible server with conditional writes works (``AWS_ENDPOINT_URL``); the claims of storage/leases.py need
them. Credentials come from the usual places (environment, ``~/.aws``, the machine's role).

Choice: boto3 and not pyarrow's file system, which has no conditional write; with one client there is one set of errors.
(Ray Train writes its checkpoints through pyarrow: run_places.py.)
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from datetime import datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, TypeVar

from bsp.errors import needs_extra
from bsp.io import atomic_path
from bsp_platform.storage.errors import UnsafeName, is_transient, retry
from bsp_platform.storage.names import stays_inside

T = TypeVar("T")
SCHEME = "s3://"
THREADS = 16  # objects transferred at a time
_BUSY_CODES = {"SlowDown", "RequestTimeout", "RequestTimeTooSkewed", "Throttling", "ServiceUnavailable"}
_ABSENT_CODES = {"NoSuchKey", "404", "NotFound"}


def is_address(root: str | os.PathLike) -> bool:
    """Whether ``root`` names an object store; ValueError for one that is not supported."""
    text = os.fspath(root)
    scheme, sign, _ = text.partition("://")
    if sign and scheme != "s3":
        raise ValueError(f"--storage {text}: storage is a folder or s3://bucket/prefix; {scheme}:// is not supported")
    if text.startswith("s3:") and not sign:
        raise ValueError(f"--storage {text}: expected s3://bucket/prefix, with two slashes")
    return text.startswith(SCHEME)


def s3_is_transient(error: BaseException) -> bool:
    """Whether an error is no answer, an incomplete answer, or one that asks to try later."""
    from botocore import exceptions
    from s3transfer.exceptions import RetriesExceededError

    if isinstance(error, exceptions.ClientError):
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        return status >= 500 or status == 429 or _code(error) in _BUSY_CODES
    lost = exceptions.ConnectionError, exceptions.HTTPClientError, exceptions.IncompleteReadError, RetriesExceededError
    return isinstance(error, lost) or is_transient(error)


def _code(error: Any) -> str:
    """The server's code of a botocore ClientError."""
    return error.response.get("Error", {}).get("Code", "")


class Bucket:
    """The objects below one address. Names are relative to it, with "/" between their parts."""

    def __init__(self, address: str):
        with needs_extra("s3"):
            import boto3
            from botocore.config import Config
            from botocore.exceptions import BotoCoreError, ClientError

        self.address = address.rstrip("/")
        self.bucket, _, self.prefix = self.address.removeprefix(SCHEME).partition("/")
        if not self.bucket:
            raise ValueError(f"--storage {address}: expected s3://bucket/prefix")
        config = Config(
            retries={"mode": "standard", "max_attempts": 3},
            connect_timeout=10,
            read_timeout=60,
            max_pool_connections=2 * THREADS,
        )
        try:
            self.client = boto3.session.Session().client("s3", config=config)
            self._call("", lambda: self.client.list_objects_v2(Bucket=self.bucket, Prefix=self._key(""), MaxKeys=1))
        except (BotoCoreError, ClientError) as error:
            raise ValueError(
                f"cannot use {address} as --storage: {error}; create the bucket, or correct the address, the "
                f"credentials (AWS_PROFILE, AWS_ACCESS_KEY_ID, the machine's role) or AWS_ENDPOINT_URL"
            ) from error

    def _key(self, name: str) -> str:
        return f"{self.prefix}/{name}" if self.prefix else name

    def where(self, name: str) -> str:
        """The full address of an object, for messages."""
        return f"{self.address}/{name}"

    def _call(self, name: str, action: Callable[[], T]) -> T:
        return retry(action, self.where(name), transient=s3_is_transient)

    def _if_there(self, name: str, action: Callable[[], T]) -> T | None:
        from botocore.exceptions import ClientError

        try:
            return self._call(name, action)
        except ClientError as error:
            if _code(error) in _ABSENT_CODES:
                return None
            raise

    def read(self, name: str) -> bytes | None:
        """The content of a small object; None if there is none."""

        def get() -> bytes:
            return self.client.get_object(Bucket=self.bucket, Key=self._key(name))["Body"].read()

        return self._if_there(name, get)

    def write(self, name: str, content: bytes) -> None:
        """Write an object, over an earlier one."""
        self._call(name, lambda: self.client.put_object(Bucket=self.bucket, Key=self._key(name), Body=content))

    def write_if(self, name: str, content: bytes, etag: str | None) -> str | None:
        """Write if the object still has this ``etag``, or with None if there is none. The new etag, or None."""
        from botocore.exceptions import ClientError

        condition = {"IfMatch": etag} if etag else {"IfNoneMatch": "*"}

        def put() -> str:
            return self.client.put_object(Bucket=self.bucket, Key=self._key(name), Body=content, **condition)["ETag"]

        try:
            return self._call(name, put)
        except ClientError as error:
            if _code(error) in {"PreconditionFailed", "ConditionalRequestConflict", *_ABSENT_CODES}:
                return None
            raise

    def look(self, name: str) -> tuple[bytes, str, datetime, datetime] | None:
        """(content, etag, when it was written, what the time is now), both times by the server's clock."""

        def get() -> tuple[bytes, str, datetime, datetime]:
            answer = self.client.get_object(Bucket=self.bucket, Key=self._key(name))
            now = parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"])
            return answer["Body"].read(), answer["ETag"], answer["LastModified"], now

        return self._if_there(name, get)

    def sha256(self, name: str) -> str | None:
        """The SHA-256 that :meth:`upload` stored with the object; None without such an object."""
        head = self._if_there(name, lambda: self.client.head_object(Bucket=self.bucket, Key=self._key(name)))
        return head["Metadata"].get("sha256") if head else None

    def upload(self, path: Path, name: str, sha256: str) -> None:
        """Write a file as an object, with its SHA-256 in the object's metadata."""

        def put() -> None:
            with open(path, "rb") as file:
                self.client.upload_fileobj(
                    file, self.bucket, self._key(name), ExtraArgs={"Metadata": {"sha256": sha256}}
                )

        self._call(name, put)

    def download(self, name: str, path: Path) -> None:
        """Write an object to ``path``, completely or not at all. FileNotFoundError without such an object."""

        def get() -> bool:  # one request, where download_fileobj makes two; most files are small
            body = self.client.get_object(Bucket=self.bucket, Key=self._key(name))["Body"]
            with atomic_path(path) as partial, open(partial, "wb") as file:
                file.writelines(body.iter_chunks(2**20))
            return True

        if self._if_there(name, get) is None:
            raise FileNotFoundError(f"{self.where(name)}: no such object")

    def sizes(self, name: str) -> dict[str, int]:
        """Bytes of all objects below ``name``/, by their names relative to it. UnsafeName for a name that leads
        out of it; empty objects by which consoles mark folders are left out."""
        start = self._key(f"{name}/")

        def listed() -> Iterator[tuple[str, int]]:
            for page in self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=start):
                for entry in page.get("Contents", ()):
                    yield entry["Key"].removeprefix(start), entry["Size"]

        found = self._call(name, lambda: dict(listed()))
        found = {key: size for key, size in found.items() if key and not (key.endswith("/") and size == 0)}
        for key in found:
            if not stays_inside(key):
                raise UnsafeName(
                    f"{self.address}/{name} holds an object named {key!r}, which leads out of its folder: remove it, "
                    f"and see who may write to this storage"
                )
        return found

    def listing(self) -> dict[str, tuple[int, float]]:
        """Bytes and time of the last change (seconds since 1970) of all objects, by name."""
        start = self._key("")

        def listed() -> Iterator[tuple[str, tuple[int, float]]]:
            for page in self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=start):
                for entry in page.get("Contents", ()):
                    yield entry["Key"].removeprefix(start), (entry["Size"], entry["LastModified"].timestamp())

        return self._call("", lambda: dict(listed()))

    def move(self, name: str, target: str) -> None:
        """Copy, then delete. Nothing happens if there is no such object."""
        source: dict[str, Any] = {"Bucket": self.bucket, "Key": self._key(name)}

        def copy() -> bool:
            self.client.copy(source, self.bucket, self._key(target))
            return True

        if self._if_there(name, copy):
            self.delete(name)

    def delete(self, name: str) -> None:
        """Remove an object, if there is one."""
        self._call(name, lambda: self.client.delete_object(Bucket=self.bucket, Key=self._key(name)))
