"""Kinetics in its published form (the official CSV and a folder of clips), and one's own videos.

These are folders of classes, a CSV list, or videos without classes. All give a ``Catalog`` of trimmed videos with
action labels, the only annotation the method needs (Section 3.1).
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from bsp.clips.catalog import Catalog, Listed, build_catalog, report_skips
from bsp.datasets.activitynet import videos_folder
from bsp.errors import AnnotationError
from bsp.files.text import VIDEO_EXTENSIONS, clean_id, clean_label, is_hidden, read_table, refuse_alike

LIST_COLUMNS = ("video", "label", "start_s", "end_s")  # of one's own list; the first is needed
NO_CLASSES = ("videos",)  # the class names of a catalog of videos without classes
REQUIRED_COLUMNS = ("label", "youtube_id", "time_start", "time_end")
OPTIONAL_COLUMNS = ("split", "is_cc")


class KineticsRow(NamedTuple):
    """One row of the official CSV."""

    line: int  # line of the file, from 1
    label: str
    youtube_id: str
    start_s: float
    end_s: float


def load_kinetics_csv(
    csv_path: str | Path,
    video_root: str | Path,
    *,
    class_names: Sequence[str] | None = None,
    max_missing_share: float = 0.5,
    max_skipped_share: float = 0.05,
    cache_dir: str | Path | None = None,
    workers: int | None = None,
    progress: bool = True,
) -> Catalog:
    """The videos of an official Kinetics CSV that are on the disk, in the order of the CSV.

    A clip is ``<id>_<start 6 digits>_<end 6 digits>.<ext>``, or ``<id>.<ext>``, of which the row's time range is used.
    It lies in ``video_root`` or in a folder there named like its class (blanks or "_", with or without quotes and
    parentheses). Classes are numbered alphabetically over the CSV, or as in ``class_names`` (to number a subset like
    the full list). At most ``max_missing_share`` of the rows may lack a video, ``max_skipped_share`` of the found ones
    be broken; both are listed in ``Catalog.skipped``. Raises AnnotationError for a malformed CSV or an unsuitable
    folder, TooManyBroken above a cap. The rest is as in ``build_catalog``.
    """
    rows = read_kinetics_csv(csv_path)
    names = tuple(sorted({row.label for row in rows}) if class_names is None else map(clean_label, class_names))
    number = {name: label for label, name in enumerate(names)}
    files = {(class_folder_key(folder), clean_id(stem)): path for folder, stem, path in _walk(video_root)}
    listing, missing = [], []
    for row in rows:
        if row.label not in number:
            raise AnnotationError(f"{csv_path}: line {row.line}: label {row.label!r} is not in class_names")
        cut_name = f"{row.youtube_id}_{int(row.start_s):06d}_{int(row.end_s):06d}"
        folders = (class_folder_key(row.label), "")
        cut = [files[folder, cut_name] for folder in folders if (folder, cut_name) in files]
        whole = [files[folder, row.youtube_id] for folder in folders if (folder, row.youtube_id) in files]
        if cut:
            listing.append(Listed(cut[0], number[row.label]))
        elif whole:
            listing.append(Listed(whole[0], number[row.label], row.start_s, row.end_s))
        else:
            missing.append((cut_name, f"no such video ({Path(csv_path).name}, line {row.line}, {row.label!r})"))
    if not listing:
        raise AnnotationError(
            f"none of the {len(rows)} videos of {csv_path} is in {video_root} or a folder there named like "
            f"its class; expected for example {missing[0][0]}.mp4"
        )
    what = f"videos of {csv_path} are missing under {video_root}"
    report_skips(missing, len(rows), max_missing_share, what=what)
    catalog = build_catalog(
        video_root,
        listing,
        names,
        max_skipped_share=max_skipped_share,
        cache_dir=cache_dir,
        workers=workers,
        progress=progress,
    )
    return replace(catalog, skipped=(*missing, *catalog.skipped))


def load_class_folders(
    video_root: str | Path,
    *,
    class_names: Sequence[str] | None = None,
    max_skipped_share: float = 0.05,
    cache_dir: str | Path | None = None,
    workers: int | None = None,
    progress: bool = True,
) -> Catalog:
    """All videos in ``<video_root>/<class name>/``, sorted by path; the rest is as in ``build_catalog``.

    Classes are the folders that hold videos, in alphabetical order, or ``class_names``, which must name them all (give
    the training set's to a validation set, whose folders may be fewer). Raises AnnotationError for another folder
    structure, TooManyBroken above the cap.
    """
    found = sorted(_walk(video_root), key=lambda entry: entry[2])
    loose = [path for folder, _, path in found if not folder]
    if loose:
        raise AnnotationError(
            f"{video_root}: {len(loose)} videos lie outside a class folder, for example {loose[0]}; "
            "expected <folder>/<class name>/<video>"
        )
    folders = sorted({clean_label(folder) for folder, _, _ in found})
    refuse_alike(((folder, f"{video_root}/{folder}") for folder in folders), "the class folder")
    names = tuple(folders if class_names is None else map(clean_label, class_names))
    unknown = sorted(set(folders) - set(names))
    if unknown:
        raise AnnotationError(f"{video_root}: folders {unknown[:5]} are not among the class_names given")
    number = {name: label for label, name in enumerate(names)}
    listing = [Listed(path, number[clean_label(folder)]) for folder, _, path in found]
    return build_catalog(
        video_root,
        listing,
        names,
        max_skipped_share=max_skipped_share,
        cache_dir=cache_dir,
        workers=workers,
        progress=progress,
    )


def load_kinetics_folder(folder: str | Path, **options: Any) -> Catalog:
    """A folder with the official training list and the videos, or without a list and with one folder per class.

    The list is ``train.csv`` or the only ``*train*.csv`` in ``folder``, plain or gzipped. Videos lie in
    ``folder/videos`` if there is such a folder, else in ``folder``. ``options`` and errors as of the two loaders.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise AnnotationError(f"{folder}: no such folder of Kinetics (train.csv and videos, or one folder per class)")
    names = sorted(path.name for path in folder.glob("*train*.csv*") if not is_hidden(path))
    lists = [name for name in names if name.endswith((".csv", ".csv.gz"))]
    lists = next(([name] for name in ("train.csv", "train.csv.gz") if name in lists), lists)
    if len(lists) > 1:
        raise AnnotationError(
            f"{folder}: {len(lists)} training lists: {', '.join(lists)}; keep one or name it train.csv"
        )
    if not lists:
        return load_class_folders(videos_folder(folder), **options)
    return load_kinetics_csv(folder / lists[0], videos_folder(folder), **options)


class OwnVideos(NamedTuple):
    """One's own videos; ``how`` says in words as what they were read."""

    catalog: Catalog
    has_classes: bool
    how: str


def load_own_videos(videos: str | Path, **options: Any) -> OwnVideos:
    """Videos in whatever layout they are given.

    A folder with one folder per class; a folder with Kinetics' training list; a folder of videos without classes; or a
    CSV list with the columns of ``LIST_COLUMNS``, of which only ``video`` (relative to the list's folder, the root) is
    needed: ``label`` gives classes, ``start_s`` and ``end_s`` the used part in seconds. Videos lie in ``videos/videos``
    if there is such a folder. ``options`` and errors as of the other loaders here.
    """
    videos = Path(videos)
    if videos.is_file():
        return _load_list(videos, **options)
    if not videos.is_dir():
        raise AnnotationError(f"{videos}: no such file or folder; give a folder of videos or a CSV list of them")
    lists = sorted(path for path in videos.glob("*train*.csv*") if not is_hidden(path))
    if lists:
        return OwnVideos(load_kinetics_folder(videos, **options), True, f"Kinetics' list {lists[0].name}")
    root = videos_folder(videos)
    found = sorted(_walk(root), key=lambda entry: entry[2])
    loose, inner = [entry[2] for entry in found if not entry[0]], {entry[0] for entry in found if entry[0]}
    if loose and inner:
        raise AnnotationError(
            f"{root}: {loose[0]} and {len(loose) - 1} more videos lie beside the folders {sorted(inner)[:3]}; put "
            "every video into the folder of its class, or all of them into one folder if they have no classes"
        )
    if inner:
        return OwnVideos(load_class_folders(root, **options), True, f"{len(inner)} folders, one per class")
    catalog = build_catalog(root, [Listed(path, 0) for path in loose], NO_CLASSES, **options)
    return OwnVideos(catalog, False, "a folder of videos without classes")


def _load_list(path: Path, **options: Any) -> OwnVideos:
    """The videos of a CSV list: one's own columns, or Kinetics'."""
    remedy = f"the columns are {', '.join(LIST_COLUMNS)}, of which only video is needed; or Kinetics' own"
    lines = list(read_table(path, (), remedy=remedy))
    if not lines:
        raise AnnotationError(f"{path}: lists no video; {remedy}")
    columns = list(lines[0][1])
    if set(REQUIRED_COLUMNS) <= set(columns):
        catalog = load_kinetics_csv(path, videos_folder(path.parent), **options)
        return OwnVideos(catalog, True, f"Kinetics' list {path.name}")
    if "video" not in columns:
        raise AnnotationError(f"{path}: line 1: no column video, found {', '.join(columns)!r:.80}; {remedy}")
    if ("start_s" in columns) != ("end_s" in columns):
        raise AnnotationError(f"{path}: line 1: start_s and end_s go together; {remedy}")
    has_classes = "label" in columns
    rows = []
    labels: dict[str, str] = {}  # and where the first of each stands
    seen: dict[tuple[str, float | None, float | None], int] = {}
    for line, fields in lines:
        row = _own_row(path, line, fields)
        if (first := seen.setdefault((row[0], *row[2:]), line)) != line:
            raise AnnotationError(f"{path}: line {line}: {row[0]} is listed twice, first in line {first}; keep one")
        labels.setdefault(row[1], f"{path}: line {line}")
        rows.append(row)
    refuse_alike(labels.items(), "the label")
    names = tuple(sorted(labels)) if has_classes else NO_CLASSES
    listing = [Listed(video, names.index(label), start_s, end_s) for video, label, start_s, end_s in rows]
    catalog = build_catalog(path.parent, listing, names, **options)
    how = f"the list {path.name}, {len(names)} classes" if has_classes else f"the list {path.name}, without classes"
    return OwnVideos(catalog, has_classes, how)


def _own_row(path: Path, line: int, fields: dict[str, str]) -> tuple[str, str, float | None, float | None]:
    """Video relative to the list, label, start and end in seconds or None, of a line of one's own list."""
    for name in ("video", "label"):
        if not fields.get(name, NO_CLASSES[0]):
            raise AnnotationError(f"{path}: line {line}: {name} is empty; correct the line")
    video = os.path.relpath(os.path.join(path.parent, fields["video"]), path.parent)
    if video.split(os.sep)[0] == os.pardir:
        raise AnnotationError(
            f"{path}: line {line}: {fields['video']} lies outside {path.parent}; put the list above all its videos"
        )
    label = clean_label(fields.get("label", NO_CLASSES[0]))
    if not fields.get("start_s") and not fields.get("end_s"):
        return video, label, None, None
    start_s, end_s = (_seconds(path, line, name, fields[name]) for name in ("start_s", "end_s"))
    if end_s <= start_s:
        raise AnnotationError(f"{path}: line {line}: end_s {end_s:g} is not after start_s {start_s:g}")
    return video, label, start_s, end_s


def read_kinetics_csv(csv_path: str | Path) -> list[KineticsRow]:
    """All rows of an official train or val list, plain or gzipped; AnnotationError names file, line, field, value."""
    rows: list[KineticsRow] = []
    seen: dict[tuple[str, float, float], int] = {}
    labels: dict[str, str] = {}  # and where the first of each stands
    remedy = f"the columns are {', '.join(REQUIRED_COLUMNS + OPTIONAL_COLUMNS)} (the last two may be left out)"
    for line, fields in read_table(csv_path, REQUIRED_COLUMNS, remedy=remedy):
        row = _parse_row(csv_path, line, fields)
        clip = (row.youtube_id, row.start_s, row.end_s)
        if clip in seen:  # else it would count as two videos of a class
            raise AnnotationError(
                f"{csv_path}: line {line}: {row.youtube_id} {row.start_s:g}-{row.end_s:g} s is "
                f"listed twice, first in line {seen[clip]}; keep one"
            )
        seen[clip] = line
        labels.setdefault(row.label, f"{csv_path}: line {line}")
        rows.append(row)
    if not rows:
        raise AnnotationError(f"{csv_path}: lists no video; download it again")
    refuse_alike(labels.items(), "the label")
    return rows


def _parse_row(csv_path: str | Path, line: int, values: dict[str, str]) -> KineticsRow:
    for name in ("label", "youtube_id"):
        if not values[name]:
            raise AnnotationError(f"{csv_path}: line {line}: {name} is empty; correct the line")
    start_s, end_s = (_seconds(csv_path, line, name, values[name]) for name in ("time_start", "time_end"))
    if end_s <= start_s:
        raise AnnotationError(f"{csv_path}: line {line}: time_end {end_s:g} is not after time_start {start_s:g}")
    return KineticsRow(line, clean_label(values["label"]), clean_id(values["youtube_id"]), start_s, end_s)


def _seconds(csv_path: str | Path, line: int, name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        raise AnnotationError(f"{csv_path}: line {line}: {name} must be seconds from 0 up, not {text!r}")
    return value


def class_folder_key(folder: str) -> str:
    """Normalised class name, to match the CSV and folders: lower case, "_" for blanks, no quotes, no parentheses."""
    return re.sub(r"[\"'()]", "", clean_label(folder).replace(" ", "_")).casefold() if folder else ""


def _walk(video_root: str | Path) -> Iterator[tuple[str, str, str]]:
    """(folder or "", stem, path relative to the root) of each video in the root and one level below it."""
    root = Path(video_root)
    if not root.is_dir():
        raise AnnotationError(f"{root}: no such folder" if not root.exists() else f"{root}: is not a folder")
    entries = sorted(os.scandir(root), key=lambda entry: entry.name)
    if not entries:
        raise AnnotationError(f"{root}: the folder is empty")
    videos = 0
    for entry in entries:
        if is_hidden(entry.name):
            continue
        try:
            inside = sorted(os.listdir(entry.path)) if os.path.isdir(entry.path) else [None]
        except OSError as error:
            raise AnnotationError(f"{entry.path}: the folder cannot be read ({error.strerror})") from None
        for name in inside:
            stem, extension = os.path.splitext(entry.name if name is None else name)
            if extension.lower() not in VIDEO_EXTENSIONS or (name and is_hidden(name)):
                continue
            videos += 1
            yield ("", stem, entry.name) if name is None else (entry.name, stem, f"{entry.name}/{name}")
    if not videos:
        raise AnnotationError(
            f"{root}: no video in the folder or one level below it; looked for {sorted(VIDEO_EXTENSIONS)}"
        )
