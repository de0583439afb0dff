"""bsp.metrics.detection against hand-worked examples and a slow evaluator written from the text."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bsp.errors import AnnotationError
from bsp.metrics import detection
from bsp.metrics.detection import (
    ACTIVITYNET_TIOUS,
    THUMOS_TIOUS,
    average_precision,
    evaluate_detection,
    segment_tiou,
)


def make_truth(videos, subset="validation"):
    """{video: [(label, start, end), ...]} in the official layout."""
    database = {
        video: {
            "subset": subset,
            "duration": 100.0,
            "annotations": [{"label": label, "segment": [start, end]} for label, start, end in rows],
        }
        for video, rows in videos.items()
    }
    return {"version": "VERSION 1.3", "taxonomy": [], "database": database}


def make_results(videos):
    """{video: [(label, score, start, end), ...]} in the official layout."""
    results = {
        video: [{"label": label, "score": score, "segment": [s, e]} for label, score, s, e in rows]
        for video, rows in videos.items()
    }
    return {"version": "VERSION 1.3", "external_data": {}, "results": results}


def naive_map(truth, results, subset, tious, blocked=()):
    """Average precision per class and threshold, step by step as the fact sheet says it. Plain Python."""
    database = {
        video: record
        for video, record in truth["database"].items()
        if record["subset"] == subset and video not in blocked
    }
    classes = []
    for record in database.values():
        for instance in record["annotations"]:
            if instance["label"] not in classes:
                classes.append(instance["label"])
    table = {}
    for label in classes:
        instances = {
            video: [i["segment"] for i in record["annotations"] if i["label"] == label]
            for video, record in database.items()
        }
        total = sum(len(rows) for rows in instances.values())
        found = [
            (row["score"], place, video, row["segment"])
            for place, (video, row) in enumerate(
                (video, row) for video, rows in results["results"].items() if video not in blocked for row in rows
            )
            if row["label"] == label
        ]
        found.sort(key=lambda item: (item[0], item[1]), reverse=True)
        for tiou in tious:
            taken, hits = set(), []
            for _, _, video, segment in found:
                overlaps = []
                for number, other in enumerate(instances.get(video, [])):
                    shared = max(0.0, min(segment[1], other[1]) - max(segment[0], other[0]))
                    union = (segment[1] - segment[0]) + (other[1] - other[0]) - shared
                    overlaps.append((shared / union if shared else 0.0, number))
                hit = False
                for overlap, number in sorted(overlaps, reverse=True):
                    if overlap < tiou:
                        break
                    if (video, number) not in taken:
                        taken.add((video, number))
                        hit = True
                        break
                hits.append(hit)
            recall, precision, right = [0.0], [0.0], 0
            for count, hit in enumerate(hits, start=1):
                right += hit
                recall.append(right / total)
                precision.append(right / count)
            recall.append(1.0)
            precision.append(0.0)
            for place in range(len(precision) - 2, -1, -1):
                precision[place] = max(precision[place], precision[place + 1])
            area = sum(
                (recall[k] - recall[k - 1]) * precision[k] for k in range(1, len(recall)) if recall[k] != recall[k - 1]
            )
            table[label, tiou] = area
    return classes, table


def assert_equals_naive(truth, results, tious, blocked=()):
    report = evaluate_detection(truth, results, tious=tious, blocked=blocked)
    classes, table = naive_map(truth, results, "validation", tious, blocked)
    assert list(report["per_class_average"]) == classes
    for label in classes:
        expected = sum(table[label, tiou] for tiou in tious) / len(tious)
        assert report["per_class_average"][label] == pytest.approx(expected, abs=1e-12)
    for tiou, value in zip(tious, report["mAP"].values(), strict=True):
        assert value == pytest.approx(sum(table[c, tiou] for c in classes) / len(classes), abs=1e-12)
    return report


# Times on a coarse grid give equal tIoUs, exact thresholds, duplicates, empty and reversed segments.
labels = st.sampled_from("AB")
times = st.integers(0, 8)
video_ids = st.sampled_from(["v1", "v2", "v3"])
truth_rows = st.lists(st.tuples(labels, times, times), max_size=5)
result_rows = st.lists(st.tuples(st.sampled_from("ABC"), st.integers(0, 3), times, times), max_size=10)
truths = st.dictionaries(video_ids, truth_rows, min_size=1).filter(lambda videos: any(videos.values()))
results = st.dictionaries(st.sampled_from(["v1", "v2", "v3", "v4"]), result_rows)


# ---- hand-worked examples


def test_worked_example_with_a_duplicate_instance():
    truth = make_truth({"v1": [("A", 10, 20), ("A", 10, 20), ("A", 40, 60)]})
    found = make_results(
        {
            "v4": [("A", 0.97, 0, 10)],
            "v1": [
                ("A", 0.95, 10, 20),
                ("A", 0.90, 10, 20),
                ("A", 0.85, 10, 20),
                ("A", 0.80, 40, 50),
                ("A", 0.75, 40, 55),
            ],
        }
    )
    report = evaluate_detection(truth, found)
    # 0.50: F T T F T F, highest precision from the right 2/3 2/3 3/5
    # 0.55 to 0.75: F T T F F T, 2/3 2/3 3/6;  0.80 to 0.95: F T T F F F, 2/3 2/3
    at_half, middle, high = (2 / 3 + 2 / 3 + 3 / 5) / 3, (2 / 3 + 2 / 3 + 1 / 2) / 3, (2 / 3 + 2 / 3) / 3
    keys = ["0.50", "0.55", "0.60", "0.65", "0.70", "0.75", "0.80", "0.85", "0.90", "0.95"]
    assert list(report["mAP"]) == keys
    np.testing.assert_allclose(list(report["mAP"].values()), [at_half] + [middle] * 5 + [high] * 4, rtol=1e-14)
    average = (at_half + 5 * middle + 4 * high) / 10
    assert report["average_mAP"] == pytest.approx(average, rel=1e-14)
    assert report["per_class_average"] == {"A": pytest.approx(average, rel=1e-14)}
    assert report["videos"] == {"used": 1, "missing": 0, "blocked": 0, "without_ground_truth": 1}
    assert report["ignored_predictions"] == 0


def test_average_precision_is_area_at_all_points():
    # Hits at ranks 1, 3 and 4 of 5 instances; precision 1, 1/2, 2/3, 3/4, made non-increasing: 1, 3/4, 3/4.
    hits = np.array([[True], [False], [True], [True]])
    assert average_precision(hits, 5) == pytest.approx([(1 + 3 / 4 + 3 / 4) / 5])
    assert average_precision(np.zeros((0, 3), bool), 5).tolist() == [0, 0, 0]


def test_equal_scores_later_prediction_first():
    truth = make_truth({"v1": [("A", 0, 10)]})
    right, wrong = ("A", 0.5, 0, 10), ("A", 0.5, 50, 60)
    assert evaluate_detection(truth, make_results({"v1": [wrong, right]}))["average_mAP"] == 1
    assert evaluate_detection(truth, make_results({"v1": [right, wrong]}))["average_mAP"] == 0.5
    across = make_results({"v9": [wrong], "v1": [right]})  # the order of videos in the file counts too
    assert evaluate_detection(truth, across)["average_mAP"] == 1


def test_equal_tiou_later_instance_first():
    found = make_results({"v1": [("A", 0.9, 5, 15), ("A", 0.8, 10, 20)]})  # tIoU 1/3 with both, then one only
    early, late = ("A", 0, 10), ("A", 10, 20)
    assert evaluate_detection(make_truth({"v1": [early, late]}), found, tious=[0.3])["average_mAP"] == 0.5
    assert evaluate_detection(make_truth({"v1": [late, early]}), found, tious=[0.3])["average_mAP"] == 1


def test_taken_instance_leaves_the_next_best():
    # Both predictions prefer [0, 10]; the second one falls back to [2, 12], which it overlaps by 8 / 12.
    truth = make_truth({"v1": [("A", 0, 10), ("A", 2, 12)]})
    found = make_results({"v1": [("A", 0.9, 0, 10), ("A", 0.8, 0, 10)]})
    report = evaluate_detection(truth, found, tious=[0.6, 0.7])
    assert report["mAP"] == {"0.60": 1, "0.70": 0.5}


def test_class_without_prediction_counts_as_zero():
    truth = make_truth({"v1": [("B", 0, 10), ("A", 20, 30)]})
    report = evaluate_detection(truth, make_results({"v1": [("A", 0.5, 20, 30)]}))
    assert report["per_class_average"] == {"B": 0, "A": 1}
    assert list(report["per_class_average"]) == ["B", "A"]  # in order of first appearance
    assert report["average_mAP"] == 0.5


def test_unknown_labels_are_ignored_and_counted():
    truth = make_truth({"v1": [("A", 0, 10)]})
    report = evaluate_detection(
        truth, make_results({"v1": [("Z", 0.9, 0, 10), ("A", 0.5, 0, 10)], "v2": [("Y", 0.9, 0, 1)]})
    )
    assert report["average_mAP"] == 1
    assert report["ignored_predictions"] == 2


def test_predictions_in_other_videos_stay_as_false_positives():
    truth = make_truth({"v1": [("A", 0, 10)], "empty": []})
    truth["database"]["train"] = make_truth({"t": [("A", 0, 10), ("T", 0, 5)]}, "training")["database"]["t"]
    wrong = [("A", 0.9, 0, 10)]
    right = {"v1": [("A", 0.5, 0, 10)]}
    for other in ("train", "empty", "unknown"):
        report = evaluate_detection(truth, make_results({other: wrong, **right}))
        assert report["average_mAP"] == 0.5, other
        assert report["videos"] == {"used": 2, "missing": 0, "blocked": 0, "without_ground_truth": 1}
        assert list(report["per_class_average"]) == ["A"]


def test_blocked_videos_are_left_out_on_both_sides():
    truth = make_truth({"v1": [("A", 0, 10)], "v2": [("A", 0, 10), ("B", 0, 5)], "v3": [("A", 0, 10)]})
    found = make_results({"v1": [("A", 0.5, 0, 10)], "v2": [("A", 0.9, 50, 60)]})
    assert evaluate_detection(truth, found)["per_class_average"] == {"A": pytest.approx(1 / 6), "B": 0}
    report = evaluate_detection(truth, found, blocked=["v2", "elsewhere"])
    assert report["per_class_average"] == {"A": 0.5}  # class B went with v2; v3 is still missed
    assert report["videos"] == {"used": 2, "missing": 1, "blocked": 1, "without_ground_truth": 0}


def test_empty_and_reversed_instances_stay_in_the_denominator():
    rows = [("A", 0, 10), ("A", 30, 30), ("A", 50, 40)]
    found = make_results({"v1": [("A", 0.9, 0, 10), ("A", 0.8, 30, 30), ("A", 0.7, 50, 40)]})
    report = evaluate_detection(make_truth({"v1": rows}), found)
    assert report["average_mAP"] == pytest.approx(1 / 3)
    assert math.isfinite(report["average_mAP"])  # two empty segments would be 0 / 0


def test_merging_is_off_unless_asked_for():
    rows = [("A", 0, 10), ("A", 0.0005, 10.0005), ("B", 0, 10), ("A", 0, 10.5), ("C", 7, 7)]
    found = make_results({"v1": [("A", 0.9, 0, 10), ("A", 0.8, 0, 10.5), ("B", 0.9, 0, 10)]})
    official = evaluate_detection(make_truth({"v1": rows}), found, tious=[0.99])
    assert official["per_class_average"] == {"A": pytest.approx(2 / 3), "B": 1, "C": 0}
    merged = evaluate_detection(make_truth({"v1": rows}), found, tious=[0.99], merge_duplicates=True)
    assert merged["per_class_average"] == {"A": 1, "B": 1}  # C's only instance is empty and went away
    with pytest.raises(AnnotationError, match="positive length"):
        evaluate_detection(make_truth({"v1": [("C", 7, 7)]}), found, merge_duplicates=True)


def test_top_k_keeps_the_best_of_each_video():
    truth = make_truth({"v1": [("A", 0, 10)], "v2": [("A", 0, 10)]})
    found = make_results(
        {
            "v1": [("A", 0.9, 50, 60), ("B", 0.8, 0, 10), ("A", 0.7, 0, 10)],
            "v2": [("A", 0.1, 0, 10), ("A", 0.05, 50, 60)],
        }
    )
    assert evaluate_detection(truth, found)["average_mAP"] == pytest.approx((2 / 3 + 2 / 3) / 2)
    two = evaluate_detection(truth, found, top_k=2)  # F in v1, B ignored, then T and F of v2
    assert two["average_mAP"] == pytest.approx(1 / 2 / 2)
    assert two["ignored_predictions"] == 1
    ties = make_results({"v1": [("A", 0.5, 50, 60), ("A", 0.5, 0, 10)]})
    assert evaluate_detection(truth, ties, top_k=1)["average_mAP"] == 0.5  # the later one was kept
    with pytest.raises(ValueError, match="0"):
        evaluate_detection(truth, found, top_k=0)


def test_times_and_scores_as_text_and_missing_headers():
    truth = {"database": {"v1": {"subset": "test", "annotations": [{"label": "A", "segment": ["18.6", "24.8"]}]}}}
    found = {"results": {"v1": [{"label": "A", "score": "0.5", "segment": ["18.6", "24.8"]}]}}
    report = evaluate_detection(truth, found, subset="test", tious=THUMOS_TIOUS)
    assert report["mAP"] == {"0.30": 1, "0.40": 1, "0.50": 1, "0.60": 1, "0.70": 1}


def test_no_predictions_at_all():
    truth = make_truth({"v1": [("A", 0, 10)]})
    for empty in (make_results({}), make_results({"v1": []})):
        report = evaluate_detection(truth, empty)
        assert report["average_mAP"] == 0
        assert report["videos"]["missing"] == 1


def test_exact_thresholds_pass():
    # tIoU 9/10 reaches linspace's ninth threshold, which is a little below 0.9, and 0.9 itself.
    truth = make_truth({"v1": [("A", 0, 10)]})
    report = evaluate_detection(truth, make_results({"v1": [("A", 0.5, 0, 9)]}))
    assert [report["mAP"][key] for key in ("0.85", "0.90", "0.95")] == [1, 1, 0]
    assert np.array_equal(ACTIVITYNET_TIOUS, np.linspace(0.5, 0.95, 10))


def test_segment_tiou_by_hand():
    a = np.array([[0.0, 10.0], [0.0, 10.0], [0.0, 10.0], [5.0, 5.0], [8.0, 2.0], [3.0, 3.0]])
    b = np.array([[5.0, 15.0], [10.0, 20.0], [2.0, 4.0], [0.0, 10.0], [0.0, 10.0], [3.0, 3.0]])
    np.testing.assert_array_equal(segment_tiou(a, b), [5 / 15, 0, 0.2, 0, 0, 0])


# ---- against the slow evaluator


@settings(max_examples=150, deadline=None)
@given(truths, results, st.sampled_from([(), ("v2",)]))
def test_equals_naive_on_small_grids(truth, found, blocked):
    if not any(rows for video, rows in truth.items() if video not in blocked):
        return
    assert_equals_naive(make_truth(truth), make_results(found), (0.2, 0.5, 0.75, 1.0), blocked)


@pytest.mark.parametrize("pairs_at_once", [7, 2_000_000])
def test_equals_naive_on_crowded_videos(monkeypatch, pairs_at_once):
    monkeypatch.setattr(detection, "_PAIRS_AT_ONCE", pairs_at_once)
    draw = random.Random(pairs_at_once)
    rows, found = {}, {}
    for video in range(12):
        rows[f"v{video}"] = [
            (draw.choice("ABC"), start, start + draw.randint(1, 12))
            for start in (draw.randint(0, 30) for _ in range(draw.randint(0, 9)))
        ]
        found[f"v{video}"] = [
            (draw.choice("ABCD"), draw.randint(0, 40) / 40, start, start + draw.randint(0, 12))
            for start in (draw.randint(0, 30) for _ in range(draw.randint(0, 60)))
        ]
    report = assert_equals_naive(make_truth(rows), make_results(found), ACTIVITYNET_TIOUS)
    assert 0.01 < report["average_mAP"] < 0.9  # neither trivial end


# ---- what must hold for any input


@settings(max_examples=50, deadline=None)
@given(truths)
def test_perfect_predictions_give_one(truth):
    proper = {video: [(label, min(s, e), max(s, e) + 1) for label, s, e in rows] for video, rows in truth.items()}
    found = {video: [(label, 0.5, s, e) for label, s, e in rows] for video, rows in proper.items()}
    report = evaluate_detection(make_truth(proper), make_results(found))
    assert set(report["mAP"].values()) == {1.0}
    assert report["average_mAP"] == 1


@settings(max_examples=50, deadline=None)
@given(truths, results)
def test_monotone_change_of_all_scores_changes_nothing(truth, found):
    changed = {v: [(c, score**3 * 1e-3 - 5, s, e) for c, score, s, e in rows] for v, rows in found.items()}
    before = evaluate_detection(make_truth(truth), make_results(found), tious=[0.3, 0.5])
    assert evaluate_detection(make_truth(truth), make_results(changed), tious=[0.3, 0.5]) == before


@settings(max_examples=50, deadline=None)
@given(truths, results, st.sampled_from(["v1", "v4", "elsewhere"]))
def test_lowest_false_positive_changes_no_score(truth, found, video):
    before = evaluate_detection(make_truth(truth), make_results(found), tious=[0.3, 0.5])
    more = {**found, video: [("A", -1, 500, 600), *found.get(video, [])]}
    after = evaluate_detection(make_truth(truth), make_results(more), tious=[0.3, 0.5])
    assert (after["mAP"], after["per_class_average"]) == (before["mAP"], before["per_class_average"])


@settings(max_examples=50, deadline=None)
@given(results)
def test_repeating_predictions_never_helps_where_instances_are_apart(found):
    apart = make_truth({v: [("A", 0, 3), ("A", 5, 8), ("B", 0, 8)] for v in ("v1", "v2")})
    twice = {
        video: [row for c, score, s, e in rows for row in ((c, score, s, e), (c, score - 0.5, s, e))]
        for video, rows in found.items()
    }
    before = evaluate_detection(apart, make_results(found))["average_mAP"]
    after = evaluate_detection(apart, make_results(twice))["average_mAP"]
    assert after <= before + 1e-12


def test_repeating_predictions_lowers_and_one_video_affects_the_others():
    truth = make_truth({"v1": [("A", 0, 10)], "v2": [("A", 0, 10)]})
    first, second = ("A", 0.9, 0, 10), ("A", 0.8, 0, 10)
    assert evaluate_detection(truth, make_results({"v1": [first], "v2": [second]}))["average_mAP"] == 1
    repeated = make_results({"v1": [first, ("A", 0.89, 0, 10)], "v2": [second, ("A", 0.79, 0, 10)]})
    assert evaluate_detection(truth, repeated)["average_mAP"] == pytest.approx((1 + 2 / 3) / 2)
    with_error = {"v1": [first], "v2": [second, ("A", 0.7, 50, 60)]}
    halved = {"v1": [("A", 0.45, 0, 10)], "v2": with_error["v2"]}
    assert evaluate_detection(truth, make_results(with_error))["average_mAP"] == 1
    assert evaluate_detection(truth, make_results(halved))["average_mAP"] == pytest.approx((1 + 2 / 3) / 2)


# ---- bad input


@pytest.mark.parametrize("tious", [[], [0.0], [1.5], [0.5, 0.5], [0.501, 0.504], [float("nan")]])
def test_bad_thresholds(tious):
    with pytest.raises(ValueError, match="tIoU thresholds must"):
        evaluate_detection(make_truth({"v1": [("A", 0, 1)]}), make_results({}), tious=tious)
