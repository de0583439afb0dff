"""Results of many videos in one folder: which are there already, and the files of all formats.

results.json  results.csv   all videos, also those of earlier calls with the same model
<video>.html  <video>.vtt   one of each per video
records/<video>.json        everything that the model found, from which the others are written again
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from bsp.errors import AnnotationError, FileError
from bsp.files.text import VIDEO_EXTENSIONS, clean_id, is_hidden, read_json
from bsp.io import write_json, write_text
from bsp.pages.findings import Findings, from_document, shown_at_first, to_document
from bsp.pages.formats import (
    boundaries_csv,
    boundaries_document,
    chapters_vtt,
    detections_document,
    moments_document,
    segments_csv,
    segments_vtt,
)
from bsp.pages.look import What
from bsp.pages.page_html import write_page
from bsp.video.read import VideoInfo

FORMATS = ("json", "csv", "vtt", "html")
RECORDS = "records"
_ASKED = "_asked"  # in RECORDS: what the folder holds
_RECORD_VERSION = 1
_MOST_RECORD = 1 << 30  # bytes; the record of a day-long video has some 20 MB


def named_videos(paths: Sequence[Path]) -> dict[str, Path]:
    """Videos by the names of their results: of files as given, of folders all videos to any depth.

    A name is the file's without its ending. Where several would have the same, it begins with their folders' names,
    and ends with the ending if that does not suffice. AnnotationError for a folder without videos.
    """
    files: dict[str, Path] = {}
    for path in paths:
        found = _videos_in(path) if path.is_dir() else [path]
        if not found:
            raise AnnotationError(f"{path}: no video; looked for {sorted(VIDEO_EXTENSIONS)} to any depth")
        files |= {os.path.realpath(file): file for file in found}  # one that is given twice is looked at once
    return _named(list(files.values()))


def _videos_in(folder: Path) -> list[Path]:
    found = []
    for root, inner, names in os.walk(folder):
        inner[:] = sorted(name for name in inner if not is_hidden(name))
        found += [Path(root, name) for name in sorted(names) if not is_hidden(name)]
    return [path for path in found if path.suffix.lower() in VIDEO_EXTENSIONS]


def _named(files: Sequence[Path]) -> dict[str, Path]:
    parts = [(*path.absolute().parent.parts[1:], clean_id(path.name)) for path in files]
    depth = [1] * len(files)
    while True:
        names = ["_".join(of[-taken:]) for of, taken in zip(parts, depth, strict=True)]
        # Case does not distinguish files on every system.
        count = Counter(name.casefold() for name in names)
        again = [k for k, name in enumerate(names) if count[name.casefold()] > 1]
        more = [k for k in again if depth[k] < min(len(parts[k]), 4)]
        if not more:
            break
        for k in more:
            depth[k] += 1
    for k in again:
        names[k] = f"{names[k]}_{files[k].suffix.lstrip('.')}"
    if len(set(names)) < len(names):
        raise AnnotationError(f"two videos would both be called {Counter(names).most_common(1)[0][0]}; rename one")
    return dict(zip(names, files, strict=True))


def key_of(model_hash: str, video: Path, **asked: Any) -> str:
    """What a record depends on: the model, the file (its size and time), and what was asked."""
    facts = video.stat()
    parts = [_RECORD_VERSION, model_hash, os.path.realpath(video), facts.st_size, facts.st_mtime_ns, asked]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def claim(out: Path, what: What) -> None:
    """Keep the folder for answers to one question. FileError if it holds those to another one, which would be lost."""
    path = out / RECORDS / _ASKED
    try:
        asked = path.read_text("utf-8").strip()
    except FileNotFoundError:
        write_text(path, what)
        return
    if asked != what:
        raise FileError(
            f"{out}: holds what bsp {asked:.40} found, which bsp {what} would replace; choose another --out"
        )


def kept_findings(out: Path, name: str, key: str) -> Findings | None:
    """Findings of an earlier call with the same key; None if there are none, or they cannot be read."""
    path = _record_path(out, name)
    if not path.is_file():
        return None
    try:
        document = read_json(path, max_bytes=_MOST_RECORD)
        same = isinstance(document, dict) and document.get("key") == key
        return from_document(document["findings"], str(path)) if same else None
    except FileError:  # damaged: made again
        return None


def keep_findings(out: Path, name: str, key: str, findings: Findings, *, model_hash: str = "") -> None:
    """Write the record of a video."""
    record = {"key": key, "model": model_hash, "findings": to_document(findings)}
    write_json(_record_path(out, name), record)


def earlier_findings(out: Path, names: Collection[str], model_hash: str) -> list[Findings]:
    """Of videos that are not among ``names``, by the same model: what earlier calls found. Damaged records are left
    out."""
    found = []
    for path in sorted((out / RECORDS).glob("*.json")):
        if path.stem not in names:
            try:
                document = read_json(path, max_bytes=_MOST_RECORD)
                if isinstance(document, dict) and document.get("model") == model_hash:
                    found.append(from_document(document["findings"], str(path)))
            except (FileError, KeyError):
                continue
    return found


def _record_path(out: Path, name: str) -> Path:
    return out / RECORDS / f"{name}.json"


def write_of_video(
    out: Path, name: str, findings: Findings, info: VideoInfo, what: What, formats: Collection[str]
) -> dict[str, Path]:
    """The files of one video, by format. Raises VideoError if pictures for the page cannot be read."""
    written: dict[str, Path] = {}
    if "vtt" in formats:
        written["vtt"] = out / f"{name}.vtt"
        note = f"{findings.video_id}, by bsp {what}"
        if what == "boundaries" and findings.boundaries is not None:
            text = chapters_vtt(findings.boundaries.times_s, findings.duration_s, note=note)
        else:
            text = segments_vtt(shown_at_first(findings), note=note)
        write_text(written["vtt"], text)
    if "html" in formats:
        written["html"] = out / f"{name}.html"
        names = {"json": "results.json", "csv": "results.csv", "vtt": f"{name}.vtt"}
        downloads = [(file, quote(os.fsencode(file))) for kind, file in names.items() if kind in formats]
        write_page(written["html"], findings, info, downloads)
    return written


def write_of_all(out: Path, findings: Sequence[Findings], what: What, formats: Collection[str]) -> dict[str, Path]:
    """The files of all videos together, by format."""
    documents: Mapping[What, Any] = {
        "detect": detections_document, "boundaries": boundaries_document, "ground": moments_document,
    }  # fmt: skip
    written: dict[str, Path] = {}
    if "json" in formats:
        written["json"] = out / "results.json"
        write_json(written["json"], documents[what](findings))
    if "csv" in formats:
        written["csv"] = out / "results.csv"
        write_text(written["csv"], boundaries_csv(findings) if what == "boundaries" else segments_csv(findings))
    return written
