"""LGI's sampling of rows, its guided segments and its three losses, against hand-worked numbers and plain loops."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch

from bsp.localization.grounding.lgi_losses import (
    distinct_loss,
    guidance_loss,
    guided_segments,
    largest_offset,
    regression_loss,
    sampled_rows,
)


@pytest.mark.parametrize(
    ("rows", "segments", "offset", "expected"),
    [
        (3, 4, 0, [0, 1, 2]),
        (4, 4, 0, [0, 1, 2, 3]),
        (5, 4, 0, [0, 1, 2, 4]),  # 0, 1.25, 2.5 (to even: 2), 3.75
        (6, 4, 0, [0, 2, 3, 4]),  # 0, 1.5 (to even: 2), 3, 4.5 (to even: 4)
        (10, 4, 0, [0, 2, 5, 8]),  # 0, 2.5 (to even: 2), 5, 7.5 (to even: 8)
        (10, 4, 1, [1, 4, 6, 8]),  # 1, 3.5 (to even: 4), 6, 8.5 (to even: 8)
    ],
)
def test_sampled_rows(rows, segments, offset, expected):
    assert sampled_rows(rows, segments, offset).tolist() == expected


def test_offsets_stay_below_the_stride_less_a_half():
    # strides 1.5 -> below 1 -> 0; 1.75 -> below 1.25 -> 1; 2.5 -> below 2 -> 1; 3 -> below 2.5 -> 2
    assert [largest_offset(rows, 4) for rows in (1, 4, 5, 6, 7, 10, 12)] == [0, 0, 0, 0, 1, 1, 2]
    for segments in (4, 36, 128):
        for rows in range(1, 3 * segments + 9):
            below = [o for o in range(6) if o < Fraction(rows, segments) - Fraction(1, 2)]
            top = largest_offset(rows, segments)
            assert top == max(below, default=0)
            last = sampled_rows(rows, segments, top)
            assert last[-1] < rows
            assert (np.diff(last) > 0).all()
            assert len(last) == min(rows, segments)


def test_guided_segments_include_both_ends():
    def indices(*arguments):
        return np.flatnonzero(guided_segments(*arguments)).tolist()

    assert indices(0.25, 0.5, 8, 12) == [2, 3, 4]  # 8 real rows: 2 to 4
    assert indices(0.25, 0.5, 24, 12) == [3, 4, 5, 6]  # sampled to 12
    assert indices(0.3125, 0.4375, 8, 12) == [2, 3, 4]  # 2.5 and 3.5 go to even: 2 and 4
    assert indices(0.30, 0.32, 10, 12) == [3, 4]  # the last is at least one after the first
    assert indices(0.5, 1.0, 8, 12) == [4, 5, 6, 7]  # the last would be 8, a row of padding
    assert indices(0.99, 1.2, 8, 12) == [7]
    assert indices(0.0, 0.5, 1, 12) == [0]
    assert guided_segments(0.1, 0.2, 8, 12).shape == (12,)


def test_regression_loss_by_hand():
    moments = torch.tensor([[0.5, 3.0], [0.25, 0.5]])
    targets = torch.tensor([[0.0, 1.0], [0.25, 1.25]])  # the last target is beyond the video's end
    # 0.5^2 / 2 = 0.125; 2 - 0.5 = 1.5; 0; 0.75^2 / 2 = 0.28125
    assert regression_loss(moments, targets).item() == pytest.approx((0.125 + 1.5 + 0 + 0.28125) / 2)


def test_guidance_loss_by_hand():
    weights = torch.tensor([[0.5, 0.25, 0.25, 0.0], [0.1, 0.2, 0.3, 0.4]])
    inside = torch.tensor([[True, True, False, False], [False, False, False, True]])
    expected = (-(math.log(0.5) + math.log(0.25)) / 2 - math.log(0.4)) / 2
    assert guidance_loss(weights, inside).item() == pytest.approx(expected, rel=1e-6)
    nothing = guidance_loss(torch.tensor([[0.0, 1.0]]), torch.tensor([[True, False]]))
    assert nothing.item() == pytest.approx(-math.log(1e-8), rel=1e-6)


def test_distinct_loss_against_a_loop():
    weights = torch.rand(4, 3, 6, generator=torch.Generator().manual_seed(0)).softmax(2)
    total = 0.0
    for a in weights.double().numpy():
        for i in range(3):
            for j in range(3):
                total += ((a[i] * a[j]).sum() - (0.3 if i == j else 0)) ** 2
    assert distinct_loss(weights, 0.3).item() == pytest.approx(total / 4, rel=1e-5)
    # one word: every row is 1, so 3 * 0.7^2 + 6 * 1
    assert distinct_loss(torch.ones(2, 3, 1), 0.3).item() == pytest.approx(7.47)
