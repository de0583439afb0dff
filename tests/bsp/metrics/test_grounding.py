"""Recall and mean IoU of grounding: by hand, and against plain loops over one query and one moment at a time."""

from __future__ import annotations

import json

import numpy as np
import pytest

import bsp.metrics.grounding
from bsp.errors import AnnotationError
from bsp.metrics.grounding import evaluate_grounding, ground_truth_from_charades

PROTOCOLS = ("2dtan", "lgi")
KEYS = ("R1@0.3", "R1@0.5", "R1@0.7", "R5@0.3", "R5@0.5", "R5@0.7", "mIoU")


def query(start, end, duration=100, video="v", sentence="a door opens."):
    return {"video": video, "sentence": sentence, "start_s": start, "end_s": end, "duration_s": duration}


def answer(*moments, video="v", sentence="a door opens."):
    return {"video": video, "sentence": sentence, "moments": [list(moment) for moment in moments]}


def scores(truth, found, protocol, **options):
    report = evaluate_grounding(truth, found, protocol=protocol, **options)
    return [report[key] for key in KEYS]


# -- plain loops --


def loop_iou(a, b):
    overlap = max(0.0, min(a[1], b[1]) - max(a[0], b[0]))
    hull = max(a[1], b[1]) - min(a[0], b[0])
    return overlap / hull if overlap > 0 else 0.0


def loop_nms(moments, threshold):
    kept = []
    for start, end in moments:
        for s, e in kept:
            overlap = max(0.0, min(end, e) - max(start, s))
            union = (end - start) + (e - s) - overlap
            if union == 0:  # two empty moments: 0 / 0 is not <= threshold
                break
            if not overlap / union <= threshold:
                break
        else:
            kept.append((start, end))
    return kept


def loop_evaluate(truth, found, protocol, nms):
    """Rows of `found` belong to those of `truth` at the same place."""
    totals, used, missing = dict.fromkeys(KEYS, 0.0), 0, 0
    for row, prediction in zip(truth, found, strict=True):
        start, end = row["start_s"], row["end_s"]
        if protocol == "2dtan":
            end = min(end, row["duration_s"])
            if start >= end:
                continue
        used += 1
        missing += not prediction["moments"]
        ranked = sorted(prediction["moments"], key=lambda moment: -moment[2])  # stable
        ranked = [(s, e) for s, e, _ in ranked]
        if nms is not None:
            ranked = loop_nms(ranked, nms)
        ious = [loop_iou(moment, (start, end)) for moment in ranked]
        for n in (1, 5):
            for m in (0.3, 0.5, 0.7):
                hit = any(iou > m if protocol == "2dtan" else iou >= m for iou in ious[:n])
                totals[f"R{n}@{m}"] += hit
        totals["mIoU"] += ious[0] if ious else 0
    return {key: total / used for key, total in totals.items()}, used, missing


def random_files(seed, queries=150):
    """Whole seconds and few different scores: many ties, IoUs of exactly 0.5, empty and reversed moments."""
    rng = np.random.default_rng(seed)
    truth, found = [], []
    for index in range(queries):
        name = {"video": f"v{index // 3}", "sentence": f"sentence {index}"}
        start = int(rng.integers(0, 14))
        truth.append(query(start, start + int(rng.integers(-1, 12)), 10 + index // 3 % 9, **name))
        count = int(rng.choice([0, 1, 3, 8, 30]))
        times = np.stack([rng.integers(-3, 20, count), rng.integers(0, 24, count)], 1)
        truth[-1]["end_s"] = max(0, truth[-1]["end_s"])
        found.append(answer(*np.column_stack([times, rng.integers(0, 6, count)]).tolist(), **name))
    return truth, found


@pytest.mark.parametrize("cells", [1, 200, 2_000_000])  # how many moments are worked on at once
@pytest.mark.parametrize("nms", [None, 0.0, 0.45, 0.5, 1.0])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_as_plain_loops(monkeypatch, protocol, nms, cells):
    monkeypatch.setattr(bsp.metrics.grounding, "_CELLS_AT_ONCE", cells)
    truth, found = random_files(seed=0)
    expected, used, missing = loop_evaluate(truth, found, protocol, nms)
    shuffled = [found[i] for i in np.random.default_rng(1).permutation(len(found))]
    report = evaluate_grounding(truth, shuffled, protocol=protocol, nms=nms)
    assert {key: report[key] for key in KEYS} == pytest.approx(expected, rel=1e-12)
    dropped = len(truth) - used
    assert report["queries"] == {"used": used, "missing": missing, "unknown": 0, "dropped": dropped}
    assert (dropped > 5) == (protocol == "2dtan")
    assert missing > 5
    assert report["protocol"] == protocol


def test_the_random_files_tell_the_rules_apart():
    """Otherwise the test above would not notice a wrong rule."""
    truth, found = random_files(seed=0)
    kept = [i for i, row in enumerate(truth) if row["start_s"] < min(row["end_s"], row["duration_s"])]
    cut = [truth[i] | {"end_s": min(truth[i]["end_s"], truth[i]["duration_s"])} for i in kept]
    answers = [found[i] for i in kept]
    strict, loose = (loop_evaluate(cut, answers, protocol, None)[0] for protocol in PROTOCOLS)
    raw = loop_evaluate([truth[i] for i in kept], answers, "lgi", None)[0]
    for n in (1, 5):
        assert strict[f"R{n}@0.5"] < loose[f"R{n}@0.5"]
    assert loose["mIoU"] != raw["mIoU"]
    assert len({loop_evaluate(cut, answers, "2dtan", nms)[0]["R5@0.5"] for nms in (None, 0.45, 0.5)}) > 1
    backwards = [row | {"moments": row["moments"][::-1]} for row in answers]
    assert loop_evaluate(cut, backwards, "2dtan", None)[0] != strict


# -- by hand --


def test_the_threshold_itself_counts_for_lgi_only():
    for end, m in ((3, "0.3"), (5, "0.5"), (7, "0.7")):  # of 10 seconds
        for protocol, hit in (("2dtan", 0), ("lgi", 1)):
            report = evaluate_grounding([query(0, 10)], [answer((0, end, 1))], protocol=protocol)
            assert (report[f"R1@{m}"], report[f"R5@{m}"]) == (hit, hit)
            assert report["mIoU"] == end / 10


def test_cut_truth_is_found_by_2dtan_and_not_by_lgi():
    truth, found = [query(10, 40, duration=20)], [answer((10, 20, 1))]
    assert scores(truth, found, "2dtan") == [1] * 7
    assert scores(truth, found, "lgi") == pytest.approx([1, 0, 0, 1, 0, 0, 1 / 3])
    found = [answer((10, 40, 1))]  # predictions are never cut
    assert scores(truth, found, "2dtan") == pytest.approx([1, 0, 0, 1, 0, 0, 1 / 3])
    assert scores(truth, found, "lgi") == [1] * 7


def test_percent_and_fractions():
    truth = [query(0, 10, sentence=text) for text in ("one", "two", "three")]
    found = [answer((0, 10, 1), sentence="one"), answer((0, 6, 1), sentence="two")]
    report = evaluate_grounding(truth, found, protocol="lgi")
    assert report["R1@0.7"] == 1 / 3
    assert report["mIoU"] == pytest.approx(1.6 / 3)
    assert report["percent"] == {
        "R1@0.3": 66.67, "R1@0.5": 66.67, "R1@0.7": 33.33, "R5@0.3": 66.67, "R5@0.5": 66.67, "R5@0.7": 33.33,
        "mIoU": 53.33,
    }  # fmt: skip
    assert report["queries"] == {"used": 3, "missing": 1, "unknown": 0, "dropped": 0}
    json.dumps(report)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_ranking(protocol):
    """Best score first, the earlier of equal ones; the sixth does not count."""
    good, bad = (0, 10), (50, 60)
    assert scores([query(0, 10)], [answer((*bad, 0.1), (*good, 0.9))], protocol) == [1] * 7
    assert scores([query(0, 10)], [answer((*bad, 0.5), (*good, 0.5))], protocol) == [0, 0, 0, 1, 1, 1, 0]
    assert scores([query(0, 10)], [answer((*good, 0.5), (*bad, 0.5))], protocol) == [1] * 7
    wrong = [(*bad, 0.5)] * 5
    assert scores([query(0, 10)], [answer(*wrong, (*good, 0.5))], protocol) == [0] * 7
    assert scores([query(0, 10)], [answer(*wrong[1:], (*good, 0.5))], protocol) == [0, 0, 0, 1, 1, 1, 0]
    assert scores([query(0, 10)], [answer(*wrong, (*good, 0.4))], protocol, nms=0.9)[3:6] == [1, 1, 1]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_suppression(protocol):
    """0..10 suppresses 0..8 (IoU 0.8) at 0.45; 5..15 has IoU 1/3; what was suppressed suppresses nothing."""
    truth = [query(0, 8)]
    found = [answer((20, 30, 9), (20, 29, 8), (20, 28, 7), (22, 30, 6), (21, 30, 5), (0, 8, 4))]
    assert scores(truth, found, protocol)[3:6] == [0, 0, 0]
    assert scores(truth, found, protocol, nms=0.45)[3:6] == [1, 1, 1]
    # 20..30 and 20..25: IoU exactly 0.5 survives a threshold of 0.5
    found = [answer((20, 30, 9), (20, 25, 8), (40, 50, 7), (60, 70, 6), (80, 90, 5), (0, 8, 4))]
    assert scores(truth, found, protocol, nms=0.5)[3:6] == [0, 0, 0]
    assert scores(truth, found, protocol, nms=0.49)[3:6] == [1, 1, 1]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_empty_moments_in_suppression(protocol):
    """Two empty moments are 0 / 0 wherever they are, which drops the later one even with threshold 1."""
    empty = [(30, 30, 9 - i) for i in range(5)]
    found = [answer(*empty, (0, 8, 1))]
    assert scores([query(0, 8)], found, protocol)[3:6] == [0, 0, 0]
    assert scores([query(0, 8)], found, protocol, nms=1.0)[3:6] == [1, 1, 1]
    other_places = [answer(*[(30 + i, 30 + i, 9 - i) for i in range(5)], (0, 8, 1))]
    assert scores([query(0, 8)], other_places, protocol, nms=1.0)[3:6] == [1, 1, 1]


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("moment", [(5, 5, 1), (10, 0, 1), (8, 2, 1), (10, 20, 1), (-5, 0, 1), (30, 20, 1)])
def test_moments_without_overlap(protocol, moment):
    assert scores([query(0, 10)], [answer(moment)], protocol) == [0] * 7


def test_moments_beyond_the_video():
    for protocol in PROTOCOLS:
        assert scores([query(0, 10, 10)], [answer((-5, 15, 1))], protocol)[-1] == 0.5


def test_reversed_and_empty_truth():
    truth = [query(20.9, 12, 30, sentence="back"), query(30, 31, 30, sentence="after"), query(0, 5, 30)]
    found = [answer((20.9, 12, 1), sentence="back"), answer((30, 31, 1), sentence="after"), answer((0, 5, 1))]
    report = evaluate_grounding(truth, found, protocol="2dtan")
    assert report["queries"] == {"used": 1, "missing": 0, "unknown": 0, "dropped": 2}
    assert report["mIoU"] == 1
    report = evaluate_grounding(truth, found, protocol="lgi")
    assert report["queries"] == {"used": 3, "missing": 0, "unknown": 0, "dropped": 0}
    assert report["mIoU"] == pytest.approx(2 / 3)
    assert scores([query(5, 5)], [answer((5, 5, 1))], "lgi") == [0] * 7  # 0 / 0
    with pytest.raises(AnnotationError, match=r"gt: no query is left \(1 of 1 dropped\)"):
        evaluate_grounding([query(5, 5)], [], protocol="2dtan", names=("gt", "p"))


# -- which predictions belong to which query --


def test_missing_and_unknown():
    truth = [query(0, 10, sentence="one"), query(0, 10, sentence="two"), query(0, 10, sentence="three")]
    found = [
        answer((0, 10, 1), sentence=" one\n"),  # white space at the ends does not count
        answer(sentence="two"),
        answer((0, 10, 1), sentence="three", video="w"),
        answer((0, 10, 1), sentence="Three"),
        answer((0, 10, 1), sentence="Three"),
    ]
    report = evaluate_grounding(truth, found, protocol="2dtan")
    assert report["queries"] == {"used": 3, "missing": 2, "unknown": 3, "dropped": 0}
    assert report["R5@0.7"] == 1 / 3
    nothing = evaluate_grounding(truth, [], protocol="lgi")
    assert [nothing[key] for key in KEYS] == [0] * 7
    assert nothing["queries"]["missing"] == 3


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_repeated_queries(protocol):
    truth = [query(0, 10), query(50, 60, sentence="other"), query(20, 30)]
    other = answer((50, 60, 1), sentence="other")
    assert scores(truth, [answer((0, 10, 1)), other], protocol)[0] == pytest.approx(2 / 3)  # one row serves both
    both = [answer((0, 10, 1)), other, answer((20, 30, 1))]
    assert scores(truth, both, protocol)[0] == 1
    assert scores(truth, both[::-1], protocol)[0] == pytest.approx(1 / 3)  # in the order of the ground truth


def test_order_of_repeated_queries_counts_dropped_ones():
    truth = [query(9, 3), query(0, 10)]
    assert scores(truth, [answer((40, 50, 1)), answer((0, 10, 1))], "2dtan")[0] == 1


@pytest.mark.parametrize(("queries", "rows"), [(1, 2), (2, 3), (3, 2)])
def test_wrong_number_of_rows(queries, rows):
    with pytest.raises(
        AnnotationError, match=rf"p.json: video 'v', sentence .*: {rows} rows .* {queries} queries in g"
    ):
        evaluate_grounding([query(0, 1)] * queries, [answer()] * rows, protocol="lgi", names=("g.json", "p.json"))


# -- wrong input --


def changed(row, **changes):
    return {key: value for key, value in (row | changes).items() if value is not None}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (changed(query(0, 1), sentence=" "), r"g: \[1\].sentence: .*at least 1 character"),
        (changed(query(0, 1), video=""), r"g: \[1\].video: .*at least 1 character"),
        (changed(query(0, 1), video=7), r"g: \[1\].video: .*string"),
        (changed(query(0, 1), end_s=float("nan")), r"g: \[1\].end_s: .*finite.* found nan"),
        (changed(query(0, 1), end_s=float("inf")), r"g: \[1\].end_s: .*finite"),
        (changed(query(0, 1), start_s=-1), r"g: \[1\].start_s: .*greater than or equal to 0, found -1"),
        (changed(query(0, 1), start_s="soon"), r"g: \[1\].start_s: .*number.* found 'soon'"),
        (changed(query(0, 1), duration_s=0), r"g: \[1\].duration_s: .*greater than 0"),
        (changed(query(0, 1), duration_s=None), r"g: \[1\].duration_s: is missing"),
        (changed(query(0, 1), duration_s=99), r"g: \[1\].duration_s: video 'v' is 99.0 s long here and 100.0 s"),
        ("text", r"g: \[1\]: .*dictionary.* found 'text'"),
    ],
)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_wrong_ground_truth(protocol, row, message):
    with pytest.raises(AnnotationError, match=message):
        evaluate_grounding([query(0, 1), row], [], protocol=protocol, names=("g", "p"))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (answer((0, 1)), r"p: \[1\].moments\[0\]\[2\]: is missing"),
        (answer((0, 1, 1), (0, 1, 1, 1)), r"p: \[1\].moments\[1\]: .*at most 3 items"),
        (answer((0, 1, float("nan"))), r"p: \[1\].moments\[0\]\[2\]: .*finite.* found nan"),
        (answer((0, float("-inf"), 1)), r"p: \[1\].moments\[0\]\[1\]: .*finite"),
        (changed(answer(), moments=None), r"p: \[1\].moments: is missing"),
        (changed(answer(), moments=3), r"p: \[1\].moments: .*list, found 3"),
        (changed(answer(), sentence=""), r"p: \[1\].sentence"),
    ],
)
def test_wrong_predictions(row, message):
    with pytest.raises(AnnotationError, match=message):
        evaluate_grounding([query(0, 1)], [answer(sentence="x"), row], protocol="lgi", names=("g", "p"))


def test_wrong_documents_and_arguments():
    with pytest.raises(AnnotationError, match=r"p: top level: .*list, found {'results'"):
        evaluate_grounding([query(0, 1)], {"results": {}}, protocol="lgi", names=("g", "p"))
    with pytest.raises(AnnotationError, match="no query is left"):
        evaluate_grounding([], [], protocol="lgi")
    with pytest.raises(ValueError, match="protocol must be one of 2dtan, lgi, not 'drn'"):
        evaluate_grounding([query(0, 1)], [], protocol="drn")
    for nms in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match=r"nms must be in 0\.\.1"):
            evaluate_grounding([query(0, 1)], [], protocol="lgi", nms=nms)


def test_the_inputs_stay_as_they_are():
    truth, found = random_files(seed=2, queries=20)
    before = json.dumps([truth, found])
    evaluate_grounding(truth, found, protocol="2dtan", nms=0.45)
    assert json.dumps([truth, found]) == before


# -- Charades-STA --


def test_charades_files(tmp_path):
    text, table = tmp_path / "charades_sta_test.txt", tmp_path / "Charades_v1_test.csv"
    text.write_text("AB1 0.5 12.9##a person runs.\nCD2 3.0 2.0##a door opens.\n")
    table.write_text('id,script,length\nAB1,"one, two",10.25\nCD2,,7.5\n')
    first = query(0.5, 12.9, 10.25, "AB1", "a person runs.")
    assert ground_truth_from_charades(text, table) == [first, query(3, 2, 7.5, "CD2", "a door opens.")]
    table.write_text('id,script,length\nAB1,"one, two",10.25\n')
    with pytest.raises(AnnotationError, match=rf"{text.name}: line 2: video 'CD2' is not in .*{table.name}"):
        ground_truth_from_charades(text, table)
