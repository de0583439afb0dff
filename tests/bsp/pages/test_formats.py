"""Files that other programs read: by other readers than the one that wrote them, where there are some."""

import csv
import io
import json
import re

import numpy as np

from bsp.datasets.results_json import check_detections
from bsp.metrics.detection import evaluate_detection
from bsp.pages.findings import Curve, Findings, Found
from bsp.pages.formats import (
    boundaries_csv,
    boundaries_document,
    chapters_vtt,
    clock,
    detections_document,
    moments_document,
    segments_csv,
    segments_vtt,
)

SEGMENTS = [
    Found(label="=cmd|'/c calc'", start_s=4.0, end_s=9.25, score=0.25),
    Found(label='say "hi",\nthere', start_s=3661.5, end_s=3662.0, score=0.5),
]
CURVE = Curve(times_s=np.array([2.0, 5.5]), scores=np.array([0.1, 0.9]), curve_times_s=np.empty(0), curve=np.empty(0))
VIDEO = Findings(video_id="one", video="one.mp4", duration_s=4000.0, segments=SEGMENTS, boundaries=CURVE, sentence="s")


def test_results_score_as_the_segments_themselves() -> None:
    """The benchmark's own arithmetic: a prediction equal to the only instance has mAP 1."""
    truth = {"database": {"one": {"subset": "validation", "duration": 20.0, "annotations": [
        {"label": "wave", "segment": [4.0, 9.25]}]}}}  # fmt: skip
    video = Findings(
        video_id="one", video="", duration_s=20.0, segments=[Found(label="wave", start_s=4.0, end_s=9.25, score=0.1)]
    )
    document = json.loads(json.dumps(detections_document([video])))
    assert evaluate_detection(truth, document, subset="validation")["average_mAP"] == 1.0
    assert [row["score"] for row in check_detections(detections_document([VIDEO]))["one"]] == [0.5, 0.25]


def test_boundaries_and_moments_in_the_layouts_of_their_metrics() -> None:
    assert boundaries_document([VIDEO]) == {"one": [2.0, 5.5]}
    assert moments_document([VIDEO]) == [
        {"video": "one", "sentence": "s", "moments": [[3661.5, 3662.0, 0.5], [4.0, 9.25, 0.25]]}
    ]


def test_tables_are_read_back_and_hold_no_formula() -> None:
    rows = list(csv.reader(io.StringIO(segments_csv([VIDEO]))))
    assert rows == [
        ["video", "start_s", "end_s", "label", "score"],
        ["one", "3661.500", "3662.000", 'say "hi", there', "0.5"],
        ["one", "4.000", "9.250", "'=cmd|'/c calc'", "0.25"],
    ]
    assert list(csv.reader(io.StringIO(boundaries_csv([VIDEO])))) == [
        ["video", "time_s", "score"],
        ["one", "2.000", "0.1"],
        ["one", "5.500", "0.9"],
    ]


CUE = re.compile(r"^(\d{2,}):(\d\d):(\d\d)\.(\d{3}) --> (\d{2,}):(\d\d):(\d\d)\.(\d{3})$")


def cues(text: str) -> list[tuple[float, float, str]]:
    """A reader of the subset of WebVTT that the specification calls a cue block with one line of text."""
    blocks = text.split("\n\n")
    assert blocks[0] == "WEBVTT"
    found = []
    for block in blocks[1:]:
        if block.startswith("NOTE"):
            assert "-->" not in block
            continue
        times, line = block.rstrip("\n").split("\n")
        part = [int(digits) for digits in CUE.match(times).groups()]  # type: ignore[union-attr]
        start, end = (3600 * h + 60 * m + s + ms / 1000 for h, m, s, ms in (part[:4], part[4:]))
        found.append((start, end, line))
    return found


def test_subtitles_in_order_of_time_without_markup() -> None:
    odd = Found(label="<b>x</b> --> & \n\n00:01", start_s=1.0, end_s=1.0, score=1.0)
    text = segments_vtt([*SEGMENTS, odd], note="made by\n\na --> model")
    assert cues(text) == [
        (1.0, 1.001, "&lt;b&gt;x&lt;/b&gt; --&gt; &amp; 00:01 (1.00)"),
        (4.0, 9.25, "=cmd|'/c calc' (0.25)"),
        (3661.5, 3662.0, 'say "hi", there (0.50)'),
    ]


def test_chapters_cover_the_video() -> None:
    assert cues(chapters_vtt([5.5, 2.0, 0.0, 99.0], 10.0)) == [
        (0.0, 2.0, "Part 1"), (2.0, 5.5, "Part 2"), (5.5, 10.0, "Part 3"),
    ]  # fmt: skip
    assert cues(chapters_vtt([], 10.0)) == [(0.0, 10.0, "Part 1")]


def test_ffmpeg_reads_the_subtitles(tmp_path) -> None:
    import av

    (tmp_path / "x.vtt").write_text(segments_vtt(SEGMENTS, note="n"), "utf-8")
    with av.open(str(tmp_path / "x.vtt")) as container:
        starts = [float(packet.pts * packet.time_base) for packet in container.demux() if packet.pts is not None]
    assert starts == [4.0, 3661.5]


def test_clock() -> None:
    assert [clock(s) for s in (0, 59.96, 61.04, 3599.99, 7323.5, -1)] == [
        "0:00.0", "1:00.0", "1:01.0", "1:00:00.0", "2:02:03.5", "0:00.0",
    ]  # fmt: skip
    assert clock(75.0, decimals=0) == "1:15"
