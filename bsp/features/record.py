"""The record beside a video's features: how they were made, when each snippet is, and a hash over all of that.

A record is refused unless its hash fits. Older records without a hash are read; fields that they lack get defaults.
Only ``snippets_at`` and ``seconds_at`` convert between seconds and snippets.
Letters: S snippets, D feature width.
"""

from __future__ import annotations

import hashlib
import json
import math
import unicodedata
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields, replace
from typing import Any

import numpy as np

from bsp.files.text import parse_json
from bsp.video.read import VideoInfo
from bsp.video.times import end_of, positions_at, times_at, video_times

_COUNTS = {  # field -> least value
    "frames": 1, "snippet_frames": 1, "stride_frames": 1, "offset_frames": 0, "size_px": 0, "feature_width": 1,
    "snippets": 1, "code_version": 0, "npy_bytes": 0, "damaged_frames": 0,
}  # fmt: skip
_TEXTS = ("video_id", "encoder_hash", "sha256", "reader", "precision", "record_sha256")
_ATTRIBUTE_NUMBERS = 4096  # of one HDF5 attribute, which may hold 64 kB


@dataclass(frozen=True, kw_only=True)
class FeatureInfo:
    """How one video's features were made: the sidecar record. The hashes and npy_bytes are set on writing."""

    video_id: str
    frames: int  # all frames of the video, also those after the last whole snippet
    fps: float  # of the video, frames per second; the average where times_s is given
    snippet_frames: int  # frames per snippet
    stride_frames: int  # from one snippet's first frame to the next one's
    offset_frames: int  # first frame of the first snippet, 0-based
    size_px: int  # side of the square centre crop given to the encoder
    mean: tuple[float, ...]  # RGB in [0, 1], subtracted
    std: tuple[float, ...]  # RGB in [0, 1], divided by
    feature_width: int  # D
    snippets: int  # S
    encoder_hash: str  # encoder_hash() of the weights
    code_version: int  # CODE_VERSION of the extraction
    sha256: str = ""  # of the features as little-endian float32 in C order; "" = not written yet
    npy_bytes: int = 0  # size of the .npy file; 0 = not written yet
    # Older records lack the fields below.
    reader: str = ""  # which of video.READERS read the frames; "" = not known
    damaged_frames: int = 0  # frames of the snippets that the decoder flagged as damaged
    precision: str = "float32"  # of the encoder's arithmetic
    # Only if frame k is not shown at k / fps: start of each snippet and end of the last one, S + 1 rising seconds
    # rounded to microseconds, 0 = where players begin to count; and the end of the video.
    times_s: tuple[float, ...] | None = None
    end_s: float | None = None
    record_sha256: str = ""  # record_hash() of all the others; "" = not written yet, or an older record

    def __post_init__(self) -> None:
        if (self.times_s is None) != (self.end_s is None):
            raise ValueError(f"{self.video_id}: times_s and end_s go together")
        if self.times_s is not None:
            times = np.array(self.times_s, float)
            if len(times) != self.snippets + 1 or not np.isfinite(times).all() or (np.diff(times) <= 0).any():
                raise ValueError(f"{self.video_id}: times_s must be {self.snippets + 1} rising seconds")

    @classmethod
    def from_dict(cls, record: object) -> FeatureInfo:
        """The record from its JSON object.

        ValueError if a field is absent, unknown or of a wrong kind, or the hash does not fit.
        """
        known = {field.name for field in fields(cls)}
        needed = {field.name for field in fields(cls) if field.default is MISSING} | {"sha256", "npy_bytes"}
        if not isinstance(record, dict) or not needed <= set(record) <= known:
            wrong = sorted((needed - set(record)) | (set(record) - known)) if isinstance(record, dict) else record
            raise ValueError(f"fields missing or unknown: {wrong!r:.200}; extract the features again")
        if set(record) != needed and record.get("record_sha256") != (found := record_hash(record)):
            raise ValueError(
                f"record_sha256 is {record.get('record_sha256')!r}, but that of the record is {found}: it was changed"
                " or damaged; extract the features again"
            )
        for name, value in record.items():
            if not _fits(name, value):
                raise ValueError(f"{name} cannot be {value!r:.200}; extract the features again")
        lists = {name: tuple(record[name]) for name in ("mean", "std", "times_s") if record.get(name) is not None}
        return cls(**record | lists)


def _fits(name: str, value: Any) -> bool:
    if name in _COUNTS:
        return type(value) is int and value >= _COUNTS[name]
    if name in _TEXTS:
        return isinstance(value, str)
    if name == "fps":
        return _is_number(value) and value > 0
    if name in ("times_s", "end_s") and value is None:
        return True
    return _is_number(value) if name == "end_s" else isinstance(value, list | tuple) and all(map(_is_number, value))


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def record_hash(record: Mapping[str, Any]) -> str:
    """sha256 (hex) over a record's fields as JSON with sorted keys, all but ``record_sha256`` itself."""
    others = {name: value for name, value in record.items() if name != "record_sha256"}
    return hashlib.sha256(json.dumps(others, sort_keys=True).encode()).hexdigest()


def sealed(info: FeatureInfo) -> FeatureInfo:
    """The record with its hash."""
    return replace(info, record_sha256=record_hash(asdict(info)))


def read_record(content: bytes, name: str, video_id: str) -> FeatureInfo:
    """The record in a sidecar's ``content``. ValueError, beginning with ``name``, if damaged or of another video."""
    try:
        info = FeatureInfo.from_dict(parse_json(content, "record"))
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    return of_video(info, name, video_id)


def of_video(info: FeatureInfo, name: str, video_id: str) -> FeatureInfo:
    """The record; ValueError unless it is of this video; composed and decomposed accents are equal."""
    if unicodedata.normalize("NFC", info.video_id) != unicodedata.normalize("NFC", video_id):
        raise ValueError(f"{name}: is the record of {info.video_id!r}, not of {video_id!r}; extract it again")
    return info


def to_attributes(info: FeatureInfo) -> dict[str, Any]:
    """The record as HDF5 attributes: without None fields, and times split into parts that fit an attribute."""
    record = {name: value for name, value in asdict(info).items() if value is not None}
    times = record.pop("times_s", ())
    parts = {f"times_s.{at}": times[at : at + _ATTRIBUTE_NUMBERS] for at in range(0, len(times), _ATTRIBUTE_NUMBERS)}
    return record | parts


def from_attributes(attributes: Mapping[str, Any]) -> FeatureInfo:
    """The inverse of :func:`to_attributes`. Raises as :meth:`FeatureInfo.from_dict`."""
    record = {k: v.tolist() if isinstance(v, np.generic | np.ndarray) else v for k, v in attributes.items()}
    parts = sorted((k for k in record if k.startswith("times_s.")), key=lambda k: (len(k), k))
    times = [time_s for k in parts for time_s in record.pop(k)]
    if "record_sha256" in record:
        record = {"times_s": times or None, "end_s": None} | record
    return FeatureInfo.from_dict(record)


def snippet_times(video: VideoInfo, snippets: int, stride_frames: int) -> dict[str, Any]:
    """``times_s`` and ``end_s`` of a record: None where the video is uniform. Raises VideoError."""
    if video.uniform:
        return {"times_s": None, "end_s": None}
    times_T = video_times(video)
    ends_T = np.append(times_T, end_of(times_T, video.fps))
    places = np.minimum(np.arange(snippets + 1) * stride_frames, video.frames)
    return {"times_s": tuple(ends_T[places].round(6).tolist()), "end_s": round(float(ends_T[-1]), 6)}


def snippets_at(info: FeatureInfo, times_s: np.ndarray | float, *, centres: bool = False) -> np.ndarray:
    """Positions of ``times_s`` (seconds, any shape) in snippets, float64: k is the start of snippet k.

    centres: k is the middle of snippet k instead. Times outside the snippets give values below 0 or above S.
    """
    shift = info.snippet_frames / 2 if centres else 0
    if info.times_s is None:
        return (np.asarray(times_s, float) * info.fps - (info.offset_frames + shift)) / info.stride_frames
    places = positions_at(times_s, np.array(info.times_s), info.fps / info.stride_frames)
    return places - shift / info.stride_frames


def seconds_at(info: FeatureInfo, places: np.ndarray | float, *, centres: bool = False) -> np.ndarray:
    """Seconds of ``places`` (positions in snippets), float64; the inverse of :func:`snippets_at`."""
    shift = info.snippet_frames / 2 if centres else 0
    if info.times_s is None:
        return (np.asarray(places, float) * info.stride_frames + (info.offset_frames + shift)) / info.fps
    places = np.asarray(places, float) + shift / info.stride_frames
    return times_at(places, np.array(info.times_s), info.fps / info.stride_frames)


def video_end_s(info: FeatureInfo) -> float:
    """End of the video, seconds: frames / fps, or ``end_s``."""
    return info.frames / info.fps if info.end_s is None else info.end_s


def even_rows(feat_SD: np.ndarray, info: FeatureInfo, rows: int | None = None) -> np.ndarray:
    """Features at even times, float32 [rows, D], interpolated between the middles of the snippets.

    rows: spread over what the snippets cover from 0 s on; None = one for every stride_frames / fps seconds of it.
    """
    step_s = info.stride_frames / info.fps if rows is None else float(seconds_at(info, info.snippets)) / rows
    if rows is None:
        rows = max(1, int(float(seconds_at(info, info.snippets)) / step_s + 1e-6))
    places_N = np.clip(snippets_at(info, (np.arange(rows) + 0.5) * step_s, centres=True), 0, info.snippets - 1)
    before_N = np.floor(places_N).astype(int)
    after_N, share_N1 = np.minimum(before_N + 1, info.snippets - 1), (places_N - before_N)[:, None]
    return (feat_SD[before_N] * (1 - share_N1) + feat_SD[after_N] * share_N1).astype(np.float32)


def covered_share(info: FeatureInfo, times_s: np.ndarray, duration_s: float) -> np.ndarray:
    """``times_s`` as fractions of the part of the video that the snippets cover, below 0 and above 1 outside.

    Of a uniform video that part is the ``duration_s`` of the annotations without the frames after the last snippet.
    """
    if info.times_s is None:
        return times_s / (duration_s * min(1.0, info.snippets * info.stride_frames / info.frames))
    return snippets_at(info, times_s) / info.snippets


def snippet_share(info: FeatureInfo, share: np.ndarray, duration_s: float) -> np.ndarray:
    """Fractions of the ``duration_s`` of the annotations as fractions of the snippets, in [0, 1].

    The same numbers where the snippets are even in time: heads resize those as if they covered the video.
    """
    if info.times_s is None:
        return share
    return np.clip(snippets_at(info, np.asarray(share, float) * duration_s) / info.snippets, 0.0, 1.0)


def duration_share(info: FeatureInfo, share: np.ndarray, duration_s: float) -> np.ndarray:
    """The inverse of :func:`snippet_share`."""
    if info.times_s is None:
        return share
    return np.clip(seconds_at(info, np.asarray(share, float) * info.snippets) / duration_s, 0.0, 1.0)
