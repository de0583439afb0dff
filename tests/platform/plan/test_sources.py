"""Where data come from: the layouts of each option, missing ones named, GloVe cut to the words that occur."""

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bsp.datasets.activitynet import load_activitynet, load_hacs
from bsp.datasets.charades_sta import load_charades_sta
from bsp.datasets.crosstask import load_crosstask
from bsp.datasets.data_sets import DATA_SETS
from bsp.datasets.gebd import load_gebd
from bsp.datasets.kinetics import load_kinetics_csv
from bsp.datasets.pantomime.grounding import GroundingWorldSettings
from bsp.datasets.pantomime.render import PantomimeSettings
from bsp.datasets.pantomime.stories import StorySettings
from bsp.datasets.thumos14 import load_thumos14
from bsp.errors import AnnotationError
from bsp.video.prepare import PrepareSettings
from bsp.video.prepared_folder import copy_others, find_videos, open_folder, prepare_one
from bsp_platform.plan.profiles import paper, smoke
from bsp_platform.plan.sources import DataPaths, load_sources

pytestmark = pytest.mark.long  # videos, processes or whole trainings

EMBEDDED = {name for name, data_set in DATA_SETS.items() if data_set.embedded}  # a data set may have no twin


@pytest.fixture(scope="module")
def tiny():
    return replace(
        smoke(),
        pantomime=PantomimeSettings(
            trimmed_per_class=2, trimmed_val_per_class=0, untrimmed_train=2, untrimmed_val=2, untrimmed_seconds=12.0,
            actions=("wave", "squat"),
        ),
        grounding=GroundingWorldSettings(train=2, test=1, size_px=32),
        stories=StorySettings(
            seed=5, size_px=32, games_train=3, games_test=2, tasks=1, clips_train=2, clips_val=1,
            game_seconds=(8.0, 10.0), task_seconds=(15.0, 17.0), clip_seconds=(8.0, 9.0), instances=(1, 2),
            act_seconds=(1.0, 3.0),
        ),
    )  # fmt: skip


@pytest.fixture(scope="module")
def rendered(tiny, tmp_path_factory):
    """Every embedded data set as its folder on disk, by option, and as the embedded profile loads it."""
    storage = tmp_path_factory.mktemp("rendered")
    embedded = load_sources(tiny, EMBEDDED, DataPaths(), storage=storage, progress=False)
    world = next((storage / "pantomime").glob("*/trimmed")).parent
    stories = next((storage / "pantomime").glob("*/games")).parent
    folders = {
        "kinetics": world / "trimmed",
        "activitynet": world / "untrimmed",
        "charades": next((storage / "pantomime").glob("*/charades_sta_train.txt")).parent,
        "thumos": stories / "games",
        "hacs": stories / "games",
        "crosstask": stories / "tasks",
        "gebd": stories / "clips",
    }
    return folders, embedded


def by_name(data):
    """All that a data set says, with the name of each video's file in the place of its path."""
    videos = [replace(video, path=Path(video.path).name) for video in data.videos]
    classes = getattr(data, "class_names", None), getattr(data, "tasks", None), getattr(data, "moments", None)
    return videos, classes, data.missing


def from_their_files(folders):
    """The same data sets by their loaders, each file and folder named."""
    games, clips, tasks = folders["hacs"], folders["gebd"], folders["crosstask"]
    return {
        "activitynet": load_activitynet(folders["activitynet"] / "activitynet.json", folders["activitynet"] / "videos"),
        "charades": load_charades_sta(folders["charades"], folders["charades"] / "videos"),
        "thumos": load_thumos14(games / "thumos14", games / "videos"),
        "hacs": load_hacs(games / "hacs.json", games / "videos"),
        "crosstask": load_crosstask(tasks / "crosstask_release", tasks / "videos"),
        "gebd": [
            load_gebd(next(clips.glob(f"k400_*{word}*")), clips / "videos", subset=subset)
            for word, subset in (("train", "training"), ("val", "validation"))
        ],
    }


def as_it_is(folder, _):
    return folder


def without_videos_folder(folder, target):
    """A copy with the videos beside the annotations."""
    shutil.copytree(folder, target)
    for entry in list((target / "videos").iterdir()):
        entry.rename(target / entry.name)
    (target / "videos").rmdir()
    return target


def as_macos_leaves_it(folder, target):
    """A copy with a ``._name`` beside every file and an archive's __MACOSX."""
    shutil.copytree(folder, target)
    for path in [path for path in target.rglob("*") if path.is_file()]:
        path.with_name(f"._{path.name}").write_bytes(b"\0\5\26\7\0\2\0\0\231")
    shutil.copytree(target, target / "__MACOSX")
    return target


@pytest.mark.parametrize("layout", [as_it_is, without_videos_folder, as_macos_leaves_it])
def test_the_embedded_data_sets_can_be_given_back_to_profile_paper(rendered, tiny, tmp_path, layout):
    folders, embedded = rendered
    given = {name: layout(folder, tmp_path / name) for name, folder in folders.items()}
    back = load_sources(paper(), EMBEDDED, DataPaths(folders=given), storage=tmp_path / "s", progress=False)
    assert back.trimmed.class_names == embedded.trimmed.class_names == ("squat", "wave")
    assert [Path(p.decode()).name for p in back.trimmed.paths] == [
        Path(p.decode()).name for p in embedded.trimmed.paths
    ]
    assert np.array_equal(back.trimmed.frames, embedded.trimmed.frames)
    assert back.labels_prints == embedded.labels_prints
    # Features of given videos from before their records held times are made again; see below for embedded ones.
    assert all(back.videos_prints[name] != of_embedded for name, of_embedded in embedded.videos_prints.items())
    assert set(back.data) == set(folders) - {"kinetics"}
    for name, expected in from_their_files(folders).items():
        parts = expected if isinstance(expected, list) else [expected]
        videos = [video for part in parts for video in by_name(part)[0]]
        assert by_name(back.data[name])[0] == by_name(embedded.data[name])[0] == videos
        assert by_name(back.data[name])[1:] == by_name(parts[0])[1:]
        assert not back.data[name].missing
        files = list((folders[name] / "videos").rglob("*.mp4"))
        assert 0 < len(videos) <= len(files)


def test_prepared_copies_are_folders_of_the_same_layout(rendered, tiny, tmp_path):
    folders, embedded = rendered
    for name, folder in folders.items():
        root, videos, others = find_videos(folder)
        open_folder(root, tmp_path / name, PrepareSettings(short_side_px=32))
        made = [prepare_one(root, tmp_path / name, video, PrepareSettings(short_side_px=32)) for video in videos]
        assert not [record for record in made if "error" in record]
        copy_others(root, tmp_path / name, others)
    given = {name: tmp_path / name for name in folders}
    back = load_sources(paper(), EMBEDDED, DataPaths(folders=given), storage=tmp_path / "s", progress=False)
    assert back.labels_prints == embedded.labels_prints
    assert np.array_equal(back.trimmed.frames, embedded.trimmed.frames)
    assert np.array_equal(back.trimmed.labels, embedded.trimmed.labels)
    for name, data in back.data.items():
        assert not data.missing
        assert by_name(data) == by_name(embedded.data[name])


@pytest.mark.parametrize("name", ["train.csv", "train.csv.gz", "kinetics-400_train.csv"])
@pytest.mark.parametrize("inside", [True, False])
def test_kinetics_with_and_without_its_list(rendered, tmp_path, name, inside):
    """The list beside the videos under its usual names; without it, the folders are the classes."""
    import gzip

    from bsp.datasets.kinetics import load_kinetics_folder

    source = rendered[0]["kinetics"]
    expected = load_kinetics_csv(source / "train.csv", source / "videos", workers=0, progress=False)
    folder = tmp_path / "kinetics"
    shutil.copytree(source / "videos", folder / "videos" if inside else folder)
    classes = load_kinetics_folder(folder, workers=0, progress=False)
    assert classes.class_names == expected.class_names
    assert sorted(classes.paths) == sorted(expected.paths)
    content = (source / "train.csv").read_bytes()
    (folder / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    listed = load_kinetics_folder(folder, workers=0, progress=False)
    assert listed.fingerprint() == expected.fingerprint()
    (folder / "other_train.csv").write_bytes(content)
    if name == "kinetics-400_train.csv":
        with pytest.raises(AnnotationError, match=r": kinetics-400_train.csv, other_train.csv; keep"):
            load_kinetics_folder(folder, workers=0, progress=False)


def test_what_was_looked_for_is_named(tmp_path):
    for name, data_set in DATA_SETS.items():
        with pytest.raises((ValueError, FileNotFoundError)) as error:
            data_set.load(tmp_path / "absent")
        assert str(tmp_path / "absent") in str(error.value), name
    for name, looked_for in (("activitynet", "activity*net*.json"), ("hacs", "hacs*.json")):
        with pytest.raises(ValueError, match="found none") as error:
            DATA_SETS[name].load(tmp_path)
        assert looked_for in str(error.value)
    for name in ("a.json", "b.json"):
        (tmp_path / name).write_text("{}")
    with pytest.raises(ValueError, match=r"found a\.json, b\.json"):
        DATA_SETS["hacs"].load(tmp_path)


def test_only_what_is_wanted_is_loaded(tiny, tmp_path):
    detection = load_sources(tiny, {"activitynet"}, DataPaths(), storage=tmp_path, progress=False)
    assert set(detection.data) == {"activitynet"}
    assert detection.notes == []
    grounding = load_sources(tiny, {"charades"}, DataPaths(), storage=tmp_path, progress=False)
    assert set(grounding.data) == {"charades"}
    assert len(grounding.data["charades"].videos) == 3
    assert not grounding.data["charades"].missing
    assert "learnt from scratch" in grounding.notes[0]
    assert grounding.trimmed_print == detection.trimmed_print


def test_glove_is_cut_to_the_words_that_occur_and_named(tiny, tmp_path):
    path = tmp_path / "tiny.txt"
    path.write_text("the 1 2 3\nzebra 4 5 6\nwizard 7 8 9\n")
    sources = load_sources(tiny, {"charades"}, DataPaths(glove=path), storage=tmp_path / "s", progress=False)
    sentences = [m.sentence for moments in sources.data["charades"].moments.values() for m in moments]
    expected = [word for word in ("the", "wizard") if any(word in sentence.split() for sentence in sentences)]
    assert list(sources.glove.words) == expected
    assert "zebra" not in expected
    assert np.array_equal(sources.glove.vectors[expected.index("the")], [1, 2, 3])
    assert sources.notes == ["word embeddings tiny.txt, 3-d, frozen"]
    assert list((tmp_path / "s" / "glove").iterdir())


def test_missing_options_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"needs --kinetics DIR and --charades DIR$"):
        load_sources(paper(), {"charades"}, DataPaths(), storage=tmp_path)
    with pytest.raises(ValueError, match="--charades go with --profile paper"):
        load_sources(smoke(), {"charades"}, DataPaths(folders={"charades": tmp_path}), storage=tmp_path)


def test_charades_without_its_videos_is_refused(tiny, tmp_path):
    (tmp_path / "charades_durations.json").write_text('{"AAAAA": 10.0, "BBBBB": 10.0}')
    (tmp_path / "charades_sta_train.txt").write_text("AAAAA 1.0 2.0##a person sits.\n")
    (tmp_path / "charades_sta_test.txt").write_text("BBBBB 1.0 2.0##a person sits.\n")
    with pytest.raises(ValueError, match=r"2 of 2 videos have no file, for example AAAAA\.mp4; put the videos into"):
        DATA_SETS["charades"].load(tmp_path)


def test_embedded_videos_keep_their_fingerprint(tiny, tmp_path):
    """Their features are found that were made before records held times: ids and sizes, as ever."""
    sources = load_sources(tiny, {"activitynet"}, DataPaths(), storage=tmp_path, progress=False)
    sizes = [[v.video_id, Path(v.path).stat().st_size] for v in sources.data["activitynet"].videos]
    expected = hashlib.sha256(json.dumps(sizes).encode()).hexdigest()[:16]
    assert sources.videos_prints["activitynet"] == expected
