"""Trimmed videos as a handful of arrays: the source of every synthesised clip (paper, Section 3.1: Kinetics).

A catalog of a million videos is shared between processes as arrays. Lookups of ``plan_clip`` (a video, another of its
class, one of another class) take constant time. ``build_catalog`` probes every file once and caches the result.
Letters: N videos, C classes.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bsp.errors import AnnotationError, TooManyBroken, VideoError, most_broken
from bsp.video.probe_many import probe_files
from bsp.video.read import READERS, VideoInfo
from bsp.video.times import frame_seconds, frames_at

log = logging.getLogger(__name__)


class Listed(NamedTuple):
    """One clip that an annotation lists and the disk has."""

    path: str  # relative to the root
    label: int  # position in class_names
    start_s: float | None = None  # cut [start_s, end_s) out of the file; None = the whole file
    end_s: float | None = None


@dataclass(frozen=True, eq=False)
class Catalog:
    """N trimmed videos. The arrays are shared between processes; treat them as read-only."""

    root: str  # folder of all paths
    paths: np.ndarray  # bytes [N], utf-8, relative to root
    labels: np.ndarray  # int32 [N], position in class_names
    first_frame: np.ndarray  # int64 [N], first usable frame of the file, 0-based
    frames: np.ndarray  # int32 [N], usable frames from first_frame on, at least 1
    fps: np.ndarray  # float32 [N], frames per second, on average
    readers: np.ndarray  # uint8 [N], position in video.READERS
    class_names: tuple[str, ...]
    skipped: tuple[tuple[str, str], ...] = ()  # (path or expected name, reason): listed but left out
    sizes: np.ndarray | None = None  # int64 [N], bytes of the file; None = not known
    order: np.ndarray = field(init=False, repr=False)  # int64 [N], videos grouped by label, rising within one
    # int64 [C + 1], class c is order[class_offsets[c]:class_offsets[c + 1]]
    class_offsets: np.ndarray = field(init=False, repr=False)
    # int64 [C + 1], like class_offsets but counting only classes with two or more videos: those of SAME_CLASS
    pair_offsets: np.ndarray = field(init=False, repr=False)

    def __post_init__(self) -> None:
        columns = ("paths", "labels", "first_frame", "frames", "fps", "readers")
        lengths = {name: len(getattr(self, name)) for name in columns}
        if len(set(lengths.values())) != 1 or not len(self.paths):
            raise ValueError(f"a catalog needs at least one video and columns of one length; got {lengths}")
        if self.labels.min() < 0 or self.labels.max() >= len(self.class_names):
            raise ValueError(
                f"labels must lie in 0..{len(self.class_names) - 1} (positions in class_names); "
                f"got {self.labels.min()}..{self.labels.max()}"
            )
        if self.frames.min() < 1:
            raise ValueError(f"every video needs a frame; {self.path(int(self.frames.argmin()))} has none")
        counts = np.bincount(self.labels, minlength=len(self.class_names))
        pairable = np.where(counts >= 2, counts, 0)
        object.__setattr__(self, "order", np.argsort(self.labels, kind="stable"))
        object.__setattr__(self, "class_offsets", np.concatenate(([0], np.cumsum(counts))))
        object.__setattr__(self, "pair_offsets", np.concatenate(([0], np.cumsum(pairable))))

    def __len__(self) -> int:
        return len(self.paths)

    def path(self, video: int) -> str:
        """Absolute path (as absolute as ``root``) of one video."""
        return os.path.join(self.root, self.paths[video].decode("utf-8", "surrogateescape"))

    def videos_of_class(self, label: int) -> np.ndarray:
        """Positions of the videos of class ``label``, int64, rising."""
        return self.order[self.class_offsets[label] : self.class_offsets[label + 1]]

    def select(self, videos: np.ndarray) -> Catalog:
        """The videos at these positions, int64, in this order, with the same classes and without the list of skips."""
        columns = ("paths", "labels", "first_frame", "frames", "fps", "readers", "sizes")
        arrays = {name: getattr(self, name) for name in columns}
        chosen: dict[str, Any] = {name: None if array is None else array[videos] for name, array in arrays.items()}
        return replace(self, **chosen, skipped=())

    def seconds(self) -> np.ndarray:
        """Length of each video's used part, float64 [N], by its average frame rate."""
        return self.frames / self.fps.astype(np.float64)

    def in_stretches(self, stretch_s: float) -> Catalog:
        """Each video of two or more times ``stretch_s`` as several equal, consecutive parts of about that length.

        A long video then counts by its length where videos are drawn uniformly; the parts of one keep its path.
        """
        # Choice: not for shorter videos, where a part would have fewer frames than they are worth separating.
        parts = np.maximum(1, np.where(self.seconds() >= 2 * stretch_s, self.seconds() / stretch_s, 1).astype(np.int64))
        parts = np.minimum(parts, self.frames)
        of = np.repeat(np.arange(len(self)), parts)
        place = np.arange(len(of)) - np.repeat(np.cumsum(parts) - parts, parts)
        whole = self.frames[of].astype(np.int64)
        begin, end = whole * place // parts[of], whole * (place + 1) // parts[of]
        chosen = self.select(of)
        return replace(
            chosen,
            first_frame=chosen.first_frame + begin,
            frames=(end - begin).astype(np.int32),
            skipped=self.skipped,
        )

    def without_skipped(self) -> Catalog:
        """The same videos without the list of skips, to be sent to workers."""
        return replace(self, skipped=())

    def fingerprint(self) -> str:
        """Hex digest of the data: file names, sizes, labels, frames, class names, order; not the root."""
        digest = hashlib.blake2b(digest_size=16)
        digest.update(json.dumps(self.class_names).encode())
        digest.update(b"\n".join(self.paths.tolist()))
        sizes = np.zeros(len(self)) if self.sizes is None else self.sizes
        for column in (sizes, self.labels, self.first_frame, self.frames):
            digest.update(np.ascontiguousarray(column, dtype="<i8").tobytes())
        return digest.hexdigest()


def build_catalog(
    root: str | Path,
    listing: Sequence[Listed],
    class_names: Sequence[str],
    *,
    max_skipped_share: float = 0.05,
    cache_dir: str | Path | None = None,
    workers: int | None = None,
    progress: bool = True,
) -> Catalog:
    """Probe every listed file once and gather the usable ones, in the order of ``listing``.

    Broken files (missing, empty, truncated, no video, too short for their time range) are left out, counted,
    and named in the log and in ``Catalog.skipped``; more than ``max_skipped_share`` (0..1) of the listing
    raises TooManyBroken. ``cache_dir`` stores the results of good files by path, size and time of change.
    ``workers`` is the number of probing processes; 0 = in this one, None = by the number of files, at most
    one per core.
    """
    if not listing:
        raise AnnotationError(f"{root}: nothing is listed, so there is no catalog to build")
    root = str(Path(root).absolute())
    paths = list(dict.fromkeys(entry.path for entry in listing))  # a file may hold several listed ranges
    probed = probe_files(root, paths, cache_dir=cache_dir, workers=workers, progress=progress)
    rows, skipped = [], []
    for entry in listing:
        size, found = probed[entry.path]
        cut = found if isinstance(found, str) else _usable_frames(entry, found)
        if isinstance(cut, str):
            skipped.append((entry.path, cut))
        else:
            rows.append((entry, found, *cut, size))
    report_skips(skipped, len(listing), max_skipped_share, what=f"videos under {root} are broken")
    if not rows:
        raise TooManyBroken(f"none of the {len(listing)} videos under {root} works:\n{name_some(skipped)}")
    entries, infos, first_frame, frames, sizes = zip(*rows)
    return Catalog(
        root=root,
        paths=np.array([entry.path.encode("utf-8", "surrogateescape") for entry in entries]),
        labels=np.array([entry.label for entry in entries], np.int32),
        first_frame=np.array(first_frame, np.int64),
        frames=np.array(frames, np.int32),
        fps=np.array([info.fps for info in infos], np.float32),
        readers=np.array([READERS.index(info.reader) for info in infos], np.uint8),
        class_names=tuple(class_names),
        skipped=tuple(skipped),
        sizes=np.array(sizes, np.int64),
    )


def _usable_frames(entry: Listed, info: VideoInfo) -> tuple[int, int] | str:
    """(first frame, number of frames) of a listed clip, or the reason why it has none."""
    if info.frames < 1:
        return "has no frames"
    if entry.start_s is None or entry.end_s is None:
        return 0, info.frames
    try:
        start, end = frames_at(info, np.array([entry.start_s, entry.end_s])).tolist()
    except VideoError as error:
        return error.reason
    first = max(0, round(start))
    frames = min(round(end), info.frames) - first
    if frames < 1:
        end_s = float(frame_seconds(info, info.frames))
        return (
            f"lasts {end_s:.2f} s, but its {entry.start_s:g}-{entry.end_s:g} s are listed; "
            "a file that is cut already must be named <id>_<start 6 digits>_<end 6 digits>"
        )
    return first, frames


def report_skips(skipped: Sequence[tuple[str, str]], listed: int, max_share: float, *, what: str) -> None:
    """Log what is left out; raise TooManyBroken above ``max_share`` (0..1) of ``listed``."""
    if not 0 <= max_share <= 1:
        raise ValueError(f"the largest share that may be left out must lie in 0..1, not {max_share}")
    if not skipped:
        return
    message = f"{len(skipped)} of {listed} {what}:\n{name_some(skipped)}"
    if len(skipped) > most_broken(max_share, listed):
        raise TooManyBroken(f"{message}\nThe cap is {max_share:.0%} of them; repair the data or raise the cap.")
    log.warning("left out: %s", message)


def name_some(skipped: Sequence[tuple[str, str]], most: int = 20) -> str:
    """Up to ``most`` lines "name: reason" and a count of the rest."""
    lines = [f"  {name}: {reason}" for name, reason in skipped[:most]]
    if len(skipped) > most:
        lines.append(f"  ... and {len(skipped) - most} more")
    return "\n".join(lines)
