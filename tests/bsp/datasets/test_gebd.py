"""Kinetics-GEBD (processed and raw) and TAPOS files: what is read, what is left out, how videos are found."""

from __future__ import annotations

import gzip
import json
import pickle

import pytest

from bsp.datasets.gebd import load_gebd, load_gebd_folder
from bsp.datasets.gebd_records import boundaries_of, frame_of
from bsp.errors import AnnotationError, TooManyBroken


def processed(duration=10.0, fps=15.0, times=((1.0, 5.5), (5.4,), ()), consistency=(0.5, 0.75, 0.25), **more):
    frames = round(duration * fps)
    return {
        "num_frames": frames,
        "fps": fps,
        "video_duration": duration,
        "f1_consis": list(consistency),
        "f1_consis_avg": sum(consistency) / len(consistency),
        "substages_timestamps": [list(row) for row in times],
        "substages_myframeidx": [[float(int(t * fps)) for t in row] for row in times],
    } | more


def event(start, end=None):
    return {"start_time": start, "end_time": end or start, "label": "EventChange (Timestamp/Range): Change of Action"}


def cut(time):
    return {"start_time": time, "end_time": time, "label": "ShotChangeImmediateTimestamp: Change due to Cut"}


def fade(start, end):
    return {"start_time": start, "end_time": end, "label": "ShotChangeGradualRange: Change due to Pan/Zoom/Fade"}


def saved(path, document):
    if path.suffix == ".pkl":
        path.write_bytes(pickle.dumps(document, 2))
    else:
        text = json.dumps(document).encode()
        path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return path


@pytest.mark.parametrize("name", ["k400_mr345_val.pkl", "val.json", "val.json.gz"])
def test_a_processed_file_in_any_form(tmp_path, name):
    document = {
        "aaaaaaaaaaa": processed(path_video="juggling/aaaaaaaaaaa_000004_000014.mp4"),
        "bbbbbbbbbbb": processed(duration=6.0, fps=30.0, times=((2.0,),), consistency=(1.0,)),
    }
    data = load_gebd(saved(tmp_path / name, document), subset="validation")
    first, second = data.videos
    assert (first.video_id, first.path, first.subset) == ("aaaaaaaaaaa", None, "validation")
    assert (first.duration_s, first.fps, first.frames) == (10.0, 15.0, 150)
    assert first.boundaries_s == ((1.0, 5.5), (5.4,), ())
    assert first.boundary_frames == ((15.0, 82.0), (81.0,), ())
    assert first.consistency == (0.5, 0.75, 0.25)
    assert first.consistency_avg == 0.5
    assert first.most_consistent_s == (5.4,)
    assert first.path_video == "juggling/aaaaaaaaaaa_000004_000014.mp4"
    assert second.path_video is None
    assert (data.missing, data.dropped) == ((), ())
    document["aaaaaaaaaaa"]["path_frame"] = "juggling/aaaaaaaaaaa_000004_000014"
    assert data.ground_truth("validation") == document
    assert data.ground_truth("training") == {}


# -- the rules for raw annotations, by hand --


@pytest.mark.parametrize(
    ("changes", "boundaries"),
    [
        ([event(2.0), event(4.0, 5.0)], [2.0, 4.5]),  # a range becomes its middle
        ([event(5.0), event(2.0)], [2.0, 5.0]),  # sorted
        ([event(0.25), event(0.375), event(9.625), event(9.75)], [0.375, 9.625]),  # 0.3 s at both ends
        ([event(0.0, 0.75)], [0.375]),  # where a range begins does not matter
        ([event(2.0), event(2.5), event(2.75)], [2.0, 2.75]),  # the later of two; the third is apart from the first
        ([cut(2.0), cut(2.5)], [2.0]),
        ([event(2.0), cut(2.5), event(3.0), event(3.75)], [2.5, 3.75]),  # an event next to a cut; cuts stay
        ([fade(3.0, 4.0), fade(6.0, 7.0), fade(3.5, 5.0)], [4.0, 6.5]),  # overlapping fades are one, also unsorted
        ([fade(3.0, 6.0), fade(4.0, 5.0)], [4.5]),  # one within the other
        ([fade(3.0, 4.0), cut(4.25), event(2.75), event(4.5)], [3.5, 4.5]),  # within 0.3 s of a fade
        ([], []),
    ],
)
def test_raw_changes_become_boundaries(changes, boundaries):
    assert boundaries_of(changes, 10.0) == boundaries


def test_an_unknown_label_is_named():
    with pytest.raises(AnnotationError, match=r"clip: the label 'Something: else'.*EventChange"):
        boundaries_of([{"start_time": 1, "end_time": 1, "label": "Something: else"}], 10.0, "clip")


def test_frames_of_boundaries_stay_in_the_clip():
    assert frame_of(0.95043, 15.0, 150) == 14.0  # of the published sample
    assert frame_of(10.0, 15.0, 150) == 149.0


def raw(annotators, **more):
    return {
        "num_frames": 300, "fps": 30.0, "video_duration": 10.0, "path_video": "c/v_000000_000010.mp4",
        "f1_consis": [0.5] * len(annotators), "f1_consis_avg": 0.5, "substages_timestamps": annotators,
    } | more  # fmt: skip


def test_a_raw_file_is_processed_and_what_is_left_out_is_named(tmp_path, caplog):
    lacking = raw([[], [], [event(1.0)]])
    del lacking["fps"]
    document = {
        "good": raw([[event(5.0), event(2.0)], [cut(3.0)], []], f1_consis=[0.25, 0.5, 0.75, 0.9]),
        "two annotators": raw([[event(5.0)], []]),
        "no rate": lacking,
    }
    data = load_gebd(saved(tmp_path / "k400_train_raw_annotation.pkl", document), subset="training")
    assert [video.video_id for video in data.videos] == ["good"]
    assert data.videos[0].boundaries_s == ((2.0, 5.0), (3.0,), ())
    assert data.videos[0].boundary_frames == ((60.0, 150.0), (90.0,), ())
    assert data.videos[0].consistency == (0.25, 0.5, 0.75)
    assert data.dropped == (
        "k400_train_raw_annotation.pkl: two annotators: 2 annotators, fewer than 3",
        "k400_train_raw_annotation.pkl: no rate: no fps",
    )
    assert "2 of 3 raw clips" in caplog.text
    assert "no rate" in caplog.text


def test_tapos_instances_are_clips_with_their_inner_borders(tmp_path):
    document = {
        "--Flmdm0G-8": {
            "s00009_2_406_8_420": {"subset": "val", "total_frames": 180, "substages": [0, 126, 129, 180], "action": 3},
            "s00001_0_000_2_500": {"subset": "val", "total_frames": 50, "substages": [0, 50], "action": 3},
            "s00010_0_000_4_000": {"subset": "train", "total_frames": 100, "substages": [0, 25, 100], "action": 3},
        }
    }
    path = saved(tmp_path / "tapos_annotation.json", document)
    first, second = load_gebd(path, subset="validation").videos
    assert first.video_id == "--Flmdm0G-8_s00009_2_406_8_420"
    assert first.boundary_frames == ((126.0, 129.0),)
    assert first.boundaries_s[0] == pytest.approx((4.2098, 4.310033333))  # as in the published list of instances
    assert (first.frames, first.consistency) == (180, (1.0,))
    assert first.duration_s == pytest.approx(6.014)
    assert second.boundaries_s == ((),)
    (train,) = load_gebd(path, subset="training").videos
    assert (train.fps, train.boundaries_s, train.subset) == (25.0, ((1.0,),), "training")


# -- videos --


def test_videos_are_found_by_annotated_name_in_class_folders_or_by_id(tmp_path, caplog):
    ids = ["aaaaaaaaaaa", "bbbbbbbbbbb", "ccccccccccc", "ddddddddddd", "eeeeeeeeeee"]
    document = {clip: processed(path_video=f"juggling/{clip}_000004_000014.mp4") for clip in ids}
    document["eeeeeeeeeee"]["path_video"] = "whole_video.mp4"  # as TAPOS lists have it: of this the clip is a part
    videos = tmp_path / "videos"
    (videos / "juggling").mkdir(parents=True)
    for name in (
        "juggling/aaaaaaaaaaa_000004_000014.mkv", "bbbbbbbbbbb_000004_000014.mp4", "ccccccccccc.mp4", "whole_video.mp4"
    ):  # fmt: skip
        (videos / name).touch()
    path = saved(tmp_path / "val.json", document)
    data = load_gebd(path, videos, subset="validation")
    found = {video.video_id: video.path and video.path.removeprefix(f"{videos}/") for video in data.videos}
    assert found == {
        "aaaaaaaaaaa": "juggling/aaaaaaaaaaa_000004_000014.mkv",
        "bbbbbbbbbbb": "bbbbbbbbbbb_000004_000014.mp4",
        "ccccccccccc": "ccccccccccc.mp4",
        "ddddddddddd": None,
        "eeeeeeeeeee": None,
    }
    assert data.missing == ("ddddddddddd", "eeeeeeeeeee")
    assert "2 of 5 clips" in caplog.text
    assert "ddddddddddd_000004_000014.mp4" in caplog.text
    with pytest.raises(TooManyBroken, match=r"2 of 5 clips.*no file"):
        load_gebd(path, videos, subset="validation", max_missing_share=0.3)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load_gebd(path, tmp_path / "nowhere", subset="validation")


def kinetics_folder(tmp_path, **files):
    (tmp_path / "videos").mkdir()
    for name, document in files.items():
        for clip in document:
            (tmp_path / "videos" / f"{clip}.mp4").touch()
        saved(tmp_path / name.replace("__", "."), document)
    return tmp_path


def test_a_folder_has_both_subsets_and_processed_files_win_over_raw_ones(tmp_path):
    folder = kinetics_folder(
        tmp_path,
        k400_mr345_train_min__json={"t": processed()},
        k400_train_raw_annotation__pkl={"r": raw([[], [], []])},
        k400_val_raw_annotation__pkl={"v": raw([[event(1.0)], [], []])},
    )
    data = load_gebd_folder(folder)
    assert [(v.video_id, v.subset, v.path is not None) for v in data.videos] == [
        ("t", "training", True),
        ("v", "validation", True),
    ]
    assert list(data.ground_truth("validation")) == ["v"]


def test_a_folder_that_is_not_clear_is_refused(tmp_path):
    folder = kinetics_folder(tmp_path, k400_mr345_train__json={"t": processed()})
    with pytest.raises(AnnotationError, match=r"one file k400_\*val\*.*found none"):
        load_gebd_folder(folder)
    saved(folder / "k400_mr345_val.json", {"t": processed()})
    with pytest.raises(AnnotationError, match=r"clips in both subsets: t \(1\)"):
        load_gebd_folder(folder)
    saved(folder / "k400_mr345_valnew.json", {"t": processed()})
    with pytest.raises(AnnotationError, match=r"found k400_mr345_val\.json, k400_mr345_valnew\.json"):
        load_gebd_folder(folder)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load_gebd_folder(tmp_path / "nowhere")


# -- wrong files --


@pytest.mark.parametrize(
    ("document", "problem"),
    [
        ([1, 2], r"expected an object of clips"),
        ({}, r"expected an object of clips"),
        ({"a": {"fps": 1}}, r"a\.num_frames: is missing"),
        ({"a": processed(fps=0.0)}, r"a\.num_frames|a\.fps"),
        ({"a": processed(video_duration=-1)}, r"a\.video_duration.*-1"),
        ({"a": processed(substages_timestamps=[["x"], [], []])}, r"a\.substages_timestamps\[0\]\[0\].*'x'"),
        ({"a": processed(substages_timestamps=[])}, r"a\.substages_timestamps"),
        ({"a": processed(f1_consis=[1.0])}, r"a\.f1_consis: 1 entries for 3 annotators"),
        ({"a": processed(substages_myframeidx=[[1], [], []])}, r"a\.substages_myframeidx: 1 frames for 2 boundaries"),
        ({"a": raw([[event(1)], [], []], f1_consis=[1.0])}, r"a\.f1_consis: 1 entries for 3 annotators"),
        ({"a": raw([[{"start_time": 1}], [], []])}, r"a\.substages_timestamps\[0\]\[0\]\.end_time: is missing"),
        ({"a": raw([[event(1)], []])}, r"no clip can be used \(1 are left out\)"),
        ({"v": {"shot": {"subset": "val", "total_frames": 9, "substages": [0, 9]}}}, r"v\.shot: the shot's name"),
        ({"v": {"s1_0_0_1_0": {"subset": "test", "total_frames": 9, "substages": [0, 9]}}}, r"subset 'val'"),
    ],
)  # fmt: skip
def test_wrong_files_are_refused_with_place_and_value(tmp_path, document, problem):
    with pytest.raises(AnnotationError, match=rf"val\.json: .*({problem})"):
        load_gebd(saved(tmp_path / "val.json", document), subset="validation")


def test_an_unknown_subset_is_refused(tmp_path):
    with pytest.raises(ValueError, match="training, validation, not 'val'"):
        load_gebd(tmp_path / "val.json", subset="val")
