"""Profile ``paper``, cut down, on the plan for a GPU: Ray counts a GPU, and who is given it computes on the CPU.

The folders come back through the options for real data, as a user gives them. Everything that would run on a GPU is
asked of Ray as such; the numbers come from the CPU.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from click.testing import CliRunner

from bsp_platform.plan.device import LOGICAL_GPUS
from repository import EXPERIMENTS

BENCHMARKS = EXPERIMENTS / "benchmarks"
HEADS = {
    "vanilla": {"mAP_avg", "AP", "F1@0.05"},
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
    assert gpus["run_on_node"] == [1.0]
    assert gpus["decode_video"] == [0.0]

    stages = sorted(path.parts[-3] for path in (tmp_path / "storage").glob("*/*/manifest.json"))
    assert {kind: stages.count(kind) for kind in set(stages)} == {
        "encoders": 3, "features": 4, "class_scores": 1, "heads": 6,
    }  # fmt: skip
    records = [json.loads(path.read_text()) for path in (tmp_path / "storage" / "features").glob("*/*.json")]
    assert {record["precision"] for record in records if "snippets" in record and "video_id" in record} == {"bfloat16"}
    for row in result["table"]["rows"]:
        assert HEADS[row["name"]] <= {name for name, facts in row["scores"].items() if facts["mean"] is not None}


@pytest.mark.long
def test_a_gpu_that_is_not_there_is_refused_before_anything_starts(tmp_path):
    done = call("end_to_end", "--work", tmp_path, "--tiny", "--device", "cuda", gpus="0", limit_s=120)
    assert done.returncode != 0
    assert "--device cuda: PyTorch" in done.stdout + done.stderr
    assert not (tmp_path / "storage").exists()


@pytest.mark.ray
@pytest.mark.slow
def test_the_gpu_check_walks_without_a_gpu(tmp_path):
    """Its first part is the test above."""
    parts = ("extraction", "training", "steps")
    options = {"out": tmp_path, "parts": ",".join(parts), "cpus": 2, "limit": 900}
    done = call("gpu_check", "--tiny", *(f"--{name}={value}" for name, value in options.items()), limit_s=1000)
    assert done.returncode == 0, done.stdout
    results = {name: json.loads((tmp_path / f"{name}.json").read_text()) for name in parts}
    assert results["extraction"]["device"] == "cuda"  # that is, the plan's
    for result in (*results["extraction"]["rows"], results["training"], *results["steps"]["rows"]):
        assert result["ratio"] > 0
    assert "== steps: ok" in (tmp_path / "summary.txt").read_text()


@pytest.mark.long
def test_a_part_that_fails_or_takes_too_long_costs_itself_alone(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import gpu_check

    scripts = {
        "good": "import pathlib, sys; pathlib.Path(sys.argv[2]).mkdir(parents=True); "
        "pathlib.Path(sys.argv[2], 'good.json').write_text('{}'); print('fine')",
        "bad": "raise SystemExit('broken')",
        "slow": "import subprocess; print('begun', flush=True); subprocess.run(['sleep', '987'])",
    }
    for name, text in scripts.items():
        (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.setattr(gpu_check, "HERE", tmp_path)
    monkeypatch.setattr(gpu_check, "PARTS", [gpu_check.Part(name, 5) for name in ("slow", "bad", "good")])
    out = tmp_path / "out"
    result = CliRunner().invoke(gpu_check.main, ["--out", str(out), "--parts", "slow,bad,good"])
    assert result.exit_code == 1
    rows = {row["part"]: row for row in json.loads((out / "summary.json").read_text())}
    assert rows["slow"]["status"] == "stopped after 5 s"
    assert rows["slow"]["last"] == ["begun"]
    assert (rows["bad"]["status"], rows["bad"]["last"]) == ("1", ["broken"])
    assert (rows["good"]["status"], rows["good"]["last"]) == ("0", ["fine"])
    assert (out / "good.json").exists()
    assert not any("987" in (process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"]))
