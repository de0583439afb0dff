"""The linear actionness classifier: where segments lie among snippets, and training against scikit-learn."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from bsp.features.store import FeatureInfo
from bsp.localization.actionness import ActionnessSettings, segment_positions, train_actionness, video_seconds

INFO = FeatureInfo(
    video_id="v", frames=96, fps=12.0, snippet_frames=8, stride_frames=8, offset_frames=0, size_px=32,
    mean=(0.5,) * 3, std=(0.2,) * 3, feature_width=4, snippets=12, encoder_hash="h", code_version=1,
)  # fmt: skip


def planted(seed, videos=12, snippets=20, width=6, segments=60):
    """Noise of odd scale and offset; channel 2 rises where the labels are positive. Lists as for training."""
    rng = np.random.default_rng(seed)
    scale, offset = 10.0 ** np.arange(-3, width - 3), 5 * rng.normal(size=width)
    features, positions, labels = [], [], []
    for _ in range(videos):
        position = np.linspace(0, snippets - 1, segments)
        on = np.repeat(rng.random(snippets // 4) < 0.4, 4)
        feat = rng.normal(size=(snippets, width))
        feat[:, 2] += 2 * on
        features.append((scale * (feat + offset)).astype(np.float32))
        positions.append(position)
        labels.append(on[position.round().astype(int)])
    return features, positions, labels


# -- the grid --


def test_positions_worked_by_hand():
    # Snippet s has its centre at frame 4 + 8 s; segment k at second 0.1 + 0.2 k, which is frame 1.2 + 2.4 k.
    position = segment_positions(INFO, 40)
    assert position[0] == 0  # frame 1.2 lies before the first centre
    assert position[2] == pytest.approx((6.0 - 4) / 8)
    assert position[20] == pytest.approx((49.2 - 4) / 8)
    assert position[39] == 11  # frame 94.8 lies after the last centre, 92
    shifted = segment_positions(replace(INFO, offset_frames=2, stride_frames=4, snippets=23), 40)
    assert shifted[20] == pytest.approx((49.2 - 6) / 4)


@pytest.mark.parametrize(
    ("frames", "fps", "seconds"), [(300, 30000 / 1001, 10.01), (96, 12.0, 8.0), (7, 29.97, 700 / 2997), (6, 10.0, 0.6)]
)
def test_duration_is_frames_by_rate(frames, fps, seconds):
    assert video_seconds(replace(INFO, frames=frames, fps=fps)) == seconds


# -- training --


@pytest.mark.long
def test_training_reaches_the_optimum_of_logistic_regression():
    features, positions, labels = planted(0)
    settings = ActionnessSettings(epochs=400, batch_segments=720, learning_rate=0.05, weight_decay=0.01)
    history = []
    found = train_actionness(features, positions, labels, settings, seed=0, on_epoch=history.append)
    assert [record["epoch"] for record in history] == list(range(400))
    assert history[0]["loss"] == pytest.approx(np.log(2), abs=0.01)  # it starts from zero
    assert history[-1]["loss"] < 0.8 * history[0]["loss"]
    # The same minimum by another program: mean loss + decay / 2 * |w|^2 is C = 1 / (decay * segments).
    snippets = np.concatenate(features).astype(float)
    mean, std = snippets.mean(0), snippets.std(0)
    columns = [
        np.stack([np.interp(p, np.arange(len(f)), channel) for channel in f.T.astype(float)], axis=1)
        for f, p in zip(features, positions)
    ]
    x, y = (np.concatenate(columns) - mean) / std, np.concatenate(labels)
    model = LogisticRegression(C=1 / (0.01 * len(y)), tol=1e-8, max_iter=1000).fit(x, y)
    expected = model.predict_proba(x)[:, 1]
    scores = np.concatenate([found.scores(f, p) for f, p in zip(features, positions)])
    np.testing.assert_allclose(scores, expected, atol=2e-3)
    np.testing.assert_allclose(found.weight_D * std, model.coef_[0], rtol=1e-2)


def test_it_finds_what_was_planted_in_other_videos():
    found = train_actionness(*planted(0), ActionnessSettings(batch_segments=32), seed=0)
    features, positions, labels = planted(1)
    scores = np.concatenate([found.scores(f, p) for f, p in zip(features, positions)])
    label = np.concatenate(labels)
    pairs = scores[label][:, None] > scores[~label][None, :]
    assert pairs.mean() > 0.85  # chance 0.5


def test_same_seed_same_bits_and_another_order_of_segments_with_another_seed():
    data = planted(0)
    first, again, other = (train_actionness(*data, ActionnessSettings(), seed=seed) for seed in (3, 3, 4))
    assert first.weight_D.tobytes() == again.weight_D.tobytes()
    assert first.bias == again.bias
    assert first.weight_D.tobytes() != other.weight_D.tobytes()


def test_a_channel_that_never_changes_does_no_harm():
    features, positions, labels = planted(0)
    for feat in features:
        feat[:, 5] = 1234.5678
    found = train_actionness(features, positions, labels, ActionnessSettings(), seed=0)
    assert np.isfinite(found.scores(features[0], positions[0])).all()
    assert abs(found.weight_D[5]) < 1e-3


def test_scores_are_those_of_interpolated_features():
    found = train_actionness(*planted(0), ActionnessSettings(epochs=1), seed=0)
    feat = planted(2)[0][0]
    half = (feat[3].astype(float) + feat[4]) / 2
    logit = half @ found.weight_D + found.bias
    assert found.scores(feat, np.array([3.5]))[0] == pytest.approx(1 / (1 + np.exp(-logit)))


# -- refusals --


@pytest.mark.parametrize(
    ("setting", "value"), [("epochs", 0), ("batch_segments", 0), ("learning_rate", 0.0), ("weight_decay", -1.0)]
)
def test_impossible_settings_are_refused(setting, value):
    with pytest.raises(ValueError, match=setting):
        ActionnessSettings(**{setting: value})


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda f, p, y: (f[:1], p, y), "1 features, 12 positions and 12 labels"),
        (lambda f, p, y: ([], [], []), "0 features"),
        (lambda f, p, y: ([*f[:-1], f[-1][:, :3]], p, y), r"video 11: .*float32 \[20, 3\] instead of float32 \[S, 6\]"),
        (lambda f, p, y: ([f[0].astype(float), *f[1:]], p, y), "video 0: features float64"),
        (lambda f, p, y: ([f[0] + np.inf, *f[1:]], p, y), "video 0: features are not finite"),
        (lambda f, p, y: (f, [p[0][1:], *p[1:]], y), r"video 0: \[59\] positions, \[60\] labels"),
        (lambda f, p, y: (f, [p[0] + 1, *p[1:]], y), r"video 0: positions outside 0\.\.19"),
        (lambda f, p, y: (f, p, [label & False for label in y]), "0 of 720 training segments are positive"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(change, problem):
    with pytest.raises(ValueError, match=problem):
        train_actionness(*change(*planted(0)), ActionnessSettings(), seed=0)


def test_features_of_another_width_are_not_scored():
    found = train_actionness(*planted(0), ActionnessSettings(epochs=1), seed=0)
    with pytest.raises(ValueError, match=r"features \[20, 5\], but the classifier takes \[S, 6\]"):
        found.scores(np.zeros((20, 5), np.float32), np.zeros(1))
