"""pyarrow's S3 file system with more patience, for what Ray Train keeps on S3: its checkpoints."""

from __future__ import annotations

import os

from pyarrow.fs import AwsStandardS3RetryStrategy, FileSystem, S3FileSystem

# Choice: up to 7 tries, with AWS's random pauses that double up to 20 s: some 15 s on average, as storage/errors.py.
_TRIES = 7


class PatientS3FileSystem(S3FileSystem):
    """Keeps its patience when it is sent to another process, which pyarrow's own forgets (in 25.0.1)."""

    def __init__(self, region: str):
        # Only addresses, not this class, look at the variable by themselves.
        url = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
        scheme, _, host = url.rstrip("/").partition("://")
        endpoint = {"scheme": scheme, "endpoint_override": host} if host else {}
        super().__init__(region=region, retry_strategy=AwsStandardS3RetryStrategy(max_attempts=_TRIES), **endpoint)

    def __reduce__(self):
        return PatientS3FileSystem, (self.region,)


def arrow_file_system(address: str) -> tuple[PatientS3FileSystem, str]:
    """The file system and the path in it of ``s3://bucket/path``."""
    plain, path = FileSystem.from_uri(address)  # asks for the bucket's region
    return PatientS3FileSystem(plain.region), path
