"""2D-TAN: the network against naive versions, its loss, reproducibility, refusals, and learning a known answer."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from bsp.localization.grounding.queries import Query, interval_iou, mean_iou
from bsp.localization.grounding.tan2d import TAN2DSettings, build_tan2d, ground_tan2d, train_tan2d
from bsp.localization.grounding.tan2d_map import candidate_cells
from synthetic_grounding import best_cells, make, recall, without_words

SMALL = TAN2DSettings(
    feature_width=6, frames=8, pool=2, hidden=5, scales=(4,), kernel=3, layers=3, lstm_layers=2, batch_size=4, epochs=2,
    learning_rate=3e-3,
)  # fmt: skip
SPARSE = replace(SMALL, frames=16, scales=(4, 2))


def toy(seed=0, *, videos=3, queries=6, width=6):
    """Noise: random features, queries and word table."""
    rng = np.random.default_rng(seed)
    features = [rng.standard_normal((rng.integers(3, 12), width)).astype(np.float32) for _ in range(videos)]
    found = []
    for _ in range(queries):
        start, length = 0.5 * rng.random(), 0.1 + 0.4 * rng.random()
        tokens = rng.integers(1, 9, rng.integers(1, 6))
        found.append(Query(video=int(rng.integers(videos)), tokens=tokens, start=start, end=start + length))
    return features, found, rng.standard_normal((9, 7)).astype(np.float32)


def clips_of(model, feat):
    """Rows divided by their norm, resampled, through the first layer, averaged in windows: [N, H]."""
    settings = model.settings
    rows = [row / math.sqrt(sum(float(x) ** 2 for x in row)) if settings.normalise else row for row in feat]
    limits = [min(round(k * len(rows) / settings.frames), len(rows) - 1) for k in range(settings.frames + 1)]
    frames = [np.mean(rows[a:b], axis=0) if b > a else rows[a] for a, b in itertools.pairwise(limits)]
    hidden = model.frames_in(torch.tensor(np.array(frames), dtype=torch.float32)).relu()
    return torch.stack([part.mean(0) for part in hidden.split(settings.pool)])


def published_convolutions(model, x_HNN, mask):
    """The stack on the map as the reference has it: only the first layer padded, by layers * (kernel - 1) / 2."""
    settings = model.settings
    pad = settings.layers * (settings.kernel - 1) // 2
    x = np.pad(x_HNN, [(0, 0), (pad, pad), (pad, pad)])
    mask = np.pad(mask, pad)
    for conv in model.convs:
        weight, bias = conv.weight.numpy().astype(float), conv.bias.numpy().astype(float)
        size, k = len(mask) - settings.kernel + 1, settings.kernel
        out, seen = np.zeros((settings.hidden, size, size)), np.zeros((size, size))
        for a in range(size):
            for b in range(size):
                count = mask[a : a + k, b : b + k].sum()
                if count > 0:
                    value = (weight * x[None, :, a : a + k, b : b + k]).sum((1, 2, 3)) + bias
                    out[:, a, b], seen[a, b] = np.maximum(value, 0) / count, 1
        x, mask = out, seen
    return x


@torch.no_grad()
def naive_scores(model, feat, tokens, cells):
    """Score of every candidate for one query, computed cell by cell; pool form."""
    settings, hidden = model.settings, model.settings.hidden
    clips = clips_of(model, feat)
    emb = model.words.weight[torch.as_tensor(tokens)][None]
    code = model.fuse_text(model.sentence.lstm(emb)[0][0, -1])
    fused = np.zeros((hidden, settings.cells, settings.cells))
    mask = np.zeros((settings.cells, settings.cells))
    for i, j in cells:
        product = code * model.fuse_map(clips[i : j + 1].amax(0))
        fused[:, i, j], mask[i, j] = (product / product.norm()).numpy(), 1
    out = published_convolutions(model, fused, mask)
    weight, bias = model.score.weight[0].numpy().astype(float), model.score.bias.item()
    return {(i, j): 1 / (1 + math.exp(-(weight @ out[:, i, j] + bias))) for i, j in cells}


@pytest.mark.parametrize(
    "settings",
    [
        replace(SMALL, form="pool"),
        replace(SPARSE, form="pool"),
        replace(SMALL, form="pool", kernel=5, layers=2, normalise=False),
        replace(SMALL, form="pool", kernel=1, layers=1),
        replace(SMALL, form="pool", kernel=3, layers=4),
    ],
)
def test_scores_are_those_of_the_naive_network(settings):
    features, queries, table = toy()
    model = build_tan2d(settings, table, False, 0)
    with torch.no_grad():  # large enough weights for the convolutions to matter
        for conv in model.convs:
            conv.weight.mul_(settings.kernel**2)
    cells = [tuple(pair) for pair in candidate_cells(settings.cells, settings.scales).tolist()]
    everything = settings.cells * (settings.cells + 1) // 2
    found = ground_tan2d(_with(model, nms=1.0, moments=everything), features, queries)
    for query, moments in zip(queries, found, strict=True):
        want = naive_scores(model, features[query.video], query.tokens, cells)
        assert len(moments) == everything
        got = {(round(s * settings.cells), round(e * settings.cells) - 1): score for s, e, score in moments}
        for cell, score in got.items():
            assert math.isclose(score, want.get(cell, 0.0), rel_tol=1e-4), cell
    spread = [score for moments in found for score in moments[: len(cells), 2]]
    assert np.std(spread) > 1e-4  # the comparison is not of one constant


def _with(model, **changes):
    other = build_tan2d(replace(model.settings, **changes), model.words.weight.detach().numpy(), False, 0)
    other.load_state_dict(model.state_dict())
    return other


def test_sentence_code_does_not_depend_on_padding_nor_scores_on_the_batch():
    features, queries, table = toy(queries=7)
    model = build_tan2d(replace(SMALL, moments=10, nms=1.0), table, False, 0)
    assert len({len(query.tokens) for query in queries}) > 1
    together = ground_tan2d(model, features, queries)
    for query, moments in zip(queries, together, strict=True):
        [alone] = ground_tan2d(model, features, [query])
        # nearly equal scores may change places; the scores themselves may not change
        np.testing.assert_allclose(alone[:, 2], moments[:, 2], rtol=1e-5)


def test_a_moment_ends_with_its_last_clip():
    features, queries, table = toy()
    model = build_tan2d(replace(SMALL, moments=10, nms=1.0), table, False, 0)
    moments = ground_tan2d(model, features, queries)[0]
    want = {(i / 4, (j + 1) / 4) for i in range(4) for j in range(i, 4)}
    assert {(start, end) for start, end, _ in moments} == want
    assert (np.diff(moments[:, 2]) <= 0).all()
    assert moments.dtype == np.float64
    assert len(ground_tan2d(_with(model, moments=2), features, queries)[0]) == 2


@pytest.mark.parametrize("settings", [SMALL, SPARSE])
def test_loss_is_one_mean_over_the_candidates_of_the_batch(settings):
    features, queries, table = toy(queries=4)
    records = []
    one = replace(settings, epochs=1, batch_size=8)  # a single batch: its loss is that of the first weights
    train_tan2d(features, queries, one, table=table, trainable_words=False, seed=3, on_epoch=records.append)
    everything = settings.cells * (settings.cells + 1) // 2
    model = build_tan2d(replace(one, nms=1.0, moments=everything), table, False, 3)
    cells = {tuple(pair) for pair in candidate_cells(settings.cells, settings.scales).tolist()}
    terms = []
    for query, moments in zip(queries, ground_tan2d(model, features, queries), strict=True):
        for start, end, score in moments:
            if (round(start * settings.cells), round(end * settings.cells) - 1) not in cells:
                continue
            inside = max(min(end, query.end) - max(start, query.start), 0)
            iou = inside / (max(end, query.end) - min(start, query.start))
            target = min(max((iou - 0.5) / 0.5, 0), 1)
            terms.append(-target * math.log(score) - (1 - target) * math.log(1 - score))
    assert len(terms) == len(cells) * len(queries)
    assert math.isclose(records[0]["loss"], sum(terms) / len(terms), rel_tol=1e-5)


def trained(settings=SMALL, seed=0, trainable=False, **more):
    features, queries, table = toy()
    return train_tan2d(features, queries, settings, table=table, trainable_words=trainable, seed=seed, **more), table


def equal(a, b):
    pairs = zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    return all(torch.equal(x, y) for x, y in pairs)


@pytest.mark.parametrize("form", ["conv", "pool"])
def test_same_seed_same_bits_and_no_global_generator(form):
    settings = replace(SMALL, form=form)
    state = torch.random.get_rng_state()
    a, b, other = trained(settings)[0], trained(settings)[0], trained(settings, seed=1)[0]
    assert equal(a, b)
    assert not equal(a, other)
    assert torch.equal(state, torch.random.get_rng_state())
    features, queries, _ = toy()
    validated, _ = trained(settings, validation=(features, queries))
    last_is_best = trained(replace(settings, epochs=1), validation=(features, queries))[0]
    assert equal(validated, a) or equal(validated, last_is_best)  # validating changes nothing but the choice


def test_words_are_trained_only_when_asked():
    frozen, table = trained()
    assert torch.equal(frozen.words.weight, torch.from_numpy(table))
    assert not frozen.words.weight.requires_grad
    free, table = trained(trainable=True)
    changed = (free.words.weight.detach() != torch.from_numpy(table)).any(1)
    used = {int(token) for query in toy()[1] for token in query.tokens}
    assert changed.nonzero()[:, 0].tolist() == sorted(used)  # padding is not among them


def test_the_best_validation_epoch_is_kept():
    features, queries, table = make(0, videos=16, snippets=8, moments=2)
    settings = replace(SMALL, feature_width=16, form="pool", lstm_layers=1, epochs=8, learning_rate=0.03)
    records = []
    model = train_tan2d(
        features, queries, settings, table=table, trainable_words=False, seed=0,
        validation=(features, queries), on_epoch=records.append,
    )  # fmt: skip
    values = [record["validation_miou"] for record in records]
    assert [record["epoch"] for record in records] == list(range(8))
    assert values.index(max(values)) < 7  # else the test would not tell the best from the last
    found = ground_tan2d(model, features, queries)
    first = [interval_iou(m[:1, :2], q.start, q.end)[0] for m, q in zip(found, queries, strict=True)]
    assert math.isclose(np.mean(first), max(values), rel_tol=1e-9)


def test_parameter_count_of_the_layout():
    # per layer by hand: D H + H; diagonals H H + H, then 15 times 2 H H + H; three LSTM layers with two biases;
    # two fusing layers; eight convolutions; the score
    width, h, words = 20, 8, 7
    settings = TAN2DSettings(feature_width=width, hidden=h)
    model = build_tan2d(settings, np.zeros((9, words), np.float32), False, 0)
    lstm = 4 * h * (words + h + 2) + 2 * 4 * h * (h + h + 2)
    want = width * h + h + h * h + h + 15 * (2 * h * h + h) + lstm + 2 * (h * h + h) + 8 * (25 * h * h + h) + h + 1
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == want
    assert settings.cells == 16
    assert settings.nms_threshold == 0.5
    assert replace(settings, form="pool").nms_threshold == 0.45
    assert replace(settings, nms=0.3).nms_threshold == 0.3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"frames": 250}, "multiple of pool"),
        ({"form": "dense"}, "form"),
        ({"kernel": 4}, "kernel must be odd"),
        ({"scales": (16, 1)}, "length of 18 clips"),
        ({"scales": ()}, "scales"),
        ({"iou_min": 1.0}, "iou_min"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"clip_gradient": 0.0}, "clip_gradient"),
        ({"nms": 1.5}, "nms"),
        ({"layers": 0}, "layers must be at least 1, got 0"),
    ],
)
def test_settings_that_cannot_work_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        TAN2DSettings(**({"feature_width": 4} | change))


@pytest.mark.parametrize(
    ("feat", "message"),
    [
        (np.zeros((5, 7), np.float32), r"video 1 have shape \(5, 7\).*feature_width"),
        (np.zeros((0, 6), np.float32), r"video 1 have shape \(0, 6\)"),
        (np.full((5, 6), np.nan, np.float32), "video 1 hold NaN"),
    ],
)
def test_features_that_do_not_fit_are_refused(feat, message):
    features, _, table = toy()
    features[1] = feat
    queries = [Query(video=1, tokens=np.array([2]), start=0.0, end=0.5)]
    with pytest.raises(ValueError, match=message):
        train_tan2d(features, queries, SMALL, table=table, trainable_words=False, seed=0)


@pytest.mark.parametrize(
    ("video", "token", "message"), [(3, 1, "about video 3"), (0, 9, r"outside 1\.\.8"), (0, 0, "holds word 0")]
)
def test_queries_that_do_not_fit_are_refused(video, token, message):
    features, _, table = toy()
    queries = [Query(video=video, tokens=np.array([token]), start=0.0, end=0.5)]
    with pytest.raises(ValueError, match=message):
        ground_tan2d(build_tan2d(SMALL, table, False, 0), features, queries)
    with pytest.raises(ValueError, match="no queries"):
        ground_tan2d(build_tan2d(SMALL, table, False, 0), features, [])
    with pytest.raises(ValueError, match="word table"):
        build_tan2d(SMALL, np.full((9, 7), np.nan), False, 0)


# 32 snippets in 16 clips: half of the moments' limits lie between clips, so the grid itself has a ceiling
KNOWN = TAN2DSettings(
    feature_width=16, frames=32, pool=2, hidden=32, scales=(16,), kernel=3, layers=3, lstm_layers=1,
    learning_rate=3e-3, batch_size=16,
)  # fmt: skip


def learn(settings, seed=0, *, blind=False):
    (features, queries, table), (held_out, asked, _) = make(seed, videos=150), make(seed + 100, videos=60)
    if blind:
        queries, asked = without_words(queries), without_words(asked)
    model = train_tan2d(features, queries, settings, table=table, trainable_words=False, seed=seed)
    return ground_tan2d(model, held_out, asked), asked


@pytest.mark.long
@pytest.mark.parametrize(("form", "epochs"), [("pool", 11), ("conv", 16)])
def test_learns_where_the_words_happen(form, epochs):
    found, asked = learn(replace(KNOWN, form=form, epochs=epochs))
    best = best_cells(asked, KNOWN.cells)
    for name, moments in (("ceiling", best), (form, found)):
        print(f"\n{name}: mean IoU {mean_iou(moments, asked):.3f}, R1@0.5 {recall(moments, asked, 0.5):.3f}, "
              f"R1@0.7 {recall(moments, asked, 0.7):.3f}", end="")  # fmt: skip
    # ceiling of the grid on these queries: mean IoU 0.88, R1@0.5 1.00, R1@0.7 0.93
    assert mean_iou(found, asked) > 0.75
    assert recall(found, asked, 0.5) > 0.9
    assert recall(found, asked, 0.7) > 0.75


@pytest.mark.long
def test_without_words_it_can_only_guess_among_the_moments():
    found, asked = learn(replace(KNOWN, form="pool", epochs=4), blind=True)
    print(f"\nblind: mean IoU {mean_iou(found, asked):.3f}, R1@0.5 {recall(found, asked, 0.5):.3f}", end="")
    # one moment for all four queries of a video, so more can only come from annotations that leak into the answer
    assert recall(found, asked, 0.5) <= 0.25
    assert mean_iou(found, asked) < 0.4
