"""G-TAD's labels against hand-worked examples and its loss against loops written from the formulas."""

import math

import numpy as np
import pytest
import torch

from bsp.localization.gtad.labels import (
    Labels,
    Outputs,
    Weights,
    boundary_labels,
    loss_weights,
    make_labels,
    weighted_loss,
)


def as_map(tiou, cells, longest):
    """Valid anchors as a [D, T] list of rows, None where invalid."""
    values = iter(tiou.tolist())
    return [[next(values) if s + d < cells else None for s in range(cells)] for d in range(longest)]


def test_worked_example():
    # T = 10, 100 s, one instance 20..60 s
    labels = make_labels(np.array([[0.2, 0.6]]), 10, 10)
    assert labels.start.tolist() == pytest.approx([0.5, 1, 1, 0.5, 0, 0, 0, 0, 0, 0], abs=1e-6)
    assert labels.end.tolist() == pytest.approx([0, 0, 0, 0, 0.5, 1, 1, 0.5, 0, 0], abs=1e-6)
    rows = as_map(labels.tiou, 10, 10)
    assert rows[3][:7] == pytest.approx([0.3333, 0.6, 1, 0.6, 0.3333, 0.1429, 0], abs=5e-5)
    assert rows[4][:6] == pytest.approx([0.5, 0.8, 0.8, 0.5, 0.2857, 0.125], abs=5e-5)
    assert rows[2][:8] == pytest.approx([0.1667, 0.4, 0.75, 0.75, 0.4, 0.1667, 0, 0], abs=5e-5)
    assert rows[9] == [pytest.approx(0.4), *[None] * 9]
    assert [i for i, x in enumerate(labels.start) if x > 0.5] == [1, 2]
    assert [i for i, x in enumerate(labels.end) if x > 0.5] == [5, 6]
    assert [(d, s) for d in range(10) for s in range(10 - d) if rows[d][s] > 0.9] == [(3, 2)]


def test_worked_example_with_two_instances_and_a_corrected_duration():
    # 50 s, 1500 frames of which 1488 have features: 49.6 s; instances 10..22.5 s and 30..55 s
    labels = make_labels(np.array([[10, 22.5], [30, 55]]) / 49.6, 10, 10)
    start = [0.4919, 0.9919, 1, 0.5081, 0.4758, 0.9758, 1, 0.5242, 0.0242, 0]
    end = [0, 0, 0.2319, 0.7319, 1, 0.7681, 0.2681, 0, 0.5, 1]
    assert labels.start.tolist() == pytest.approx(start, abs=5e-5)
    assert labels.end.tolist() == pytest.approx(end, abs=5e-5)


def test_shorter_longest_duration_only_drops_rows():
    segments = np.array([[0.1, 0.35], [0.3, 0.9]])
    full, cut = (
        as_map(make_labels(segments, 12, 12).tiou, 12, 12),
        as_map(make_labels(segments, 12, 5).tiou, 12, 5),
    )
    assert cut == full[:5]


def test_no_instance_gives_zeros_and_bad_segments_are_refused():
    assert all(not part.any() for part in make_labels(np.zeros((0, 2)), 6, 6))
    assert not boundary_labels(np.array([]), 6).any()
    with pytest.raises(ValueError, match=r"0\.7, 0\.2"):
        make_labels(np.array([[0.7, 0.2]]), 6, 6)
    with pytest.raises(ValueError, match="nan"):
        make_labels(np.array([[0.1, float("nan")]]), 6, 6)


def log_loss(p, y, threshold):
    """The balanced logarithmic loss over flat lists, from its definition."""
    positive = [one > threshold for one in y]
    count, positives = len(y), sum(positive)
    if positives in (0, count):
        on = off = 1.0
    else:
        ratio = count / positives
        on, off = 0.5 * ratio, 0.5 * ratio / (ratio - 1)
    terms = [on * math.log(a + 1e-6) if b else off * math.log(1 - a + 1e-6) for a, b in zip(p, positive)]
    return -sum(terms) / count


def random_batch(seed, cells=8, videos=3, anchors=36):
    generator = torch.Generator().manual_seed(seed)

    def uniform(*shape):
        return torch.rand(*shape, generator=generator)

    outputs = Outputs(uniform(videos, 2, anchors), uniform(videos, cells), uniform(videos, cells))
    labels = Labels(uniform(videos, anchors), uniform(videos, cells), uniform(videos, cells))
    labels.tiou[uniform(videos, anchors) < 0.3] = 0.0  # no overlap at all: never part of the regression
    return outputs, labels, uniform(videos, anchors)


def regression_loss(p, y, draws):
    high = [v > 0.7 for v in y]
    middle = [0.3 < v <= 0.7 for v in y]
    low = [0 < v <= 0.3 for v in y]
    kept = []
    for i, v in enumerate(y):
        if (
            high[i]
            or (middle[i] and draws[i] < sum(high) / sum(middle))
            or (low[i] and draws[i] < sum(high) / sum(low))
        ):
            kept.append((p[i] - v) ** 2)
    assert 0 < len(kept) < len(y) - y.count(0.0)
    return 0.5 * sum(kept) / len(kept)


def test_loss_is_the_sum_of_its_formulas():
    outputs, labels, draws = random_batch(0)
    labels.tiou[labels.tiou > 0.7] *= 0.8  # few high entries, so that the other groups are sampled
    labels.tiou[:, :2] = 0.95
    terms = weighted_loss(outputs, labels, loss_weights(labels, draws))
    flat = [x.flatten().tolist() for x in (outputs.start, labels.start, outputs.end, labels.end)]
    node = log_loss(flat[0], flat[1], 0.5) + log_loss(flat[2], flat[3], 0.5)
    tiou = labels.tiou.flatten().tolist()
    classification = log_loss(outputs.anchors[:, 1].flatten().tolist(), tiou, 0.9)
    regression = regression_loss(outputs.anchors[:, 0].flatten().tolist(), tiou, draws.flatten().tolist())
    assert terms["loss_node"].item() == pytest.approx(node, rel=1e-5)
    assert terms["loss_classification"].item() == pytest.approx(classification, rel=1e-5)
    assert terms["loss_regression"].item() == pytest.approx(regression, rel=1e-5)
    assert terms["loss"].item() == pytest.approx(node + 10 * regression + classification, rel=1e-5)


def test_parts_of_a_batch_add_up_to_it():
    outputs, labels, draws = random_batch(1)
    weights = loss_weights(labels, draws)
    whole = weighted_loss(outputs, labels, weights)
    for name in whole:
        parts = [
            weighted_loss(
                *(kind(*(x[i : i + 1] for x in whole_batch)) for kind, whole_batch in
                  ((Outputs, outputs), (Labels, labels), (Weights, weights)))
            )[name]
            for i in range(3)
        ]  # fmt: skip
        assert sum(parts).item() == pytest.approx(whole[name].item(), rel=1e-5)


def test_all_of_a_smaller_group_is_kept():
    # two high, one middle, one low: both ratios are above 1, so draws just below 1 keep everything with tIoU
    # > 0
    labels = Labels(torch.tensor([[0.8, 0.95, 0.5, 0.2, 0.0]]), torch.zeros(1, 4), torch.zeros(1, 4))
    weights = loss_weights(labels, torch.full((1, 5), 0.999))
    assert weights.regression[0].tolist() == pytest.approx([0.125] * 4 + [0])


def test_batch_without_positives_falls_back_to_plain_means():
    # middle and low entries only, no start, no end
    labels = Labels(torch.tensor([[0.5, 0.1, 0.0, 0.0]]), torch.zeros(1, 4), torch.zeros(1, 4))
    outputs = Outputs(torch.full((1, 2, 4), 0.25), torch.full((1, 4), 0.25), torch.full((1, 4), 0.25))
    terms = weighted_loss(outputs, labels, loss_weights(labels, torch.full((1, 4), 0.9)))
    plain = -math.log(0.75 + 1e-6)
    assert terms["loss_node"].item() == pytest.approx(2 * plain, rel=1e-5)
    assert terms["loss_classification"].item() == pytest.approx(plain, rel=1e-5)
    assert terms["loss_regression"].item() == pytest.approx(0.5 * (0.25**2 + 0.15**2) / 2, rel=1e-5)
    nothing = Labels(torch.zeros(1, 4), torch.zeros(1, 4), torch.zeros(1, 4))
    terms = weighted_loss(outputs, nothing, loss_weights(nothing, torch.full((1, 4), 0.9)))
    assert terms["loss"].item() == pytest.approx(3 * plain, rel=1e-5)


def test_all_positive_boundaries_stay_finite():
    labels = Labels(torch.tensor([[1.0, 0.95]]), torch.ones(1, 3), torch.ones(1, 3))
    outputs = Outputs(torch.full((1, 2, 2), 0.5), torch.full((1, 3), 0.5), torch.full((1, 3), 0.5))
    terms = weighted_loss(outputs, labels, loss_weights(labels, torch.zeros(1, 2)))
    assert terms["loss_node"].item() == pytest.approx(-2 * math.log(0.5 + 1e-6), rel=1e-5)


def test_exact_ties_fall_on_the_side_of_the_formula():
    # instances on whole cells: labels of exactly 0.5 are not above 0.5, whatever rounding does
    for cells in (10, 12, 30, 48, 100):
        for at in range(1, cells - 2):
            labels = make_labels(np.array([[at / cells, (at + 2) / cells]]), cells, cells)
            assert np.flatnonzero(labels.start > 0.5).tolist() == [at - 1, at]
            assert np.flatnonzero(labels.end > 0.5).tolist() == [at + 1, at + 2][: cells - at - 1]
