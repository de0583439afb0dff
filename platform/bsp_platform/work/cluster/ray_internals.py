"""All private parts of Ray that this project uses, tried on Ray 2.60.0; another version may move them.

A name is imported from Ray when it is imported from here, as parts of Ray load slowly; a missing one is a
:class:`RayMoved`. Private names that we override or set are checked for existence, because Ray would otherwise
ignore them silently.
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray.data import DataContext

TRIED_ON = "2.60.0"
_DATA = "ray.data._internal.execution"
_TRAIN = "ray.train.v2._internal"
# Name: the module of Ray that holds it.
_PARTS = {
    # Ray Data's scheduling (work/streaming.py)
    "ENABLED_BACKPRESSURE_POLICIES_CONFIG_KEY": f"{_DATA}.backpressure_policy",
    "BackpressurePolicy": f"{_DATA}.backpressure_policy.backpressure_policy",
    "ExecutionCallback": f"{_DATA}.execution_callback",
    # Ray Train's sizes and failures (work/elastic.py)
    "DefaultFailurePolicy": f"{_TRAIN}.execution.failure_handling.default",
    "ElasticScalingPolicy": f"{_TRAIN}.execution.scaling_policy",
    "FailureDecision": f"{_TRAIN}.execution.failure_handling",
    "NoopDecision": f"{_TRAIN}.execution.scaling_policy",
    "RayTrainError": f"{_TRAIN}.exceptions",
    "ScalingDecision": f"{_TRAIN}.execution.scaling_policy",
    "WorkerHealthCheckFailedError": f"{_TRAIN}.exceptions",
    # Ray Train's controller (below, and sweep/training_reports.py)
    "PlacementGroupCleanerCallback": f"{_TRAIN}.callbacks.placement_group_callback",
    "TrainController": f"{_TRAIN}.execution.controller",
    "WorkerGroup": f"{_TRAIN}.execution.worker_group",
    "WorkerGroupCallback": f"{_TRAIN}.execution.callback",
    # Ray Train's process group (cluster/local_torch.py)
    "_TorchBackend": "ray.train.torch.config",
    "_set_torch_distributed_env_vars": "ray.train.torch.config",
    "_setup_torch_process_group": "ray.train.torch.config",
    # Ray's nodes (cluster/start.py, cluster/loopback.py)
    "node_stats": "ray._private.internal_api",  # what `ray memory --stats-only` prints
    "ray_constants": "ray._private",
}


class RayMoved(ImportError):
    """The installed Ray lacks a part that is used here; the message names both versions."""

    def __init__(self, part: str):
        import ray

        super().__init__(
            f"Ray {ray.__version__} has no {part} where Ray {TRIED_ON} has it; install ray=={TRIED_ON}, or correct "
            f"bsp_platform's ray_internals.py"
        )


def __getattr__(name: str) -> Any:
    if name not in _PARTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(importlib.import_module(_PARTS[name]), name)
    except (ImportError, AttributeError) as error:
        raise RayMoved(f"{_PARTS[name]}.{name}") from error


def need_private(owner: object, name: str) -> None:
    """RayMoved unless a class or object of Ray's has the private ``name`` that we override or set."""
    if not hasattr(owner, name):
        kind = owner if isinstance(owner, type) else type(owner)
        raise RayMoved(f"{kind.__module__}.{kind.__name__}.{name}")


class OwnPolicies:
    """A base before Ray's trainer: :meth:`policies` replaces Ray Train's, which has no public place for them."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        need_private(cls.__mro__[cls.__mro__.index(OwnPolicies) + 1], "_initialize_and_run_controller")

    def policies(self) -> dict[str, Any]:
        """ "failure_policy" and "scaling_policy", either or both."""
        raise NotImplementedError

    def _initialize_and_run_controller(self, **parts: Any) -> Any:
        import ray

        parts |= self.policies()
        if ray.get_runtime_context().get_actor_id():
            return _run_controller_here(parts)
        return super()._initialize_and_run_controller(**parts)  # type: ignore[misc]  # the next base's


def _run_controller_here(parts: dict[str, Any]) -> Any:
    """Run Ray Train's controller in this process, an actor, instead of in an actor of its own; returns its result.

    A process for the controller, and one that watches it for the case that it dies, take seconds of every training to
    start. Here both die together, as without: Ray Train's controller ends with the process that has started it. What
    may be left then is the placement group of the training processes: whoever has started this actor removes it
    (sweep/tuning.py).
    """
    import ray

    here = importlib.import_module(__name__)
    callbacks = [c for c in parts["callbacks"] if not isinstance(c, here.PlacementGroupCleanerCallback)]
    controller = here.TrainController(**parts | {"callbacks": callbacks})
    if ray.util.get_node_ip_address() in ("127.0.0.1", "::1"):
        controller.worker_group_cls = _same_environment()
    try:
        asyncio.run(controller.run())
        return _result_of(controller)
    finally:
        if group := controller.get_worker_group():  # stopped in the middle
            group.shutdown()


def _result_of(controller: Any) -> Any:
    result = controller.get_result()
    if result.error:
        raise result.error
    return result


def _same_environment() -> type:
    """Ray Train's worker group, whose processes get the environment that they have on one machine anyway.

    Given again, it would be another runtime environment to Ray, for which no idle process could be used.
    """
    group: type = importlib.import_module(__name__).WorkerGroup
    need_private(group, "_get_worker_runtime_env")

    class SameEnvironment(group):
        @staticmethod
        def _get_worker_runtime_env(custom_runtime_env: Any) -> Any:
            return custom_runtime_env

    return SameEnvironment


@contextmanager
def data_context(*, read_buffer_blocks: int | None = None) -> Iterator[DataContext]:
    """Ray Data's settings for the data sets that are made inside; those of the process stay as they are.

    No progress bars, and an error of a function that Ray Data calls is raised unwrapped: a full disk is
    recognised by its number, and a failed row shows its message. ``read_buffer_blocks`` may wait at a read task
    (Ray's own choice, two, also limits what one turn of its scheduling loop takes).
    """
    from ray.data import DataContext

    context = DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.enable_operator_progress_bars = False
    context.raise_original_map_exception = True
    if read_buffer_blocks is not None:
        need_private(context, "_max_num_blocks_in_streaming_gen_buffer")
        context._max_num_blocks_in_streaming_gen_buffer = read_buffer_blocks
    with DataContext.current(context):
        yield context


def session_folder() -> str:
    """Ray's session folder of this node."""
    import ray

    node: Any = ray._private.worker._global_node
    return str(node.get_session_dir_path())
