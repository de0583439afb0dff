"""Untrimmed videos in, snippet features out, one file per video: a Ray Data actor pool on CPUs.

The features of a video are written completely or not at all, so an interrupted extraction continues with the
missing videos. They do not depend on the number of actors. With storage on S3 the actors may run on nodes that
share no folder: each downloads the weights, and uploads a video's features when they are made. On GPUs
work/gpu_extraction.py is used instead of the pool.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bsp.datasets.activitynet import LocalizationDataset
from bsp.errors import TooManyBroken
from bsp.features.store import pack_h5, read_feature_info, read_features
from bsp.video.read import damage_line
from bsp_platform.plan.recipes import FeatureRecipe
from bsp_platform.plan.resources import Resources
from bsp_platform.storage.errors import retry
from bsp_platform.storage.manifests import FILES
from bsp_platform.storage.stages import StageStore
from bsp_platform.work.extractor import ExtractionJob, Extractor
from bsp_platform.work.gpu_extraction import extract_on_gpus

log = logging.getLogger(__name__)
FEATURES_H5 = "features.h5"
MAX_BROKEN_SHARE = 0.05  # of the videos that exist; above it the extraction stops with the list
_VIDEOS_PER_TASK = 4


def is_extracted(folder: Path, video_id: str, expect: dict[str, Any] | None = None) -> bool:
    """Whether a video's features exist with the content that their record states, and these values in that; damage
    is named in the log."""
    try:
        retry(lambda: read_features(folder, video_id, expect), folder / video_id)
    except FileNotFoundError:
        return False
    except ValueError as error:
        log.warning("%s; this video is extracted again", error)
        return False
    return True


def retry_unschedulable(extract: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """``extract``, called a second time if Ray Data could not start an actor, which is rare."""

    @functools.wraps(extract)
    def tried(*arguments: Any, **keywords: Any) -> dict[str, Any]:
        from ray.exceptions import ActorUnschedulableError

        try:
            return extract(*arguments, **keywords)
        except ActorUnschedulableError as error:
            log.warning("Ray Data stopped (%s); the extraction goes on with what is missing", error)
            return extract(*arguments, **keywords)

    return tried


@retry_unschedulable
def extract_dataset(
    folder: Path,
    recipe: FeatureRecipe,
    weights: Path,
    data: LocalizationDataset,
    resources: Resources,
    report: Callable[[dict[str, Any]], None],
    *,
    store: StageStore | None = None,
) -> dict[str, Any]:
    """Features of all videos that have a file, into the stage folder; returns facts for the manifest.

    ``store`` is needed where that folder lies on S3. Complete features are not made again.
    Raises TooManyBroken, with the list, when more than MAX_BROKEN_SHARE of the videos cannot be read.
    """
    began = time.time()
    present = [video for video in data.videos if video.path is not None]
    if store:
        store.files.download_unfinished(folder)
    whole = {v.video_id for v in present if is_extracted(folder, v.video_id)}
    todo = [v for v in present if v.video_id not in whole]
    done, broken, snippets = len(present) - len(todo), [], 0
    if todo:
        places = (store.pack_paths(weights), store.pack_paths(folder)) if store else (weights, folder)
        gpus = resources.gpus_per_extractor
        job = ExtractionJob(recipe=recipe, weights=places[0], folder=places[1], gpus=gpus, store=store)
        for row in (extract_on_gpus if gpus else extract_on_cpus)(job, todo, resources):
            done += 1
            snippets += int(row["snippets"])
            if row["error"]:
                broken.append(f"{row['video_id']}: {row['error']}")
            else:
                whole.add(str(row["video_id"]))
            if len(broken) > MAX_BROKEN_SHARE * len(present):
                raise TooManyBroken(
                    f"{len(broken)} of {len(present)} untrimmed videos cannot be read, more than "
                    f"{MAX_BROKEN_SHARE:.0%}; repair or remove them:\n  " + "\n  ".join(broken[:20])
                )
            report({"at": done, "total": len(present), "rate": done / (time.time() - began)})
    if store:
        store.files.download_unfinished(folder)  # features from other nodes
    complete = [v.video_id for v in present if v.video_id in whole]
    retry(lambda: pack_h5(folder, complete, folder / FEATURES_H5), folder / FEATURES_H5)  # checks every hash
    records = [read_feature_info(folder, video_id) for video_id in complete]
    damaged = {record.video_id: record.damaged_frames for record in records if record.damaged_frames}
    if damaged:
        log.warning("%s", damage_line(damaged, sum(record.frames for record in records)))
    files = [f"{video_id}.{ending}" for video_id in complete for ending in ("npy", "json")]
    return {
        FILES: files,
        "videos": len(complete),
        "broken": broken,
        "missing": list(data.missing),
        "snippets": snippets,
        "damaged_frames": damaged,
    }


def extract_on_cpus(job: ExtractionJob, videos: list, resources: Resources) -> Iterator[dict[str, Any]]:
    """One row per video as it is finished: "video_id", "snippets", and "error" or ""."""
    import ray
    from ray.data import ActorPoolStrategy

    from bsp_platform.work.cluster.ray_internals import data_context

    rows = [{"video_id": video.video_id, "path": video.path} for video in videos]
    with data_context():
        made = ray.data.from_items(rows, override_num_blocks=-(-len(rows) // _VIDEOS_PER_TASK)).map_batches(
            Extractor,
            fn_constructor_args=(job,),
            batch_size=None,
            batch_format="numpy",
            compute=ActorPoolStrategy(size=resources.extractors),
            num_cpus=resources.cpus_per_extractor,
        )
    yield from made.iter_rows()
