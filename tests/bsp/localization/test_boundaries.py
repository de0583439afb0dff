"""Boundaries from snippet features: differences and peaks by hand, heads on clips whose boundaries are planted."""

from __future__ import annotations

import math

import numpy as np
import pytest

from bsp.features.store import FeatureInfo
from bsp.localization.boundaries import (
    BoundaryHeadSettings,
    PeakSettings,
    centres_of_runs,
    feature_difference,
    fit_peaks,
    gap_times_s,
    local_maxima,
    train_boundary_head,
)
from bsp.metrics.boundaries import evaluate_boundaries

STRIDE_S = 0.5
HEAD = BoundaryHeadSettings(epochs=10, learning_rate=3e-2)


def planted(clips, *, seed=0, width=16, direction=None):
    """Features that jump at two or three random gaps of each clip of 20 snippets, times of the gaps, boundaries.

    With ``direction`` they jump along that channel, and along the next one at another gap, which is no boundary.
    """
    rng = np.random.default_rng(seed)
    features, times, boundaries = [], [], []
    for _ in range(clips):
        feat_SD = rng.normal(size=width) * (direction is None) + 0.1 * rng.normal(size=(20, width))
        gaps = np.sort(rng.choice(np.arange(2, 17, 3), rng.integers(2, 4), replace=False))
        for gap in gaps:
            if direction is None:
                feat_SD[gap + 1 :] = rng.normal(size=width) + 0.1 * rng.normal(size=(19 - gap, width))
            else:
                feat_SD[gap + 1 :, direction] += 3
        if direction is not None:
            feat_SD[rng.integers(4, 18) :, direction + 1] += 3
        time_N = STRIDE_S * np.arange(1, 20)
        features.append(feat_SD.astype(np.float32))
        times.append(time_N)
        boundaries.append(time_N[gaps].tolist())
    return features, times, boundaries


def score(detector, features, times, boundaries):
    """F1 at 0.05 of 10 s clips."""
    truth, found = {}, {}
    for k, (feat_SD, time_N, times_s) in enumerate(zip(features, times, boundaries, strict=True)):
        truth[str(k)] = {
            "num_frames": 160, "fps": 16.0, "video_duration": 10.0, "f1_consis": [1.0], "f1_consis_avg": 1.0,
            "substages_timestamps": [times_s], "substages_myframeidx": [times_s],
        }  # fmt: skip
        found[str(k)] = detector.boundaries_s(feat_SD, time_N).tolist()
    return evaluate_boundaries(truth, found)["F1"]["0.05"]


# -- parts, by hand --


def test_the_difference_of_neighbouring_snippets():
    feat_SD = np.array([[1, 0], [1, 0], [0, 2], [0, -1], [0, 0]], np.float32)
    assert feature_difference(feat_SD, "l1").tolist() == [0, 1.5, 1.5, 0.5]
    assert feature_difference(feat_SD, "l2") == pytest.approx([0, math.sqrt(2.5), math.sqrt(4.5), math.sqrt(0.5)])
    assert feature_difference(feat_SD, "cosine") == pytest.approx([0, 1, 2, 0])
    assert feature_difference(feat_SD[:1], "l2").shape == (0,)


@pytest.mark.parametrize(
    ("values", "maxima"),
    [
        ([1, 3, 2, 5, 4], [1, 3]),
        ([5, 1, 2], [0, 2]),
        ([1, 4, 4, 4, 2], [2]),
        ([1, 4, 4, 2], [1]),
        ([1, 4, 4, 5], [3]),
        ([2, 2, 2], [1]),
        ([7], [0]),
        ([], []),
    ],
)
def test_local_maxima(values, maxima):
    assert local_maxima(np.array(values, float)).tolist() == maxima


def published_rule(scores, threshold):
    """Runs of scores at or above the threshold, and the position int(mean) of each; one after the other."""
    runs, run = [], []
    for position, value in enumerate(scores):
        if value >= threshold:
            run.append(position)
        elif run:
            runs.append(run)
            run = []
    return [int(sum(run) / len(run)) for run in [*runs, run] if run]


def test_scores_become_boundaries_by_the_published_rule():
    # the scores of the example in the challenge's instructions: runs 0-3, 9-10, 24-32
    example = [0.88, 0.89, 0.75, 0.69, 0.37, 0.12, 0.18, 0.32, 0.39, 0.59, 0.79, 0.38, 0.15, 0.08, 0.07, 0.02, 0.05]
    example += [0.16, 0.17, 0.05, 0.12, 0.21, 0.20, 0.42, 0.78, 0.81, 0.81, 0.79, 0.65, 0.55, 0.60, 0.69, 0.52]
    assert centres_of_runs(np.array(example), 0.5).tolist() == [1, 9, 28]
    assert centres_of_runs(np.array([0.5, 0.4]), 0.5).tolist() == [0]
    assert centres_of_runs(np.zeros(0), 0.5).tolist() == []
    for seed in range(20):
        scores = np.random.default_rng(seed).random(30)
        assert centres_of_runs(scores, 0.4).tolist() == published_rule(scores, 0.4)


def info_of(**changes):
    return FeatureInfo(
        **{
            "video_id": "v", "frames": 100, "fps": 10.0, "snippet_frames": 8, "stride_frames": 8, "offset_frames": 0,
            "size_px": 32, "mean": (0.5,) * 3, "std": (0.2,) * 3, "feature_width": 8, "snippets": 4,
            "encoder_hash": "h", "code_version": 1,
        }
        | changes
    )  # fmt: skip


def test_a_gap_is_where_one_snippet_ends_and_the_next_begins():
    assert gap_times_s(info_of()).tolist() == pytest.approx([0.8, 1.6, 2.4])
    # overlapping snippets 2..9 and 6..13 have their centres at 6 and 10 (frame borders): halfway is 8
    assert gap_times_s(info_of(stride_frames=4, offset_frames=2, snippets=2)).tolist() == pytest.approx([0.8])
    assert gap_times_s(info_of(snippets=1)).shape == (0,)


# -- peaks --


@pytest.mark.parametrize("measure", ["l1", "l2", "cosine"])
def test_peaks_find_planted_jumps(measure):
    features, times, boundaries = planted(40)
    settings = PeakSettings(measure=measure, smoothing_s=0)
    detector, f1 = fit_peaks(features, times, [[b] for b in boundaries], [10.0] * 40, settings)
    assert f1 > 0.9
    assert score(detector, features, times, boundaries) == pytest.approx(f1)
    assert score(detector, *planted(40, seed=1)) > 0.85
    # where every gap is a boundary, the lowest threshold is the best
    everything, _ = fit_peaks(features, times, [[t.tolist()] for t in times], [10.0] * 40, settings)
    assert everything.threshold < detector.threshold
    assert all(everything.boundaries_s(f, t).size >= 5 for f, t in zip(features, times))


def test_the_threshold_that_is_chosen_is_the_best_of_all_peaks():
    features, times, boundaries = planted(12, seed=3)
    features = [f + np.random.default_rng(k).normal(scale=0.5, size=f.shape) for k, f in enumerate(features)]
    features = [f.astype(np.float32) for f in features]
    detector, f1 = fit_peaks(features, times, [[b] for b in boundaries], [10.0] * 12, PeakSettings())
    others = [type(detector)(detector.settings, detector.mean_D, detector.std_D, t) for t in np.linspace(0, 1.8, 60)]
    scores = [score(other, features, times, boundaries) for other in others]
    assert f1 >= max(scores) - 0.02  # the thresholds tried are 50 quantiles, not every value
    assert min(scores) < f1 - 0.2


def test_no_channel_outweighs_the_others():
    features, times, boundaries = planted(30)
    rng = np.random.default_rng(9)
    noisy = [np.concatenate([f, rng.normal(scale=1e4, size=(20, 1))], axis=1).astype(np.float32) for f in features]
    _, f1 = fit_peaks(noisy, times, [[b] for b in boundaries], [10.0] * 30, PeakSettings(measure="l2", smoothing_s=0))
    assert f1 > 0.8


def test_smoothing_is_in_seconds():
    feat_SD = np.zeros((21, 1), np.float32)
    feat_SD[8:] += 1
    feat_SD[10:] += 1
    dense, sparse = (step * np.arange(1, 21) for step in (0.1, 1.0))
    found = {}
    for name, time_N in (("dense", dense), ("sparse", sparse)):
        settings = PeakSettings(measure="l1", smoothing_s=0.2)
        detector, _ = fit_peaks([feat_SD], [time_N], [[[time_N[7], time_N[9]]]], [21.0], settings)
        found[name] = detector.boundaries_s(feat_SD, time_N).tolist()
    assert len(found["sparse"]) == 2  # the two jumps stay two peaks
    assert found["dense"] == pytest.approx([0.9])  # the Gaussian joins them, in their middle


# -- the head --


def test_the_head_learns_which_jumps_are_boundaries():
    train, test = planted(60, direction=2), planted(30, seed=1, direction=2)
    history = []
    head = train_boundary_head(*train, HEAD, seed=0, on_epoch=history.append)
    assert [entry["epoch"] for entry in history] == list(range(10))
    assert history[-1]["loss"] < 0.5 * history[0]["loss"]
    assert score(head, *test) > 0.85
    peaks, _ = fit_peaks(train[0], train[1], [[b] for b in train[2]], [10.0] * 60, PeakSettings(smoothing_s=0))
    assert score(peaks, *test) < score(head, *test) - 0.05  # without labels the other jumps are boundaries, too


def test_the_head_sees_the_context_before_and_after():
    features, times, boundaries = planted(20)
    assert train_boundary_head(features, times, boundaries, HEAD, seed=0).context == 1
    wide = BoundaryHeadSettings(epochs=1, context_s=1.4)
    head = train_boundary_head(features, times, boundaries, wide, seed=0)
    assert head.context == 3
    feat_SD = features[0]
    inputs = []
    for gap in range(19):
        before = np.mean([feat_SD[max(gap - k, 0)] for k in range(3)], axis=0)
        after = np.mean([feat_SD[min(gap + 1 + k, 19)] for k in range(3)], axis=0)
        inputs.append(np.concatenate([before, after, np.abs(after - before)]))
    logits = (np.array(inputs) - head.mean.numpy()) / head.std.numpy() @ head.weight.numpy() + head.bias
    assert head.scores(feat_SD) == pytest.approx(1 / (1 + np.exp(-logits)), abs=1e-5)


def test_every_boundary_between_two_snippets_has_a_positive_gap():
    # All three are nearer to 1.0 than half a stride, and to no other gap.
    rng = np.random.default_rng(0)
    feat_SD = rng.normal(size=(4, 2)).astype(np.float32)
    losses = []
    for boundary in (0.76, 1.0, 1.24):
        history = []
        settings = BoundaryHeadSettings(epochs=3, near_s=0.0)
        train_boundary_head(
            [feat_SD], [np.array([0.5, 1.0, 1.5])], [[boundary]], settings, seed=0, on_epoch=history.append
        )
        losses.append([entry["loss"] for entry in history])
    assert losses[0] == losses[1] == losses[2]
    with pytest.raises(ValueError, match="0 of 3 training gaps"):
        train_boundary_head([feat_SD], [np.array([0.5, 1.0, 1.5])], [[0.2]], HEAD, seed=0)


def test_the_same_seed_gives_the_same_head():
    data = planted(10)
    first, again, other = (train_boundary_head(*data, HEAD, seed=seed) for seed in (3, 3, 4))
    assert first.weight.equal(again.weight)
    assert not first.weight.equal(other.weight)


def test_clips_of_one_snippet_have_no_gap_and_no_boundary():
    features, times, boundaries = planted(10)
    features, times, boundaries = [*features, features[0][:1]], [*times, times[0][:0]], [*boundaries, [0.4]]
    head = train_boundary_head(features, times, boundaries, HEAD, seed=0)
    assert head.boundaries_s(features[-1], times[-1]).tolist() == []
    peaks, _ = fit_peaks(features, times, [[b] for b in boundaries], [10.0] * 11, PeakSettings())
    assert peaks.boundaries_s(features[-1], times[-1]).tolist() == []


# -- wrong input --


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda f, t: (f[0].astype(float), t[0]), "float64"),
        (lambda f, t: (f[0][:, :3], t[0]), "clip 1.*3"),
        (lambda f, t: (f[0] * np.float32("nan"), t[0]), "not finite"),
        (lambda f, t: (f[0], t[0][1:]), "18 times of gaps for 20 snippets"),
    ],
)
def test_features_that_do_not_fit_are_refused(change, problem):
    features, times, boundaries = planted(2)
    features[1], times[1] = change(features, times)
    with pytest.raises(ValueError, match=problem):
        train_boundary_head(features, times, boundaries, HEAD, seed=0)
    with pytest.raises(ValueError, match=problem):
        fit_peaks(features, times, [[b] for b in boundaries], [10.0] * 2, PeakSettings())


def test_features_of_another_width_are_refused():
    head = train_boundary_head(*planted(5), HEAD, seed=0)
    with pytest.raises(ValueError, match=r"\[20, 3\], but the head takes \[S, 16\]"):
        head.scores(np.zeros((20, 3), np.float32))


@pytest.mark.parametrize(
    "options",
    [{"context_s": 0}, {"near_s": -1}, {"threshold": 1}, {"epochs": 0}, {"batch_gaps": 0}, {"learning_rate": 0},
     {"weight_decay": -1}],
)  # fmt: skip
def test_settings_that_cannot_work_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        BoundaryHeadSettings(**options)


@pytest.mark.parametrize("options", [{"measure": "l3"}, {"smoothing_s": -1}])
def test_peak_settings_that_cannot_work_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        PeakSettings(**options)
