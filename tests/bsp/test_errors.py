"""How many broken videos a cap allows."""

from bsp.errors import most_broken


def test_one_of_a_few_may_always_be_broken_if_any_may():
    assert [most_broken(0.05, videos) for videos in (2, 8, 20, 40, 1000)] == [1, 1, 1, 2, 50]
    assert most_broken(0.05, 1) == 0
    assert most_broken(0, 1000) == 0
    assert most_broken(1, 3) == 3
