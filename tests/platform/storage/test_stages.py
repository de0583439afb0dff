"""Content-addressed stages: found, made once, continued, claimed, damaged, full disk."""

import errno
import hashlib
import json
import multiprocessing
import os
import time
from dataclasses import dataclass, field, make_dataclass
from pathlib import Path

import pytest

from bsp.clips.plan import BoundaryKind
from bsp_platform.storage.errors import StageDamaged, StorageFull
from bsp_platform.storage.manifests import as_plain, recipe_hash
from bsp_platform.storage.stages import StageStore


@dataclass(frozen=True)
class Recipe:
    seed: int
    kinds: tuple = ()


def build_text(text: str, calls: list):
    def build(folder: Path) -> dict:
        calls.append(folder)
        (folder / "result.txt").write_text(text)
        return {"length": len(text)}

    return build


def test_hash_is_the_sha256_of_the_canonical_json_and_depends_on_every_field():
    text = '{"kinds":["DIFF_SPEED"],"recipe":"Recipe","seed":3}'
    recipe = Recipe(3, (BoundaryKind.DIFF_SPEED,))
    assert recipe_hash(recipe) == hashlib.sha256(text.encode()).hexdigest()[:16]
    assert len({recipe_hash(r) for r in (recipe, Recipe(4, recipe.kinds), Recipe(3))}) == 3


def test_a_field_that_came_later_counts_only_off_its_default():
    fields = [("seed", int), ("kinds", tuple, ())]
    later = field(default=0, metadata={"later": True})
    Grown = make_dataclass("Recipe", [*fields, ("plain_clips", int, later)], frozen=True)
    assert recipe_hash(Grown(3)) == recipe_hash(Recipe(3))
    assert recipe_hash(Grown(3, (), 2)) != recipe_hash(Recipe(3))


def test_a_recipe_with_an_object_in_it_is_refused():
    with pytest.raises(TypeError, match="cannot hold"):
        as_plain(Recipe(object()))


def test_a_stage_is_made_once_and_its_files_are_recorded(tmp_path):
    store, calls = StageStore(tmp_path), []
    folder, found = store.ensure("things", Recipe(1), build_text("abc", calls))
    again, found_again = store.ensure("things", Recipe(1), build_text("other", calls))
    assert (found, found_again, len(calls)) == (False, True, 1)
    assert again == folder == tmp_path / "things" / recipe_hash(Recipe(1))
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["files"]["result.txt"] == {"bytes": 3, "sha256": hashlib.sha256(b"abc").hexdigest()}
    assert store.facts(folder)["length"] == 3
    assert store.find("things", Recipe(2)) is None


def test_a_build_that_fails_leaves_no_stage_but_its_half_done_work(tmp_path):
    store, calls = StageStore(tmp_path), []

    def dies(folder: Path) -> dict:
        (folder / "half").write_text("half")
        raise RuntimeError("interrupted")

    with pytest.raises(RuntimeError, match="interrupted"):
        store.ensure("things", Recipe(1), dies)
    assert store.find("things", Recipe(1)) is None
    folder, found = store.ensure("things", Recipe(1), build_text("abc", calls))
    assert not found
    assert (folder / "half").read_text() == "half"


def test_scratch_files_are_not_part_of_the_result(tmp_path):
    store = StageStore(tmp_path)

    def build(folder: Path) -> dict:
        (folder / "_train" / "run").mkdir(parents=True)
        (folder / "_train" / "run" / "state").write_text("s")
        (folder / "_progress.json").write_text("{}")
        (folder / "result.txt").write_text("r")
        return {}

    folder, _ = store.ensure("things", Recipe(1), build)
    assert list(json.loads((folder / "manifest.json").read_text())["files"]) == ["result.txt"]
    assert sorted(path.name for path in folder.iterdir()) == ["manifest.json", "result.txt"]


def test_features_of_videos_whose_ids_begin_with_an_underscore_are_kept(tmp_path):
    # One in 64 YouTube ids does.
    store, names = StageStore(tmp_path), ["__Qx7.json", "__Qx7.npy", "_train8.npy"]

    def build(folder: Path) -> None:
        for name in names:
            (folder / name).write_text(name)

    folder, _ = store.ensure("features", Recipe(1), build)
    assert sorted(json.loads((folder / "manifest.json").read_text())["files"]) == names
    assert sorted(path.name for path in folder.iterdir()) == [*names, "manifest.json"]


@pytest.mark.parametrize("damage", ["truncate", "remove", "manifest", "other recipe"])
def test_damage_is_named_and_the_stage_is_made_again(tmp_path, caplog, damage):
    store, calls = StageStore(tmp_path), []
    folder, _ = store.ensure("things", Recipe(1), build_text("abc", calls))
    if damage == "truncate":
        (folder / "result.txt").write_text("a")
    elif damage == "remove":
        (folder / "result.txt").unlink()
    elif damage == "manifest":
        (folder / "manifest.json").write_text('{"files": ')
    else:
        manifest = json.loads((folder / "manifest.json").read_text())
        (folder / "manifest.json").write_text(json.dumps({**manifest, "recipe": {"seed": 9}}))
    assert store.find("things", Recipe(1)) is None
    assert str(folder) in caplog.text
    store.ensure("things", Recipe(1), build_text("abc", calls))
    assert len(calls) == 2
    assert store.find("things", Recipe(1)) == folder


def test_same_size_but_other_bytes_are_noticed_when_read(tmp_path):
    store = StageStore(tmp_path)
    folder, _ = store.ensure("things", Recipe(1), build_text("abc", []))
    assert store.read_checked(folder, "result.txt").read_text() == "abc"
    (folder / "result.txt").write_text("abd")
    with pytest.raises(StageDamaged, match=r"result\.txt is damaged"):
        store.read_checked(folder, "result.txt")


def test_put_aside_keeps_the_old_stage(tmp_path):
    store = StageStore(tmp_path)
    folder, _ = store.ensure("things", Recipe(1), build_text("abc", []))
    aside = store.put_aside("things", Recipe(1))
    assert not folder.exists()
    assert (aside / "result.txt").read_text() == "abc"
    assert store.put_aside("things", Recipe(1)) is None


def test_a_full_disk_is_named_with_the_remedy(tmp_path):
    def full(folder: Path) -> dict:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(StorageFull, match=r"no space left under .*free some space"):
        StageStore(tmp_path).ensure("things", Recipe(1), full)


def test_other_input_output_errors_pass_unchanged(tmp_path):
    def denied(folder: Path) -> dict:
        raise PermissionError(errno.EACCES, "denied")

    with pytest.raises(PermissionError):
        StageStore(tmp_path).ensure("things", Recipe(1), denied)


def test_a_storage_path_that_cannot_be_used_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"cannot use .*file.* as --storage"):
        StageStore(tmp_path / "file" / "below")


def _slow_build(root: str, log: str) -> None:
    def build(folder: Path) -> dict:
        with open(log, "a") as file:
            file.write("built\n")
        time.sleep(1.5)
        (folder / "result.txt").write_text("abc")
        return {}

    StageStore(root).ensure("things", Recipe(1), build)


def _die_while_building(root: str) -> None:
    StageStore(root).ensure("things", Recipe(1), lambda folder: os._exit(9))


@pytest.mark.long
def test_two_processes_make_a_stage_once(tmp_path):
    spawn = multiprocessing.get_context("spawn")
    log = tmp_path / "log"
    both = [spawn.Process(target=_slow_build, args=(str(tmp_path / "store"), str(log))) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(60)
    assert [process.exitcode for process in both] == [0, 0]
    assert log.read_text() == "built\n"


def test_a_dead_holder_does_not_block(tmp_path):
    spawn = multiprocessing.get_context("spawn")
    process = spawn.Process(target=_die_while_building, args=(str(tmp_path),))
    process.start()
    process.join(60)
    assert process.exitcode == 9
    waited = []
    _, found = StageStore(tmp_path).ensure("things", Recipe(1), build_text("abc", []), on_wait=lambda: waited.append(1))
    assert not found
    assert not waited
