"""LGI's training, grounding and losses: repeatability, the kept epoch, refusals, hand-worked numbers."""

import math
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch

from bsp.localization.grounding.lgi import (
    LGIOutputs,
    LGISettings,
    _batch,
    build_lgi,
    distinct_loss,
    ground_lgi,
    ground_lgi_by_attention,
    guidance_loss,
    guided_segments,
    largest_offset,
    regression_loss,
    sampled_rows,
    train_lgi,
)
from bsp.localization.grounding.queries import Query, mean_iou
from synthetic_grounding import make, recall, without_words

SMALL = LGISettings(
    feature_width=5, segments=12, hidden=8, phrases=3, attention=6, kernel=3, blocks=2, heads=2, batch_size=4, epochs=2
)
TABLE = np.random.default_rng(3).standard_normal((9, 7)).astype(np.float32)


def toy(count, seed, *, rows=(6, 30)):
    """Random features of different lengths and a query or two about each."""
    rng = np.random.default_rng(seed)
    features = [rng.standard_normal((int(rng.integers(*rows)), 5)).astype(np.float32) for _ in range(count)]
    queries = []
    for video in range(count):
        for _ in range(int(rng.integers(1, 3))):
            start, end = np.sort(rng.random(2))
            tokens = rng.integers(1, len(TABLE), int(rng.integers(1, 6)))
            queries.append(Query(video=video, tokens=tokens, start=float(start), end=float(end) + 0.05))
    return features, queries


def test_training_draws_first_rows_and_grounding_starts_at_0():
    # row i of the video holds i; 48 rows for 12 segments: stride 4, first rows 0 to 3
    features = [np.repeat(np.arange(rows, dtype=np.float32)[:, None], 5, 1) for rows in (48, 7)]
    queries = [Query(video=video, tokens=np.array([4]), start=0.0, end=0.5) for video in [0] * 40 + [1]]
    device = torch.device("cpu")
    batch = _batch(features, queries, SMALL, device, np.random.default_rng(0))
    assert set(batch.rows_BTD[:40, 0, 0].tolist()) == {0, 1, 2, 3}
    assert (batch.rows_BTD[:40].diff(dim=1) == 4).all()
    assert batch.mask_BT[:40].all()
    plain = _batch(features, queries, SMALL, device)
    assert (plain.rows_BTD[:40, :, 0] == torch.arange(0, 48, 4)).all()
    for one in (batch, plain):  # the short video: its rows, then padding
        assert one.rows_BTD[40, :, 0].tolist() == [0, 1, 2, 3, 4, 5, 6, 0, 0, 0, 0, 0]
        assert one.mask_BT[40].tolist() == [True] * 7 + [False] * 5
    by_hand = [features[0][::4], features[1]]
    model = build_lgi(SMALL, TABLE, False, 0)
    np.testing.assert_array_equal(ground_lgi(model, features, queries), ground_lgi(model, by_hand, queries))


def test_phrases_start_from_the_same_weights_and_part():
    features, queries = toy(6, 0)

    def same(model):
        first, *others = (phrase.state_dict() for phrase in model.phrases)
        matrices = [name for name, tensor in first.items() if tensor.ndim > 1]
        assert len(matrices) == 5  # three linears and two convolutions
        return [torch.equal(first[name], other[name]) for other in others for name in matrices]

    model = build_lgi(SMALL, TABLE, False, 0)
    assert all(same(model))
    assert not torch.equal(model.sqan.query[0].weight, model.sqan.query[1].weight)
    trained = train_lgi(features, queries, SMALL, table=TABLE, trainable_words=False, seed=0)
    assert not any(same(trained))


def test_relu_outputs_start_alive():
    """An output that is 0 for every query gets no gradient; with default biases most seeds start so."""
    features, queries = toy(6, 0)
    for seed in range(20):
        moments = np.concatenate(ground_lgi(build_lgi(SMALL, TABLE, False, seed), features, queries))
        assert (moments[:, :2] > 0).any(0).all()


def test_same_seed_gives_the_same_bits_and_leaves_global_state_alone():
    features, queries = toy(8, 0)
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    table = TABLE.copy()

    def train(seed):
        return train_lgi(features, queries, SMALL, table=table, trainable_words=True, seed=seed).state_dict()

    first, second, third = train(7), train(7), train(8)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert (np.random.get_state()[1] == numpy_state).all()  # noqa: NPY002
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not all(torch.equal(first[name], third[name]) for name in first)
    np.testing.assert_array_equal(table, TABLE)  # learnt words are a copy
    assert not np.array_equal(first["sentence.words.weight"].numpy(), TABLE)
    frozen = train_lgi(features, queries, SMALL, table=table, trainable_words=False, seed=7).state_dict()
    np.testing.assert_array_equal(frozen["sentence.words.weight"].numpy(), TABLE)


def test_best_validation_epoch_is_kept_and_validation_does_not_disturb_training():
    features, queries = toy(8, 0)
    # the held-out answers contradict the training ones, so that the best epoch is an early one
    contrary = [replace(query, start=0.0, end=0.05 + 0.01 * i) for i, query in enumerate(queries)]
    settings = replace(SMALL, epochs=5, learning_rate=2e-3)
    with_validation, without, drawn = [], [], []

    def note(record):
        with_validation.append(record)
        drawn.append(torch.rand(3))  # a caller's own draws change nothing either

    common = {"table": TABLE, "trainable_words": False, "seed": 1}
    kept = train_lgi(features, queries, settings, validation=(features, contrary), on_epoch=note, **common)
    last = train_lgi(features, queries, settings, on_epoch=without.append, **common)
    assert [one["loss"] for one in with_validation] == [one["loss"] for one in without]
    assert [one["epoch"] for one in with_validation] == list(range(5))
    assert set(without[0]) == {"epoch", "loss", "regression", "guidance", "distinct"}
    ious = [one["validation_miou"] for one in with_validation]
    best = int(np.argmax(ious))
    assert best < 4
    assert mean_iou(ground_lgi(kept, features, contrary), contrary) == ious[best]
    stopped = train_lgi(features, queries, replace(settings, epochs=best + 1), **common)
    assert torch.equal(kept.video.weight, stopped.video.weight)
    assert not torch.equal(kept.video.weight, last.video.weight)


def test_loss_is_the_weighted_sum_and_the_last_batch_is_dropped():
    features, _ = toy(1, 0)
    queries = [Query(video=0, tokens=np.array([4]), start=0.1, end=0.4)] * 10
    records = []
    reads = []

    class Counted(list):
        def __getitem__(self, i):
            reads.append(i)
            return super().__getitem__(i)

    settings = replace(SMALL, epochs=1, guidance_weight=0.5, distinct_weight=2.0)
    train_lgi(Counted(features), queries, settings, table=TABLE, trainable_words=False, seed=0, on_epoch=records.append)
    assert len(reads) == 8  # two batches of four
    terms = records[0]
    expected = terms["regression"] + 0.5 * terms["guidance"] + 2 * terms["distinct"]
    assert terms["loss"] == pytest.approx(expected, rel=1e-5)
    assert terms["distinct"] == pytest.approx(7.47)  # one-word sentences


def test_grounding_gives_one_plain_moment_per_query():
    features, queries = toy(5, 1)
    model = build_lgi(SMALL, TABLE, False, 0)
    with torch.no_grad():
        model.regressor[2].bias.copy_(torch.tensor([1.5, 0.4]))
        model.regressor[2].weight.zero_()
    found = ground_lgi(model, features, queries)
    assert len(found) == len(queries)
    for moment in found:
        assert moment.shape == (1, 3)
        assert moment.dtype == np.float64
        assert moment[0] == pytest.approx([1.5, 0.4, 1.0])  # neither clamped nor swapped
    assert ground_lgi(model, features, []) == []


def test_the_answer_does_not_depend_on_the_batch():
    features, queries = toy(6, 2)
    model = build_lgi(SMALL, TABLE, False, 3)
    together = np.concatenate(ground_lgi(model, features, queries))
    alone = np.concatenate([ground_lgi(model, features, [query])[0] for query in queries])
    np.testing.assert_allclose(together, alone, atol=1e-6)
    assert len(np.unique(alone, axis=0)) > len(queries) // 2


def test_long_sentences_are_cut():
    features, queries = toy(1, 0)
    model = build_lgi(replace(SMALL, max_words=2), TABLE, False, 3)
    words = [np.array(t) for t in ([4, 5], [4, 5, 6, 7], [4, 6])]
    two, four, other = (ground_lgi(model, features, [replace(queries[0], tokens=t)])[0] for t in words)
    np.testing.assert_array_equal(two, four)
    assert not np.array_equal(two, other)


@pytest.mark.long
def test_learns_a_known_answer_from_the_words():
    """Each video holds four of eight events; a sentence names one. The ends are regressed: the ceiling is 1.

    A text-blind head gives a video's four sentences the same moment, and the four moments are disjoint, so it has
    an IoU above 0.5 with at most one of them: R1@0.5 <= 0.25.
    """
    settings = LGISettings(
        feature_width=16, segments=32, hidden=64, attention=32, kernel=7, blocks=1, heads=2, dropout=0.0,
        learning_rate=2e-3, batch_size=32, epochs=22,
    )  # fmt: skip
    features, queries, table = make(0, videos=150)
    held_out, (test_features, test_queries, _) = make(1, videos=30)[:2], make(2, videos=60)
    common = {"table": table, "trainable_words": False, "seed": 0}

    def scores(model, asked, name):
        found = ground_lgi(model, test_features, asked)
        got = [recall(found, test_queries, threshold) for threshold in (0.3, 0.5, 0.7)]
        got.append(mean_iou(found, test_queries))
        print(f"\n{name}: R1@0.3 {got[0]:.3f}, R1@0.5 {got[1]:.3f}, R1@0.7 {got[2]:.3f}, mIoU {got[3]:.3f}", end="")
        return got

    model = train_lgi(features, queries, settings, validation=held_out, **common)
    reached = scores(model, test_queries, "LGI")
    assert reached[0] > 0.9
    assert reached[1] > 0.8
    assert reached[2] > 0.5
    assert reached[3] > 0.65
    blind = scores(model, without_words(test_queries), "the same head, asked with one word only")
    assert blind[3] < 0.5 * reached[3]
    short = replace(settings, epochs=4)
    model = train_lgi(features, without_words(queries), short, **common)
    blind = scores(model, without_words(test_queries), "trained without words")
    assert blind[1] <= 0.25
    assert blind[3] < 0.5 * reached[3]


def test_refuses_features_tables_and_queries_that_do_not_fit():
    features, queries = toy(2, 0)
    common = {"table": TABLE, "trainable_words": False, "seed": 0}
    model = build_lgi(SMALL, TABLE, False, 0)
    with pytest.raises(ValueError, match=r"video 1 have shape \(\d+, 4\), but the head expects .* 5\]"):
        train_lgi([features[0], features[1][:, :4]], queries, SMALL, **common)
    with pytest.raises(ValueError, match=r"video 0 have shape \(0, 5\)"):
        ground_lgi(model, [features[0][:0], features[1]], queries)
    broken = [features[0].copy(), features[1]]
    broken[0][3, 3] = np.nan
    with pytest.raises(ValueError, match="video 0 hold NaN"):
        train_lgi(broken, queries, SMALL, **common)
    with pytest.raises(ValueError, match="video 0 hold NaN"):
        ground_lgi(model, broken, queries)
    for token in (0, 9, -1):
        wrong = [*queries, replace(queries[0], tokens=np.array([4, token]))]
        with pytest.raises(ValueError, match=r"query \d has tokens .* rows 1\.\.8"):
            train_lgi(features, wrong, SMALL, **common)
        with pytest.raises(ValueError, match="has tokens"):
            ground_lgi(model, features, wrong)
        with pytest.raises(ValueError, match="validation: query"):
            train_lgi(features, queries, SMALL, validation=(features, wrong), **common)
    with pytest.raises(ValueError, match="names video 2, but there are 2"):
        train_lgi(features, [replace(queries[0], video=2)], SMALL, **common)
    with pytest.raises(ValueError, match="no queries"):
        train_lgi(features, [], SMALL, **common)
    with pytest.raises(ValueError, match="word table"):
        build_lgi(SMALL, TABLE[0], False, 0)
    with pytest.raises(ValueError, match="word table holds NaN"):
        build_lgi(SMALL, TABLE * np.nan, False, 0)


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


def test_a_score_from_attention_by_hand(monkeypatch):
    """Of 12 segments a moment from 1/4 to 1/2 takes number 3 to 6, a third of them."""
    settings = LGISettings(feature_width=4, segments=12, hidden=8, attention=4, kernel=3, heads=2)
    model = build_lgi(settings, np.zeros((5, 6), np.float32), False, 0)
    feat_SD, query = np.zeros((12, 4), np.float32), Query(video=0, tokens=np.array([4]), start=0.0, end=1.0)
    weights = {"even": [1 / 12] * 12, "inside": [0.0] * 3 + [0.25] * 4 + [0.0] * 5, "outside": [1.0] + [0.0] * 11}
    for name, wanted in (("even", 0.0), ("inside", 2 / 3), ("outside", 0.0)):
        for moment in ((0.25, 0.5), (0.5, 0.25)):  # also one that LGI gives reversed
            outputs = LGIOutputs(torch.tensor([moment]), torch.tensor([weights[name]]), torch.zeros(1, 3, 1))
            monkeypatch.setattr(model, "forward", lambda *_, outputs=outputs: outputs)
            ((start, end, score),) = ground_lgi_by_attention(model, feat_SD, query)
            assert (start, end) == moment
            assert score == pytest.approx(wanted, abs=1e-6)
