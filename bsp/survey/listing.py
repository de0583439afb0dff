"""The videos that a person gives, and the id of each: unique, safe as a file name, the same in every command.

Choice: the id is the file's name without its ending, as in the published data sets. Files that would share an id, also
if upper and lower case alone tell them apart, get their folders in front ("monday__clip"), and files beside each other
their ending behind ("clip_mkv").
"""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bsp.errors import AnnotationError
from bsp.files.text import VIDEO_EXTENSIONS, is_hidden

_MOST_BYTES = 200  # of an id; a file's name may have 255, and endings and temporary names need some
_APART = "__"  # between the folders of an id


@dataclass(frozen=True, kw_only=True)
class ListedVideo:
    """A file that is taken for a video, unopened."""

    path: str
    video_id: str
    renamed: str = ""  # why the id is not the file's name; "" = it is


@dataclass(frozen=True, kw_only=True)
class Listing:
    """What a person gave."""

    videos: tuple[ListedVideo, ...]  # by path
    others: tuple[str, ...]  # files in the folders that are no videos by their ending, not looked at
    hidden: int  # hidden files and folders that were passed over (such as macOS's ._name)


def list_videos(given: Sequence[str | os.PathLike[str]]) -> Listing:
    """The videos in folders (any depth, links followed) and single files, whatever the ending of a single file.

    Raises AnnotationError if there is none, or a folder cannot be read.
    """
    found: dict[str, str] = {}  # path -> path below what was given, which names its folders
    others: list[str] = []
    hidden = 0
    for one in [os.fspath(entry) for entry in given]:
        if not os.path.isdir(one):
            found[os.path.normpath(one)] = os.path.normpath(one).lstrip(os.sep + ".")
            continue
        for folder, inner, names in _walk(one):
            hidden += sum(map(is_hidden, [*inner, *names]))
            inner[:] = sorted(name for name in inner if not is_hidden(name))
            for name in sorted(name for name in names if not is_hidden(name)):
                path = os.path.normpath(os.path.join(folder, name))
                if os.path.splitext(name)[1].lower() in VIDEO_EXTENSIONS:
                    found.setdefault(path, os.path.relpath(path, one))
                else:
                    others.append(path)
    if not found:
        endings = ", ".join(VIDEO_EXTENSIONS)
        raise AnnotationError(
            f"{', '.join(map(str, given))}: no video among {len(others)} files; looked for {endings} to any depth;"
            " name a file itself if its ending is another one"
        )
    ids = _ids(found)
    videos = tuple(ListedVideo(path=path, video_id=ids[path][0], renamed=ids[path][1]) for path in sorted(found))
    return Listing(videos=videos, others=tuple(others), hidden=hidden)


def _walk(top: str) -> Iterator[tuple[str, list[str], list[str]]]:
    """As os.walk, links followed, but never into a folder for the second time (links to a parent are endless)."""

    def unreadable(error: OSError) -> None:
        raise AnnotationError(f"{error.filename}: the folder cannot be read ({error.strerror})")

    seen: set[tuple[int, int]] = set()
    for folder, inner, names in os.walk(top, followlinks=True, onerror=unreadable):
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in seen:
            inner.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        yield folder, inner, names


def _ids(found: dict[str, str]) -> dict[str, tuple[str, str]]:
    """path -> (id, why it is not the plain name, or "")."""
    plain = {path: os.path.splitext(os.path.basename(path))[0] for path in found}
    ids = {path: (_safe(name), "") for path, name in plain.items()}
    longer = {path: _APART.join(Path(below).with_suffix("").parts) for path, below in found.items()}
    tries = (
        ("another video has the same name in another folder", longer),
        (
            "another video has the same name with another ending",
            {path: f"{longer[path]}_{os.path.splitext(path)[1].lstrip('.')}" for path in found},
        ),
        (
            "names of other videos are too much alike",
            {path: f"{plain[path]}_{k}" for k, path in enumerate(sorted(found))},
        ),
    )
    for why, names in tries:
        counts = Counter(video_id.casefold() for video_id, _ in ids.values())
        for path, (video_id, _) in list(ids.items()):
            if counts[video_id.casefold()] > 1:
                ids[path] = (_safe(names[path]), why)
    for path, (video_id, why) in ids.items():
        other = "its name has characters or a length that file names of results cannot have"
        ids[path] = (video_id, "" if video_id == unicodedata.normalize("NFC", plain[path]) else why or other)
    return ids


def _safe(name: str) -> str:
    r"""The name as an id: composed accents, no control characters, separators or outer blanks, at most 200 bytes."""
    name = unicodedata.normalize("NFC", name)
    name = "".join("_" if unicodedata.category(c) in ("Cc", "Cs") or c in "/\\" else c for c in name).strip()
    name = name.lstrip(".").strip() or "video"
    while len(name.encode()) > _MOST_BYTES:
        name = name[:-1]
    # "clip.mp4.mkv": an id is no name of a video file, as readers of ids take that ending off.
    stem, ending = os.path.splitext(name)
    return f"{stem}_{ending[1:]}" if ending.lower() in VIDEO_EXTENSIONS else name.strip()
