"""Videos much longer than those of the training: windows that overlap, each a video of its own, merged."""

from dataclasses import replace

import numpy as np
import pytest

from bsp.features.record import seconds_at, video_end_s
from bsp.models.model import Model
from bsp.models.streams import imported_stream
from bsp.tasks.class_scores import classify_videos
from bsp.tasks.found import Segment
from bsp.tasks.head import Applied, VideoPart
from bsp.tasks.long_videos import hard_merged, over_windows, soft_merged, window_part, windows_of
from small_models import GTAD, STEP_S, info_of, planted, run_gtad
from uneven_record import UNEVEN


def segment(start_s, end_s, score, label=""):
    return Segment(label=label, start_s=start_s, end_s=end_s, score=score)


def test_windows_by_hand():
    assert windows_of(100, 120) == [(0, 100)]
    assert windows_of(180, 120) == [(0, 180)]  # half longer: whole
    assert windows_of(181, 120) == [(0, 120), (60, 180), (61, 181)]
    assert windows_of(300, 120) == [(0, 120), (60, 180), (120, 240), (180, 300)]
    # two hours on two minutes: every minute from 0 to 118 minutes begins one
    assert len(windows_of(7200, 120)) == 119


def test_every_instant_lies_in_a_window_and_so_does_what_is_shorter_than_half_of_one():
    rng = np.random.default_rng(0)
    for _ in range(200):
        length_s, window_s = float(rng.uniform(1, 500)), float(rng.uniform(1, 100))
        windows = windows_of(length_s, window_s)
        assert (windows[0][0], windows[-1][1]) == (0, pytest.approx(length_s))
        start_s = float(rng.uniform(0, length_s))
        end_s = min(length_s, start_s + 0.499 * window_s)
        assert any(a <= start_s + 1e-9 and end_s <= b + 1e-9 for a, b in windows)


@pytest.mark.parametrize("info", [info_of("v", 10), UNEVEN, replace(info_of("v", 10), offset_frames=4)])
def test_a_window_has_its_snippets_at_the_same_times(info):
    feat_SD = np.arange(info.snippets, dtype=np.float32)[:, None]
    start_s, end_s = float(seconds_at(info, 3)), float(seconds_at(info, 7))
    part_SD, part, begins_s = window_part(feat_SD, info, start_s, end_s)
    assert part_SD[:, 0].tolist() == [3, 4, 5, 6]
    assert part.snippets == 4
    np.testing.assert_allclose(seconds_at(part, np.arange(5)) + begins_s, seconds_at(info, np.arange(3, 8)))
    assert video_end_s(part) + begins_s == pytest.approx(end_s)
    last_SD, last, begins_s = window_part(feat_SD, info, start_s, video_end_s(info))
    assert last_SD[:, 0].tolist() == list(range(3, info.snippets))
    assert video_end_s(last) + begins_s == pytest.approx(video_end_s(info))  # with the frames that fill no snippet


def test_parts_are_found_where_they_are_and_classes_are_those_of_their_window():
    """The head of this test finds the one snippet that is 1, and gives it the score of its window's class."""
    info = info_of("v", 1000)
    feat_SD = np.zeros((1000, 4), np.float32)
    feat_SD[700] = 1
    asked = []

    def find(part: VideoPart) -> list[Segment]:
        assert len(part.feat_SD) == part.info.snippets
        times_K2 = [seconds_at(part.info, np.array([k, k + 1])) for k in np.flatnonzero(part.feat_SD[:, 0])]
        return [segment(a, b, float(part.class_scores[0])) for a, b in times_K2]

    def class_scores(start_s, end_s):
        asked.append((start_s, end_s))
        return np.array([start_s])

    whole = VideoPart(feat_SD=feat_SD, info=info, duration_s=640.0)
    found = over_windows(Applied(), find, whole, 100.0, class_scores)
    assert asked == windows_of(8003 / 12.5, 100.0)
    # 448 s lies in the windows that begin at 350 and 400 s; both find it at the same time
    assert [(s.start_s, s.end_s) for s in found] == [(pytest.approx(700 * STEP_S), pytest.approx(701 * STEP_S))] * 2
    assert [s.score for s in found] == [400, 350]
    for applied, window_s in ((Applied(whole_videos=False), 100.0), (Applied(), None), (Applied(), 600.0)):
        asked.clear()
        assert len(over_windows(applied, find, whole, window_s, class_scores)) == 1
        assert asked == [(0, np.inf)]


def test_soft_merge_by_hand():
    """exp(-u^2 / sigma) for a tIoU u of 1/3; another class does not suppress."""
    found = [segment(0, 2, 0.9, "a"), segment(1, 3, 0.8, "a"), segment(0, 2, 0.5, "b"), segment(50, 51, 0.1, "a")]
    decayed = segment(1, 3, pytest.approx(0.8 * np.exp(-(1 / 9) / 0.5)), "a")
    assert soft_merged(found, sigma=0.5) == [found[0], decayed, found[2], found[3]]
    assert soft_merged([], sigma=0.5) == []


def test_hard_merge_by_hand():
    found = [segment(0, 2, 0.5), segment(1, 3, 0.9), segment(0.9, 3, 0.8), segment(5, 6, 0.1), segment(8, 9, 0.05)]
    assert hard_merged(found, tiou=0.5, most=3) == [found[1], found[0], found[3]]
    assert hard_merged(found, tiou=0.3, most=3) == [found[1], found[3], found[4]]


@pytest.mark.long
def test_a_trained_head_on_a_long_video():
    """Twenty videos end to end: most actions are found in their place; with the whole video on the grid hardly any."""
    data, features = planted(30)
    classifier = classify_videos(features, data, ("training", "validation")).classifier
    settings = replace(GTAD, cells=48, max_duration=48, epochs=10)
    kept = run_gtad(data, features, classifier, settings).kept
    parts = [features.read(f"v{number}")[0] for number in range(20)]
    feat_SD = np.concatenate(parts)
    info = info_of("long", len(feat_SD))
    begins = np.cumsum([0, *map(len, parts)]).tolist()
    first = [at + s for at, part in zip(begins, parts) for s in range(2, len(part) - 5, 9)]
    truth = np.array([(at * STEP_S, (at + 4) * STEP_S) for at in first])
    model = Model(kind="gtad", streams=(imported_stream(info),), kept=kept, classifier=classifier)
    longest_s = max(video.duration_s for video in data.videos)
    assert model.window_s == pytest.approx(longest_s)

    def share_found(segments):
        """Of the actions that one of the best segments (two for each action) has a tIoU above 0.5 with."""
        best = np.array([(s.start_s, s.end_s) for s in segments[: 2 * len(truth)]])
        overlap = np.minimum(best[:, 1, None], truth[:, 1]) - np.maximum(best[:, 0, None], truth[:, 0])
        hull = np.maximum(best[:, 1, None], truth[:, 1]) - np.minimum(best[:, 0, None], truth[:, 0])
        return float((overlap > 0.5 * hull).any(0).mean())

    found = model.detect_features(feat_SD, info)
    whole = replace(model, kept=replace(kept, facts={})).detect_features(feat_SD, info)
    assert share_found(found) > 0.8
    assert share_found(whole) < 0.2  # cells of 11 snippets, actions of 4
    windows = len(windows_of(video_end_s(info), longest_s))
    assert len(found) <= windows * settings.max_proposals * settings.top_classes
