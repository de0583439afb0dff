"""Pantomime: formats as published, frame-exact truth, same bytes for any number of workers, resuming."""

from __future__ import annotations

import csv
import errno
import json
import re
import resource
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import av
import numpy as np
import pytest
from click.testing import CliRunner

from bsp.datasets.pantomime.levers import Levers
from bsp.datasets.pantomime.moves import ACTION_NAMES, JOINTS, action_pose, blend_poses, idle_pose, joints
from bsp.datasets.pantomime.plan import draw_video, plan_pose, plan_video
from bsp.datasets.pantomime.render import PantomimeSettings, is_complete, main, make_video, plan_all, render
from bsp.datasets.pantomime.world import draw_look

TINY = PantomimeSettings(
    seed=5, size_px=32, actions=("wave", "jumping jack"), trimmed_per_class=2, trimmed_val_per_class=1,
    untrimmed_train=2, untrimmed_val=2, trimmed_seconds=(1.0, 2.0), untrimmed_seconds=8.0,
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return render(TINY, tmp_path_factory.mktemp("pantomime"), workers=1, progress=False)


def _frames(path):
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def _contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_two_workers_write_the_same_bytes(folder, tmp_path):
    other = render(TINY, tmp_path, workers=2, progress=False)
    assert other.name == folder.name
    assert _contents(other) == _contents(folder)


def test_videos_do_not_depend_on_the_counts_but_on_the_seed():
    fewer = {plan.video_id: plan for plan in plan_all(TINY)}
    more = {plan.video_id: plan for plan in plan_all(replace(TINY, trimmed_per_class=4, untrimmed_val=6))}
    assert all(more[video_id] == plan for video_id, plan in fewer.items())
    assert not fewer.keys() & {plan.video_id for plan in plan_all(replace(TINY, seed=6))}
    plan = plan_video(TINY, "trimmed_train", "wave", 0)
    assert np.array_equal(draw_video(TINY, plan), draw_video(TINY, plan))
    assert not np.array_equal(
        draw_video(TINY, plan)[0], draw_video(TINY, plan_video(TINY, "trimmed_train", "wave", 1))[0]
    )


def test_kinetics_layout(folder):
    for split, count in (("train", 2), ("val", 1)):
        with open(folder / f"trimmed/{split}.csv", newline="") as file:
            rows = list(csv.reader(file))
        assert rows[0] == ["label", "youtube_id", "time_start", "time_end", "split", "is_cc"]
        assert [row[0] for row in rows[1:]] == ["wave"] * count + ["jumping jack"] * count
        for label, video_id, start, end, name, is_cc in rows[1:]:
            assert re.fullmatch(r"[\w-]{11}", video_id, re.ASCII)
            assert (name, is_cc) == (split, "0")
            path = folder / "trimmed/videos" / label / f"{video_id}_{int(start):06d}_{int(end):06d}.mp4"
            with av.open(str(path)) as container:
                frames = sum(1 for _ in container.decode(video=0))
            assert 12 <= frames <= 24
            assert int(end) - int(start) - 1 < frames / 12 <= int(end) - int(start)
    assert len(list((folder / "trimmed/videos").rglob("*.mp4"))) == 6


def test_activitynet_layout(folder):
    data = json.loads((folder / "untrimmed/activitynet.json").read_text())
    assert set(data) == {"version", "taxonomy", "database"}
    assert [node["nodeName"] for node in data["taxonomy"]] == ["Root", "wave", "jumping jack"]
    assert all(set(node) == {"nodeName", "nodeId", "parentName", "parentId"} for node in data["taxonomy"])
    assert sorted(video["subset"] for video in data["database"].values()) == ["training"] * 2 + ["validation"] * 2
    for video_id, video in data["database"].items():
        assert len(video_id) == 11
        assert video["duration"] == 8.0
        assert video["resolution"] == "32x32"
        at = 0.0
        for note in video["annotations"]:
            start, end = note["segment"]
            assert at < start < end < 8.0
            assert end - start >= 2.5
            assert (start * 12) % 1 == pytest.approx(0, abs=1e-9)
            assert note["label"] in ("wave", "jumping jack")
            at = end
        assert len({note["label"] for note in video["annotations"]}) == 1


def test_files_are_h264_with_the_promised_frames(folder):
    truth = json.loads((folder / "untrimmed/truth.json").read_text())
    assert len(truth["videos"]) == 4
    for video_id, video in truth["videos"].items():
        with av.open(str(folder / f"untrimmed/videos/v_{video_id}.mp4")) as container:
            stream = container.streams.video[0]
            assert stream.codec_context.name == "h264"
            assert stream.average_rate == 12
            assert (stream.width, stream.height) == (32, 32)
            assert sum(1 for _ in container.decode(video=0)) == video["frames"] == 96


def test_manifest_names_every_file_with_its_size(folder):
    manifest = json.loads((folder / "manifest.json").read_text())
    on_disk = {str(path.relative_to(folder)): path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    del on_disk["manifest.json"]
    assert manifest["files"] == on_disk
    assert manifest["fingerprint"] == folder.name == TINY.fingerprint()
    assert manifest["videos"] == {
        "trimmed_train": 4,
        "trimmed_val": 2,
        "untrimmed_train": 2,
        "untrimmed_val": 2,
    }


def test_default_counts():
    plans = plan_all(PantomimeSettings())
    assert len(plans) == 10 * 46 + 320
    assert all(48 <= plan.frames <= 72 for plan in plans if plan.split.startswith("trimmed"))
    assert all(plan.frames == 288 for plan in plans if plan.split.startswith("untrimmed"))


def test_cuts_and_boundaries_do_not_give_each_other_away():
    plans = [plan for plan in plan_all(replace(PantomimeSettings(), trimmed_per_class=0)) if "untrimmed" in plan.split]
    boundaries = [(plan, frame) for plan in plans for frame in plan.boundaries]
    cuts = [(plan, frame) for plan in plans for frame in plan.cuts]
    with_cut = sum(frame in plan.cuts for plan, frame in boundaries) / len(boundaries)
    is_boundary = sum(frame in plan.boundaries for plan, frame in cuts) / len(cuts)
    inside = sum(any(a < frame < b for a, b in plan.instances) for plan, frame in cuts) / len(cuts)
    # about 1300 boundaries: a standard deviation of 0.014 around the setting's 0.5
    assert with_cut == pytest.approx(0.5, abs=0.06)
    assert 0.3 < is_boundary < 0.75
    assert 0.1 < inside < 0.5  # cuts inside the action
    assert 1 - is_boundary - inside > 0.1  # and inside idle motion
    returns = [len({look for _, _, look in plan.shots}) < len(plan.shots) for plan in plans]
    assert 0.1 < np.mean(returns) < 0.9
    assert {len(plan.instances) for plan in plans} == {1, 2, 3}
    share = np.mean([sum(b - a for a, b in plan.instances) / plan.frames for plan in plans])
    assert 0.3 < share < 0.7  # neither all action nor all idle


def test_instances_keep_their_lengths_and_their_distance():
    for plan in plan_all(PantomimeSettings(seed=9)):
        if plan.split.startswith("trimmed"):
            assert plan.instances == ((0, plan.frames),)
            assert plan.cuts == ()
            continue
        edges = [0, *(frame for span in plan.instances for frame in span), plan.frames]
        assert min(b - a for a, b in zip(edges[::2], edges[1::2])) >= 12  # idle motion, 1 s
        assert all(30 <= b - a <= 108 for a, b in plan.instances)  # 2.5 .. 9 s at 12 frames/s
        assert plan.shots[0][0] == 0
        assert plan.shots[-1][1] == plan.frames
        assert all(one[1] == two[0] and one[2] != two[2] for one, two in zip(plan.shots, plan.shots[1:]))


def test_the_picture_changes_at_a_cut_and_not_elsewhere():
    settings = replace(PantomimeSettings(seed=1), noise=0.0)
    plan = next(plan for plan in plan_all(settings) if plan.split == "untrimmed_val" and len(plan.cuts) >= 3)
    frames = draw_video(settings, plan).astype(np.float32)
    change = np.abs(np.diff(frames, axis=0)).mean(axis=(1, 2, 3))
    biggest = np.sort(np.argsort(change)[-len(plan.cuts) :] + 1)
    assert tuple(biggest) == plan.cuts


def test_an_uncut_boundary_is_a_quick_transition_around_its_frame():
    """The pose is the idle one until two frames before the boundary, the action's two frames after it."""
    settings = replace(TINY, boundary_cut_share=0.0, other_cuts_per_minute=0.0)
    for number in range(8):
        plan = plan_video(settings, "untrimmed_train", "jumping jack", number)
        assert plan.cuts == ()
        pose_TP = plan_pose(settings, plan)
        # the same performance with instances grown by two frames: poses differ only beside the boundaries
        grown = replace(plan, instances=tuple((first - 2, end + 2) for first, end in plan.instances))
        differs = np.flatnonzero(np.abs(plan_pose(settings, grown) - pose_TP).max(axis=1) > 1e-4)
        away = np.abs(differs[:, None] - np.array(plan.boundaries)).min(axis=1)
        assert set(range(2)) <= set(away)
        assert away.max() <= 4
        turn = np.diff(pose_TP[:, :10], axis=0)
        turn -= 2 * np.pi * np.round(turn / (2 * np.pi))
        assert np.abs(turn).max() < 2.2  # no limb flies across the body within one frame


def test_resume_draws_only_what_is_missing(folder, tmp_path, monkeypatch):
    copy = tmp_path / folder.name
    shutil.copytree(folder, copy)
    before = _contents(copy)
    gone = next((copy / "trimmed/videos/wave").iterdir())
    gone.unlink()
    (copy / "manifest.json").unlink()
    assert not is_complete(copy)
    drawn = []
    real = make_video
    monkeypatch.setattr("bsp.datasets.pantomime.render.make_video", lambda *args: (drawn.append(args[2]), real(*args)))
    assert render(TINY, tmp_path, workers=1, progress=False) == copy
    assert drawn == [str(gone)]
    assert _contents(copy) == before
    render(TINY, tmp_path, workers=1, progress=False)
    assert len(drawn) == 1


def test_two_callers_at_once_draw_every_video_once(folder, tmp_path, monkeypatch):
    drawn = []
    real = make_video
    monkeypatch.setattr("bsp.datasets.pantomime.render.make_video", lambda *args: (drawn.append(args[2]), real(*args)))
    with ThreadPoolExecutor(2) as threads:
        calls = [threads.submit(render, TINY, tmp_path, workers=1, progress=False) for _ in range(2)]
        assert {call.result() for call in calls} == {tmp_path / folder.name}
    assert len(drawn) == len(set(drawn)) == 10
    assert is_complete(tmp_path / folder.name)


@pytest.mark.parametrize("with_manifest", [True, False])
def test_a_truncated_video_is_noticed_and_drawn_again(folder, tmp_path, with_manifest):
    copy = tmp_path / folder.name
    shutil.copytree(folder, copy)
    before = _contents(copy)
    broken = next((copy / "untrimmed/videos").iterdir())
    broken.write_bytes(broken.read_bytes()[:500])
    if not with_manifest:
        (copy / "manifest.json").unlink()
    assert not is_complete(copy)
    render(TINY, tmp_path, workers=1, progress=False)
    assert _contents(copy) == before


def test_fingerprint_follows_every_setting(monkeypatch):
    changes = {
        "seed": 6, "size_px": 34, "fps": 24, "actions": ("wave",), "trimmed_per_class": 3,
        "trimmed_val_per_class": 2,
        "untrimmed_train": 3, "untrimmed_val": 3, "trimmed_seconds": (1.0, 2.5), "untrimmed_seconds": 12.0,
        "instance_seconds": (2.0, 9.0), "max_instances": 2, "tempo": (1.0, 1.2), "boundary_cut_share": 0.4,
        "other_cuts_per_minute": 4.0, "noise": 0.5, "light": 0.5, "levers": Levers(),
    }  # fmt: skip
    assert set(changes) == set(TINY.__dataclass_fields__)
    prints = {replace(TINY, **{name: value}).fingerprint() for name, value in changes.items()}
    assert len(prints | {TINY.fingerprint()}) == len(changes) + 1
    before = TINY.fingerprint()
    monkeypatch.setattr("bsp.datasets.pantomime.plan.CODE_VERSION", -1)
    assert TINY.fingerprint() != before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": -1}, "seed must be >= 0, not -1"),
        ({"size_px": 33}, "size_px.*33"),
        ({"fps": 100}, "fps.*100"),
        ({"actions": ("wave", "sneeze")}, "sneeze"),
        ({"actions": ()}, "actions"),
        ({"untrimmed_val": -2}, "untrimmed_val.*-2"),
        ({"untrimmed_seconds": 8.5}, "multiple of 8 frames.*102"),
        ({"untrimmed_seconds": 4.0}, "1 s of idle.*4"),
        ({"tempo": (1.5, 1.0)}, "tempo.*1.5"),
        ({"max_instances": 0}, "max_instances.*0"),
        ({"boundary_cut_share": 1.5}, "boundary_cut_share.*1.5"),
        ({"noise": -1.0}, "noise.*-1"),
    ],
)
def test_settings_that_cannot_work_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        replace(TINY, **change)


def test_figure_stands_out_from_the_ground():
    """At least 55 grey levels of luma (ITU-R BT.601) between any part of the figure and what is behind it."""
    luma = np.array([0.299, 0.587, 0.114])
    polarity = set()
    for seed in range(30):
        look = draw_look(np.random.default_rng(seed), 64)
        figure, ground = look.colours @ luma, look.texture_HW3 @ luma
        light = figure.mean() > ground.mean()
        polarity.add(bool(light))
        gap = figure.min() - np.percentile(ground, 99.5) if light else np.percentile(ground, 0.5) - figure.max()
        assert gap >= 55
        assert ground.std() > 1  # a texture, not a plain wall
    assert polarity == {True, False}


def test_figure_fills_a_fair_part_of_the_frame():
    for seed in range(10):
        look = draw_look(np.random.default_rng(seed), 64)
        points = joints(idle_pose(24, 12, (), np.random.default_rng(seed)), **look.body)
        top = points[:, JOINTS.index("head"), 1] - look.body["head"]
        height = -np.median(top) * look.height
        assert 0.45 < height < 0.9


def test_skeleton_of_a_straight_figure():
    """Arms and legs straight down: every joint follows from the lengths by adding them up."""
    place = joints(np.zeros((1, 12), np.float32), shoulder=0.1, hip=0.05, arm=1.0, leg=1.0, head=0.08)[0]
    at = {name: place[k] for k, name in enumerate(JOINTS)}
    assert at["ankle_l"] == pytest.approx([-0.05, 0.0], abs=1e-6)
    assert at["pelvis"] == pytest.approx([0.0, -0.49], abs=1e-6)
    assert at["neck"] == pytest.approx([0.0, -0.79], abs=1e-6)
    assert at["head"] == pytest.approx([0.0, -0.915], abs=1e-6)
    assert at["hand_r"] == pytest.approx([0.1, -0.79 + 0.03 + 0.33], abs=1e-6)


def test_bones_keep_their_length_in_every_action():
    for name in ACTION_NAMES:
        rng = np.random.default_rng(0)
        points = joints(action_pose(name, np.linspace(0, 2, 50), rng), shoulder=0.1, hip=0.05, arm=1, leg=1, head=0.08)
        for first, second, length in (
            ("elbow_r", "hand_r", 0.165),
            ("knee_l", "ankle_l", 0.24),
            ("pelvis", "neck", 0.3),
        ):
            bone = points[:, JOINTS.index(second)] - points[:, JOINTS.index(first)]
            assert np.hypot(*bone.T) == pytest.approx(length, abs=1e-5)
        feet = points[:, [JOINTS.index("ankle_l"), JOINTS.index("ankle_r")], 1].max(axis=1)
        assert feet.max() <= 1e-6  # never below the ground
        if name not in ("jump", "jumping jack"):
            assert feet.min() >= -1e-6  # and off it only in a jump


def test_poses_blend_the_short_way_round():
    first, second = np.zeros((1, 12), np.float32), np.zeros((1, 12), np.float32)
    second[0, 2] = 2 * np.pi * 3 + 0.4  # an arm that went round three times
    assert blend_poses(first, second, np.array([0.5]))[0, 2] == pytest.approx(0.2, abs=1e-5)


def test_a_full_disk_is_explained(tmp_path, monkeypatch):
    def full(*_args, **_kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("bsp.datasets.pantomime.render.write_mp4", full)
    with pytest.raises(OSError, match=r"disk is full.*needs about [\d,]+ bytes in") as caught:
        render(TINY, tmp_path, workers=1, progress=False)
    assert caught.value.errno == errno.ENOSPC
    assert str(tmp_path / TINY.fingerprint()) in str(caught.value)


def test_a_full_disk_inside_a_worker_process_is_explained(folder, tmp_path):
    """A limit of the system on the size of files, which processes inherit, stops writing as a full disk does."""
    copy = tmp_path / folder.name
    shutil.copytree(folder, copy)
    for path in list((copy / "untrimmed/videos").iterdir())[:2]:
        path.unlink()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(OSError, match="disk is full"):
            render(TINY, tmp_path, workers=2, progress=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    render(TINY, tmp_path, workers=1, progress=False)
    assert _contents(copy) == _contents(folder)


def test_a_disk_with_too_little_room_is_refused_before_drawing(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 9, 1))
    monkeypatch.setattr("bsp.datasets.pantomime.render.make_video", lambda *_: pytest.fail("nothing must be drawn"))
    with pytest.raises(OSError, match="disk is full"):
        render(TINY, tmp_path, workers=1, progress=False)


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match=r"cannot write to .*file.*choose a folder"):
        render(TINY, tmp_path / "file", workers=1, progress=False)
    with pytest.raises(ValueError, match="workers must be >= 1"):
        render(TINY, tmp_path, workers=0)


@pytest.mark.long
def test_command_line_renders_and_previews(tmp_path):
    sizes = "--trimmed-per-class 1 --trimmed-val-per-class 0 --untrimmed-train 1 --untrimmed-val 0"
    more = "--untrimmed-seconds 6 --size-px 32 --workers 1"
    arguments = ["--out", str(tmp_path), "--preview", *sizes.split(), *more.split()]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    pictures = sorted(tmp_path.glob("*/preview_*.png"))
    assert [path.read_bytes()[:8] for path in pictures] == [b"\x89PNG\r\n\x1a\n"] * 2
    bad = CliRunner().invoke(main, ["--out", str(tmp_path), "--untrimmed-seconds", "7"])
    assert bad.exit_code == 1
    assert "multiple of 8 frames" in bad.output
