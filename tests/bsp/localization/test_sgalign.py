"""SGAlign against a loop in exact fractions from its definition, and the fast form against the plain one."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from bsp.localization.gtad.sgalign import AlignedLinear, align_features, anchor_grid, linear_rows, sampling_matrix


def read_point(row, x):
    """One channel's value at coordinate x, by the definition's cases."""
    cells = len(row)
    if x < -1 or x > cells:
        return 0
    if x <= 0:
        return row[0]
    below = math.floor(x)
    if below >= cells - 1:
        return row[cells - 1]
    return row[below] * (1 - (x - below)) + row[below + 1] * (x - below)


def read_extent(row, begin, end, outputs):
    width = max(end - begin, Fraction(1))
    size, n = width / outputs, math.ceil(width / outputs)
    return [
        sum(read_point(row, begin + p * size + (i + Fraction(1, 2)) * size / n) for i in range(n)) / n
        for p in range(outputs)
    ]


def anchor_vector(row, duration, start, outputs):
    half = Fraction(duration + 1, 2)
    return read_extent(row, start - half, start + duration + half, outputs)


def test_anchor_order_is_duration_by_duration():
    duration, start = anchor_grid(4, 3)
    assert list(zip(duration, start)) == [
        (0, 0),
        (0, 1),
        (0, 2),
        (0, 3),
        (1, 0),
        (1, 1),
        (1, 2),
        (2, 0),
        (2, 1),
    ]
    assert len(anchor_grid(100, 100)[0]) == 5050


@pytest.mark.parametrize(("cells", "longest", "inner", "context"), [(7, 7, 5, 2), (12, 6, 3, 4), (3, 1, 32, 1)])
def test_matrix_holds_the_exact_interpolation_weights(cells, longest, inner, context):
    row, column, weight = sampling_matrix(cells, longest, inner, context)
    got = np.zeros((len(anchor_grid(cells, longest)[0]), cells, inner + context))
    got[row, column // (inner + context), column % (inner + context)] = weight
    anchors = [(d, s) for d in range(longest) for s in range(cells - d)]
    assert len(got) == len(anchors)
    for cell in range(cells):
        unit = [Fraction(int(k == cell)) for k in range(cells)]
        for n, (d, s) in enumerate(anchors):
            expected = anchor_vector(unit, d, s, inner) + anchor_vector(unit, d, s, context)
            np.testing.assert_allclose(got[n, cell], [float(x) for x in expected], atol=1e-12)


def test_hand_worked_anchor():
    # T = 4, d = 1, s = 1: L = 2, extent [0, 3], three bins of width 1 with one point each: 0.5, 1.5, 2.5
    feat = torch.tensor([[[10.0, 20.0, 40.0, 80.0]]])
    vectors = align_features(feat, feat, 4, 3, 3)
    assert vectors[0, :, 1, 1].tolist() == pytest.approx([15, 30, 60] * 2)
    # d = 3, s = 0: extent [-2, 5], one point per bin of 7/3 has n = 3; the two at -1.611 and at 4.611 read
    # nothing
    third = 7 / 9
    points = [-2 + (i + 0.5) * third for i in range(9)]
    read = [0, 10, 10, *np.interp(points[3:7], range(4), [10, 20, 40, 80]), 80, 0]
    expected = [sum(read[3 * p : 3 * p + 3]) / 3 for p in range(3)]
    assert vectors[0, :3, 3, 0].tolist() == pytest.approx(expected, rel=1e-6)


def test_plain_form_is_channel_major_and_reads_cell_zero_where_invalid():
    feat = torch.randn(1, 2, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    near = torch.randn(1, 2, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    got = align_features(feat, near, 5, 3, 2)[0]
    for d in range(5):
        for s in range(5):
            for c in range(2):
                one, other = feat[0, c].tolist(), near[0, c].tolist()
                if s + d <= 4:
                    expected = anchor_vector(one, d, s, 3) + anchor_vector(other, d, s, 2)
                else:
                    zero = Fraction(0)
                    expected = read_extent(one, zero, zero, 3) + read_extent(other, zero, zero, 2)
                np.testing.assert_allclose(got[c * 5 : c * 5 + 5, d, s].numpy(), expected, atol=1e-12)


def test_the_row_outside_reads_the_extent_zero_zero():
    inner, context = 5, 2
    row, column, weight = sampling_matrix(7, 4, inner, context, outside=True)
    anchors = len(anchor_grid(7, 4)[0])
    assert row.max() == anchors
    got = np.zeros((7, inner + context))
    mine = row == anchors
    got[column[mine] // (inner + context), column[mine] % (inner + context)] = weight[mine]
    for cell in range(7):
        unit, zero = [Fraction(int(k == cell)) for k in range(7)], Fraction(0)
        expected = read_extent(unit, zero, zero, inner) + read_extent(unit, zero, zero, context)
        np.testing.assert_allclose(got[cell], [float(x) for x in expected], atol=1e-12)
    for one, other in zip(sampling_matrix(7, 4, inner, context), (row, column, weight)):
        np.testing.assert_array_equal(one, other[~mine])  # the other rows are as without it


# with and without oneDNN rows
@pytest.mark.parametrize(("cells", "longest", "batch"), [(20, 20, 4), (21, 9, 3)])
def test_fast_form_and_its_gradients_agree_with_the_plain_one(cells, longest, batch):
    generator = torch.Generator().manual_seed(3)
    channels, width, inner, context = 8, 16, 6, 2
    layer = AlignedLinear(
        cells=cells, max_duration=longest, channels=channels, width=width, inner=inner, context=context
    )
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_(generator=generator)
    feat = torch.randn(batch, cells, channels, generator=generator, requires_grad=True)
    near = torch.randn(batch, cells, channels, generator=generator, requires_grad=True)
    leaves = (feat, near, *layer.parameters())
    d, s = (torch.from_numpy(x) for x in anchor_grid(cells, longest))
    pull = torch.randn(batch, len(d), width, generator=generator)

    fast = torch.stack(layer(feat, near))[:, : len(d)]
    fast_gradients = torch.autograd.grad((fast * pull).sum(), leaves)
    maps = align_features(feat.transpose(1, 2), near.transpose(1, 2), longest, inner, context)
    plain = F.conv2d(maps, layer.channel_major_weight()[:, :, None, None], layer.bias).relu()[:, :, d, s]
    plain_gradients = torch.autograd.grad((plain.transpose(1, 2) * pull).sum(), leaves)

    assert (fast > 0).float().mean() > 0.2
    assert (fast - plain.transpose(1, 2)).abs().max() < 1e-5 * plain.abs().max()
    for one, other in zip(fast_gradients, plain_gradients):
        assert (one - other).abs().max() < 1e-5 * other.abs().max()


@pytest.mark.parametrize("rows", [(4, 100), (1, 30), (7,), (2, 17), (3, 4, 5)])
def test_linear_rows_is_a_matrix_product(rows):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(*rows, 6, generator=generator, requires_grad=True)
    weight, bias = (
        torch.randn(9, 6, generator=generator, requires_grad=True),
        torch.randn(9, generator=generator),
    )
    out = linear_rows(x, weight, bias)
    expected = torch.einsum("...k,ok->...o", x, weight) + bias
    torch.testing.assert_close(out, expected)
    pull = torch.randn(out.shape, generator=generator)
    torch.testing.assert_close(
        torch.autograd.grad(out, (x, weight), pull),
        torch.autograd.grad(expected, (x, weight), pull),
        rtol=1e-5,
        atol=1e-4,  # the weights' gradients are sums of up to 400 terms, which each library adds in an order of its own
    )
