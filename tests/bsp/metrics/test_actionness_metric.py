"""Actionness: the grid of 0.2 s, its labels, and average precision against hand-worked and naive values."""

from __future__ import annotations

import random
from fractions import Fraction
from itertools import chain

import numpy as np
import pytest

from bsp.errors import AnnotationError
from bsp.metrics.actionness import evaluate_actionness, segment_count, segment_labels


def document(videos):
    """Ground truth of {id: (task, duration_s, steps)}."""
    fields = ("task", "duration_s", "steps")
    return {"segment_s": 0.2, "videos": {key: dict(zip(fields, value)) for key, value in videos.items()}}


def predicted(scores):
    return {"segment_s": 0.2, "scores": scores}


# -- grid --


@pytest.mark.parametrize(("duration_s", "count"), [(0.6, 3), (0.59, 2), (0.1, 0), (0.2, 1), (1.0, 5), (10.01, 50)])
def test_number_of_segments(duration_s, count):
    assert segment_count(duration_s) == count


def test_number_of_segments_is_exact_for_every_multiple():
    assert [segment_count(tenths / 10) for tenths in range(1, 4000)] == [tenths // 2 for tenths in range(1, 4000)]
    assert sum(int(tenths / 10 / 0.2) != tenths // 2 for tenths in range(1, 4000)) > 0  # why it is not done so


@pytest.mark.parametrize(
    ("steps", "positive"),
    [
        ([(0.0, 1.0)], [0, 1, 2, 3, 4]),
        ([(0.1, 0.5)], [0, 1]),  # the centre 0.1 is in [0.1, 0.5), the centre 0.5 is not
        ([(0.11, 0.51)], [1, 2]),
        ([(0.31, 0.49)], []),  # between two centres
        ([(0.7, 0.71)], [3]),  # 3.5 * 0.2 is above 0.7 in float arithmetic
        ([(0.0, 0.2), (0.1, 0.4), (0.8, 1.0)], [0, 1, 4]),  # overlapping and apart: the union
        ([(0.8, 1.0), (0.0, 0.2)], [0, 4]),  # in any order
        ([(0.8, 70.0)], [4]),  # ends after the video
        ([(60.0, 70.0)], []),  # lies after it
        ([], []),
    ],
)
def test_a_segment_is_positive_when_a_step_covers_its_centre(steps, positive):
    label_N = segment_labels(steps, 1.1)
    assert label_N.dtype == bool
    assert len(label_N) == 5
    assert np.flatnonzero(label_N).tolist() == positive


def test_labels_equal_the_rule_tried_segment_by_segment():
    draw = random.Random(1)
    for _ in range(50):
        duration = Fraction(draw.randrange(1, 4000), 100)
        steps = [sorted(Fraction(draw.randrange(4000), 100) for _ in range(2)) for _ in range(draw.randrange(6))]
        steps = [(a, b) for a, b in steps if a < b]
        expected = []
        k = 0
        while (k + 1) * Fraction(1, 5) <= duration:
            expected.append(any(a <= (k + Fraction(1, 2)) / 5 < b for a, b in steps))
            k += 1
        found = segment_labels([(float(a), float(b)) for a, b in steps], float(duration))
        assert found.tolist() == expected


# -- average precision --


@pytest.mark.long
def test_average_precision_worked_by_hand():
    # Labels 1 1 0 0 1 and scores that rank them 1 0 1 1 0: precisions 1/1, 2/3, 3/4 at the three positives.
    truth = document({"v": ("t", 1.0, [(0.0, 0.4), (0.8, 1.0)])})
    report = evaluate_actionness(truth, predicted({"v": [0.9, 0.3, 0.8, 0.1, 0.5]}))
    expected = (1 / 1 + 2 / 3 + 3 / 4) / 3
    assert report["AP"] == pytest.approx(expected)
    assert report["AP_video"] == pytest.approx(expected)
    assert report["AP_task"] == pytest.approx(expected)
    assert report["positive_rate"] == pytest.approx(3 / 5)
    assert report["segments"] == 5
    assert report["videos"] == {"used": 1, "missing": 0, "without_positive": 0, "unknown": 0}


def test_equal_scores_count_as_one_step_whatever_their_order():
    # One score for all: recall goes from 0 to 1 at once, with the precision of the positive rate.
    for steps in ([(0.0, 0.4)], [(0.6, 1.0)]):
        report = evaluate_actionness(document({"v": ("t", 1.0, steps)}), predicted({"v": [0.5] * 5}))
        assert report["AP"] == pytest.approx(2 / 5)


def test_pooled_and_mean_values_differ_as_worked_by_hand():
    truth = document({
        "a": ("tea", 0.4, [(0.0, 0.2)]),   # labels 1 0
        "b": ("tea", 0.4, [(0.2, 0.4)]),   # labels 0 1
        "c": ("tire", 0.4, [(0.0, 0.2)]),  # labels 1 0
        "d": ("rest", 0.4, []),            # labels 0 0
    })  # fmt: skip
    scores = {"a": [4.0, 1.0], "b": [3.0, 2.0], "c": [6.0, 5.0], "d": [7.0, -1.0]}
    report = evaluate_actionness(truth, predicted(scores))
    # Ranked together: d0 c1 c0 a1 b0 b1 a0 d0, positives at ranks 2, 4 and 6.
    assert report["AP"] == pytest.approx((1 / 2 + 2 / 4 + 3 / 6) / 3)
    assert report["AP_video"] == pytest.approx((1 + 1 / 2 + 1) / 3)  # d has no positive segment
    assert report["AP_task"] == pytest.approx(((1 / 1 + 2 / 3) / 2 + 1) / 2)  # tea: 4 | 3 2 1; tire: 6 | 5
    assert report["positive_rate"] == pytest.approx(3 / 8)
    assert report["videos"] == {"used": 4, "missing": 0, "without_positive": 1, "unknown": 0}


def naive_average_precision(labels, scores):
    """The sum of its definition, one distinct score after the other."""
    labels, scores = list(labels), list(scores)
    total, before = 0.0, 0.0
    for threshold in sorted(set(scores), reverse=True):
        taken = [label for label, score in zip(labels, scores) if score >= threshold]
        recall = sum(taken) / sum(labels)
        total += (recall - before) * sum(taken) / len(taken)
        before = recall
    return total


def test_random_videos_with_ties_against_the_definition():
    rng = np.random.default_rng(0)
    videos, scores, labels = {}, {}, {}
    for n in range(6):
        labels[n] = (rng.random(30) < 0.4).astype(int).tolist()
        steps = [(round(0.2 * k, 1), round(0.2 * k + 0.2, 1)) for k, label in enumerate(labels[n]) if label]
        videos[f"v{n}"] = (f"task{n % 2}", 6.0, steps)
        scores[f"v{n}"] = rng.integers(0, 12, 30).astype(float).tolist()
    report = evaluate_actionness(document(videos), predicted(scores))
    pooled = naive_average_precision(chain.from_iterable(labels.values()), chain.from_iterable(scores.values()))
    assert report["AP"] == pytest.approx(pooled)
    each = [naive_average_precision(labels[n], scores[f"v{n}"]) for n in range(6)]
    assert report["AP_video"] == pytest.approx(np.mean(each))


@pytest.mark.parametrize("size", [1.0, 1e300, 1e17])
def test_a_video_without_scores_ranks_below_all_others(size, caplog):
    truth = document({"a": ("t", 0.4, [(0.0, 0.2)]), "b": ("t", 0.4, [(0.0, 0.2)])})
    report = evaluate_actionness(truth, predicted({"a": [-2 * size, -3 * size], "x": [5.0]}), names=("truth", "mine"))
    # a: 1 0, then both of b together: precision 1 at the first positive, 2/4 at the second.
    assert report["AP"] == pytest.approx((1 + 2 / 4) / 2)
    assert report["AP_video"] == pytest.approx((1 + 1 / 2) / 2)
    assert report["videos"] == {"used": 2, "missing": 1, "without_positive": 0, "unknown": 1}
    assert "mine: 1 of 2 videos have no scores and rank last: b" in caplog.text


# -- refusals --


@pytest.mark.parametrize(
    ("truth", "scores", "problem"),
    [
        ({}, {"v": [1.0] * 4}, r"mine: scores\.v: 4 scores for 5 segments of 0\.2 s .1\.0 s in truth.; give one score"),
        ({"steps": [[0.5, 0.5]]}, {"v": [1.0] * 5}, r"truth: videos\.v\.steps\[0\]: 0\.5 to 0\.5 s is no interval"),
        ({"steps": [[-0.5, 0.5]]}, {"v": [1.0] * 5}, r"truth: videos\.v\.steps\[0\]\[0\]: .*found -0\.5"),
        ({"steps": []}, {"v": [1.0] * 5}, "truth: none of 5 segments of 1 videos is positive"),
        ({"duration_s": 0}, {"v": []}, r"truth: videos\.v\.duration_s"),
        ({}, {"v": [float("nan")] * 5}, r"mine: scores\.v\[0\]: .*found nan"),
        ({}, {"v": None}, r"mine: scores\.v: .*found None"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_place(truth, scores, problem):
    content = document({"v": ("t", 1.0, [(0.0, 0.4)])})
    content["videos"]["v"] |= truth
    with pytest.raises(AnnotationError, match=problem):
        evaluate_actionness(content, predicted(scores), names=("truth", "mine"))


def test_other_segments_or_a_missing_field_are_refused():
    truth = document({"v": ("t", 1.0, [(0.0, 0.4)])})
    with pytest.raises(AnnotationError, match=r"predictions: segment_s: is 1\.0 but 0\.2 in ground truth"):
        evaluate_actionness(truth, {"segment_s": 1.0, "scores": {"v": [1.0]}})
    with pytest.raises(AnnotationError, match="predictions: scores: is missing"):
        evaluate_actionness(truth, {"segment_s": 0.2})
    with pytest.raises(AnnotationError, match="ground truth: "):
        evaluate_actionness([], predicted({}))
    with pytest.raises(AnnotationError, match="none of 0 segments of 0 videos"):
        evaluate_actionness(document({}), predicted({}))
