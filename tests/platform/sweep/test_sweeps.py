"""The sweep as its users meet it: a program that is run, run again, killed and continued."""

import contextlib
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
from click.testing import CliRunner
from filelock import FileLock
from safetensors import safe_open

import ablation_table4
from bsp_platform.plan.options import experiment_command
from bsp_platform.tracking.mlflow_store import MlflowStore
from mlflow_runs import all_of
from ray_processes import MARK, training_processes
from repository import EXPERIMENTS, SUPPORT

TABLE_4 = EXPERIMENTS / "ablation_table4.py"
SMALL = SUPPORT / "small_sweep.py"
ROWS = "random,cls-dc,vanilla"


def command(folder: Path, *options: str) -> list[str]:
    return [sys.executable, str(SMALL), str(folder), *options]


def run(folder: Path, *options: str) -> subprocess.CompletedProcess:
    return subprocess.run(command(folder, *options), capture_output=True, text=True, timeout=600, check=False)


def table(folder: Path, name: str = "small") -> dict:
    return json.loads((folder / "results" / name / "small" / "table.json").read_text())


def scores(folder: Path, name: str = "small") -> dict:
    return {row["name"]: row["scores"] for row in table(folder, name)["rows"]}


def runs_by_row(folder: Path, name: str) -> dict[str, dict]:
    """Of MLflow's runs: status, and loss and accuracy by step of every curve; "" is the parent."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder / 'mlflow' / 'mlflow.db'}")
    found = {}
    for run in client.search_runs([client.get_experiment_by_name(name).experiment_id]):
        row = run.data.params.get("row", "")
        assert row not in found, f"two runs of {row}"
        curves = {
            metric: sorted((p.step, p.value) for p in client.get_metric_history(run.info.run_id, metric))
            for metric in run.data.metrics
            if metric.endswith(("loss", "accuracy"))
        }
        found[row] = {"status": run.info.status, "curves": curves}
    return found


def weights(folder: Path) -> list[dict]:
    files = sorted((folder / "storage" / "encoders").glob("*/encoder.pt"))
    return [torch.load(file, weights_only=True)["encoder"] for file in files]


def wait_for(condition, what: str, seconds: float = 600):
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
    done = run(folder, "--rows", ROWS)
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
    assert not [note for note in content["notes"] if "resampled" in note]
    (claim,) = content["claims"]
    assert claim["videos"] == 4  # all of the validation subset were resampled
    assert claim["low"] <= claim["mean"] <= claim["high"]
    markdown = (undisturbed / "results" / "small" / "small" / "table.md").read_text()
    assert "| {dc, ss} cls |" in markdown
    lines = (undisturbed / "results" / "small" / "small" / "table.csv").read_text().splitlines()
    assert len(lines) == 1 + 3


@pytest.mark.ray
def test_the_storage_holds_nothing_that_anybody_would_unpickle(undisturbed):
    """Tune keeps pickles of a run: in a private folder of the driver, which is gone with it."""
    files = [path for path in (undisturbed / "storage").rglob("*") if path.is_file()]
    assert files
    assert [path for path in files if path.suffix in (".pkl", ".pickle") or "tune" in path.parts] == []
    for path in files:
        if path.suffix == ".pt":
            torch.load(path, weights_only=True)
        elif path.suffix == ".safetensors":  # begins with the length of its header, which may be any byte
            with safe_open(path, "pt") as file:
                assert file.keys()
        else:
            assert path.read_bytes()[:1] != b"\x80", path  # what a pickle begins with


@pytest.mark.ray
def test_the_detections_give_the_same_score_to_the_evaluate_command(undisturbed):
    from bsp_platform.cli.main import main

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
    done = run(undisturbed, "--rows", ROWS)
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
    assert child.data.metrics["ours/mAP_avg"] == round(scores(undisturbed)["cls-dc"]["mAP_avg"]["mean"], 2)
    assert child.data.metrics["paper/mAP_avg"] == 2.0
    curve = client.get_metric_history(child.info.run_id, "training/pretrain/loss")
    assert [point.step for point in curve] == list(range(5, 201, 5))
    artifacts = {file.path for file in client.list_artifacts(child.info.run_id)}
    assert {"gtad", "encoder.pt"} <= artifacts
    files = {file.path for file in client.list_artifacts(child.info.run_id, "gtad")}
    assert files == {"gtad/scores.json", "gtad/detections.json"}


@pytest.mark.ray
def test_an_mlflow_that_was_lost_is_filled_from_the_storage(undisturbed, tmp_path):
    from bsp_platform.cli.main import main

    arguments = ["--storage", str(undisturbed / "storage"), "--home", str(tmp_path / "mlflow")]
    done = CliRunner().invoke(main, ["deliver", *arguments])
    assert done.exit_code == 0, done.output
    expected = all_of(MlflowStore(None, undisturbed / "mlflow"), tmp_path / "expected", "small")
    for run in expected.values():  # what no stage holds: the load of the machine
        run["metrics"] = {name: points for name, points in run["metrics"].items() if not name.startswith("system/")}
    assert all_of(MlflowStore(None, tmp_path / "mlflow"), tmp_path / "shown", "small") == expected


@pytest.mark.ray
def test_rows_that_earlier_versions_finished_are_shown_too(undisturbed, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(undisturbed, folder, ignore=shutil.ignore_patterns("mlflow*", "runs"))
    done = run(folder, "--rows", ROWS)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 runs, 3 already finished" in done.stdout
    assert runs_by_row(folder, "small") == runs_by_row(undisturbed, "small")
    shown, expected = (
        all_of(MlflowStore(None, of / "mlflow"), tmp_path / of.name, "small") for of in (folder, undisturbed)
    )
    assert {key: (set(run["files"]), run["params"], run["parent"]) for key, run in shown.items()} == {
        key: (set(run["files"]), run["params"], run["parent"]) for key, run in expected.items()
    }


@pytest.mark.ray
@pytest.mark.slow
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
    assert {"mAP_avg", "accuracy"} <= set(rows["toys"]["scores"])  # encoder, pretext and head of tests/examples
    cost = {name: row["cost"] for name, row in rows.items()}
    for name in ("two-head", "distillation"):
        assert 2 * cost[name]["flops_per_clip"] == cost["two-stream"]["flops_per_clip"]
        assert 2 * cost[name]["parameters"] == cost["two-stream"]["parameters"]
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder / 'mlflow' / 'mlflow.db'}")
    runs = client.search_runs([client.get_experiment_by_name("small").experiment_id])
    recorded = {r.data.params["row"]: r.data.metrics for r in runs if "usage/streams" in r.data.metrics}
    assert {name: metrics["usage/streams"] for name, metrics in recorded.items()}["2-stream"] == 2
    assert recorded["feat dist"]["usage/flops_per_clip"] == cost["distillation"]["flops_per_clip"]
    assert {"training/pretrain/action_accuracy", "training/pretrain/boundary_accuracy"} <= recorded["toys"].keys()
    markdown = (folder / "results" / "small" / "small" / "table.md").read_text()
    assert "| Other (cited) |" in markdown
    assert "learnt from scratch" in markdown


class Driver:
    """A sweep as a process of its own; ``mark`` finds the processes of its Ray."""

    def __init__(self, folder: Path, log: Path, *options: str):
        self.mark, self.log = uuid.uuid4().hex, log
        with log.open("w") as out:
            self.process = subprocess.Popen(
                command(folder, *options), stdout=out, stderr=subprocess.STDOUT, env={**os.environ, MARK: self.mark}
            )

    def said(self, text: str) -> bool:
        return text in self.log.read_text()

    def check(self) -> bool:
        """Whether it is over. An end that nobody wanted is an AssertionError with what it said."""
        status = self.process.poll()
        assert status in (None, 0, -signal.SIGKILL), self.log.read_text()
        return status is not None

    def training(self) -> list[int]:
        return training_processes(self.mark)


@pytest.fixture(scope="module")
def disturbed(undisturbed, tmp_path_factory):
    """Two sweeps that share their encoders, features and heads, on one storage; the first loses a training worker and
    is then killed while the second waits for what it makes; the same command continues it beside the second.

    Yields the folder, the steps of the checkpoints at the two kills, and when each stage was completed.
    """
    folder, logs, happened = tmp_path_factory.mktemp("disturbed"), tmp_path_factory.mktemp("logs"), []
    drivers = []
    made: dict[Path, set[int]] = {}

    def watched(condition):
        def look():
            for driver in drivers:
                driver.check()
            for path in (folder / "storage").glob("*/*/manifest.json"):
                made.setdefault(path, set()).add(path.stat().st_mtime_ns)
            return condition()

        return look

    def start(*options: str) -> Driver:
        drivers.append(Driver(folder, logs / f"{len(drivers)}.log", *options))
        return drivers[-1]

    def saved_steps() -> dict[str, int]:
        """Step of the last checkpoint of every encoder that is being trained."""
        found = {}
        for path in (folder / "storage" / "encoders").glob("*/_train/run/checkpoint_manager_snapshot.json"):
            with contextlib.suppress(OSError, ValueError, TypeError):  # just being written, or over
                last = json.loads(path.read_text())["latest_checkpoint_result"]
                found[path.parents[2].name] = last["metrics"]["step"]
        return found

    try:
        first = start("--rows", ROWS)
        wait_for(watched(saved_steps), "checkpoint")
        workers = first.training()
        for pid in workers:  # it stays in the middle of the work until the second has come
            os.kill(pid, signal.SIGSTOP)
        (encoder, step), *_ = saved_steps().items()
        second = start("--table", "other")
        wait_for(watched(lambda: second.said("waiting for pretrain")), "second driver that waits for the first")
        for pid in workers:
            os.kill(pid, signal.SIGKILL)
        wait_for(watched(lambda: set(first.training()) - set(workers)), "restarted training process")
        wait_for(watched(lambda: saved_steps().get(encoder, 0) > step), "later checkpoint")
        happened += [step, saved_steps().get(encoder)]
        first.process.kill()
        first.process.wait()
        assert happened[1], "the encoder was finished before the driver was killed; the test proves nothing"
        made_by_now = folder / "storage" / "encoders" / encoder / "manifest.json"  # by what outlived the driver
        wait_for(watched(lambda: second.training() or made_by_now.exists()), "second driver that goes on")
        third = start("--rows", ROWS)
        for driver in (second, third):
            wait_for(watched(driver.check), "end of the sweep")
        yield folder, happened, made
    finally:
        for driver in drivers:
            if driver.process.poll() is None:
                driver.process.terminate()
                driver.process.wait()


@pytest.mark.ray
@pytest.mark.fault
def test_killed_worker_then_killed_driver_then_the_same_command_gives_the_same_table(undisturbed, disturbed, fault_row):
    folder, (worker_step, driver_step), _ = disturbed
    same = [
        torch.equal(ours[name], theirs[name])
        for ours, theirs in zip(weights(folder), weights(undisturbed), strict=True)
        for name in theirs
    ]
    runs, expected = runs_by_row(folder, "small"), runs_by_row(undisturbed, "small")
    assert set(runs) == set(expected)  # a parent, and one run per row
    assert {run["status"] for run in runs.values()} == {"FINISHED"}
    for row, run in runs.items():  # no holes, nothing twice
        assert run["curves"] == expected[row]["curves"], row
    assert [step for step, _ in runs["vanilla"]["curves"]["training/pretrain/loss"]] == list(range(5, 201, 5))
    fault_row(
        "SIGKILL of a training worker, then of the head's driver; then the same command",
        f"worker restarted from step {worker_step} of 200; training continued from step {driver_step}; scores, "
        f"{len(same)} weight tensors and the curves in MLflow compared",
        equal=scores(folder) == scores(undisturbed) and all(same),
    )


@pytest.mark.ray
@pytest.mark.fault
def test_two_drivers_on_one_storage_share_what_they_make(undisturbed, disturbed, fault_row):
    folder, (_, driver_step), made = disturbed
    expected = {row: scores(undisturbed)[row] for row in ("cls-dc", "vanilla")}
    stages = {path.relative_to(undisturbed) for path in (undisturbed / "storage").glob("*/*/manifest.json")}
    assert {path.relative_to(folder) for path in made} == stages
    runs = runs_by_row(folder, "other")
    assert {run["status"] for run in runs.values()} == {"FINISHED"}
    assert len(runs) == 3
    twice = [path for path, times in made.items() if len(times) > 1]
    fault_row(
        "two drivers on one storage; the one that the other waits for gets SIGKILL",
        f"the other went on from step {driver_step}; of {len(made)} stages {len(twice)} were made twice",
        equal=scores(folder, "other") == expected and not twice,
    )


@pytest.mark.ray
@pytest.mark.slow
def test_a_failed_row_is_reported_and_does_not_take_the_others_with_it(tmp_path):
    # One video per class: same-class pairs are impossible.
    done = run(tmp_path, "--rows", "random,reg-sc", "--videos-per-class", "1", "--clips", "80")
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
    assert not [name for name in runs["01 random seed 0"].data.metrics if name.startswith("training/pretrain/")]


@pytest.mark.ray
@pytest.mark.slow
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


def table4(*options: str):
    """The script in this process: what is refused is refused before anything starts."""
    return CliRunner().invoke(experiment_command(TABLE_4.parents[1], ablation_table4.main), options)


def test_a_second_run_at_the_same_time_is_refused(tmp_path):
    with FileLock(str(tmp_path / "ablation_table4.lock")):
        done = table4("--profile", "smoke", "--storage", str(tmp_path), "--results", str(tmp_path / "r"))
    assert done.exit_code == 1
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
    done = table4(*options, "--storage", str(tmp_path / "s"), "--results", str(tmp_path / "r"))
    assert done.exit_code == status
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
    assert done.exit_code == 1
    assert str(folder) in done.stderr
    assert "Traceback" not in done.stderr
