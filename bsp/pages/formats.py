"""Findings as files that other programs read: results in ActivityNet's layout, CSV, WebVTT."""

from __future__ import annotations

import csv
import io
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from bsp.pages.findings import Findings, ScoredSegment, best_first

_FORMULA = ("=", "+", "-", "@")


def detections_document(findings: Iterable[Findings]) -> dict[str, Any]:
    """Segments in ActivityNet's result layout, as ``bsp evaluate detection`` reads it; best first."""
    results = {
        video.video_id: [
            {"label": s.label, "score": float(s.score), "segment": [float(s.start_s), float(s.end_s)]}
            for s in best_first(video.segments)
        ]
        for video in findings
    }
    return {"version": "VERSION 1.3", "results": results, "external_data": {}}


def boundaries_document(findings: Iterable[Findings]) -> dict[str, list[float]]:
    """Boundaries in seconds by video, as ``bsp evaluate boundaries`` reads them."""
    return {video.video_id: [] if (b := video.boundaries) is None else _floats(b.times_s) for video in findings}


def moments_document(findings: Iterable[Findings]) -> list[dict[str, Any]]:
    """Moments of sentences, as ``bsp evaluate grounding`` reads them; best first."""
    return [
        {
            "video": video.video_id,
            "sentence": video.sentence,
            "moments": [[float(s.start_s), float(s.end_s), float(s.score)] for s in best_first(video.segments)],
        }
        for video in findings
    ]


def segments_csv(findings: Iterable[Findings]) -> str:
    """Table with the columns video, start_s, end_s, label, score; best first within a video."""
    rows = (
        (video.video_id, f"{s.start_s:.3f}", f"{s.end_s:.3f}", s.label, f"{s.score:.6g}")
        for video in findings
        for s in best_first(video.segments)
    )
    return _table(("video", "start_s", "end_s", "label", "score"), rows)


def boundaries_csv(findings: Iterable[Findings]) -> str:
    """Table with the columns video, time_s, score, in order of time."""
    rows = (
        (video.video_id, f"{time_s:.3f}", f"{score:.6g}")
        for video in findings
        if video.boundaries is not None
        for time_s, score in zip(_floats(video.boundaries.times_s), _floats(video.boundaries.scores), strict=True)
    )
    return _table(("video", "time_s", "score"), rows)


def segments_vtt(segments: Sequence[ScoredSegment], *, note: str = "") -> str:
    """WebVTT with a cue per segment, in order of time: its label and score. Players show them as subtitles."""
    cues = sorted(segments, key=lambda s: (s.start_s, s.end_s))
    return _vtt(((s.start_s, s.end_s, f"{s.label or 'segment'} ({s.score:.2f})") for s in cues), note)


def chapters_vtt(times_s: Sequence[float] | np.ndarray, duration_s: float, *, note: str = "") -> str:
    """WebVTT with a cue from each boundary to the next. Players show them as chapters."""
    inside = sorted({float(t) for t in times_s if 0 < float(t) < duration_s})
    ends = [*inside, duration_s]
    cues = ((start, end, f"Part {number}") for number, (start, end) in enumerate(zip([0.0, *inside], ends), 1))
    return _vtt(cues, note)


def clock(seconds: float, *, decimals: int = 1, hours: bool = False) -> str:
    """ "1:02:03.5", or "2:03.5" below an hour unless ``hours`` are asked for."""
    unit = 10**decimals
    ticks = max(0, round(seconds * unit))
    whole, rest = divmod(ticks, unit)
    hour, minute, second = whole // 3600, whole % 3600 // 60, whole % 60
    text = f"{hour}:{minute:02d}:{second:02d}" if hour or hours else f"{minute}:{second:02d}"
    return f"{text}.{rest:0{decimals}d}" if decimals else text


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([_cell(value) for value in row] for row in rows)
    return text.getvalue()


def _cell(text: str) -> str:
    """Text on one line that no spreadsheet takes for a formula."""
    plain = "".join(char if unicodedata.category(char) not in ("Cc", "Cs") else " " for char in text)
    # Choice: an apostrophe, which spreadsheets themselves use for text; quotes are taken off before they look.
    return f"'{plain}" if plain.lstrip()[:1] in _FORMULA and not _is_number(plain) else plain


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _vtt(cues: Iterable[tuple[float, float, str]], note: str) -> str:
    parts = ["WEBVTT"]
    if note:
        parts.append("NOTE " + _cue_text(note))
    for start_s, end_s, text in cues:
        # A cue without duration is dropped by players: at least a millisecond.
        parts.append(f"{_stamp(start_s)} --> {_stamp(max(end_s, start_s + 0.001))}\n{_cue_text(text)}")
    return "\n\n".join(parts) + "\n"


def _stamp(seconds: float) -> str:
    return clock(seconds, decimals=3, hours=True).rjust(12, "0")


def _cue_text(text: str) -> str:
    """Text on one line without markup: the format's own escapes; "-->" goes with ">"."""
    line = " ".join("".join(char if unicodedata.category(char)[0] != "C" else " " for char in text).split())
    return line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _floats(values: np.ndarray) -> list[float]:
    return np.asarray(values, np.float64).tolist()
