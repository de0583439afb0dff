"""Batches that mix videos: a snippet's feature does not depend on the rest of its batch."""

import numpy as np
import pytest
import torch

from bsp.encoders.build import build_encoder
from bsp.encoders.contract import Encoder
from bsp.encoders.tsm import EncoderSettings
from bsp.features.snippet_encoder import SnippetEncoder
from bsp.features.store import encode_snippets

CPU = torch.device("cpu")
GENERATOR = np.random.default_rng(0)
VIDEOS = {name: GENERATOR.integers(0, 256, (n, 8, 32, 32, 3), np.uint8) for name, n in (("a", 11), ("b", 3), ("c", 6))}


def features_of(feeds, precision="float32", size=4) -> dict[str, np.ndarray]:
    """Features [S, D] by video, after ``feeds`` of (video, first snippet, number of snippets)."""
    encoder = SnippetEncoder(build_encoder(EncoderSettings(width=8), 0), CPU, precision, batch_snippets=size)
    finished = [row for name, first, n in feeds for row in encoder.add(name, first, VIDEOS[name][first : first + n])]
    finished += encoder.flush()
    found: dict[str, dict[int, np.ndarray]] = {}
    for name, number, feat_D in finished:
        assert number not in found.setdefault(name, {})
        found[name][number] = feat_D
    return {name: np.stack([rows[k] for k in range(len(rows))]) for name, rows in found.items()}


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_video_alone_and_among_others_gives_the_same_bits(precision):
    alone = features_of([("a", 0, 11)], precision)["a"]
    mixed = features_of([("b", 0, 3), ("a", 0, 5), ("c", 0, 6), ("a", 5, 6)], precision)
    assert {name: len(rows) for name, rows in mixed.items()} == {"a": 11, "b": 3, "c": 6}
    np.testing.assert_array_equal(mixed["a"], alone)
    one_by_one = features_of([("a", k, 1) for k in reversed(range(11))], precision)["a"]
    np.testing.assert_array_equal(one_by_one, alone)


def test_the_numbers_are_those_of_the_encoder():
    encoder = build_encoder(EncoderSettings(width=8), 0).eval()
    with torch.inference_mode():
        pixels = torch.from_numpy(VIDEOS["a"]).float() / 255
        mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
        expected = encoder(((pixels - mean) / std).permute(0, 1, 4, 2, 3)).mean(dim=1).numpy()
    found = features_of([("a", 0, 11)])["a"]
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)
    half = features_of([("a", 0, 11)], "bfloat16")["a"]
    assert half.dtype == np.float32
    assert 0 < np.abs(half - expected).max() < 0.05 * np.abs(expected).max()  # 8 bits of mantissa, 18 layers


def test_a_batch_that_is_not_full_is_padded_not_shortened():
    shapes = []

    class Counting(Encoder):
        def forward(self, clip_BTCHW):
            shapes.append(tuple(clip_BTCHW.shape[:2]))
            return clip_BTCHW.mean(dim=(3, 4))

    encoder = SnippetEncoder(Counting(EncoderSettings(width=8)), CPU, "float32", batch_snippets=4)
    rows = encoder.add("b", 0, VIDEOS["b"]) + encoder.flush() + encoder.flush()
    assert shapes == [(4, 8)]
    assert len(rows) == 3
    expected = encode_snippets(Counting(EncoderSettings(width=8)), torch.from_numpy(VIDEOS["b"]), "float32").numpy()
    np.testing.assert_array_equal([feat_D for _, _, feat_D in rows], expected)
