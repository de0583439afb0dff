"""A score of an encoder during its training: a linear probe for boundaries on a few untrimmed videos.

The driver decodes the videos once and puts them into the object store. At chosen steps rank 0 of a training run
copies the weights into a second encoder, so modes, batch-norm statistics and random state of the training do not
change. For encoders from the store the same score is computed from finished features.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bsp.datasets.activitynet import LocalizationDataset
from bsp.encoders.build import build_encoder
from bsp.encoders.contract import Encoder
from bsp.errors import VideoError
from bsp.features.probe import ProbeVideo, half_targets, load_probe_video, probe_score, snippet_features
from bsp_platform.plan.recipes import EncoderRecipe
from bsp_platform.work.listed_features import has_features, read_listed

PROBE = "probe_ap"  # boundary average precision, percent
RUNG = "probe_rung"  # at which of the chosen steps, from 0
WORKERS = "placement_group"  # of the training workers, reported with the probe


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
