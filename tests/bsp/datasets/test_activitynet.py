"""bsp.datasets.activitynet and results_json: official layouts read, wrong files named."""

from __future__ import annotations

import gzip
import json
import logging
import shutil
from pathlib import Path

import pytest

from bsp.datasets.activitynet import Instance, load_activitynet, load_hacs
from bsp.datasets.results_json import read_video_ids
from bsp.errors import AnnotationError, TooManyBroken
from bsp.files.text import read_json
from bsp.metrics.detection import evaluate_detection
from repository import FIXTURES

SMALL = FIXTURES / "activitynet_small.json"


def touch(folder, *names):
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).touch()
    return folder


def changed(tmp_path, change):
    """A copy of the small file with ``change`` applied to its content."""
    document = json.loads(SMALL.read_text())
    change(document)
    path = tmp_path / "changed.json"
    path.write_text(json.dumps(document))
    return path


def test_reads_the_official_layout():
    data = load_activitynet(SMALL, None)
    assert [video.video_id for video in data.videos] == [
        "trainvideo1",
        "v_strangeid",
        "validvideo1",
        "validvideo2",
    ]
    first = data.videos[0]
    assert (first.duration_s, first.subset, first.path) == (60.5, "training", None)
    # An instance that ends after its video, and a reversed one, are unchanged.
    assert first.instances == (Instance("Juggling", 1.25, 20.0), Instance("Juggling", 30.0, 61.75))
    assert data.videos[1].instances == (Instance("Archery", 5.0, 2.0),)
    assert data.class_names == ("Archery", "Juggling", "Welding")
    assert data.missing == ()
    assert data.ground_truth == json.loads(SMALL.read_text())


def test_subsets_share_the_class_numbering():
    for subset in ("training", "validation", "testing"):
        data = load_activitynet(SMALL, None, subsets=(subset,))
        assert {video.subset for video in data.videos} == {subset}
        assert data.class_names == ("Archery", "Juggling", "Welding")


def test_gzipped_file_is_the_same(tmp_path):
    packed = tmp_path / "small.json.gz"
    packed.write_bytes(gzip.compress(SMALL.read_bytes()))
    assert load_activitynet(packed, None) == load_activitynet(SMALL, None)


def test_hacs_layout_with_durations_as_text():
    data = load_activitynet(FIXTURES / "hacs_small.json", None, subsets=("training",))
    (video,) = data.videos
    assert video.duration_s == 92.166667
    assert video.instances == (Instance("Dodgeball", 5.4, 11.6), Instance("Dodgeball", 12.6, 88.16))


def test_finds_videos_by_both_names(tmp_path):
    folder = touch(
        tmp_path / "videos",
        "v_trainvideo1.mp4",
        "validvideo1.mkv",
        "v_v_strangeid.webm",
        "validvideo2.MP4",
        "validvideo2.txt",
    )
    data = load_activitynet(SMALL, folder)
    assert [Path(video.path).name for video in data.videos] == [
        "v_trainvideo1.mp4",
        "v_v_strangeid.webm",
        "validvideo1.mkv",
        "validvideo2.MP4",
    ]
    assert all(Path(video.path).parent == folder for video in data.videos)


def test_an_id_that_begins_like_the_prefix(tmp_path):
    folder = touch(tmp_path / "videos", "v_strangeid.mp4", "strangeid.mp4")
    data = load_activitynet(SMALL, folder, max_missing_share=1)
    assert {video.video_id: video.path for video in data.videos}["v_strangeid"] == str(folder / "v_strangeid.mp4")


def test_prefix_and_mp4_are_preferred(tmp_path):
    folder = touch(tmp_path / "videos", "validvideo1.mp4", "v_validvideo1.mkv", "validvideo2.avi", "validvideo2.mp4")
    data = load_activitynet(SMALL, folder, subsets=("validation",))
    assert [Path(video.path).name for video in data.videos] == ["v_validvideo1.mkv", "validvideo2.mp4"]


def test_missing_videos_are_counted_listed_and_capped(tmp_path, caplog):
    folder = touch(tmp_path / "videos", "v_trainvideo1.mp4", "v_validvideo1.mp4")
    with caplog.at_level(logging.WARNING):
        data = load_activitynet(SMALL, folder)
    assert data.missing == ("v_strangeid", "validvideo2")
    assert [video.path is None for video in data.videos] == [False, True, False, True]
    assert "2 of 4 annotated videos have no file: v_strangeid, validvideo2" in caplog.text
    with pytest.raises(TooManyBroken, match=r"2 of 4 .*v_strangeid, validvideo2.*max_missing_share=0.4"):
        load_activitynet(SMALL, folder, max_missing_share=0.4)
    blocked = load_activitynet(SMALL, folder, max_missing_share=0, blocked=["v_strangeid", "validvideo2"])
    assert blocked.missing == ()
    assert len(blocked.videos) == 2


def test_missing_folder_is_no_missing_video(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load_activitynet(SMALL, tmp_path / "nowhere", max_missing_share=1)


def test_malformed_json_names_file_line_and_column(tmp_path):
    broken = tmp_path / "broken.json"
    broken.write_text('{\n "database": {\n  "a": [1,,2]\n }\n}\n')
    with pytest.raises(AnnotationError, match=r"broken\.json: malformed JSON, .*line 3 column 11"):
        load_activitynet(broken, None)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "malformed JSON"),
        (b"\xff\xfe{}", "malformed JSON"),
        (b"[" * 100_000, "malformed JSON"),
        (gzip.compress(SMALL.read_bytes())[:200], "damaged gzip"),
        (b"\x1f\x8bnot really", "damaged gzip"),
        (b"[]", "top level: .*dictionary"),
        (b"{}", "database: is missing"),
        (b"null", "top level: "),
    ],
)
def test_no_annotation_file_at_all(tmp_path, content, message):
    path = tmp_path / "file.json"
    path.write_bytes(content)
    with pytest.raises(AnnotationError, match=rf"file\.json: {message}"):
        load_activitynet(path, None)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(AnnotationError, match=r"absent\.json: no such file"):
        read_json(tmp_path / "absent.json")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v.pop("subset"), r"database\.validvideo1\.subset: is missing"),
        (lambda v: v.pop("annotations"), r"database\.validvideo1\.annotations: is missing"),
        (lambda v: v.pop("duration"), r"database\.validvideo1\.duration: is missing"),
        (lambda v: v.update(duration="long"), r"database\.validvideo1\.duration: .*found 'long'"),
        (lambda v: v.update(duration=0), r"database\.validvideo1\.duration: must be above 0 .*found 0"),
        (lambda v: v["annotations"][1].update(label=None), r"annotations\[1\]\.label: .*found None"),
        (lambda v: v["annotations"][0].update(segment="1-2"), r"annotations\[0\]\.segment: .*found '1-2'"),
        (lambda v: v["annotations"][0]["segment"].pop(), r"annotations\[0\]\.segment\[1\]: is missing"),
        (lambda v: v["annotations"][0].update(segment=[1, "x"]), r"annotations\[0\]\.segment\[1\]: .*'x'"),
        (lambda v: v["annotations"][0].update(segment=[1, float("inf")]), r"segment\[1\]: .*found inf"),
    ],
)
def test_wrong_fields_are_named_with_their_value(tmp_path, change, message):
    path = changed(tmp_path, lambda document: change(document["database"]["validvideo1"]))
    with pytest.raises(AnnotationError, match=rf"changed\.json: .*{message}"):
        load_activitynet(path, None)


def test_unknown_subset_lists_those_present():
    with pytest.raises(AnnotationError, match=r"'test'.*training \(2 videos\).*testing \(1 videos\)"):
        load_activitynet(SMALL, None, subsets=("validation", "test"))


@pytest.mark.parametrize("settings", [{"max_missing_share": 1.5}, {"subsets": ()}, {"subsets": "training"}])
def test_impossible_arguments(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        load_activitynet(SMALL, None, **settings)


def test_blocked_list_must_be_a_list_of_ids(tmp_path):
    path = tmp_path / "ids.json"
    for content in ('["a", "b"]', '\ufeff[" a", "b.mp4"]', "a\r\nb\r\n", "a.mp4\n\nb \n"):
        path.write_text(content)
        assert read_video_ids(path) == ["a", "b"]
    path.write_text('{"validation": ["a"]}')
    with pytest.raises(AnnotationError, match=r"list of video ids, found an object with the keys 'validation'"):
        read_video_ids(path)
    path.write_text('["a", 7]')
    with pytest.raises(AnnotationError, match=r"ids\.json: \[1\]: .*string, found 7"):
        read_video_ids(path)


def test_a_link_to_a_video_counts(tmp_path):
    folder = touch(tmp_path / "videos", "v_validvideo1.mp4")
    elsewhere = touch(tmp_path / "more", "x.mp4")
    (folder / "v_validvideo2.mp4").symlink_to(elsewhere / "x.mp4")
    assert load_activitynet(SMALL, folder, subsets=("validation",)).missing == ()
    shutil.rmtree(elsewhere)  # a dangling link is still found by name; the reader reports it
    assert load_activitynet(SMALL, folder, subsets=("validation",)).missing == ()


DODGEBALL = [{"label": "Dodgeball", "segment": [5.4, 11.6]}, {"label": "Dodgeball", "segment": [12.6, 88.16]}]
HACS = {
    "database": {
        "--0edUL8zmA": {"annotations": DODGEBALL, "subset": "training", "duration": "92.166667", "url": "u"},
        "abcdefghijk": {
            "annotations": [
                {"label": "Archery", "segment": [3.0, 3.0]},
                {"label": "Archery", "segment": [4.0, 9.5]},
                {"label": "Archery", "segment": [8.0, 7.0]},
            ],
            "subset": "validation",
            "duration": "30.5",
            "url": "u",
        },
        "testvideo01": {"annotations": [], "subset": "testing", "duration": "12.0", "url": "u"},
    }
}


@pytest.fixture
def hacs_path(tmp_path):
    file = tmp_path / "HACS_segments_v1.1.1.json"
    file.write_text(json.dumps(HACS))
    return file


def test_hacs_layout(hacs_path):
    data = load_hacs(hacs_path, None)
    assert [(v.video_id, v.subset, v.duration_s) for v in data.videos] == [
        ("--0edUL8zmA", "training", 92.166667),
        ("abcdefghijk", "validation", 30.5),
    ]
    assert data.videos[0].instances == (Instance("Dodgeball", 5.4, 11.6), Instance("Dodgeball", 12.6, 88.16))
    assert data.class_names == ("Archery", "Dodgeball")


def test_hacs_instances_without_length_are_left_out_and_named(hacs_path):
    data = load_hacs(hacs_path, None)
    assert data.videos[1].instances == (Instance("Archery", 4.0, 9.5),)
    assert data.dropped == (
        f"{hacs_path}: database.abcdefghijk.annotations[0]: 'Archery' from 3.0 to 3.0 s has no length",
        f"{hacs_path}: database.abcdefghijk.annotations[2]: 'Archery' from 8.0 to 7.0 s has no length",
    )
    found = {"results": {"abcdefghijk": [{"label": "Archery", "score": 1.0, "segment": [4.0, 9.5]}]}}
    assert evaluate_detection(data.ground_truth, found, subset="validation")["average_mAP"] == 1.0


def test_hacs_videos_with_and_without_the_prefix(hacs_path, tmp_path):
    videos = tmp_path / "videos"
    videos.mkdir()
    for name in ("v_abcdefghijk.mp4", "--0edUL8zmA.mkv"):
        (videos / name).touch()
    data = load_hacs(hacs_path, videos)
    assert [v.path for v in data.videos] == [str(videos / "--0edUL8zmA.mkv"), str(videos / "v_abcdefghijk.mp4")]
    assert load_hacs(hacs_path, videos, subsets=("testing",), max_missing_share=1.0).missing == ("testvideo01",)


def test_hacs_duration_that_is_no_number_is_named(hacs_path):
    document = json.loads(hacs_path.read_text())
    document["database"]["abcdefghijk"]["duration"] = "long"
    hacs_path.write_text(json.dumps(document))
    with pytest.raises(AnnotationError, match=r"database\.abcdefghijk\.duration.*'long'"):
        load_hacs(hacs_path, None)
