"""Storage on S3: the same results as a folder's, from any node, through outages, dead holders and damage."""

import json
import pickle
import shutil
import signal
import threading
import time
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from bsp.models.folder import load_model
from bsp_platform.cli.main import main
from bsp_platform.storage import leases
from bsp_platform.storage.run_places import place_for_runs
from bsp_platform.storage.stages import StageStore
from bsp_platform.sweep.tracking import finished
from bsp_platform.tracking.mlflow_store import MlflowStore
from bsp_platform.tracking.names import metric_name, our_scores
from bsp_platform.tracking.record import RunRecord, attach, write_record
from mlflow_runs import all_of
from row_without_ray import another_node, row, undisturbed  # noqa: F401 (fixtures)
from s3_server import BUCKET, s3_server
from search_cases import open_study, space
from stage_worker import Recipe
from two_drivers import BUILT_ONCE, expected, run_two_drivers, start

pytestmark = pytest.mark.server  # S3


@pytest.fixture(scope="module")
def server():
    with s3_server() as running:
        yield running


@pytest.fixture
def address(server, request, tmp_path, monkeypatch) -> str:
    """Of an empty storage; copies go below tmp_path."""
    monkeypatch.setenv("BSP_CACHE", str(tmp_path / "cache"))
    return f"s3://{BUCKET}/{request.node.name.split('[')[0]}/storage"


def wait_for(condition, what: str) -> None:
    deadline = time.time() + 100
    while not condition():
        assert time.time() < deadline, f"no {what}"
        time.sleep(0.05)


def text_stage(text: str, made: list):
    def build(folder: Path) -> dict:
        made.append(text)
        (folder / "text").write_text(text)
        return {"length": len(text)}

    return build


def test_a_row_on_s3_has_the_scores_of_a_folder_and_is_found_from_anywhere(row, undisturbed, address, tmp_path):  # noqa: F811
    assert row.run(address) == undisturbed[1]
    assert row.made == ["encoders", "features", "class_scores", "heads"]
    assert row.run(address) == undisturbed[1]
    assert row.made == row.extracted == []
    for name in ("cache", "actor node", "head node"):
        assert (tmp_path / name).is_dir()  # they did work apart
        shutil.rmtree(tmp_path / name)
    store = StageStore(address)
    for kind, recipe in row.recipes.stages():
        assert store.has(kind, recipe)
        folder = store.folder(kind, recipe)
        assert not folder.exists()  # nothing was copied to know that
        same = {p.name: p.read_bytes() for p in (undisturbed[0] / kind / folder.name).glob("*.npy")}
        assert store.find(kind, recipe) == folder
        assert {p.name: p.read_bytes() for p in folder.glob("*.npy")} == same
    shutil.rmtree(tmp_path / "cache")
    models = row.write_models(address, tmp_path / "models")
    assert load_model(models.folders["random", 0, "gtad"]).has_encoders
    assert row.write_models(address, tmp_path / "models").made == 0
    shutil.rmtree(tmp_path / "cache")
    store.put_aside("heads", row.recipes.heads["gtad"])
    assert row.run(address) == undisturbed[1]
    assert (row.made, row.extracted) == (["heads"], [])


def test_a_search_is_continued_by_a_driver_whose_disk_is_new(address, tmp_path):
    found = space(epsilon="2", kinds="dc+ss")
    study = open_study(address, found)
    assert study.begin(1).number == 1
    study.probed(1, 0, 41.5)
    shutil.rmtree(tmp_path / "cache")
    (trial,) = open_study(address, found).trials()
    assert (trial.number, trial.setting.epsilon, trial.probes) == (1, 2, {0: 41.5})
    StageStore(address).write_note("study.jsonl", b"{")
    with pytest.raises(ValueError, match=rf"{address}/study\.jsonl is damaged"):
        open_study(address, found)


def test_what_mlflow_shows_is_sent_by_a_driver_whose_disk_is_new(row, undisturbed, address, tmp_path):  # noqa: F811
    store = StageStore(address)
    assert row.run(address) == undisturbed[1]
    (tmp_path / "table.md").write_text("12.5")
    record = RunRecord(experiment="exp", key="p", name="r", started_ms=1)
    record = attach(store, finished(record, row.recipes, store, ()), [tmp_path / "table.md"])
    write_record(store, record)
    shutil.rmtree(tmp_path / "cache")
    done = CliRunner().invoke(main, ["deliver", "--storage", address, "--home", str(tmp_path / "mlflow")])
    assert done.exit_code == 0, done.output
    shown = all_of(MlflowStore(None, tmp_path / "mlflow"), tmp_path / "files")["p"]
    assert set(shown["files"]) == {"encoder.pt", "gtad/detections.json", "gtad/scores.json", "table.md"}
    assert shown["files"]["table.md"] == b"12.5"
    expected = {metric_name(name): repr(value) for name, value in our_scores(undisturbed[1], ()).items()}
    assert {name: shown["metrics"][name][0][1] for name in expected} == expected


@pytest.mark.fault
def test_an_interrupted_extraction_continues_on_another_node(row, undisturbed, address, tmp_path, fault_row):  # noqa: F811
    with pytest.raises(InterruptedError):
        row.run(address, stop_after=2)
    first = row.extracted
    assert len(first) == 4
    for name in ("cache", "actor node", "head node"):
        shutil.rmtree(tmp_path / name, ignore_errors=True)
    scores = row.run(address)
    assert sorted(first + row.extracted) == sorted(v.video_id for v in row.data["activitynet"].videos)
    done = f"{len(first)} videos found on S3 by a node with nothing of its own, {len(row.extracted)} extracted"
    fault_row("driver and its disk gone in mid-extraction (S3)", done, equal=scores == undisturbed[1])


@pytest.mark.fault
def test_the_server_goes_away_and_comes_back(server, address, tmp_path, fault_row):
    worker = start(address, "own", tmp_path / "log", "--pause", "0.5")
    wait_for((tmp_path / "log").exists, "first stage")
    server.stop()
    time.sleep(2.5)
    server.start()
    server.busy = 4
    out, errors = worker.communicate(timeout=120)
    assert worker.returncode == 0, errors
    assert "failed" in errors
    assert address in errors
    done = f"refused for 2.5 s, then 4 times 503; {errors.count('failed')} pauses, nothing made twice"
    assert len((tmp_path / "log").read_text().splitlines()) == 4
    fault_row("S3 server stopped and started again", done, equal=out.strip() == expected("own"))


@pytest.mark.fault
def test_two_drivers_on_s3_make_shared_stages_once(address, tmp_path, fault_row):
    # Building takes longer than the lease: only its renewal keeps the other driver away.
    printed, built = run_two_drivers(address, tmp_path, "--lease", "1.5", "--pause", "2")
    assert built == BUILT_ONCE
    done = f"3 shared stages and one of each driver: {len(built)} builds, each longer than the lease"
    fault_row("two drivers on one S3 storage", done, equal=printed == [expected("first"), expected("second")])


@pytest.mark.fault
def test_the_claim_of_a_killed_driver_ends(address, tmp_path, fault_row):
    first = start(address, "own", tmp_path / "log", "--lease", "2", "--pause", "100")
    wait_for((tmp_path / "log").exists, "first stage")
    first.send_signal(signal.SIGKILL)
    first.wait()
    began = time.time()
    second = start(address, "own", tmp_path / "log", "--pause", "0")
    out, errors = second.communicate(timeout=120)
    assert second.returncode == 0, errors
    assert "is dead; taken over" in errors
    done = f"its claim (lease 2 s) was taken over, {time.time() - began:.0f} s in all"
    fault_row("SIGKILL of a driver that holds a claim on S3", done, equal=out.strip() == expected("own"))


def test_a_claim_that_was_taken_over_is_not_published(address, monkeypatch):
    monkeypatch.setattr(leases, "LEASE_S", 3600.0)
    store = StageStore(address)
    folder = store.folder("things", Recipe("x", 0))

    def build(folder: Path) -> dict:
        store.bucket.write(f"things/{folder.name}.lease", b"somebody else")
        return {}

    with pytest.raises(RuntimeError, match="another one has taken over; run the same command again"):
        store.ensure("things", Recipe("x", 0), build)
    assert store.find("things", Recipe("x", 0)) is None
    assert store.bucket.read(f"things/{folder.name}.lease") == b"somebody else"


def test_only_one_run_of_a_name(address, monkeypatch):
    monkeypatch.setattr(leases, "LEASE_S", 1.0)
    store = StageStore(address)
    refused = pytest.raises(RuntimeError, match=r"table4 with --storage s3://.* already running")
    with store.only_one("table4"), refused, StageStore(address).only_one("table4"):
        pass
    with StageStore(address).only_one("table4"):
        pass


@pytest.mark.fault
@pytest.mark.parametrize("what", ["a flipped bit", "a lost object", "a truncated manifest"])
def test_damage_on_s3_is_put_aside_and_made_good(address, tmp_path, what, fault_row, caplog):
    made: list[str] = []
    store, recipe = StageStore(address), Recipe(what, 0)
    folder, _ = store.ensure("things", recipe, text_stage("right", made))
    name = f"things/{folder.name}/" + ("manifest.json" if "manifest" in what else "text")
    content = store.bucket.read(name)
    if what == "a lost object":
        store.bucket.delete(name)
    else:
        store.bucket.write(name, b"rigHt" if what == "a flipped bit" else content[:-9])
    with another_node(tmp_path / "other"):
        other = StageStore(address)
        assert other.find("things", recipe) is None
        assert f"{address}/things/{folder.name}" in caplog.text
        again, found = other.ensure("things", recipe, text_stage("right", made))
        assert not found
        equal = (again / "text").read_text() == "right"
    assert made == ["right", "right"]
    aside = [key for key in store.bucket.sizes("replaced") if folder.name in key]
    assert any(key.endswith("/manifest.json") for key in aside)
    assert store.find("things", recipe) == folder
    fault_row(f"{what} on S3", f"named, {len(aside)} objects put aside, made again", equal=equal)


def test_a_damaged_copy_is_fetched_again(address, caplog):
    made: list[str] = []
    store = StageStore(address)
    folder, _ = store.ensure("things", Recipe("copy", 0), text_stage("right", made))
    (folder / "text").write_text("wrong")
    (folder / "manifest.json").write_text("{")
    assert store.find("things", Recipe("copy", 0)) == folder
    assert (folder / "text").read_text() == "right"
    assert json.loads((folder / "manifest.json").read_text())["facts"] == {"length": 5}
    assert made == ["right"]
    assert str(folder / "text") in caplog.text


def test_put_aside_moves_the_objects(address):
    store, made = StageStore(address), []
    folder, _ = store.ensure("things", Recipe("x", 1), text_stage("old", made))
    aside = store.put_aside("things", Recipe("x", 1))
    assert aside.startswith(f"{address}/replaced/")
    assert store.bucket.read(f"{aside.removeprefix(address + '/')}/text") == b"old"
    assert store.find("things", Recipe("x", 1)) is None
    assert not folder.exists()
    assert store.put_aside("things", Recipe("x", 1)) is None


def test_addresses_that_cannot_be_used_are_refused(server, tmp_path, monkeypatch):
    monkeypatch.setenv("BSP_CACHE", str(tmp_path))
    for wrong, why in [
        ("gs://bucket/x", "gs:// is not supported"),
        ("s3:///x", "expected s3://bucket/prefix"),
        (Path(f"s3://{BUCKET}/x"), "with two slashes"),
        ("s3://not-there/x", "create the bucket"),
    ]:
        with pytest.raises(ValueError, match=f"--storage.*{why}|as --storage.*{why}"):
            StageStore(wrong)


def test_a_damaged_checkpoint_on_s3_gives_way_to_the_one_before(server, address, tmp_path, capsys):
    from ray.train import Checkpoint

    from bsp_platform.work.pretraining import newest_complete_state, save_state

    store = StageStore(address)
    for step in (1, 2):
        folder = tmp_path / f"checkpoint_{step}"
        folder.mkdir()
        save_state({"step": step, "weights": torch.arange(9.0)}, folder)
        for path in folder.iterdir():
            store.bucket.upload(path, f"encoders/x/_train/run/{folder.name}/{path.name}", "")
    place = place_for_runs(store, store.root / "encoders" / "x" / "_train", "run")
    storage, root = pickle.loads(pickle.dumps(place["storage_filesystem"])), place["storage_path"]  # as Ray has it
    latest = Checkpoint(f"{root}/run/checkpoint_2", storage)
    assert newest_complete_state(latest)["step"] == 2
    server.stop()
    threading.Timer(3, server.start).start()  # Arrow's own patience would be 2 s
    assert newest_complete_state(latest)["step"] == 2
    content = store.bucket.read("encoders/x/_train/run/checkpoint_2/state.pt")
    store.bucket.write("encoders/x/_train/run/checkpoint_2/state.pt", content[:-7])
    assert newest_complete_state(latest)["step"] == 1
    assert "checkpoint_2" in capsys.readouterr().out
