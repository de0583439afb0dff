"""Simulated annotators of boundaries: what they see and miss, and how far they agree."""

from __future__ import annotations

import numpy as np
import pytest

from bsp.datasets.pantomime.stories_files import boundary_kinds, consistency, rate
from bsp.datasets.pantomime.stories_plan import Act, StoryPlan, StorySettings, plan_video

SETTINGS = StorySettings()


def _clips(count):
    return [plan_video(SETTINGS, "clips_train", number) for number in range(count)]


def test_what_one_sees_at_a_boundary():
    acts = (
        Act(action="box", first=0, end=30, tempo=1.0),
        Act(action="box", first=30, end=60, tempo=2.0),  # faster
        Act(action="kick", first=60, end=90, tempo=1.0),  # something else, with a cut
        Act(action="kick", first=90, end=120, tempo=0.5),  # slower, with a cut
    )  # then idle, and a cut in it
    shots = ((0, 60, 0), (60, 90, 1), (90, 135, 0), (135, 150, 1))
    plan = StoryPlan(
        split="clips_train", number=0, video_id="x", frames=150, task=-1, start_s=0, acts=acts, shots=shots
    )
    assert boundary_kinds(plan) == {30: "speed", 60: "cut", 90: "cut", 120: "action", 135: "cut"}
    assert list(boundary_kinds(plan)) == [30, 60, 90, 120, 135]


def test_five_annotators_whose_times_are_as_the_release_leaves_them():
    empty = 0
    for plan in _clips(60):
        raters = rate(SETTINGS, plan)
        assert raters == rate(SETTINGS, plan)
        assert len(raters) == 5
        for times in raters:
            empty += not times
            assert times == sorted(times)
            assert np.diff(times).min(initial=9) > 0.6 - 1e-5
            assert not times or (times[0] >= 0.3 - 1e-5 and times[-1] <= plan.frames / 12 - 0.3 + 1e-5)
    assert empty  # some annotator saw nothing in some clip


def test_changes_of_speed_are_seen_least_often_and_times_are_a_little_off():
    seen = {"cut": [], "action": [], "speed": []}
    errors, extra = [], []
    for plan in _clips(200):
        kinds = boundary_kinds(plan)
        for times in rate(SETTINGS, plan):
            away = np.abs(np.subtract.outer(np.array(list(kinds)) / 12, times or [99.0]))
            for row, kind in zip(away, kinds.values()):
                seen[kind].append(row.min() < 0.5)
                errors += [row.min()] if row.min() < 0.5 else []
            extra.append(int((away.min(axis=0) > 0.8).sum()) if times else 0)
    rates = {kind: np.mean(values) for kind, values in seen.items()}
    assert min(rates["cut"], rates["action"]) > max(0.75, rates["speed"] + 0.15)
    assert 0.45 < rates["speed"] < 0.75
    assert 0.05 < np.mean(errors) < 0.2  # seconds
    assert 0.1 < np.mean(extra) < 0.5


def test_agreement_of_three_annotators_by_hand():
    # 10 s, so the ten tolerances are 0.5, 1, ..., 5 s. A and B: 1.0 and 1.4 match at all ten, 2 / (2 + 1) each.
    # A and C: 3.0 is 2 s from both of A's; matched from the fourth tolerance on, 7 of 10 times 2 / 3.
    # B and C: 1.6 s apart; matched from 2 s on, the fourth tolerance, 7 of 10 times 1.
    ab, ac, bc = 2 / 3, 0.7 * 2 / 3, 0.7
    found = consistency([[1.0, 5.0], [1.4], [3.0]], 10.0)
    assert found == pytest.approx([(ab + ac) / 2, (ab + bc) / 2, (ac + bc) / 2])


def test_a_boundary_is_matched_once_only():
    # One boundary cannot stand for two: 2 / (2 + 1) at every tolerance.
    assert consistency([[4.0, 4.2], [4.1]], 10.0) == pytest.approx([2 / 3, 2 / 3])


def test_annotators_who_see_nothing_agree_with_each_other_only():
    assert consistency([[], [], [2.0]], 10.0) == pytest.approx([0.5, 0.5, 0.0])


def test_most_clips_but_not_all_pass_the_limit_of_the_benchmark():
    means = [np.mean(consistency(rate(SETTINGS, plan), plan.frames / 12)) for plan in _clips(200)]
    assert 0.005 < np.mean(np.array(means) < 0.3) < 0.1
    assert 0.5 < np.mean(means) < 0.85
