"""Synthesis on frames that say where they come from, and the way from mp4 files to a batch."""

from fractions import Fraction

import numpy as np
import pytest

from bsp.clips.augment import AugmentSettings
from bsp.clips.catalog import Catalog
from bsp.clips.plan import PAPER_KINDS, ClipSettings, plan_clip
from bsp.clips.synthesis import collate, decode, render_clip, synthesise
from bsp.errors import VideoOpenError
from bsp.video.read import READERS
from bsp.video.write import write_mp4

DIFF_CLASS, SAME_CLASS, DIFF_SPEED, SAME_SPEED = PAPER_KINDS
SIZE = 32


def make_catalog(root="/videos", frames=40):
    return Catalog(
        root=str(root),
        paths=np.array([b"a0.mp4", b"a1.mp4", b"b0.mp4", b"b1.mp4"]),
        labels=np.array([0, 0, 1, 1], np.int32),
        first_frame=np.zeros(4, np.int64),
        frames=np.full(4, frames, np.int32),
        fps=np.full(4, 12, np.float32),
        readers=np.full(4, READERS.index("pyav"), np.uint8),
        class_names=("a", "b"),
    )


def named_frames(video, frames, height=4, width=6):
    """Frames whose red is the video, green the frame number, blue a position across the image."""
    clip = np.zeros((len(frames), height, width, 3), np.uint8)
    clip[..., 0] = 50 * video
    clip[..., 1] = np.asarray(frames)[:, None, None]
    clip[..., 2] = np.arange(width)
    return clip


def frames_of(plan):
    return [named_frames(video, frames) for video, frames in zip(plan.videos, plan.frames)]


def half_up(value):
    return int(value + Fraction(1, 2))


def test_equation_1_by_hand_on_constant_colours():
    plan = plan_clip(make_catalog(), ClipSettings(kinds=(DIFF_CLASS,), change_point=4), 0, 0)
    black, white = np.zeros((5, 2, 2, 3), np.uint8), np.full((5, 2, 2, 3), 255, np.uint8)
    # tau 4, epsilon 1: three frames of the first, one half each (127.5, up), four of the second
    assert synthesise(plan, [black, white])[:, 0, 0, 0].tolist() == [0, 0, 0, 128, 255, 255, 255, 255]
    assert synthesise(plan, [white, black])[:, 0, 0, 0].tolist() == [255, 255, 255, 128, 0, 0, 0, 0]
    wider = ClipSettings(kinds=(DIFF_CLASS,), change_point=4, epsilon=4)
    plan = plan_clip(make_catalog(), wider, 0, 0)
    black, white = np.zeros((8, 2, 2, 3), np.uint8), np.full((8, 2, 2, 3), 200, np.uint8)
    # epsilon = tau: the second video's share is i / 8
    assert synthesise(plan, [black, white])[:, 1, 1, 2].tolist() == [25, 50, 75, 100, 125, 150, 175, 200]


@pytest.mark.parametrize("kind", [DIFF_CLASS, SAME_CLASS])
def test_two_videos_merge_as_equations_1_and_2_say(kind):
    for epsilon in (0, 1, 2, 4):
        for change_point in (4, None, 1, 7):
            config = ClipSettings(kinds=(kind,), epsilon=epsilon, change_point=change_point)
            for index in range(6):
                plan = plan_clip(make_catalog(), config, 1, index)
                clip = synthesise(plan, frames_of(plan))
                assert clip.shape == (8, 4, 6, 3)
                assert clip.dtype == np.uint8
                t = int(plan.change_point) + 1
                used = min(epsilon, t, 8 - t) if kind == DIFF_CLASS else 0
                v1, v2 = (50 * video for video in plan.videos)
                f1, f2 = (int(frames[0]) for frames in plan.frames)
                for i in range(1, 9):  # the paper's counting; f_{v, i} is source frame f_v + i - 1
                    if i <= t - used:
                        red, green = v1, f1 + i - 1
                    elif i > t + used:
                        red, green = v2, f2 + i - t + used - 1
                    else:
                        w1, w2 = Fraction(t + used - i, 2 * used), Fraction(i - t + used, 2 * used)
                        red = half_up(w1 * v1 + w2 * v2)
                        green = half_up(w1 * (f1 + i - 1) + w2 * (f2 + i - t + used - 1))
                    assert (clip[i - 1, :, :, 0] == red).all()
                    assert (clip[i - 1, :, :, 1] == green).all()
                    assert (clip[i - 1, :, :, 2] == np.arange(6)).all()


def test_one_video_is_taken_as_planned():
    for kinds in ((DIFF_SPEED,), (SAME_SPEED,), ()):
        plan = plan_clip(make_catalog(), ClipSettings(kinds=kinds), 0, 3)
        clip = synthesise(plan, frames_of(plan))
        assert clip[:, 0, 0, 1].tolist() == plan.frames[0].tolist()
        assert (clip[:, 0, 0, 0] == 50 * plan.videos[0]).all()


def test_the_second_video_is_fitted_to_the_first():
    plan = plan_clip(make_catalog(), ClipSettings(kinds=(SAME_CLASS,), change_point=4), 0, 0)
    first = np.zeros((4, 20, 20, 3), np.uint8)
    # 40 x 80, left half 100 and right half 200; black at the outer quarters, which the centre crop removes
    second = np.full((4, 40, 80, 3), 100, np.uint8)
    second[:, :, 40:] = 200
    second[:, :, :18] = second[:, :, 62:] = 0
    clip = synthesise(plan, [first, second])
    assert clip.shape == (8, 20, 20, 3)
    assert (clip[:4] == 0).all()
    assert (clip[4:, :, 1:9] == 100).all()
    assert (clip[4:, :, 11:19] == 200).all()


def test_the_frames_are_left_alone():
    plan = plan_clip(make_catalog(), ClipSettings(kinds=(DIFF_CLASS,)), 0, 0)
    frames = frames_of(plan)
    before = [clip.copy() for clip in frames]
    for clip in frames:
        clip.flags.writeable = False
    synthesise(plan, frames)
    assert all((a == b).all() for a, b in zip(frames, before))


def test_frames_that_are_not_the_plans_are_refused():
    plan = plan_clip(make_catalog(), ClipSettings(kinds=(SAME_CLASS,), change_point=3), 0, 7)
    first, second = frames_of(plan)
    for wrong in ([first], [first, second[1:]], [first, second.astype(np.float32)], [second, first]):
        with pytest.raises(ValueError, match=r"clip 7 needs \[3, 5\]"):
            synthesise(plan, wrong)


# ---- from files


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Four videos of 40 frames of grey 40 + 5 * frame number; in class b the left half is darker by 30."""
    root = tmp_path_factory.mktemp("videos")
    for name in ("a0", "a1", "b0", "b1"):
        frames = np.zeros((40, SIZE, SIZE, 3), np.uint8)
        frames[:] = (40 + 5 * np.arange(40))[:, None, None, None]
        if name[0] == "b":
            frames[:, :, : SIZE // 2] -= 30
        write_mp4(root / f"{name}.mp4", frames, fps=12, crf=4)
    return root


def test_decode_reads_the_planned_frames(folder):
    catalog = make_catalog(folder)
    for index in range(8):
        plan = plan_clip(catalog, ClipSettings(stride_frames=2), 0, index)
        decoded = decode(catalog, plan, time_limit_s=20)
        for video, frames, pixels in zip(plan.videos, plan.frames, decoded):
            assert pixels.shape == (len(frames), SIZE, SIZE, 3)
            right = pixels[:, 8:24, 20:28].mean(axis=(1, 2, 3))
            left = pixels[:, 8:24, 4:12].mean(axis=(1, 2, 3))
            assert np.rint((right - 40) / 5).astype(int).tolist() == frames.tolist()
            assert np.abs(right - left - (30 if video >= 2 else 0)).max() < 4


@pytest.mark.parametrize("reader", ["pyav", "mp4"])
def test_rendered_clips_follow_the_plan(folder, reader):
    catalog = make_catalog(folder)
    catalog.readers[:] = READERS.index(reader)
    for index in range(8):
        plan = plan_clip(catalog, ClipSettings(change_point=4), 0, index)
        clip = render_clip(catalog, plan, None, time_limit_s=20)
        assert clip.shape == (8, SIZE, SIZE, 3)
        levels = clip[:, 8:24, 20:28].mean(axis=(1, 2, 3))
        grey = [40.0 + 5 * frames for frames in plan.frames]
        if plan.kind == DIFF_CLASS:
            expected = [*grey[0][:3], (grey[0][3] + grey[1][0]) / 2, *grey[1][1:]]
        elif plan.kind == SAME_CLASS:
            expected = [*grey[0], *grey[1]]
        else:
            expected = grey[0]
        assert np.abs(levels - np.array(expected)).max() < 2.5


def test_rendering_again_gives_the_same_bytes_and_a_batch(folder):
    catalog = make_catalog(folder)
    augment = AugmentSettings(size_px=24, brightness=0.2)
    plans = [plan_clip(catalog, ClipSettings(), 0, index) for index in range(8)]
    clips = [render_clip(catalog, plan, augment, time_limit_s=20) for plan in plans]
    again = [render_clip(catalog, plan, augment) for plan in reversed(plans)][::-1]
    assert all((a == b).all() for a, b in zip(clips, again))
    batch = collate(plans, clips)
    assert batch["clip"].shape == (8, 8, 24, 24, 3)
    assert batch["clip"].dtype == np.uint8
    assert (batch["clip"][5] == clips[5]).all()
    assert sorted(batch["label"].tolist()) == [0, 0, 1, 1, 2, 2, 3, 3]
    assert batch["label"].dtype == batch["index"].dtype == np.int64
    assert batch["index"].tolist() == list(range(8))
    assert batch["change_point"].dtype == np.float32
    for plan, label, point in zip(plans, batch["label"], batch["change_point"]):
        assert np.isnan(point) == (label == SAME_SPEED)
        assert np.isnan(point) or point == plan.change_point


def test_a_missing_file_is_named(folder, tmp_path):
    plan = plan_clip(make_catalog(tmp_path), ClipSettings(), 0, 0)
    with pytest.raises(VideoOpenError, match=str(tmp_path)):
        render_clip(make_catalog(tmp_path), plan, None)


def test_collate_refuses_what_does_not_fit(folder):
    plan = plan_clip(make_catalog(), ClipSettings(), 0, 0)
    small, large = np.zeros((8, 4, 4, 3), np.uint8), np.zeros((8, 6, 6, 3), np.uint8)
    with pytest.raises(ValueError, match="one shape"):
        collate([plan, plan], [small, large])
    with pytest.raises(ValueError, match="got 2 and 1"):
        collate([plan, plan], [small])
    with pytest.raises(ValueError, match="got 0 and 0"):
        collate([], [])
