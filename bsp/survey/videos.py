"""Is a video file fit for use? One row per file, made in worker processes: what it is, its problem, the remedy."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from bsp import apart
from bsp.errors import FileError, VideoError
from bsp.files.text import read_table
from bsp.io import write_text
from bsp.survey.listing import ListedVideo
from bsp.video.read import MAX_DAMAGED_SHARE, VideoInfo, iter_frames, probe
from bsp.video.readers import PyavReader, plain_fault
from bsp.video.time_limit import call_within
from bsp.video.times import end_of, video_times

_IN_PROCESS = 8  # with fewer files, starting processes takes longer than it saves
_CHUNK_FRAMES = 16
SHORT_S = 1.0  # Choice: below a second no snippet has a neighbour, at 8 frames a snippet
ODD_RATES = (5.0, 121.0)  # frames per second of ordinary videos; others are named
ODD_SIDES = (64, 8192)  # pixels of a side of ordinary videos
USUAL_CODECS = ("h264", "hevc", "vp8", "vp9", "av1", "mpeg4", "mpeg2video", "mpeg1video", "mjpeg", "h263", "wmv2")
SAVE_EVERY_S = 5.0  # between two writings of the report


@dataclass(frozen=True, kw_only=True)
class VideoRow:
    """One row of the report. Empty or 0 where the file cannot be read."""

    path: str
    id: str  # of the video in features, annotations and results
    readable: bool
    frames: int = 0
    duration_s: float = 0.0
    fps: float = 0.0
    variable_rate: bool = False
    width: int = 0  # pixels, upright
    height: int = 0
    rotation: int = 0  # degrees, counter-clockwise, by which players turn the stored picture; readers do so, too
    codec: str = ""
    damaged_frames: int = -1  # flagged by the decoder; -1 = not decoded
    problem: str = ""  # "" = none; of a readable file a remark
    remedy: str = ""
    bytes: int = 0
    mtime_ns: int = 0  # with the size: whether the row is still of this file

    @property
    def usable(self) -> bool:
        """Whether extraction and training would take it."""
        return self.readable and self.damaged_frames <= MAX_DAMAGED_SHARE * self.frames


COLUMNS = tuple(field.name for field in fields(VideoRow))


def check_video(path: str, video_id: str, decode: bool = False) -> VideoRow:
    """Look at one file; ``decode``: also decode all of it, which finds damaged pictures."""
    row: dict[str, Any] = {"path": path, "id": video_id}
    if fault := plain_fault(path):
        return _unreadable(row, fault)
    status = os.stat(path)
    row |= {"bytes": status.st_size, "mtime_ns": status.st_mtime_ns}
    try:
        info = probe(path)
        rotation, end_s = _rotation(path), _duration_s(info)
        damaged = _decoded(info) if decode else -1
    except VideoError as error:
        return _unreadable(row, error.reason)
    problem, remedy = _remark(info, end_s, rotation, damaged)
    return VideoRow(
        **row,
        readable=True,
        frames=info.frames,
        duration_s=round(end_s, 3),
        fps=round(info.fps, 3),
        variable_rate=not info.uniform,
        width=info.width,
        height=info.height,
        rotation=rotation,
        codec=info.codec,
        damaged_frames=damaged,
        problem=problem,
        remedy=remedy,
    )


def _duration_s(info: VideoInfo) -> float:
    return info.frames / info.fps if info.uniform else end_of(video_times(info), info.fps)


def _rotation(path: str) -> int:
    """Degrees of the display matrix, in (-180, 180]."""

    def work(stop: threading.Event) -> int:
        reader = PyavReader(path, stop)
        try:
            return round(reader.first_frame(stop).rotation)
        finally:
            reader.close()

    return call_within(work, path, 60.0)


def _decoded(info: VideoInfo) -> int:
    """Number of damaged frames, by decoding all. Raises VideoError, also for frames that are missing."""
    damaged: set[int] = set()
    seen = sum(map(len, iter_frames(info.path, chunk_frames=_CHUNK_FRAMES, reader=info.reader, damaged=damaged)))
    if seen != info.frames:
        raise VideoError(info.path, f"{seen} frames were decoded of {info.frames}; encode it again")
    return len(damaged)


def _remark(info: VideoInfo, end_s: float, rotation: int, damaged: int) -> tuple[str, str]:
    """(problem, remedy) of a readable file: all that is unusual, the gravest first."""
    low, high = ODD_RATES
    least, most = ODD_SIDES
    sides = min(info.width, info.height), max(info.width, info.height)
    size = f"{info.width}x{info.height} pixels"
    found = [
        (damaged > MAX_DAMAGED_SHARE * info.frames, f"{damaged} of {info.frames} frames are damaged", "download again"),
        (0 < damaged <= MAX_DAMAGED_SHARE * info.frames, f"{damaged} damaged frames", "none needed; used as they are"),
        (info.frames == 1, "a single picture", "leave it out: nothing happens in it"),
        (
            info.frames > 1 and end_s < SHORT_S,
            f"only {end_s:.2f} s long",
            "leave it out, or join it with its neighbours",
        ),
        (
            not low <= info.fps <= high,
            f"{info.fps:g} frames a second",
            "encode it again at its true rate if it is wrong",
        ),
        (sides[0] < least or sides[1] > most, f"unusual size, {size}", "scale it, or leave it out if it shows nothing"),
        (sides[1] > 4 * sides[0], f"very oblong, {size}", "crop it: only the middle square is seen"),
        (bool(info.width % 2 or info.height % 2), f"odd size, {size}", "none needed"),
        (info.codec not in USUAL_CODECS, f"unusual codec {info.codec}", "none needed; read by FFmpeg"),
        (not info.uniform, "variable frame rate", "none needed: times are those of the frames"),
        (rotation % 360 != 0, f"turned by {rotation} degrees", "none needed: pictures are turned upright"),
    ]
    told = [(problem, remedy) for holds, problem, remedy in found if holds]
    needed = list(dict.fromkeys(remedy for _, remedy in told if not remedy.startswith("none needed")))
    plain = list(dict.fromkeys(remedy for _, remedy in told))
    return "; ".join(problem for problem, _ in told), "; ".join(needed or plain[:1])


def _unreadable(row: dict[str, Any], reason: str) -> VideoRow:
    """The row of a file that cannot be read; many reasons end with the remedy, after a semicolon."""
    problem, _, remedy = reason.rpartition("; ")
    if not problem or remedy == "not opened":
        no_video = "no video stream" in reason or "picture or the like" in reason
        problem, remedy = reason, "leave it out" if no_video else "download or copy it again, or leave it out"
    return VideoRow(**row, readable=False, problem=problem, remedy=remedy)


def check_videos(
    videos: Sequence[ListedVideo],
    *,
    report: Path | None,
    decode: bool,
    workers: int,
    progress: Callable[[int, int, VideoRow | None], None] = lambda done, total, row: None,
) -> list[VideoRow]:
    """A row for each of the videos, in their order, written to ``report`` now and then and at the end.

    Rows of an earlier report are kept if path, size and time of change are the same and it was a look as thorough;
    files that could not be read are tried again. ``progress`` gets the number of rows that exist, of all, and the new
    one. A file that kills the reader's process is a row, too. Raises FileError if the report is no report.
    """
    kept = read_report(report) if report is not None and report.exists() else {}
    rows: dict[str, VideoRow] = {}
    for video in videos:
        old = kept.get(video.path)
        if old is not None and old.readable and (old.damaged_frames >= 0 or not decode) and _unchanged(old):
            rows[video.path] = VideoRow(**asdict(old) | {"id": video.video_id})
    todo = [video for video in videos if video.path not in rows]
    progress(len(rows), len(videos), None)
    saved = time.monotonic()
    for row in _each(todo, decode, workers):
        rows[row.path] = row
        progress(len(rows), len(videos), row)
        if report is not None and time.monotonic() - saved > SAVE_EVERY_S:
            saved = time.monotonic()
            write_report(report, list(rows.values()))
    ordered = [rows[video.path] for video in videos]
    if report is not None:
        write_report(report, ordered)
    return ordered


def _each(videos: Sequence[ListedVideo], decode: bool, workers: int) -> Iterator[VideoRow]:
    calls = [(video.path, video.video_id, decode) for video in videos]
    if len(calls) < _IN_PROCESS and not decode:
        yield from (check_video(*call) for call in calls)
        return
    for call, found in zip(calls, apart.in_order(check_video, calls, workers), strict=True):
        if isinstance(found, apart.ProcessDied):
            why = "the video reader crashed on it"
            found = VideoRow(path=call[0], id=call[1], readable=False, problem=why, remedy="encode it again")
        yield found


def _unchanged(row: VideoRow) -> bool:
    try:
        status = os.stat(row.path)
    except OSError:
        return False
    return (status.st_size, status.st_mtime_ns) == (row.bytes, row.mtime_ns)


def write_report(path: Path, rows: Sequence[VideoRow]) -> None:
    """The rows as a CSV file. Text that a spreadsheet would take for a formula gets an apostrophe in front."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(COLUMNS)
    for row in rows:
        table.writerow([_cell(value) for value in asdict(row).values()])
    write_text(path, text.getvalue())


def _cell(value: Any) -> Any:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not isinstance(value, str):
        return value
    # Surrogates (names that are not UTF-8) and control characters as in JSON, so that the file is text of single lines.
    if not value.isprintable():
        value = "json:" + json.dumps(value)
    return f"'{value}" if value[:1] in ("=", "+", "-", "@", "'") else value


def read_report(path: Path) -> dict[str, VideoRow]:
    """Rows of a report by path. FileError, naming line and value, if it is another file."""
    rows = {}
    for line, cells in read_table(path, COLUMNS, remedy="it is no report of bsp check; choose another --report"):
        try:
            row = VideoRow(**{field.name: _value(field.type, cells[field.name]) for field in fields(VideoRow)})
        except ValueError as error:
            raise FileError(f"{path}: line {line}: {error}; delete the report, it is made again") from None
        rows[row.path] = row
    return rows


def _value(kind: Any, text: str) -> Any:
    if kind == "bool":
        return {"yes": True, "no": False}[text] if text in ("yes", "no") else int("x" + text)
    if kind == "int":
        return int(text)
    if kind == "float":
        number = float(text)
        if not math.isfinite(number):
            raise ValueError(f"{text!r} is no number")
        return number
    text = text.removeprefix("'")
    return json.loads(text.removeprefix("json:")) if text.startswith("json:") else text
