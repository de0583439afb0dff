"""The frozen encoder in a process that makes snippet features, on a CPU or a GPU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from bsp.clips.catalog import Catalog
from bsp.errors import VideoError
from bsp.features.record import FeatureInfo
from bsp.features.statistics import BATCH, SNIPPETS, random_snippets, reestimated
from bsp.features.store import encoder_hash, extract_features, write_features
from bsp_platform.plan.recipes import EncoderRecipe, FeatureRecipe
from bsp_platform.storage.errors import retry
from bsp_platform.storage.stages import StageStore, Stored
from bsp_platform.work.cluster.assigned_device import assigned_device
from bsp_platform.work.pretraining import load_encoder, save_encoder
from bsp_platform.work.streaming import ClipStream, make_clips


@dataclass(frozen=True, kw_only=True)
class ExtractionJob:
    """What an extraction actor needs."""

    recipe: FeatureRecipe
    weights: Path | Stored  # path of encoder.pt, as StageStore.pack_paths gives it
    folder: Path | Stored  # of the features, likewise
    gpus: float = 0.0  # that Ray gives the actor
    store: StageStore | None = None  # None: all nodes see weights and folder


class Extractor:
    """The actor: holds the frozen encoder; a call reads videos and writes their features."""

    def __init__(self, job: ExtractionJob):
        torch.set_num_threads(1)
        self.job = job
        torch.backends.cudnn.allow_tf32 = False  # in float32; of no effect in bfloat16
        self.device = assigned_device(job.gpus)
        architecture = job.recipe.encoder.encoder.for_snippets()
        weights, folder = job.weights, job.folder
        if job.store:
            weights, folder = job.store.download_paths(weights), job.store.local_path(folder)
        assert isinstance(weights, Path)
        assert isinstance(folder, Path)
        self.folder = folder
        encoder = retry(lambda: load_encoder(weights, EncoderRecipe(encoder=architecture)), weights)
        self.hash = encoder_hash(encoder, job.recipe.reading)
        self.encoder = encoder.to(self.device)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Rows of videos, as Ray Data hands them over -> numbers of snippets and errors."""
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
                precision=self.job.recipe.precision,
                reading=self.job.recipe.reading,
            )
        except VideoError as error:
            return 0, str(error)
        self.write(video_id, feat_SD, info)
        return len(feat_SD), ""

    def write(self, video_id: str, feat_SD: np.ndarray, info: FeatureInfo) -> None:
        """Write a video's features into the folder, and upload them where the storage is on S3."""
        retry(lambda: write_features(self.folder, video_id, feat_SD, info), self.folder / video_id)
        if self.job.store:
            for name in (f"{video_id}.npy", f"{video_id}.json"):  # the record last: it means complete
                self.job.store.files.upload(self.folder, [name])


def reestimate(
    folder: Path,
    recipe: FeatureRecipe,
    weights: Path,
    source: Sequence[str] | tuple[Catalog, ClipStream],
    *,
    device: str = "cpu",
) -> dict[str, str]:
    """Write the encoder with batch-norm statistics of the recipe's ``statistics`` into the folder of the features.

    ``source``: paths of the training videos for "target", the pre-training data and their stream for "plain". The
    encoder of a folder that is not complete is written again, with the same bytes.
    """
    torch.set_num_threads(1)
    architecture = recipe.encoder.encoder.for_snippets()
    encoder = retry(lambda: load_encoder(weights, EncoderRecipe(encoder=architecture)), weights)
    if isinstance(source, tuple):
        catalog, stream = source
        batches = plain_batches(catalog, stream)
    else:
        batches = random_snippets(
            source, size_px=recipe.size_px, snippet_frames=encoder.clip_frames, seed=recipe.statistics_seed,
            sampling=recipe.snippet_sampling,
        )  # fmt: skip
    save_encoder(reestimated(encoder, batches, device), recipe.encoder, folder)
    return {}


def plain_batches(catalog: Catalog, stream: ClipStream) -> list[np.ndarray]:
    """Clips of a stream, uint8 [B, T, H, W, 3], without those whose video cannot be read."""
    batches = []
    for first in range(0, SNIPPETS, BATCH):
        made = make_clips(catalog, stream, range(first, first + BATCH))
        good = made["error"] == ""
        batches += [made["clip"][good]] if good.any() else []
    return batches
