"""Decoding, Soft-NMS and class attachment against loops written from their description."""

import math

import numpy as np
import pytest

from bsp.localization.gtad.decode import attach_classes, best_class_share, boundary_peaks, candidates, soft_nms


def test_boundary_peaks_by_hand():
    # largest 0.8: above 0.4 counts; 0.3 counts as a strict peak; the plateau 0.2 0.2 does not; the edges
    # never do
    scores = np.array([0.8, 0.1, 0.3, 0.1, 0.2, 0.2, 0.1, 0.41, 0.5, 0.9 * 0.8])
    assert np.flatnonzero(boundary_peaks(scores)).tolist() == [2, 7, 8]
    assert not boundary_peaks(np.full(5, 0.2))[[0, 4]].any()


@pytest.mark.parametrize(("cells", "longest", "seed"), [(12, 12, 0), (12, 5, 1), (3, 3, 2)])
def test_candidates_against_loops(cells, longest, seed):
    rng = np.random.default_rng(seed)
    start, end = rng.random(cells), rng.random(cells)
    full = rng.random((2, longest, cells))
    anchors = np.stack([np.concatenate([full[c, d, : cells - d] for d in range(longest)]) for c in range(2)])

    def peak(scores, i):
        return (scores[i] > scores[i - 1] and scores[i] > scores[i + 1]) or scores[i] > 0.5 * max(scores)

    starts = {0} | {i for i in range(1, cells - 1) if peak(start, i)}
    ends = {cells - 1} | {i for i in range(1, cells - 1) if peak(end, i)}
    expected = []
    for d in range(longest):
        for s in range(cells):
            e = s + d + 1
            if e < cells and s in starts and e in ends:
                expected.append((s / cells, e / cells, full[0, d, s] * full[1, d, s]))
    assert expected
    segments, scores = candidates(anchors, start, end, longest)
    np.testing.assert_allclose(np.column_stack([segments, scores]), expected, rtol=1e-12)
    assert segments[:, 1].max() <= (cells - 1) / cells


def naive_soft_nms(segments, scores, sigma, most):
    pool = [[*segment, score] for segment, score in zip(segments, scores)]
    if len(pool) == 1:
        return pool
    out = []
    while len(pool) > 1 and len(out) < most:
        best = max(range(len(pool)), key=lambda i: pool[i][2])
        if not pool[best][2] > 0:
            break
        begin, end, score = pool.pop(best)
        out.append([begin, end, score])
        for one in pool:
            intersection = max(0, min(end, one[1]) - max(begin, one[0]))
            overlap = intersection / ((end - begin) + (one[1] - one[0]) - intersection)
            if overlap > 0:
                one[2] *= math.exp(-(overlap**2) / sigma)
    return out


@pytest.mark.parametrize(
    ("count", "most", "kept"), [(5, 100, 4), (150, 100, 100), (2, 100, 1), (1, 100, 1), (40, 7, 7)]
)
@pytest.mark.parametrize("sigma", [0.8, 0.1])
def test_soft_nms_against_loops(count, most, kept, sigma):
    rng = np.random.default_rng(count)
    begin = rng.random(count)
    segments, scores = np.column_stack([begin, begin + 0.02 + 0.3 * rng.random(count)]), rng.random(count)
    before = scores.copy()
    got_segments, got_scores = soft_nms(segments, scores, sigma=sigma, max_proposals=most)
    expected = naive_soft_nms(segments.tolist(), scores.tolist(), sigma, most)
    assert len(got_scores) == kept
    np.testing.assert_allclose(np.column_stack([got_segments, got_scores]), expected, rtol=1e-9)
    assert (scores == before).all()


def test_soft_nms_by_hand():
    # tIoU of the first two is 1/3; the third touches neither; the weakest, last one left, is never output
    segments = np.array([[0.0, 0.4], [0.2, 0.6], [0.7, 0.9]])
    kept, scores = soft_nms(segments, np.array([0.9, 0.8, 0.75]), sigma=0.8, max_proposals=100)
    assert kept.tolist() == [[0.0, 0.4], [0.7, 0.9]]
    assert scores.tolist() == [0.9, 0.75]
    kept, scores = soft_nms(segments, np.array([0.9, 0.8, 0.1]), sigma=0.8, max_proposals=100)
    assert scores.tolist() == pytest.approx([0.9, 0.8 * math.exp(-(1 / 9) / 0.8)])


def test_soft_nms_stops_at_zero_and_accepts_nothing():
    segments = np.array([[0.0, 0.1], [0.2, 0.3], [0.4, 0.5]])
    assert len(soft_nms(segments, np.array([0.5, 0.0, 0.0]), sigma=0.8, max_proposals=9)[1]) == 1
    assert len(soft_nms(np.zeros((0, 2)), np.zeros(0), sigma=0.8, max_proposals=9)[1]) == 0


def test_attach_classes():
    segments, scores = np.array([[0.1, 0.5], [0.0, 0.25]]), np.array([0.5, 0.2])
    names = ["jump", "run", "swim"]
    found = attach_classes(segments, scores, 40.0, np.array([0.2, 0.1, 0.7]), names, 2)
    assert [one["label"] for one in found] == ["swim", "jump", "swim", "jump"]
    assert [one["score"] for one in found] == pytest.approx([0.35, 0.1, 0.14, 0.04])
    assert [one["segment"] for one in found] == [[4.0, 20.0], [4.0, 20.0], [0.0, 10.0], [0.0, 10.0]]
    assert all(type(one["score"]) is float for one in found)
    with pytest.raises(ValueError, match="3 class names"):
        attach_classes(segments, scores, 40.0, np.array([0.2, 0.8]), names, 2)
    with pytest.raises(ValueError, match="duration_s"):
        attach_classes(segments, scores, 0.0, np.array([0.2, 0.1, 0.7]), names, 2)


def test_soft_nms_with_a_tiny_sigma_suppresses_every_overlap():
    segments = np.array([[0.0, 0.5], [0.0, 0.5], [0.1, 0.5], [0.6, 0.9], [0.95, 1.0]])
    kept, scores = soft_nms(segments, np.array([0.9, 0.8, 0.7, 0.6, 0.5]), sigma=1e-5, max_proposals=100)
    assert kept.tolist() == [[0.0, 0.5], [0.6, 0.9], [0.95, 1.0]]
    assert scores.tolist() == [0.9, 0.6, 0.5]


def test_best_class_share_is_the_hacs_rule():
    shares = best_class_share(np.array([0.1, 0.6, 0.2]))
    assert shares.tolist() == pytest.approx([0, 0.75, 0])
    found = attach_classes(np.array([[0.0, 0.5]]), np.array([0.4]), 10.0, shares, ["jump", "run", "swim"], 1)
    assert found == [{"label": "run", "score": pytest.approx(0.3), "segment": [0.0, 5.0]}]
    assert best_class_share(np.array([3.0, 3.0])).tolist() == [0.5, 0]
    for bad in ([1.0], [0.0, 0.0]):
        with pytest.raises(ValueError, match="two classes or more and a score above 0"):
            best_class_share(np.array(bad))
