"""G-TAD on windows: its rules against worked examples and loops, the network against a plain one, a known answer."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from bsp.localization.gtad.network import nearest_cells, run_head, take_cells
from bsp.localization.gtad.sgalign import align_features, anchor_grid
from bsp.localization.gtad.windows import (
    WindowGTAD,
    WindowSettings,
    build_windows,
    propose_windows,
    take_window,
    train_windows,
    training_windows,
    window_candidates,
    window_labels,
    window_starts,
)

SMALL = WindowSettings(
    feature_width=8, cells=16, max_duration=8, stride_cells=8, inner_samples=3, context_samples=2, batch_size=4,
    learning_rate=1e-3,
)  # fmt: skip


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


# -- settings --


def test_defaults_are_those_of_the_thumos_release():
    settings = WindowSettings(feature_width=2048)
    assert (settings.cells, settings.max_duration, settings.stride_cells) == (256, 64, 128)
    assert (settings.inner_samples, settings.context_samples) == (16, 16)
    assert (settings.learning_rate, settings.weight_decay, settings.batch_size) == (4e-5, 1e-4, 8)
    assert (settings.epochs, settings.decay_epoch, settings.decay, settings.clip_norm) == (10, 5, 0.1, 1.0)
    assert (settings.soft_nms_sigma, settings.max_proposals, settings.top_classes) == (0.46, 200, 2)


@pytest.mark.parametrize(
    "wrong",
    [
        {"stride_cells": 0},
        {"stride_cells": 17},
        {"min_inside": 1.0},
        {"too_long_cells": 1},
        {"clip_norm": 0.0},
        {"clip_norm": math.nan},
        {"max_duration": 17},
    ],
)
def test_settings_name_the_value_they_refuse(wrong):
    name, value = next(iter(wrong.items()))
    with pytest.raises(ValueError, match=rf"{name}.*{value}"):
        replace(SMALL, **wrong)


# -- windows --


@pytest.mark.parametrize(
    ("snippets", "starts"),
    [
        (1, [0]),
        (255, [0]),
        (256, [0]),
        (307, [0]),
        (308, [0, 52]),
        (384, [0, 128]),
        (435, [0, 128]),
        (436, [0, 128, 180]),
        (1000, [0, 128, 256, 384, 512, 640, 744]),
    ],
)
def test_window_starts_of_the_release(snippets, starts):
    assert window_starts(snippets, 256, 128) == starts


def test_a_short_video_is_padded_with_zeros():
    feat = np.arange(12, dtype=np.float32).reshape(6, 2) + 1
    assert take_window(feat, 2, 3).tolist() == feat[2:5].tolist()
    assert take_window(feat, 0, 8).tolist() == [*feat.tolist(), [0, 0], [0, 0]]
    assert take_window(feat, 0, 8).dtype == np.float32


def test_training_windows_hold_nine_tenths_of_an_instance_and_all_that_overlaps():
    features = [np.zeros((24, 8), np.float32), np.zeros((40, 8), np.float32), np.zeros((5, 8), np.float32)]
    segments = [
        # starts 0 and 8: [12, 22] has 4 of 10 cells in the first window, all in the second
        np.array([[12.0, 22.0]]),
        # starts 0, 8, 16, 24: [6.9, 16.9] has 9.1 of 10 inside the first window; [14, 34] is never 0.9 inside
        np.array([[6.9, 16.9], [14.0, 34.0]]),
        np.zeros((0, 2)),
    ]
    got = [(video, start, inside.tolist()) for video, start, inside in training_windows(features, segments, SMALL)]
    assert [(video, start) for video, start, _ in got] == [(0, 8), (1, 0)]
    assert got[0][2] == [[4.0, 14.0]]
    assert got[1][2] == [[6.9, 16.9], [14.0, 34.0]]  # not cut at the window's edge
    # exactly nine tenths is not more than nine tenths
    assert training_windows(features[:1], [np.array([[7.0, 17.0]])], replace(SMALL, stride_cells=16)) == []


@pytest.mark.parametrize("bad", [[[3.0, 3.0]], [[4.0, 2.0]], [[0.0, math.nan]]])
def test_bad_segments_are_refused(bad):
    features = [np.zeros((20, 8), np.float32)] * 2
    with pytest.raises(ValueError, match=r"video 1: 1 of 1 segments .* don't end after"):
        training_windows(features, [np.array([[1.0, 2.0]]), np.array(bad)], SMALL)
    with pytest.raises(ValueError, match="2 feature arrays and 1 lists"):
        training_windows(features, [np.zeros((0, 2))], SMALL)
    with pytest.raises(ValueError, match="no window of 2 videos holds an instance"):
        train_windows(features, [np.zeros((0, 2))] * 2, SMALL, seed=0)


# -- labels --


def test_boundary_labels_in_frames():
    # The release's formula in frames, 5 per cell: cell i spans its centre +- 2.5 frames, a zone the boundary +- 7.5
    rng = np.random.default_rng(0)
    segments = np.sort(rng.uniform(-20, 100, (4, 2)), axis=1)  # frames; some reach out of the window's 80
    labels = window_labels(segments / 5, 16, 8)
    for column, got in ((0, labels.start), (1, labels.end)):
        for cell in range(16):
            left, right = 5 * cell, 5 * cell + 5
            overlaps = [min(right, t + 7.5) - max(left, t - 7.5) for t in segments[:, column]]
            assert got[cell].item() == pytest.approx(max(0, *overlaps) / 5, abs=1e-6)


def test_a_boundary_in_the_middle_of_a_cell_fills_three_cells():
    labels = window_labels(np.array([[4.5, 9.5]]), 16, 8)
    assert labels.start.tolist() == [0, 0, 0, 1, 1, 1, *[0] * 10]
    assert labels.end.tolist() == [*[0] * 8, 1, 1, 1, *[0] * 5]


def test_map_labels_are_with_the_part_inside():
    labels = window_labels(np.array([[-6.0, 2.0], [12.0, 30.0]]), 16, 8)
    duration, start = anchor_grid(16, 8)
    for d, s, tiou in zip(duration, start, labels.tiou.tolist()):
        cells = set(range(s, s + d + 1))
        expected = max(len(cells & one) / len(cells | one) for one in ({0, 1}, {12, 13, 14, 15}))
        assert tiou == pytest.approx(expected, abs=1e-6)
    assert labels.start[0] == 0  # the first instance began before the window
    assert labels.end[-1] == 0


# -- network --


@pytest.mark.parametrize(("width", "parameters"), [(2048, 5_617_540), (4096, 6_010_756)])
def test_parameter_counts_of_the_published_layout(width, parameters):
    # the count doesn't depend on the cells
    model = WindowGTAD(WindowSettings(feature_width=width, cells=5, max_duration=3, stride_cells=2))
    assert count(model) == parameters
    assert count(model.align) + count(model.stack) == 4_555_906


def test_network_agrees_with_plain_convolutions_on_the_whole_map():
    model = build_windows(SMALL, 5)
    feat = torch.randn(2, 16, 8, generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        hidden = model.base_graph(model.base(feat.transpose(1, 2)).transpose(1, 2).relu())
        graph = model.map_graph(hidden)
        near = take_cells(graph, nearest_cells(graph)).mean(2)
        x = align_features(graph.transpose(1, 2), near.transpose(1, 2), 8, 3, 2)  # with the invalid cells
        x = F.conv2d(x, model.align.channel_major_weight()[..., None, None], model.align.bias).relu()
        x = F.conv2d(x, model.stack[0].weight[..., None, None], model.stack[0].bias).relu()
        for layer in (1, 2):
            x = F.conv2d(x, model.stack[layer].weight, model.stack[layer].bias, padding=1).relu()
        x = F.conv2d(x, model.stack[3].weight[..., None, None], model.stack[3].bias).sigmoid()
        outputs = model(feat)
    d, s = (torch.from_numpy(index) for index in anchor_grid(16, 8))
    assert outputs.anchors.shape == (2, 2, 100)
    torch.testing.assert_close(outputs.anchors, x[:, :, d, s], rtol=1e-4, atol=1e-6)


def test_initialisation_is_pytorchs_default_range_and_seeded():
    state = torch.get_rng_state()
    one, same, other = build_windows(SMALL, 0), build_windows(SMALL, 0), build_windows(SMALL, 1)
    assert torch.equal(torch.get_rng_state(), state)
    bound = 1 / math.sqrt(128 * 9)
    assert 0.95 * bound < one.stack[1].weight.abs().max() <= bound
    assert torch.equal(one.stack[2].weight, same.stack[2].weight)
    assert not torch.equal(one.stack[2].weight, other.stack[2].weight)


# -- proposals --


def test_candidates_against_loops():
    settings = replace(SMALL, too_long_cells=6)
    rng = np.random.default_rng(0)
    full = rng.random((2, 8, 16))
    d, s = anchor_grid(16, 8)
    for snippets in (11, 16, 100):
        expected = []
        for duration in range(8):
            for start in range(16):
                end = start + duration + 1
                if end < 16 and end <= snippets:
                    score = full[0, duration, start] * full[1, duration, start]
                    expected.append((start, end, 0 if end - start >= 6 else score))
        segments, scores = window_candidates(full[:, d, s], settings, snippets)
        np.testing.assert_allclose(np.column_stack([segments, scores]), expected, rtol=1e-12)


def naive_soft_nms(pool, sigma, most):
    """``pool`` [(begin, end, score)]; one candidate alone is kept, else the last one left is not."""
    pool = [list(one) for one in pool]
    if len(pool) < 2:
        return pool
    out = []
    while len(pool) > 1 and len(out) < most and max(one[2] for one in pool) > 0:
        best = pool.pop(max(range(len(pool)), key=lambda k: pool[k][2]))
        out.append(best)
        for one in pool:
            shared = max(0, min(best[1], one[1]) - max(best[0], one[0]))
            one[2] *= math.exp(-((shared / (best[1] - best[0] + one[1] - one[0] - shared)) ** 2) / sigma)
    return out


def test_proposals_are_thinned_in_windows_and_again_in_the_video():
    settings = replace(SMALL, max_proposals=9)
    model = build_windows(settings, 0)
    rng = np.random.default_rng(0)
    features = [rng.standard_normal((length, 8)).astype(np.float32) for length in (28, 5, 16)]
    found = propose_windows(model, features, settings)
    for feat, starts, (segments, scores) in zip(features, ([0, 8, 12], [0], [0]), found):
        pooled = []
        for start in starts:
            window = np.zeros((16, 8), np.float32)
            window[: len(feat) - start] = feat[start : start + 16]
            ((anchors, _, _),) = run_head(model, [window], "cpu")
            pool = []
            for column, (d, s) in enumerate(zip(*anchor_grid(16, 8))):
                if s + d + 1 < 16 and s + d + 1 <= len(feat):
                    pool.append((s, s + d + 1, float(anchors[0, column]) * float(anchors[1, column])))
            pooled += [(b + start, e + start, score) for b, e, score in naive_soft_nms(pool, 0.46, 9)]
        expected = naive_soft_nms(pooled, 0.46, 9)
        assert segments.tolist() == [[b, e] for b, e, _ in expected]
        np.testing.assert_allclose(scores, [score for _, _, score in expected], rtol=1e-5)
        assert segments.max() <= len(feat)


# -- training --


def toy_videos(number, seed, *, width=16):
    """Noise of 20..60 snippets with planted instances: channel 0 rises at starts, 1 at ends, 2 inside."""
    rng = np.random.default_rng(seed)
    features, segments = [], []
    for _ in range(number):
        length = int(rng.integers(20, 60))
        feat = 0.3 * rng.standard_normal((length, width)).astype(np.float32)
        at, found = int(rng.integers(1, 6)), []
        while at < length - 4:
            end = min(at + int(rng.integers(3, 9)), length - 1)
            feat[at, 0], feat[end - 1, 1] = feat[at, 0] + 2, feat[end - 1, 1] + 2
            feat[at:end, 2] += 1
            found.append((at, end))
            at = end + int(rng.integers(3, 9))
        features.append(feat)
        segments.append(np.array(found, float))
    return features, segments


def recall(found, truth, tiou, most):
    """Share of instances that one of the first ``most`` proposals overlaps by at least ``tiou``."""
    hit = []
    for (segments, _), instances in zip(found, truth):
        for begin, end in instances:
            shared = np.minimum(segments[:most, 1], end) - np.maximum(segments[:most, 0], begin)
            shared = np.maximum(shared, 0)
            hit.append((shared / (np.diff(segments[:most])[:, 0] + end - begin - shared) >= tiou - 1e-9).any())
    return float(np.mean(hit))


@pytest.mark.long
def test_planted_segments_are_found():
    settings = WindowSettings(
        feature_width=16, cells=24, stride_cells=12, max_duration=12, inner_samples=4, context_samples=2,
        learning_rate=1e-3, epochs=4,
    )  # fmt: skip
    train, test = toy_videos(14, 0), toy_videos(8, 1)
    before = recall(propose_windows(build_windows(settings, 0), test[0], settings), test[1], 0.7, 8)
    model = train_windows(*train, settings, seed=0)
    after = recall(propose_windows(model, test[0], settings), test[1], 0.7, 8)
    assert before < 0.5
    assert after > 0.8


@pytest.mark.long
def test_same_seed_gives_the_same_bits_and_records_every_epoch():
    features, segments = toy_videos(3, 0, width=8)
    settings, records = replace(SMALL, epochs=2, decay_epoch=1), []
    state = torch.get_rng_state()
    one = train_windows(features, segments, settings, seed=7, on_epoch=records.append)
    two, other = (train_windows(features, segments, settings, seed=seed) for seed in (7, 8))
    assert torch.equal(torch.get_rng_state(), state)
    states = [model.state_dict() for model in (one, two, other)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not torch.equal(one.stack[1].weight, other.stack[1].weight)
    assert [record["epoch"] for record in records] == [0, 1]
    assert [record["learning_rate"] for record in records] == pytest.approx([1e-3, 1e-4])
    for record in records:
        parts = record["loss_node"] + 10 * record["loss_regression"] + record["loss_classification"]
        assert record["loss"] == pytest.approx(parts, rel=1e-5)


@pytest.mark.long
def test_the_gradient_of_a_step_is_clipped():
    # Adam's first step hardly depends on the gradient's size, the second, of the same epoch, does
    features, segments = toy_videos(2, 0, width=8)
    free, loose, clipped = (
        train_windows(features, segments, replace(SMALL, epochs=1, batch_size=2, clip_norm=norm), seed=0).base.weight
        for norm in (math.inf, 1e6, 0.05)
    )
    assert torch.equal(free, loose)
    assert not torch.equal(free, clipped)
