"""The network of LGI: its size, each part against plain loops, masks, settings it refuses."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bsp.localization.grounding.lgi import LGISettings, build_lgi
from bsp.localization.grounding.lgi_network import LGI

SMALL = LGISettings(
    feature_width=5, segments=12, hidden=8, phrases=3, attention=6, kernel=3, blocks=2, heads=2, batch_size=4, epochs=2
)
TABLE = np.random.default_rng(3).standard_normal((9, 7)).astype(np.float32)


def numpy_linear(x, layer):
    out = x @ layer.weight.detach().double().numpy().T
    return out if layer.bias is None else out + layer.bias.detach().double().numpy()


def numpy_softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


def test_parameter_count_of_the_published_configuration():
    def linear(a, b):
        return a * b + b

    def lstm_direction(width):  # four gates, weights on input and state, two biases
        return 4 * (256 * width + 256 * 256 + 2 * 256)

    words = 1140 * 300
    sentence = 2 * lstm_direction(300) + 2 * lstm_direction(512)
    sqan = 3 * linear(512, 512) + linear(1024, 512) + 2 * linear(512, 256) + linear(256, 1)
    video = linear(1024, 512) + 128 * 512
    phrase = 3 * linear(512, 512) + 2 * 15 * 512 * 512 + 2 * 2 * 512
    attention = 512 * 256 + 256
    blocks = 2 * 3 * linear(512, 512)
    regressor = linear(512, 512) + linear(512, 512) + linear(512, 2)
    expected = words + sentence + sqan + video + 3 * phrase + 2 * attention + blocks + regressor

    table = np.zeros((1140, 300), np.float32)
    model = LGI(LGISettings(feature_width=1024), torch.from_numpy(table), True)
    assert sum(parameter.numel() for parameter in model.parameters()) == expected
    frozen = LGI(LGISettings(feature_width=1024), torch.from_numpy(table), False)
    assert sum(p.numel() for p in frozen.parameters() if p.requires_grad) == expected - words
    # BSP's features, 2048 wide: only the first linear grows
    wide = LGI(LGISettings(feature_width=2048), torch.from_numpy(table), True)
    assert sum(parameter.numel() for parameter in wide.parameters()) == expected + 1024 * 512


def test_sentence_encoder_reads_each_sentence_as_if_alone():
    encoder = build_lgi(SMALL, TABLE, False, 0).sentence.eval()
    tokens, lengths = torch.tensor([[4, 5, 6, 7], [8, 2, 0, 0], [1, 0, 0, 0]]), torch.tensor([4, 2, 1])
    words, sentence = encoder(tokens, lengths)
    for b, length in enumerate(lengths.tolist()):
        alone, _ = encoder.lstm(torch.from_numpy(TABLE)[tokens[b : b + 1, :length]])
        torch.testing.assert_close(words[b, :length], alone[0])
        assert (words[b, length:] == 0).all()
        torch.testing.assert_close(sentence[b], torch.cat([alone[0, length - 1, :4], alone[0, 0, 4:]]))


def test_sqan_step_by_step():
    sqan = build_lgi(SMALL, TABLE, False, 0).sqan
    rng = np.random.default_rng(0)
    words, sentence, lengths = rng.standard_normal((2, 4, 8)), rng.standard_normal((2, 8)), [4, 2]
    mask = torch.tensor([[True] * 4, [True, True, False, False]])
    phrases, weights = sqan(torch.from_numpy(words).float(), torch.from_numpy(sentence).float(), mask)
    assert phrases.shape == (2, 3, 8)
    for b, length in enumerate(lengths):
        before = np.zeros(8)
        for k in range(3):
            q = numpy_linear(sentence[b], sqan.query[k])
            g = np.maximum(numpy_linear(np.concatenate([q, before]), sqan.guide), 0)
            scores = []
            for word in words[b, :length]:
                inner = np.tanh(numpy_linear(g, sqan.guide_inner) + numpy_linear(word, sqan.word_inner))
                scores.append(numpy_linear(inner, sqan.score)[0])
            a = numpy_softmax(np.array(scores))
            before = sum(a[i] * words[b, i] for i in range(length))
            np.testing.assert_allclose(weights[b, k, :length].detach(), a, atol=1e-5)
            np.testing.assert_allclose(phrases[b, k].detach(), before, atol=1e-5)
            assert (weights[b, k, length:] == 0).all()


def test_non_local_block_against_a_loop():
    block = build_lgi(SMALL, TABLE, False, 0).blocks[0]
    x = np.random.default_rng(0).standard_normal((2, 6, 8))
    mask = torch.tensor([[True] * 6, [True] * 4 + [False] * 2])
    out = block(torch.from_numpy(x).float(), mask).detach().numpy()
    for b, real in enumerate((6, 4)):
        query, key, value = (numpy_linear(x[b], layer) for layer in (block.query, block.key, block.value))
        for t in range(real):
            for head in range(2):
                part = slice(4 * head, 4 * head + 4)
                scores = np.array([query[t, part] @ key[s, part] / 2 for s in range(real)])  # sqrt(4) = 2
                mixed = numpy_softmax(scores) @ value[:real, part]
                np.testing.assert_allclose(out[b, t, part], x[b, t, part] + mixed, atol=1e-5)


def test_phrase_interaction_against_a_loop():
    block = build_lgi(SMALL, TABLE, False, 0).phrases[0].eval()
    with torch.no_grad():
        for norm in (block.norm_in, block.norm_out):  # statistics that are not 0 and 1
            norm.running_mean.uniform_(-1, 1, generator=torch.Generator().manual_seed(1))
            norm.running_var.uniform_(0.5, 2, generator=torch.Generator().manual_seed(2))
    rng = np.random.default_rng(0)
    segments, phrase = rng.standard_normal((5, 8)), rng.standard_normal(8)
    out = block(torch.from_numpy(segments[None]).float(), torch.from_numpy(phrase[None]).float())[0]

    def relu(x):
        return np.maximum(x, 0)

    def conv_and_norm(x_TH, conv, norm):
        weight_OIK, padded = conv.weight.detach().double().numpy(), np.pad(x_TH, ((1, 1), (0, 0)))
        y = np.stack([np.einsum("ki,oik->o", padded[t : t + 3], weight_OIK) for t in range(len(x_TH))])
        mean, var = norm.running_mean.double().numpy(), norm.running_var.double().numpy()
        return (y - mean) / np.sqrt(var + 1e-5)

    fused = relu(numpy_linear(segments, block.segment)) * relu(numpy_linear(phrase, block.phrase))
    fused = relu(numpy_linear(fused, block.fused))
    local = relu(conv_and_norm(fused, block.conv_in, block.norm_in))
    local = conv_and_norm(local, block.conv_out, block.norm_out)
    np.testing.assert_allclose(out.detach(), relu(fused + local), atol=1e-5)


def test_whole_network_puts_the_parts_together():
    model = build_lgi(SMALL, TABLE, False, 0).eval()
    rows = torch.randn(2, 12, 5, generator=torch.Generator().manual_seed(0))
    mask = torch.ones(2, 12, dtype=torch.bool)
    tokens, lengths = torch.tensor([[4, 5, 6], [7, 8, 4]]), torch.tensor([3, 3])
    out = model(rows, mask, tokens, lengths)
    words, sentence = model.sentence(tokens, lengths)
    phrases, _ = model.sqan(words, sentence, torch.ones(2, 3, dtype=torch.bool))
    video = F.relu(model.video(rows)) + F.relu(model.position.weight)  # no dropout in eval mode
    scores = torch.tanh(phrases @ model.phrase_attention.inner.weight.T) @ model.phrase_attention.score.weight[0]
    share = torch.softmax(scores, 1)
    x = sum(share[:, n, None, None] * model.phrases[n](video, phrases[:, n]) for n in range(3))
    x = model.blocks[1](model.blocks[0](x, mask), mask)
    scores = torch.tanh(x @ model.segment_attention.inner.weight.T) @ model.segment_attention.score.weight[0]
    o = torch.softmax(scores, 1)
    pooled = model.pooled(torch.einsum("bt,bth->bh", o, x))
    raw = model.regressor[2](F.relu(model.regressor[0](pooled)))
    torch.testing.assert_close(out.segment_weights_BT, o)
    torch.testing.assert_close(out.moments_B2, F.relu(raw))
    model.settings = replace(SMALL, output="sigmoid")
    torch.testing.assert_close(model(rows, mask, tokens, lengths).moments_B2, torch.sigmoid(raw))


def test_dropout_is_on_segments_and_positions_and_lstm():
    model = build_lgi(SMALL, TABLE, False, 0).train()
    nn.init.ones_(model.position.weight)
    nn.init.zeros_(model.video.weight)
    nn.init.ones_(model.video.bias)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        segment = model._segments(torch.zeros(50, 12, 5), torch.ones(50, 12, dtype=torch.bool))
    # two independent halvings, each kept value doubled: 0, 2 and 4 in parts of 1, 2 and 1
    values, counts = segment.unique(return_counts=True)
    assert values.tolist() == [0, 2, 4]
    np.testing.assert_allclose(counts / segment.numel(), [0.25, 0.5, 0.25], atol=0.03)
    assert model.sentence.lstm.dropout == 0.5


def test_what_lies_beyond_the_mask_has_no_influence():
    model = build_lgi(replace(SMALL, segments=32, kernel=5), TABLE, False, 0).eval()
    rng = np.random.default_rng(0)
    rows = np.zeros((1, 32, 5), np.float32)
    rows[0, :20] = rng.standard_normal((20, 5))
    garbage = rows.copy()
    garbage[0, 20:] = 100 * rng.standard_normal((12, 5))
    mask = torch.arange(32)[None] < 20
    tokens, lengths = torch.tensor([[4, 5, 0, 0]]), torch.tensor([2])
    out = model(torch.from_numpy(rows), mask, tokens, lengths)
    other = model(torch.from_numpy(garbage), mask, torch.tensor([[4, 5, 8, 7]]), lengths)
    for one, two in zip(out, other):
        assert torch.equal(one, two)
    assert (out.segment_weights_BT[0, 20:] == 0).all()
    assert out.segment_weights_BT[0, :20].sum().item() == pytest.approx(1)
    unmasked = model(torch.from_numpy(garbage), torch.ones(1, 32, dtype=torch.bool), tokens, lengths)
    assert not torch.allclose(unmasked.segment_weights_BT[0, :20], out.segment_weights_BT[0, :20])


def test_the_local_block_sees_that_there_is_padding_as_published():
    """Padded rows are not 0 after the fusion's biases, and the convolutions read them: a known leak of LGI."""
    block = build_lgi(SMALL, TABLE, False, 0).phrases[0].eval()
    nn.init.constant_(block.fused.bias, 0.5)
    segments = torch.zeros(1, 12, 8)
    segments[0, :6] = torch.randn(6, 8, generator=torch.Generator().manual_seed(0))
    phrase = torch.ones(1, 8)
    padded, alone = block(segments, phrase)[0, :6], block(segments[:, :6], phrase)[0]
    # two convolutions of width 3: only the last two real rows are within reach
    torch.testing.assert_close(padded[:4], alone[:4])
    assert not torch.allclose(padded[4:], alone[4:])


@pytest.mark.parametrize(
    "wrong",
    [
        {"feature_width": 0},
        {"segments": 1},
        {"hidden": 9},
        {"hidden": 10, "heads": 4},
        {"heads": 0},
        {"max_words": 0},
        {"phrases": 0},
        {"attention": 0},
        {"kernel": 4},
        {"kernel": -1},
        {"blocks": -1},
        {"dropout": 1.0},
        {"dropout": math.nan},
        {"guidance_weight": -1.0},
        {"distinct_weight": math.inf},
        {"distinct_lambda": 1.5},
        {"output": "tanh"},
        {"learning_rate": 0.0},
        {"batch_size": 0},
        {"epochs": 0},
    ],
)
def test_refuses_bad_settings(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        replace(SMALL, **wrong)
