"""Storage that fails now and then, fills up, or is shared by two drivers: real processes, a folder as storage."""

import contextlib
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from bsp_platform.storage.errors import TRIES, StorageFull, StorageUnavailable, named_disk_full, retry
from bsp_platform.storage.stages import StageStore
from failing_files import environment, failures
from stage_worker import SHARED, Recipe
from two_drivers import BUILT_ONCE, expected, run_two_drivers, start

pytestmark = pytest.mark.long  # videos, processes or whole trainings


@pytest.mark.fault
@pytest.mark.parametrize(("error", "times"), [("EIO", 3), ("ESTALE", 2)])
def test_transient_errors_are_tried_again(tmp_path, fault_row, error, times):
    storage = tmp_path / "storage"
    worker = start(
        storage, "own", tmp_path / "log", "--pause", "0",
        env=environment(tmp_path / "bad", str(storage / "things"), times, error),
    )  # fmt: skip
    out, errors = worker.communicate(timeout=120)
    failed = failures(tmp_path / "bad")
    assert worker.returncode == 0, errors
    assert len(failed) == times
    assert errors.count(f"try 1 of {TRIES} failed") >= 1
    assert failed[0].split()[1] in errors
    done = f"{times} calls failed ({failed[0].split()[0]} first), tried again with pauses, named in the log"
    fault_row(f"{error} from the storage, then gone", done, equal=out.strip() == expected("own"))


@pytest.mark.fault
def test_storage_that_stays_away_is_named_and_the_same_command_continues(tmp_path, fault_row, monkeypatch):
    storage = tmp_path / "storage"
    command = (storage, "own", tmp_path / "log", "--pause", "0")
    env = environment(tmp_path / "bad", str(storage / "things"), 1000)
    (tmp_path / "bad" / "sitecustomize.py").open("a").write("import tenacity.nap; tenacity.nap.time.sleep = abs\n")
    worker = start(*command, env=env)
    _, errors = worker.communicate(timeout=120)
    assert worker.returncode == 1
    last = errors.strip().splitlines()[-1]
    assert "StorageUnavailable" in last
    assert str(storage / "things") in last
    assert "run the same command again" in last
    again = start(*command)
    out, errors = again.communicate(timeout=120)
    assert again.returncode == 0, errors
    fault_row(
        "EIO from the storage that does not end", f"stopped after {TRIES} tries, the path named; continued later",
        equal=out.strip() == expected("own"),
    )  # fmt: skip


@pytest.mark.parametrize("error", [FileNotFoundError(2, "no"), PermissionError(13, "no"), OSError(28, "full")])
def test_what_does_not_go_away_is_not_tried_again(error):
    calls = []

    def fails() -> None:
        calls.append(1)
        raise error

    with pytest.raises(type(error)) as raised:
        retry(fails, "file")
    assert raised.value is error
    assert len(calls) == 1


def test_the_last_error_is_kept(monkeypatch):
    monkeypatch.setattr("tenacity.nap.time.sleep", lambda seconds: None)
    calls = []

    def fails() -> None:
        calls.append(1)
        raise OSError(5, "Input/output error")

    with pytest.raises(StorageUnavailable, match=r"/x/y: .*Input/output error; tried 6 times") as raised:
        retry(fails, "/x/y")
    assert len(calls) == TRIES == 6
    assert isinstance(raised.value.__cause__, OSError)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 1 MiB of its own."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"mounting a small disk is not allowed here: {mounted.stderr.decode().strip()}")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.fault
def test_a_full_disk_keeps_what_is_complete_and_the_same_command_continues(small_disk, fault_row):
    store, made = StageStore(small_disk / "storage"), []

    def build(folder: Path) -> dict:
        for number in range(4):  # 4 x 200 kB; what is there already is not made again
            path = folder / f"{number}.npy"
            if not path.exists():
                made.append(number)
                partial = path.with_name(f"_{number}.partial")
                partial.write_bytes(np.full(50_000, number, "<f4").tobytes())
                partial.replace(path)
        return {}

    store.ensure("small", Recipe("complete", 0), lambda folder: (folder / "x").write_text("x") and None)
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(500_000))
    with pytest.raises(StorageFull, match=r"no space left under .*free some space"):
        store.ensure("big", Recipe("big", 0), build)
    assert store.find("small", Recipe("complete", 0))
    assert store.find("big", Recipe("big", 0)) is None
    assert made == [0, 1, 2]
    ballast.unlink()
    folder, found = store.ensure("big", Recipe("big", 0), build)
    assert not found
    assert made == [0, 1, 2, 2, 3]
    contents = [np.fromfile(folder / f"{number}.npy", "<f4") for number in range(4)]
    equal = all((content == number).all() and len(content) == 50_000 for number, content in enumerate(contents))
    fault_row("disk full while a stage is written", "named; 2 of 4 files kept, 2 made once there was room", equal=equal)


@pytest.mark.fault
def test_a_full_disk_at_the_manifest_leaves_no_half_stage(small_disk, fault_row):
    store = StageStore(small_disk / "storage")
    ballast = small_disk / "ballast"

    def build(folder: Path, fill: bool) -> dict:
        (folder / "result.txt").write_text("result")
        if fill:
            ballast.write_bytes(bytes(shutil.disk_usage(small_disk).free - 8192))  # a file of its own needs pages too
            with contextlib.suppress(OSError), open(ballast, "ab", buffering=0) as file:
                while file.write(bytes(4096)):
                    pass
        return {"many": list(range(3000))}  # a manifest of several pages

    with pytest.raises(StorageFull):
        store.ensure("things", Recipe("x", 0), lambda folder: build(folder, fill=True))
    assert store.find("things", Recipe("x", 0)) is None
    ballast.unlink()
    folder, _ = store.ensure("things", Recipe("x", 0), lambda folder: build(folder, fill=False))
    assert store.find("things", Recipe("x", 0)) == folder
    left = sorted(path.name for path in folder.iterdir())
    equal = left == ["manifest.json", "result.txt"] and (folder / "result.txt").read_text() == "result"
    done = "no manifest, no half one; published once there was room"
    fault_row("disk full while the manifest is written", done, equal=equal)


def test_a_full_disk_of_a_ray_worker_is_known_as_one():
    from ray.exceptions import RayTaskError

    error = RayTaskError("run_on_node", "trace", OSError(28, "No space left on device")).as_instanceof_cause()
    with pytest.raises(StorageFull, match="free some space"), named_disk_full(Path("/tmp")):
        raise error
    other = RayTaskError("run_on_node", "trace", OSError(13, "denied")).as_instanceof_cause()
    with pytest.raises(RayTaskError), named_disk_full(Path("/tmp")):
        raise other


@pytest.mark.fault
def test_two_drivers_of_different_experiments_make_shared_stages_once(tmp_path, fault_row):
    printed, built = run_two_drivers(tmp_path / "storage", tmp_path)
    assert built == BUILT_ONCE
    done = f"{SHARED} shared stages and one of each driver: {len(built)} builds"
    fault_row("two drivers on one folder", done, equal=printed == [expected("first"), expected("second")])
