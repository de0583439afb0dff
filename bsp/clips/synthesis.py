"""From a plan to pixels: read the planned frames, merge them by Eq. (1) to (3), augment, and batch.

Letters: B clips, T = 2 * half_len frames of a clip, H W image. Frames stay uint8 RGB throughout.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from bsp.clips.augment import AugmentSettings, augment_clip
from bsp.clips.catalog import Catalog
from bsp.clips.frame_cache import FrameCache
from bsp.clips.plan import ClipPlan
from bsp.errors import VideoOpenError
from bsp.video.read import READERS, fit_frames


def decode(
    catalog: Catalog, plan: ClipPlan, *, time_limit_s: float = 60.0, cache: FrameCache | None = None
) -> list[np.ndarray]:
    """The planned frames of each video, uint8 [frames, H, W, 3], one pass over each file.

    ``time_limit_s`` is per file; ``cache`` may hold videos that were read before. Raises the VideoErrors of
    ``video.read_frames``, and VideoOpenError for a file whose size differs from the catalog's: its frames would
    silently be other ones.
    """
    cache = cache or FrameCache(0)
    for video in plan.videos:
        _check_unchanged(catalog, video)
    return [
        cache.read(
            catalog.path(video),
            frames,
            first=int(catalog.first_frame[video]),
            frames=int(catalog.frames[video]),
            reader=READERS[catalog.readers[video]],
            time_limit_s=time_limit_s,
        )
        for video, frames in zip(plan.videos, plan.frames)
    ]


def _check_unchanged(catalog: Catalog, video: int) -> None:
    if catalog.sizes is None:
        return
    path = catalog.path(video)
    try:
        size = os.stat(path).st_size
    except OSError:  # the reader raises the error
        return
    if size != catalog.sizes[video]:
        raise VideoOpenError(
            path, f"{size} bytes, but {catalog.sizes[video]} when the catalog was built; start the command again"
        )


def synthesise(plan: ClipPlan, frames: Sequence[np.ndarray]) -> np.ndarray:
    """Eq. (1) to (3): each video's planned frames to one clip, uint8 [T, H, W, 3] of the first one's size.

    ``frames[v]`` is uint8 [len(plan.frames[v]), H_v, W_v, 3]. The second video is scaled to cover the first
    one's size and centre-cropped. Raises ValueError when the frames are not those of the plan.
    """
    found = [(len(clip), clip.dtype) for clip in frames]
    if found != [(len(planned), np.dtype(np.uint8)) for planned in plan.frames]:
        raise ValueError(
            f"clip {plan.index} needs {[len(planned) for planned in plan.frames]} uint8 frames; got {found}"
        )
    first = frames[0]
    if len(frames) == 1:  # Eq. (3) and same speed: given by the frame numbers
        return first
    # Choice: the first video decides the size, so that its frames are never resampled twice.
    second = fit_frames(frames[1], first.shape[1], first.shape[2])
    length = len(plan.weights)
    start, stop = length - len(second), len(first)  # the transition, where both videos have a frame
    clip = np.empty((length, *first.shape[1:]), np.uint8)
    clip[:start] = first[:start]
    clip[stop:] = second[stop - start :]
    if start < stop:
        weight = plan.weights[start:stop, None, None, None]
        blend = weight * first[start:] + (np.float32(1) - weight) * second[: stop - start]
        clip[start:stop] = blend + np.float32(0.5)  # the cast then rounds to nearest, halves up
    return clip


def render_clip(
    catalog: Catalog,
    plan: ClipPlan,
    augment_settings: AugmentSettings | None,
    *,
    time_limit_s: float = 60.0,
    cache: FrameCache | None = None,
) -> np.ndarray:
    """Decode, synthesise and augment (None: leave as it is) one planned clip; uint8 [T, H, W, 3]."""
    clip = synthesise(plan, decode(catalog, plan, time_limit_s=time_limit_s, cache=cache))
    if augment_settings is None:
        return clip
    return augment_clip(clip, augment_settings, plan.augment_seed)


def collate(plans: Sequence[ClipPlan], clips: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """A batch: "clip" uint8 [B, T, H, W, 3], "label" and "index" int64 [B], "change_point" float32 [B], "plain"
    bool [B] (the label is an action class, not a boundary type).

    A clip without a change has nan as its change point. Raises ValueError for clips of different shapes.
    """
    if len(plans) != len(clips) or not plans:
        raise ValueError(f"a batch needs plans and a clip for each; got {len(plans)} and {len(clips)}")
    shapes = {clip.shape for clip in clips}
    if len(shapes) > 1:
        raise ValueError(f"clips of a batch must have one shape, not {sorted(shapes)}; augment them to one")
    points = [np.nan if plan.change_point is None else plan.change_point for plan in plans]
    return {
        "clip": np.stack(clips),
        "label": np.array([plan.label for plan in plans], np.int64),
        "change_point": np.array(points, np.float32),
        "plain": np.array([plan.kind is None for plan in plans]),
        "index": np.array([plan.index for plan in plans], np.int64),
    }
