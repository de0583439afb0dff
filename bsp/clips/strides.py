"""Plans of clips that show one video at one of several strides, so that nothing but the speed tells them apart.

Letters: T frames of a clip.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bsp.clips.catalog import Catalog
from bsp.clips.plan import ClipPlan, ClipSettings


def frames_needed(clips: ClipSettings, strides: Sequence[int]) -> int:
    """Frames that a video must have for a clip at the largest of ``strides`` (times ``clips.stride_frames``)."""
    return (2 * clips.half_len - 1) * max(strides) * clips.stride_frames + 1


def plan_at_stride(
    catalog: Catalog, clips: ClipSettings, strides: Sequence[int], *, label: int, seed: int, index: int, moment: int
) -> ClipPlan:
    """Clip ``index``: every ``strides[label]``-th frame of a video (times ``clips.stride_frames``). Pure.

    Video and place are drawn for ``(seed, moment)``, the augmentation for ``(seed, index)``. The place is a stretch
    inside the video that fits the largest stride; a clip at a smaller one lies in its middle. Raises ValueError if all
    videos are shorter than that.
    """
    needed = frames_needed(clips, strides)
    # Choice: shorter videos are left out at every stride. Repeating frames, or taking only long videos for large
    # strides, would give the stride away; reducing it would make the label wrong.
    long_enough = np.flatnonzero(catalog.frames >= needed)
    if not len(long_enough):
        raise ValueError(
            f"clips at strides {', '.join(map(str, strides))} need videos of {needed} frames, but the longest of the "
            f"{len(catalog)} has {int(catalog.frames.max())}"
        )
    generator = np.random.Generator(np.random.Philox(key=np.array((seed, moment), np.uint64)))
    video = int(long_enough[generator.integers(len(long_enough))])
    start = int(generator.integers(int(catalog.frames[video]) - needed + 1))
    # Choice: in the middle of the stretch, so that fast and slow clips are from the same parts of videos.
    steps = np.arange(2 * clips.half_len, dtype=np.int64) * strides[label] * clips.stride_frames
    start += (needed - 1 - int(steps[-1])) // 2
    # The counter's top word separates this stream from that of the moments.
    augment = np.random.Generator(np.random.Philox(key=np.array((seed, index), np.uint64), counter=(0, 0, 0, 2)))
    return ClipPlan(
        index=index,
        kind=None,
        label=label,
        videos=(video,),
        frames=(int(catalog.first_frame[video]) + start + steps,),
        weights=np.ones(2 * clips.half_len, np.float32),
        change_point=None,
        augment_seed=int(augment.integers(2**63)),
    )
