"""The videos of the throughput benchmark: the embedded videos, Kinetics-like files, and their prepared copies."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import bsp_platform  # noqa: F401  isort: skip (first: it sets the environment that Ray reads)
import ray

from bsp.clips.augment import AugmentSettings
from bsp.clips.catalog import Catalog
from bsp.clips.plan import ClipSettings
from bsp.datasets.kinetics import load_class_folders, load_kinetics_csv
from bsp.datasets.pantomime.render import render
from bsp.video.prepare import PrepareSettings
from bsp_platform.plan.profiles import mini, smoke
from bsp_platform.work.streaming import ClipStream
from throughput_videos import FRAMES, make_prepared

EMBEDDED = "embedded, videos kept decoded"
RAW = "340x256, GOP 250"
PREPARED = "prepared"
_BATCHES = 10**5  # of a stream; more than any measurement takes


@dataclass(frozen=True)
class Source:
    """A set of videos and the stream of clips made of them."""

    name: str
    catalog: Catalog
    stream: ClipStream


def make_sources(folder: Path, *, videos: int, frames: int = FRAMES) -> dict[str, Source]:
    """The three sources, their files below ``folder`` (kept for the next run); needs a running Ray.

    Raw and prepared files give the same plans: the same frames of the same videos, 112 px wide after augmentation.
    """
    profile = mini()
    world = smoke().pantomime
    assert world is not None
    data = render(world, folder / "pantomime", progress=False)
    embedded = load_kinetics_csv(data / "trimmed" / "train.csv", data / "trimmed" / "videos", progress=False)
    raw_folder, prepared_folder = folder / f"raw{videos}", folder / f"prepared{videos}"
    make_prepared(raw_folder, prepared_folder, videos, PrepareSettings(), frames=frames)
    raw = load_class_folders(raw_folder, progress=False)
    prepared = load_class_folders(prepared_folder, progress=False)
    small = ClipStream(
        catalog=ray.put(embedded),
        clips=profile.clips,
        augment=profile.augment,
        seed=0,
        batch_size=32,
        length=32 * _BATCHES,
        frame_cache_mb=384,
    )
    large = replace(
        small,
        catalog=ray.put(raw),
        clips=ClipSettings(),
        augment=AugmentSettings(size_px=112),
        batch_size=8,
        length=8 * _BATCHES,
        frame_cache_mb=0,
    )
    return {
        EMBEDDED: Source(EMBEDDED, embedded, small),
        RAW: Source(RAW, raw, large),
        PREPARED: Source(PREPARED, prepared, replace(large, catalog=ray.put(prepared))),
    }
