"""Names that come out of a storage and would lead out of their folder: refused, and nothing outside is touched."""

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from bsp_platform.storage.errors import StageDamaged, UnsafeName
from bsp_platform.storage.manifests import make_manifest, parse_manifest, result_files
from bsp_platform.storage.names import leaving_link, stays_inside, unsafe_checkpoint
from bsp_platform.storage.run_places import place_for_runs
from bsp_platform.storage.stages import StageStore, Stored
from bsp_platform.tracking.outbox import Outbox, read_records
from s3_server import BUCKET, s3_server

OUTSIDE = [
    "../victim.txt", "a/../../victim.txt", "/etc/passwd", "..", ".", "", "a//b", "a/", "./a", "a\\..\\b", "C:/x", "c:",
    "a\0b", "a\nb",
]  # fmt: skip
INSIDE = ["a", "a/b.npy", "__Qx7.json", "-x", "..a", "a..", "v_é.npy", "10:30.npy", "a b"]


@dataclass(frozen=True)
class Recipe:
    seed: int


def make(folder: Path) -> None:
    (folder / "result").write_text("right")


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_manifest_that_names_what_lies_elsewhere_is_damaged_and_nothing_is_moved(tmp_path, name, caplog):
    assert not stays_inside(name)
    store, victim = StageStore(tmp_path / "storage"), tmp_path / "victim.txt"
    victim.write_text("precious")
    folder = store.folder("heads", Recipe(1))
    folder.mkdir(parents=True)
    for path in (name, f"../../../{name}"):
        manifest = make_manifest(Recipe(1), {path: {"bytes": 1, "sha256": "0"}}, {}, 1.0)
        (folder / "manifest.json").write_text(json.dumps(manifest))
        with pytest.raises(StageDamaged, match="which is no file of its folder") as raised:
            store.check(folder, Recipe(1))
        assert raised.value.names == ("manifest.json",)
        assert not store.has("heads", Recipe(1))
        assert store.ensure("heads", Recipe(1), make) == (folder, False)
        assert victim.read_text() == "precious"
        assert list((tmp_path / "storage" / "replaced").rglob("victim*")) == []


@pytest.mark.parametrize("name", INSIDE)
def test_names_of_files_below_a_folder_are_good(tmp_path, name):
    assert stays_inside(name)
    manifest = make_manifest(Recipe(1), {name: {"bytes": 1, "sha256": "0"}}, {}, 1.0)
    assert name in parse_manifest(json.dumps(manifest).encode(), "m", Recipe(1))["files"]


@pytest.mark.parametrize("text", [b"[" * 100_000, b'{"files": ' * 900 + b"{}" + b"}" * 900, b"3", b"\xff", b"{}"])
def test_a_manifest_of_any_other_content_is_damaged(text):
    with pytest.raises(StageDamaged, match="manifest"):
        parse_manifest(text, "m")


@pytest.mark.parametrize("file", [True, False])
def test_a_link_that_leaves_the_folder_is_damage_and_the_link_alone_is_moved(tmp_path, file):
    store, outside = StageStore(tmp_path / "storage"), tmp_path / "outside"
    outside.mkdir()
    (outside / "result").write_text("right")
    name = "result" if file else "sub/result"

    def build(folder: Path) -> None:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("right")

    folder, _ = store.ensure("heads", Recipe(1), build)
    (folder / name).unlink()
    if file:
        (folder / name).symlink_to(outside / "result")
    else:
        (folder / "sub").rmdir()
        (folder / "sub").symlink_to(outside)
    assert leaving_link(folder, name) == name.split("/")[0]
    with pytest.raises(StageDamaged, match="a link that leaves the folder"):
        store.check(folder, Recipe(1))
    assert store.ensure("heads", Recipe(1), build) == (folder, False)
    assert (outside / "result").read_text() == "right"
    assert not (folder / "sub").is_symlink()
    assert not (folder / "result").is_symlink()
    (folder / "inner").symlink_to(folder / name)
    assert leaving_link(folder, "inner") is None


def test_a_build_that_leaves_a_link_out_of_its_folder_is_not_published(tmp_path):
    (tmp_path / "secret").write_text("s")
    (tmp_path / "stage").mkdir()
    (tmp_path / "stage" / "link").symlink_to(tmp_path / "secret")
    with pytest.raises(StageDamaged, match=r"stage/link"):
        result_files(tmp_path / "stage")


@pytest.fixture(scope="module")
def server():
    with s3_server() as running:
        yield running


def test_objects_in_a_bucket_that_would_be_copied_elsewhere_are_refused(server, tmp_path, monkeypatch):
    monkeypatch.setenv("BSP_CACHE", str(tmp_path / "cache"))
    store = StageStore(f"s3://{BUCKET}/names/storage")
    folder = store.folder("features", Recipe(1))
    bad = ("../../../../../../victim", "_train/run/../../../victim")
    for key in ("good.npy", "marker/", "", *bad):
        store.bucket.client.put_object(Bucket=BUCKET, Key=f"names/storage/features/{folder.name}/{key}", Body=b"")
    with pytest.raises(UnsafeName, match=r"'\.\./\.\./.*which leads out of its folder"):
        store.files.download_unfinished(folder)
    with pytest.raises(UnsafeName):
        store.put_aside("features", Recipe(1))
    with pytest.raises(UnsafeName):
        place_for_runs(store, folder / "_train", "run")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    for key in bad:
        store.bucket.client.delete_object(Bucket=BUCKET, Key=f"names/storage/features/{folder.name}/{key}")
    store.files.download_unfinished(folder)
    assert [path.name for path in folder.rglob("*")] == ["good.npy"]


def test_a_manifest_in_a_bucket_writes_nothing_outside_of_the_cache(server, tmp_path, monkeypatch):
    monkeypatch.setenv("BSP_CACHE", str(tmp_path / "cache"))
    store = StageStore(f"s3://{BUCKET}/manifests/storage")
    place = f"heads/{store.folder('heads', Recipe(1)).name}"
    files = {"../../../../../victim": {"bytes": 1, "sha256": hashlib.sha256(b"x").hexdigest()}}
    store.bucket.client.put_object(
        Bucket=BUCKET, Key=f"manifests/storage/{place}/manifest.json",
        Body=json.dumps(make_manifest(Recipe(1), files, {}, 1.0)).encode(),
    )  # fmt: skip
    store.bucket.client.put_object(Bucket=BUCKET, Key=f"manifests/storage/{place}/../../../../../victim", Body=b"x")
    assert store.find("heads", Recipe(1)) is None
    with pytest.raises(StageDamaged, match="which is no file of its folder"):
        store.download_paths(Stored(place))
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("name", ["../../victim", "/etc", "a/b", ".."])
@pytest.mark.parametrize("where", ["checkpoint_results", "latest_checkpoint_result", "validated_checkpoint_dir_names"])
def test_a_checkpoint_of_ray_train_that_lies_elsewhere_is_refused(tmp_path, name, where):
    """Ray Train deletes the folders that its record names when there are newer checkpoints."""
    result = {"version": 0, "checkpoint_dir_name": name, "metrics": {"some_dir_name": "/x"}}
    content = {"checkpoint_results": [result], "latest_checkpoint_result": result}.get(where, [name])
    store, record = (
        StageStore(tmp_path),
        tmp_path / "encoders" / "x" / "_train" / "run" / "checkpoint_manager_snapshot.json",
    )
    folder = record.parent.parent
    assert place_for_runs(store, folder, "run") == {"storage_path": str(folder)}
    record.parent.mkdir(parents=True)
    record.write_text(json.dumps({"ray_version": "2.60.0", where: content}))
    assert unsafe_checkpoint(record.read_bytes()) == name
    with pytest.raises(UnsafeName, match=r"checkpoint_manager_snapshot\.json names the checkpoint"):
        place_for_runs(store, folder, "run")
    record.write_text(record.read_text().replace(json.dumps(name), '"checkpoint_2026-11-27_22-00-00.000001"'))
    assert place_for_runs(store, folder, "run") == {"storage_path": str(folder)}
    (tmp_path / "victim").mkdir()
    (record.parent / "checkpoint_x").symlink_to(tmp_path / "victim")
    with pytest.raises(UnsafeName, match="a link that leaves its folder"):
        place_for_runs(store, folder, "run")


def test_an_outbox_removes_nothing_but_its_copies_and_is_private(tmp_path):
    outbox = Outbox(tmp_path, "sqlite:///x.db")
    assert outbox.folder.parent.stat().st_mode & 0o777 == 0o700
    (tmp_path / "table.md").write_text("t")
    copy = outbox.keep_copy(tmp_path / "table.md")
    for path in (outbox.folder / "files" / ".." / "x", outbox.folder / "files" / "x", tmp_path / "table.md", Path("/")):
        outbox.drop_copy(path)
    assert copy.exists()
    outbox.drop_copy(copy)
    assert not copy.exists()
    assert outbox.folder.exists()


def test_lines_of_an_outbox_that_are_no_records_are_left_out(tmp_path, caplog):
    path = tmp_path / "1-2-x.jsonl"
    path.write_bytes(b'{"experiment": "e"}\n"do"\n["do"]\n' + b"[" * 200_000 + b'\n{"do": "tags"}\n\xff\n')
    assert read_records(path) == [{"experiment": "e"}, {"do": "tags"}]
    assert caplog.text.count("is not whole and is left out") == 4
    home = tmp_path / "home"
    for text in ("[" * 100_000, "{}", "3", "x"):
        os.makedirs(home / "outbox" / "a", exist_ok=True)
        (home / "outbox" / "a" / "store.json").write_text(text)
        with pytest.raises(ValueError, match=r"store\.json is damaged"):
            Outbox.all_in(home)
