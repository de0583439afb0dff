"""A prepared copy of a folder of videos: same names below the folder, ending in .mp4, with a record of each.

``<out>/.prepared/settings.json`` says how the folder is made, ``<out>/.prepared/<video>.mp4.json`` what each file was
made from; loaders skip hidden folders. A video is done when its record fits both files, so an interrupted
preparation continues with what is missing or damaged.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bsp.errors import AnnotationError, VideoError, VideoOpenError
from bsp.files.text import VIDEO_EXTENSIONS, is_hidden, read_json, read_text
from bsp.io import PARTIAL, atomic_path, write_json
from bsp.video.prepare import PrepareSettings, prepare_video

HIDDEN = ".prepared"
VERSION = 1  # of what prepare_video writes; another one needs another folder
MAX_COPIED_BYTES = 2**30  # larger files beside the videos are named, not copied
_MAX_CRASHES = 2  # of the video reader; after that the video counts as broken
_ABANDONED_S = 3600.0  # seconds without a write after which a partial file belongs to a killed run


def find_videos(videos: Path) -> tuple[Path, list[str], list[str]]:
    """(root, videos, other files), relative to the root and sorted.

    ``videos`` is a folder, searched to any depth but for hidden and prepared folders, or a text file with a video per
    line, relative to the file's folder (which is the root). Raises AnnotationError for no video, for a listed one
    outside the root, and for two that would get one name (a.avi and a.mp4).
    """
    if videos.is_dir():
        root = videos
        found: list[str] = []
        others: list[str] = []
        for folder, inner, names in _walk(root):
            inner[:] = [name for name in sorted(inner) if not (is_hidden(name) or _is_prepared(folder, name))]
            for name in sorted(names):
                relative = os.path.relpath(os.path.join(folder, name), root)
                if not is_hidden(name):
                    (found if Path(name).suffix.lower() in VIDEO_EXTENSIONS else others).append(relative)
    else:
        root, others = videos.parent, []
        lines = (line.strip() for line in read_text(videos).split("\n"))
        found = [os.path.relpath(os.path.join(root, line), root) for line in lines if line]
        outside = [name for name in found if name.split(os.sep)[0] == ".."]
        if outside:
            raise AnnotationError(f"{videos}: {outside[0]} lies outside {root}; put the list above all its videos")
    found = sorted(set(found))
    if not found:
        raise AnnotationError(f"{videos}: no video; looked for {sorted(VIDEO_EXTENSIONS)} to any depth")
    sources: dict[str, str] = {}
    for name in found:
        if (other := sources.setdefault(target_name(name), name)) != name:
            raise AnnotationError(f"{root}: {other} and {name} would both become {target_name(name)}; move one away")
    return root, found, others


def _walk(root: Path) -> Iterator[tuple[str, list[str], list[str]]]:
    """As os.walk, following links, except links to a parent folder (endless).

    Raises AnnotationError for a folder that cannot be read.
    """

    def unreadable(error: OSError) -> None:
        raise AnnotationError(f"{error.filename}: the folder cannot be read ({error.strerror})")

    above: dict[str, frozenset[tuple[int, int]]] = {}
    for folder, inner, names in os.walk(root, followlinks=True, onerror=unreadable):
        try:
            status = os.stat(folder)
        except OSError as error:
            unreadable(error)
        outer, own = above.get(os.path.dirname(folder), frozenset()), (status.st_dev, status.st_ino)
        if own in outer:
            inner.clear()
            continue
        above[folder] = outer | {own}
        yield folder, inner, names


def target_name(name: str) -> str:
    """The prepared video's name below its folder: loaders find videos by the name without its extension."""
    return str(Path(name).with_suffix(".mp4"))


def _is_prepared(folder: str, name: str) -> bool:
    return os.path.isdir(os.path.join(folder, name, HIDDEN))


def open_folder(root: Path, out: Path, settings: PrepareSettings) -> None:
    """Make ``out`` a folder of these settings, or check that it is one; remove partial files of killed runs.

    Raises AnnotationError when it holds videos of other settings, files of another origin, or ``root``.
    """
    if root.resolve().is_relative_to(out.resolve()):
        raise AnnotationError(f"--out {out} holds the videos themselves ({root}); choose a folder elsewhere")
    wanted = {"version": VERSION, **asdict(settings)}
    path = out / HIDDEN / "settings.json"
    if path.exists():
        found = read_json(path)
        if not isinstance(found, dict):
            raise AnnotationError(f"{path} is damaged; remove {out}, or choose another --out")
        if found != wanted:
            different = sorted(key for key in found.keys() | wanted.keys() if found.get(key) != wanted.get(key))
            says = ", ".join(f"{key} {found.get(key)} there, {wanted.get(key)} here" for key in different)
            raise AnnotationError(f"{out} was prepared otherwise ({says}); choose another --out or remove it")
    elif out.exists() and any(found.name != HIDDEN for found in out.iterdir()):  # killed here, a run leaves HIDDEN
        raise AnnotationError(f"{out} holds files but was not made by bsp prepare; choose an empty --out")
    else:
        write_json(path, wanted)
    for partial in out.rglob(f".*{PARTIAL}"):
        try:
            if time.time() - partial.stat().st_mtime > _ABANDONED_S:
                partial.unlink()
        except FileNotFoundError:  # its writer has finished
            continue


def prepare_one(root: Path, out: Path, name: str, settings: PrepareSettings) -> dict[str, Any]:
    """Prepare one video if needed; returns its record with "kept" (bool) added, or {"error": text}.

    The record says name, size, time of change and SHA-256 of the source; size and SHA-256 of the target; frames,
    width, height; damaged frames of the source; seconds that it took. Raises OSError when ``out`` cannot be written.
    """
    source, target = root / name, out / target_name(name)
    record_path = out / HIDDEN / f"{target_name(name)}.json"
    record = _read_record(record_path)
    try:
        if record is not None and _fits(record, source, target):
            return {**record, "kept": True}
        tries = record_path.with_suffix(".tries")  # a file, to survive a crash of this process
        crashes = len(tries.read_bytes()) if tries.exists() else 0
        if crashes >= _MAX_CRASHES:
            tries.unlink()  # the next run tries again
            raise VideoError(str(source), f"the video reader crashed on it {crashes} times")
        tries.parent.mkdir(parents=True, exist_ok=True)
        tries.write_bytes(b"." * (crashes + 1))
        began = time.perf_counter()
        try:
            before, sha256 = _state(source)
            made = prepare_video(source, target, settings)
        finally:
            tries.unlink(missing_ok=True)
    except VideoError as error:  # remove the copy of an older version of the source
        record_path.unlink(missing_ok=True)
        target.unlink(missing_ok=True)
        return {"name": name, "error": error.reason}
    record = {
        "name": name,
        "source_bytes": before.st_size,
        "source_mtime_ns": before.st_mtime_ns,
        "source_sha256": sha256,
        "target_bytes": made.target_bytes,
        "target_sha256": _sha256(target),
        "frames": made.frames,
        "width": made.width,
        "height": made.height,
        "damaged_frames": made.damaged_frames,
        "seconds": round(time.perf_counter() - began, 3),
    }
    write_json(record_path, record)
    return {**record, "kept": False}


def copy_others(root: Path, out: Path, others: Sequence[str]) -> tuple[list[str], list[str]]:
    """Copy the files beside the videos (annotations): (copied or there already, left out, each with the reason)."""
    copied, left_out = [], []
    for name in others:
        source, target = root / name, out / name
        if isinstance(found := _can_be_copied(source), str):
            left_out.append(f"{name}: {found}")
            continue
        copied.append(name)
        if target.exists() and (target.stat().st_size, target.stat().st_mtime_ns) == (found.st_size, found.st_mtime_ns):
            continue
        with atomic_path(target) as partial:
            shutil.copy2(source, partial)
    return copied, left_out


def _can_be_copied(source: Path) -> os.stat_result | str:
    """Whether a file can be copied; if not, why."""
    try:
        found = source.stat()
        if not stat.S_ISREG(found.st_mode):  # opening a pipe would wait for its writer
            return "not a file (a pipe, socket or device)"
        if found.st_size > MAX_COPIED_BYTES:
            return f"large ({found.st_size / 2**30:.1f} GiB)"
        with open(source, "rb"):
            return found
    except OSError as error:
        return f"cannot be read: {error.strerror}"


def _read_record(path: Path) -> dict[str, Any] | None:
    try:
        record = read_json(path)
    except AnnotationError:  # not done, or damaged: done again
        return None
    return record if isinstance(record, dict) else None


def _fits(record: dict[str, Any], source: Path, target: Path) -> bool:
    """Whether source (size, time of change) and target (SHA-256) are those of the record."""
    try:
        now = source.stat()
        return (
            (now.st_size, now.st_mtime_ns) == (record["source_bytes"], record["source_mtime_ns"])
            and target.stat().st_size == record["target_bytes"]
            and _sha256(target) == record["target_sha256"]
        )
    except (OSError, KeyError):
        return False


def _state(source: Path) -> tuple[os.stat_result, str]:
    """Name, size, time of change and SHA-256 of the file; VideoOpenError if it cannot be read."""
    try:
        found = source.stat()
        # The video reader reports a pipe; reading it here would wait for a writer.
        return found, _sha256(source) if stat.S_ISREG(found.st_mode) else ""
    except FileNotFoundError:
        raise VideoOpenError(str(source), "no such file, or a link to one that is gone") from None
    except OSError as error:
        raise VideoOpenError(str(source), f"cannot be read: {error.strerror}") from None


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
