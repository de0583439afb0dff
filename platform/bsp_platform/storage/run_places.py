"""Where Ray Train keeps a run: in the stage's folder, or on S3; what others could have put there is looked at first."""

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

    UnsafeName if what lies there from an earlier try would lead out of the folder: a checkpoint's name in Ray Train's
    record, a link, or an object's name.
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
    """pyarrow's, for Ray Train's checkpoints, with more tries. It keeps them when it is sent to another process, as
    pyarrow's own does not (in 25.0.1)."""

    def __init__(self, region: str):
        # Only addresses, not this class, look at the variable by themselves.
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
