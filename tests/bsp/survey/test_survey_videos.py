"""Rows of the report: what each kind of file is, and that a second look does only what is needed."""

import os

import numpy as np
import pytest

from bsp.errors import FileError
from bsp.survey import videos as survey
from bsp.survey.listing import ListedVideo, list_videos
from bsp.survey.videos import check_video, check_videos, read_report
from bsp.video.read import probe, read_frames
from make_videos import numbered_frames, read_numbers, write_audio, write_rotated, write_video

FRAMES = 40


@pytest.fixture(scope="module")
def frames():
    return numbered_frames(FRAMES)


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("a.mp4", "libx264"),
        ("a.mkv", "libx264"),
        ("a.webm", "libvpx-vp9"),
        ("a.mov", "libx264"),
        ("a.avi", "mpeg4"),
        ("a.ts", "libx264"),
    ],
)
def test_ordinary_files_have_no_problem(tmp_path, frames, name, codec):
    row = check_video(str(write_video(tmp_path / name, frames, codec=codec)), "a", decode=True)
    assert (row.readable, row.usable, row.problem, row.remedy) == (True, True, "", "")
    assert (row.frames, row.fps, row.width, row.height, row.damaged_frames) == (FRAMES, 25, 128, 96, 0)
    assert row.duration_s == pytest.approx(FRAMES / 25)
    assert not row.variable_rate


def test_a_turned_video_is_named_and_read_upright(tmp_path, frames):
    path = write_rotated(tmp_path / "phone.mp4", frames, 1)
    row = check_video(str(path), "phone")
    assert abs(row.rotation) == 90
    assert "turned by" in row.problem
    assert row.usable
    assert (row.width, row.height) == (128, 96)  # upright
    assert read_numbers(read_frames(path, np.arange(3), reader=probe(path).reader)) == [0, 1, 2]


def test_variable_rate_and_duration_by_the_frames_own_times(tmp_path, frames):
    times = [0, 40, 80, 1000, *range(1040, 1040 + 40 * (FRAMES - 4), 40)]
    row = check_video(str(write_video(tmp_path / "v.mkv", frames, times_ms=times)), "v")
    assert row.variable_rate
    assert "variable frame rate" in row.problem
    assert row.duration_s == pytest.approx((times[-1] + 40) / 1000, abs=0.002)


def test_odd_but_readable(tmp_path, frames):
    assert "a single picture" in check_video(str(write_video(tmp_path / "one.mp4", frames[:1])), "one").problem
    fast = check_video(str(write_video(tmp_path / "fast.mp4", frames, fps=1000)), "fast")
    assert "1000 frames a second" in fast.problem
    assert "0.04 s long" in fast.problem
    assert "true rate" in fast.remedy


def test_unusable_files_say_why_and_what_to_do(tmp_path, frames):
    (tmp_path / "zero.mp4").touch()
    (tmp_path / "text.mp4").write_text("hello")
    write_audio(tmp_path / "sound.mp4")
    whole = write_video(tmp_path / "whole.mp4", frames).read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    expected = {
        "zero": "0 bytes",
        "text": "not a video",
        "sound": "audio only",
        "cut": "truncated",
        "gone": "no such file",
    }
    for name, why in expected.items():
        row = check_video(str(tmp_path / f"{name}.mp4"), name)
        assert not row.usable
        assert why in row.problem, row
        assert row.remedy
        assert row.remedy not in row.problem


def test_continues_where_it_stopped_and_looks_again_at_what_changed(tmp_path, frames, monkeypatch):
    folder, report = tmp_path / "v", tmp_path / "check.csv"
    folder.mkdir()
    for name in ("=a", "b", "c"):
        write_video(folder / f"{name}.mp4", frames[:30])
    (folder / "broken.mp4").write_bytes(b"x")
    listed = list_videos([folder]).videos
    looked = []
    real = survey.check_video
    monkeypatch.setattr(
        survey, "check_video", lambda path, *rest: looked.append(os.path.basename(path)) or real(path, *rest)
    )
    first = check_videos(listed, report=report, decode=False, workers=1)
    assert len(looked) == 4
    assert read_report(report) == {row.path: row for row in first}
    looked.clear()
    os.utime(folder / "b.mp4", ns=(1, 1))
    second = check_videos(listed, report=report, decode=False, workers=1)
    assert sorted(looked) == ["b.mp4", "broken.mp4"]  # changed, and not readable before
    assert [row.frames for row in second] == [row.frames for row in first]


def test_many_files_in_processes_give_the_same_rows(tmp_path, frames):
    listed = [
        ListedVideo(path=str(write_video(tmp_path / f"{k}.mp4", frames[: 10 + k])), video_id=str(k)) for k in range(9)
    ]
    rows = check_videos(listed, report=None, decode=False, workers=2)
    assert [row.frames for row in rows] == [10 + k for k in range(9)]
    assert rows[3] == check_video(listed[3].path, "3")


def test_another_file_is_no_report(tmp_path):
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(FileError, match="no report of bsp check"):
        check_videos([], report=tmp_path / "other.csv", decode=False, workers=1)
