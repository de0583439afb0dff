"""The official Kinetics CSV and class folders, with real mp4 files, down to clips."""

import logging
import os

import numpy as np
import pytest

from bsp.clips.plan import BoundaryKind, ClipSettings, plan_clip
from bsp.clips.synthesis import render_clip
from bsp.datasets.kinetics import load_class_folders, load_kinetics_csv, read_kinetics_csv
from bsp.errors import AnnotationError, TooManyBroken
from bsp.video.write import write_mp4

HEADER = "label,youtube_id,time_start,time_end,split,is_cc\n"
CSV = HEADER + (
    "abseiling,0wR5jVB-WPk,417,427,val,0\n"
    '"punching person (boxing)",-a_b1234567,2,5,val,1\n'
    '"massaging person\'s head",3caPS4FHFF8,36,46,val,0\n'
    "abseiling,zzzzzzzzzzz,0,10,val,0\n"
)


def write_video(path, frames=20, fps=10, level=100):
    path.parent.mkdir(parents=True, exist_ok=True)
    write_mp4(path, np.full((frames, 32, 32, 3), level, np.uint8), fps=fps)


@pytest.fixture
def csv_path(tmp_path):
    path = tmp_path / "val.csv"
    path.write_text(CSV)
    return path


def load(csv_path, root, **options):
    return load_kinetics_csv(csv_path, root, progress=False, **options)


# ---- the CSV


def test_rows_are_read_with_their_lines(csv_path):
    rows = read_kinetics_csv(csv_path)
    assert [tuple(row) for row in rows] == [
        (2, "abseiling", "0wR5jVB-WPk", 417, 427),
        (3, "punching person (boxing)", "-a_b1234567", 2, 5),
        (4, "massaging person's head", "3caPS4FHFF8", 36, 46),
        (5, "abseiling", "zzzzzzzzzzz", 0, 10),
    ]


def test_byte_order_mark_windows_line_ends_and_column_order_do_not_matter(tmp_path):
    path = tmp_path / "list.csv"
    path.write_bytes(b"\xef\xbb\xbfyoutube_id,label,time_end,time_start\r\n0wR5jVB-WPk,air drumming,20,10\r\n\r\n")
    assert [tuple(row) for row in read_kinetics_csv(path)] == [(2, "air drumming", "0wR5jVB-WPk", 10, 20)]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "no column label, youtube_id, time_start, time_end, found 'nothing'"),
        (HEADER, "no video"),
        ("label,youtube_id,time_start\na,b,1\n", "line 1: no column time_end,"),
        ("youtube_id,time_start,time_end,split\nb,1,2,test\n", "line 1: no column label,"),
        ("label,label,youtube_id,time_start,time_end\n", "line 1: the column 'label' twice"),
        (HEADER + "a,b,1,11,val,0\na,c,1,11\n", "line 3: 4 fields, not 6"),
        (HEADER + "a,b,1,11,val,0,extra\n", "line 2: 7 fields, not 6"),
        (HEADER + "a,b,one,11,val,0\n", "line 2: time_start.*'one'"),
        (HEADER + "a,b,1,,val,0\n", "line 2: time_end.*''"),
        (HEADER + "a,b,-1,11,val,0\n", "line 2: time_start.*'-1'"),
        (HEADER + "a,b,1,nan,val,0\n", "line 2: time_end.*'nan'"),
        (HEADER + "a,b,1,inf,val,0\n", "line 2: time_end.*'inf'"),
        (HEADER + "a,b,11,11,val,0\n", "line 2: time_end 11 is not after time_start 11"),
        (HEADER + "a,b,12,11,val,0\n", "line 2: time_end 11 is not after time_start 12"),
        (HEADER + ",b,1,11,val,0\n", "line 2: label is empty"),
        (HEADER + "a, ,1,11,val,0\n", "line 2: youtube_id is empty"),
        (HEADER + 'a,b,1,11,val,0\n"a"x,c,1,11,val,0\n', "line 3: not valid CSV"),
        (HEADER + 'a,b,1,11,val,0\n"a,c,1,11,val,0\n', "line 3: not valid CSV"),
        (HEADER + "a,b,1,11,val,0\nc,d,1,11,val,0\na,b,1,11,val,0\n", "line 4: b 1-11 s.*first in line 2"),
    ],
)
def test_a_malformed_csv_is_explained(tmp_path, text, named):
    path = tmp_path / "list.csv"
    path.write_text(text)
    with pytest.raises(AnnotationError, match=named) as error:
        read_kinetics_csv(path)
    assert str(path) in str(error.value)


def test_a_csv_that_is_none_is_explained(tmp_path):
    with pytest.raises(AnnotationError, match="no such file"):
        read_kinetics_csv(tmp_path / "absent.csv")
    (tmp_path / "bytes.csv").write_bytes(b"\xff\xfd\x00\x01")
    with pytest.raises(AnnotationError, match="UTF-8"):
        read_kinetics_csv(tmp_path / "bytes.csv")
    with pytest.raises(AnnotationError, match=str(tmp_path)):
        read_kinetics_csv(tmp_path)


# ---- the files of a CSV


def test_clips_are_found_wherever_they_usually_lie(tmp_path, csv_path):
    root = tmp_path / "videos"
    write_video(root / "0wR5jVB-WPk_000417_000427.mp4", 11)  # directly in the folder
    write_video(root / "punching_person_boxing" / "-a_b1234567.mp4", 40)  # uncut: 2-5 s of 4 s
    write_video(root / "massaging person's head" / "3caPS4FHFF8_000036_000046.MP4", 13)  # the unchanged class name
    write_video(root / "abseiling" / "zzzzzzzzzzz_000000_000010.mkv", 14)
    write_video(root / "abseiling" / "zzzzzzzzzzz.mp4", 99)  # the cut file is preferred
    write_video(root / "abseiling" / "unlisted_000000_000010.mp4", 15)
    (root / "abseiling" / "zzzzzzzzzzz_000000_000010.txt").write_text("not a video")
    catalog = load(csv_path, root)
    assert catalog.class_names == ("abseiling", "massaging person's head", "punching person (boxing)")
    assert [path.decode() for path in catalog.paths] == [
        "0wR5jVB-WPk_000417_000427.mp4",
        "punching_person_boxing/-a_b1234567.mp4",
        "massaging person's head/3caPS4FHFF8_000036_000046.MP4",
        "abseiling/zzzzzzzzzzz_000000_000010.mkv",
    ]
    assert catalog.labels.tolist() == [0, 2, 1, 0]
    assert catalog.first_frame.tolist() == [0, 20, 0, 0]
    assert catalog.frames.tolist() == [11, 20, 13, 14]
    assert catalog.skipped == ()


def test_the_order_of_labels_is_alphabetical_or_given(tmp_path):
    root = tmp_path / "videos"
    path = tmp_path / "list.csv"
    path.write_text(HEADER + "zumba,a,0,1,val,0\nair drumming,b,0,1,val,0\n")
    for name in "ab":
        write_video(root / f"{name}_000000_000001.mp4")
    assert load(path, root).labels.tolist() == [1, 0]
    given = load(path, root, class_names=["air drumming", "knitting", "zumba"])
    assert given.labels.tolist() == [2, 0]
    assert given.class_names == ("air drumming", "knitting", "zumba")
    with pytest.raises(AnnotationError, match=r"line 2.*'zumba'"):
        load(path, root, class_names=["air drumming"])


def test_a_file_in_another_class_folder_is_not_taken(tmp_path, csv_path):
    root = tmp_path / "videos"
    write_video(root / "abseiling" / "3caPS4FHFF8_000036_000046.mp4")
    write_video(root / "abseiling" / "zzzzzzzzzzz_000000_000010.mp4")
    catalog = load(csv_path, root, max_missing_share=0.75)
    assert [path.decode() for path in catalog.paths] == ["abseiling/zzzzzzzzzzz_000000_000010.mp4"]


def test_missing_videos_are_counted_and_listed(tmp_path, csv_path, caplog):
    root = tmp_path / "videos"
    write_video(root / "0wR5jVB-WPk_000417_000427.mp4")
    write_video(root / "abseiling" / "zzzzzzzzzzz_000000_000010.mp4")
    with caplog.at_level(logging.WARNING):
        catalog = load(csv_path, root)  # 2 of 4: just the cap
    assert len(catalog) == 2
    assert [name for name, _ in catalog.skipped] == ["-a_b1234567_000002_000005", "3caPS4FHFF8_000036_000046"]
    assert "line 3" in catalog.skipped[0][1]
    assert len(catalog.class_names) == 3  # a class whose videos are all missing keeps its number
    assert catalog.labels.tolist() == [0, 0]
    assert "2 of 4" in caplog.text
    with pytest.raises(TooManyBroken, match=r"2 of 4(.|\n)*3caPS4FHFF8_000036_000046(.|\n)*49%"):
        load(csv_path, root, max_missing_share=0.49)


def test_broken_and_missing_videos_have_caps_of_their_own(tmp_path, csv_path):
    root = tmp_path / "videos"
    write_video(root / "0wR5jVB-WPk_000417_000427.mp4")
    (root / "abseiling").mkdir()
    (root / "abseiling" / "zzzzzzzzzzz_000000_000010.mp4").write_bytes(b"")
    with pytest.raises(TooManyBroken, match="1 of 2"):
        load(csv_path, root, max_skipped_share=0)
    catalog = load(csv_path, root)
    assert [name for name, _ in catalog.skipped] == [
        "-a_b1234567_000002_000005",
        "3caPS4FHFF8_000036_000046",
        "abseiling/zzzzzzzzzzz_000000_000010.mp4",
    ]


def test_an_uncut_file_shorter_than_its_time_stamps_is_explained(tmp_path):
    root = tmp_path / "videos"
    path = tmp_path / "list.csv"
    path.write_text(HEADER + "abseiling,a,417,427,val,0\nabseiling,b,0,1,val,0\n")
    write_video(root / "a.mp4")
    write_video(root / "b.mp4")
    catalog = load(path, root, max_skipped_share=0.5)
    assert catalog.frames.tolist() == [10]
    assert "417-427 s" in catalog.skipped[0][1]
    assert "<start 6 digits>" in catalog.skipped[0][1]


def test_unsuitable_folders_are_explained(tmp_path, csv_path):
    with pytest.raises(AnnotationError, match="no such folder"):
        load(csv_path, tmp_path / "absent")
    with pytest.raises(AnnotationError, match="not a folder"):
        load(csv_path, csv_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(AnnotationError, match="is empty"):
        load(csv_path, tmp_path / "empty")
    (tmp_path / "texts" / "abseiling").mkdir(parents=True)
    (tmp_path / "texts" / "abseiling" / "readme.txt").write_text("no video here")
    with pytest.raises(AnnotationError, match=r"no video.*\.mp4"):
        load(csv_path, tmp_path / "texts")
    write_video(tmp_path / "other" / "unlisted_000000_000010.mp4")
    with pytest.raises(AnnotationError, match=r"none of the 4.*0wR5jVB-WPk_000417_000427\.mp4"):
        load(csv_path, tmp_path / "other")


# ---- class folders


def test_class_folders(tmp_path):
    write_video(tmp_path / "walk" / "b.mp4", 12)
    write_video(tmp_path / "walk" / "a.avi", 13)
    write_video(tmp_path / "jump high" / "z.webm", 14)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "readme.txt").write_text("no videos here")
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache" / "old.mp4").write_bytes(b"")
    catalog = load_class_folders(tmp_path, progress=False)
    assert catalog.class_names == ("jump high", "walk")
    assert [path.decode() for path in catalog.paths] == ["jump high/z.webm", "walk/a.avi", "walk/b.mp4"]
    assert catalog.labels.tolist() == [0, 1, 1]
    assert catalog.frames.tolist() == [14, 13, 12]
    given = load_class_folders(tmp_path, class_names=["jump high", "sit", "walk"], progress=False)
    assert given.labels.tolist() == [0, 2, 2]
    with pytest.raises(AnnotationError, match="walk"):
        load_class_folders(tmp_path, class_names=["jump high"], progress=False)


def test_videos_outside_class_folders_are_refused(tmp_path):
    write_video(tmp_path / "walk" / "a.mp4")
    write_video(tmp_path / "loose.mp4")
    with pytest.raises(AnnotationError, match=r"loose\.mp4"):
        load_class_folders(tmp_path, progress=False)
    with pytest.raises(AnnotationError, match="no such folder"):
        load_class_folders(tmp_path / "absent", progress=False)


# ---- to pixels


def test_a_csv_becomes_clips_of_all_kinds(tmp_path):
    """Grey level says the class: 60 for "dig", 180 for "sew"."""
    rows = [(label, f"{label}{i}") for label in ("dig", "sew") for i in range(2)]
    path = tmp_path / "list.csv"
    path.write_text(HEADER + "".join(f"{label},{name},0,2,train,0\n" for label, name in rows))
    for label, name in rows:
        write_video(tmp_path / "videos" / label / f"{name}_000000_000002.mp4", level=60 if label == "dig" else 180)
    catalog = load(path, tmp_path / "videos", cache_dir=tmp_path / "cache")
    for index in range(12):
        plan = plan_clip(catalog, ClipSettings(change_point=4, epsilon=0), 0, index)
        clip = render_clip(catalog, plan, None, time_limit_s=20)
        levels = np.rint(clip.mean(axis=(1, 2, 3)) / 60).astype(int)  # 1 and 3
        classes = [1 if catalog.labels[video] == 0 else 3 for video in plan.videos]
        assert levels.tolist() == [classes[0]] * 4 + [classes[-1]] * 4
        assert (classes[0] != classes[-1]) == (plan.kind == BoundaryKind.DIFF_CLASS)


def test_links_to_nowhere_and_loops_are_broken_videos(folder_of_classes, monkeypatch):
    (folder_of_classes / "dance" / "gone.mp4").symlink_to("/nonexistent/gone.mp4")
    (folder_of_classes / "dance" / "round.mp4").symlink_to(folder_of_classes / "dance" / "round.mp4")
    (folder_of_classes / "loop").symlink_to(folder_of_classes / "loop")
    os.mkfifo(folder_of_classes / "sing" / "pipe.mp4")
    catalog = load_class_folders(folder_of_classes, progress=False, max_skipped_share=0.9)
    reasons = dict(catalog.skipped)
    assert reasons.keys() == {"dance/gone.mp4", "dance/round.mp4", "sing/pipe.mp4"}
    assert reasons["dance/gone.mp4"] == "a link to a file that is gone"
    assert "not a file" in reasons["sing/pipe.mp4"]

    def forbidden(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "listdir", forbidden)
    with pytest.raises(AnnotationError, match="dance: the folder cannot be read"):
        load_class_folders(folder_of_classes, progress=False)


@pytest.fixture
def folder_of_classes(tmp_path):
    for name in ("dance/a.mp4", "sing/b.mp4"):
        (tmp_path / name).parent.mkdir()
        write_mp4(tmp_path / name, np.zeros((4, 32, 64, 3), np.uint8), fps=4)
    return tmp_path
