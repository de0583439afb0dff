"""How many processes a cluster has room for, and which failures are worth another try; all by hand."""

import errno
import socket

import pytest
import ray.exceptions
from ray.train import FailureConfig
from ray.train.v2.api.exceptions import WorkerGroupError

from bsp.errors import TooManyBroken
from bsp_platform.plan.resources import Resources
from bsp_platform.work.cluster.ray_internals import FailureDecision, WorkerHealthCheckFailedError
from bsp_platform.work.elastic import (
    FAILURES,
    LOST_NODES,
    Budgets,
    fitting_size,
    is_reachable,
    is_transient,
    sizes_of,
)

LOST_PROCESS = WorkerHealthCheckFailedError("a check failed", ray.exceptions.ActorDiedError())


def test_sizes_divide_the_virtual_workers():
    assert sizes_of(4, 4) == [1, 2, 4]
    assert sizes_of(6, 4) == [1, 2, 3]
    assert sizes_of(1, 8) == [1]


def test_the_largest_number_of_processes_that_fits():
    def fits(nodes: list[dict], **fields) -> int:
        return fitting_size(sizes_of(4, 4), nodes, Resources(train_workers=4, **fields))

    halves = {"cpus_per_worker": 0.7, "cpus_per_maker": 0.25}  # 0.95 each
    assert fits([{"CPU": 4}], **halves) == 4
    assert fits([{"CPU": 2}, {"CPU": 1.8}], **halves) == 4
    assert fits([{"CPU": 2}, {"CPU": 1}], **halves) == 2  # 3 fit, but 3 do not divide 4
    assert fits([{"CPU": 1}], **halves) == 1
    assert fits([{"CPU": 0.9}], **halves) == 0
    # A process stays on one node: two nodes of 1 CPU have no room for one of 1.5.
    assert fits([{"CPU": 1}, {"CPU": 1}], cpus_per_worker=1.5, cpus_per_maker=0.1) == 0
    # Makers may be elsewhere: GPUs on one node, CPUs for 12 makers per process on another.
    gpus = {"cpus_per_worker": 1, "gpus_per_worker": 1, "makers_per_worker": 12, "cpus_per_maker": 1}
    assert fits([{"CPU": 8, "GPU": 4}, {"CPU": 44}], **gpus) == 4
    assert fits([{"CPU": 8, "GPU": 4}, {"CPU": 43}], **gpus) == 2
    assert fits([{"CPU": 64}], **gpus) == 0


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (LOST_PROCESS, True),
        (ray.exceptions.ObjectLostError("00" * 28, None, ""), True),
        (RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:4"), True),
        (OSError(errno.EIO, "Input/output error"), True),
        (OSError(errno.ENOSPC, "No space left on device"), False),
        (ValueError("a wrong shape"), False),
        (RuntimeError("the loss is nan at step 5; lower learning_rate"), False),
        (TooManyBroken("3 clips could not be made"), False),
        (ray.exceptions.RayTaskError("map", "trace", ValueError("in a clip maker")), False),
    ],
)
def test_what_may_be_over_at_the_next_try(error, again):
    assert is_transient(error) is again


def failed(*errors: Exception) -> WorkerGroupError:
    return WorkerGroupError("", dict(enumerate(errors)))


def test_an_error_of_the_program_is_not_tried_again():
    budgets = Budgets(FailureConfig(max_failures=FAILURES), gone=set)
    assert budgets.make_decision(failed(ValueError("x"), ValueError("x"))) == FailureDecision.RAISE
    # When a process is lost, the others fail as well.
    assert budgets.make_decision(failed(ValueError("x"), LOST_PROCESS)) == FailureDecision.RETRY


def test_lost_nodes_and_lost_processes_have_budgets_of_their_own():
    gone = {"long ago"}
    budgets = Budgets(FailureConfig(max_failures=FAILURES), gone=lambda: set(gone))
    for number in range(LOST_NODES):
        gone.add(f"node {number}")
        assert budgets.make_decision(failed(LOST_PROCESS)) == FailureDecision.RETRY
    for _ in range(FAILURES):
        assert budgets.make_decision(failed(LOST_PROCESS)) == FailureDecision.RETRY
    assert budgets.make_decision(failed(LOST_PROCESS)) == FailureDecision.RAISE
    gone.add("one more")
    assert budgets.make_decision(failed(LOST_PROCESS)) == FailureDecision.RAISE


def test_a_node_that_takes_no_connection_is_gone_before_ray_knows():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        node = {"Alive": True, "NodeManagerAddress": "127.0.0.1", "NodeManagerPort": server.getsockname()[1]}
        assert is_reachable(node)
        assert not is_reachable(node | {"Alive": False})
    assert not is_reachable(node)
