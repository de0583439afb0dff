"""Names that come out of a storage and would lead out of their folder: refused, and nothing outside is touched."""

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pytest

from bsp_platform.storage.errors import StageDamaged, UnsafeName
from bsp_platform.storage.manifests import make_manifest, parse_manifest, result_files
from bsp_platform.storage.names import leaving_link, stays_inside, unsafe_checkpoint
from bsp_platform.storage.run_places import place_for_runs
from bsp_platform.storage.stages import StageStore, Stored
from bsp_platform.tracking.record import RunRecord, ShownStage, parse_record
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


@pytest.mark.server
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


@pytest.mark.server
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


def test_a_record_that_names_files_elsewhere_or_is_damaged_is_refused(tmp_path):
    """What it names is sent to MLflow."""
    record = RunRecord(experiment="e", key="k", name="n", started_ms=1, stages=(ShownStage(name="heads/x", prefix=""),))
    for wrong in (
        replace(record, files={"../x": ""}),
        replace(record, experiment="/e"),
        replace(record, stages=(ShownStage(name="heads/..", prefix=""),)),
        replace(record, stages=(ShownStage(name="heads/x", prefix="", files=("/etc/passwd",)),)),
    ):
        with pytest.raises(ValueError, match=r"run\.json names .*, which is no file of the storage"):
            parse_record(json.dumps(asdict(wrong)).encode(), "run.json")
    for text in (b"", b"{}", b"3", b"[" * 100_000, b"\xff", json.dumps(asdict(record)).encode()[:-9]):
        with pytest.raises(ValueError, match=r"run\.json is damaged"):
            parse_record(text, "run.json")
