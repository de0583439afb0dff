"""Profile ``paper``, cut down, on the plan for a GPU: Ray counts a GPU, and who is given it computes on the CPU.

The folders come back through the options for real data, as a user gives them. Everything that would run on a GPU is
asked of Ray as such; the numbers come from the CPU.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bsp_platform.device import LOGICAL_GPUS

BENCHMARKS = Path(__file__).resolve().parents[1] / "experiments" / "benchmarks"
HEADS = {
    "vanilla": {"mAP_avg", "actionness_AP", "F1@0.05"},
    "distillation": {"mIoU"},
}


def call(script: str, *arguments: str | Path, gpus: str = "1", limit_s: float = 600) -> subprocess.CompletedProcess:
    environment = os.environ | {LOGICAL_GPUS: gpus, "OMP_NUM_THREADS": "1"}
    environment.pop("RAY_ADDRESS", None)
    return subprocess.run(
        [sys.executable, str(BENCHMARKS / f"{script}.py"), *map(str, arguments)],
        env=environment, capture_output=True, text=True, timeout=limit_s, check=False,
    )  # fmt: skip


@pytest.mark.ray
def test_the_paper_profile_runs_on_a_gpu_plan_from_videos_to_scores(tmp_path):
    done = call("end_to_end", "--work", tmp_path, "--tiny", "--cpus", "2")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    result = json.loads((tmp_path / "end_to_end.json").read_text())
    assert "plan: --device auto: GPU (logical: computed on the CPU)" in done.stdout

    gpus = result["gpus"]
    assert gpus["RayTrainWorker"] == [1.0]
    assert gpus["GpuExtractor"] == [1.0]
    assert 1.0 in gpus["work_on_a_node"]
    assert gpus["decode_video"] == [0.0]

    stages = sorted(path.parts[-3] for path in (tmp_path / "storage").glob("*/*/manifest.json"))
    assert {kind: stages.count(kind) for kind in set(stages)} == {
        "encoders": 3, "features": 4, "class_scores": 1, "heads": 6,
    }  # fmt: skip
    records = [json.loads(path.read_text()) for path in (tmp_path / "storage" / "features").glob("*/*.json")]
    assert {record["precision"] for record in records if "snippets" in record and "video_id" in record} == {"bfloat16"}
    for row in result["table"]["rows"]:
        assert HEADS[row["name"]] <= {name for name, facts in row["scores"].items() if facts["mean"] is not None}


def test_a_gpu_that_is_not_there_is_refused_before_anything_starts(tmp_path):
    done = call("end_to_end", "--work", tmp_path, "--tiny", "--device", "cuda", gpus="0", limit_s=120)
    assert done.returncode != 0
    assert "--device cuda: PyTorch" in done.stdout + done.stderr
    assert not (tmp_path / "storage").exists()
