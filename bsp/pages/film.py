"""Pictures of a video for its page, and the video itself: thumbnails, and a source that a browser can play."""

from __future__ import annotations

import base64
import io
import os
import shlex
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import numpy as np
from PIL import Image

from bsp.errors import VideoError
from bsp.video.read import VideoInfo, fit_frames, read_frames
from bsp.video.times import frame_seconds, frames_at

THUMBNAILS = 48
MAX_EMBEDDED_BYTES = 25 * 2**20
_WIDEST = 2.0  # width by height of a picture; wider ones lose their sides
_PIXELS_AT_ONCE = 20_000_000  # of decoded frames in memory: 60 MB
_TYPES = {
    ".mp4": "video/mp4", ".m4v": "video/mp4", ".mov": "video/quicktime", ".webm": "video/webm", ".ogv": "video/ogg",
    ".mkv": "video/x-matroska",
}  # fmt: skip
# What current browsers play without add-ons, by container. Others may: a page tries, and says so if it fails.
_PLAYED = {
    ".mp4": {"h264", "av1", "vp9"},
    ".m4v": {"h264", "av1", "vp9"},
    ".mov": {"h264"},
    ".webm": {"vp8", "vp9", "av1"},
}


@dataclass(frozen=True, kw_only=True)
class Thumbnail:
    """A small picture of the video."""

    time_s: float
    source: str  # data URI of a JPEG


@dataclass(frozen=True, kw_only=True)
class Player:
    """How the page plays the video."""

    source: str  # data URI, or a link relative to the page
    link: str  # relative to the page, also where the video is inside it
    embedded: bool
    type: str  # MIME type, "" if no browser knows the container
    codec: str
    played: bool  # whether browsers are known to play it
    remedy: str  # command that makes a copy that browsers play


def thumbnails(info: VideoInfo, count: int = THUMBNAILS, *, height_px: int = 96) -> list[Thumbnail]:
    """Pictures from the middles of ``count`` equal parts of the video, fewer if it has fewer frames; never enlarged.

    The frames are decoded a few at a time, whatever their size and the length of the video. A part of the file that
    cannot be decoded costs its pictures; VideoError if no frame can be decoded.
    """
    count = min(count, info.frames)
    end_s = float(frame_seconds(info, info.frames))
    places = frames_at(info, (np.arange(count) + 0.5) / count * end_s).astype(np.int64).clip(0, info.frames - 1)
    at_once = max(1, _PIXELS_AT_ONCE // (info.height * info.width))
    found: list[Thumbnail] = []
    failure: VideoError | None = None
    for first in range(0, count, at_once):
        part = places[first : first + at_once]
        try:
            frames = read_frames(info.path, part, reader=info.reader, time_limit_s=600)
        except VideoError as error:
            failure = error
            continue
        for place, small in zip(part, _shrink(frames, height_px), strict=True):
            found.append(Thumbnail(time_s=float(frame_seconds(info, place)), source=_jpeg(small)))
    if failure is not None and not found:
        raise failure
    return found


def player(info: VideoInfo, page: Path, *, max_embedded_bytes: int = MAX_EMBEDDED_BYTES) -> Player:
    """The video's source for a page at ``page``: inside the page if it is small and browsers play it, else a link."""
    path = Path(info.path)
    ending = path.suffix.lower()
    played = info.codec in _PLAYED.get(ending, ())
    mime = _TYPES.get(ending, "")
    embedded = played and path.stat().st_size <= max_embedded_bytes
    if embedded:
        # Choice: QuickTime's own type is refused by browsers that play the same file as mp4.
        mime = "video/mp4" if ending == ".mov" else mime
        source = f"data:{mime};base64,{base64.b64encode(path.read_bytes()).decode('ascii')}"
    else:
        source = _link(path, page)
    copy = shlex.quote(f"{path.stem}.web.mp4")
    return Player(
        source=source,
        link=_link(path, page),
        embedded=embedded,
        type=mime,
        codec=info.codec,
        played=played,
        remedy=f"ffmpeg -i {shlex.quote(path.name)} -c:v libx264 -pix_fmt yuv420p {copy}",
    )


def _link(path: Path, page: Path) -> str:
    try:
        relative = os.path.relpath(path.absolute(), page.absolute().parent)
    except ValueError:  # another drive
        return path.absolute().as_uri()
    return quote(os.fsencode(Path(relative).as_posix()))


def _shrink(frames_THWC: np.ndarray, height_px: int) -> np.ndarray:
    _, height, width, _ = frames_THWC.shape
    scale = min(1.0, height_px / height)
    small = max(1, round(height * scale))
    return fit_frames(frames_THWC, small, max(1, min(round(_WIDEST * small), round(width * scale))))


def _jpeg(frame_HWC: np.ndarray) -> str:
    file = io.BytesIO()
    Image.fromarray(frame_HWC).save(file, "JPEG", quality=72)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode('ascii')}"
