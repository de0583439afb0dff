"""The sweep as its users meet it: a program that is run, run again, killed and continued."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest
import torch
from filelock import FileLock

sys.path.append(str(Path(__file__).parent))
from ray_processes import MARK, training_processes

TABLE_4 = Path(__file__).resolve().parents[1] / "experiments" / "ablation_table4.py"
SMALL = Path(__file__).with_name("small_sweep.py")


def command(folder: Path, *options: str) -> list[str]:
    return [sys.executable, str(SMALL), str(folder), *options]


def run(folder: Path, *options: str) -> subprocess.CompletedProcess:
    return subprocess.run(command(folder, *options), capture_output=True, text=True, timeout=600, check=False)


def table(folder: Path) -> dict:
    return json.loads((folder / "results" / "small" / "small" / "table.json").read_text())


def scores(folder: Path) -> dict:
    return {row["name"]: row["scores"] for row in table(folder)["rows"]}


def weights(folder: Path) -> list[dict]:
    files = sorted((folder / "storage" / "encoders").glob("*/encoder.pt"))
    return [torch.load(file, weights_only=True)["encoder"] for file in files]


def wait_for(condition, what: str, seconds: float = 300):
    deadline = time.time() + seconds
    while time.time() < deadline:
        found = condition()
        if found:
            return found
        time.sleep(0.1)
    raise AssertionError(f"no {what} within {seconds:.0f} s")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    done = run(folder, "--rows", "random,cls-dc,vanilla")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "random" in done.stdout
    return folder


@pytest.mark.ray
def test_the_table_says_what_it_is(undisturbed):
    content = table(undisturbed)
    assert [row["name"] for row in content["rows"]] == ["random", "cls-dc", "vanilla"]
    assert content["rows"][1]["paper"] == {"mAP_avg": 2.0}
    assert set(content["columns"]) <= set(content["rows"][0]["scores"])
    assert "embedded data set" in content["about"]
    assert content["versions"]["ray"]
    markdown = (undisturbed / "results" / "small" / "small" / "table.md").read_text()
    assert "| {dc, ss} cls |" in markdown
    lines = (undisturbed / "results" / "small" / "small" / "table.csv").read_text().splitlines()
    assert len(lines) == 1 + 3


@pytest.mark.ray
def test_the_detections_give_the_same_score_to_the_evaluate_command(undisturbed):
    from click.testing import CliRunner

    from bsp_platform.cli import main

    manifests = list((undisturbed / "storage" / "heads").glob("*/manifest.json"))
    assert len(manifests) == 3
    truth = next((undisturbed / "storage" / "pantomime").glob("*/untrimmed/activitynet.json"))
    for manifest in manifests:
        folder = manifest.parent
        out = folder / "_evaluated.json"
        arguments = ["--ground-truth", truth, "--predictions", folder / "detections.json", "--output-json", out]
        done = CliRunner().invoke(main, ["evaluate", "detection", *map(str, arguments)])
        assert done.exit_code == 0, done.output
        expected = json.loads((folder / "scores.json").read_text())["scores"]["mAP_avg"]
        assert 100 * json.loads(out.read_text())["average_mAP"] == pytest.approx(expected, rel=1e-12)


@pytest.mark.ray
def test_a_second_run_makes_nothing_and_does_not_even_start_ray(undisturbed):
    made = {path: path.stat().st_mtime_ns for path in (undisturbed / "storage").rglob("manifest.json")}
    before = scores(undisturbed)
    done = run(undisturbed, "--rows", "random,cls-dc,vanilla")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 runs, 3 already finished" in done.stdout
    assert "at a time" not in done.stdout
    assert {path: path.stat().st_mtime_ns for path in (undisturbed / "storage").rglob("manifest.json")} == made
    assert scores(undisturbed) == before


@pytest.mark.ray
def test_mlflow_shows_a_parent_and_one_run_per_row_with_curves_and_scores(undisturbed):
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{undisturbed / 'mlflow' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("small")
    runs = client.search_runs([experiment.experiment_id])
    children = {r.data.params["row"]: r for r in runs if "mlflow.parentRunId" in r.data.tags}
    assert set(children) == {"random", "{dc, ss} cls", "vanilla"}
    assert len(runs) == 4
    assert {r.info.status for r in runs} == {"FINISHED"}
    child = children["{dc, ss} cls"]
    assert child.data.metrics["mAP_avg"] == pytest.approx(scores(undisturbed)["cls-dc"]["mAP_avg"]["mean"])
    assert child.data.tags["paper.mAP_avg"] == "2.0"
    curve = client.get_metric_history(child.info.run_id, "pretrain/loss")
    assert [point.step for point in curve] == list(range(5, 201, 5))
    artifacts = {file.path for file in client.list_artifacts(child.info.run_id)}
    assert {"gtad", "encoder.pt"} <= artifacts
    files = {file.path for file in client.list_artifacts(child.info.run_id, "gtad")}
    assert files == {"gtad/scores.json", "gtad/detections.json"}


@pytest.mark.ray
def test_fusion_rows_reuse_what_the_other_table_made(undisturbed, tmp_path_factory):
    folder = tmp_path_factory.mktemp("fusion") / "copy"
    shutil.copytree(undisturbed, folder)
    made = {path.parent.name for path in (folder / "storage" / "encoders").glob("*/manifest.json")}
    done = run(folder, "--table", "fusion")
    assert done.returncode == 0, done.stdout + done.stderr
    encoders = {}
    for path in (folder / "storage" / "encoders").glob("*/manifest.json"):
        encoders[json.loads(path.read_text())["facts"]["name"].split("_")[0]] = path.parent.name in made
    # Vanilla and boundary encoders were there; only the two joint ones are trained, once each.
    assert encoders == {"random": True, "dc+ss": True, "action": True, "two-head": False, "distilled": False}
    assert "reused from storage: encoders/action_tsm_r18w8_seed0_step200 for two-stream seed 0" in done.stdout
    content = table(folder)
    rows = {row["name"]: row for row in content["rows"]}
    assert rows["cls-dc"]["reused_stages"]["0"].keys() == {"encoders", "features", "heads"}
    assert set(rows["two-stream"]["scores"]) >= {"R1@0.5", "R5@0.7", "mIoU", "mAP_avg"}
    assert "mAP_avg" not in rows["distillation"]["scores"]
    assert set(rows["two-head"]["scores"]) >= {"R1@0.5", "mIoU"}
    cost = {name: row["cost"] for name, row in rows.items()}
    for name in ("two-head", "distillation"):
        assert 2 * cost[name]["flops_per_clip"] == cost["two-stream"]["flops_per_clip"]
        assert 2 * cost[name]["parameters"] == cost["two-stream"]["parameters"]
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder / 'mlflow' / 'mlflow.db'}")
    runs = client.search_runs([client.get_experiment_by_name("small").experiment_id])
    recorded = {r.data.params["row"]: r.data.metrics for r in runs if "cost/streams" in r.data.metrics}
    assert {name: metrics["cost/streams"] for name, metrics in recorded.items()}["2-stream"] == 2
    assert recorded["feat dist"]["cost/flops_per_clip"] == cost["distillation"]["flops_per_clip"]
    markdown = (folder / "results" / "small" / "small" / "table.md").read_text()
    assert "| Other (cited) |" in markdown
    assert "learnt from scratch" in markdown
    again = run(folder, "--table", "fusion")
    assert "5 runs, 5 already finished" in again.stdout
    assert "at a time" not in again.stdout


@pytest.mark.ray
def test_killed_worker_then_killed_driver_then_the_same_command_gives_the_same_table(undisturbed, tmp_path):
    mark = uuid.uuid4().hex
    driver = subprocess.Popen(
        command(tmp_path, "--rows", "random,cls-dc,vanilla"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, MARK: mark},
    )

    def saved() -> list[Path]:
        return list((tmp_path / "storage" / "encoders").glob("*/_train/run/checkpoint_manager_snapshot.json"))

    wait_for(saved, "checkpoint")
    workers = wait_for(lambda: training_processes(mark), "training process")
    os.kill(workers[0], signal.SIGKILL)
    wait_for(lambda: set(training_processes(mark)) - set(workers), "restarted training process")
    time.sleep(3)
    unfinished = not list((tmp_path / "storage" / "heads").glob("*/manifest.json"))
    driver.kill()
    driver.wait()
    assert unfinished, "everything was over before the driver was killed; the test proves nothing"
    wait_for(lambda: not training_processes(mark), "end of the killed sweep's processes", 120)

    done = run(tmp_path, "--rows", "random,cls-dc,vanilla")
    assert done.returncode == 0, done.stdout + done.stderr
    assert scores(tmp_path) == scores(undisturbed)
    for ours, theirs in zip(weights(tmp_path), weights(undisturbed), strict=True):
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)

    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow' / 'mlflow.db'}")
    runs = client.search_runs([client.get_experiment_by_name("small").experiment_id])
    assert len(runs) == 4
    assert {r.info.status for r in runs} == {"FINISHED"}


@pytest.mark.ray
def test_a_failed_row_is_reported_and_does_not_take_the_others_with_it(tmp_path):
    # One video per class: same-class pairs are impossible.
    done = run(tmp_path, "--rows", "random,reg-sc", "--videos-per-class", "1")
    assert done.returncode == 1
    assert "FAILED reg-sc seed 0: " in done.stdout
    assert "SAME_CLASS needs a class with two videos" in done.stdout
    rows = {row["name"]: row for row in table(tmp_path)["rows"]}
    assert "mAP_avg" in rows["random"]["scores"]
    assert not rows["reg-sc"]["scores"]
    assert "SAME_CLASS" in rows["reg-sc"]["failures"]["0"]

    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow' / 'mlflow.db'}")
    runs = {r.info.run_name: r for r in client.search_runs([client.get_experiment_by_name("small").experiment_id])}
    assert runs["03 {sc} reg seed 0"].info.status == "FAILED"
    # The random row also trained the vanilla encoder that gives all rows their class scores: not its own curve.
    assert not [name for name in runs["01 random seed 0"].data.metrics if name.startswith("pretrain/")]


@pytest.mark.ray
def test_terminated_sweeps_say_how_to_continue(tmp_path):
    script = [sys.executable, str(TABLE_4), "--profile", "smoke", "--rows", "random"]
    places = ["--storage", str(tmp_path / "s"), "--results", str(tmp_path / "r"), "--tracking-uri"]
    sweep = subprocess.Popen(
        [*script, *places, f"sqlite:///{tmp_path}/mlflow.db"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    for line in sweep.stdout:
        if "features" in line:
            break
    sweep.terminate()
    _, errors = sweep.communicate(timeout=120)
    assert sweep.returncode == 130
    assert "the same command continues" in errors
    assert not list((tmp_path / "s" / "heads").glob("*/manifest.json"))


def table4(*options: str, **more) -> subprocess.CompletedProcess:
    script = [sys.executable, str(TABLE_4)]
    return subprocess.run([*script, *options], capture_output=True, text=True, timeout=120, check=False, **more)


def test_a_second_run_at_the_same_time_is_refused(tmp_path):
    with FileLock(str(tmp_path / "ablation_table4.lock")):
        done = table4("--profile", "smoke", "--storage", str(tmp_path), "--results", str(tmp_path / "r"))
    assert done.returncode == 1
    assert "already running" in done.stderr


@pytest.mark.parametrize(
    ("options", "status", "message"),
    [
        (["--no-such-option"], 2, "No such option"),
        (["--profile", "huge"], 2, "'huge' is not one of"),
        (["--seeds", "0"], 2, "0 is not in the range x>=1"),
        (["--rows", "random,nope"], 1, "--rows nope: unknown; the rows are random, reg-dc"),
        (["--profile", "paper"], 1, "profile paper needs --kinetics DIR and --activitynet DIR"),
        (["--profile", "smoke", "--kinetics", "."], 1, "go with --profile paper"),
    ],
)
def test_bad_options_are_named(tmp_path, options, status, message):
    done = table4(*options, "--storage", str(tmp_path / "s"), "--results", str(tmp_path / "r"), cwd=tmp_path)
    assert done.returncode == status
    assert message in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("kind", ["missing", "empty", "no video"])
def test_folders_without_videos_are_named(tmp_path, kind):
    folder = tmp_path / "kinetics"
    if kind != "missing":
        folder.mkdir()
    if kind == "no video":
        (folder / "wave").mkdir()
        (folder / "wave" / "notes.txt").write_text("no video")
    options = ["--profile", "paper", "--kinetics", str(folder), "--activitynet", str(tmp_path)]
    done = table4(*options, "--storage", str(tmp_path / "s"), "--results", str(tmp_path / "r"))
    assert done.returncode == 1
    assert str(folder) in done.stderr
    assert "Traceback" not in done.stderr
