"""Plans of clips at several strides, by worked examples: 8 frames, strides 1 to 4, a stretch of 7 * 4 + 1 frames."""

from dataclasses import replace

import numpy as np
import pytest

from bsp.clips.plan import ClipSettings
from bsp.clips.strides import frames_needed, plan_at_stride
from golden_losses import catalog_of

CLIPS, STRIDES = ClipSettings(), (1, 2, 3, 4)


def make_catalog(*frames: int, first_frame: int = 0):
    """Videos of so many frames, two of each class."""
    catalog = catalog_of([np.zeros(count) for count in frames])
    return replace(catalog, first_frame=np.full(len(frames), first_frame, np.int64))


def plan(catalog, label, *, clips=CLIPS, strides=STRIDES, seed=0, index=0, moment=0):
    return plan_at_stride(catalog, clips, strides, label=label, seed=seed, index=index, moment=moment)


def test_a_video_of_just_the_frames_needed_is_used_from_end_to_end():
    assert frames_needed(CLIPS, STRIDES) == 29
    catalog = make_catalog(29)
    # The largest stride reaches both ends; the others lie in the middle: (28 - 7) // 2 = 10, (28 - 14) / 2 = 7, ...
    assert plan(catalog, 3).frames[0].tolist() == [0, 4, 8, 12, 16, 20, 24, 28]
    assert plan(catalog, 2).frames[0].tolist() == [3, 6, 9, 12, 15, 18, 21, 24]
    assert plan(catalog, 1).frames[0].tolist() == [7, 9, 11, 13, 15, 17, 19, 21]
    assert plan(catalog, 0).frames[0].tolist() == [10, 11, 12, 13, 14, 15, 16, 17]


def test_numbers_are_of_the_file_and_strides_multiply_that_of_the_settings():
    catalog = make_catalog(57, first_frame=100)
    clips = ClipSettings(stride_frames=2)
    assert frames_needed(clips, STRIDES) == 57
    assert plan(catalog, 3, clips=clips).frames[0].tolist() == list(range(100, 157, 8))
    assert plan(catalog, 0, clips=clips).frames[0].tolist() == list(range(121, 137, 2))
    long = ClipSettings(half_len=8)
    assert frames_needed(long, (1, 2)) == 31
    assert len(plan(make_catalog(100), 1, clips=long, strides=(1, 2)).frames[0]) == 16


def test_every_start_is_drawn_and_no_frame_lies_outside_the_video():
    catalog = make_catalog(32)
    starts = {plan(catalog, 3, moment=moment).frames[0][0] for moment in range(100)}
    assert starts == {0, 1, 2, 3}
    assert max(plan(catalog, 3, moment=moment).frames[0][-1] for moment in range(100)) == 31


def test_clips_of_a_moment_have_one_centre_whatever_their_stride():
    catalog = make_catalog(80, 80, 80)
    for moment in range(20):
        plans = [plan(catalog, label, moment=moment, index=label) for label in range(4)]
        assert len({p.videos for p in plans}) == 1
        centres = [(p.frames[0][0] + p.frames[0][-1]) / 2 for p in plans]
        assert max(centres) - min(centres) <= 0.5
        assert len({p.augment_seed for p in plans}) == 4


def test_short_videos_are_left_out_at_every_stride():
    catalog = make_catalog(28, 29, 20, 60)
    for label in range(4):
        assert {plan(catalog, label, moment=moment).videos[0] for moment in range(50)} == {1, 3}
    with pytest.raises(ValueError, match="need videos of 29 frames, but the longest of the 3 has 28"):
        plan(make_catalog(28, 8, 20), 0)


def test_a_plan_is_a_function_of_seed_moment_and_index():
    catalog = make_catalog(90, 90, 90)
    assert plan(catalog, 1, seed=3, index=5, moment=2) == plan(catalog, 1, seed=3, index=5, moment=2)
    assert plan(catalog, 1, seed=3, index=5, moment=2) != plan(catalog, 1, seed=4, index=5, moment=2)
    made = plan(catalog, 1, seed=3, index=5, moment=2)
    assert (made.index, made.label, made.kind, made.change_point) == (5, 1, None, None)
    assert np.array_equal(made.weights, np.ones(8))
