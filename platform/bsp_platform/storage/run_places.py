"""Where Ray Train keeps a run: in the stage's folder or on S3, after a check of the names that are there."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from pyarrow.fs import AwsStandardS3RetryStrategy, FileSystem, S3FileSystem

from bsp_platform.storage.errors import UnsafeName
from bsp_platform.storage.names import leaving_link, unsafe_checkpoint
from bsp_platform.storage.stages import StageStore

RECORD = "checkpoint_manager_snapshot.json"  # Ray Train's, JSON, in the folder of a run
# Choice: up to 7 tries, with AWS's random pauses that double up to 20 s: some 15 s on average, as storage/errors.py.
_TRIES = 7


def place_for_runs(store: StageStore, folder: Path, run: str) -> dict[str, Any]:
    """Where Ray Train keeps its run ``run`` of ``folder``, as arguments of its RunConfig.

    UnsafeName if a name there leads out of the folder: of a checkpoint in Ray Train's record, a link, or an object.
    """
    place = folder.relative_to(store.root).as_posix()
    record = f"{place}/{run}/{RECORD}"
    unsafe = unsafe_checkpoint(store.read_note(record) or b"{}")
    if unsafe is not None:
        raise UnsafeName(
            f"{store.where(record)} names the checkpoint {unsafe!r}, which is no folder of the run: remove {folder},"
            f" and see who may write to this storage"
        )
    if not store.bucket:
        for name in (run, *(f"{run}/{path.name}" for path in folder.glob(f"{run}/*"))):
            if link := leaving_link(folder.parent, f"{folder.name}/{name}"):
                raise UnsafeName(f"{folder.parent / link} is a link that leaves its folder; remove it")
        return {"storage_path": str(folder)}
    store.bucket.sizes(place)  # UnsafeName
    file_system, path = arrow_file_system(store.bucket.where(place))
    return {"storage_path": path, "storage_filesystem": file_system}


class RetryingS3FileSystem(S3FileSystem):
    """pyarrow's file system with more tries, for Ray Train's checkpoints. Unlike pyarrow's own (25.0.1) it keeps the
    number of tries when it is pickled."""

    def __init__(self, region: str):
        # S3FileSystem does not read this variable, FileSystem.from_uri does.
        url = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
        scheme, _, host = url.rstrip("/").partition("://")
        endpoint = {"scheme": scheme, "endpoint_override": host} if host else {}
        super().__init__(region=region, retry_strategy=AwsStandardS3RetryStrategy(max_attempts=_TRIES), **endpoint)

    def __reduce__(self):
        return RetryingS3FileSystem, (self.region,)


def arrow_file_system(address: str) -> tuple[RetryingS3FileSystem, str]:
    """The file system and the path in it of ``s3://bucket/path``."""
    plain, path = FileSystem.from_uri(address)  # asks for the bucket's region
    return RetryingS3FileSystem(plain.region), path
