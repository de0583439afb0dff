"""Video grounding: recall of the annotated moment among the first n predicted ones, and mean IoU.

The metric of the paper's Tables 2 and 5, by the two protocols used for the published numbers:

              ground truth                           a moment is found when   first moments
    2dtan     cut at the video's end, empty dropped  IoU > threshold          by score, after NMS where given
    lgi       as written                             IoU >= threshold         by score

Sources: 2D-TAN's and LGI's evaluation code. IoU is intersection over hull in both; reversed and empty moments have
IoU 0. Letters: Q queries, R rows of predictions, K moments of a row, P moments of all rows, N first moments kept.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

import numpy as np
from pydantic import FailFast, Field, StringConstraints, TypeAdapter
from typing_extensions import TypedDict

from bsp.datasets.charades_sta import read_durations, read_moments
from bsp.datasets.results_json import Number, validated
from bsp.errors import AnnotationError
from bsp.files.text import clean_id, clean_label

Protocol = Literal["2dtan", "lgi"]
RECALL_AT = (1, 5)
IOUS = (0.3, 0.5, 0.7)

Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]


class GroundTruthRow(TypedDict):
    """One sentence, the moment it describes and the length of its video, in seconds."""

    video: Text
    sentence: Text
    start_s: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    end_s: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    duration_s: Annotated[float, Field(gt=0, allow_inf_nan=False)]


class PredictionRow(TypedDict):
    """One sentence with its moments."""

    video: Text
    sentence: Text
    moments: Annotated[list[tuple[Number, Number, Number]], FailFast()]  # start_s, end_s, score


# FailFast: one error is enough; a wrong file would otherwise give one per row.
_GROUND_TRUTH = TypeAdapter(Annotated[list[GroundTruthRow], FailFast()])
_PREDICTIONS = TypeAdapter(Annotated[list[PredictionRow], FailFast()])

_CELLS_AT_ONCE = 2_000_000  # of the padded table of moments; bounds the memory of NMS to some 100 MB

Rows = TypeVar("Rows")


@dataclass(frozen=True, kw_only=True, eq=False)
class QueryIoUs:
    """IoU of each query's first moments with its truth."""

    iou_QN: np.ndarray  # float64; 0 where there is no moment
    video_Q: list[str]  # ids
    missing: int  # queries without any predicted moment
    unknown: int  # rows of predictions for no query
    dropped: int  # queries that the protocol does not use


def evaluate_grounding(
    ground_truth: list[dict[str, Any]],
    predictions: list[dict[str, Any]],
    *,
    protocol: Protocol,
    nms: float | None = None,
    names: tuple[str, str] = ("ground truth", "predictions"),
) -> dict[str, Any]:
    """Recall and mean IoU of predicted moments.

    ground_truth: rows {"video", "sentence", "start_s", "end_s", "duration_s"}; each row is one query.
    predictions: rows {"video", "sentence", "moments": [[start_s, end_s, score], ...]}, moments in any order. They are
        ranked by score; of equal scores the one that comes first in its list ranks first. Times are used as they
        are: a moment may leave its video, be empty or run backwards.
    protocol: "2dtan" or "lgi", see the top of this file.
    nms: IoU threshold in 0..1 of a greedy non-maximum suppression before the first five are taken: a moment
        survives when its IoU with every survivor before it is at most the threshold (published for 2D-TAN on
        Charades-STA: 0.45). None: no suppression.
    names: what error messages call the two inputs, for example their file names.

    A row of predictions belongs to the queries with the same video and sentence (exact text, but for white space at
    its ends). Where the ground truth has several of these, one row of predictions serves all, or there are as many
    rows, which belong to them in the same order.

    Returns "R1@0.3", ... "R5@0.7", "mIoU": fractions 0..1, unrounded, means over the queries used;
        "percent": the same in percent, rounded to two decimals as published;
        "queries": "used"; "missing" (those of them without any predicted moment: never found, IoU 0); "unknown" (rows
            of predictions for no query of the ground truth, ignored); "dropped" (by 2dtan, not used); "protocol".
    mIoU is the mean IoU of the first moment.
    Raises AnnotationError for a wrong field, another number of prediction rows than above, or when no query is left.
    """
    found = query_ious(ground_truth, predictions, protocol=protocol, nms=nms, names=names)
    scores = {name: float(np.mean(value_Q)) for name, value_Q in query_scores(found.iou_QN, protocol).items()}
    counts = {"missing": found.missing, "unknown": found.unknown, "dropped": found.dropped}
    return scores | {
        "percent": {key: round(100 * value, 2) for key, value in scores.items()},
        "queries": {"used": len(found.iou_QN), **counts},
        "protocol": protocol,
    }


def query_scores(iou_QN: np.ndarray, protocol: Protocol) -> dict[str, np.ndarray]:
    """ "R1@0.3", ... (bool [Q]: found or not) and "mIoU" (float64 [Q]) of every query; their means are the scores."""
    scores = {}
    for n in RECALL_AT:
        best_Q = iou_QN[:, :n].max(axis=1)
        for iou in IOUS:
            scores[f"R{n}@{iou}"] = best_Q > iou if protocol == "2dtan" else best_Q >= iou
    return scores | {"mIoU": iou_QN[:, 0]}


def query_ious(
    ground_truth: list[dict[str, Any]],
    predictions: list[dict[str, Any]],
    *,
    protocol: Protocol,
    nms: float | None = None,
    names: tuple[str, str] = ("ground truth", "predictions"),
) -> QueryIoUs:
    """Each query's IoUs; arguments and errors as of :func:`evaluate_grounding`."""
    if protocol not in get_args(Protocol):
        raise ValueError(f"protocol must be one of {', '.join(get_args(Protocol))}, not {protocol!r}")
    if nms is not None and not 0 <= nms <= 1:
        raise ValueError(f"nms must be in 0..1, or None for none, not {nms}")
    truth = validated(_GROUND_TRUTH, ground_truth, names[0])
    found = validated(_PREDICTIONS, predictions, names[1])
    _check_durations(truth, names[0])
    row_Q, unknown = _match(truth, found, names)
    truth_Q2 = np.array([(row["start_s"], row["end_s"]) for row in truth], float).reshape(-1, 2)
    dropped, video_Q = 0, [row["video"] for row in truth]
    if protocol == "2dtan":
        truth_Q2[:, 1] = np.minimum(truth_Q2[:, 1], [row["duration_s"] for row in truth])
        used = truth_Q2[:, 0] < truth_Q2[:, 1]
        dropped = int((~used).sum())
        truth_Q2, row_Q = truth_Q2[used], row_Q[used]
        video_Q = [video for video, is_used in zip(video_Q, used, strict=True) if is_used]
    if not len(truth_Q2):
        raise AnnotationError(f"{names[0]}: no query is left ({dropped} of {len(truth)} dropped); nothing to evaluate")

    first_RN2 = first_moments([row["moments"] for row in found], nms=nms, count=max(RECALL_AT))
    # Choice: a query without a prediction counts as not found (the published code has one for every query).
    nothing = np.full((1, max(RECALL_AT), 2), np.nan)  # row -1: a query without predictions
    first_QN2 = np.concatenate([first_RN2, nothing])[row_Q]
    iou_QN = hull_iou(first_QN2, truth_Q2[:, None])
    missing = int(np.isnan(first_QN2[:, 0, 0]).sum())
    return QueryIoUs(iou_QN=iou_QN, video_Q=video_Q, missing=missing, unknown=unknown, dropped=dropped)


def ground_truth_from_charades(txt_path: str | Path, durations_path: str | Path) -> list[dict[str, Any]]:
    """The lines of a Charades-STA file as rows for ``evaluate_grounding``; times as written.

    durations_path: Charades_v1_*.csv or JSON, see ``read_durations``. Raises AnnotationError.
    """
    durations = read_durations(durations_path)
    rows = []
    for moment in read_moments(txt_path):
        if moment.video_id not in durations:
            raise AnnotationError(
                f"{txt_path}: line {moment.line + 1}: video {moment.video_id!r} is not in {durations_path}"
                f" ({len(durations)} videos); give the table of the same split"
            )
        row = {"video": moment.video_id, "sentence": moment.sentence, "start_s": moment.start_s}
        rows.append(row | {"end_s": moment.end_s, "duration_s": durations[moment.video_id]})
    return rows


def hull_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over hull of float64 [..., 2] intervals, broadcast; 0..1.

    It is the IoU wherever the intervals touch. Empty, reversed and absent (nan) intervals give 0.
    """
    overlap = np.minimum(a[..., 1], b[..., 1]) - np.maximum(a[..., 0], b[..., 0])
    hull = np.maximum(a[..., 1], b[..., 1]) - np.minimum(a[..., 0], b[..., 0])
    # Choice: 0 / 0, an empty moment predicted for an empty truth at the same place, is 0 (nan or an error there).
    return np.divide(overlap, hull, out=np.zeros(overlap.shape), where=(overlap > 0) & (hull > 0))


def first_moments(lists: Sequence[Sequence[Sequence[float]]], *, nms: float | None, count: int) -> np.ndarray:
    """The ``count`` best of every list of [start, end, score], float64 [R, count, 2]; nan where there are fewer.

    Best first by score, of equal ones the earlier in the list; after greedy NMS unless ``nms`` is None.
    """
    first_RN2 = np.full((len(lists), count, 2), np.nan)
    for rows in _blocks(np.array([len(moments) for moments in lists], np.int64)):
        longest = len(lists[rows[-1]])
        moments_RK3 = np.full((len(rows), longest, 3), np.nan)
        for target, row in zip(moments_RK3, rows, strict=True):
            target[: len(lists[row])] = lists[row]
        # Choice: of equal scores the earlier in the list comes first (2D-TAN's unstable sort leaves it open).
        order_RK = np.argsort(-moments_RK3[..., 2], axis=1, kind="stable")  # nan, the empty places, comes last
        moments_RK2 = np.take_along_axis(moments_RK3[..., :2], order_RK[..., None], axis=1)
        best_RN2 = moments_RK2[:, :count] if nms is None else _survivors(moments_RK2, nms, count)
        first_RN2[rows, : best_RN2.shape[1]] = best_RN2
    return first_RN2


def _survivors(moments_RK2: np.ndarray, threshold: float, count: int) -> np.ndarray:
    """Greedy NMS of every row, [R, count, 2]; the moments come best first, and nan ones are none."""
    start_RK, end_RK = moments_RK2[..., 0], moments_RK2[..., 1]
    length_RK = end_RK - start_RK
    alive_RK = ~np.isnan(start_RK)
    rows = np.arange(len(moments_RK2))
    kept_RN2 = np.full((len(rows), count, 2), np.nan)
    for n in range(count):
        best_R = alive_RK.argmax(axis=1)
        some_R = alive_RK[rows, best_R]
        kept_RN2[some_R, n] = moments_RK2[rows, best_R][some_R]
        start_R1, end_R1, length_R1 = (values[rows, best_R][:, None] for values in (start_RK, end_RK, length_RK))
        overlap_RK = np.maximum(0, np.minimum(end_RK, end_R1) - np.maximum(start_RK, start_R1))
        # True union instead of hull, as in 2D-TAN's code. 0 / 0 of two empty moments is nan, not <= threshold: dropped.
        with np.errstate(divide="ignore", invalid="ignore"):
            alive_RK &= overlap_RK / (length_RK + length_R1 - overlap_RK) <= threshold
        alive_RK[rows, best_R] = False  # also with a threshold of 1
    return kept_RN2


def _blocks(lengths_R: np.ndarray) -> Iterator[np.ndarray]:
    """Positions of the rows that are not empty, in blocks of similar length; the longest of a block is its last."""
    order = np.argsort(lengths_R, kind="stable")
    order = order[lengths_R[order] > 0]
    while len(order):
        cells = lengths_R[order] * np.arange(1, len(order) + 1)  # of a table that ends with this row
        take = max(1, int(np.searchsorted(cells, _CELLS_AT_ONCE, side="right")))
        yield order[:take]
        order = order[take:]


def _match(truth: list[GroundTruthRow], found: list[PredictionRow], names: tuple[str, str]) -> tuple[np.ndarray, int]:
    """For each query its row of predictions or -1, int64 [Q]; and the number of rows that belong to no query."""
    queries, rows = _by_query(truth), _by_query(found)
    row_Q = np.full(len(truth), -1, np.int64)
    unknown = 0
    for key, of_rows in rows.items():
        of_key = queries.get(key)
        if of_key is None:
            unknown += len(of_rows)
            continue
        if len(of_rows) not in (1, len(of_key)):
            raise AnnotationError(
                f"{names[1]}: video {key[0]!r}, sentence {key[1]!r}: {len(of_rows)} rows (the last is row"
                f" {of_rows[-1]}, counted from 0) for {len(of_key)} queries in {names[0]};"
                f" give one row{f' for all, or {len(of_key)} in the same order' if len(of_key) > 1 else ''}"
            )
        row_Q[of_key] = of_rows
    return row_Q, unknown


def _by_query(rows: Sequence[GroundTruthRow | PredictionRow]) -> dict[tuple[str, str], list[int]]:
    positions: dict[tuple[str, str], list[int]] = defaultdict(list)
    for position, row in enumerate(rows):
        positions[clean_id(row["video"]), clean_label(row["sentence"])].append(position)
    return positions


def _check_durations(truth: list[GroundTruthRow], name: str) -> None:
    durations: dict[str, float] = {}
    for index, row in enumerate(truth):
        before = durations.setdefault(row["video"], row["duration_s"])
        if before != row["duration_s"]:
            raise AnnotationError(
                f"{name}: [{index}].duration_s: video {row['video']!r} is {row['duration_s']} s long here and"
                f" {before} s in an earlier row; correct one of them"
            )
