"""The video-level classifier on features whose classes are known."""

import numpy as np
import pytest

from bsp.localization.video_classifier import fit_video_classifier, pool_features


def videos(rng, labels, width=12, snippets=(5, 30)):
    """Noise; class k lifts channel k in a fifth of the snippets."""
    made = []
    for label in labels:
        feat = rng.standard_normal((int(rng.integers(*snippets)), width)).astype(np.float32)
        feat[: max(1, len(feat) // 5), label] += 6
        made.append(feat)
    return made


def test_learns_classes_and_repeats_itself():
    rng = np.random.default_rng(0)
    labels, held_out = np.arange(60) % 4, np.arange(40) % 4
    train, test = videos(rng, labels), videos(rng, held_out)
    scores = fit_video_classifier(train, labels, 4, 0).scores(test)
    assert scores.shape == (40, 4)
    np.testing.assert_allclose(scores.sum(1), 1)
    assert (scores.argmax(1) == held_out).mean() > 0.9  # chance 0.25
    assert (fit_video_classifier(train, labels, 4, 0).scores(test) == scores).all()


def test_class_without_training_videos_gets_nothing():
    rng = np.random.default_rng(1)
    labels = np.array([0, 3] * 6)
    scores = fit_video_classifier(videos(rng, labels), labels, 5, 0).scores(videos(rng, [0, 3]))
    assert (scores[:, [1, 2, 4]] == 0).all()
    assert (scores[:, [0, 3]] > 0).all()
    only = fit_video_classifier(videos(rng, [2, 2]), np.array([2, 2]), 3, 0).scores(videos(rng, [2]))
    assert only.tolist() == [[0, 0, 1]]


def test_pooling_is_mean_then_maximum():
    assert pool_features([np.array([[1.0, -4.0], [3.0, -2.0]])]).tolist() == [[2, -3, 3, -2]]


def test_refusals():
    feat = [np.zeros((3, 4), np.float32)] * 2
    with pytest.raises(ValueError, match=r"0\.\.2"):
        fit_video_classifier(feat, np.array([0, 3]), 3, 0)
    with pytest.raises(ValueError, match="2 feature arrays"):
        fit_video_classifier(feat, np.array([0]), 3, 0)
    with pytest.raises(ValueError, match="video 1"):
        pool_features([feat[0], np.full((3, 4), np.nan)])
