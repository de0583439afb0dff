"""Generic event boundary detection: Kinetics-GEBD and TAPOS in their published annotation files.

A clip of about ten seconds has boundaries by several annotators and their agreement. Files are pickles, read without
running code from them, or JSON of the same content. Videos are found by file name and not opened.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from bsp.clips.catalog import report_skips
from bsp.datasets.activitynet import find_videos, videos_folder
from bsp.datasets.gebd_records import ProcessedRecord, read_records
from bsp.datasets.kinetics import class_folder_key
from bsp.errors import AnnotationError
from bsp.files.plain_pickle import read_plain_pickle
from bsp.files.text import is_hidden, read_json, safe_name

SUBSETS = {"training": "train", "validation": "val"}  # and their names in file names
SUFFIXES = (".pkl", ".json", ".json.gz")


@dataclass(frozen=True, kw_only=True)
class GEBDVideo:
    """One annotated clip; ``path`` is None when no file of it was found (or looked for)."""

    video_id: str
    path: str | None
    subset: str
    duration_s: float  # > 0, as annotated
    fps: float  # > 0, as annotated
    frames: int  # >= 1, as annotated
    boundaries_s: tuple[tuple[float, ...], ...]  # per annotator, at least one; seconds, in the order of the file
    boundary_frames: tuple[tuple[float, ...], ...]  # the same as 0-based frames
    consistency: tuple[float, ...]  # F1 of each annotator against the others, 0..1
    consistency_avg: float  # their mean; clips below 0.3 are not evaluated
    path_video: str | None  # "class/ID_start_end.mp4" as annotated; TAPOS has none

    @property
    def most_consistent_s(self) -> tuple[float, ...]:
        """Boundaries of the annotator with the highest consistency (the first of equals), used for training."""
        return self.boundaries_s[self.consistency.index(max(self.consistency))]


@dataclass(frozen=True)
class GEBDDataset:
    """The clips in the order of their files, also those without a video file."""

    videos: tuple[GEBDVideo, ...]
    missing: tuple[str, ...]  # ids of the clips without a file
    dropped: tuple[str, ...]  # raw clips left out, as "file: id: why"

    def ground_truth(self, subset: str) -> dict[str, ProcessedRecord]:
        """The clips of a subset in the published processed layout, which is what the metric takes."""
        return {video.video_id: _record(video) for video in self.videos if video.subset == subset}


def load_gebd(
    path: str | Path, video_folder: str | Path | None = None, *, subset: str, max_missing_share: float = 0.5
) -> GEBDDataset:
    """Read one annotation file (.pkl, .json, .json.gz) of any layout of gebd_records.py and find its videos.

    video_folder: None skips the search. Otherwise a clip is ``ID_start_end.<ext>`` (by its annotated path) in the
        folder or in a folder of its class there, or ``<id>.<ext>`` in the folder.
    subset: "training" or "validation"; selects instances of TAPOS' file, which has both; otherwise only recorded.
    max_missing_share: 0..1; missing videos are counted, logged and listed, above this share TooManyBroken.
    Raises AnnotationError for a malformed file, FileNotFoundError when the folder does not exist.
    """
    if subset not in SUBSETS:
        raise ValueError(f"subset must be one of {', '.join(SUBSETS)}, not {subset!r}")
    records, dropped = read_records(read_document(path), subset=subset, name=str(path))
    report_skips(
        [(clip, why) for clip, _, why in (line.partition(": ") for line in dropped)],
        len(records) + len(dropped),
        1.0,
        what=f"raw clips of {path} cannot be used",
    )
    records = {safe_name(clip, str(path)): record for clip, record in records.items()}
    if not records:
        raise AnnotationError(f"{path}: no clip can be used ({len(dropped)} are left out); is it the right file?")
    paths = {} if video_folder is None else _find(Path(video_folder), records)
    missing = () if video_folder is None else tuple(clip for clip in records if clip not in paths)
    report_skips(
        [(clip, records[clip].get("path_video", f"{clip}.mp4")) for clip in missing],
        len(records),
        max_missing_share,
        what=f"clips of {path} have no file in {video_folder}",
    )
    videos = tuple(_video(clip, record, paths.get(clip), subset) for clip, record in records.items())
    return GEBDDataset(videos=videos, missing=missing, dropped=tuple(f"{Path(path).name}: {why}" for why in dropped))


def load_gebd_folder(folder: str | Path, *, max_missing_share: float = 0.5, find_files: bool = True) -> GEBDDataset:
    """Both subsets of Kinetics-GEBD: ``k400_*train*`` and ``k400_*val*`` in a folder, videos as ``videos_folder``.

    Processed files (``k400_mr345_*``) are preferred to raw ones. ``find_files=False`` skips the search for videos.
    Raises as :func:`load_gebd`, and AnnotationError when a file is missing or ambiguous, and for a clip in both
    subsets.
    """
    folder = Path(folder)
    videos = videos_folder(folder) if find_files else None
    parts = [
        load_gebd(_annotation_file(folder, word), videos, subset=subset, max_missing_share=max_missing_share)
        for subset, word in SUBSETS.items()
    ]
    shared = sorted({v.video_id for v in parts[0].videos} & {v.video_id for v in parts[1].videos})
    if shared:
        raise AnnotationError(f"{folder}: clips in both subsets: {', '.join(shared[:5])} ({len(shared)}); remove them")
    return GEBDDataset(
        videos=tuple(video for part in parts for video in part.videos),
        missing=tuple(clip for part in parts for clip in part.missing),
        dropped=tuple(line for part in parts for line in part.dropped),
    )


def read_document(path: str | Path) -> Any:
    """The content of an annotation or prediction file: a pickle of plain data if named .pkl, else JSON (or gzipped)."""
    return read_plain_pickle(path) if str(path).lower().endswith(".pkl") else read_json(path)


def _annotation_file(folder: Path, word: str) -> Path:
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder of annotations")
    found = sorted(path for path in folder.iterdir() if path.name.endswith(SUFFIXES) and not is_hidden(path))
    found = [path for path in found if path.match(f"k400_*{word}*")]
    found = [path for path in found if path.name.startswith("k400_mr345_")] or found
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise AnnotationError(
            f"{folder}: expected one file k400_*{word}* ({', '.join(SUFFIXES)}), found {names};"
            " copy it there, or leave one"
        )
    return found[0]


def _find(folder: Path, records: Mapping[str, ProcessedRecord]) -> dict[str, str]:
    """Paths of existing clips: by annotated path in the class folder or directly, or by id."""
    found = find_videos(folder, records)
    annotated = {clip: PurePosixPath(record.get("path_video", "")) for clip, record in records.items()}
    # Some TAPOS files give the path of the whole video, which is not the clip's file.
    annotated = {clip: path for clip, path in annotated.items() if path.stem.startswith(clip)}
    by_class: dict[str, dict[str, str]] = {}
    for clip, path in annotated.items():
        by_class.setdefault(class_folder_key(path.parent.name), {})[path.stem] = clip
    everywhere = {path.stem: clip for clip, path in annotated.items()}
    found |= {everywhere[stem]: path for stem, path in find_videos(folder, everywhere).items()}
    for place in sorted(entry for entry in folder.iterdir() if entry.is_dir() and not is_hidden(entry)):
        stems = by_class.get(class_folder_key(place.name), {})
        found |= {stems[stem]: path for stem, path in find_videos(place, stems).items()}
    return found


def _video(clip: str, record: ProcessedRecord, path: str | None, subset: str) -> GEBDVideo:
    return GEBDVideo(
        video_id=clip,
        path=path,
        subset=subset,
        duration_s=record["video_duration"],
        fps=record["fps"],
        frames=record["num_frames"],
        boundaries_s=tuple(map(tuple, record["substages_timestamps"])),
        boundary_frames=tuple(map(tuple, record["substages_myframeidx"])),
        consistency=tuple(record["f1_consis"]),
        consistency_avg=record["f1_consis_avg"],
        path_video=record.get("path_video"),
    )


def _record(video: GEBDVideo) -> ProcessedRecord:
    record: ProcessedRecord = {
        "num_frames": video.frames,
        "fps": video.fps,
        "video_duration": video.duration_s,
        "f1_consis": list(video.consistency),
        "f1_consis_avg": video.consistency_avg,
        "substages_myframeidx": [list(frames) for frames in video.boundary_frames],
        "substages_timestamps": [list(times) for times in video.boundaries_s],
    }
    if video.path_video is not None:
        record |= {"path_video": video.path_video, "path_frame": video.path_video.removesuffix(".mp4")}
    return record
