"""Scores of an encoder during its training: a linear probe for boundaries on a few untrimmed videos, and at the end
what it has learnt of its pretext, on trimmed videos that it was not trained on.

The driver decodes the videos once and puts them into the object store. At chosen steps rank 0 of a training run
copies the weights into a second encoder, so modes, batch-norm statistics and random state of the training do not
change. For encoders from the store the same score is computed from finished features.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bsp.clips.catalog import Catalog
from bsp.datasets.activitynet import LocalizationDataset
from bsp.datasets.kinetics import load_kinetics_csv
from bsp.encoders.build import build_encoder
from bsp.encoders.contract import Encoder
from bsp.errors import VideoError
from bsp.features.probe import ProbeVideo, half_targets, load_probe_video, probe_score, snippet_features
from bsp.pretraining.contract import Loss, PretrainingModel
from bsp.pretraining.held_out import chance_levels, score_clips
from bsp.pretraining.still import StillPictures
from bsp_platform.plan.recipes import EncoderRecipe
from bsp_platform.work.listed_features import has_features, read_listed
from bsp_platform.work.streaming import clip_stream, make_clips

PROBE = "probe_ap"  # boundary average precision, percent
RUNG = "probe_rung"  # at which of the chosen steps, from 0
WORKERS = "placement_group"  # of the training workers, reported with the probe
HELD_OUT = "held_out_"  # before the names of scores on videos that are not trained on
_PER_VIDEO = 4  # Choice: frames of one video say much the same
_BATCH = 64
CHANCE, MARGIN = "_chance", "_margin"  # after their names: bsp.pretraining.held_out.Level
CHUNK = 48  # clips: whole blocks of up to 4 kinds with as many plain clips
_MOST_CLIPS = 960  # Choice: on these an accuracy of two labels 0.05 above chance is no accident


@dataclass(frozen=True, kw_only=True)
class ProbeSettings:
    """Which videos the probe reads."""

    videos: int = 60  # of the training subset, half of them held out; at least 4
    # Choice: mini's videos whole; at 224 px 60 stretches of 40 snippets are 2.9 GB of object store.
    max_snippets: int = 40  # per video, at least 2

    def __post_init__(self) -> None:
        if self.videos < 4 or self.max_snippets < 2:
            raise ValueError(f"a probe needs 4 videos of 2 snippets, not {self.videos} of {self.max_snippets}")


@dataclass(frozen=True, kw_only=True)
class BoundaryProbe:
    """Called by rank 0 after a step: ``probe(encoder, step)`` returns metrics at the chosen steps, else {}."""

    videos: Any  # ObjectRef of list[ProbeVideo]
    recipe: EncoderRecipe
    at_steps: tuple[int, ...]

    def __call__(self, encoder: Encoder, step: int) -> dict[str, Any]:
        """Metrics of the encoder at this step; none at the steps between."""
        if step not in self.at_steps:
            return {}
        import ray
        from ray.util import get_current_placement_group

        score = score_encoder(encoder, self.recipe, ray.get(self.videos))
        group = get_current_placement_group()
        workers = group.id.hex() if group else ""
        return {PROBE: score, RUNG: self.at_steps.index(step), "probe_step": step, WORKERS: workers}


def release_workers(group: str) -> None:
    """Remove the placement group of the training workers of a stopped trial.

    Ray Train's own cleanup asks Ray's dashboard, and fails where several Ray clusters run on a machine.
    """
    from ray import PlacementGroupID
    from ray.util.placement_group import PlacementGroup, remove_placement_group

    if group:
        remove_placement_group(PlacementGroup(PlacementGroupID(bytes.fromhex(group))))


def load_probe_videos(
    data: LocalizationDataset, size_px: int, snippet_frames: int, settings: ProbeSettings, *, threads: int = 2
) -> list[ProbeVideo]:
    """Decode the first ``settings.videos`` readable videos of the training subset, in the annotations' order.

    Choice: training videos only, so that the probe sees none of the videos that the mAP is computed on.
    Raises ValueError if there are fewer than 4, or none with a boundary among those to fit on or those held out.
    """
    candidates = [v for v in data.videos if v.subset == "training" and v.path is not None and v.instances]

    def load(video) -> ProbeVideo | None:
        try:
            return load_probe_video(video, size_px, settings.max_snippets, snippet_frames)
        except VideoError:
            return None  # extraction reports broken videos; the probe uses the next one

    found: list[ProbeVideo] = []
    with ThreadPoolExecutor(threads) as pool:
        for first in range(0, len(candidates), settings.videos):
            batch = candidates[first : first + settings.videos]
            found += [video for video in pool.map(load, batch) if video is not None]
            if len(found) >= settings.videos:
                break
    if len(found) < 4:
        raise ValueError(f"the probe needs 4 readable training videos with instances; there are {len(found)}")
    found = found[: settings.videos]
    half_targets([video.boundary_S for video in found])  # refuse before anything is trained
    return found


def score_encoder(encoder: Encoder, recipe: EncoderRecipe, videos: Sequence[ProbeVideo]) -> float:
    """Boundary average precision (percent) of an encoder with its current weights, which do not change."""
    device = next(encoder.parameters()).device
    frozen = build_encoder(recipe.encoder.for_snippets(), recipe.seed)
    frozen.load_state_dict(encoder.state_dict())
    frozen = frozen.to(device).eval()
    features = [snippet_features(frozen, video.frames_STHWC, device) for video in videos]
    return probe_score(features, [video.boundary_S for video in videos])


def score_features(folder: Path, videos: Sequence[ProbeVideo]) -> float:
    """The same score from a complete feature set. ValueError if one of the videos has no features in it."""
    features = []
    for video in videos:
        if not has_features(folder, video.video_id):
            raise ValueError(f"the probe's videos must have features; {video.video_id} has none in {folder}")
        feat_SD, _ = read_listed(folder, video.video_id)
        features.append(feat_SD[video.first : video.first + len(video.boundary_S)])
    return probe_score(features, [video.boundary_S for video in videos])


def is_scored(recipe: EncoderRecipe) -> bool:
    """Whether the pretext of this encoder is scored on videos that are kept out."""
    return recipe.pretext is not None


def load_validation(folder: Path, class_names: Sequence[str], *, cache_dir: Path | None = None) -> Catalog:
    """The trimmed videos in ``folder/val.csv``, classes numbered as in training. AnnotationError without any."""
    return load_kinetics_csv(
        folder / "val.csv", folder / "videos", class_names=class_names, cache_dir=cache_dir, progress=False
    )


def held_out_score(validation: Any, recipe: EncoderRecipe) -> HeldOutAtEnd | None:
    """What train_encoder takes as ``held_out``. ``validation``: a reference to a Catalog, None without one."""
    return HeldOutAtEnd(validation, recipe) if validation is not None and is_scored(recipe) else None


@dataclass(frozen=True)
class HeldOutAtEnd:
    """Called by rank 0 at a record: scores the pretext after the last step."""

    validation: Any  # ObjectRef of a Catalog
    recipe: EncoderRecipe

    def __call__(self, model: PretrainingModel, loss: Loss, step: int, device: torch.device) -> dict[str, float]:
        """Numbers with the prefix ``HELD_OUT``; none before the last step, or if the videos have no clips of a kind.

        Of accuracies and errors also what they are by chance and by how much that may vary.
        """
        if step < self.recipe.training.train.steps:
            return {}
        import ray

        pretext, clips, _, _ = self.recipe.training
        catalog = ray.get(self.validation)
        try:
            for index in range(CHUNK):
                pretext.plan(catalog, clips, self.recipe.seed, index)
        except ValueError:  # same-class clips need two videos of a class
            return {}
        return pretext_scores(model, loss, held_out_batches(self.recipe, catalog), device)


def score_held_out(
    model: PretrainingModel,
    loss: Loss,
    recipe: EncoderRecipe,
    catalog: Catalog,
    device: torch.device,
    clips: int | None = None,
) -> dict[str, float]:
    """Loss and statistics on the first ``clips`` (None: ``_PER_VIDEO`` for each video) of a numbered stream."""
    return score_clips(model, loss, held_out_batches(recipe, catalog, clips), device)


def held_out_batches(
    recipe: EncoderRecipe, catalog: Catalog, clips: int | None = None
) -> Iterator[dict[str, np.ndarray]]:
    """Clips of a numbered stream of these videos; None: of still pictures ``_PER_VIDEO`` for each, else a 25th of the
    clips trained on, in whole blocks."""
    pretext, _, _, train = recipe.training
    stream = clip_stream(recipe, None)
    usual = max(CHUNK, min(_MOST_CLIPS, train.clips // 25 // CHUNK * CHUNK))
    count = clips or (_PER_VIDEO * len(catalog) if isinstance(pretext, StillPictures) else usual)
    for first in range(0, count, _BATCH):
        yield make_clips(catalog, stream, range(first, min(first + _BATCH, count)))


def pretext_scores(
    model: PretrainingModel, loss: Loss, batches: Iterator[dict[str, np.ndarray]], device: torch.device
) -> dict[str, float]:
    """Numbers of :class:`HeldOutAtEnd` on these clips; each batch is held only while it is scored."""
    targets: list[dict[str, np.ndarray]] = []

    def kept() -> Iterator[dict[str, np.ndarray]]:
        for batch in batches:
            good = batch["error"] == ""
            targets.append({name: batch[name][good] for name in ("label", "change_point", "plain")})
            yield batch

    scores = {name: value for name, value in score_clips(model, loss, kept(), device).items() if math.isfinite(value)}
    numbers = {HELD_OUT + name: value for name, value in scores.items()}
    for name, level in chance_levels(scores, targets).items():
        numbers |= {HELD_OUT + name + CHANCE: float(level.value), HELD_OUT + name + MARGIN: float(level.margin)}
    return numbers
