"""Pantomime for grounding: Charades-STA layout, plans without shortcuts, resuming, same bytes anywhere."""

from __future__ import annotations

import csv
import json
import re
import shutil
from dataclasses import replace

import av
import numpy as np
import pytest
from click.testing import CliRunner

from bsp.datasets.pantomime.grounding import GroundingWorldSettings, main, plan_all, render_grounding
from bsp.datasets.pantomime.grounding_plan import ACTORS, Moment, Shot, draw_video, plan_pose, plan_video
from bsp.datasets.pantomime.levers import Levers
from bsp.datasets.pantomime.moves import JOINTS, idle_pose, joints
from bsp.datasets.pantomime.render import is_complete, make_video
from bsp.datasets.pantomime.world import Person, draw_look, draw_shot

pytestmark = pytest.mark.long  # videos, processes or whole trainings

TINY = GroundingWorldSettings(
    seed=3, size_px=32, train=2, test=1, seconds=16.0, moments=(4, 5), moment_seconds=(1.5, 4.0)
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return render_grounding(TINY, tmp_path_factory.mktemp("grounding"), workers=1, progress=False)


@pytest.fixture(scope="module")
def plans():
    return plan_all(GroundingWorldSettings())


def _contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_two_workers_write_the_same_bytes(folder, tmp_path):
    other = render_grounding(TINY, tmp_path, workers=2, progress=False)
    assert other.name == folder.name == TINY.fingerprint()
    assert _contents(other) == _contents(folder)


def test_moment_files_in_the_layout_of_charades_sta(folder):
    truth = json.loads((folder / "truth.json").read_text())
    seen = set()
    for split, videos in (("train", 2), ("test", 1)):
        text = (folder / f"charades_sta_{split}.txt").read_text()
        assert text.endswith("\n")
        ids = set()
        annotated = []
        for line in text.splitlines():
            match = re.fullmatch(r"([A-Z0-9]{5}) (\d+\.\d{1,2}) (\d+\.\d{1,2})##([a-z]+( [a-z]+)*\.)", line, re.ASCII)
            assert match, line
            video_id, start_s, end_s = match[1], float(match[2]), float(match[3])
            assert 0 < start_s < end_s < 16.0
            ids.add(video_id)
            annotated.append((video_id, start_s, end_s, match[4]))
        assert len(ids) == videos
        seen |= ids
        expected = [
            (video_id, round(moment["first"] / 12, 2), round(moment["end"] / 12, 2), sentence["text"])
            for video_id, video in truth["videos"].items()
            if video["split"] == split
            for sentence in video["sentences"]
            for moment in [video["moments"][sentence["moment"]]]
        ]
        assert annotated == expected
    assert seen == set(truth["videos"])  # no video in both


def test_video_tables_in_the_layout_of_charades(folder):
    truth = json.loads((folder / "truth.json").read_text())["videos"]
    for split, videos in (("train", 2), ("test", 1)):
        with open(folder / f"Charades_v1_{split}.csv", newline="") as file:
            rows = list(csv.DictReader(file))
        header = "id,subject,scene,quality,relevance,verified,script,objects,descriptions,actions,length"
        assert list(rows[0]) == header.split(",")
        assert len(rows) == videos
        for row in rows:
            assert row["length"] == "16.00"
            assert "," in row["script"]  # quoting is needed, as in the original
            actions = [note.split() for note in row["actions"].split(";")]
            assert len(actions) == len(truth[row["id"]]["moments"])
            for (name, start_s, end_s), moment in zip(actions, truth[row["id"]]["moments"]):
                assert re.fullmatch(r"c\d{3}", name)
                assert TINY.actions[int(name[1:])] == moment["action"]
                assert float(start_s) == pytest.approx(moment["first"] / 12, abs=0.006)
                assert float(end_s) == pytest.approx(moment["end"] / 12, abs=0.006)


def test_files_are_h264_with_the_promised_frames_and_the_manifest_names_all(folder):
    manifest = json.loads((folder / "manifest.json").read_text())
    on_disk = {str(path.relative_to(folder)): path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    del on_disk["manifest.json"]
    assert manifest["files"] == on_disk
    assert manifest["videos"] == {"train": 2, "test": 1}
    assert manifest["frames"] == 3 * 192
    for path in (folder / "videos").iterdir():
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            assert (stream.codec_context.name, stream.average_rate) == ("h264", 12)
            assert (stream.width, stream.height) == (32, 32)
            assert sum(1 for _ in container.decode(video=0)) == 192


def test_truth_holds_together(folder):
    for video in json.loads((folder / "truth.json").read_text())["videos"].values():
        assert video["frames"] == 192
        assert [cut["frame"] for cut in video["cuts"]] == [shot["first"] for shot in video["shots"][1:]]
        edges = {frame for moment in video["moments"] for frame in (moment["first"], moment["end"])}
        for cut, before, after in zip(video["cuts"], video["shots"], video["shots"][1:]):
            assert (cut["at"] == "boundary") == (cut["frame"] in edges)
            assert cut["actor_changes"] == (before["actor"] != after["actor"])


def test_videos_do_not_depend_on_the_counts_but_on_the_seed():
    fewer = {plan.video_id: plan for plan in plan_all(TINY)}
    more = {plan.video_id: plan for plan in plan_all(replace(TINY, train=5, test=7))}
    assert len(more) == 12
    assert all(more[video_id] == plan for video_id, plan in fewer.items())
    assert not fewer.keys() & {plan.video_id for plan in plan_all(replace(TINY, seed=4))}
    one, other = plan_video(TINY, "train", 0), plan_video(TINY, "test", 0)
    assert (one.moments, one.shots) != (other.moments, other.shots)
    assert np.array_equal(draw_video(TINY, one), draw_video(TINY, one))


def test_ids_never_clash():
    ids = {plan_video(TINY, split, k).video_id for split in ("train", "test") for k in range(0, 60_000, 400)}
    assert len(ids) == 300


def test_moments_keep_their_lengths_and_their_distance(plans):
    assert len(plans) == 300
    assert {len(plan.moments) for plan in plans} == {4, 5, 6}
    for plan in plans:
        assert plan.frames == 288
        assert all(24 <= moment.end - moment.first <= 72 for moment in plan.moments)  # 2 .. 6 s at 12 frames/s
        assert plan.moments[0].first >= 9  # 0.75 s
        assert plan.moments[-1].end <= 288 - 9
        for one, two in zip(plan.moments, plan.moments[1:]):
            gap = two.first - one.end
            assert gap == 0 or gap >= 9
            if (one.actor, one.action) == (two.actor, two.action):
                assert gap >= 9  # else the end of one is ambiguous
    adjoining = [two.first == one.end for plan in plans for one, two in zip(plan.moments, plan.moments[1:])]
    assert 0.15 < np.mean(adjoining) < 0.3


def test_every_video_tells_actors_and_order_apart(plans):
    for plan in plans:
        events = [(moment.actor, moment.action) for moment in plan.moments]
        actions = {action for _, action in events}
        assert 2 <= len(actions) <= 4
        assert any({(0, action), (1, action)} <= set(events) for action in actions)  # both actors do it
        assert any(len({action for who, action in events if who == actor}) > 1 for actor in (0, 1))
        assert max(events.count(event) for event in events) == 2  # some actor does an action twice
        assert plan.actors[0] != plan.actors[1]
        assert plan.clothes[0] != plan.clothes[1]


def test_one_actor_per_shot_and_no_shot_like_the_one_before(plans):
    for plan in plans:
        assert [shot.first for shot in plan.shots] == [0, *(shot.end for shot in plan.shots[:-1])]
        assert plan.shots[-1].end == plan.frames
        owner = {}
        for shot in plan.shots:
            assert owner.setdefault(shot.look, shot.actor) == shot.actor
            seen = {moment.actor for moment in plan.moments if moment.first < shot.end and moment.end > shot.first}
            assert seen <= {shot.actor}
        assert all(one.look != two.look for one, two in zip(plan.shots, plan.shots[1:]))


def test_cuts_and_moments_do_not_give_each_other_away(plans):
    boundaries = [(plan, frame) for plan in plans for frame in plan.boundaries]
    cuts = [(plan, frame) for plan in plans for frame in plan.cuts]
    with_cut = np.mean([frame in plan.cuts for plan, frame in boundaries])
    is_boundary = np.mean([frame in plan.boundaries for plan, frame in cuts])
    inside = np.mean([any(m.first < frame < m.end for m in plan.moments) for plan, frame in cuts])
    assert 0.25 < with_cut < 0.5
    assert 0.35 < is_boundary < 0.6
    assert inside > 0.2
    assert 1 - is_boundary - inside > 0.15  # in idle motion
    changes = [
        (one.actor != two.actor, two.first in plan.boundaries)
        for plan in plans
        for one, two in zip(plan.shots, plan.shots[1:])
    ]
    assert 0.3 < np.mean([changed for changed, _ in changes]) < 0.6
    assert 0.5 < np.mean([boundary for changed, boundary in changes if changed]) < 0.8
    returns = [len({shot.look for shot in plan.shots}) < len(plan.shots) for plan in plans]
    assert 0.1 < np.mean(returns) < 0.9
    idle = 1 - np.mean([sum(m.end - m.first for m in plan.moments) / plan.frames for plan in plans])
    assert 0.25 < idle < 0.6


def test_no_one_span_of_time_fits_many_sentences(plans):
    """The best constant answer: chosen on the training videos, R1@0.5 on the others."""
    spans = {"train": [], "test": []}
    for plan in plans:
        spans[plan.split] += [plan.moments[sentence.moment] for sentence in plan.sentences]

    def hits(answers, moments):
        rates = []
        for first, end in answers:
            common = [max(0, min(end, m.end) - max(first, m.first)) for m in moments]
            either = [max(end, m.end) - min(first, m.first) for m in moments]
            rates.append(np.mean(np.array(common) / np.array(either) >= 0.5))
        return rates

    grid = [(first, end) for first in range(0, 288, 12) for end in range(first + 12, 289, 12) if end - first <= 96]
    best = grid[int(np.argmax(hits(grid, spans["train"])))]
    assert hits([best], spans["test"])[0] < 0.17


def _story(settings, spans, cuts):
    """A plan with the given (actor, action, first, end) and (actor, first) of the shots."""
    moments = tuple(Moment(actor=a, action=name, first=first, end=end) for a, name, first, end in spans)
    ends = [first for _, first in cuts[1:]] + [settings.frames]
    shots = tuple(Shot(actor=a, look=k, first=first, end=end) for k, ((a, first), end) in enumerate(zip(cuts, ends)))
    return replace(plan_video(settings, "train", 0), moments=moments, shots=shots, sentences=())


def test_actions_blend_into_each_other_without_a_cut():
    """Replacing the second of two adjoining actions changes the pose from two frames before it on, not earlier."""
    spans = [(0, "wave", 24, 60), (0, "squat", 60, 100)]
    plan = _story(TINY, spans, [(0, 0)])
    other = _story(TINY, [spans[0], (0, "kick", 60, 100)], [(0, 0)])
    pose_TP, other_TP = plan_pose(TINY, plan), plan_pose(TINY, other)
    differs = np.flatnonzero(np.abs(pose_TP - other_TP).max(axis=1) > 1e-4)
    assert 58 <= differs[0] <= 60
    assert 99 <= differs[-1] <= 101
    turn = np.diff(pose_TP[:, :10], axis=0)
    turn -= 2 * np.pi * np.round(turn / (2 * np.pi))
    assert np.abs(turn).max() < 2.2  # no limb flies across the body within one frame


def test_no_idle_motion_between_actions_that_adjoin(monkeypatch):
    """Another idle motion changes the pose outside the two actions, and nowhere between them."""
    plan = _story(TINY, [(0, "wave", 24, 60), (0, "squat", 60, 100)], [(0, 0)])
    pose_TP = plan_pose(TINY, plan)
    monkeypatch.setattr(
        "bsp.datasets.pantomime.grounding_plan.idle_pose",
        lambda *args, **more: idle_pose(*args, **more) + np.float32(0.5),
    )
    step_TP = plan_pose(TINY, plan) - pose_TP
    step_TP[:, :10] -= 2 * np.pi * np.round(step_TP[:, :10] / (2 * np.pi))
    moved = np.abs(step_TP).max(axis=1) > 1e-3
    assert not moved[26:98].any()
    assert moved[:22].all()
    assert moved[102:].all()


def test_the_picture_changes_at_a_cut_and_not_elsewhere():
    settings = GroundingWorldSettings(seed=1, noise=0.0)
    plan = plan_video(settings, "test", 0)
    assert len(plan.cuts) >= 3
    frames = draw_video(settings, plan).astype(np.float32)
    assert frames.shape == (288, 64, 64, 3)
    change = np.abs(np.diff(frames, axis=0)).mean(axis=(1, 2, 3))
    biggest = np.sort(np.argsort(change)[-len(plan.cuts) :] + 1)
    assert tuple(biggest) == plan.cuts


def _person(actor):
    return Person(clothes=(255.0, 60.0, 60.0), **ACTORS[actor])


def test_actors_differ_in_build():
    """Heights of children end well below those of the others; a giant's limbs are twice as thick as a wizard's."""
    looks = {actor: [draw_look(np.random.default_rng(k), 64, _person(actor)) for k in range(20)] for actor in ACTORS}
    assert max(look.height for look in looks["child"]) < 0.8 * min(look.height for look in looks["giant"])
    assert min(look.thickness for look in looks["giant"]) > 1.8 * max(look.thickness for look in looks["wizard"])
    assert {look.hat > 0 for look in looks["wizard"]} == {True}
    assert {look.hat for look in looks["giant"] + looks["child"]} == {0.0}


def test_a_hat_sits_on_the_head_and_changes_nothing_else():
    look = draw_look(np.random.default_rng(0), 64, _person("wizard"))
    pose_TP = idle_pose(8, 12, (), np.random.default_rng(1))
    draw = {
        hat: draw_shot(pose_TP, replace(look, hat=hat), 64, np.random.default_rng(2), noise=0, light=0).astype(int)
        for hat in (0.0, 1.0)
    }
    points_TJ2 = joints(pose_TP, **look.body) * look.height * 64
    head_y = points_TJ2[:, JOINTS.index("head"), 1] + look.ground * 64
    row_T = [np.flatnonzero(np.abs(a - b).max(axis=(1, 2)) > 2) for a, b in zip(draw[0.0], draw[1.0])]
    radius = look.body["head"] * look.height * 64
    for rows, y in zip(row_T, head_y):
        assert len(rows) > 0
        assert y - 5 * radius - 4 < rows.min() < y - radius  # taller than the bare head
        assert rows.max() < y + 3 * radius + 4  # camera shake moves the figure by a few pixels


def test_clothes_keep_their_contrast_with_the_ground():
    luma = np.array([0.299, 0.587, 0.114])
    lighter = set()
    for seed in range(20):
        look = draw_look(np.random.default_rng(seed), 64, _person("giant"))
        figure, ground = look.colours @ luma, look.texture_HW3 @ luma
        light = figure.mean() > ground.mean()
        lighter.add(bool(light))
        gap = figure.min() - np.percentile(ground, 99.5) if light else np.percentile(ground, 0.5) - figure.max()
        assert gap >= 55
        shirt, trousers = look.colours[3], look.colours[2]
        assert np.argmax(shirt) == np.argmax(trousers) == 0  # red
    assert lighter == {True, False}


def test_resume_draws_only_what_is_missing(folder, tmp_path, monkeypatch):
    copy = tmp_path / folder.name
    shutil.copytree(folder, copy)
    before = _contents(copy)
    gone, broken, _ = sorted((copy / "videos").iterdir())
    gone.unlink()
    broken.write_bytes(broken.read_bytes()[:500])
    (copy / "manifest.json").unlink()
    assert not is_complete(copy)
    drawn = []
    real = make_video
    monkeypatch.setattr("bsp.datasets.pantomime.render.make_video", lambda *args: (drawn.append(args[2]), real(*args)))
    assert render_grounding(TINY, tmp_path, workers=1, progress=False) == copy
    assert sorted(drawn) == [str(gone), str(broken)]
    assert _contents(copy) == before
    render_grounding(TINY, tmp_path, workers=1, progress=False)
    assert len(drawn) == 2


def test_errors_name_the_folder_and_the_remedy(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match=r"cannot write to .*file.*choose a folder"):
        render_grounding(TINY, tmp_path / "file", workers=1, progress=False)
    with pytest.raises(ValueError, match="workers must be >= 1"):
        render_grounding(TINY, tmp_path, workers=0)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 9, 1))
    with pytest.raises(OSError, match=r"disk is full.*Pantomime grounding needs about [\d,]+ bytes in"):
        render_grounding(TINY, tmp_path, workers=1, progress=False)


def test_fingerprint_follows_every_setting(monkeypatch):
    changes = {
        "seed": 6, "size_px": 34, "fps": 24, "actions": ("wave", "bow"), "actors": ("giant", "child"), "train": 3,
        "test": 3, "seconds": 24.0, "moments": (4, 4), "moment_seconds": (1.5, 3.0), "sentences": (3, 3),
        "tempo": (1.0, 1.2), "adjoining_share": 0.5, "boundary_cut_share": 0.4, "other_cuts_per_minute": 4.0,
        "noise": 0.5, "light": 0.5, "levers": Levers(),
    }  # fmt: skip
    assert set(changes) == set(TINY.__dataclass_fields__)
    prints = {replace(TINY, **{name: value}).fingerprint() for name, value in changes.items()}
    assert len(prints | {TINY.fingerprint()}) == len(changes) + 1
    before = TINY.fingerprint()
    monkeypatch.setattr("bsp.datasets.pantomime.grounding_plan.CODE_VERSION", -1)
    assert TINY.fingerprint() != before


@pytest.mark.parametrize("moments", [(4, 4), (7, 7)])
def test_two_actions_and_two_actors_are_enough(moments):
    settings = replace(TINY, actions=("wave", "bow"), actors=("giant", "child"), moments=moments, seconds=24.0)
    for number in range(10):
        plan = plan_video(settings, "train", number)
        assert len(plan.moments) == moments[0]
        assert len(plan.sentences) >= 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": -1}, "seed must be >= 0, not -1"),
        ({"size_px": 33}, "size_px.*33"),
        ({"fps": 100}, "fps.*100"),
        ({"actions": ("wave",)}, "actions must be at least two"),
        ({"actors": ("giant", "dragon")}, "actors.*dragon"),
        ({"test": -2}, "test.*-2"),
        ({"moments": (3, 5)}, "moments.*4 <= low.*3"),
        ({"sentences": (3, 6)}, "sentences.*6"),
        ({"seconds": 15.5}, "multiple of 8 frames.*186"),
        ({"seconds": 10.0}, r"at least 12 for 5 moments of 1.5 s.*not 10"),  # 5 * 18 + 6 * 9 frames = 144
        ({"tempo": (1.5, 1.0)}, "tempo.*1.5"),
        ({"adjoining_share": 1.5}, "adjoining_share must be in 0..1, not 1.5"),
        ({"noise": -1.0}, "noise.*-1"),
    ],
)
def test_settings_that_cannot_work_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        replace(TINY, **change)


def test_command_line_renders_and_previews(tmp_path):
    arguments = ["--train", "1", "--test", "1", "--size-px", "32", "--workers", "1", "--preview", "--out"]
    result = CliRunner().invoke(main, [*arguments, str(tmp_path)])
    assert result.exit_code == 0, result.output
    (picture,) = tmp_path.glob("*/preview.png")
    assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    bad = CliRunner().invoke(main, ["--out", str(tmp_path), "--seconds", "25"])
    assert bad.exit_code == 1
    assert "multiple of 8 frames" in bad.output
