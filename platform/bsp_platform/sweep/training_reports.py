"""What a training tells the trial of Ray Tune that it belongs to: what it waits for, its records, its reservation.

Ray Train's controller runs in the trial's process (cluster/ray_internals.py), so these callbacks report directly.
"""

from __future__ import annotations

from typing import Any

from ray import tune
from ray.train import UserCallback

from bsp_platform.sweep.live import DOING
from bsp_platform.work.cluster.ray_internals import WorkerGroupCallback
from bsp_platform.work.probe import WORKERS


class Records(UserCallback):
    """Passes on what the first training process reports."""

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
        """A record, a checkpoint or both."""
        tune.report(dict(metrics[0]))


class Beginnings(WorkerGroupCallback):
    """Says what the training waits for before its first step, and which placement group holds its processes."""

    def __init__(self, stage: str):
        self.stage = stage

    def before_worker_group_start(self, context: Any) -> None:
        """The processes are being started."""
        tune.report({"stage": self.stage, DOING: "starting the training process"})

    def after_worker_group_start(self, group: Any) -> None:
        """The processes are there; they build the network and ask for clips."""
        place = group.get_worker_group_state().placement_group_handle.placement_group
        tune.report({"stage": self.stage, DOING: "first clips", WORKERS: place.id.hex()})
