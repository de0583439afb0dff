"""Scores on resampled videos against the metric itself on files in which each video occurs as often as it was drawn."""

import numpy as np
import pytest

from bsp.metrics.actionness import evaluate_actionness, segment_count
from bsp.metrics.boundaries import evaluate_boundaries
from bsp.metrics.detection import evaluate_detection
from bsp.metrics.grounding import evaluate_grounding
from bsp.statistics.actionness import actionness_per_video
from bsp.statistics.boundaries import boundaries_per_video
from bsp.statistics.detection import detection_per_video
from bsp.statistics.grounding import grounding_per_video
from bsp.statistics.per_video import draw_counts, sample_blocks

VIDEOS = 7
COUNTS = np.concatenate([np.ones((1, VIDEOS), int), draw_counts(VIDEOS, 25, seed=3)])


def copies(records: dict, videos: tuple[str, ...], counts: np.ndarray) -> dict:
    """``records`` with each video as often as it counts, under new names; others, not in ``videos``, stay."""
    drawn = [(f"{video}~{k}", video) for video, count in zip(videos, counts, strict=True) for k in range(count)]
    return {new: records[video] for new, video in drawn if video in records} | {
        video: record for video, record in records.items() if video not in videos
    }


def agree(per_video, name_of, evaluate):
    """Compare every sample with ``evaluate(counts)``, whose result has the scores under ``name_of``: fractions."""
    found = per_video.scores(COUNTS)
    assert set(name_of) == set(found)
    for row, counts in enumerate(COUNTS):
        report = evaluate(counts)
        for name, of_report in name_of.items():
            assert found[name][row] == pytest.approx(100 * of_report(report), abs=1e-9), (name, counts)
    assert per_video.identity() == {name: pytest.approx(value_B[0]) for name, value_B in found.items()}
    assert len({round(float(value), 6) for value in found[next(iter(found))]}) > 5  # samples differ


def detection_files(rng):
    database, results = {}, {}
    for v in range(VIDEOS):
        instances, found = [], []
        for _ in range(v % 4):  # also videos without an instance
            start, length = rng.uniform(0, 60), rng.uniform(2, 20)
            label = "abc"[rng.integers(3)]
            instances.append({"label": label, "segment": [start, start + length]})
            for _ in range(3):
                shift = rng.normal(0, 0.15 * length, 2)
                segment = [max(0.0, start + shift[0]), start + length + shift[1]]
                found.append({"label": label if rng.random() < 0.7 else "abc"[rng.integers(3)], "segment": segment})
        found += [{"label": "z", "segment": [0.0, 1.0]}]  # a class that does not occur
        results[f"v{v}"] = [record | {"score": float(rng.random())} for record in found]
        database[f"v{v}"] = {"subset": "validation", "duration": 90.0, "annotations": instances}
    database["t"] = {"subset": "training", "duration": 9.0, "annotations": [{"label": "a", "segment": [0.0, 2.0]}]}
    results["t"] = [{"label": "a", "segment": [0.0, 2.0], "score": 0.9}]  # not of the subset: always a false positive
    del results["v6"]  # nothing was found in it
    return {"database": database}, {"results": results}


@pytest.mark.parametrize("metric", [{}, {"tious": (0.3, 0.5), "top_k": 4}])
def test_mean_average_precision(metric):
    truth, found = detection_files(np.random.default_rng(1))
    per_video = detection_per_video(truth, found, **metric)
    assert per_video.videos == tuple(f"v{v}" for v in range(VIDEOS))
    keys = ["0.30", "0.50"] if metric else [f"{0.5 + 0.05 * k:.2f}" for k in range(10)]

    def evaluate(counts):
        database = copies(truth["database"], per_video.videos, counts)
        results = copies(found["results"], per_video.videos, counts)
        return evaluate_detection({"database": database}, {"results": results}, **metric)

    name_of = {f"mAP@{key}": lambda report, key=key: report["mAP"][key] for key in keys}
    agree(per_video, name_of | {"mAP_avg": lambda report: report["average_mAP"]}, evaluate)


def test_a_sample_without_any_instance_has_no_score():
    truth, found = detection_files(np.random.default_rng(1))
    only_empty = np.array([[VIDEOS, 0, 0, 0, 0, 0, 0]])  # v0 has no instance
    assert np.isnan(detection_per_video(truth, found).scores(only_empty)["mAP_avg"]).all()


@pytest.mark.parametrize("protocol", ["2dtan", "lgi"])
def test_grounding_draws_the_queries_of_a_video_together(protocol):
    rng, truth, found = np.random.default_rng(2), [], []
    for v in range(VIDEOS):
        for q in range(1 + v % 3):
            start, length = rng.uniform(0, 20), rng.uniform(2, 9)
            row = {"video": f"v{v}", "sentence": f"query {q}"}
            truth.append(row | {"start_s": start, "end_s": start + length, "duration_s": 40.0})
            moments = [[start + d, start + length + d, float(rng.random())] for d in rng.normal(0, 3, 6)]
            found.append(row | {"moments": moments})
    truth.append({"video": "v0", "sentence": "empty", "start_s": 5.0, "end_s": 5.0, "duration_s": 40.0})
    per_video = grounding_per_video(truth, found, protocol=protocol)

    def evaluate(counts):
        def drawn(rows):
            count_of = dict(zip(per_video.videos, counts, strict=True))
            return [row | {"video": f"{row['video']}~{k}"} for row in rows for k in range(count_of[row["video"]])]

        return evaluate_grounding(drawn(truth), drawn(found), protocol=protocol)

    names = [f"R{n}@{iou}" for n in (1, 5) for iou in (0.3, 0.5, 0.7)] + ["mIoU"]
    agree(per_video, {name: lambda report, name=name: report[name] for name in names}, evaluate)


def test_boundaries():
    rng, truth, found = np.random.default_rng(4), {}, {}
    for v in range(VIDEOS):
        times = [sorted(rng.uniform(0.5, 9.5, rng.integers(0, 5)).tolist()) for _ in range(2)]
        truth[f"v{v}"] = {
            "num_frames": 300, "video_duration": 10.0, "fps": 30.0, "path_video": f"v{v}.mp4",
            "substages_timestamps": times, "substages_myframeidx": [[30 * t for t in of] for of in times],
            "f1_consis": [0.8, 0.9], "f1_consis_avg": 0.85,
        }  # fmt: skip
        found[f"v{v}"] = sorted((np.array(times[v % 2]) + rng.normal(0, 0.5, len(times[v % 2]))).clip(0, 10).tolist())
    del found["v3"]
    per_video = boundaries_per_video(truth, found)

    def evaluate(counts):
        return evaluate_boundaries(copies(truth, per_video.videos, counts), copies(found, per_video.videos, counts))

    name_of = {f"{k}@0.05": lambda report, k=k: report[k]["0.05"] for k in ("F1", "precision", "recall")}
    agree(per_video, name_of | {"F1_mean": lambda report: report["mean_F1"]}, evaluate)


def test_actionness_with_equal_scores():
    rng, videos, scores = np.random.default_rng(5), {}, {}
    for v in range(VIDEOS):
        steps = [[1.0, 1.0 + v % 3], [4.0, 4.5]] if v % 3 else []
        videos[f"v{v}"] = {"task": "one" if v < 4 else "two", "duration_s": 6.0 + v, "steps": steps}
        scores[f"v{v}"] = rng.random(segment_count(6.0 + v)).round(1).tolist()
    del scores["v5"]
    truth, found = {"segment_s": 0.2, "videos": videos}, {"segment_s": 0.2, "scores": scores}
    per_video = actionness_per_video(truth, found)

    def evaluate(counts):
        return evaluate_actionness(
            truth | {"videos": copies(videos, per_video.videos, counts)},
            found | {"scores": copies(scores, per_video.videos, counts)},
        )

    agree(per_video, {k: lambda report, k=k: report[k] for k in ("AP", "AP_video", "AP_task")}, evaluate)


def test_samples_are_the_same_for_the_same_numbers():
    counts = draw_counts(20, 300)
    assert (counts.sum(axis=1) == 20).all()
    assert (counts == draw_counts(20, 300)).all()
    assert not (counts == draw_counts(20, 300, seed=1)).all()
    assert counts.var() == pytest.approx(0.95, abs=0.05)  # of a binomial of 20 draws at 1/20
    blocks = list(sample_blocks(300, 50_000))
    assert [block.start for block in blocks[1:]] == [block.stop for block in blocks[:-1]]
    assert (blocks[0].start, blocks[-1].stop) == (0, 300)
    with pytest.raises(ValueError, match="at least 1"):
        draw_counts(0, 5)
