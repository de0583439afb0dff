"""The G-TAD head: sizes, the network against a plain version, reproducibility, learning a known answer."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from bsp.localization.gtad.network import (
    GTAD,
    GCNeXt,
    GTADSettings,
    build_gtad,
    nearest_cells,
    propose,
    train_gtad,
)
from bsp.localization.gtad.sgalign import align_features, anchor_grid

SMALL = GTADSettings(feature_width=8, cells=12, max_duration=12, inner_samples=4, context_samples=2, batch_size=4)


def toy_videos(count, seed, *, cells=12, width=8, noise=0.3):
    """Noise plus one or two whole-cell instances: channel 0 rises at starts, 1 at ends, 2 inside."""
    rng = np.random.default_rng(seed)
    features, segments = [], []
    for _ in range(count):
        feat = noise * rng.standard_normal((cells, width)).astype(np.float32)
        found, at = [], int(rng.integers(1, cells // 4))
        while at < cells - 2 and len(found) < 2:
            end = min(at + int(rng.integers(3, cells // 2)), cells - 1)
            feat[at, 0], feat[end - 1, 1] = feat[at, 0] + 2, feat[end - 1, 1] + 2
            feat[at:end, 2] += 1
            found.append((at / cells, end / cells))
            at = end + int(rng.integers(2, cells // 3))
        features.append(feat)
        segments.append(np.array(found))
    return features, segments


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(
    ("width", "parameters"),
    [
        (64, 5_498_756),
        (128, 5_511_044),
        (400, 5_563_268),
        (512, 5_584_772),
        (1024, 5_683_076),
        (2048, 5_879_684),
        (4096, 6_272_900),
    ],
)
def test_parameter_counts_of_the_published_layout(width, parameters):
    # the count doesn't depend on the cells
    model = GTAD(GTADSettings(feature_width=width, cells=5, max_duration=5))
    assert count(model) == parameters
    assert count(model.align) + count(model.stack) == 4_818_050
    assert count(model.base_graph) == 166_912


def test_parameter_counts_of_narrow_widths():
    """Counted by hand: weights and biases, layer by layer."""
    settings = GTADSettings(
        feature_width=16, cells=5, max_duration=5, inner_samples=8, context_samples=2, hidden=8, block=32, aligned=12,
        mapped=6,
    )  # fmt: skip
    model = GTAD(settings)
    assert count(model.base) == 8 * (16 // 4) * 3 + 8
    block = (8 * 32 + 32) + (32 * 3 + 32) + (32 * 8 + 8) + (16 * 32 + 32) + (32 + 32) + (32 * 8 + 8)
    assert count(model.base_graph) == block
    assert count(model.start) == 8 + 1
    assert count(model.stack) == (12 * 6 + 6) + 2 * (6 * 6 + 6) + (6 * 2 + 2)
    assert count(model) == count(model.base) + 4 * block + 2 * 9 + count(model.align) + count(model.stack)
    assert count(model.align) <= 8 * (8 + 2 * 2) * 12 + 2 * 12


@pytest.mark.parametrize(
    "wrong",
    [
        {"feature_width": 6},
        {"cells": 2, "max_duration": 1},
        {"max_duration": 13},
        {"inner_samples": 0},
        {"epochs": 0},
        {"hidden": 6},
        {"block": 48},
        {"aligned": 0},
        {"learning_rate": 0.0},
        {"weight_decay": -1.0},
        {"decay": 1.5},
        {"soft_nms_sigma": 0.0},
        {"soft_nms_sigma": math.nan},
    ],
)
def test_settings_name_the_value_they_refuse(wrong):
    name, value = next(iter(wrong.items()))
    with pytest.raises(ValueError, match=rf"{name}.*{value}"):
        replace(SMALL, **wrong)


def plain_neighbours(feat):
    """Three nearest cells of each cell of one video [T, C], itself first."""
    distance = torch.cdist(feat.double(), feat.double())
    return [
        [t, *sorted((u for u in range(len(feat)) if u != t), key=lambda u: distance[t, u].item())[:2]]
        for t in range(len(feat))
    ]


def plain_gcnext(block, feat_BTC):
    """The block with grouped convolutions, one [2C, T, 3] tensor of neighbour and centre per video."""
    out = []
    for feat in feat_BTC:
        x = feat.t()[None]
        time = F.conv1d(x, block.time_in.weight, block.time_in.bias).relu()
        time = F.conv1d(time, block.time.weight, block.time.bias, padding=1, groups=32).relu()
        time = F.conv1d(time, block.time_out.weight, block.time_out.bias)
        near = x[0][:, plain_neighbours(feat)]
        graph = torch.cat([near, x[0][:, :, None].expand_as(near)])[None]
        graph = F.conv2d(graph, block.graph_in.weight[..., None], block.graph_in.bias).relu()
        graph = F.conv2d(graph, block.graph.weight[..., None], block.graph.bias, groups=32).relu()
        graph = F.conv2d(graph, block.graph_out.weight[..., None], block.graph_out.bias).max(3).values
        out.append((x + time + graph).relu()[0].t())
    return torch.stack(out)


def test_nearest_cells():
    feat = torch.randn(2, 9, 5, generator=torch.Generator().manual_seed(0))
    got = nearest_cells(feat)
    for b in range(2):
        assert [sorted(row) for row in got[b].tolist()] == [sorted(row) for row in plain_neighbours(feat[b])]
    same = nearest_cells(torch.ones(1, 6, 4))  # six equal cells: each is still its own neighbour
    assert all(t in row for t, row in enumerate(same[0].tolist()))


def test_gcnext_agrees_with_grouped_convolutions():
    block = build_gtad(SMALL, 3).start_graph
    assert isinstance(block, GCNeXt)
    feat = torch.randn(4, 12, 256, generator=torch.Generator().manual_seed(1), requires_grad=True)
    got, expected = block(feat), plain_gcnext(block, feat)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    pull = torch.randn(got.shape, generator=torch.Generator().manual_seed(2))
    leaves = (feat, *block.parameters())
    for one, other in zip(torch.autograd.grad(got, leaves, pull), torch.autograd.grad(expected, leaves, pull)):
        assert (one - other).abs().max() < 1e-4 * other.abs().max()


def test_network_agrees_with_the_plain_formulation():
    model = build_gtad(SMALL, 5)
    feat = torch.randn(2, 12, 8, generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        hidden = F.conv1d(feat.transpose(1, 2), model.base.weight, model.base.bias, padding=1, groups=4).relu()
        hidden = plain_gcnext(model.base_graph, hidden.transpose(1, 2))
        branches = [
            F.conv1d(plain_gcnext(graph, hidden).transpose(1, 2), last.weight, last.bias)[:, 0].sigmoid()
            for graph, last in ((model.start_graph, model.start), (model.end_graph, model.end))
        ]
        graph = plain_gcnext(model.map_graph, hidden)
        near = torch.stack([one[torch.tensor(plain_neighbours(one))].mean(1) for one in graph])
        maps = align_features(graph.transpose(1, 2), near.transpose(1, 2), 12, 4, 2)
        maps = F.conv2d(maps, model.align.channel_major_weight()[..., None, None], model.align.bias).relu()
        for layer in model.stack[:-1]:
            maps = F.conv2d(maps, layer.weight[..., None, None], layer.bias).relu()
        maps = F.conv2d(maps, model.stack[-1].weight[..., None, None], model.stack[-1].bias).sigmoid()
        outputs = model(feat)
    d, s = (torch.from_numpy(x) for x in anchor_grid(12, 12))
    assert outputs.anchors.shape == (2, 2, 78)
    torch.testing.assert_close(outputs.anchors, maps[:, :, d, s], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(outputs.start, branches[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(outputs.end, branches[1], rtol=1e-4, atol=1e-5)


def test_initialisation_is_pytorchs_default_range_and_seeded():
    state = torch.get_rng_state()
    one, other = build_gtad(SMALL, 0), build_gtad(SMALL, 1)
    assert torch.equal(torch.get_rng_state(), state)
    for parameter, bound in (
        (one.base.weight, 1 / math.sqrt(2 * 3)),
        (one.align.inner_weight, 1 / math.sqrt(256 * 6)),
        (one.align.bias, 1 / math.sqrt(256 * 6)),
        (one.base_graph.graph_in.weight, 1 / math.sqrt(512)),
        (one.stack[0].weight, 1 / math.sqrt(512)),
    ):
        assert 0.95 * bound < parameter.abs().max() <= bound
        assert abs(parameter.mean()) < 0.2 * bound
    assert not torch.equal(one.base.weight, other.base.weight)
    assert all(torch.isfinite(parameter).all() for parameter in one.parameters())


@pytest.mark.long
def test_same_seed_gives_the_same_bits_and_leaves_global_state_alone():
    features, segments = toy_videos(10, 0)
    settings = replace(SMALL, epochs=2)
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    runs = [train_gtad(features, segments, settings, seed=7) for _ in range(2)]
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert (np.random.get_state()[1] == numpy_state).all()  # noqa: NPY002
    other = train_gtad(features, segments, settings, seed=8)
    first, second, third = (model.state_dict() for model in (*runs, other))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not all(torch.equal(first[name], third[name]) for name in first)


@pytest.mark.long
def test_lowest_validation_loss_is_kept_and_validation_does_not_disturb_training():
    features, segments = toy_videos(8, 0)
    # the validation answers contradict the training ones, so that its loss rises while the training loss
    # falls
    contrary = [np.array([[0.0, 0.07]])] * 8
    settings = replace(SMALL, epochs=6, learning_rate=2e-3)
    with_validation, without = [], []
    kept = train_gtad(
        features, segments, settings, seed=0, validation=(features, contrary), on_epoch=with_validation.append
    )
    last = train_gtad(features, segments, settings, seed=0, on_epoch=without.append)
    assert [one["loss"] for one in with_validation] == [one["loss"] for one in without]
    assert [one["epoch"] for one in with_validation] == list(range(6))
    assert {"loss_node", "loss_regression", "loss_classification", "learning_rate"} <= set(without[0])
    assert "validation_loss" not in without[0]
    best = int(np.argmin([one["validation_loss"] for one in with_validation]))
    assert best < 5
    # training for best + 1 epochs ends where the kept epoch was (the learning rate is constant up to epoch 5)
    stopped = train_gtad(features, segments, replace(settings, epochs=best + 1), seed=0)
    assert torch.equal(kept.base.weight, stopped.base.weight)
    assert not torch.equal(kept.base.weight, last.base.weight)


def test_learning_rate_drops_after_five_epochs():
    features, segments = toy_videos(4, 0)
    seen = []
    train_gtad(features, segments, replace(SMALL, epochs=7), seed=0, on_epoch=seen.append)
    assert [one["learning_rate"] for one in seen] == pytest.approx([4e-3] * 5 + [4e-4] * 2)


def test_refuses_features_that_do_not_fit():
    features, segments = toy_videos(2, 0)
    with pytest.raises(ValueError, match=r"video 1 have shape \(12, 4\)"):
        train_gtad([features[0], features[1][:, :4]], segments, SMALL, seed=0)
    with pytest.raises(ValueError, match="2 feature arrays and 1 lists"):
        train_gtad(features, segments[:1], SMALL, seed=0)
    features[1][3, 3] = np.nan
    with pytest.raises(ValueError, match="video 1 hold NaN"):
        train_gtad(features, segments, SMALL, seed=0)


def test_videos_without_instances_are_trained_on():
    features, _ = toy_videos(4, 0)
    model = train_gtad(features, [np.zeros((0, 2))] * 4, replace(SMALL, epochs=1), seed=0)
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())


def test_proposals_are_per_video_ordered_and_bounded():
    features, _ = toy_videos(5, 1)
    features[2] = np.repeat(features[2], 3, 0)  # another number of snippets
    model = build_gtad(SMALL, 0)
    found = propose(model, features, replace(SMALL, max_proposals=6))
    assert len(found) == 5
    for segments, scores in found:
        assert len(segments) == len(scores) <= 6
        assert (np.diff(scores) <= 0).all()
        assert (segments >= 0).all()
        assert (segments[:, 1] <= 11 / 12).all()
        assert (segments[:, 1] > segments[:, 0]).all()
    alone = propose(model, features[3:4], replace(SMALL, max_proposals=6))[0]
    np.testing.assert_allclose(alone[1], found[3][1], rtol=1e-4)


def recall(found, truth, tiou, most):
    """Share of instances that one of the first ``most`` proposals overlaps by at least ``tiou``."""
    hit = []
    for (segments, _), instances in zip(found, truth):
        for begin, end in instances:
            overlap = np.minimum(segments[:most, 1], end) - np.maximum(segments[:most, 0], begin)
            overlap = np.maximum(overlap, 0)
            union = np.diff(segments[:most], axis=1)[:, 0] + (end - begin) - overlap
            hit.append((overlap / union >= tiou - 1e-9).any())
    return float(np.mean(hit))


@pytest.mark.long
def test_learns_a_known_answer():
    # Instances lie on whole cells and end by T - 1, so a perfect head reaches 1.0 (the ceiling) of
    # recall@5 at tIoU 0.7; an untrained one finds what its gating leaves by chance.
    settings = GTADSettings(feature_width=16, cells=30, max_duration=30, batch_size=8, learning_rate=1e-3)
    train, validation = toy_videos(40, 0, cells=30, width=16), toy_videos(20, 1, cells=30, width=16)
    before = recall(propose(build_gtad(settings, 0), validation[0], settings), validation[1], 0.7, 5)
    model = train_gtad(*train, settings, seed=0)
    after = recall(propose(model, validation[0], settings), validation[1], 0.7, 5)
    assert before < 0.5
    assert after > 0.8
