"""Ray Data actor pool: untrimmed videos in, snippet features out, one file per video.

Each video is one unit of work and appears in the stage's folder whole or not at all, so an interrupted
extraction continues with the videos that are missing. The forward passes of a video do not depend on what
else runs: the same features come out of one actor or fifty. With storage on S3 the actors may run on nodes that
share no folder: each fetches the weights, and uploads a video's features as soon as it has them.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bsp.datasets.activitynet import LocalizationDataset
from bsp.errors import TooManyBroken, VideoError
from bsp.features import (
    SNIPPET_FRAMES,
    encoder_hash,
    extract_features,
    pack_h5,
    read_feature_info,
    read_features,
    write_features,
)
from bsp.video import damage_line
from bsp_platform.cluster import Resources
from bsp_platform.manifests import FILES
from bsp_platform.pretraining import load_encoder
from bsp_platform.recipes import EncoderRecipe, FeatureRecipe
from bsp_platform.stages import StageStore
from bsp_platform.storage_errors import retry

log = logging.getLogger(__name__)
FEATURES_H5 = "features.h5"
MAX_BROKEN_SHARE = 0.05  # of the videos that exist; above it the extraction stops with the list
_VIDEOS_PER_TASK = 4


@dataclass(frozen=True, kw_only=True)
class ExtractionJob:
    """What an extraction actor needs."""

    recipe: FeatureRecipe
    weights: Any  # path of encoder.pt, or what ``store`` made of it for other nodes
    folder: Any  # where the features go, likewise
    use_gpu: bool
    store: StageStore | None = None  # None: all nodes see weights and folder


class Extractor:
    """The actor: holds the frozen encoder; a call reads videos and writes their features."""

    def __init__(self, job: ExtractionJob):
        torch.set_num_threads(1)
        self.job = job
        self.device = torch.device("cuda" if job.use_gpu else "cpu")
        # Snippets are 8 frames, whatever 2 * tau the encoder was trained on: the shift has no weights.
        architecture = replace(job.recipe.encoder.encoder, frames=SNIPPET_FRAMES)
        weights, self.folder = job.weights, job.folder
        if job.store:
            weights, self.folder = job.store.here(weights), job.store.place(self.folder)
        encoder = retry(lambda: load_encoder(weights, EncoderRecipe(encoder=architecture)), weights)
        self.hash = encoder_hash(encoder)
        self.encoder = encoder.to(self.device, memory_format=torch.channels_last)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        rows = [self.extract(str(v), str(p)) for v, p in zip(batch["video_id"], batch["path"], strict=True)]
        return {
            "video_id": batch["video_id"],
            "snippets": np.array([r[0] for r in rows]),
            "error": np.array([r[1] for r in rows], np.str_),
        }

    def extract(self, video_id: str, path: str) -> tuple[int, str]:
        """Features of one video, written to the folder. Returns its number of snippets and "" or an error."""
        try:
            feat_SD, info = extract_features(
                self.encoder,
                path,
                video_id=video_id,
                size_px=self.job.recipe.size_px,
                device=self.device,
                weights_hash=self.hash,
            )
        except VideoError as error:
            return 0, str(error)
        retry(lambda: write_features(self.folder, video_id, feat_SD, info), self.folder / video_id)
        if self.job.store:
            for name in (f"{video_id}.npy", f"{video_id}.json"):  # the record last: it means complete
                self.job.store.keep(self.folder, [name])
        return len(feat_SD), ""


def is_whole(folder: Path, video_id: str) -> bool:
    """Whether a video's features are there with the content that their record states; damage is named in the log."""
    try:
        retry(lambda: read_features(folder, video_id), folder / video_id)
    except FileNotFoundError:
        return False
    except ValueError as error:
        log.warning("%s; this video is extracted again", error)
        return False
    return True


def once_more(extract: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """``extract``, called again if a helper of Ray Data could not start: rare, and over the next time."""

    @functools.wraps(extract)
    def tried(*arguments: Any, **keywords: Any) -> dict[str, Any]:
        from ray.exceptions import ActorUnschedulableError

        try:
            return extract(*arguments, **keywords)
        except ActorUnschedulableError as error:
            log.warning("Ray Data stopped (%s); the extraction goes on with what is missing", error)
            return extract(*arguments, **keywords)

    return tried


@once_more
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

    ``store`` is needed where that folder lies on S3. Features that are there whole are not made again.
    Raises TooManyBroken, with the list, when more than MAX_BROKEN_SHARE of the videos cannot be read.
    """
    import ray
    from ray.data import ActorPoolStrategy

    from bsp_platform.data_context import data_context

    began = time.time()
    present = [video for video in data.videos if video.path is not None]
    if store:
        store.fetch_half_done(folder)
    whole = {v.video_id for v in present if is_whole(folder, v.video_id)}
    todo = [v for v in present if v.video_id not in whole]
    done, broken, snippets = len(present) - len(todo), [], 0
    if todo:
        rows = [{"video_id": v.video_id, "path": v.path} for v in todo]
        use_gpu = resources.gpus_per_extractor > 0
        places = (store.elsewhere(weights), store.elsewhere(folder)) if store else (weights, folder)
        job = ExtractionJob(recipe=recipe, weights=places[0], folder=places[1], use_gpu=use_gpu, store=store)
        with data_context():
            made = ray.data.from_items(rows, override_num_blocks=-(-len(rows) // _VIDEOS_PER_TASK)).map_batches(
                Extractor,
                fn_constructor_args=(job,),
                batch_size=None,
                batch_format="numpy",
                compute=ActorPoolStrategy(size=resources.extractors),
                num_cpus=resources.cpus_per_extractor,
                num_gpus=resources.gpus_per_extractor,
            )
        for row in made.iter_rows():
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
        store.fetch_half_done(folder)  # what other nodes made
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
