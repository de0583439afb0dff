"""Export of stored features to other projects' layouts, and import from them.

Their files (bsp/features/interchange_files.py) hold arrays [T, C] without frame rate or stride. An import adds the
times of rows and marks unknown fields: ``size_px`` is 0, ``mean`` and ``std`` are empty, ``code_version`` is 0, and
``encoder_hash`` is "imported:" and the sha256 of the files.
Letters: S or T rows (snippets or cells), D or C width.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bsp.datasets.charades_sta import durations_from_document, read_durations
from bsp.datasets.results_json import check_ground_truth, with_clean_ids
from bsp.errors import AnnotationError, TooManyBroken
from bsp.features.interchange_files import (
    LAYOUTS,
    Layout,
    NamedArray,
    files_sha256,
    find_arrays,
    refuse_existing,
    write_arrays,
)
from bsp.features.record import FeatureInfo, even_rows
from bsp.features.resize import resize_features
from bsp.features.store import SHARED_FIELDS, read_feature_info, read_features, write_features
from bsp.files.text import is_hidden, read_json
from bsp.io import atomic_path

__all__ = ["LAYOUTS", "Timing", "Transfer", "export_features", "import_features", "uniform_record", "video_durations"]

MAX_MISFIT_SHARE = 0.05  # of the videos whose rows do not fit their length: those are left out; above it, refused
# Choice: lengths in annotations and files differ slightly, and extractors treat the last rows differently.
_TOLERANCE_SHARE, _TOLERANCE_ROWS = 0.1, 3


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Times of the rows of an array: one row every ``stride_frames`` frames."""

    fps: float  # of the videos, frames per second, above 0
    stride_frames: int  # from one row's first frame to the next one's, at least 1
    snippet_frames: int  # frames that one row looks at, at least 1
    offset_frames: int = 0  # first frame of the first row, 0-based

    def __post_init__(self) -> None:
        if not (self.fps > 0 and math.isfinite(self.fps)):
            raise ValueError(f"fps must be above 0, not {self.fps}")
        for name, least in (("stride_frames", 1), ("snippet_frames", 1), ("offset_frames", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, not {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class Transfer:
    """Summary of an export or import."""

    videos: int
    rows: int  # of all videos together
    width: int  # D
    left_out: tuple[str, ...] = ()  # videos of the source, as "name: why"
    resampled: tuple[str, ...] = ()  # videos of uneven times whose rows were interpolated at even ones
    missing: tuple[str, ...] = ()  # ids with a known duration that the source does not have


def uniform_record(folder: Path) -> tuple[list[str], FeatureInfo]:
    """Ids of all videos in a feature folder, sorted, and the record of the first.

    Raises ValueError, naming file, values and remedy, if there is none, one is incomplete, or they differ in stride,
    width, encoder, precision or crop. Reads the records only.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder of features")
    files = [file for file in folder.glob("*.npy") if not is_hidden(file)]
    records = {unicodedata.normalize("NFC", file.stem): file.with_name(f"{file.stem}.json") for file in files}
    ids = sorted(records)
    if not ids:
        raise ValueError(f"{folder}: holds no features (<id>.npy with <id>.json); extract or import them first")
    incomplete = [i for i in ids if not records[i].exists()]
    if incomplete:
        raise ValueError(
            f"{folder}: {len(incomplete)} of {len(ids)} videos are incomplete ({', '.join(incomplete[:5])}): their"
            " .json is missing; finish the extraction, or delete their .npy"
        )
    first = read_feature_info(folder, ids[0])
    for video_id in ids:
        path, info = records[video_id], read_feature_info(folder, video_id)
        for field in SHARED_FIELDS:
            ours, theirs = getattr(first, field), getattr(info, field)
            if ours != theirs:
                raise ValueError(
                    f"{path}: {field} is {theirs!r}, but {ours!r} for {first.video_id} in the same folder; keep"
                    " features of one encoder with one stride and one precision in a folder, or extract again"
                )
    return ids, first


def export_features(
    folder: Path, path: Path, *, layout: Layout, prefix: str = "", cells: int | None = None
) -> Transfer:
    """Write all features of our ``folder`` in another project's layout, named ``prefix`` + video id.

    cells: resize every video to so many rows, by linear interpolation with half-pixel centres as G-TAD does
        (100 for its ActivityNet settings); None keeps one row per snippet.
    Features of a video whose snippets are not even in time are interpolated at even times, which the layouts assume.
    Raises ValueError as :func:`uniform_record` and for damaged features; FileExistsError if ``path`` is taken.
    """
    if cells is not None and cells < 1:
        raise ValueError(f"cells must be at least 1, not {cells}")
    refuse_existing(path)
    ids, record = uniform_record(folder)
    rows, resampled = 0, []

    def arrays() -> Iterator[tuple[str, np.ndarray]]:
        nonlocal rows
        for video_id in ids:
            feat_SD, info = read_features(folder, video_id)
            if info.times_s is not None:
                # Choice: at even times, as the layouts have no times and their readers assume even ones.
                feat_TD = even_rows(feat_SD, info, cells)
                resampled.append(prefix + video_id)
            else:
                feat_TD = feat_SD if cells is None else resize_features(feat_SD, cells)
            rows += len(feat_TD)
            yield prefix + video_id, feat_TD

    write_arrays(path, layout, arrays())
    return Transfer(videos=len(ids), rows=rows, width=record.feature_width, resampled=tuple(resampled))


def import_features(
    path: Path,
    folder: Path,
    *,
    layout: Layout,
    timing: Timing | None = None,
    durations: Mapping[str, float] | None = None,
    prefix: str = "",
    channel_first: bool = False,
) -> Transfer:
    """Import another project's features into a store at ``folder``, which appears complete or not at all.

    timing: frame rate and stride. None spreads the rows of every video evenly over its duration, which is right for
        features resized to a fixed number (100 cells); the record then counts cells as frames.
    durations: seconds by video id. Videos without one are left out and named. With ``timing`` the number of rows
        must fit them: a video that does not is left out and named, and more than MAX_MISFIT_SHARE are refused.
    prefix: removed from every name to get the video id ("v_" for ActivityNet).
    channel_first: the arrays are [C, T].
    Raises ValueError for a damaged array, values that are not finite, a name without the prefix, different widths or a
    stride that does not fit; TooManyBroken where too many do not fit.
    """
    if timing is None and durations is None:
        raise ValueError("without frame rate and stride the durations of the videos are needed")
    refuse_existing(folder)
    arrays = _by_id(find_arrays(path, layout), prefix)
    chosen = {i: a for i, a in arrays.items() if durations is None or i in durations}
    left_out = [f"{array.name}: has no duration" for i, array in arrays.items() if i not in chosen]
    if not chosen:
        raise ValueError(
            f"{path}: none of the {len(arrays)} names, such as {next(iter(arrays))}, has a duration in the annotations;"
            " are they of the same data set, and is the prefix right (v_ for ActivityNet)?"
        )
    encoder_hash = f"imported:{files_sha256(list(chosen.values()))}"
    misfits: list[str] = []
    width = rows = done = 0
    with atomic_path(folder) as partial:
        for video_id, array in chosen.items():
            feat_SD = array.read(channel_first=channel_first)
            _require_finite(array, feat_SD)
            width = width or feat_SD.shape[1]
            if feat_SD.shape[1] != width:
                raise ValueError(_different_width(array, feat_SD, width, channel_first))
            duration_s = None if durations is None else durations[video_id]
            why = _misfit(len(feat_SD), duration_s, timing)
            if why:
                misfits.append(f"{array.name}: {why}")
                if len(misfits) > MAX_MISFIT_SHARE * len(chosen):
                    raise TooManyBroken(
                        f"{path}: the rows of {len(misfits)} videos of {len(chosen)}, more than {MAX_MISFIT_SHARE:.0%},"
                        f" do not fit their length: {'; '.join(misfits[:3])}. Check frame rate and stride, or leave"
                        " both out: the rows are then spread evenly over the video"
                    )
                continue
            write_features(partial, video_id, feat_SD, _record(video_id, feat_SD, duration_s, timing, encoder_hash))
            rows, done = rows + len(feat_SD), done + 1
    missing = () if durations is None else tuple(i for i in durations if i not in arrays)
    return Transfer(videos=done, rows=rows, width=width, left_out=(*left_out, *misfits), missing=missing)


def video_durations(path: Path) -> dict[str, float]:
    """Seconds by video id: from annotations in ActivityNet's layout, or what Charades-STA's ``read_durations`` takes.

    Raises AnnotationError, naming file and field.
    """
    if not path.name.removesuffix(".gz").endswith(".json"):
        return read_durations(path)
    document = read_json(path)
    if not isinstance(document, dict):
        raise AnnotationError(f"{path}: expected an object of seconds by video, found {str(document)[:60]!r}")
    if "database" not in document:
        return durations_from_document(document, path)
    database = check_ground_truth(document, str(path))
    found = {video_id: float(record["duration"]) for video_id, record in database.items() if "duration" in record}
    wrong = [video_id for video_id, seconds in found.items() if not seconds > 0]
    if wrong or not found:
        what = f"database.{wrong[0]}.duration: is {found[wrong[0]]}" if wrong else "no video has a duration"
        raise AnnotationError(f"{path}: {what}; expected seconds above 0")
    return found


def _by_id(arrays: list[NamedArray], prefix: str) -> dict[str, NamedArray]:
    without = [array.name for array in arrays if not array.name.startswith(prefix)]
    if without:
        raise ValueError(f"{len(without)} of {len(arrays)} names do not begin with {prefix!r}, such as {without[0]!r}")
    return with_clean_ids({array.name.removeprefix(prefix): array for array in arrays}, str(arrays[0].file.parent))


def _require_finite(array: NamedArray, feat_SD: np.ndarray) -> None:
    wrong = np.flatnonzero(~np.isfinite(feat_SD).all(1))
    if len(wrong):
        row = int(wrong[0])
        value = feat_SD[row][~np.isfinite(feat_SD[row])][0]
        raise ValueError(
            f"{array}: row {row}, counted from 0, is not finite ({value} as float32), {len(wrong)} of {len(feat_SD)}"
            " rows in all; make this file again, or take it out"
        )


def _different_width(array: NamedArray, feat_SD: np.ndarray, width: int, channel_first: bool) -> str:
    turned = "without it" if channel_first else "as channel-first"
    return (
        f"{array}: rows of width {feat_SD.shape[1]}, but {width} before; features of one encoder have one width. If"
        f" the arrays are {'[T, C]' if channel_first else '[C, T]'}, import them {turned}"
    )


def _misfit(rows: int, duration_s: float | None, timing: Timing | None) -> str:
    """Why the number of rows does not fit the video's length; "" if it fits or the length is unknown."""
    if timing is None or duration_s is None:
        return ""
    frames = duration_s * timing.fps - timing.offset_frames
    expected = max(1.0, (frames - timing.snippet_frames) / timing.stride_frames + 1)
    if expected < 1e12 and abs(rows - expected) <= max(_TOLERANCE_ROWS, _TOLERANCE_SHARE * expected):
        return ""
    return (
        f"{rows} rows of {timing.stride_frames} frames at {timing.fps:g} fps cover"
        f" {rows * timing.stride_frames / timing.fps:.1f} s of {duration_s:.1f} s (about {expected:.0f} rows expected)"
    )


def _record(
    video_id: str, feat_SD: np.ndarray, duration_s: float | None, timing: Timing | None, encoder_hash: str
) -> FeatureInfo:
    rows = len(feat_SD)
    if timing is None:  # a cell counts as a frame, so that times are computed as for other features
        assert duration_s is not None  # import_features asked for one of them
        timing = Timing(fps=rows / duration_s, stride_frames=1, snippet_frames=1)
        frames = rows
    elif duration_s is None:  # frames covered by the rows; later frames are unknown
        frames = timing.offset_frames + (rows - 1) * timing.stride_frames + timing.snippet_frames
    else:
        frames = max(1, round(duration_s * timing.fps))
    return FeatureInfo(
        video_id=video_id,
        frames=frames,
        fps=timing.fps,
        snippet_frames=timing.snippet_frames,
        stride_frames=timing.stride_frames,
        offset_frames=timing.offset_frames,
        size_px=0,
        mean=(),
        std=(),
        feature_width=feat_SD.shape[1],
        snippets=rows,
        encoder_hash=encoder_hash,
        code_version=0,
    )
