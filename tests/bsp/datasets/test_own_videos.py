"""One's own videos: class folders, lists, and videos without classes."""

from __future__ import annotations

import numpy as np
import pytest

from bsp.datasets.kinetics import load_own_videos
from bsp.errors import AnnotationError, TooManyBroken
from bsp.video.write import write_mp4


def write_video(path, frames=20, fps=10):
    path.parent.mkdir(parents=True, exist_ok=True)
    write_mp4(path, np.full((frames, 32, 32, 3), 100, np.uint8), fps=fps)


def load(path, **options):
    return load_own_videos(path, progress=False, **options)


def content(own) -> list[tuple[str, str]]:
    catalog = own.catalog
    return [(catalog.paths[k].decode(), catalog.class_names[catalog.labels[k]]) for k in range(len(catalog))]


def test_a_folder_per_class(tmp_path):
    for name in ("walk/a.mp4", "walk/b.mp4", "run/c.mp4"):
        write_video(tmp_path / name)
    own = load(tmp_path)
    assert own.has_classes
    assert own.how == "2 folders, one per class"
    assert content(own) == [("run/c.mp4", "run"), ("walk/a.mp4", "walk"), ("walk/b.mp4", "walk")]


def test_videos_without_classes_also_below_videos(tmp_path):
    for name in ("b.mp4", "a.mkv", "._a.mp4"):
        write_video(tmp_path / "videos" / name)
    own = load(tmp_path)
    assert not own.has_classes
    assert content(own) == [("a.mkv", "videos"), ("b.mp4", "videos")]


def test_a_list_with_labels_and_times(tmp_path):
    write_video(tmp_path / "clips" / "a.mp4")
    write_video(tmp_path / "b.mp4")
    path = tmp_path / "list.csv"
    path.write_text("video,label,start_s,end_s\nclips/a.mp4,walk,0.5,1.5\nb.mp4,run,,\n./clips/a.mp4,run,0,0.5\n")
    own = load(path)
    assert own.has_classes
    assert own.how == "the list list.csv, 2 classes"
    assert content(own) == [("clips/a.mp4", "walk"), ("b.mp4", "run"), ("clips/a.mp4", "run")]
    assert own.catalog.first_frame.tolist() == [5, 0, 0]
    assert own.catalog.frames.tolist() == [10, 20, 5]


def test_a_list_without_labels_has_no_classes(tmp_path):
    write_video(tmp_path / "a.mp4")
    (tmp_path / "list.csv").write_text("video\na.mp4\n")
    own = load(tmp_path / "list.csv")
    assert not own.has_classes
    assert own.how == "the list list.csv, without classes"


def test_kinetics_lists_are_known_in_a_folder_and_by_name(tmp_path):
    write_video(tmp_path / "videos" / "walk" / "abc_000000_000002.mp4")
    (tmp_path / "train.csv").write_text("label,youtube_id,time_start,time_end\nwalk,abc,0,2\n")
    for given in (tmp_path, tmp_path / "train.csv"):
        own = load(given)
        assert (own.has_classes, own.how) == (True, "Kinetics' list train.csv")
        assert content(own) == [("walk/abc_000000_000002.mp4", "walk")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("video,label\n", r"list\.csv: lists no video"),
        ("file,label\na.mp4,walk\n", r"line 1: no column video, found 'file, label'"),
        ("video,start_s\na.mp4,0\n", "line 1: start_s and end_s go together"),
        ("video,label\n,walk\n", "line 2: video is empty"),
        ("video,label\na.mp4,\n", "line 2: label is empty"),
        ("video,label\n../a.mp4,walk\n", r"line 2: \.\./a\.mp4 lies outside .*; put the list above all its videos"),
        ("video,label\n/etc/a.mp4,walk\n", r"line 2: /etc/a\.mp4 lies outside"),
        ("video,label\na.mp4,walk\na.mp4,run\n", "line 3: a.mp4 is listed twice, first in line 2"),
        ("video,label\na.mp4,walk\nb.mp4,Walk\n", "they differ only in case"),
        ("video,start_s,end_s\na.mp4,2,1\n", "line 2: end_s 1 is not after start_s 2"),
        ("video,start_s,end_s\na.mp4,x,1\n", "line 2: start_s must be seconds from 0 up, not 'x'"),
    ],
)
def test_a_list_that_cannot_be_meant_is_refused_with_file_line_and_remedy(tmp_path, text, message):
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(AnnotationError, match=message):
        load(tmp_path / "list.csv")


def test_videos_beside_class_folders_are_refused(tmp_path):
    write_video(tmp_path / "walk" / "a.mp4")
    write_video(tmp_path / "b.mp4")
    with pytest.raises(AnnotationError, match=r"b\.mp4 and 0 more videos lie beside the folders \['walk'\]; put every"):
        load(tmp_path)


def test_nothing_there(tmp_path):
    with pytest.raises(AnnotationError, match="no such file or folder"):
        load(tmp_path / "absent")


def test_broken_videos_are_named_and_have_a_cap(tmp_path):
    for k in range(4):
        write_video(tmp_path / f"{k}.mp4")
    (tmp_path / "x.mp4").write_bytes(b"broken")
    with pytest.raises(TooManyBroken, match=r"x\.mp4"):
        load(tmp_path, max_skipped_share=0)
    assert [name for name, _ in load(tmp_path).catalog.skipped] == ["x.mp4"]
