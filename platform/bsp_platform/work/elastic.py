"""The number of processes of a training, and the failures that it survives.

A recipe's V virtual workers (bsp/pretraining/workers.py) may run on any number of processes that divides V. Training
starts on as many as the cluster has room for, continues with fewer after the loss of a node, and with more when there
is room again; each time Ray Train restarts the processes from the last checkpoint. Lost processes, lost nodes and
errors of the program have budgets of their own.
"""

from __future__ import annotations

import errno
import math
import socket
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError
from ray.train import FailureConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2.api.exceptions import TrainingFailedError, WorkerGroupError
from torch.distributed import DistError
from typing_extensions import override

from bsp_platform.plan.device import process_group_backend
from bsp_platform.plan.resources import Resources
from bsp_platform.work.cluster.local_torch import LocalTorchConfig
from bsp_platform.work.cluster.loopback import is_loopback_only
from bsp_platform.work.cluster.ray_internals import (
    DefaultFailurePolicy,
    ElasticScalingPolicy,
    FailureDecision,
    NoopDecision,
    OwnPolicies,
    RayTrainError,
    ScalingDecision,
    need_private,
)

FAILURES = 3  # lost processes and errors of the network or storage that a run survives; Ray's default is none
LOST_NODES = 100  # nodes that a run survives losing: on spot machines days of training see many
_LOOK_AGAIN_S = 60.0  # between looks for room for more processes
_ANSWER_S = 2.0  # that a node may take to accept a connection
_PAUSE_S = 0.2  # between looks for room for any


def sizes_of(virtual: int, most: int) -> list[int]:
    """Numbers of processes that V virtual workers can run on, at most ``most``, ascending."""
    return [size for size in range(1, min(virtual, most) + 1) if virtual % size == 0]


def fitting_size(sizes: Iterable[int], nodes: Iterable[dict[str, float]], resources: Resources) -> int:
    """The largest of ``sizes`` whose processes fit on ``nodes`` (their resources by name); 0 if none does.

    A process stays on one node; its clip makers may be on any.
    """
    nodes = list(nodes)
    cpus = sum(node.get("CPU", 0.0) for node in nodes)
    room = _times(cpus, resources.cpus_per_worker + resources.makers_per_worker * resources.cpus_per_maker)
    needs = worker_resources(resources)
    places = sum(min(_times(node.get(name, 0.0), amount) for name, amount in needs.items()) for node in nodes)
    return max((size for size in sizes if size <= min(room, places)), default=0)


def worker_resources(resources: Resources) -> dict[str, float]:
    """What Ray reserves for one training process."""
    needs = {"CPU": resources.cpus_per_worker, "GPU": resources.gpus_per_worker}
    return {name: amount for name, amount in needs.items() if amount}


def _times(have: float, need: float) -> int:
    return math.floor(have / need + 1e-6)  # two of 0.7 fit into 1.4 in spite of rounding


def gone_nodes() -> set[str]:
    """Ids of the cluster's nodes, past and present, that do not answer."""
    return {node["NodeID"] for node in ray.nodes() if not is_reachable(node)}


need_private(ElasticScalingPolicy, "_count_possible_workers")


class FittingSize(ElasticScalingPolicy):
    """Ray Train's elastic policy with two differences: only sizes that divide V, and clip makers count too."""

    def __init__(self, scaling: ScalingConfig, sizes: list[int], resources: Resources):
        super().__init__(scaling)
        self.sizes, self.resources = sizes, resources
        self.wait_until: float | None = None  # set when there is room for a first process

    def _count_possible_workers(self, reserved_resources: dict[str, dict[str, float]]) -> int:
        # The reservations are renewed every 20 s only; a node that died since has no room.
        alive = {node["NodeID"]: node["Resources"] for node in ray.nodes() if is_reachable(node)}
        reserved = {node: amounts for node, amounts in reserved_resources.items() if node in alive}
        places = fitting_size(self.sizes, reserved.values(), replace(self.resources, cpus_per_maker=0.0))
        return fitting_size([size for size in self.sizes if size <= places], alive.values(), self.resources)

    @override
    def make_decision_for_non_running_worker_group(self) -> ScalingDecision:
        decision = super().make_decision_for_non_running_worker_group()
        if not isinstance(decision, NoopDecision):
            now = time.monotonic()
            self.wait_until = self.wait_until or now + self.resources.wait_for_workers_s
            if decision.num_workers < self.sizes[-1] and now < self.wait_until:
                decision = NoopDecision()
        if isinstance(decision, NoopDecision):
            time.sleep(_PAUSE_S)  # the controller asks again at once
        return decision

    @override
    def make_decision_for_running_worker_group(self, worker_group_state, worker_group_status) -> ScalingDecision:
        decision = super().make_decision_for_running_worker_group(worker_group_state, worker_group_status)
        # Running processes are never stopped for a smaller number.
        if not isinstance(decision, NoopDecision) and decision.num_workers <= worker_group_state.num_workers:
            return NoopDecision()
        return decision


def is_reachable(node: dict[str, Any]) -> bool:
    """Whether a node of ``ray.nodes()`` accepts connections: Ray takes up to 15 s to notice that one is lost."""
    if not node["Alive"]:
        return False
    try:
        socket.create_connection((node["NodeManagerAddress"], node["NodeManagerPort"]), timeout=_ANSWER_S).close()
    except OSError:
        return False
    return True


class Budgets(DefaultFailurePolicy):
    """Retries after losses, not after errors of the program; lost nodes do not use up the budget of lost processes."""

    def __init__(self, config: FailureConfig, gone: Callable[[], set[str]] = gone_nodes):
        super().__init__(config)
        self.gone = gone
        self.known, self.lost_nodes = gone(), 0

    @override
    def make_decision(self, training_failed_error: TrainingFailedError) -> FailureDecision:
        if isinstance(training_failed_error, WorkerGroupError):
            failures = list(training_failed_error.worker_failures.values())
            if not any(is_transient(failure) for failure in failures):
                return FailureDecision.RAISE
            # The error of a process whose node died is at first only "unavailable".
            before, self.known = self.known, self.gone()
            if self.known - before:
                self.lost_nodes += 1
                return FailureDecision.RETRY if self.lost_nodes <= LOST_NODES else FailureDecision.RAISE
        return super().make_decision(training_failed_error)


def is_transient(error: BaseException) -> bool:
    """Whether a worker may succeed when it is started again: after a lost process or peer, errors of storage or GPU.

    Anything else is an error of the program, which would recur.
    """
    if isinstance(error, RayTaskError):  # an error that a clip maker raised
        return isinstance(error.cause, Exception) and is_transient(error.cause)
    if isinstance(error, OSError):
        return error.errno not in (errno.ENOSPC, errno.EDQUOT)
    lost_peer = isinstance(error, RuntimeError) and any(word in str(error) for word in ("gloo", "NCCL", "CUDA error"))
    return isinstance(error, (RayError, RayTrainError, DistError)) or lost_peer


class ElasticTrainer(OwnPolicies, TorchTrainer):
    """Ray Train's trainer with the two policies above."""

    def __init__(self, *args, virtual: int, resources: Resources, **kwargs):
        self.sizes, self.resources = sizes_of(virtual, resources.train_workers), resources
        most = self.sizes[-1]
        scaling: Any = ScalingConfig(  # Ray Train's second version, of which its types do not know
            num_workers=(self.sizes[0], most) if most > 1 else 1,  # type: ignore[arg-type]
            use_gpu=resources.gpus_per_worker > 0,
            resources_per_worker=worker_resources(resources),
            elastic_resize_monitor_interval_s=_LOOK_AGAIN_S,  # type: ignore[call-arg]
        )
        backend = (LocalTorchConfig if is_loopback_only() else TorchConfig)(backend=process_group_backend())
        super().__init__(*args, scaling_config=scaling, torch_config=backend, **kwargs)

    @override
    def policies(self) -> dict[str, Any]:
        scaling: Any = self.scaling_config
        policies: dict[str, Any] = {"failure_policy": Budgets(self.run_config.failure_config or FailureConfig())}
        if scaling.elasticity_enabled:
            policies["scaling_policy"] = FittingSize(scaling, self.sizes, self.resources)
        return policies
