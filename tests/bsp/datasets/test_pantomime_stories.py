"""Pantomime's stories: files in four published layouts, plans that meet their settings, same bytes anywhere."""

from __future__ import annotations

import csv
import json
import math
from collections import Counter
from dataclasses import replace
from itertools import pairwise

import av
import numpy as np
import pytest
from click.testing import CliRunner

from bsp.datasets.activitynet import load_hacs
from bsp.datasets.crosstask import load_crosstask
from bsp.datasets.gebd import load_gebd_folder
from bsp.datasets.pantomime.moves import ACTION_NAMES, CHANNELS
from bsp.datasets.pantomime.stories import StorySettings, main, plan_all, render_stories
from bsp.datasets.pantomime.stories_files import step_rows
from bsp.datasets.pantomime.stories_plan import TASKS, Act, StoryPlan, plan_pose, plan_video
from bsp.datasets.thumos14 import load_thumos14

pytestmark = pytest.mark.long  # videos, processes or whole trainings

TINY = StorySettings(
    seed=5, size_px=32, games_train=5, games_test=2, tasks=1, clips_train=2, clips_val=1, game_seconds=(8.0, 10.0),
    task_seconds=(15.0, 17.0), clip_seconds=(8.0, 9.0), instances=(1, 2), act_seconds=(1.0, 3.0),
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return render_stories(TINY, tmp_path_factory.mktemp("stories"), workers=1, progress=False)


@pytest.fixture(scope="module")
def truth(folder):
    return json.loads((folder / "truth.json").read_text())["videos"]


@pytest.fixture(scope="module")
def plans():
    return plan_all(StorySettings())


def _table(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def _acts(truth, split, *, faint=False):
    """(video id, action, first, end) of all acts of a split."""
    return [
        (video_id, act["action"], act["first"], act["end"])
        for video_id, video in truth.items()
        if video["split"] == split
        for act in video["acts"]
        if faint is None or act["faint"] == faint
    ]


def test_two_workers_write_the_same_bytes(tmp_path):
    few = replace(TINY, games_train=1, games_test=0, clips_train=1)
    one, two = (render_stories(few, tmp_path / str(k), workers=k, progress=False) for k in (1, 2))
    contents = [
        {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}
        for root in (one, two)
    ]
    assert one.name == two.name == few.fingerprint()
    assert sum(name.endswith(".mp4") for name in contents[0]) == 7
    assert contents[0] == contents[1]


def test_videos_are_h264_with_the_promised_frames_and_the_manifest_names_all(folder, truth):
    manifest = json.loads((folder / "manifest.json").read_text())
    on_disk = {str(path.relative_to(folder)): path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    del on_disk["manifest.json"]
    assert manifest["files"] == on_disk
    assert manifest["videos"] == {"games_train": 5, "games_test": 2, "tasks": 4, "clips_train": 2, "clips_val": 1}
    assert manifest["frames"] == sum(video["frames"] for video in truth.values())
    paths = {path.stem: path for path in folder.glob("*/videos/*.mp4")}
    assert len(paths) == len(truth) == 14
    for video_id, video in truth.items():
        (path,) = [path for stem, path in paths.items() if stem.startswith(video_id)]
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            assert (stream.codec_context.name, stream.average_rate, stream.width) == ("h264", 12, 32)
            assert sum(1 for _ in container.decode(video=0)) == video["frames"]


@pytest.mark.parametrize(("name", "split"), [("val", "games_train"), ("test", "games_test")])
def test_thumos_instances_are_the_acts_in_tenths_of_seconds(folder, truth, name, split):
    rows = _table(folder / f"games/thumos14/{name}_Annotation.csv")
    assert list(rows[0]) == ["video", "type", "type_idx", "start", "end", "startFrame", "endFrame"]
    expected = _acts(truth, split, faint=None)
    faint = {act[0:1] + act[2:] for act in _acts(truth, split, faint=True)}
    assert len(rows) == len(expected)
    for row, (video_id, action, first, end) in zip(rows, expected):
        assert (row["video"], int(row["startFrame"]), int(row["endFrame"])) == (video_id, first, end)
        assert float(row["start"]) == pytest.approx(first / 12, abs=0.0501)
        assert float(row["end"]) == pytest.approx(end / 12, abs=0.0501)
        if (video_id, first, end) in faint:
            assert (row["type"], row["type_idx"]) == ("Ambiguous", "0")
        else:
            assert (row["type"], row["type_idx"]) == (action, str(1 + sorted(ACTION_NAMES).index(action)))


def test_the_thumos_files_of_the_test_set_agree(folder, truth):
    rows = _table(folder / "games/thumos14/test_groundtruth.csv")
    head = "video-name t-init t-end f-init f-end video-duration frame-rate video-frames label-idx"
    assert list(rows[0]) == head.split()
    found = {(r["video-name"], int(r["label-idx"]), int(r["f-init"]), int(r["f-end"])) for r in rows}
    wanted = {(v, ACTION_NAMES.index(a), first, end) for v, a, first, end in _acts(truth, "games_test")}
    wanted |= {(v, -1, first, end) for v, _, first, end in _acts(truth, "games_test", faint=True)}
    assert found == wanted
    for row in rows:
        assert int(row["video-frames"]) == truth[row["video-name"]]["frames"]
        assert float(row["video-duration"]) * 12 == pytest.approx(truth[row["video-name"]]["frames"], abs=1e-4)
    database = json.loads((folder / "games/thumos14/thumos_gt.json").read_text())["database"]
    assert Counter(video["subset"] for video in database.values()) == {"train": 5, "test": 2}
    for video_id, video in database.items():
        acts = [act for split in ("games_train", "games_test") for act in _acts(truth, split) if act[0] == video_id]
        assert [note["label"] for note in video["annotations"]] == [action for _, action, _, _ in acts]
        for note, (_, _, first, end) in zip(video["annotations"], acts):
            assert all(isinstance(time, str) for time in note["segment"])
            assert [float(time) for time in note["segment"]] == pytest.approx([first / 12, end / 12], abs=0.0501)


def test_hacs_holds_the_same_games_with_durations_as_text(folder, truth):
    document = json.loads((folder / "games/hacs.json").read_text())
    assert list(document) == ["database"]
    subsets = {"training": "games_train", "validation": "games_test"}
    for video_id, video in document["database"].items():
        assert set(video) == {"annotations", "subset", "duration", "url"}
        assert truth[video_id]["split"] == subsets[video["subset"]]
        assert isinstance(video["duration"], str)
        assert float(video["duration"]) * 12 == pytest.approx(truth[video_id]["frames"], abs=1e-4)
        acts = [act for act in truth[video_id]["acts"] if not act["faint"]]
        times = [time for note in video["annotations"] for time in note["segment"]]
        assert times == pytest.approx([act[end] / 12 for act in acts for end in ("first", "end")], abs=0.00501)


def test_a_release_folder_like_that_of_crosstask(folder, truth):
    release = folder / "tasks/crosstask_release"
    blocks = (release / "tasks_primary.txt").read_text().split("\n\n")
    assert len(blocks) == 5
    assert blocks[-1] == ""
    steps = {}
    for block in blocks[:-1]:
        number, _title, _url, count, names = block.split("\n")
        steps[int(number)] = names.split(",")
        assert 3 <= int(count) == len(steps[int(number)]) <= 5
    listed = [line.split(",") for line in (release / "videos.csv").read_text().splitlines()]
    primary = {video_id: int(task) for task, video_id, _ in listed if int(task) in steps}
    assert primary == {video_id: video["task"] for video_id, video in truth.items() if video["split"] == "tasks"}
    assert len(listed) == len(primary) + 1  # and one of a related task
    assert len((release / "tasks_related.txt").read_text().split("\n")) == 7
    validation = (release / "videos_val.csv").read_text().splitlines()
    assert {line.split(",")[1] for line in validation} == set(primary)  # the first of every six of each task
    files = {path.name for path in (release / "annotations").iterdir()}
    assert files == {f"{task}_{video_id}.csv" for video_id, task in primary.items()}
    for video_id, task in primary.items():
        rows = [line.split(",") for line in (release / f"annotations/{task}_{video_id}.csv").read_text().splitlines()]
        assert len(rows) == len(truth[video_id]["acts"])
        for number, start_s, end_s in rows:
            assert 1 <= int(number) <= len(steps[task])
            assert 0 <= float(start_s) < float(end_s)


def test_clips_have_records_like_the_processed_ground_truth_of_kinetics_gebd(folder, truth):
    for name, count in (("train", 2), ("val", 1)):
        records = json.loads((folder / f"clips/k400_mr345_{name}_min_change_duration0.3.json").read_text())
        assert len(records) == count
        for video_id, record in records.items():
            frames = truth[video_id]["frames"]
            assert (record["num_frames"], record["fps"]) == (frames, 12.0)
            assert record["video_duration"] * 12 == pytest.approx(frames)
            folder_name, file_name = record["path_video"].split("/")
            start_s, end_s = (int(part) for part in file_name.removesuffix(".mp4").rsplit("_", 2)[1:])
            assert end_s - start_s == math.ceil(frames / 12)
            assert (folder / "clips/videos" / file_name).is_file()
            assert record["path_frame"] == f"{folder_name}/{file_name[:-4]}"
            assert len(record["substages_timestamps"]) == len(record["f1_consis"]) == 5
            assert record["f1_consis_avg"] == pytest.approx(sum(record["f1_consis"]) / 5)
            for times, indices in zip(record["substages_timestamps"], record["substages_myframeidx"]):
                assert indices == [float(min(frames - 1, math.floor(time * 12))) for time in times]


def test_the_loaders_of_the_four_data_sets_find_every_video(folder, truth):
    thumos = load_thumos14(folder / "games/thumos14", folder / "games/videos")
    hacs = load_hacs(folder / "games/hacs.json", folder / "games/videos")
    tasks = load_crosstask(folder / "tasks/crosstask_release", folder / "tasks/videos")
    clips = load_gebd_folder(folder / "clips")
    for data, subsets in (
        (thumos, {"validation": 5, "test": 2}),
        (hacs, {"training": 5, "validation": 2}),
        (clips, {"training": 2, "validation": 1}),
    ):
        assert Counter(video.subset for video in data.videos) == subsets
        assert data.missing == ()
    assert tasks.missing == ()
    assert {video.video_id: int(video.task_id) for video in tasks.videos} == {
        video_id: video["task"] for video_id, video in truth.items() if video["split"] == "tasks"
    }
    assert thumos.class_names == hacs.class_names == ACTION_NAMES[:5]


def test_videos_do_not_depend_on_the_counts_but_on_the_seed():
    fewer = {plan.video_id: plan for plan in plan_all(TINY)}
    more = {plan.video_id: plan for plan in plan_all(replace(TINY, games_train=9, tasks=3, clips_val=4))}
    assert len(more) == 14 + 4 + 8 + 3
    assert all(more[video_id] == plan for video_id, plan in fewer.items())
    other = {plan.video_id: plan for plan in plan_all(replace(TINY, seed=6))}
    assert all(other[video_id].acts != plan.acts for video_id, plan in fewer.items() if video_id in other)
    assert not {plan.video_id for plan in fewer.values() if "_" not in plan.video_id[:6]} & set(other)


def test_games_repeat_one_action_with_pauses(plans):
    games = [plan for plan in plans if plan.split.startswith("games")]
    assert {len([act for act in plan.acts if not act.faint]) for plan in games} == set(range(3, 9))
    assert {act.action for plan in games for act in plan.acts} == set(ACTION_NAMES)
    assert min(plan.frames for plan in games) < 31 * 12 < 59 * 12 < max(plan.frames for plan in games) <= 60 * 12
    for plan in games:
        assert len({act.action for act in plan.acts}) == 1
        edges = [0, *(frame for act in plan.acts for frame in (act.first, act.end)), plan.frames]
        assert all(after - before >= 12 for before, after in zip(edges[::2], edges[1::2]))  # 1 s of idle motion
        for act in plan.acts:
            assert (12 <= act.end - act.first <= 24) if act.faint else (24 <= act.end - act.first <= 72)
    faint = sum(act.faint for plan in games for act in plan.acts)
    assert faint == sum(any(act.faint for act in plan.acts) for plan in games)
    assert 0.15 < faint / len(games) < 0.4


def test_tasks_go_through_their_steps_in_order_with_some_left_out_and_some_repeated(plans):
    videos = [plan for plan in plans if plan.split == "tasks"]
    assert Counter(plan.task for plan in videos) == dict.fromkeys(range(4), 30)
    skipped = repeated = adjoining = 0
    for plan in videos:
        order = [action for action, _ in TASKS[plan.task].steps]
        done = [order.index(act.action) for act in plan.acts]
        firsts = [done.index(step) for step in sorted(set(done))]
        assert firsts == sorted(firsts)  # the first time, each after the one before it
        assert len(set(done)) >= 2
        skipped += len(set(done)) < len(order)
        repeated += len(set(done)) < len(done)
        for one, two in zip(plan.acts, plan.acts[1:]):
            assert two.first == one.end or two.first - one.end >= 12
            assert two.first > one.end or two.action != one.action
            adjoining += two.first == one.end
    assert 0.3 < skipped / len(videos) < 0.7
    assert 0.4 < repeated / len(videos) < 0.8
    assert 0.15 < adjoining / sum(len(plan.acts) - 1 for plan in videos) < 0.4


def test_rows_of_steps_overlap_and_lose_their_order_now_and_then_but_cover_the_same_time(plans):
    settings = StorySettings()
    overlapping = unsorted = 0
    for plan in plans:
        if plan.split != "tasks":
            continue
        rows = step_rows(settings, plan)
        by_start = sorted(rows, key=lambda row: row[1:])
        unsorted += rows != by_start
        overlapping += any(two[1] < one[2] for one, two in pairwise(by_start))
        covered = np.zeros(plan.frames + 24, bool)
        for _, start_s, end_s in rows:
            covered[round(start_s * 12) : round(end_s * 12)] = True
        expected = np.zeros_like(covered)
        for act in plan.acts:
            expected[act.first : act.end] = True
        assert np.array_equal(covered, expected)
    assert 0.2 < overlapping / 120 < 0.5
    assert 2 <= unsorted <= 25


def test_clips_are_two_to_four_events_that_differ(plans):
    clips = [plan for plan in plans if plan.split.startswith("clips")]
    assert len(clips) == 300
    kinds = Counter()
    for plan in clips:
        inner = [frame for frame in plan.boundaries if 0 < frame < plan.frames]
        assert 1 <= len(inner) <= 3
        assert np.diff([0, *inner, plan.frames]).min() >= 24  # 2 s
        for one, two in zip(plan.acts, plan.acts[1:]):
            if one.end == two.first:
                same = one.action == two.action
                assert not same or max(one.tempo, two.tempo) >= 1.9 * min(one.tempo, two.tempo)
                kinds["speed" if same else "action"] += 1
        idle = plan.frames - sum(act.end - act.first for act in plan.acts)
        kinds["idle"] += idle > 0
        close = np.diff(sorted({0, plan.frames, *inner, *plan.cuts}))
        assert close.min() >= 9  # 0.75 s
    assert min(kinds[name] for name in ("speed", "action", "idle")) > 60


def _plan(*acts):
    return StoryPlan(
        split="clips_train", number=0, video_id="x", frames=144, task=-1, start_s=0, acts=acts, shots=((0, 144, 0),)
    )


def test_a_change_of_speed_goes_on_from_the_same_pose():
    knee_hip = [CHANNELS.index("hip_r"), CHANNELS.index("knee_r")]
    plan = _plan(Act(action="kick", first=0, end=72, tempo=0.5), Act(action="kick", first=72, end=144, tempo=1.5))
    pace_T = np.abs(np.diff(plan_pose(StorySettings(), plan)[:, knee_hip], axis=0)).mean(axis=1)
    assert pace_T[72:].mean() / pace_T[:71].mean() == pytest.approx(3, rel=0.15)
    assert pace_T[69:74].max() <= pace_T[75:].max()  # no jump


def test_a_faint_act_is_half_way_between_the_action_and_standing_idle():
    settings = StorySettings()
    act = Act(action="squat", first=50, end=90, tempo=1.0)
    full_TP, faint_TP, still_TP = (
        plan_pose(settings, _plan(*acts)) for acts in ((act,), (replace(act, faint=True),), ())
    )
    assert np.allclose(faint_TP[55:85], (full_TP[55:85] + still_TP[55:85]) / 2, atol=1e-5)
    assert np.abs(full_TP[55:85] - still_TP[55:85]).max() > 1
    assert np.array_equal(faint_TP[:45], still_TP[:45])


def test_truth_holds_together(truth):
    for video in truth.values():
        edges = {frame for act in video["acts"] for frame in (act["first"], act["end"])} - {0, video["frames"]}
        assert video["boundaries"] == sorted(edges)
        assert [cut["frame"] for cut in video["cuts"]] == [shot["first"] for shot in video["shots"][1:]]
        assert all((cut["at"] == "boundary") == (cut["frame"] in edges) for cut in video["cuts"])
        assert [shot["end"] for shot in video["shots"]] == [
            *(shot["first"] for shot in video["shots"][1:]), video["frames"],
        ]  # fmt: skip
        if video["split"].startswith("clips"):
            seen = {place["frame"]: place["kind"] for place in video["generic_boundaries"]}
            cuts = {cut["frame"] for cut in video["cuts"]}
            assert set(seen) == edges | cuts
            assert {frame for frame, kind in seen.items() if kind == "cut"} == cuts


def test_no_video_of_a_kind_is_allowed(tmp_path):
    settings = replace(TINY, games_train=0, games_test=0, tasks=0, clips_val=0, clips_train=1)
    folder = render_stories(settings, tmp_path, workers=1, progress=False)
    assert len(list(folder.glob("*/videos/*.mp4"))) == 1
    assert plan_video(settings, "clips_train", 0).video_id in json.loads((folder / "truth.json").read_text())["videos"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"games_test": -1}, "games_test must be >= 0, not -1"),
        ({"clip_seconds": (7.0, 9.0)}, "clip_seconds must be"),
        ({"instances": (0, 2)}, "instances must be"),
        ({"game_seconds": (20.0, 60.0)}, r"game_seconds must begin at 27 or more for 8 acts of 2 s"),
        ({"task_seconds": (20.0, 36.0)}, r"task_seconds must begin at 22 or more for 7 acts of 2 s"),
        ({"boundary_cut_share": 1.5}, "boundary_cut_share must be in 0..1, not 1.5"),
        ({"tempo": (0.1, 1.0)}, "tempo must be"),
        ({"size_px": 33}, "size_px must be even"),
    ],
)
def test_settings_that_cannot_work_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        replace(StorySettings(), **change)


def test_from_a_shell_with_a_preview(tmp_path):
    options = "--size-px 32 --games-train 1 --games-test 0 --tasks 0 --clips-train 1 --clips-val 0 --workers 1"
    result = CliRunner().invoke(main, ["--out", str(tmp_path), "--preview", *options.split()], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    folder, picture = result.output.split()
    assert folder == str(tmp_path / StorySettings(size_px=32, games_train=1, games_test=0, tasks=0, clips_train=1,
                                                  clips_val=0).fingerprint())  # fmt: skip
    with open(picture, "rb") as file:
        assert file.read(8) == b"\x89PNG\r\n\x1a\n"


def test_a_bad_option_is_explained(tmp_path):
    result = CliRunner().invoke(main, ["--out", str(tmp_path), "--tasks", "-2"])
    assert result.exit_code == 1
    assert "Error: tasks must be >= 0, not -2" in result.output
