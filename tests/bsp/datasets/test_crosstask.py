"""CrossTask release folders: tasks, steps, the split, and folders that are damaged."""

from __future__ import annotations

import hashlib
import random

import pytest

from bsp.datasets.crosstask import CrossTaskVideo, Step, Task, held_out_videos, load_crosstask, read_steps, read_tasks
from bsp.errors import AnnotationError, TooManyBroken

TASKS = """11
Make Tea
http://example.org/Make-Tea
3
boil water,pour water,add sugar

22
Fix a Tire
http://example.org/Fix-a-Tire
2
lift car,change tire

"""
RELATED = "33\nMake Coffee\nhttp://example.org/Coffee\n1\nboil water\n\n"
# Ids of YouTube may hold "_" and "-", also in front; the first video is one of a related task, too.
VIDEOS = {
    "11": ["_a-b_c0000X", "-teaVideo_2", "teaVideo__3", "teaVideo-_4", "teaVideo__5"],
    "22": ["tireVideo_1", "tireVideo_2"],
    "33": ["_a-b_c0000X", "coffeeVideo"],
}


@pytest.fixture
def release(tmp_path):
    folder = tmp_path / "crosstask_release"
    (folder / "annotations").mkdir(parents=True)
    (folder / "tasks_primary.txt").write_text(TASKS)
    (folder / "tasks_related.txt").write_text(RELATED)
    rows = [f"{task},{video},http://tube/{video}" for task, videos in VIDEOS.items() for video in videos]
    (folder / "videos.csv").write_text("\n".join(reversed(rows)) + "\n")
    for task in ("11", "22"):
        for video in VIDEOS[task]:
            (folder / "annotations" / f"{task}_{video}.csv").write_text("1,0.5,2.5\n2,2.5,4.0\n")
    return folder


def test_a_release_is_read_with_its_tasks_in_the_order_of_the_list(release):
    (release / "annotations" / "11__a-b_c0000X.csv").write_text("3,7.25,9.0\n1,0.0,4.5\n2,3.0,8.5\n1,3.0,3.5\n")
    data = load_crosstask(release)
    assert data.tasks == (
        Task("11", "Make Tea", "http://example.org/Make-Tea", ("boil water", "pour water", "add sugar")),
        Task("22", "Fix a Tire", "http://example.org/Fix-a-Tire", ("lift car", "change tire")),
    )
    assert [v.video_id for v in data.videos] == [*reversed(VIDEOS["22"]), *reversed(VIDEOS["11"])]
    assert data.videos[-1] == CrossTaskVideo(
        video_id="_a-b_c0000X",
        path=None,
        subset=data.videos[-1].subset,
        task_id="11",
        steps=(Step(1, 0.0, 4.5), Step(1, 3.0, 3.5), Step(2, 3.0, 8.5), Step(3, 7.25, 9.0)),
        url="http://tube/_a-b_c0000X",
    )
    assert data.missing == ()


def test_videos_are_found_and_missing_ones_named(release, tmp_path, caplog):
    videos = tmp_path / "videos"
    videos.mkdir()
    for task in ("11", "22"):
        for video in VIDEOS[task]:
            (videos / f"{video}.mp4").touch()
    (videos / "teaVideo__3.mp4").rename(videos / "teaVideo__3.webm")
    (videos / "tireVideo_2.mp4").unlink()
    data = load_crosstask(release, videos)
    paths = {v.video_id: v.path for v in data.videos}
    assert paths["teaVideo__3"] == str(videos / "teaVideo__3.webm")
    assert paths["tireVideo_2"] is None
    assert data.missing == ("tireVideo_2",)
    assert f"1 of 7 CrossTask videos are not in {videos}:\n  tireVideo_2: no such file" in caplog.text
    (videos / "teaVideo__3.webm").unlink()
    with pytest.raises(TooManyBroken, match=r"2 of 7 (.|\n)*tireVideo_2: no such file\n(.|\n)*The cap is 10%"):
        load_crosstask(release, videos, max_missing_share=0.1)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load_crosstask(release, tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"must lie in 0\.\.1, not 1\.5"):
        load_crosstask(release, videos, max_missing_share=1.5)


# -- the split --


@pytest.mark.parametrize(("videos", "test"), [(1, 0), (2, 1), (3, 1), (4, 1), (5, 1), (6, 2), (89, 22), (182, 46)])
def test_a_quarter_of_a_task_is_for_the_test(videos, test):
    assert len(held_out_videos([f"video{n}" for n in range(videos)])) == test


def test_the_split_follows_the_hashes_and_nothing_else(release):
    ids = [f"video{n}" for n in range(40)]
    by_hash = {hashlib.sha256(v.encode()).hexdigest(): v for v in ids}
    ranks = [by_hash[digest] for digest in sorted(by_hash)]
    assert held_out_videos(ids) == {v for rank, v in enumerate(ranks) if rank % 4 == 1}
    random.Random(0).shuffle(ids)
    assert held_out_videos(ids) == {v for rank, v in enumerate(ranks) if rank % 4 == 1}
    data = load_crosstask(release)  # each task by itself: one of five, one of two
    assert sorted(v.task_id for v in data.videos if v.subset == "test") == ["11", "22"]
    assert {v.subset for v in data.videos} == {"training", "test"}


# -- single files --


@pytest.mark.parametrize("change", ["plain", "windows", "mark", "no end", "blank lines"])
def test_line_ends_do_not_matter(tmp_path, change):
    text = {
        "plain": TASKS,
        "windows": TASKS.replace("\n", "\r\n"),
        "mark": "\ufeff" + TASKS,
        "no end": TASKS.rstrip(),
        "blank lines": "\n" + TASKS.replace("\n\n", "\n \n\n"),
    }[change]
    (tmp_path / "tasks.txt").write_bytes(text.encode())
    assert [(t.task_id, len(t.steps)) for t in read_tasks(tmp_path / "tasks.txt")] == [("11", 3), ("22", 2)]


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("3\nboil", "4\nboil", r"line 4: '4' is not the number of step names in the next line, 3"),
        ("boil water,pour", "boil water,,pour", "line 4: '3' is not the number"),
        ("Make Tea\n", "", "line 1: '11' does not begin a task"),
        ("add sugar\n", "add sugar\nmore\n", "line 1: '11' does not begin a task"),
        ("22\n", "11\n", "line 7: '11' is a task for the second time"),
        (TASKS, "\n", "has no task"),
    ],
)
def test_damaged_task_lists_are_refused_with_their_line(tmp_path, old, new, problem):
    path = tmp_path / "tasks.txt"
    path.write_text(TASKS.replace(old, new))
    with pytest.raises(AnnotationError, match=problem) as raised:
        read_tasks(path)
    assert str(path) in str(raised.value)


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ("1,2.0", "line 2: '1,2.0' has 2 fields, not 3"),
        ("one,2.0,3.0", "line 2: 'one,2.0,3.0' is not '<step number>"),
        ("1.5,2.0,3.0", "is not '<step number>"),
        ("4,2.0,3.0", r"line 2: '4' is not a step of its task, which are 1\.\.3"),
        ("0,2.0,3.0", "line 2: '0' is not a step"),
        ("1,3.0,3.0", "line 2: '1,3.0,3.0' does not end after its start"),
        ("1,-1.0,3.0", "starts before 0 s"),
        ("1,nan,3.0", "does not end after its start"),
        ("1,2.0,inf", "does not end after its start"),
    ],
)
def test_damaged_steps_are_refused_with_their_line(tmp_path, row, problem):
    path = tmp_path / "11_x.csv"
    path.write_text(f"1,0.0,1.0\n{row}\n")
    with pytest.raises(AnnotationError, match=problem) as raised:
        read_steps(path, 3)
    assert str(path) in str(raised.value)


def test_an_empty_file_of_steps_is_refused(tmp_path):
    (tmp_path / "11_x.csv").write_text("\n")
    with pytest.raises(AnnotationError, match="has no row"):
        read_steps(tmp_path / "11_x.csv", 3)


# -- files that do not belong together --


def test_a_video_without_steps_and_steps_without_a_video_are_refused(release):
    extra = release / "annotations" / "22_unknown.csv"
    extra.write_text("1,0.0,1.0\n")
    with pytest.raises(AnnotationError, match=r"1 files belong to no video .* 22_unknown\.csv"):
        load_crosstask(release)
    extra.unlink()
    (release / "annotations" / "22_tireVideo_1.csv").unlink()
    with pytest.raises(AnnotationError, match=r"22_tireVideo_1\.csv: no such file"):
        load_crosstask(release)


def test_a_video_in_two_primary_tasks_is_refused(release):
    with open(release / "videos.csv", "a") as file:
        file.write("22,teaVideo-_4,http://tube/teaVideo-_4\n")
    with pytest.raises(AnnotationError, match="one video twice: 11_teaVideo-_4 and 22_teaVideo-_4"):
        load_crosstask(release)


def test_a_folder_that_is_no_release_is_refused(release, tmp_path):
    with pytest.raises(AnnotationError, match=r"tasks_primary\.txt: no such file"):
        load_crosstask(tmp_path)
    (release / "videos.csv").write_text("33,coffeeVideo,http://tube\n")
    with pytest.raises(AnnotationError, match="has no video of a task"):
        load_crosstask(release)
