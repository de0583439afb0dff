"""bsp.metrics.proposals against hand-worked curves and a slow evaluator written from the protocol's text."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bsp.metrics.proposals import evaluate_proposals


def make_truth(videos):
    """{video: [(start, end), ...]} in the official layout."""
    return {
        "database": {
            video: {"subset": "validation", "annotations": [{"label": "A", "segment": list(s)} for s in rows]}
            for video, rows in videos.items()
        }
    }


def make_results(videos):
    """{video: [(score, start, end), ...]} in the official layout of proposals, which have no label."""
    return {
        "results": {
            video: [{"score": score, "segment": [s, e]} for score, s, e in rows] for video, rows in videos.items()
        }
    }


def ranked(count, hit, segment=(0.0, 10.0)):
    """``count`` proposals of falling score, of which only number ``hit`` (from 1) is the segment."""
    return [(-k, *segment) if k == hit else (-k, 50.0, 60.0) for k in range(1, count + 1)]


def naive_curve(truth, found, most, tious):
    """AN, AR and AUC, step by step as the fact sheet says it. Plain Python floats."""
    videos = {v: [i["segment"] for i in r["annotations"]] for v, r in truth["database"].items() if r["annotations"]}
    rows = found["results"]
    total = sum(len(r) for r in rows.values())
    ratio = most * float(len(videos)) / total
    kept, retrieved = {}, 0
    for video in videos:
        order = sorted(enumerate(rows.get(video, [])), key=lambda item: (item[1]["score"], item[0]), reverse=True)
        kept[video] = [row["segment"] for _, row in order][: min(int(len(order) * ratio), len(order))]
        retrieved += len(kept[video])
    instances = sum(len(r) for r in videos.values())
    an, ar = [], []
    for j in range(1, 101):
        fraction = (j / 100.0) * (most * float(len(videos)) / retrieved)
        recalls = []
        for tiou in tious:
            recalled = 0
            for video, segments in videos.items():
                used = kept[video][: min(int(len(kept[video]) * fraction), len(kept[video]))]
                for s, e in segments:
                    for ps, pe in used:
                        shared = min(e, pe) - max(s, ps)
                        if shared > 0 and shared / ((pe - ps) + (e - s) - shared) >= tiou:
                            recalled += 1
                            break
            recalls.append(recalled / instances)
        ar.append(sum(recalls) / len(recalls))
        an.append(fraction * (float(retrieved) / len(videos)))
    area = sum((ar[k] + ar[k + 1]) / 2 * (an[k + 1] - an[k]) for k in range(99))
    return an, ar, 100 * area / an[-1]


def test_two_videos_by_hand():
    truth = make_truth({"v1": [(0, 10)], "v2": [(0, 10)]})
    found = make_results({"v1": ranked(3, hit=2), "v2": ranked(1, hit=1)})
    report = evaluate_proposals(truth, found, max_proposals=2)
    # P = 4, ratio 1, f_j = j / 100. v1 uses its second proposal from j = 67 on (3 * 0.67 = 2.01), v2 its only
    # one at j = 100. AN_j = j / 50, so AR@1 is j = 50.
    assert report["curve"]["AR"] == [0.0] * 66 + [0.5] * 33 + [1.0]
    np.testing.assert_allclose(report["curve"]["AN"], np.arange(1, 101) / 50, rtol=1e-14)
    assert report["AR@AN"] == {"1": 0.0}  # 5 and more lie beyond the curve's end
    area = 0.02 * (0.25 + 32 * 0.5 + 0.75)
    assert report["AUC"] == pytest.approx(100 * area / 2)
    assert report["proposals"] == 4


def test_reported_points_of_the_usual_hundred():
    truth = make_truth({"v1": [(0, 10)]})
    for hit, expected in (
        (1, {"1": 1, "5": 1, "10": 1, "50": 1, "100": 1}),
        (5, {"1": 0, "5": 1, "10": 1, "50": 1, "100": 1}),
        (6, {"1": 0, "5": 0, "10": 1, "50": 1, "100": 1}),
        (51, {"1": 0, "5": 0, "10": 0, "50": 0, "100": 1}),
        (0, {"1": 0, "5": 0, "10": 0, "50": 0, "100": 0}),
    ):
        assert evaluate_proposals(truth, make_results({"v1": ranked(100, hit)}))["AR@AN"] == expected


def test_numbers_of_proposals_are_truncated():
    # 100 * 0.29 is 28.999999999999996, so the 29th proposal is not used before j = 30.
    report = evaluate_proposals(make_truth({"v1": [(0, 10)]}), make_results({"v1": ranked(100, hit=29)}))
    assert report["curve"]["AR"] == [0.0] * 29 + [1.0] * 71


def test_order_of_operations_decides_at_whole_numbers():
    # M = 10, V = 2, P = 23: int(22 * 20 / 23) = 19 of v2 are kept and none of v1. Exactly, j = 85 would use
    # 19 * 0.85 * 20 / 19 = 17 of them; in doubles 19 * (0.85 * (20 / 19)) is 16.999999999999996.
    assert int(19 * ((85 / 100.0) * (10 * 2.0 / 19))) == 16
    truth = make_truth({"v1": [(0, 10)], "v2": [(0, 10)]})
    found = make_results({"v1": ranked(1, hit=1), "v2": ranked(22, hit=17)})
    report = evaluate_proposals(truth, found, max_proposals=10)
    assert report["curve"]["AR"] == [0.0] * 85 + [0.5] * 15


def test_perfect_proposals_reach_99():
    report = evaluate_proposals(make_truth({"v1": [(0, 10)]}), make_results({"v1": ranked(100, hit=1)}))
    assert report["AUC"] == pytest.approx(99)


def test_recall_is_averaged_over_thresholds_and_one_proposal_serves_several():
    truth = make_truth({"v1": [(40, 60), (40, 60), (80, 90)]})
    found = make_results({"v1": [(0.9, 40, 55)] * 100})  # tIoU 0.75 passes 0.50 to 0.75, six of ten
    report = evaluate_proposals(truth, found)
    assert report["AR@AN"]["1"] == pytest.approx(2 / 3 * 6 / 10)
    assert evaluate_proposals(truth, found, tious=[0.76])["AR@AN"]["100"] == 0


def test_proposals_of_other_videos_use_up_the_budget():
    truth = make_truth({"v1": [(0, 10)], "empty": []})
    second_hits = ranked(2, hit=2)
    alone = evaluate_proposals(truth, make_results({"v1": second_hits}), max_proposals=2)
    assert alone["curve"]["AR"][-1] == 1
    others = make_results({"v1": second_hits, "empty": ranked(1, 0), "unknown": ranked(1, 0)})
    shared = evaluate_proposals(truth, others, max_proposals=2)  # ratio 2 * 1 / 4: one proposal of v1 is kept
    assert shared["curve"]["AR"][-1] == 0
    assert shared["videos"] == {"used": 1, "missing": 0, "blocked": 0, "without_ground_truth": 2}
    blocked = evaluate_proposals(truth, others, max_proposals=2, blocked=["empty", "unknown"])
    assert blocked["curve"] == alone["curve"]
    assert blocked["videos"] == {"used": 1, "missing": 0, "blocked": 1, "without_ground_truth": 0}


def test_video_without_proposals_is_missed_but_counts():
    truth = make_truth({"v1": [(0, 10)], "v2": [(0, 10), (20, 30), (40, 50)]})
    report = evaluate_proposals(truth, make_results({"v1": ranked(10, hit=1)}), max_proposals=5)
    assert report["curve"]["AR"][-1] == 0.25
    assert report["videos"]["missing"] == 1
    np.testing.assert_allclose(report["curve"]["AN"][-1], 5)


def test_equal_scores_later_proposal_first():
    truth = make_truth({"v1": [(0, 10)]})
    wrong, right = (0.5, 50, 60), (0.5, 0, 10)
    for rows, expected in (([wrong, right], 1), ([right, wrong], 0)):
        found = make_results({"v1": rows, "other": [wrong, wrong]})  # ratio 1/2: one of the two is kept
        assert evaluate_proposals(truth, found, max_proposals=2)["curve"]["AR"][-1] == expected


@pytest.mark.parametrize("found", [{}, {"v1": []}, {"elsewhere": [(0.5, 0, 10)]}])
def test_nothing_proposed(found):
    report = evaluate_proposals(make_truth({"v1": [(0, 10)]}), make_results(found))
    assert report["AUC"] == 0
    assert set(report["AR@AN"].values()) == {0}


def test_all_proposals_without_a_maximum():
    found = make_results({"v1": ranked(3, hit=2), "v2": ranked(1, hit=1)})
    truth = make_truth({"v1": [(0, 10)], "v2": [(0, 10)]})
    everything = evaluate_proposals(truth, found, max_proposals=None)  # M = 4 / 2
    assert everything["curve"] == evaluate_proposals(truth, found, max_proposals=2)["curve"]
    assert evaluate_proposals(truth, make_results({}), max_proposals=None)["AUC"] == 0
    with pytest.raises(ValueError, match="max_proposals"):
        evaluate_proposals(truth, found, max_proposals=0)


segments = st.tuples(st.integers(0, 8), st.integers(0, 8)).map(lambda se: (min(se), max(se) + 1))
truths = st.dictionaries(st.sampled_from(["v1", "v2", "v3"]), st.lists(segments, max_size=4)).filter(
    lambda videos: any(videos.values())
)
proposals = st.dictionaries(
    st.sampled_from(["v1", "v2", "v3", "v4"]),
    st.lists(st.tuples(st.integers(0, 3), segments).map(lambda p: (p[0], *p[1])), max_size=12),
)


@settings(max_examples=100, deadline=None)
@given(truths, proposals, st.integers(1, 12))
def test_equals_naive(truth, found, most):
    tious = (0.25, 0.5, 0.9)
    report = evaluate_proposals(make_truth(truth), make_results(found), max_proposals=most, tious=tious)
    try:
        an, ar, auc = naive_curve(make_truth(truth), make_results(found), most, tious)
    except ZeroDivisionError:  # no proposal is kept
        assert report["AUC"] == 0
        return
    np.testing.assert_allclose(report["curve"]["AN"], an, rtol=1e-12)
    np.testing.assert_allclose(report["curve"]["AR"], ar, atol=1e-12)
    assert report["AUC"] == pytest.approx(auc, abs=1e-9)
