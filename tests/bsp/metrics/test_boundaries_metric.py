"""F1 of event boundaries: by hand, and against plain loops over clips, annotators and boundaries."""

from __future__ import annotations

import random

import pytest

from bsp.errors import AnnotationError
from bsp.metrics.boundaries import DISTANCES, ClipBoundaries, evaluate_boundaries, pooled_scores

VARIANTS = ("challenge", "notebook", "tapos")


def clip(*annotators, duration=10.0, fps=10.0, consistency=1.0):
    return {
        "num_frames": round(duration * fps),
        "fps": fps,
        "video_duration": duration,
        "f1_consis": [consistency] * len(annotators),
        "f1_consis_avg": consistency,
        "substages_timestamps": [list(times) for times in annotators],
        "substages_myframeidx": [[int(time * fps) for time in times] for times in annotators],
    }


def f1(ground_truth, predictions, **options):
    return evaluate_boundaries(ground_truth, predictions, **options)["F1"]["0.05"]


# -- plain loops, written from the description of the metric --


def loop_matches(truth, found, tolerance):
    unused, matched = list(found), 0
    for boundary in truth:
        if not unused:
            break
        distances = [abs(boundary - time) for time in unused]
        nearest = distances.index(min(distances))
        if distances[nearest] <= tolerance:
            matched += 1
            del unused[nearest]
    return matched


def loop_scores(ground_truth, predictions, variant, r):
    matched = boundaries = detections = 0
    for name, record in ground_truth.items():
        seconds = variant == "challenge"
        raters = record["substages_timestamps" if seconds else "substages_myframeidx"]
        if variant == "tapos":
            if not raters[0]:
                continue
        elif record["f1_consis_avg"] < 0.3:
            continue
        if name not in predictions:
            boundaries += 0 if variant == "notebook" else len(raters[0])
            continue
        extent = record["video_duration"] if seconds else record["num_frames"]
        last = extent if seconds else extent - 1
        found = [time for time in predictions[name] if 0 <= time <= last]
        if not found:
            boundaries += len(raters[0])
            continue
        detections += len(found)
        best = (-1.0, 0, 0)
        for truth in raters:
            hits = loop_matches(truth, found, r * extent)
            recall, precision = (hits / len(truth) if truth else 1.0), hits / len(found)
            score = 2 * recall * precision / (recall + precision) if recall + precision else 0.0
            if score > best[0]:
                best = (score, hits, len(truth))
        matched += best[1]
        boundaries += best[2]
    recall = matched / boundaries if boundaries else 1.0
    precision = matched / detections if detections else 0.0
    return 2 * recall * precision / (recall + precision) if recall + precision else 0.0, precision, recall


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("variant", VARIANTS)
def test_it_agrees_with_plain_loops(variant, seed):
    rng = random.Random(seed)

    def times(most, duration, overhang=0.0):
        # a coarse grid, so that distances are often equal to each other and to the tolerance; unsorted
        return [round(rng.uniform(-overhang, duration + overhang) * 4) / 4 for _ in range(rng.randint(0, most))]

    ground_truth, predictions = {}, {}
    for number in range(120):
        duration = rng.choice((5.0, 10.0, 7.25))
        raters = [times(6, duration) for _ in range(1 if variant == "tapos" else rng.randint(1, 5))]
        ground_truth[f"v{number}"] = clip(*raters, duration=duration, consistency=rng.choice((0.1, 0.3, 0.8)))
        if rng.random() < 0.85:
            found = times(8, duration, overhang=1.0)
            predictions[f"v{number}"] = found if variant == "challenge" else [int(10 * time) for time in found]
    report = evaluate_boundaries(ground_truth, predictions, variant=variant)
    assert report["variant"] == variant
    for distance in DISTANCES:
        expected = loop_scores(ground_truth, predictions, variant, distance)
        key = f"{distance:.2f}"
        assert (report["F1"][key], report["precision"][key], report["recall"][key]) == pytest.approx(
            expected, abs=1e-12
        )
    assert report["mean_F1"] == pytest.approx(sum(report["F1"].values()) / 10)
    assert len(set(report["F1"].values())) > 3  # the distances matter


def test_blocks_of_clips_do_not_change_the_counts(monkeypatch):
    rng = random.Random(0)
    clips = [
        ClipBoundaries(
            truth=[sorted(rng.uniform(0, 9) for _ in range(4)) for _ in range(3)],
            found=[rng.uniform(0, 9) for _ in range(rng.randint(0, 9))],
            extent=9.0,
        )
        for _ in range(40)
    ]
    whole = pooled_scores(clips, DISTANCES)
    monkeypatch.setattr("bsp.metrics.boundaries._CELLS_AT_ONCE", 20)
    pieces = pooled_scores(clips, DISTANCES)
    assert whole.true_positives.tolist() == pieces.true_positives.tolist()
    assert whole.boundaries.tolist() == pieces.boundaries.tolist()
    assert whole.true_positives[0] < whole.true_positives[-1]


# -- by hand --


def test_the_tolerance_is_a_share_of_the_clip_and_itself_allowed():
    assert f1({"v": clip([5.0])}, {"v": [5.5]}) == 1.0
    assert f1({"v": clip([5.0])}, {"v": [5.501]}) == 0.0
    assert f1({"v": clip([5.0], duration=20.0)}, {"v": [6.0]}) == 1.0
    in_frames = {"v": clip([5.0])}  # frame 50 of 100
    for variant in ("notebook", "tapos"):
        assert f1(in_frames, {"v": [55]}, variant=variant) == 1.0
        assert f1(in_frames, {"v": [56]}, variant=variant) == 0.0


def test_matching_is_greedy_in_the_stored_order():
    # 5.0 takes 5.2, the nearest; then nothing is left near 5.6. The best assignment would find both.
    report = evaluate_boundaries({"v": clip([5.0, 5.6])}, {"v": [4.6, 5.2]})
    assert (report["recall"]["0.05"], report["precision"]["0.05"]) == (0.5, 0.5)
    # The other way round 5.6 takes 5.2 first, and 5.0 gets 4.6.
    assert f1({"v": clip([5.6, 5.0])}, {"v": [4.6, 5.2]}) == 1.0


def test_each_distance_chooses_its_own_annotator():
    # Two detections. At 0.05 the first annotator is best (1 of 1, F1 2/3; the other has 1 of 3);
    # at 0.5 the second one (2 of 2 detections among 3 boundaries, F1 0.8).
    report = evaluate_boundaries({"v": clip([2.0], [2.0, 4.0, 9.0])}, {"v": [2.0, 6.0]}, distances=(0.05, 0.5))
    assert report["F1"] == {"0.05": pytest.approx(2 / 3), "0.50": pytest.approx(0.8)}


def test_counts_are_pooled_over_clips():
    # 1 of 1 found in one clip and 0 of 3 in the other (3 detections): 1/4 both; the mean of the clips would be 1/2.
    ground_truth = {"a": clip([2.0]), "b": clip([1.0, 2.0, 3.0])}
    assert f1(ground_truth, {"a": [2.0], "b": [7.0, 8.0, 9.0]}) == 0.25


def test_clips_of_little_agreement_are_left_out():
    ground_truth = {"a": clip([2.0]), "b": clip([5.0], consistency=0.29), "c": clip([5.0], consistency=0.3)}
    report = evaluate_boundaries(ground_truth, {"a": [2.0], "b": [9.0], "c": [9.0]})
    assert report["F1"]["0.05"] == 0.5
    assert report["videos"] == {"used": 2, "missing": 0, "inconsistent": 1, "without_boundary": 0, "unknown": 0}


@pytest.mark.parametrize(
    ("variant", "recall", "used"), [("challenge", 0.5, 2), ("notebook", 1.0, 1), ("tapos", 0.5, 2)]
)
def test_a_clip_without_an_entry(variant, recall, used):
    times = [5.0] if variant == "challenge" else [50]
    report = evaluate_boundaries({"a": clip([5.0]), "b": clip([5.0])}, {"a": times, "x": []}, variant=variant)
    assert report["recall"]["0.05"] == recall
    expected = {"used": used, "missing": 1, "inconsistent": 0, "without_boundary": 0, "unknown": 1}
    assert report["videos"] == expected


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_clip_with_an_empty_entry_has_missed_all(variant):
    times = [5.0] if variant == "challenge" else [50]
    report = evaluate_boundaries({"a": clip([5.0]), "b": clip([5.0])}, {"a": times, "b": []}, variant=variant)
    assert report["recall"]["0.05"] == 0.5


def test_without_detections_the_first_annotator_counts():
    report = evaluate_boundaries({"a": clip([5.0]), "b": clip([1.0, 3.0, 8.0], [4.0], [])}, {"a": [5.0]})
    assert report["recall"]["0.05"] == 0.25


def test_detections_outside_the_clip_do_not_count_and_duplicates_do():
    assert f1({"v": clip([0.25])}, {"v": [-0.1, 10.1, 0.0]}) == 1.0
    assert f1({"v": clip([9.75])}, {"v": [10.0]}) == 1.0  # the last moment is inside
    assert f1({"v": clip([9.75])}, {"v": [100, 99]}, variant="notebook") == 1.0  # frame 100 is not
    report = evaluate_boundaries({"v": clip([5.0])}, {"v": [5.0, 5.0]})
    assert (report["precision"]["0.05"], report["recall"]["0.05"]) == (0.5, 1.0)


def test_tapos_skips_instances_without_boundary_and_keeps_all_others():
    ground_truth = {"a": clip([5.0], consistency=0.1), "b": clip([])}
    report = evaluate_boundaries(ground_truth, {"a": [50], "b": [30]}, variant="tapos")
    assert report["F1"]["0.05"] == 1.0
    assert report["videos"]["without_boundary"] == 1
    with pytest.raises(AnnotationError, match=r"truth\.pkl: a: 2 annotators"):
        evaluate_boundaries({"a": clip([1.0], [2.0])}, {"a": [5]}, variant="tapos", names=("truth.pkl", "p"))


def test_an_annotator_without_boundaries_has_full_recall_but_no_precision():
    # F1 0 for either annotator; the first of equals is chosen: no boundary, so the pooled recall is 1.
    report = evaluate_boundaries({"v": clip([], [1.0])}, {"v": [8.0]})
    assert (report["F1"]["0.05"], report["precision"]["0.05"], report["recall"]["0.05"]) == (0.0, 0.0, 1.0)


# -- wrong input --


@pytest.mark.parametrize(
    ("ground_truth", "predictions", "problem"),
    [
        ({"a": clip([1.0])}, {"a": ["x"]}, r"pred: a\[0\].*'x'"),
        ({"a": clip([1.0])}, {"a": 5.0}, r"pred: a: .*5\.0"),
        ({"a": clip([1.0])}, {"a": [float("nan")]}, r"pred: a\[0\].*nan"),
        ({"a": clip([1.0])}, [], "pred: top level"),
        ({"a": {"fps": 3}}, {}, r"truth: a\.num_frames: is missing"),
        ({"a": clip([1.0], consistency=0.1)}, {"a": [1.0]}, "truth: none of its 1 clips"),
        ({}, {"a": [1.0]}, "truth: none of its 0 clips"),
    ],
)
def test_wrong_input_is_refused_with_place_and_value(ground_truth, predictions, problem):
    with pytest.raises(AnnotationError, match=problem):
        evaluate_boundaries(ground_truth, predictions, names=("truth", "pred"))


@pytest.mark.parametrize("options", [{"variant": "other"}, {"distances": (0,)}, {"distances": ()},
                                     {"distances": (0.051, 0.052)}])  # fmt: skip
def test_wrong_options_are_refused(options):
    with pytest.raises(ValueError, match="must be"):
        evaluate_boundaries({"a": clip([1.0])}, {"a": [1.0]}, **options)
