"""Pantomime's levers: version 1 stays as it was, and each lever does what its number says."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import asdict, replace

import numpy as np
import pytest

from bsp.datasets.pantomime import grounding, grounding_plan, plan, render, stories, stories_plan
from bsp.datasets.pantomime.levers import Levers, acts_most, in_version, seen_classes
from bsp.datasets.pantomime.moves import ALL_ACTION_NAMES, action_pose, idle_pose, joints, running_phase
from bsp.datasets.pantomime.world import draw_look

SMALL = {"seed": 5, "size_px": 32}
UNTRIMMED = plan.PantomimeSettings(
    **SMALL, trimmed_per_class=1, trimmed_val_per_class=0, untrimmed_train=4, untrimmed_val=2
)
STORIES = stories_plan.StorySettings(**SMALL, games_train=2, games_test=1, tasks=1, clips_train=2, clips_val=1)
GROUNDING = grounding_plan.GroundingWorldSettings(**SMALL, train=2, test=1)
HARD = Levers(
    unseen_classes=0.2, long_instances=0.5, restless=1.0, scene_cue=2.0, others=1.5, clutter=2.0, camera=1.5,
    contrast=0.6, figure_height=0.8,
)  # fmt: skip
MANY = replace(UNTRIMMED, untrimmed_train=300, untrimmed_val=0, trimmed_per_class=2)
KINDS = [
    pytest.param(UNTRIMMED, render.plan_all, plan.draw_video, id="untrimmed"),
    pytest.param(STORIES, stories.plan_all, stories_plan.draw_video, id="stories"),
    pytest.param(GROUNDING, grounding.plan_all, grounding_plan.draw_video, id="grounding"),
]


# Recorded from the code as it was before there were levers: the name of the data set, and the mean grey level of every
# fifth frame of its first video.
@pytest.mark.parametrize(
    ("settings", "plan_all", "draw", "name", "means"),
    [
        (UNTRIMMED, render.plan_all, plan.draw_video, "1e0c537fba6e10c2", (80.935, 82.973, 80.562, 82.441)),
        (STORIES, stories.plan_all, stories_plan.draw_video, "34cd68932ddd48eb", (69.003, 69.711, 68.571, 67.020)),
        (GROUNDING, grounding.plan_all, grounding_plan.draw_video, "f0079b29191e5de9", (70.306, 75.71, 79.504, 78.997)),
    ],
)  # fmt: skip
def test_version_1_is_what_it_was(settings, plan_all, draw, name, means):
    assert settings.fingerprint() == name
    found = draw(settings, plan_all(settings)[0])[::5].mean((1, 2, 3))[:4]
    assert found == pytest.approx(means, abs=0.01)


def test_records_of_version_1_do_not_mention_levers(tmp_path):
    tiny = replace(UNTRIMMED, actions=("wave",), untrimmed_train=0, untrimmed_val=0)
    manifest = json.loads((render.render(tiny, tmp_path, workers=1, progress=False) / "manifest.json").read_text())
    assert manifest["settings"] == json.loads(json.dumps({k: v for k, v in asdict(tiny).items() if k != "levers"}))


@pytest.mark.parametrize(("settings", "plan_all", "draw"), KINDS)
def test_levers_name_other_data_and_the_same_seed_draws_the_same(settings, plan_all, draw):
    hard = replace(settings, levers=HARD)
    assert hard.fingerprint() != settings.fingerprint()
    assert hard.fingerprint() != replace(settings, levers=replace(HARD, others=1.0)).fingerprint()
    one = plan_all(hard)[-1]
    assert one == plan_all(hard)[-1]
    frames = draw(hard, one)
    assert np.array_equal(frames, draw(hard, one))
    assert frames.shape == (one.frames, 32, 32, 3)


@pytest.mark.parametrize(("settings", "plan_all", "draw"), KINDS)
def test_idle_levers_change_no_plan(settings, plan_all, draw):
    """Levers of the picture leave what happens when, so that a study of one varies it alone."""
    low, high = (replace(settings, levers=Levers(contrast=contrast)) for contrast in (1.0, 0.3))
    assert plan_all(low) == plan_all(high)


@pytest.mark.parametrize("unseen", [0.0, 0.2, 0.5])
def test_share_of_unseen_classes(unseen):
    settings = replace(UNTRIMMED, actions=ALL_ACTION_NAMES, levers=Levers(unseen_classes=unseen), untrimmed_train=40)
    plans = render.plan_all(settings)
    trimmed, untrimmed = ({p.label for p in plans if p.split.startswith(kind)} for kind in ("trimmed", "untrimmed"))
    assert untrimmed == set(ALL_ACTION_NAMES)
    assert len(untrimmed - trimmed) == unseen * 20
    files = render._annotation_files(settings, plans)
    assert {row["label"] for row in csv.DictReader(io.StringIO(files["trimmed/train.csv"]))} == trimmed
    names = {node["nodeName"] for node in json.loads(files["untrimmed/activitynet.json"])["taxonomy"]} - {"Root"}
    assert names == untrimmed


def test_unseen_classes_are_spread_and_one_is_always_seen():
    assert seen_classes(tuple("abcdefghij"), 0.2) == tuple("abdefgij")
    assert seen_classes(("a", "b"), 0.9) == ("a",)


@pytest.mark.parametrize("share", [0.2, 0.9])
def test_share_of_cuts_at_boundaries(share):
    settings = replace(MANY, levers=HARD, boundary_cut_share=share)
    plans = [p for p in render.plan_all(settings) if p.split == "untrimmed_train"]
    at = [frame in p.cuts for p in plans for frame in p.boundaries]
    assert np.mean(at) == pytest.approx(share, abs=4 * np.sqrt(share * (1 - share) / len(at)))


def test_share_of_long_instances():
    settings = replace(MANY, levers=Levers(long_instances=0.4), instance_seconds=(1.5, 5.0))
    plans = [p for p in render.plan_all(settings) if p.split == "untrimmed_train"]
    longest = np.array([max(end - first for first, end in p.instances) / p.frames for p in plans])
    assert np.mean(longest > 0.4) == pytest.approx(0.4, abs=0.12)
    assert longest.max() <= 0.9
    assert all(p.instances[0][0] >= 12 and p.instances[-1][1] <= p.frames - 12 for p in plans)


def test_places_of_acting_and_of_idling_are_different_ones():
    settings = replace(MANY, levers=Levers(scene_cue=1.0), boundary_cut_share=1.0)
    returns = 0
    for p in render.plan_all(settings):
        kinds: dict[int, set[bool]] = {}
        for first, end, look in p.shots:
            kinds.setdefault(look, set()).add(acts_most(first, end, p.instances))
            returns += 1
        assert all(len(kind) == 1 for kind in kinds.values())
        returns -= len(kinds)
    assert returns > 50


def test_trimmed_videos_may_be_easier():
    """At 0 they have pictures as without the levers; plans stay."""
    faint = replace(UNTRIMMED, levers=Levers(contrast=0.2, others=3.0, clutter=3.0, camera=2.0, figure_height=0.5))
    easy = replace(faint, levers=replace(faint.levers, in_trimmed=0.0))
    trimmed, untrimmed = (plan.plan_video(easy, split, "wave", 0) for split in ("trimmed_train", "untrimmed_train"))
    plain = plan.draw_video(UNTRIMMED, plan.plan_video(UNTRIMMED, "trimmed_train", "wave", 0)).astype(int)
    assert np.abs(plan.draw_video(easy, trimmed) - plain).max() <= 1
    assert np.abs(plan.draw_video(faint, trimmed) - plain).max() > 50
    assert np.array_equal(plan.draw_video(easy, untrimmed), plan.draw_video(faint, untrimmed))


def test_acts_most():
    assert acts_most(0, 10, [(0, 6)])
    assert not acts_most(0, 10, [(0, 5), (12, 20)])
    assert acts_most(10, 20, [(0, 13), (17, 30)])


def _speed(pose_TP: np.ndarray) -> float:
    """Mean path of all joints per frame, in body heights."""
    place_TJ2 = joints(pose_TP, shoulder=0.1, hip=0.05, arm=1.0, leg=1.0, head=0.08)
    return float(np.abs(np.diff(place_TJ2, axis=0)).sum((1, 2)).mean())


def test_restless_idling_is_as_lively_as_acting():
    rng = np.random.default_rng(0)
    acting = [
        _speed(action_pose(name, running_phase(rng, frames=60, fps=12, tempo=tempo, cuts=()), rng))
        for name in ALL_ACTION_NAMES
        for tempo in rng.uniform(0.9, 1.35, 8)
    ]
    idle, restless = ([_speed(idle_pose(60, 12, (), rng, restless=r)) for _ in range(150)] for r in (0.0, 1.0))
    assert np.mean(restless) == pytest.approx(np.mean(acting), rel=0.15)
    assert np.mean(idle) < 0.3 * np.mean(acting)


def test_the_light_of_places_of_acting_is_warmer():
    def warmth(acts: bool) -> np.ndarray:
        levers = Levers(scene_cue=3.0)
        looks = [draw_look(np.random.default_rng(k), 32, levers=levers, acts=acts) for k in range(40)]
        return np.array([(look.texture_HW3[..., 0] - look.texture_HW3[..., 2]).mean() for look in looks])

    # The same seeds: without clipping each pair differs by 3 * (14 + 36.7) grey levels.
    assert 50 < np.median(warmth(True) - warmth(False)) <= 153


def test_other_people_and_things_are_in_the_picture():
    """They change pixels of a video whose plan, camera and noise stay the same."""
    base = replace(UNTRIMMED, noise=0.0, light=0.0)
    p = plan.plan_video(base, "untrimmed_train", "wave", 0)
    alone, faint = (
        plan.draw_video(replace(base, levers=levers), p).astype(int) for levers in (Levers(), Levers(contrast=0.2))
    )
    assert np.abs(alone - plan.draw_video(base, p)).max() <= 1
    assert np.abs(alone - faint).max() > 20
    for lever in ("others", "clutter"):
        more = plan.draw_video(replace(base, levers=Levers(**{lever: 3.0})), p).astype(int)
        assert 0.01 < (np.abs(more - alone).max(axis=-1) > 10).mean() < 0.7


@pytest.mark.parametrize("name", ALL_ACTION_NAMES[10:])
def test_finer_actions_move_and_differ_from_the_others(name):
    phase = np.arange(48) / 12.0
    pose = {other: action_pose(other, phase, np.random.default_rng(1)) for other in ALL_ACTION_NAMES}
    assert np.isfinite(pose[name]).all()
    assert pose[name].std(axis=0).max() > 0.15
    assert all(np.abs(pose[name] - pose[other]).max() > 0.3 for other in ALL_ACTION_NAMES if other != name)


def test_values_out_of_range_are_named():
    with pytest.raises(ValueError, match=r"contrast must be in 0\.1\.\.1, not 0"):
        Levers(contrast=0.0)
    with pytest.raises(ValueError, match="no version 9 of the embedded data, but 1, 2"):
        in_version(UNTRIMMED, "untrimmed", 9)
