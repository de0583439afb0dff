"""Ids of a person's videos: unique, safe, and told where they are not the file's name."""

import os
import unicodedata

import pytest

from bsp.errors import AnnotationError
from bsp.files.text import clean_id, safe_name
from bsp.survey.listing import list_videos


def make(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def ids(folder):
    return {os.path.relpath(video.path, folder): video.video_id for video in list_videos([folder]).videos}


def test_plain_names_are_the_ids_and_others_are_told_apart(tmp_path):
    make(tmp_path, "a.mp4", "mon/clip.mp4", "tue/clip.MOV", "v.avi", "v.mkv", "no ñ 🎬.webm")
    assert ids(tmp_path) == {
        "a.mp4": "a", "mon/clip.mp4": "mon__clip", "tue/clip.MOV": "tue__clip", "v.avi": "v_avi", "v.mkv": "v_mkv",
        "no ñ 🎬.webm": "no ñ 🎬",
    }  # fmt: skip
    renamed = [video.video_id for video in list_videos([tmp_path]).videos if video.renamed]
    assert renamed == ["mon__clip", "tue__clip", "v_avi", "v_mkv"]


def test_names_that_results_cannot_have_become_safe_and_stay_unique(tmp_path):
    decomposed = unicodedata.normalize("NFD", "é")
    long = "ü" * 120 + ".mp4"  # 244 bytes
    make(
        tmp_path,
        "a\nb.mp4",
        " c .mp4",
        f"{decomposed}.mp4",
        long,
        "x.mp4.mkv",
        "A.mp4",
        "sub/a.mp4",
        os.fsdecode(b"\xff.mp4"),
    )
    found = ids(tmp_path)
    assert len({name.casefold() for name in found.values()}) == len(found) == 8
    for name in found.values():
        assert safe_name(name, "") == name
        assert clean_id(name) == name
    assert found["a\nb.mp4"] == "a_b"
    assert found[f"{decomposed}.mp4"] == "é"
    assert found["A.mp4"] == "A"
    assert all(video.renamed for video in list_videos([tmp_path]).videos if "\n" in video.path)


def test_hidden_files_and_links_to_a_parent_are_passed_over(tmp_path):
    make(tmp_path, "._a.mp4", "a.mp4", ".hidden/b.mp4", "__MACOSX/c.mp4", "notes.txt")
    (tmp_path / "loop").symlink_to(tmp_path)
    found = list_videos([tmp_path])
    assert [video.video_id for video in found.videos] == ["a"]
    assert (found.hidden, [os.path.basename(one) for one in found.others]) == (3, ["notes.txt"])


def test_single_files_of_any_ending_and_no_video(tmp_path):
    make(tmp_path, "a.mp4", "strange.dat")
    assert [v.video_id for v in list_videos([tmp_path / "strange.dat", tmp_path / "a.mp4"]).videos] == ["a", "strange"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(AnnotationError, match=r"no video among 0 files.*\.mp4"):
        list_videos([tmp_path / "empty"])
