"""The map of 2D-TAN: resampling, candidates, their features, mask weights, targets and the choice of moments."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from bsp.localization.grounding.tan2d_map import (
    ProposalMap,
    candidate_cells,
    conv_plan,
    decode,
    frame_bounds,
    overlap_targets,
    resample,
)


def naive_resample(feat, frames):
    # Python's round takes halves of exact fractions to the even integer
    last = len(feat) - 1
    bounds = [min(round(Fraction(k * len(feat), frames)), last) for k in range(frames + 1)]
    rows = []
    for a, b in itertools.pairwise(bounds):
        rows.append(sum(feat[a:b]) / (b - a) if b > a else feat[a])
    return np.array(rows)


@pytest.mark.parametrize(("snippets", "frames"), [(1, 4), (3, 8), (10, 4), (90, 256), (23, 12), (12, 12), (50, 7)])
def test_resample_is_the_naive_loop(snippets, frames):
    feat = np.random.default_rng(snippets).standard_normal((snippets, 3)).astype(np.float32)
    got = resample(feat, frames)
    assert got.shape == (frames, 3)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, naive_resample(feat, frames), rtol=1e-5, atol=1e-6)


def test_resample_rounds_halves_to_even_and_drops_the_last_row():
    # 10 rows to 4: limits 0, 2.5, 5, 7.5, 10 become 0, 2, 5, 8, 9, so the last frame is row 8 alone
    assert frame_bounds(10, 4).tolist() == [0, 2, 5, 8, 9]
    feat = np.arange(10, dtype=np.float32)[:, None]
    assert resample(feat, 4)[:, 0].tolist() == [0.5, 3.0, 6.0, 8.0]
    feat[9] = 100  # never read
    assert resample(feat, 4)[:, 0].tolist() == [0.5, 3.0, 6.0, 8.0]
    # 3 rows to 4: limits 0, .75, 1.5, 2.25, 3 become 0, 1, 2, 2, 2
    assert resample(feat[:3], 4)[:, 0].tolist() == [0.0, 1.0, 2.0, 2.0]


@pytest.mark.parametrize(
    ("cells", "scales", "count"),
    [(16, (16,), 136), (64, (16, 8, 8), 1104), (128, (16, 8, 8, 8), 2548), (32, (16, 8), 428)],
)
def test_candidate_counts_of_the_released_maps(cells, scales, count):
    pairs = candidate_cells(cells, scales)
    assert pairs.shape == (count, 2)
    assert len({tuple(pair) for pair in pairs.tolist()}) == count
    assert pairs.min() >= 0
    assert pairs.max() < cells
    assert (pairs[:, 0] <= pairs[:, 1]).all()


def test_sparse_candidates_follow_the_table_of_strides_and_lengths():
    table = [(1, range(1, 17)), (2, range(18, 33, 2)), (4, range(36, 65, 4))]
    want = {
        (start, start + length - 1)
        for stride, lengths in table
        for length in lengths
        for start in range(0, 64 - length + 1, stride)
    }
    assert {tuple(pair) for pair in candidate_cells(64, (16, 8, 8)).tolist()} == want


@pytest.mark.parametrize(("cells", "scales"), [(6, (6,)), (16, (4, 2, 2)), (9, (3, 2)), (1, (1,))])
def test_pool_map_holds_the_maximum_over_the_clips(cells, scales):
    clips = torch.randn(2, cells, 5, generator=torch.Generator().manual_seed(0))
    got = ProposalMap(5, cells, scales, "pool")(clips)
    for at, (i, j) in enumerate(candidate_cells(cells, scales)):
        for video in range(2):
            want = [max(clips[video, clip, channel].item() for clip in range(i, j + 1)) for channel in range(5)]
            assert got[video, at].tolist() == want


def test_conv_map_on_weights_set_by_hand():
    # one channel, three clips 1, 2, 4; kernel 1: x -> 2x + 1; then a + 10 b; then a - b + 5
    module = ProposalMap(1, 3, (3,), "conv")
    weights = [([2.0], 1.0), ([1.0, 10.0], 0.0), ([1.0, -1.0], 5.0)]
    with torch.no_grad():
        for layer, (weight, bias) in zip(module.convs, weights, strict=True):
            layer.weight.copy_(torch.tensor([weight]))
            layer.bias.fill_(bias)
        got = module(torch.tensor([[[1.0], [2.0], [4.0]]]))
    # diagonal 3, 5, 9; then 3 + 50, 5 + 90; then 53 - 95 + 5, below zero, so no activation cuts it
    assert got[0, :, 0].tolist() == [3, 5, 9, 53, 95, -37]
    assert candidate_cells(3, (3,)).tolist() == [[0, 0], [1, 1], [2, 2], [0, 1], [1, 2], [0, 2]]


def test_conv_map_is_a_chain_of_one_dimensional_convolutions():
    cells, scales, hidden = 9, (3, 2), 4  # lengths 1 2 3, then 5 7 at even starts
    module = ProposalMap(hidden, cells, scales, "conv")
    clips = torch.randn(2, cells, hidden, generator=torch.Generator().manual_seed(1))
    got = module(clips)
    x, want = clips.transpose(1, 2), []
    for layer, kernel, stride in zip(module.convs, [1, 2, 2, 3, 2], [1, 1, 1, 2, 1], strict=True):
        weight = layer.weight.unflatten(1, (kernel, hidden)).transpose(1, 2)
        x = F.conv1d(x, weight, layer.bias, stride=stride)
        want.append(x.transpose(1, 2))
    torch.testing.assert_close(got, torch.cat(want, 1))


def test_weights_count_the_valid_cells_under_the_kernel():
    mask = torch.ones(2, 2).triu()
    [(padding, weight)] = conv_plan(mask, 3, 1)
    assert padding == 1  # every output sees all three cells
    torch.testing.assert_close(weight, torch.full((2, 2), 1 / 3))
    (first, one), (second, two) = conv_plan(mask, 3, 2)
    assert (first, second) == (2, 0)
    # valid cells under each 3 x 3 of the 4 x 4 grid around the three cells
    count = torch.tensor([[1, 2, 2, 1], [1, 3, 3, 2], [1, 3, 3, 2], [0, 1, 1, 1]]).float()
    torch.testing.assert_close(one, torch.where(count > 0, 1 / count, 0.0))
    # one cell of the sixteen stayed invalid: only the window around cell (1, 0) sees it
    torch.testing.assert_close(two, torch.tensor([[1 / 9, 1 / 9], [1 / 8, 1 / 9]]))


def test_targets_on_worked_numbers():
    # four clips, moment 0.25 .. 0.75 (clips 1 and 2)
    cells = torch.from_numpy(candidate_cells(4, (4,)))
    moments = torch.tensor([[0.25, 0.75], [0.25, 1.5]])
    got = overlap_targets(moments, cells, 4, iou_min=0.5, iou_max=1.0)
    iou = {(1, 2): 1, (0, 2): 2 / 3, (1, 3): 2 / 3, (0, 3): 1 / 2, (1, 1): 1 / 2, (2, 2): 1 / 2, (0, 1): 1 / 3}
    for at, pair in enumerate(cells.tolist()):
        want = min(max((iou.get(tuple(pair), 0) - 0.5) / 0.5, 0), 1)
        assert math.isclose(got[0, at].item(), want, abs_tol=1e-6), pair
    # a moment that ends after the video counts as ending with it
    assert got[1, cells.tolist().index([1, 3])] == 1
    # the plain IoU when nothing is scaled
    got = overlap_targets(moments, cells, 4, iou_min=0.0, iou_max=1.0)
    assert math.isclose(got[0, cells.tolist().index([0, 1])].item(), 1 / 3, abs_tol=1e-6)
    assert got[0, cells.tolist().index([0, 0])] == 0


def scores_of(cells, values):
    scores = np.zeros((cells, cells), np.float32)
    for pair, value in values.items():
        scores[pair] = value
    return scores


def test_moments_of_a_hand_made_map():
    # times: (i, j) is i/4 .. (j + 1)/4
    scores = scores_of(4, {(0, 3): 0.9, (0, 2): 0.8, (1, 2): 0.7, (3, 3): 0.6, (2, 3): 0.5, (0, 0): 0.4, (3, 0): 0.99})
    # IoU with (0, 3): (0, 2) 3/4, out; (1, 2) 1/2, stays (<=); (3, 3) 1/4; (2, 3) 1/2 and with (1, 2) 1/3, with
    # (3, 3) 1/2, stays; below the diagonal nothing is a candidate
    got = decode(scores, nms=0.5, moments=4)
    np.testing.assert_allclose(got[:, :2], [[0, 1], [0.25, 0.75], [0.75, 1], [0.5, 1]])
    np.testing.assert_allclose(got[:, 2], [0.9, 0.7, 0.6, 0.5], rtol=1e-6)
    assert got.dtype == np.float64
    # a threshold just under one half drops (1, 2) and (2, 3)
    got = decode(scores, nms=0.49, moments=3)
    np.testing.assert_allclose(got[:, :2], [[0, 1], [0.75, 1], [0, 0.25]])
    assert len(decode(scores, nms=0.5, moments=1)) == 1


def test_equal_scores_go_by_start_then_end_and_missing_cells_come_last():
    got = decode(scores_of(3, {(1, 1): 0.5, (0, 1): 0.5, (0, 0): 0.5}), nms=1.0, moments=6)
    want = [(0, 0), (0, 1), (1, 1), (0, 2), (1, 2), (2, 2)]
    np.testing.assert_allclose(got[:, :2], [(i / 3, (j + 1) / 3) for i, j in want])
    # an overlap of exactly the threshold stays, also where its fraction is no binary number: 9 / 20
    scores = scores_of(20, {(0, 19): 0.9, (0, 8): 0.8})
    np.testing.assert_allclose(decode(scores, nms=0.45, moments=2)[:, :2], [[0, 1], [0, 0.45]])
