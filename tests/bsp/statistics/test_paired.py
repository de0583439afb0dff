"""The paired analysis: by hand, against SciPy's t-test, and its share of errors on made-up data."""

import numpy as np
import pytest
from scipy import stats

from bsp.statistics.paired import paired_difference
from bsp.statistics.per_video import draw_counts


def test_without_predictions_it_is_the_paired_t_test():
    first, second = np.array([50.0, 53.0, 51.5, 54.0]), np.array([49.0, 50.5, 50.0, 53.5])
    expected = stats.ttest_rel(first, second).confidence_interval(0.95)
    found = paired_difference(first - second)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert (found.mean, found.error_of_videos, found.verdict) == (1.375, None, "appears")
    assert found.bound == pytest.approx(expected.high)


def test_variances_of_seeds_and_videos_are_added():
    """By hand. Seeds: 1, 2, 3 have the variance 1, their mean 1/3. Videos: the mean over seeds is 2 -+ 1, which has the
    variance 2. Sum 7/3."""
    resampled = np.array([[1.0, 1.0], [1.0, 3.0], [1.0, 5.0]])
    found = paired_difference([1.0, 2.0, 3.0], resampled, videos=10)
    assert found.error_of_seeds == pytest.approx((1 / 3) ** 0.5)
    assert found.error_of_videos == pytest.approx(2**0.5)
    freedom = (7 / 3) ** 2 / ((1 / 3) ** 2 / 2 + 2**2 / 9)
    half = stats.t.ppf(0.975, freedom) * (7 / 3) ** 0.5
    assert (found.low, found.high) == pytest.approx((2 - half, 2 + half))
    assert found.detectable == pytest.approx(half + stats.t.ppf(0.8, freedom) * (7 / 3) ** 0.5)


def test_one_seed_has_the_uncertainty_of_its_videos_alone():
    found = paired_difference([2.0], np.array([[1.5, 2.5, np.nan, 1.5, 2.5]]), videos=101)  # nan: no such sample
    assert found.error_of_seeds is None
    assert found.error_of_videos == pytest.approx(np.std([1.5, 2.5, 1.5, 2.5], ddof=1))
    assert found.low == pytest.approx(2 - stats.t.ppf(0.975, 100) * found.error_of_videos)
    assert paired_difference([2.0]) is None
    assert paired_difference([]) is None


def test_verdicts():
    assert paired_difference([2.0, 2.1, 1.9]).verdict == "appears"
    assert paired_difference([-2.0, -2.1, -1.9]).verdict == "reversed"
    same = paired_difference([0.0, 0.0], np.zeros((2, 9)), videos=5)
    assert (same.verdict, same.bound, same.detectable) == ("no difference", 0.0, 0.0)
    with pytest.raises(ValueError, match="3 rows of resampled differences for 2 seeds"):
        paired_difference([1.0, 2.0], np.zeros((3, 9)), videos=5)


@pytest.mark.parametrize(("of_seeds", "of_videos", "most"), [(1.0, 0.2, 0.08), (0.2, 5.0, 0.08), (0.5, 3.0, 0.08)])
def test_the_interval_holds_the_true_difference_as_often_as_it_says(of_seeds, of_videos, most):
    """Mean differences with known parts of seeds and videos: the interval misses the truth, 1, at most in some 5%; and
    a difference as large as the detectable one is found in about 80%."""
    rng, seeds, videos = np.random.default_rng(0), 3, 60
    counts = draw_counts(videos, 200)
    missed, found = 0, 0
    for _ in range(400):
        per_video_KV = 1 + rng.normal(0, of_seeds, (seeds, 1)) + rng.normal(0, of_videos, (1, videos))
        per_video_KV += rng.normal(0, 0.5, (seeds, videos))
        one = paired_difference(per_video_KV.mean(axis=1), per_video_KV @ counts.T / videos, videos=videos)
        missed += not one.low <= 1 <= one.high
        found += one.low - 1 + one.detectable > 0  # the same data with that true difference
    assert missed / 400 <= most
    assert 0.7 < found / 400 < 0.97
