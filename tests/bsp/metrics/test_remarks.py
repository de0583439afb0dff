"""Remarks on prediction files: each kind of mistake is named with an example, and ordinary results give none."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner

from bsp.files.spelling import name_remark
from bsp.metrics.boundaries import evaluate_boundaries
from bsp.metrics.detection import evaluate_detection
from bsp.metrics.file_remarks import (
    actionness_remarks,
    boundary_remarks,
    detection_remarks,
    grounding_remarks,
)
from bsp.metrics.grounding import evaluate_grounding
from bsp_platform.cli.main import main

FPS = 25.0


def truth_of(rng, videos: int = 40, *, durations: bool = True, longest_s: float = 200) -> dict:
    """Videos of 8 to 200 s (``longest_s``) with one to four instances of three classes."""
    database = {}
    for k in range(videos):
        duration = float(rng.uniform(8, longest_s))
        rows = []
        for _ in range(int(rng.integers(1, 5))):
            start, end = np.sort(rng.uniform(0, duration, 2)).tolist()
            rows.append({"label": ("Long jump", "Diving", "High jump")[k % 3], "segment": [start, end]})
        database[f"video{k:04}"] = {"subset": "validation", "annotations": rows}
        if durations:
            database[f"video{k:04}"]["duration"] = duration
    return {"database": database}


def found_of(truth: dict, rng, noise: float = 0.05) -> dict:
    """Every instance, its times off by ``noise`` of its length, among as many random proposals."""
    results = {}
    for video, record in truth["database"].items():
        rows = []
        for instance in record["annotations"]:
            start, end = instance["segment"]
            length, last = end - start, max(row["segment"][1] for row in record["annotations"])
            moved = (np.array([start, end]) + rng.normal(0, noise * length, 2)).tolist()
            rows.append({"label": instance["label"], "score": float(rng.uniform(0.5, 1)), "segment": moved})
            wrong = np.sort(rng.uniform(0, last, 2)).tolist()
            rows.append({"label": instance["label"], "score": float(rng.uniform(0, 0.5)), "segment": wrong})
        results[video] = rows
    return {"results": results}


def remarks_of(truth: dict, found: dict) -> list[str]:
    is_zero = evaluate_detection(truth, found)["average_mAP"] == 0
    return detection_remarks(truth, found, subset="validation", is_zero=is_zero)


def changed(found: dict, change, *, duration=None) -> dict:
    """The same predictions with other times: ``change(start, end, duration)``."""
    lengths = {video: record.get("duration", 0) for video, record in (duration or {}).items()}
    return {
        "results": {
            video: [row | {"segment": change(*row["segment"], lengths.get(video))} for row in rows]
            for video, rows in found["results"].items()
        }
    }


@pytest.mark.parametrize("durations", [True, False])
def test_ordinary_detections_give_no_remark(durations):
    """Good, poor, random, tiny, whole-video and far too late ones; of a part of the videos; also of others."""
    rng = np.random.default_rng(0)
    truth = truth_of(rng, durations=durations)
    good = found_of(truth, rng)
    last = {v: max(r["segment"][1] for r in rec["annotations"]) for v, rec in truth["database"].items()}
    some = {"results": {video: rows for n, (video, rows) in enumerate(good["results"].items()) if n % 2}}
    more = {"results": good["results"] | {"of_another_subset": [{"label": "Dance", "score": 1, "segment": [1, 9]}]}}
    whole = {
        "results": {v: [{"label": row["label"], "score": 1, "segment": [0, last[v]]} for row in rows]
                    for v, rows in good["results"].items()}
    }  # fmt: skip
    for found in (good, found_of(truth, rng, noise=1.0), some, more, whole):
        assert remarks_of(truth, found) == []
    tiny = changed(good, lambda start, end, _: [start, start + 0.01 * (end - start)])
    late = changed(good, lambda start, end, _: [start + 10, end + 10])
    for poor in (tiny, late):  # at the most that nothing matched, never a guess
        assert all(remark.startswith("No prediction matches") for remark in remarks_of(truth, poor))


def test_late_seconds_of_videos_of_unknown_length_are_no_frames():
    """Early, short annotations of long videos: predictions that cover a whole video end far after them."""
    rng = np.random.default_rng(0)
    database, results = {}, {}
    for k in range(20):
        length_s, start = rng.uniform(60, 200), rng.uniform(0, 3)
        database[f"v{k}"] = {
            "subset": "validation",
            "annotations": [{"label": "A", "segment": [start, start + rng.uniform(2, 6)]}],
        }
        found = np.sort(rng.uniform(0, length_s, (20, 2)), 1)
        found[0] = 0, length_s
        if k % 9 == 0:
            found[1] = start, start + 5
        rows = found.tolist()
        results[f"v{k}"] = [{"label": "A", "score": 1 - n / 100, "segment": row} for n, row in enumerate(rows)]
    assert remarks_of({"database": database}, {"results": results}) == []


def test_frames_of_videos_of_unknown_length_that_match_nothing():
    rng = np.random.default_rng(6)
    truth = truth_of(rng, durations=False)
    for record in truth["database"].values():  # far from 0, where frames and seconds may overlap
        record["annotations"] = [{"label": "Diving", "segment": [start, start + 4]} for start in (50, 100)]
    found = changed(found_of(truth, rng, noise=0.02), lambda start, end, _: [FPS * start, FPS * end])
    for rows in found["results"].values():
        rows[:] = rows[::2]  # without the random proposals, some of which match
    assert "frames instead of seconds (about 25 a second)" in remarks_of(truth, found)[0]


SLIPS = {
    "reversed": (lambda s, e, d: [e, s], "end before they start"),
    "milliseconds": (lambda s, e, d: [1000 * s, 1000 * e], "milliseconds instead of seconds"),
    "frames": (lambda s, e, d: [FPS * s, FPS * e], "frames instead of seconds (about"),
    "fractions": (lambda s, e, d: [s / d, e / d], "fractions of the video's length"),
    "percent": (lambda s, e, d: [100 * s / d, 100 * e / d], "percent of the video's length"),
}


@pytest.mark.parametrize("slip", SLIPS)
def test_times_in_another_unit_or_order(slip):
    rng = np.random.default_rng(1)
    truth = truth_of(rng, longest_s=30 if slip == "percent" else 200)  # seconds of 100 s are percent
    change, cause = SLIPS[slip]
    found = changed(found_of(truth, rng, noise=0.02), change, duration=truth["database"])
    (remark,) = remarks_of(truth, found)
    assert cause in remark
    assert "'video0000', which is" in remark


NAMES = [
    ("v_abc", "abc", False, "v_"), ("abc", "v_abc", False, "v_"), ("abc.mp4", "abc", False, "file ending"),
    ("features/abc.npy", "abc", False, "folder or file ending"), ("ABC", "abc", False, "case"),
    ("abc_000010_000020", "abc", False, "times"), ("x/v_ABC.mp4", "abc", False, "several"),
    ("Long_jump", "Long jump", True, "underscores"), ("long jump", "Long jump", True, "case"),
    ("LongJump", "Long jump", True, "blanks"), ("A person opens it", "a person opens it.", True, "punctuation"),
]  # fmt: skip


@pytest.mark.parametrize(("found", "known", "labels", "cause"), NAMES)
def test_names_in_another_spelling(found, known, labels, cause):
    remark = name_remark(["something else", found], ["other", known], labels=labels)
    assert remark.startswith(f"{found!r} is probably {known!r} (")
    assert cause in remark
    assert name_remark(["something else"], ["other", known], labels=labels) == ""


def test_detections_with_other_names():
    rng = np.random.default_rng(2)
    truth = truth_of(rng)
    found = found_of(truth, rng)["results"]
    (remark,) = remarks_of(truth, {"results": {f"v_{video}": rows for video, rows in found.items()}})
    assert remark == """'v_video0000' is probably 'video0000' (one side has "v_" in front)."""
    for label, start in (
        ("long_jump", "'long_jump' is probably"),
        ("7", "'7' is a number"),
        ("Hop", "No predicted cl"),
    ):
        renamed = {video: [row | {"label": label} for row in rows] for video, rows in found.items()}
        (remark,) = remarks_of(truth, {"results": renamed})
        assert remark.startswith(start)
        assert "Long jump" in remark
    truth["database"] |= {
        f"t{k}": record | {"subset": "training"} for k, record in enumerate(truth_of(rng, 3).values())
    }
    other = {"t0": [{"label": "Diving", "score": 1, "segment": [0, 1]}]}
    truth["database"]["t0"] = {"subset": "training", "annotations": []}
    truth["database"] = {k: v for k, v in truth["database"].items() if "annotations" in v}
    (remark,) = remarks_of(truth, {"results": other})
    assert remark == "No predicted video counts: 't0' is in the subset 'training', which has 'video0000'."


def test_a_single_misspelt_class_is_named():
    truth = {"database": {"a": record("a", "arm circles", 1, 5), "b": record("b", "bow", 2, 6)}}
    found = {"results": {"a": [prediction("arm circlez", 1, 5)], "b": [prediction("bow", 2, 6)]}}
    (remark,) = detection_remarks(truth, found, subset="validation", is_zero=False)
    assert remark == "No instance has the predicted class 'arm circlez'; 'arm circles' is probably meant."


def record(video, label, start, end):
    return {"subset": "validation", "duration": 10.0, "annotations": [{"label": label, "segment": [start, end]}]}


def prediction(label, start, end):
    return {"label": label, "score": 0.9, "segment": [start, end]}


def test_nothing_matches_and_nobody_knows_why():
    truth = {"database": {"a": {"subset": "validation", "annotations": [{"label": "x", "segment": [1, 5]}]}}}
    found = {"results": {"a": [{"label": "x", "score": 1, "segment": ["7", "9"]}]}}
    assert remarks_of(truth, found) == [
        "No prediction matches. For example: 'a': predicted 7 to 9, annotated 1 to 5 s."
    ]


def grounding(rng, count: int = 40) -> tuple[list[dict], list[dict]]:
    truth, found = [], []
    for k in range(count):
        duration = float(rng.uniform(8, 60))
        start, end = np.sort(rng.uniform(0, duration, 2)).tolist()
        names = {"video": f"V{k:04}", "sentence": f"person opens door number {k}."}
        truth.append(names | {"start_s": start, "end_s": end, "duration_s": duration})
        found.append(names | {"moments": [[start + 0.1, end - 0.1, 0.9], [0, duration, 0.3]]})
    return truth, found


def test_grounding():
    rng = np.random.default_rng(3)
    truth, found = grounding(rng)

    def remarks(predictions):
        is_zero = evaluate_grounding(truth, predictions, protocol="lgi")["mIoU"] == 0
        return grounding_remarks(truth, predictions, is_zero=is_zero)

    assert remarks(found) == []
    assert remarks(found[:3]) == []
    assert remarks([row | {"moments": [[0, 1.5, 1]]} for row in found]) == []
    for slip in ("reversed", "milliseconds", "frames", "fractions", "percent"):
        change, cause = SLIPS[slip]
        rows = [
            row
            | {"moments": [[*change(start, end, query["duration_s"]), score] for start, end, score in row["moments"]]}
            for row, query in zip(found, truth, strict=True)
        ]
        (remark,) = remarks(rows)
        assert cause in remark
    (remark,) = remarks([row | {"sentence": row["sentence"].rstrip(".")} for row in found])
    assert remark.startswith("'person opens door number 0' is probably 'person opens door number 0.'")
    (remark,) = remarks([row | {"video": "clips/" + row["video"]} for row in found])
    assert remark.startswith("'clips/V0000' is probably 'V0000'")
    (remark,) = remarks([row | {"sentence": "Qwerty"} for row in found])
    assert remark.startswith("No predicted row has a query: predicted 'V0000', 'Qwerty', annotated 'V0000', 'person")


def gebd(rng, count: int = 40) -> tuple[dict, dict]:
    truth, found = {}, {}
    for k in range(count):
        times = np.sort(rng.uniform(0.5, 9.5, rng.integers(1, 6))).tolist()
        truth[f"clip{k:07}"] = {
            "num_frames": 250, "fps": FPS, "video_duration": 10.0, "f1_consis": [0.9], "f1_consis_avg": 0.9,
            "substages_timestamps": [times], "substages_myframeidx": [[FPS * time for time in times]],
        }  # fmt: skip
        found[f"clip{k:07}"] = [*(time + 0.1 for time in times), float(rng.uniform(0, 10))]
    return truth, found


def test_boundaries():
    rng = np.random.default_rng(4)
    truth, seconds = gebd(rng)
    frames = {clip: [FPS * time for time in times] for clip, times in seconds.items()}

    def remarks(predictions, variant):
        is_zero = evaluate_boundaries(truth, predictions, variant=variant)["mean_F1"] == 0
        return boundary_remarks(truth, predictions, variant=variant, is_zero=is_zero)

    def times(change):
        return {clip: [change(time) for time in times] for clip, times in seconds.items()}

    few = {clip: [1.0] for clip in truth}
    for ordinary in (seconds, few, {clip: [] for clip in truth}, times(lambda time: 10 - time)):
        assert remarks(ordinary, "challenge") == []
    assert remarks(frames, "notebook") == []
    assert remarks(frames, "tapos") == []
    for predictions, variant, cause in (
        (frames, "challenge", "frames instead of seconds"),
        (times(lambda time: 1000 * time), "challenge", "milliseconds"),
        (times(lambda time: time / 10), "challenge", "fractions of the video's length"),
        (seconds, "notebook", "seconds instead of frames"),
        (times(lambda time: time / 10), "tapos", "fractions"),
    ):
        (remark,) = remarks(predictions, variant)
        assert cause in remark
        assert "annotated" in remark
    (remark,) = boundary_remarks(truth, {f"{c}_000001_000011": [1.0] for c in truth}, variant="challenge", is_zero=True)
    assert "'clip0000000_000001_000011' is probably 'clip0000000'" in remark


def test_actionness():
    truth = {"videos": {"a": {}, "b": {}}}
    assert actionness_remarks(truth, {"scores": {"a": [], "c": []}}) == []
    assert actionness_remarks(truth, {"scores": {"x/a.npy": []}}) == [
        "'x/a.npy' is probably 'a' (one side has a folder or file ending)."
    ]
    assert actionness_remarks(truth, {"scores": {"c": []}}) == ["No predicted id counts: predicted 'c', annotated 'a'."]


@pytest.mark.parametrize("what", ["detection", "proposals"])
def test_the_command_says_it_on_stderr(tmp_path, what):
    rng = np.random.default_rng(5)
    truth = truth_of(rng)
    found = changed(found_of(truth, rng), lambda start, end, _: [1000 * start, 1000 * end])
    for name, content in (("truth.json", truth), ("found.json", found)):
        (tmp_path / name).write_text(json.dumps(content), "utf-8")
    options = ["--ground-truth", str(tmp_path / "truth.json"), "--predictions", str(tmp_path / "found.json")]
    result = CliRunner().invoke(main, ["evaluate", what, *options])
    assert result.exit_code == 0
    assert "milliseconds instead of seconds: 'video0000'" in result.stderr
    assert "milliseconds" not in result.stdout
