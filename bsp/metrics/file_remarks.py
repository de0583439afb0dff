"""Remarks (remarks.py) on pairs of files in the official formats; arguments as for the metrics.

For files that the metric has accepted; return sentences, none for ordinary results.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from difflib import get_close_matches
from itertools import islice
from typing import Any

import numpy as np

from bsp.datasets.results_json import without_blocked
from bsp.files.spelling import name_remark
from bsp.files.text import clean_id, clean_label
from bsp.metrics.remarks import MAX_PREDICTIONS, MAX_VIDEOS, VideoTimes, time_remark


def detection_remarks(
    ground_truth: dict[str, Any],
    predictions: dict[str, Any],
    *,
    subset: str,
    blocked: Collection[str] = (),
    labels: bool = True,
    is_zero: bool,
) -> list[str]:
    """Remarks on detections, or (``labels=False``) proposals, in ActivityNet's layout. ``is_zero``: the score is 0."""
    database, results = _by_clean_id(ground_truth["database"]), _by_clean_id(predictions["results"])
    truth = {
        video: database[video]["annotations"]
        for video in without_blocked(database, blocked)
        if clean_label(database[video]["subset"]) == subset and database[video].get("annotations")
    }
    found = {video: results[video] for video in without_blocked(results, blocked) if results[video]}
    remarks = []
    strange = [video for video in found if video not in truth]
    if strange:
        remarks.append(name_remark((video for video in strange if video not in database), truth))
        if not remarks[-1] and len(strange) == len(found):
            other = database.get(strange[0], {}).get("subset")
            where = f"is in the subset {other!r}" if other and other != subset else "is not in the ground truth"
            remarks.append(f"No predicted video counts: {strange[0]!r} {where}, which has {next(iter(truth))!r}")
    if labels:
        classes, predicted = _labels(truth.values()), _labels(found.values())
        unknown = [label for label in predicted if label not in classes]
        remarks.append(name_remark(unknown, classes, labels=True))
        if not remarks[-1] and unknown and len(unknown) == len(predicted):
            remarks.append(f"No predicted class counts: predicted {unknown[0]!r}, annotated {next(iter(classes))!r}")
        elif not remarks[-1]:
            meant = {label: get_close_matches(label, classes, n=1, cutoff=0.8) for label in unknown}
            slip = next((label for label in meant if meant[label]), None)
            if slip is not None:
                remarks.append(f"No instance has the predicted class {slip!r}; {meant[slip][0]!r} is probably meant")
    both = islice((video for video in truth if video in found), MAX_VIDEOS)
    videos = [
        VideoTimes(video, _segments(truth[video]), _best(found[video]), _number(database[video].get("duration")))
        for video in both
    ]
    # An unknown class or video explains a score of 0 already.
    remarks.append(time_remark(videos, is_zero=is_zero and not any(remarks)))
    return [f"{remark}." for remark in remarks if remark]


def grounding_remarks(
    ground_truth: list[dict[str, Any]], predictions: list[dict[str, Any]], *, is_zero: bool
) -> list[str]:
    """Remarks on moments. ``is_zero``: the mean IoU is 0."""
    queries, rows = (
        {(clean_id(row["video"]), clean_label(row["sentence"])): row for row in side}
        for side in (ground_truth, predictions)
    )
    videos = {video for video, _ in queries}
    strange = [key for key in rows if key not in queries]
    remarks = [name_remark((video for video, _ in strange if video not in videos), sorted(videos))]
    sentences: dict[str, list[str]] = {}
    for video, sentence in queries:
        sentences.setdefault(video, []).append(sentence)
    found = (name_remark([text], sentences[video], labels=True) for video, text in strange if video in videos)
    remarks.append(next((remark for remark in islice(found, MAX_VIDEOS) if remark), ""))
    if strange and len(strange) == len(rows) and not any(remarks):
        (video, sentence), (of, words) = strange[0], next(iter(queries))
        remarks.append(f"No predicted row has a query: predicted {video!r}, {sentence!r}, annotated {of!r}, {words!r}")
    both = islice((key for key in queries if key in rows and rows[key]["moments"]), MAX_VIDEOS)
    times = [
        VideoTimes(
            f"{key[0]}: {key[1]}",
            np.array([[float(queries[key]["start_s"]), float(queries[key]["end_s"])]]),
            _best([{"score": score, "segment": (start, end)} for start, end, score in rows[key]["moments"]]),
            float(queries[key]["duration_s"]),
        )
        for key in both
    ]
    remarks.append(time_remark(times, is_zero=is_zero and not any(remarks)))
    return [f"{remark}." for remark in remarks if remark]


def boundary_remarks(
    ground_truth: dict[str, Any], predictions: dict[str, Any], *, variant: str, is_zero: bool
) -> list[str]:
    """Remarks on event boundaries; the ground truth in the processed layout. ``is_zero``: every F1 is 0."""
    ground_truth, predictions = _by_clean_id(ground_truth), _by_clean_id(predictions)
    remarks = [id_remark(predictions, ground_truth)]
    in_frames = variant != "challenge"
    field = "substages_myframeidx" if in_frames else "substages_timestamps"
    videos: list[VideoTimes] = []
    for clip, record in ground_truth.items():
        times = next((times for times in record[field] if len(times)), ())
        truth = np.array([float(time) for time in times])
        found = np.array([float(time) for time in predictions.get(clip, ())])
        length = float(record["num_frames"] if in_frames else record["video_duration"])
        if len(truth) and len(found) and len(videos) < MAX_VIDEOS:
            videos.append(VideoTimes(clip, truth, found, length, float(record["fps"]), in_frames))
    remarks.append(time_remark(videos, is_zero=is_zero and not any(remarks)))
    return [f"{remark}." for remark in remarks if remark]


def actionness_remarks(ground_truth: dict[str, Any], predictions: dict[str, Any]) -> list[str]:
    """Remarks on actionness: scores have no unit, so only ids are checked."""
    remark = id_remark(_by_clean_id(predictions["scores"]), _by_clean_id(ground_truth["videos"]))
    return [f"{remark}."] if remark else []


def id_remark(predicted: Collection[str], known: Collection[str]) -> str:
    """Remark on predicted ids that are not in the ground truth; "" if ordinary."""
    strange = [video for video in predicted if video not in known]
    remark = name_remark(strange, known)
    if not remark and strange and len(strange) == len(predicted):
        remark = f"No predicted id counts: predicted {strange[0]!r}, annotated {next(iter(known), None)!r}"
    return remark


def _by_clean_id(records: Mapping[str, Any]) -> dict[str, Any]:
    return {clean_id(video): record for video, record in records.items()}


def _labels(lists: Iterable[Iterable[dict[str, Any]]]) -> dict[str, None]:
    """All labels, cleaned, in order of appearance."""
    return dict.fromkeys(clean_label(label) for label in dict.fromkeys(row["label"] for rows in lists for row in rows))


def _segments(rows: Iterable[dict[str, Any]]) -> np.ndarray:
    return np.array([[float(time) for time in row["segment"]] for row in rows]).reshape(-1, 2)


def _best(rows: Iterable[dict[str, Any]]) -> np.ndarray:
    """The segments of highest score, [P, 2], best first."""
    return _segments(sorted(rows, key=lambda row: -float(row["score"]))[:MAX_PREDICTIONS])


def _number(value: str | float | None) -> float | None:
    """A length from an annotation file: number, text, or absent."""
    try:
        return float(value) if value is not None and float(value) > 0 else None
    except (TypeError, ValueError):
        return None
