"""A prepared folder: layout, continuing, and what is refused; once through Ray Data."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import signal
import socket
import time
from pathlib import Path

import pytest

from bsp.datasets.kinetics import load_class_folders, load_kinetics_csv
from bsp.errors import AnnotationError, TooManyBroken
from bsp.video import prepared_folder
from bsp.video.prepare import PrepareSettings, prepare_video
from bsp.video.prepared_folder import HIDDEN, copy_others, find_videos, open_folder, prepare_one, target_name
from bsp.video.read import read_frames
from make_videos import numbered_frames, read_numbers, spoil_slice, write_video

pytestmark = pytest.mark.long  # videos, processes or whole trainings

SETTINGS = PrepareSettings(short_side_px=48, keyframe_interval=4)
CSV = "label,youtube_id,time_start,time_end\nwave,a,0,1\nwave,b,3,4\nhigh jump,c,0,1\nhigh jump,d,0,1\n"


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """Four videos of several formats in Kinetics layout, the list beside them."""
    root = tmp_path_factory.mktemp("kinetics")
    for place, name in enumerate(("wave/a_000000_000001.mp4", "wave/b.mkv", "high jump/c.webm", "high_jump/d.avi")):
        path = root / name
        path.parent.mkdir(exist_ok=True)
        codec = "libvpx" if path.suffix == ".webm" else "mpeg4" if path.suffix == ".avi" else "libx264"
        frames = numbered_frames(104 if name == "wave/b.mkv" else 16, first=10 * place)
        write_video(path, frames, codec=codec, options={"b": "2M"})
    (root / "train.csv").write_text(CSV)
    (root / ".hidden.mp4").write_text("not looked at")
    return root


@pytest.fixture
def root(originals, tmp_path):
    return Path(shutil.copytree(originals, tmp_path / "videos"))


def prepare_all(root: Path, out: Path) -> dict[str, dict]:
    found, names, others = find_videos(root)
    open_folder(found, out, SETTINGS)
    copy_others(found, out, others)
    return {name: prepare_one(found, out, name, SETTINGS) for name in names}


def kept(records: dict[str, dict]) -> set[str]:
    return {name for name, record in records.items() if record.get("kept")}


def in_child(work) -> int:
    """How a child process that does ``work`` ends; minus the signal's number if one killed it."""
    pid = os.fork()
    if not pid:
        try:
            work()
        finally:
            os._exit(7)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def die(*_) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


ALL = {"wave/a_000000_000001.mp4", "wave/b.mkv", "high jump/c.webm", "high_jump/d.avi"}


def test_loaders_find_in_the_copy_what_they_find_in_the_original(root, tmp_path):
    records = prepare_all(root, tmp_path / "out")
    assert set(records) == ALL
    assert kept(records) == set()
    before = load_kinetics_csv(root / "train.csv", root, progress=False)
    after = load_kinetics_csv(tmp_path / "out" / "train.csv", tmp_path / "out", progress=False)
    assert len(after) == 4
    for column in ("labels", "first_frame", "frames", "fps"):
        assert getattr(after, column) == pytest.approx(getattr(before, column), rel=1e-6)
    assert [Path(after.path(k)).stem for k in range(4)] == [Path(before.path(k)).stem for k in range(4)]
    for place, stem in enumerate(("wave/a_000000_000001", "wave/b", "high jump/c", "high_jump/d")):
        first = read_frames(tmp_path / "out" / f"{stem}.mp4", [0])
        assert (read_numbers(first), first.shape) == ([10 * place], (1, 48, 64, 3))
    folders = load_class_folders(tmp_path / "out", progress=False)
    assert folders.class_names == ("high jump", "high_jump", "wave")


def test_only_what_is_missing_damaged_or_changed_is_done_again(root, tmp_path):
    out = tmp_path / "out"
    prepare_all(root, out)
    assert kept(prepare_all(root, out)) == ALL
    contents = {name: (out / target_name(name)).read_bytes() for name in ALL}
    (out / "wave/b.mp4").unlink()
    damaged = bytearray(contents["high jump/c.webm"])
    damaged[len(damaged) // 2] ^= 1
    (out / "high jump/c.mp4").write_bytes(damaged)
    (out / ".prepared/high_jump/d.mp4.json").write_text('{"name": "cut o')
    assert kept(prepare_all(root, out)) == {"wave/a_000000_000001.mp4"}
    assert {name: (out / target_name(name)).read_bytes() for name in ALL} == contents
    write_video(root / "wave/b.mkv", numbered_frames(20, first=500))
    records = prepare_all(root, out)
    assert kept(records) == ALL - {"wave/b.mkv"}
    assert records["wave/b.mkv"]["frames"] == 20
    assert read_numbers(read_frames(out / "wave/b.mp4", [19])) == [519]


def test_a_kill_in_between_costs_one_video(root, tmp_path, monkeypatch):
    out = tmp_path / "out"
    done = []

    def dying(*arguments):
        if done:
            (out / "high_jump").mkdir()
            (out / "high_jump" / ".d.mp4.x.partial").write_bytes(b"half")
            die()
        done.append(1)
        return prepare_video(*arguments)

    with monkeypatch.context() as only_here:
        only_here.setattr(prepared_folder, "prepare_video", dying)
        assert in_child(lambda: prepare_all(root, out)) == -signal.SIGKILL  # amid its second video
    first, second = sorted(ALL)[:2]
    assert (out / target_name(first)).exists()
    assert not (out / target_name(second)).exists()
    left_over = next(out.rglob("*.partial"))
    os.utime(left_over, (0, time.time() - 7200))
    assert kept(prepare_all(root, out)) == {first}
    assert not list(out.rglob("*.partial"))
    assert not list(out.rglob("*.tries"))
    fresh = prepare_all(root, tmp_path / "undisturbed")
    for name in fresh:
        assert (out / target_name(name)).read_bytes() == (tmp_path / "undisturbed" / target_name(name)).read_bytes()


def test_a_video_that_crashes_its_reader_counts_as_broken_after_two_tries(root, tmp_path, monkeypatch):
    out = tmp_path / "out"
    open_folder(root, out, SETTINGS)
    with monkeypatch.context() as only_here:
        only_here.setattr(prepared_folder, "prepare_video", die)
        for _ in range(2):
            assert in_child(lambda: prepare_one(root, out, "wave/b.mkv", SETTINGS)) == -signal.SIGKILL
    assert "crashed on it 2 times" in prepare_one(root, out, "wave/b.mkv", SETTINGS)["error"]
    assert prepare_one(root, out, "wave/b.mkv", SETTINGS)["frames"] == 104  # a later run tries again


def test_a_source_that_broke_since_leaves_no_old_copy(root, tmp_path):
    prepare_all(root, tmp_path / "out")
    (root / "wave/b.mkv").write_bytes(b"gone bad")
    records = prepare_all(root, tmp_path / "out")
    assert records["wave/b.mkv"].keys() == {"name", "error"}
    assert not (tmp_path / "out/wave/b.mp4").exists()
    assert kept(records) == ALL - {"wave/b.mkv"}


def test_folders_that_do_not_fit_are_refused(root, tmp_path):
    out = tmp_path / "out"
    open_folder(root, out, SETTINGS)
    with pytest.raises(AnnotationError, match=r"crf 20 there, 23 here, keyframe_interval 4 there, 8 here"):
        open_folder(root, out, dataclasses.replace(SETTINGS, crf=23, keyframe_interval=8))
    with pytest.raises(AnnotationError, match="holds files"):
        open_folder(tmp_path / "elsewhere", root, SETTINGS)
    with pytest.raises(AnnotationError, match="the videos themselves"):
        open_folder(root, tmp_path, SETTINGS)
    shutil.copy(root / "wave/b.mkv", root / "wave/b.avi")
    with pytest.raises(AnnotationError, match=r"wave/b\.avi and wave/b\.mkv would both become wave/b\.mp4"):
        find_videos(root)
    (tmp_path / "none" / HIDDEN).mkdir(parents=True)
    open_folder(root, tmp_path / "none", SETTINGS)  # a first run was killed just before it wrote the settings
    shutil.rmtree(tmp_path / "none" / HIDDEN)
    with pytest.raises(AnnotationError, match="no video"):
        find_videos(tmp_path / "none")


def test_a_list_names_its_videos(root, tmp_path):
    (root / "list.txt").write_text(f"wave/b.mkv\n\n{root / 'high jump' / 'c.webm'}\n")
    assert find_videos(root / "list.txt") == (root, ["high jump/c.webm", "wave/b.mkv"], [])
    (root / "wave" / "list.txt").write_text("../high_jump/d.avi\n")
    with pytest.raises(AnnotationError, match=r"\.\./high_jump/d\.avi lies outside"):
        find_videos(root / "wave" / "list.txt")
    prepare_all(root, root / "copy")  # below the videos' folder: not taken for videos the next time
    assert set(find_videos(root)[1]) == ALL


def test_what_is_no_file_costs_one_video_and_is_named(root, tmp_path, monkeypatch):
    (root / "wave/gone.mp4").symlink_to("/nonexistent/x.mp4")
    (root / "wave/round.mp4").symlink_to(root / "wave/round.mp4")
    os.mkfifo(root / "wave/pipe.mp4")
    with socket.socket(socket.AF_UNIX) as unix:
        monkeypatch.chdir(root)  # a socket's name may have 108 bytes
        unix.bind("wave/socket.mp4")
    (root / "wave/up").symlink_to(root)  # a loop: folders within it are found once
    (root / "notes.txt").symlink_to("/nonexistent/notes.txt")
    os.mkfifo(root / "pipe.txt")
    found, names, others = find_videos(root)
    assert set(names) == ALL | {f"wave/{name}.mp4" for name in ("gone", "round", "pipe", "socket")}
    records = prepare_all(root, tmp_path / "out")
    errors = {Path(name).stem: record["error"] for name, record in records.items() if "error" in record}
    assert errors.keys() == {"gone", "round", "pipe", "socket"}
    assert "a link to one that is gone" in errors["gone"]
    assert "symbolic links" in errors["round"]
    assert "not a file" in errors["pipe"]
    assert "not a file" in errors["socket"]
    copied, left_out = copy_others(found, tmp_path / "out", others)
    assert copied == ["train.csv"]
    assert [line.split(":")[0] for line in left_out] == ["notes.txt", "pipe.txt"]


def test_a_video_or_folder_that_may_not_be_read_is_named(root, tmp_path, monkeypatch):
    real = open

    def refusing(path, *arguments, **keywords):  # the tests may run as root, whom nothing is forbidden
        if str(path).endswith("b.mkv"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *arguments, **keywords)

    monkeypatch.setattr("builtins.open", refusing)
    assert "Permission denied" in prepare_one(root, tmp_path / "out", "wave/b.mkv", SETTINGS)["error"]
    monkeypatch.undo()

    def forbidden(folder):
        if str(folder).endswith("high jump"):
            raise PermissionError(13, "Permission denied", str(folder))
        return scandir(folder)

    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", forbidden)
    with pytest.raises(AnnotationError, match="high jump: the folder cannot be read"):
        find_videos(root)


def test_damaged_frames_are_counted_and_too_many_break_the_video(root, tmp_path, monkeypatch):
    spoil_slice(root / "wave/a_000000_000001.mp4", 9)
    record = prepare_one(root, tmp_path / "out", "wave/a_000000_000001.mp4", SETTINGS)
    assert (record["frames"], record["damaged_frames"]) == (16, 1)
    assert prepare_one(root, tmp_path / "out", "wave/b.mkv", SETTINGS)["damaged_frames"] == 0
    monkeypatch.setattr("bsp.video.read.MAX_DAMAGED_SHARE", 0.05)  # one of 16 is more
    (tmp_path / "out/.prepared/wave/a_000000_000001.mp4.json").unlink()
    error = prepare_one(root, tmp_path / "out", "wave/a_000000_000001.mp4", SETTINGS)["error"]
    assert "1 of 16 frames are damaged, more than 5%" in error
    assert not (tmp_path / "out/wave/a_000000_000001.mp4").exists()


def test_a_damaged_record_or_settings_file_is_no_foreign_error(root, tmp_path):
    out = tmp_path / "out"
    prepare_all(root, out)
    for text in ("[" * 200_000, "[]", "\0"):
        (out / ".prepared/wave/b.mp4.json").write_text(text)
        assert prepare_one(root, out, "wave/b.mkv", SETTINGS)["kept"] is False
        (out / ".prepared/settings.json").write_text(text)
        with pytest.raises(AnnotationError, match=r"settings\.json"):
            open_folder(root, out, SETTINGS)


def _crash_on_b(root: Path, out: Path, name: str, settings: PrepareSettings) -> dict:
    """Stands in for a decoder that crashes its process on one video."""
    if name == "wave/b.mkv":
        prepared_folder.prepare_video = die
    try:
        return prepare_one(root, out, name, settings)
    finally:
        prepared_folder.prepare_video = prepare_video


def test_by_ray_data(root, tmp_path, ray_session, capsys):
    from click.testing import CliRunner

    from bsp_platform.cli.main import main
    from bsp_platform.work.preparing import REPORT, prepare_folder

    def run(*options: str):
        command = [
            "prepare",
            str(root),
            "--out",
            str(tmp_path / "out"),
            "--short-side",
            "48",
            "--keyframe-interval",
            "4",
        ]
        return CliRunner().invoke(main, [*command, *options])

    (root / "wave/e.mp4").write_bytes(b"broken")
    spoil_slice(root / "wave/a_000000_000001.mp4", 9)
    (root / "notes.txt").symlink_to("/nonexistent/notes.txt")
    seen = []
    found = find_videos(root)
    open_folder(root, tmp_path / "out", SETTINGS)
    facts = prepare_folder(
        root,
        tmp_path / "out",
        *found[1:],
        SETTINGS,
        max_broken_share=0.5,
        report=lambda p: seen.append(p.done),
        prepare=_crash_on_b,
    )
    assert sorted(line.split(":")[0] for line in facts["broken"]) == ["wave/b.mkv", "wave/e.mp4"]
    assert "crashed on it 2 times" in facts["broken"][0]
    assert seen == [1, 2, 3, 4, 5]
    done = run("--max-broken", "0.5")
    assert done.exit_code == 0, done.output
    assert "4 videos (3 were there), 152 frames" in done.output  # 16 + 104 + 16 + 16
    assert "left out: wave/e.mp4: " in done.output
    assert "not copied: notes.txt: " in done.output
    assert "damaged pictures: 1 of 152 frames, in 1 videos (wave/a_000000_000001.mp4 1)" in done.output
    report = json.loads((tmp_path / "out" / REPORT).read_text())
    assert report["damaged_frames"] == {"wave/a_000000_000001.mp4": 1}
    assert report["damage_not_counted"] == 0
    assert report["bytes_before"] == sum((root / name).stat().st_size for name in ALL)
    assert report["bytes_after"] == sum((tmp_path / "out" / target_name(name)).stat().st_size for name in ALL)
    assert (tmp_path / "out" / "train.csv").read_text() == CSV
    direct = prepare_all(root, tmp_path / "direct")
    for name in ALL:
        assert direct[name]["target_sha256"] == prepare_one(root, tmp_path / "out", name, SETTINGS)["target_sha256"]
    refused = run("--max-broken", "0")
    assert refused.exit_code == 1
    assert "1 of 5 videos" in refused.output
    with pytest.raises(TooManyBroken, match=r"wave/e\.mp4"):
        prepare_folder(root, tmp_path / "out", *found[1:], SETTINGS, max_broken_share=0)


def test_progress_in_a_line():
    from bsp_platform.work.preparing import Progress

    progress = Progress(total=500, began=time.time() - 10)
    row = {
        "name": "x",
        "error": "",
        "kept": False,
        "source_bytes": 2**20,
        "target_bytes": 2**19,
        "frames": 9,
        "damaged_frames": 0,
        "seconds": 1.0,
    }
    for _ in range(99):
        progress.add(row)
    progress.add({"name": "y", "error": "empty", "kept": False})
    # 100 in ten seconds (a little more by now), so 400 more in 40 s
    line = re.sub(r"\d+(\.\d)?(/s| s)", "N\\2", progress.line())
    assert line == "100 of 500 videos, N/s, N s left, 99 MiB to 50 MiB, 1 broken"
    assert 35 < float(re.search(r"(\d+) s left", progress.line())[1]) < 55
    assert progress.work_s == 99
