"""Instances as labels: cut at the video's ends, dropped where nothing remains, counted, and logged in one line."""

import logging

import numpy as np
import pytest

from bsp.datasets.label_times import LabelTimes, cut_to_extent, length_remark
from bsp.errors import AnnotationError

ODD = [(1, 5), (-2, 3), (50, 200), (30, 20), (7, 7), (100, 120), (-3, 0), (60, 70)]  # in a video of 60 s


def test_what_is_left_by_hand():
    times_K2, kept_G = cut_to_extent(ODD, 60.0)
    assert times_K2.tolist() == [[1, 5], [0, 3], [50, 60]]
    assert kept_G.tolist() == [True, True, True, False, False, False, False, False]
    assert cut_to_extent([], 60.0)[0].shape == (0, 2)


def test_counted_and_told_in_one_line(caplog):
    times = LabelTimes()
    assert times.inside("v", ODD, 60.0).tolist() == [[1, 5], [0, 3], [50, 60]]
    assert times.inside("w", [], 60.0).shape == (0, 2)
    assert times.instances == 8
    assert times.cut == ["v: -2 to 3 s of 60 s", "v: 50 to 200 s of 60 s"]
    assert times.dropped == [
        "v: 30 to 20 s is empty or runs backwards",
        "v: 7 to 7 s is empty or runs backwards",
        "v: 100 to 120 s lies after the video's 60 s",
        "v: -3 to 0 s lies before the video's 60 s",
        "v: 60 to 70 s lies after the video's 60 s",
    ]
    with caplog.at_level(logging.WARNING):
        times.report("training instances")
        LabelTimes(instances=3).report("nothing odd, no message")
    (line,) = caplog.messages
    assert line.startswith("labels of 8 training instances: 5 dropped (v: 30 to 20 s is empty or runs backwards; ")
    assert line.endswith("; ...), 2 cut at their video's end (v: -2 to 3 s of 60 s; v: 50 to 200 s of 60 s)")
    assert times.facts()["cut"] == 2


def test_in_the_labels_own_unit():
    """Features of 50 of 60 s, in 10 cells: instances reaching into the last 10 s are clipped but lie in their video."""
    times = LabelTimes()
    seconds = np.array([(5.0, 10.0), (40.0, 58.0), (40.0, 62.0), (52.0, 58.0)])
    assert times.inside("v", seconds, 60.0, places=seconds / 5, extent=10.0).tolist() == [[1, 2], [8, 10], [8, 10]]
    assert times.cut == ["v: 40 to 62 s of 60 s"]
    assert times.dropped == ["v: 52 to 58 s lies outside its video's features"]


def test_moments():
    times = LabelTimes()
    assert times.moments_inside("v", (0.0, 12.0, -0.5, 10.0, 3.0), 10.0) == [0.0, 10.0, 3.0]
    assert times.dropped == ["v: 12 s is outside its 10 s", "v: -0.5 s is outside its 10 s"]


def test_more_than_half_dropped_is_refused_with_an_example():
    times = LabelTimes()
    with pytest.raises(AnnotationError, match="there are no training instances"):
        times.require_most("training instances")
    times.inside("v", [(1, 5), (2000, 8000)], 20.0)
    times.require_most("training instances")  # half of them
    times.inside("w", [(3000, 4000)], 20.0)
    with pytest.raises(
        AnnotationError, match=r"2 of 3 training .* v: 2000 to 8000 s lies after .* not in milliseconds"
    ):
        times.require_most("training instances")


def test_lengths_that_are_not_those_of_the_features():
    """Above both 10 % and a second: 5 s and 5.9 s are a nominal frame rate's work, 100 s and 109 s are too."""
    assert length_remark([]) is None
    near = [("a", 5.9, 5.0), ("b", 109.0, 100.0), ("c", 91.0, 100.0), ("d", 20.0, 20.0)]
    assert length_remark(near) is None
    remark = length_remark([*near, ("e", 111.5, 100.0), ("f", 7.0, 8.5)])
    assert remark.startswith(
        "the annotated durations of 2 of 6 videos are not those of their features, such as e: 111.5 s"
    )
    assert "milliseconds" not in remark
    thousandfold = [(name, 1000 * ours_s + 3, ours_s) for name, _, ours_s in near]
    assert length_remark([*thousandfold, ("e", 3.0, 3.0)]).endswith("are they in milliseconds?")
