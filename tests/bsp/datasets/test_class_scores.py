"""bsp.datasets.class_scores: both published layouts read, everything else refused with the reason."""

from __future__ import annotations

import gzip
import json
import pickle

import numpy as np
import pytest

from bsp.datasets.class_scores import read_class_scores
from bsp.errors import AnnotationError

CUHK = {"class": ["walk", "jump", "wave"], "results": {"a": [0.1, 0.2, 0.7], "b": [1, 0, 0], "c": [0.3, 0.3, 0.4]}}
# the fact sheet's two lists, 1-based columns and names in the same order
COLUMNS = [7, 9, 12, 21, 22, 23, 24, 26, 31, 33, 36, 40, 45, 51, 68, 79, 85, 92, 93, 97]
NAMES = [
    "BaseballPitch", "BasketballDunk", "Billiards", "CleanAndJerk", "CliffDiving", "CricketBowling", "CricketShot",
    "Diving", "FrisbeeCatch", "GolfSwing", "HammerThrow", "HighJump", "JavelinThrow", "LongJump", "PoleVault",
    "Shotput", "SoccerPenalty", "TennisSwing", "ThrowDiscus", "VolleyballSpiking",
]  # fmt: skip


@pytest.fixture
def untrimmednet(tmp_path):
    """An array whose entry says its place: row number + column / 1000, both from 1."""
    path = tmp_path / "uNet_test.npy"
    np.save(path, (np.arange(1574)[:, None] + 1 + (np.arange(101) + 1) / 1000).astype(np.float32))
    return path


@pytest.mark.parametrize("packed", [False, True])
def test_cuhk_scores_come_in_the_order_asked_for(tmp_path, packed):
    path = tmp_path / "cuhk_val.json"
    text = json.dumps(CUHK).encode()
    path.write_bytes(gzip.compress(text) if packed else text)
    scores = read_class_scores(path, ("jump", "walk"), ["b", "a"])
    assert {video: row.tolist() for video, row in scores.items()} == {"b": [0, 1], "a": [0.2, 0.1]}
    assert all(row.dtype == np.float64 for row in scores.values())


def test_untrimmednet_rows_are_video_numbers_and_columns_the_thumos_classes(untrimmednet):
    scores = read_class_scores(untrimmednet, NAMES, ["video_test_0000004", "video_test_0001574"])
    for number, video in ((4, "video_test_0000004"), (1574, "video_test_0001574")):
        np.testing.assert_allclose(scores[video], [number + column / 1000 for column in COLUMNS], atol=1e-4)
    reverse = read_class_scores(untrimmednet, NAMES[::-1], ["video_test_0000004"])["video_test_0000004"]
    assert reverse.tolist() == scores["video_test_0000004"][::-1].tolist()


@pytest.mark.parametrize(
    ("names", "videos", "message"),
    [
        (
            ["Diving", "wave"],
            ["video_test_0000004"],
            r"uNet_test\.npy: has no scores of 1 classes, for example \['wave'",
        ),
        (NAMES, ["video_test_0001575"], "not video_test_0001575"),
        (NAMES, ["video_test_0000000"], "not video_test_0000000"),
        (NAMES, ["video_validation_0000051"], "not video_validation_0000051"),
    ],
)
def test_untrimmednet_scores_of_others_are_refused(untrimmednet, names, videos, message):
    with pytest.raises(AnnotationError, match=message):
        read_class_scores(untrimmednet, names, videos)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"scores\.json: malformed JSON"),
        ('{"results": {}}', r"expected .*; found the keys \['results'\]"),
        ("[1, 2]", "found a list"),
        ('{"class": [1, 2], "results": {}}', "expected"),
        ('{"class": ["walk"], "results": {"a": [1]}}', r"no scores of 1 classes, for example \['jump'\]"),
        ('{"class": ["Jump", "walk"], "results": {"a": [1, 2]}}', r"'Jump' is probably 'jump' \(upper and lower case"),
        ('{"class": ["jump", "walk"], "results": {"v_a": [1, 2]}}', r"'v_a' is probably 'a' .*v_"),
        ('{"class": ["jump", "walk"], "results": {"b": [1, 2]}}', r"no scores of 1 videos, for example \['a'\]"),
        ('{"class": ["jump", "walk"], "results": {"a": [1]}}', r"results\.a: \[1\] scores for 2 classes"),
        ('{"class": ["jump", "walk"], "results": {"a": [1, "x"]}}', r"results\.a: .*expected 2 numbers"),
        ('{"class": ["jump", "walk"], "results": {"a": [1, -2]}}', "scores of a are negative or not finite"),
        ('{"class": ["jump", "walk"], "results": {"a": [1, NaN]}}', "scores of a are negative or not finite"),
    ],
)
def test_wrong_json_is_named(tmp_path, content, message):
    path = tmp_path / "scores.json"
    path.write_text(content)
    with pytest.raises(AnnotationError, match=message):
        read_class_scores(path, ("jump", "walk"), ["a"])


class Trap:
    def __reduce__(self):
        return (pytest.fail, ("it was unpickled",))


def test_nothing_is_unpickled_and_other_arrays_are_refused(tmp_path):
    plain, array, shape = tmp_path / "scores.pkl", tmp_path / "objects.npy", tmp_path / "shape.npy"
    plain.write_bytes(pickle.dumps(Trap()))
    np.save(array, np.array([Trap()], dtype=object), allow_pickle=True)
    np.save(shape, np.zeros((210, 20)))
    with pytest.raises(AnnotationError, match=r"scores\.pkl: .*no text file; expected"):
        read_class_scores(plain, NAMES, ["video_test_0000004"])
    with pytest.raises(AnnotationError, match=r"objects\.npy: .*expected"):
        read_class_scores(array, NAMES, ["video_test_0000004"])
    with pytest.raises(AnnotationError, match=r"a float64 array \[210, 20\]; expected"):
        read_class_scores(shape, NAMES, ["video_test_0000004"])
    with pytest.raises(AnnotationError, match="cannot be read"):
        read_class_scores(tmp_path / "none.npy", NAMES, [])
