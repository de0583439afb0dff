"""Features that are lost between the check of their stage and their use: named, made again, never a smaller set."""

import dataclasses
import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from bsp.tasks.detection import read_untrimmed
from bsp_platform.cli.main import main
from bsp_platform.storage.errors import StageDamaged
from bsp_platform.storage.stages import StageStore
from bsp_platform.work import probe
from bsp_platform.work.heads import listed, make_class_scores, train_and_score
from bsp_platform.work.listed_features import has_features, listed_files, read_listed
from repository import ROOT
from row_without_ray import row, undisturbed  # noqa: F401 (fixtures)
from s3_server import BUCKET, s3_server

pytestmark = pytest.mark.long  # videos, processes or whole trainings


def features_of(storage: Path) -> Path:
    """The folder of the one stage of features."""
    (folder,) = (path for path in (storage / "features").iterdir() if path.is_dir())
    return folder


def lose(folder: Path, damage: str) -> None:
    pairs = sorted(folder.glob("*.npy"))
    if damage == "half of the pairs":
        for path in pairs[::2]:
            path.unlink()
            path.with_suffix(".json").unlink()
    elif damage == "a record":
        pairs[1].with_suffix(".json").unlink()
    elif damage == "an array":
        pairs[1].unlink()
    elif damage == "another record":
        record = json.loads(pairs[1].with_suffix(".json").read_text())
        pairs[1].with_suffix(".json").write_text(json.dumps({**record, "fps": 2 * record["fps"]}, indent=1))
    elif damage == "the manifest and half of the pairs":
        (folder / "manifest.json").unlink()
        lose(folder, "half of the pairs")
    else:
        shutil.rmtree(folder)


DAMAGES = [
    "half of the pairs", "a record", "an array", "another record", "the manifest and half of the pairs", "all of it",
]  # fmt: skip


@pytest.mark.fault
@pytest.mark.parametrize(
    ("damage", "work"), [*((damage, train_and_score) for damage in DAMAGES), (DAMAGES[0], make_class_scores)]
)
def test_features_lost_while_a_head_starts(row, undisturbed, tmp_path, fault_row, damage, work):  # noqa: F811
    storage, lost = tmp_path / "storage", []

    def before(function) -> None:
        if function is work and not lost:
            lost.append(function)
            lose(features_of(storage), damage)

    scores = row.run(storage, before=before)
    assert lost
    assert scores == undisturbed[1]
    assert row.made.count("features") == 2
    assert sorted(set(row.extracted)) == sorted(v.video_id for v in row.data["activitynet"].videos)
    again = len(row.extracted) - len(row.data["activitynet"].videos)
    assert row.run(storage) == undisturbed[1]
    assert row.made == []
    what = "a head starts" if work is train_and_score else "class scores are made"
    done = f"named, {again} of {len(row.data['activitynet'].videos)} videos extracted again, all of them used"
    fault_row(f"features lost while {what}: {damage}", done, equal=scores == undisturbed[1])


@pytest.fixture(scope="module")
def server():
    with s3_server() as running:
        yield running


@pytest.mark.server
def test_features_lost_on_s3_while_a_head_starts(row, undisturbed, server, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setenv("BSP_CACHE", str(tmp_path / "cache"))
    address, lost = f"s3://{BUCKET}/lost/storage", []

    def before(function) -> None:
        if function is train_and_score and not lost:
            store = StageStore(address)
            objects = store.bucket.sizes("features")
            lost.extend(sorted(name for name in objects if name.endswith(".npy"))[::2])
            for name in lost:
                store.bucket.delete(f"features/{name}")
            for cache in (tmp_path / "cache", tmp_path / "head node"):
                for path in cache.rglob("features/*/*.npy"):
                    path.unlink()

    assert row.run(address, before=before) == undisturbed[1]
    assert lost
    assert row.made.count("features") == 2


@pytest.fixture
def stage(undisturbed, tmp_path) -> Path:  # noqa: F811
    """A copy of a stage of features under the name that it has in a storage."""
    folder = features_of(undisturbed[0])
    return Path(shutil.copytree(folder, tmp_path / "features" / folder.name))


@pytest.mark.parametrize("damage", DAMAGES)
def test_every_reader_of_a_stage_notices(stage, tiny_untrimmed, damage):
    whole = read_untrimmed(listed([stage]), tiny_untrimmed, "training")
    assert len(whole.videos) == sum(video.subset == "training" for video in tiny_untrimmed.videos)
    lose(stage, damage)

    def read_all() -> None:
        for video in tiny_untrimmed.videos:
            listed([stage]).read(video.video_id)

    with pytest.raises(StageDamaged, match=str(stage)):
        read_all()
    with pytest.raises(StageDamaged):
        probe.score_features(
            stage,
            [SimpleNamespace(video_id=video.video_id, first=0, boundary_S=[0, 1]) for video in tiny_untrimmed.videos],
        )
    for command in (
        ["train", "gtad", "--annotations", str(ROOT / "README.md"), "--features"],
        ["features", "export", "--format", "csv", "--features"],
    ):
        stage.mkdir(exist_ok=True)
        done = CliRunner().invoke(main, [*command, str(stage), "--out", str(stage.parent / "out")])
        assert done.exit_code == 1, done.output
        assert isinstance(done.exception, SystemExit)  # one line, no traceback
        assert str(stage) in done.output
    assert not (stage.parent / "out").exists()


def test_a_plain_folder_has_both_files_of_a_video_or_neither(stage, tiny_untrimmed, tmp_path):
    plain = stage.rename(tmp_path / "imported")
    (plain / "manifest.json").unlink()
    assert listed_files(plain) is None
    one, two, three = (video.video_id for video in tiny_untrimmed.videos[:3])
    (plain / f"{one}.json").unlink()
    (plain / f"{two}.npy").unlink()
    for ending in ("npy", "json"):
        (plain / f"{three}.{ending}").unlink()
    for name in (one, two):
        assert has_features(plain, name)
        with pytest.raises(FileNotFoundError, match="no complete features"):
            read_listed(plain, name)
    assert listed([plain]).read(three) is None


def test_a_video_that_the_manifest_does_not_list_is_not_taken_from_what_lies_there(stage):
    files = sorted(stage.glob("*.npy"))
    for ending in (".npy", ".json"):
        shutil.copy(files[0].with_suffix(ending), stage / f"other{ending}")
    assert listed([stage]).read("other") is None


def test_a_build_whose_files_are_gone_when_it_ends_is_not_published(tmp_path):
    recipe = dataclasses.make_dataclass("R", [("seed", int)], frozen=True)(1)
    store = StageStore(tmp_path)

    def build(folder: Path) -> dict:
        (folder / "a.npy").write_text("a")
        return {"files": ["a.npy", "b.npy"], "videos": 2}

    with pytest.raises(StageDamaged, match=r"b\.npy is lost"):
        store.ensure("features", recipe, build)
    assert not store.has("features", recipe)
    folder, _ = store.ensure("features", recipe, lambda f: (f / "b.npy").write_text("b") and build(f))
    assert store.facts(folder)["videos"] == 2
    assert "files" not in store.facts(folder)


def test_only_one_module_reads_features_for_heads():
    """Whoever reads features of a stage must compare them with its manifest: through work/listed_features.py.

    extraction.py reads what it has just made; own_videos.py asks it whether features are complete.
    """
    reads = re.compile(r"\b(read_features|read_features_h5|is_extracted)\(")
    sources = [*(ROOT / "platform" / "bsp_platform").rglob("*.py"), *(ROOT / "experiments").rglob("*.py")]
    found = {path.name for path in sources if reads.search(path.read_text())}
    assert found == {"extraction.py", "listed_features.py", "own_videos.py"}
