"""A small table on Ray with storage on S3 equals the one with storage in a folder, weights and scores."""

import io
import json
import os
import subprocess
import sys

import pytest
import torch

from repository import SUPPORT
from s3_server import BUCKET, s3_server


@pytest.mark.ray
@pytest.mark.slow
def test_a_table_on_s3_equals_that_of_a_folder(tmp_path):
    with s3_server() as server:
        address = f"s3://{BUCKET}/tables/run"
        program = SUPPORT / "s3_sweep.py"
        done = subprocess.run(
            [sys.executable, str(program), str(tmp_path), address],
            capture_output=True, text=True, timeout=900, check=False, env={**os.environ, **server.environment()},
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        told = [json.loads(line[4:]) for line in done.stdout.splitlines() if line.startswith("RUN ")]
        runs = {run["name"]: run for run in told}
        assert [run["status"] for run in runs.values()] == [0, 0, 0, 0]
        folder = runs["folder"]["scores"]
        assert folder["AR@100"]["mean"] > 0
        for name in ("s3", "without cache and head", "again"):
            assert runs[name]["scores"] == folder, name
        assert "1 runs, 1 already finished" in done.stdout
        put = [request for request in server.seen if request.startswith("PUT") and "/before/" not in request]
        made = [request.split("/")[-1] for request in put]
        assert (made.count("encoder.pt"), made.count("features.h5"), made.count("scores.json")) == (1, 1, 2)
        assert any("/_train/run/checkpoint_" in r and r.endswith("state.pt") for r in server.seen)  # by Ray Train

        import boto3

        client = boto3.session.Session().client("s3")
        found = client.list_objects_v2(Bucket=BUCKET, Prefix="tables/run/encoders/")["Contents"]
        keys = [entry["Key"] for entry in found if not entry["Key"].endswith("/")]
        assert sorted(key.split("/")[-1] for key in keys) == ["encoder.pt", "history.json", "manifest.json"]
        weights = client.get_object(Bucket=BUCKET, Key=next(k for k in keys if k.endswith(".pt")))["Body"].read()
        remote = torch.load(io.BytesIO(weights), weights_only=True)["encoder"]
        local = torch.load(next((tmp_path / "storage" / "encoders").glob("*/encoder.pt")), weights_only=True)["encoder"]
        assert all(torch.equal(value, remote[name]) for name, value in local.items())
