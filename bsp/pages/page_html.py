"""One self-contained HTML page about one video: player, film strip, time line, table, and how it was made.

It needs nothing else and loads nothing (but the video, where that is too large to be put into the page); its policy
allows no script but its own. All text from outside is escaped by the template or reaches the page as text.
"""

from __future__ import annotations

import base64
import hashlib
import os
import unicodedata
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from PIL import Image

from bsp.io import write_text
from bsp.pages.film import Player, Thumbnail, player, thumbnails
from bsp.pages.findings import Findings, ScoredBoundaries, best_first, least_shown
from bsp.pages.formats import clock
from bsp.video.read import VideoInfo

_CURVE_POINTS = 2000
_FIRST_MARKS = 60
_CELL_HEIGHT_PX = 68  # of the film strip, as in page.css


def write_page(
    path: str | os.PathLike[str], findings: Findings, info: VideoInfo, downloads: Sequence[tuple[str, str]] = ()
) -> None:
    """Write the page of a probed video; ``downloads``: (text, link relative to the page). Raises VideoError."""
    found = player(info, Path(path))
    # A video that no browser plays is looked at in these pictures: larger ones.
    film = thumbnails(info, height_px=96 if found.played else 240)
    write_text(path, page_html(findings, film=film, player=found, downloads=downloads))


def page_html(
    findings: Findings,
    *,
    film: Sequence[Thumbnail] = (),
    player: Player | None = None,
    downloads: Sequence[tuple[str, str]] = (),
) -> str:
    """The page as text. ``film``: pictures in order of time; ``player``: how the video is played, None: not at all."""
    segments = best_first(findings.segments)
    # Colours by the best score, so that the classes that matter most differ most.
    names = [_text(s.label) or "segment" for s in (*segments, *findings.truth)]
    classes = list(dict.fromkeys(names))
    place = {name: number for number, name in enumerate(classes)}
    scores = [float(s.score) for s in segments]
    marks = _marks(findings.boundaries)
    score_texts = {"segments": _score_texts(scores), "marks": _score_texts([score for _, score in marks])}
    data = {
        "duration": findings.duration_s,
        "classes": classes,
        "segments": [
            [float(s.start_s), float(s.end_s), float(s.score), place[name]] for s, name in zip(segments, names)
        ],
        "truth": [
            [float(t.start_s), float(t.end_s), place[_text(t.label) or "segment"]]
            for t in sorted(findings.truth, key=lambda t: t.start_s)
        ],
        "marks": [[time_s, score] for time_s, score in marks],
        "scores": score_texts,
        "least": {"segments": least_shown(findings), "marks": _least_mark([score for _, score in marks])},
        "film": [[t.time_s, t.source] for t in film],
        "cell": _cell_width(film),
    }
    found = list(dict.fromkeys(names[: len(segments)]))
    style, script = _part("page.css"), _part("page.js")
    return _template().render(
        name=_text(Path(findings.video).name),
        sentence=_text(findings.sentence),
        found_line=_found_line(findings, len(segments), len(found), len(marks)),
        notes=[_text(note) for note in findings.notes],
        player=None if player is None else _player(player),
        segments=_rows(findings, names, score_texts["segments"], place),
        marks=_mark_rows(marks, score_texts["marks"]),
        classes=found,
        truth=bool(findings.truth),
        curve=_curve_path(findings.boundaries, findings.duration_s),
        duration=f"{findings.duration_s:.3f}",
        made=[(_text(key), _text(value)) for key, value in findings.made.items()],
        downloads=[(_text(text), link) for text, link in downloads],
        data=data,
        style=Markup(style),
        script=Markup(script),
        style_hash=_hash(style),
        script_hash=_hash(script),
    )


def _rows(findings: Findings, names: list[str], score_texts: list[str], place: dict[str, int]) -> list[dict[str, Any]]:
    segments = best_first(findings.segments)
    top = max((float(s.score) for s in segments), default=0.0)
    return [
        {
            "label": name,
            "colour": place[name] % 12,
            "start": clock(s.start_s),
            "end": clock(s.end_s),
            "length": f"{s.end_s - s.start_s:.1f}",
            "score": text,
            "share": f"{max(0.0, s.score / top) if top > 0 else 0:.3f}",
        }
        for s, name, text in zip(segments, names, score_texts)
    ]


def _mark_rows(marks: list[tuple[float, float]], score_texts: list[str]) -> list[dict[str, Any]]:
    top = max((score for _, score in marks), default=0.0)
    return [
        {"time": clock(time_s), "score": text, "share": f"{max(0.0, score / top) if top > 0 else 0:.3f}"}
        for (time_s, score), text in zip(marks, score_texts)
    ]


def _marks(boundaries: ScoredBoundaries | None) -> list[tuple[float, float]]:
    """(seconds, score) in order of time."""
    if boundaries is None:
        return []
    times, scores = np.asarray(boundaries.times_s, np.float64), np.asarray(boundaries.scores, np.float64)
    return sorted(zip(times.tolist(), scores.tolist(), strict=True))


def _least_mark(scores: list[float]) -> float:
    """Score from which boundaries are shown at first: all, or the best of very many, which would cover the picture."""
    return sorted(scores, reverse=True)[:_FIRST_MARKS][-1] if scores else 0.0


def _score_texts(scores: Sequence[float]) -> list[str]:
    """Scores with as many decimals as show three digits of the highest."""
    top = max(map(abs, scores), default=1.0)
    decimals = int(np.clip(3 - np.ceil(np.log10(top)), 0, 6)) if top > 0 else 2
    return [f"{score:.{decimals}f}" for score in scores]


def _found_line(findings: Findings, segments: int, classes: int, marks: int) -> str:
    parts = []
    if segments:
        what = "moment" if findings.sentence else "segment"
        parts.append(f"{segments:,} candidate {what}{'s' if segments > 1 else ''}")
        if classes > 1:
            parts[-1] += f" of {classes} classes"
    if findings.boundaries is not None:
        parts.append(f"{marks:,} change point{'s' if marks != 1 else ''}")
    return " · ".join([*(parts or ["nothing found"]), f"{clock(findings.duration_s)} long"])


def _curve_path(boundaries: ScoredBoundaries | None, duration_s: float) -> str:
    """SVG path of the curve in a box of 1000 x 100, from its least to its largest value; "" without one."""
    if boundaries is None or not len(boundaries.curve):
        return ""
    times_M, values_M = np.asarray(boundaries.curve_times_s, np.float64), np.asarray(boundaries.curve, np.float64)
    if len(times_M) > _CURVE_POINTS:  # the largest value of each piece, so that no peak is lost
        pieces = np.linspace(0, len(times_M), _CURVE_POINTS + 1).astype(np.int64)
        best = [int(first + values_M[first:end].argmax()) for first, end in pairwise(pieces)]
        times_M, values_M = times_M[best], values_M[best]
    low, high = float(values_M.min()), float(values_M.max())
    x_M = (1000 * times_M / duration_s).clip(0, 1000)
    y_M = 96 - 90 * (values_M - low) / (high - low if high > low else 1.0)
    points = [f"{x:.1f} {y:.1f}" for x, y in zip(x_M, y_M)]
    # From edge to edge: the first and the last value hold for the rest of the video.
    return f"M0 {y_M[0]:.1f}L" + "L".join(points) + f"L1000 {y_M[-1]:.1f}"


def _cell_width(film: Sequence[Thumbnail]) -> float:
    """Pixels of a picture in the film strip: its own aspect, within bounds."""
    if not film:
        return 96.0
    with Image.open(BytesIO(base64.b64decode(film[0].source.partition(",")[2]))) as picture:
        width, height = picture.size
    return float(np.clip(_CELL_HEIGHT_PX * width / height, 40, 136))


def _player(found: Player) -> dict[str, Any]:
    return {
        "source": found.source,
        "link": found.link,
        "type": found.type,
        "codec": _text(found.codec),
        "remedy": _text(found.remedy),
    }


def _text(value: object) -> str:
    """Text that can be written and shown: control characters and lone surrogates become a replacement character."""
    return "".join(char if unicodedata.category(char) not in ("Cc", "Cs") else "\ufffd" for char in str(value))


def _hash(text: str) -> str:
    """A source expression of the policy for an inline part of exactly this text."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode('ascii')}"


@cache
def _part(name: str) -> str:
    return files("bsp.pages").joinpath("page", name).read_text(encoding="utf-8")


@cache
def _template() -> Any:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=False)
    return environment.from_string(_part("page.html"))
