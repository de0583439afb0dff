"""The heads by name. A new one needs a file like those imported here, and a line."""

from __future__ import annotations

from typing import Any

from bsp.datasets.activitynet import LocalizationDataset
from bsp.datasets.charades_sta import GroundingDataset
from bsp.datasets.crosstask import CrossTaskDataset
from bsp.datasets.gebd import GEBDDataset
from bsp.localization.actionness import ActionnessSettings
from bsp.localization.boundaries import BoundaryHeadSettings, PeakSettings
from bsp.localization.grounding.lgi import LGISettings
from bsp.localization.grounding.tan2d import TAN2DSettings
from bsp.localization.gtad.network import GTADSettings
from bsp.localization.gtad.windows import WindowSettings
from bsp.tasks.boundaries import (
    apply_boundaries,
    boundary_scores_per_video,
    keep_boundaries,
    score_boundaries,
    train_boundaries,
)
from bsp.tasks.detection import apply_detector, detector_per_video, keep_detector, score_detector, train_detector
from bsp.tasks.grounding import grounder_per_video, score_grounder, train_grounder
from bsp.tasks.grounding_kept import apply_grounder, keep_grounder
from bsp.tasks.head import Head
from bsp.tasks.steps import apply_steps, keep_steps, score_steps, steps_per_video, train_steps
from bsp.tasks.windows import (
    apply_window_detector,
    keep_window_detector,
    score_window_detector,
    train_window_detector,
    window_detector_per_video,
)

HEADS: dict[str, Head[Any, Any, Any]] = {
    "gtad": Head(
        title="G-TAD", data=LocalizationDataset, settings=GTADSettings, train=train_detector, score=score_detector,
        keep=keep_detector, apply=apply_detector, per_video=detector_per_video, needs_class_scores=True,
    ),
    "gtad-windows": Head(
        title="G-TAD windows", data=LocalizationDataset, settings=WindowSettings, train=train_window_detector,
        score=score_window_detector, keep=keep_window_detector, apply=apply_window_detector,
        per_video=window_detector_per_video, needs_class_scores=True,
    ),
    "2dtan": Head(
        title="2D-TAN", data=GroundingDataset, settings=TAN2DSettings, train=train_grounder, score=score_grounder,
        keep=keep_grounder, apply=apply_grounder, per_video=grounder_per_video, needs_sentences=True,
    ),
    "lgi": Head(
        title="LGI", data=GroundingDataset, settings=LGISettings, train=train_grounder, score=score_grounder,
        keep=keep_grounder, apply=apply_grounder, per_video=grounder_per_video, needs_sentences=True,
    ),
    "actionness": Head(
        title="actionness", data=CrossTaskDataset, settings=ActionnessSettings, train=train_steps,
        score=score_steps, keep=keep_steps, apply=apply_steps, per_video=steps_per_video,
    ),
    "boundary-peaks": Head(
        title="boundary peaks", data=GEBDDataset, settings=PeakSettings, train=train_boundaries,
        score=score_boundaries, keep=keep_boundaries, apply=apply_boundaries, per_video=boundary_scores_per_video,
    ),
    "boundary-head": Head(
        title="boundary head", data=GEBDDataset, settings=BoundaryHeadSettings, train=train_boundaries,
        score=score_boundaries, keep=keep_boundaries, apply=apply_boundaries, per_video=boundary_scores_per_video,
    ),
}  # fmt: skip
