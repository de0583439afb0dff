"""Charades-STA files: moments, durations, the cut at the video's end, and whole folders, good and broken."""

from __future__ import annotations

import gzip
import json

import pytest

from bsp.datasets.charades_sta import (
    GroundingVideo,
    Moment,
    clamped,
    load_charades_sta,
    read_durations,
    read_moments,
)
from bsp.errors import AnnotationError

TRAIN = (
    "AB1XY 0.0 6.9##a person puts a book on a shelf.\n"
    "CD2XY 20.8 30.0##person #1 opens the door.\n"
    "AB1XY 5.0 12.5##person laughs, and sits.\n"
    "EF3XY 8.0 7.0##a person runs.\n"
)
TEST = "GH4XY 3.18 45.0##person drinks water.\nGH4XY 9.0 9.0##person eats.\n"
HEADER = "id,subject,scene,quality,relevance,verified,script,objects,descriptions,actions,length\n"
TRAIN_TABLE = (
    HEADER
    + 'AB1XY,S1,Hall,6,7,Yes,"A person, with a book, ""reads"".",book;shelf,"One, two.;Three,\nfour.",c1 0.0 5.0,10.5\n'
    + "CD2XY,S2,Hall,6,7,Yes,Plain,door,Plain,,31.00\nEF3XY,S2,Hall,6,7,Yes,Plain,,Plain,,20.0\n"
    + "UNUSED,S2,Hall,6,7,Yes,Plain,,Plain,,5\n"
)
TEST_TABLE = HEADER + "GH4XY,S3,Hall,6,7,Yes,Plain,,Plain,,31.25\n"

TRAIN_MOMENTS = [
    Moment("AB1XY", "a person puts a book on a shelf.", 0.0, 6.9, 0),
    Moment("CD2XY", "person #1 opens the door.", 20.8, 30.0, 1),
    Moment("AB1XY", "person laughs, and sits.", 5.0, 12.5, 2),
    Moment("EF3XY", "a person runs.", 8.0, 7.0, 3),
]
DURATIONS = {"AB1XY": 10.5, "CD2XY": 31.0, "EF3XY": 20.0, "UNUSED": 5.0}


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.fixture
def folder(tmp_path):
    write(tmp_path / "charades_sta_train.txt", TRAIN)
    write(tmp_path / "charades_sta_test.txt", TEST)
    write(tmp_path / "Charades_v1_train.csv", TRAIN_TABLE)
    write(tmp_path / "Charades_v1_test.csv", TEST_TABLE)
    (tmp_path / "videos").mkdir()
    for name in ("AB1XY.mp4", "GH4XY.mp4", "CD2XY.txt", "OTHER.mp4"):
        (tmp_path / "videos" / name).touch()
    return tmp_path


# -- moments --


@pytest.mark.parametrize("change", ["plain", "gzip", "windows", "mark", "blank end", "no end"])
def test_moments_as_written(tmp_path, change):
    data = TRAIN.encode()
    data = {
        "plain": data,
        "gzip": gzip.compress(data),
        "windows": data.replace(b"\n", b"\r\n"),
        "mark": b"\xef\xbb\xbf" + data,
        "blank end": data + b"\n \n",
        "no end": data[:-1],
    }[change]
    assert read_moments(write(tmp_path / "m.txt", data)) == TRAIN_MOMENTS


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("AB1XY 0.0 6.9 a person runs.", "is not '<video id> <start> <end>##<sentence>'"),
        ("AB1XY 0.0 6.9#a person runs.", "is not '<video id>"),
        ("AB1XY 0.0 6.9##a person##runs.", "is not '<video id>"),
        ("AB1XY 0.0##a person runs.", "is not '<video id>"),
        ("AB1XY 0.0 6.9 7##a person runs.", "is not '<video id>"),
        (" 0.0 6.9##a person runs.", "is not '<video id>"),
        ("", "is not '<video id>"),
        ("AB1XY 0.0 6.9##", "has no sentence"),
        ("AB1XY 0.0 6.9## . ", "has no sentence"),
        ("AB1XY zero 6.9##a person runs.", "has 'zero' where seconds"),
        ("AB1XY 0.0 6,9##a person runs.", "has '6,9' where seconds"),
        ("AB1XY 0.0 nan##a person runs.", "has 'nan' where seconds"),
        ("AB1XY 0.0 inf##a person runs.", "has 'inf' where seconds"),
        ("AB1XY -1 6.9##a person runs.", "has '-1' where seconds"),
    ],
)
def test_broken_moments(tmp_path, line, problem):
    path = write(tmp_path / "m.txt", f"AB1XY 0.0 6.9##good.\n{line}\nAB1XY 0.0 6.9##good.\n")
    with pytest.raises(AnnotationError) as error:
        read_moments(path)
    assert str(error.value).startswith(f"{path}: line 2: {line!r} ")
    assert problem in str(error.value)
    assert "correct the line" in str(error.value)


def test_unreadable_files(tmp_path):
    for read in (read_moments, read_durations):
        with pytest.raises(AnnotationError, match=r"absent: no such file"):
            read(tmp_path / "absent")
        with pytest.raises(AnnotationError, match=r"line 2: not UTF-8 text \(byte 0xff\)"):
            read(write(tmp_path / "latin", b"AB1XY 0.0 6.9##good.\nAB1XY 0.0 6.9##\xff.\n"))
        with pytest.raises(AnnotationError, match="damaged gzip"):
            read(write(tmp_path / "cut", gzip.compress(TRAIN.encode())[:-12]))
    for content in ("", " \n\n"):
        with pytest.raises(AnnotationError, match="is empty"):
            read_moments(write(tmp_path / "empty", content))


# -- durations --


@pytest.mark.parametrize(
    "content",
    [
        TRAIN_TABLE,
        "\ufeff" + TRAIN_TABLE.replace("\n", "\r\n"),
        json.dumps(DURATIONS),
        json.dumps({"train": {"AB1XY": 10.5, "EF3XY": "20.0"}, "test": {"CD2XY": 31, "UNUSED": 5}}),
    ],
)
@pytest.mark.parametrize("pack", [str.encode, lambda text: gzip.compress(text.encode())])
def test_durations(tmp_path, content, pack):
    assert read_durations(write(tmp_path / "d", pack(content))) == DURATIONS


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("id,seconds\nA,1\n", "line 1: no column length, found 'id, seconds'"),
        ("", "line 1: no column id, length, found 'nothing'"),
        ("id,length\n", "has no video"),
        ("id,length\nA,1\nB,\n", "line 3: video 'B' has the length ''"),
        ("id,length\nA,1\nB\n", "line 3: 1 fields, not 2"),
        ("id,length\n,1\n", "line 2: video '' has"),
        ("id,length\nA,-1\n", "line 2: video 'A' has the length '-1'"),
        ("id,length\nA,nan\n", "line 2: video 'A' has the length 'nan'"),
        ("id,length\nA,1\nA,2\n", "line 3: video 'A' is 2.0 s here and 1.0 s before"),
        ('id,length\nA,"' + "x" * 200_000 + '"\n', "line 2: not valid CSV (field larger"),
        ('{"A": 1', "malformed JSON"),
        ("{}", "has no video"),
        ('{"A": true}', "A: video 'A' has the length True"),
        ('{"A": 0}', "A: video 'A' has the length 0"),
        ('{"train": {"A": null}}', "train.A: video 'A' has the length None"),
        ('{"train": {"A": 1}, "test": 3}', "test: expected an object with seconds of videos, found 3"),
        ('{"train": {"A": 1}, "test": {"A": 3}}', "test.A: video 'A' is 3.0 s here and 1.0 s before"),
    ],
)
def test_broken_durations(tmp_path, content, message):
    path = write(tmp_path / "d.csv", content)
    with pytest.raises(AnnotationError) as error:
        read_durations(path)
    assert str(error.value).startswith(f"{path}: ")
    assert message in str(error.value)


# -- the cut --


def test_clamped_by_hand():
    moments = [
        Moment("A", "inside.", 1.0, 9.5, 0),
        Moment("A", "over the end.", 1.0, 11.0, 1),
        Moment("A", "after the end.", 10.0, 11.0, 4),
        Moment("A", "backwards.", 5.0, 4.0, 5),
        Moment("A", "empty.", 5.0, 5.0, 6),
    ]
    kept, dropped = clamped(moments, {"A": 10.0}, name="train.txt")
    assert kept == [moments[0], Moment("A", "over the end.", 1.0, 10.0, 1)]
    assert dropped == [
        "train.txt:5: A from 10.0 to 11.0 s lies after the video's 10 s",
        "train.txt:6: A from 5.0 to 4.0 s is empty or runs backwards",
        "train.txt:7: A from 5.0 to 5.0 s is empty or runs backwards",
    ]
    assert clamped(iter(moments[:1]), {"A": 10.0}) == (moments[:1], [])
    with pytest.raises(AnnotationError, match=r"train.txt: line 1: video 'A' is not in the table"):
        clamped(moments, {"B": 10.0}, name="train.txt")


# -- folders --


def test_folder(folder, caplog):
    data = load_charades_sta(folder)
    assert data.moments["train"] == (
        TRAIN_MOMENTS[0],
        TRAIN_MOMENTS[1],
        Moment("AB1XY", "person laughs, and sits.", 5.0, 10.5, 2),  # cut
    )
    assert data.moments["test"] == (  # as written: over the end, and empty
        Moment("GH4XY", "person drinks water.", 3.18, 45.0, 0),
        Moment("GH4XY", "person eats.", 9.0, 9.0, 1),
    )
    assert data.videos == (
        GroundingVideo("AB1XY", str(folder / "videos" / "AB1XY.mp4"), 10.5, "train"),
        GroundingVideo("CD2XY", None, 31.0, "train"),
        GroundingVideo("GH4XY", str(folder / "videos" / "GH4XY.mp4"), 31.25, "test"),
    )
    assert data.missing == ("CD2XY",)
    assert data.dropped == ("charades_sta_train.txt:4: EF3XY from 8.0 to 7.0 s is empty or runs backwards",)
    assert "charades_sta_train.txt:4" in caplog.text
    assert "1 of 3 videos have no file: CD2XY" in caplog.text


def test_other_layouts(folder, tmp_path_factory):
    expected = load_charades_sta(folder)
    durations = {"train": DURATIONS, "test": {"GH4XY": 31.25}}
    for name in ("charades_sta_train.txt", "charades_sta_test.txt"):
        (folder / f"{name}.gz").write_bytes(gzip.compress((folder / name).read_bytes()))
        (folder / name).unlink()
    for subset in durations:
        (folder / f"Charades_v1_{subset}.csv").unlink()
    (folder / "charades_durations.json.gz").write_bytes(gzip.compress(json.dumps(durations).encode()))
    data = load_charades_sta(folder)
    assert (data.videos, data.moments) == (expected.videos, expected.moments)
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "CD2XY.mp4").touch()
    data = load_charades_sta(folder, elsewhere)
    assert data.missing == ("AB1XY", "GH4XY")
    for video in (folder / "videos").iterdir():
        video.rename(folder / video.name)
    (folder / "videos").rmdir()
    assert load_charades_sta(folder).videos[0].path == str(folder / "AB1XY.mp4")
    with pytest.raises(FileNotFoundError, match="no_folder: no such folder"):
        load_charades_sta(folder, folder / "no_folder")


@pytest.mark.parametrize("name", ["charades_sta_train.txt", "charades_sta_test.txt", "Charades_v1_test.csv"])
def test_missing_files(folder, name):
    (folder / name).unlink()
    with pytest.raises(AnnotationError, match=rf"has no file {name}"):
        load_charades_sta(folder)


@pytest.mark.parametrize("subset", ["train", "test"])
def test_moment_of_an_unknown_video(folder, subset):
    with (folder / f"charades_sta_{subset}.txt").open("a") as file:
        file.write("ZZZZZ 1.0 2.0##a person runs.\n")
    line = 5 if subset == "train" else 3
    with pytest.raises(AnnotationError, match=rf"charades_sta_{subset}.txt: line {line}: video 'ZZZZZ' is not in"):
        load_charades_sta(folder)


def test_a_video_in_both_splits(folder):
    with (folder / "charades_sta_test.txt").open("a") as file:
        file.write("CD2XY 1.0 2.0##a person runs.\n")
    with pytest.raises(AnnotationError, match=r"videos in both splits: CD2XY \(1\)"):
        load_charades_sta(folder)
