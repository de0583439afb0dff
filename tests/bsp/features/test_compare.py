"""Comparison of two folders of features, against numbers worked out by hand."""

from dataclasses import replace

import numpy as np
import pytest

from bsp.features.compare import compare_features, compare_video
from bsp.features.store import write_features
from small_models import info_of


def feat(rows):
    return np.array(rows, np.float32)


A = feat([[1, 0], [0, 2], [3, 4]])


def test_cosine_and_difference_by_hand():
    b = feat([[1, 0], [2, 0], [4, 3]])  # same, at a right angle, 24/25
    found = compare_video((A, info_of("v", 3, 2)), (b, info_of("v", 3, 2)))
    assert found.cosine == pytest.approx((1.0, 0.0, 0.96))
    assert found.worst == pytest.approx(0)
    assert found.difference == pytest.approx(2 / 4)
    assert found.same_grid
    assert not found.equal
    assert found.records == ()


def test_equal_within_the_tolerance_and_records_that_differ():
    other = replace(info_of("v", 3, 2), precision="bfloat16", reader="pyav")
    pair = (A, info_of("v", 3, 2)), (A * np.float32(1.001), other)
    assert not compare_video(*pair).equal
    assert compare_video(*pair, tolerance=0.01).equal
    assert {(field, a, b) for field, a, b in compare_video(*pair).records} == {
        ("precision", "float32", "bfloat16"), ("reader", "", "pyav")
    }  # fmt: skip


def test_another_grid_or_width_cannot_be_equal():
    shifted = replace(info_of("v", 3, 2), offset_frames=4)
    assert not compare_video((A, info_of("v", 3, 2)), (A, shifted)).same_grid
    fewer = compare_video((A, info_of("v", 3, 2)), (A[:2], info_of("v", 2, 2)))
    assert not (fewer.same_grid)
    assert not (fewer.equal)
    assert fewer.cosine == ()
    assert np.isnan(fewer.worst)
    wider = compare_video((A, info_of("v", 3, 2)), (np.zeros((3, 5), np.float32), info_of("v", 3, 5)))
    assert wider.same_grid
    assert not wider.same_width
    assert not wider.equal


def test_zeros_on_both_sides_are_equal():
    zero = np.zeros((1, 2), np.float32)
    assert compare_video((zero, info_of("v", 1, 2)), (zero, info_of("v", 1, 2))).cosine == (1.0,)
    one = compare_video((zero, info_of("v", 1, 2)), (zero + 1, info_of("v", 1, 2)))
    assert one.cosine == (0.0,)
    assert not one.equal


def test_folders(tmp_path):
    for folder, names in (("a", "xy"), ("b", "yz")):
        (tmp_path / folder).mkdir()
        for name in names:
            write_features(tmp_path / folder, name, A, info_of(name, 3, 2))
    found = compare_features(tmp_path / "a", tmp_path / "b")
    assert (found.only_a, found.only_b, [v.video_id for v in found.videos]) == (("x",), ("z",), ["y"])
    assert found.cosine == (1.0, 1.0)
    assert found.same_grid
    assert not found.equal
    assert compare_features(tmp_path / "a", tmp_path / "a").equal
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no features"):
        compare_features(tmp_path / "a", tmp_path / "empty")
