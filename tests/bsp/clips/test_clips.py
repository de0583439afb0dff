"""Plans of clips against Eq. (1) to (3) written out frame by frame, and their invariants."""

import dataclasses
import pickle
from collections import Counter
from fractions import Fraction
from math import floor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bsp.clips.catalog import Catalog
from bsp.clips.plan import (
    PAPER_KINDS,
    BoundaryKind,
    ClipSettings,
    first_video_weights,
    fit_stride,
    place_offsets,
    plan_clip,
    speed_offsets,
)

DIFF_CLASS, SAME_CLASS, DIFF_SPEED, SAME_SPEED = PAPER_KINDS


def make_catalog(labels, frames=100, first_frame=0):
    count = len(labels)
    return Catalog(
        root="/videos",
        paths=np.array([f"{i}.mp4".encode() for i in range(count)]),
        labels=np.array(labels, np.int32),
        first_frame=np.broadcast_to(np.int64(first_frame), count).copy(),
        frames=np.broadcast_to(np.int32(frames), count).copy(),
        fps=np.full(count, 30, np.float32),
        readers=np.zeros(count, np.uint8),
        class_names=tuple(f"class {c}" for c in range(max(labels) + 1)),
    )


def generator():
    return np.random.default_rng(0)


# ---- the order and the settings


def test_kinds_are_numbered_as_in_section_3_3():
    assert [kind.name for kind in BoundaryKind] == ["DIFF_CLASS", "SAME_CLASS", "DIFF_SPEED", "SAME_SPEED"]
    assert [int(kind) for kind in BoundaryKind] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"half_len": 0, "epsilon": 0}, "half_len"),
        ({"epsilon": 5}, "epsilon.*5"),
        ({"epsilon": -1}, "epsilon.*-1"),
        ({"gammas": (1.0,)}, "gammas"),
        ({"gammas": (0.0, 2.0)}, "gammas"),
        ({"gammas": (float("inf"),)}, "gammas"),
        ({"gammas": ()}, "gamma"),
        ({"change_point": 0}, "change_point.*0"),
        ({"change_point": 8}, "change_point.*8"),
        ({"min_segment": 0}, "min_segment"),
        ({"min_segment": 5}, "min_segment.*5"),
        ({"stride_frames": 0}, "stride_frames"),
        ({"kinds": (DIFF_CLASS, DIFF_CLASS)}, "DIFF_CLASS"),
        ({"kinds": (4,)}, "4"),
    ],
)
def test_settings_refuse_what_cannot_work(wrong, named):
    with pytest.raises(ValueError, match=named):
        ClipSettings(**wrong)


# ---- Eq. (1) and (2)


def test_weights_by_hand():
    def weights(**sizes):
        return first_video_weights(**sizes).tolist()

    # tau 4, epsilon 1: i = 1..3 first video; i = 4: (4 + 1 - 4) / 2 = .5; i = 5: (4 + 1 - 5) / 2 = 0
    assert weights(half_len=4, epsilon=1) == [1, 1, 1, 0.5, 0, 0, 0, 0]
    # epsilon 2: i = 3..6 give (6 - i) / 4
    assert weights(half_len=4, epsilon=2) == [1, 1, 0.75, 0.5, 0.25, 0, 0, 0]
    # epsilon = tau: the whole clip is transition, (8 - i) / 8
    assert weights(half_len=4, epsilon=4) == [7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8, 0]
    assert weights(half_len=4, epsilon=0) == [1, 1, 1, 1, 0, 0, 0, 0]
    # a change after 2 frames instead of 4, and one where the transition has to shrink from 3 to 1
    assert weights(half_len=4, epsilon=1, change_point=2) == [1, 0.5, 0, 0, 0, 0, 0, 0]
    assert weights(half_len=4, epsilon=3, change_point=7) == [1, 1, 1, 1, 1, 1, 0.5, 0]


def equation_1(i, tau, epsilon):
    """(weight of V1, its frame or None, weight of V2, its frame or None), all in the paper's counting."""
    if i <= tau - epsilon:
        return Fraction(1), i, Fraction(0), None
    if i <= tau + epsilon:
        return (
            Fraction(tau + epsilon - i, 2 * epsilon),
            i,
            Fraction(i - tau + epsilon, 2 * epsilon),
            i - tau + epsilon,
        )
    return Fraction(0), None, Fraction(1), i - tau + epsilon


@pytest.mark.parametrize("change_point", ["tau", None])
@pytest.mark.parametrize("tau", [1, 2, 4, 8])
def test_diff_class_plan_is_equation_1(tau, change_point):
    catalog = make_catalog([0, 0, 1, 1, 2])
    for epsilon in range(tau + 1):
        for index in range(10):
            config = ClipSettings(
                half_len=tau,
                epsilon=epsilon,
                kinds=(DIFF_CLASS,),
                min_segment=1,
                change_point=tau if change_point == "tau" else None,
            )
            plan = plan_clip(catalog, config, 3, index)
            # A drawn t stands where Eq. (1) has tau, with epsilon cut to what is left at the nearer end.
            t = round(plan.change_point) + 1
            assert change_point is None or t == tau
            used = min(epsilon, t, 2 * tau - t)
            first, second = plan.frames
            assert [len(first), len(second)] == [t + used, 2 * tau - t + used]
            for i in range(1, 2 * tau + 1):
                weight_1, frame_1, weight_2, frame_2 = equation_1(i, t, used)
                assert plan.weights[i - 1] == pytest.approx(float(weight_1), abs=1e-7)
                assert 1 - plan.weights[i - 1] == pytest.approx(float(weight_2), abs=1e-7)
                if frame_1 is not None:  # the first video lies at the start of the clip ...
                    assert first[i - 1] == first[0] + frame_1 - 1
                if frame_2 is not None:  # ... and the second one at its end
                    assert second[i - 1 - (2 * tau - len(second))] == second[0] + frame_2 - 1


@pytest.mark.parametrize("tau", [1, 3, 4])
def test_same_class_plan_is_equation_2(tau):
    catalog = make_catalog([0, 1, 0, 1, 1])
    config = ClipSettings(half_len=tau, epsilon=1, kinds=(SAME_CLASS,), min_segment=1, change_point=tau)
    for index in range(20):
        plan = plan_clip(catalog, config, 0, index)
        assert plan.weights.tolist() == [1] * tau + [0] * tau  # no transition, whatever epsilon
        for frames in plan.frames:
            assert (frames - frames[0]).tolist() == list(range(tau))
        assert plan.change_point == tau - 1


@given(data=st.data())
def test_weights_pass_once_from_the_first_video_to_the_second(data):
    tau = data.draw(st.integers(1, 16))
    epsilon = data.draw(st.integers(0, tau))
    t = data.draw(st.integers(1, 2 * tau - 1))
    weights = first_video_weights(half_len=tau, epsilon=epsilon, change_point=t).astype(np.float64)
    assert weights.dtype == np.float64
    assert weights.shape == (2 * tau,)
    assert (weights >= 0).all()
    assert (weights <= 1).all()
    assert (np.diff(weights) <= 1e-7).all()
    assert weights[-1] == 0
    used = min(epsilon, t, 2 * tau - t)
    # Sum of Eq. (1)'s first weights: t - epsilon ones and (2 epsilon - 1) / 2; t for a cut.
    assert weights.sum() == pytest.approx(t - 0.5 if used else t, abs=1e-5)
    if used:
        assert weights[t - 1] == pytest.approx(0.5)


# ---- Eq. (3)


def test_speed_offsets_by_hand():
    # t = 4, gamma 2: f1 f2 f3 f4 f6 f8 f10 f12, here counted from 0
    assert speed_offsets(half_len=4, change_point=4, gamma=2).tolist() == [0, 1, 2, 3, 5, 7, 9, 11]
    assert speed_offsets(half_len=2, change_point=2, gamma=0.5).tolist() == [0, 1, 1.5, 2]


def test_slow_motion_rounds_halves_up():
    catalog = make_catalog([0], frames=7)  # f_1 f_2 f_3 f_4 f_4.5 f_5 f_5.5 f_6
    config = ClipSettings(kinds=(DIFF_SPEED,), gammas=(0.5,), change_point=4)
    plan = plan_clip(catalog, config, 0, 0)
    assert (plan.frames[0] - plan.frames[0][0]).tolist() == [0, 1, 2, 3, 4, 4, 5, 5]
    assert plan.change_point == 3  # the paper's t = 4 counted from 0


@given(data=st.data())
@settings(deadline=None)
def test_diff_speed_plan_is_equation_3(data):
    tau = data.draw(st.integers(1, 8))
    t = data.draw(st.integers(1, 2 * tau - 1))
    gamma = data.draw(st.sampled_from((0.25, 0.5, 0.75, 1.5, 2.0, 3.0, 4.0)))
    stride = data.draw(st.integers(1, 3))
    config = ClipSettings(
        half_len=tau,
        epsilon=0,
        kinds=(DIFF_SPEED,),
        gammas=(gamma,),
        change_point=t,
        stride_frames=stride,
        min_segment=1,
    )
    plan = plan_clip(make_catalog([0], frames=1000), config, 7, data.draw(st.integers(0, 1000)))
    frames = plan.frames[0] - plan.frames[0][0] + 1  # so that the first one is the paper's frame 1
    for i in range(1, 2 * tau + 1):
        where = Fraction(i) if i <= t else t + Fraction(gamma) * (i - t)
        # with a stride, frame "i" of the original rate is source frame 1 + stride (i - 1)
        assert frames[i - 1] == floor(1 + stride * (where - 1) + Fraction(1, 2))
    assert plan.weights.tolist() == [1] * (2 * tau)
    assert plan.change_point == t - 1


def test_gammas_on_both_sides_of_one_are_drawn():
    catalog = make_catalog([0], frames=100)
    config = ClipSettings(kinds=(DIFF_SPEED,), gammas=(0.5, 2.0), change_point=4)
    extents = Counter(int(np.ptp(plan_clip(catalog, config, 0, k).frames[0])) for k in range(200))
    assert set(extents) == {5, 11}  # 3 + .5 * 4 and 3 + 2 * 4
    assert 60 < extents[5] < 140


# ---- clips without a change


def test_same_speed_and_plain_clips_are_one_video_at_its_own_rate():
    catalog = make_catalog([2, 0, 1, 1], frames=50)
    for kinds in ((SAME_SPEED,), ()):
        seen = set()
        for index in range(60):
            plan = plan_clip(catalog, ClipSettings(kinds=kinds, stride_frames=3), 1, index)
            assert np.diff(plan.frames[0]).tolist() == [3] * 7
            assert plan.weights.tolist() == [1] * 8
            assert plan.change_point is None
            assert plan.kind == (SAME_SPEED if kinds else None)
            assert plan.label == (0 if kinds else [2, 0, 1, 1][plan.videos[0]])
            seen.add(plan.videos[0])
        assert seen == {0, 1, 2, 3}


# ---- the stream


def test_each_block_of_indices_has_each_label_once():
    catalog = make_catalog([0, 0, 1, 1])
    for kinds in (PAPER_KINDS, (DIFF_SPEED, SAME_SPEED), (SAME_SPEED, DIFF_CLASS, SAME_CLASS)):
        config = ClipSettings(kinds=kinds)
        plans = [plan_clip(catalog, config, 5, index) for index in range(len(kinds) * 40)]
        assert all(plan.kind == kinds[plan.label] for plan in plans)
        labels = np.array([plan.label for plan in plans]).reshape(-1, len(kinds))
        assert (np.sort(labels, axis=1) == np.arange(len(kinds))).all()
        # The order within the blocks varies, so that place in the batch says nothing about the label.
        assert len(np.unique(labels, axis=0)) > 1
        share = (labels[:, 0] == 0).mean()
        assert 0.1 < share < 0.9


def test_a_plan_depends_on_seed_and_index_only():
    catalog = make_catalog([0, 0, 1, 1, 2, 2])
    config = ClipSettings()
    forwards = [plan_clip(catalog, config, 11, index) for index in range(40)]
    backwards = [plan_clip(catalog, config, 11, index) for index in reversed(range(40))][::-1]
    assert [pickle.dumps(plan) for plan in forwards] == [pickle.dumps(plan) for plan in backwards]
    assert forwards == backwards
    assert len({plan.augment_seed for plan in forwards}) == 40
    other_seed = [plan_clip(catalog, config, 12, index) for index in range(40)]
    assert not {plan.augment_seed for plan in other_seed} & {plan.augment_seed for plan in forwards}
    assert sum(a.frames[0].tolist() == b.frames[0].tolist() for a, b in zip(forwards, other_seed)) < 10


def test_large_seed_and_index_work_and_negative_ones_are_refused():
    catalog = make_catalog([0, 0, 1])
    for seed, index in ((2**64 - 1, 0), (0, 2**63), (0, 2**64 - 1)):
        assert plan_clip(catalog, ClipSettings(), seed, index).index == index
    for seed, index in ((-1, 0), (0, -1)):
        with pytest.raises(ValueError, match="-1"):
            plan_clip(catalog, ClipSettings(), seed, index)


def test_drawn_change_points_cover_their_range():
    catalog = make_catalog([0, 0, 1, 1], frames=200)
    for kind in (DIFF_CLASS, SAME_CLASS, DIFF_SPEED):
        config = ClipSettings(kinds=(kind,), min_segment=2)
        points = Counter(plan_clip(catalog, config, 0, index).change_point for index in range(500))
        assert set(points) == {1.0, 2.0, 3.0, 4.0, 5.0}  # the paper's t = 2..6
        assert min(points.values()) > 60


def test_starts_cover_the_whole_video():
    catalog = make_catalog([0], frames=12, first_frame=1000)
    starts = Counter(int(plan_clip(catalog, ClipSettings(kinds=(SAME_SPEED,)), 0, k).frames[0][0]) for k in range(300))
    assert set(starts) == {1000, 1001, 1002, 1003, 1004}  # the last clip is frames 1004..1011
    assert min(starts.values()) > 30


def test_equal_plans_compare_equal_and_others_do_not():
    catalog = make_catalog([0, 0, 1, 1])
    plan = plan_clip(catalog, ClipSettings(), 0, 0)
    assert plan == pickle.loads(pickle.dumps(plan))
    assert hash(plan) == hash(pickle.loads(pickle.dumps(plan)))
    assert plan != dataclasses.replace(plan, weights=plan.weights * np.float32(0.5))
    assert plan != dataclasses.replace(plan, augment_seed=plan.augment_seed + 1)


# ---- classes


@given(labels=st.lists(st.integers(0, 3), min_size=2, max_size=12), index=st.integers(0, 2**40))
@settings(deadline=None)
def test_pairs_keep_their_class_rule(labels, index):
    catalog = make_catalog(labels)
    counts = Counter(labels)
    if len(counts) > 1:
        a, b = plan_clip(catalog, ClipSettings(kinds=(DIFF_CLASS,)), 0, index).videos
        assert labels[a] != labels[b]
    else:
        with pytest.raises(ValueError, match=f"class {labels[0]}"):
            plan_clip(catalog, ClipSettings(kinds=(DIFF_CLASS,)), 0, index)
    if max(counts.values()) > 1:
        a, b = plan_clip(catalog, ClipSettings(kinds=(SAME_CLASS,)), 0, index).videos
        assert labels[a] == labels[b]
        assert a != b
    else:
        with pytest.raises(ValueError, match="two videos"):
            plan_clip(catalog, ClipSettings(kinds=(SAME_CLASS,)), 0, index)


def test_all_allowed_pairs_occur_about_equally_often():
    labels = [1, 0, 1, 3, 1, 0]  # class 2 is empty, class 3 has one video
    catalog = make_catalog(labels)
    for kind in (DIFF_CLASS, SAME_CLASS):
        allowed = [
            (a, b) for a in range(6) for b in range(6) if a != b and (labels[a] == labels[b]) == (kind == SAME_CLASS)
        ]
        pairs = Counter(plan_clip(catalog, ClipSettings(kinds=(kind,)), 2, k).videos for k in range(4000))
        assert set(pairs) == set(allowed)
        firsts = Counter(a for a, _ in pairs.elements())
        expected = 4000 / len({a for a, _ in allowed})
        assert all(0.8 * expected < count < 1.2 * expected for count in firsts.values())


# ---- short videos


@given(data=st.data())
@settings(deadline=None, max_examples=300)
def test_no_frame_lies_outside_its_video(data):
    lengths = data.draw(st.lists(st.integers(1, 40), min_size=4, max_size=4))
    firsts = data.draw(st.lists(st.integers(0, 500), min_size=4, max_size=4))
    catalog = make_catalog([0, 0, 1, 1], frames=np.array(lengths), first_frame=np.array(firsts))
    tau = data.draw(st.integers(1, 8))
    config = ClipSettings(
        half_len=tau,
        epsilon=data.draw(st.integers(0, tau)),
        min_segment=data.draw(st.integers(1, tau)),
        stride_frames=data.draw(st.integers(1, 6)),
        gammas=data.draw(st.sampled_from(((0.3,), (0.5, 2.0), (7.0,)))),
    )
    for index in range(8):
        plan = plan_clip(catalog, config, 0, index)
        assert len(plan.frames) == len(plan.videos)
        for video, frames in zip(plan.videos, plan.frames):
            assert frames.dtype == np.int64
            assert frames.min() >= firsts[video]
            assert frames.max() < firsts[video] + lengths[video]
            assert (np.diff(frames) >= 0).all()
        if len(plan.videos) == 1:
            assert len(plan.frames[0]) == 2 * tau


def test_a_shorter_video_first_loses_its_stride():
    # 8 frames at stride s need 7 s + 1 frames
    for frames, stride in ((50, 4), (29, 4), (28, 3), (22, 3), (21, 2), (15, 2), (14, 1), (8, 1)):
        config = ClipSettings(kinds=(SAME_SPEED,), stride_frames=4)
        plan = plan_clip(make_catalog([0], frames=frames), config, 0, 0)
        assert np.diff(plan.frames[0]).tolist() == [stride] * 7


def test_a_still_shorter_video_is_spread_with_repeats():
    def frames(count):
        return plan_clip(make_catalog([0], frames=count), ClipSettings(kinds=(SAME_SPEED,)), 0, 0).frames[0].tolist()

    assert frames(4) == [0, 0, 1, 1, 2, 2, 3, 3]  # 3/7 k = 0 .43 .86 1.29 1.71 2.14 2.57 3
    assert frames(7) == [0, 1, 2, 3, 3, 4, 5, 6]  # 6/7 k = 0 .86 1.71 2.57 3.43 4.29 5.14 6
    assert frames(1) == [0] * 8


def test_a_short_video_keeps_gamma_as_far_as_it_can():
    # t = 4, gamma 2 reaches 11 frames on; a video of 6 has 5: positions times 5/11
    config = ClipSettings(kinds=(DIFF_SPEED,), gammas=(2.0,), change_point=4)
    plan = plan_clip(make_catalog([0], frames=6), config, 0, 0)
    assert plan.frames[0].tolist() == [0, 0, 1, 1, 2, 3, 4, 5]  # 0 .45 .91 1.36 | 2.27 3.18 4.09 5


def test_both_videos_of_a_pair_share_the_smaller_stride():
    catalog = make_catalog([0, 0], frames=np.array([100, 6]))
    config = ClipSettings(kinds=(SAME_CLASS,), stride_frames=3, change_point=4)
    for index in range(6):
        plan = plan_clip(catalog, config, 0, index)  # 4 frames in 6: stride 1 (at stride 2 they need 7)
        assert [np.diff(frames).tolist() for frames in plan.frames] == [[1, 1, 1]] * 2


def test_the_start_does_not_change_the_rounding():
    # 5 * .3 * 9 is 13.499999999999998 in floating point; added to a start it would round up, out of the video
    config = ClipSettings(half_len=5, kinds=(DIFF_SPEED,), gammas=(0.3,), change_point=1, stride_frames=5)
    catalog = make_catalog([0], frames=17)
    plans = [plan_clip(catalog, config, 0, index).frames[0] for index in range(100)]
    assert {int(frames[0]) for frames in plans} == {0, 1, 2, 3}
    assert {int(np.ptp(frames)) for frames in plans} == {13}


def test_a_segment_of_one_frame_has_no_stride():
    assert fit_stride(0.0, stride_frames=5, frames=1) == 5
    placed = place_offsets(np.zeros(1), stride_frames=5, frames=1, generator=generator())
    assert placed.tolist() == [0]
