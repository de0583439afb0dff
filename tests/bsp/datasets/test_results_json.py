"""bsp.datasets.results_json: official result files become columns, wrong ones are named."""

from __future__ import annotations

import pytest

from bsp.datasets.results_json import check_detections, ground_truth_columns, prediction_columns
from bsp.errors import AnnotationError


def rows(*scores):
    return [{"label": "A", "score": score, "segment": [k, k + 1]} for k, score in enumerate(scores)]


def test_columns_by_hand():
    truth = {
        "database": {
            "v1": {"subset": "val", "annotations": [{"label": "B", "segment": [1, 2]}]},
            "v2": {"subset": "other", "annotations": [{"label": "C", "segment": [1, 2]}]},
            "v3": {"subset": "val", "annotations": []},
            "v4": {"subset": "val", "annotations": [{"label": x, "segment": ["4.5", 3]} for x in "AB"]},
            "v5": {"subset": "val", "annotations": [{"label": "A", "segment": [0, 9]}]},
        }
    }
    columns = ground_truth_columns(truth, subset="val", blocked=["v5", "v2"])
    assert columns.videos == ("v1", "v3", "v4")
    assert columns.class_names == ("B", "A")
    assert columns.video.tolist() == [0, 2, 2]
    assert columns.label.tolist() == [0, 1, 0]
    assert columns.segments.tolist() == [[1, 2], [4.5, 3], [4.5, 3]]
    assert columns.blocked == 1
    found = {"results": {"new": rows(0.5), "v4": rows(0.25, "1e-3"), "v5": rows(1), "v1": [], "old": rows(2)}}
    columns = prediction_columns(found, videos=columns.videos, class_names=("Z", "A"), blocked=["v5"])
    assert columns.videos == ("v1", "v3", "v4", "new", "old")
    assert columns.video.tolist() == [3, 2, 2, 4]
    assert columns.label.tolist() == [1, 1, 1, 1]
    assert columns.scores.tolist() == [0.5, 0.25, 0.001, 2]
    assert columns.segments.tolist() == [[0, 1], [0, 1], [1, 2], [0, 1]]


def test_unknown_subset_and_empty_subset():
    truth = {"database": {"v1": {"subset": "validation", "annotations": [{"label": "A", "segment": [0, 1]}]}}}
    with pytest.raises(AnnotationError, match=r"'val'.*validation \(1 videos\)"):
        ground_truth_columns(truth, subset="val")
    with pytest.raises(AnnotationError, match=r"no instance in its 0 videos.*1 more are blocked"):
        ground_truth_columns(truth, subset="validation", blocked=["v1"])


def test_labels_are_optional_for_proposals_only():
    found = {"results": {"v": [{"score": 1, "segment": [0, 1]}]}}
    assert prediction_columns(found, videos=(), class_names=None).label is None
    with pytest.raises(AnnotationError, match=r"results\.v\[0\]\.label: is missing"):
        prediction_columns(found, videos=(), class_names=("A",))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r.pop("results"), r"found\.json: results: is missing"),
        (lambda r: r.update(results=[]), r"found\.json: results: .*dictionary.*found \[\]"),
        (lambda r: r["results"]["v1"][1].pop("label"), r"results\.v1\[1\]\.label: is missing"),
        (lambda r: r["results"]["v1"][1].update(label=7), r"results\.v1\[1\]\.label: .*string, found 7"),
        (lambda r: r["results"]["v1"][0].update(score="high"), r"results\.v1\[0\]\.score: .*found 'high'"),
        (lambda r: r["results"]["v1"][0].update(score=float("nan")), r"v1\[0\]\.score: .*found nan"),
        (lambda r: r["results"]["v1"][0].update(segment=[1]), r"v1\[0\]\.segment\[1\]: is missing"),
        (lambda r: r["results"]["v1"][0].update(segment=[1, 2, 3]), r"v1\[0\]\.segment: .*\[1, 2, 3\]"),
    ],
)
def test_malformed_predictions_are_named(change, message):
    found = {"results": {"v1": rows(0.5, 0.4)}}
    change(found)
    with pytest.raises(AnnotationError, match=message):
        check_detections(found, "found.json")


def test_only_the_first_problems_are_shown():
    found = {"results": {f"v{k}": rows("x", "y") for k in range(10)}}  # one problem per video is reported
    with pytest.raises(AnnotationError, match=r"v0.*v1.*v2.*and 7 more$"):
        check_detections(found)
