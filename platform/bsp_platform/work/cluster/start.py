"""Start or join Ray, and decide before anything starts whether the plan fits.

Everything that a row of a sweep runs at the same time is added up: the trial itself, its training workers and
their clip makers, or its extraction actors, or its head. The number of rows at a time follows from that and
from what the cluster has; a plan that cannot fit even one row is refused with the numbers.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
from dataclasses import dataclass

from bsp_platform.plan.resources import TRIAL_CPUS

# Trials run on the head, where the driver is: a worker node that goes away takes no row with it, only what the row
# had running there, which is started again elsewhere.
TRIAL_RESOURCES = {"CPU": TRIAL_CPUS, "node:__internal_head__": 0.001}


def start_ray(
    *, cpus: int | None = None, gpus: int = 0, object_store_mb: int = 768, log_to_driver: bool = False
) -> None:
    """Join the cluster at RAY_ADDRESS (cluster.yaml sets it on the head), or start Ray on this machine.

    A Ray started here listens on the loopback address alone, wants its token, and keeps its session in a folder that
    nobody else may enter, removed when this process ends (cluster/loopback.py). ``log_to_driver`` passes on what Ray's
    workers print (``ray_log.RayLog`` takes it). ``gpus`` is what a Ray started here has to give.
    """
    import ray

    from bsp_platform.work.cluster.loopback import alone, private_folder, private_token

    if ray.is_initialized():
        return
    logging.getLogger("ray").setLevel(logging.ERROR)
    if os.environ.get("RAY_ADDRESS"):
        ray.init(address=os.environ["RAY_ADDRESS"], log_to_driver=log_to_driver, logging_level=logging.ERROR)
        return
    private_token()
    folder = private_folder() / "r"  # each of Ray's processes gives this one mode 0777, but nobody gets to it
    with alone():
        ray.init(
            address="local",  # and never a cluster of somebody else's that runs on this machine too
            num_cpus=cpus or os.cpu_count(),
            num_gpus=gpus,
            include_dashboard=True,
            dashboard_host="127.0.0.1",
            object_store_memory=object_store_mb * 2**20,
            log_to_driver=log_to_driver,
            logging_level=logging.ERROR,
            _temp_dir=str(folder),
        )
    if threading.current_thread() is threading.main_thread():
        # Ray's own handler aborts with a stack dump; as an interrupt, SIGTERM lets Ray be shut down first.
        signal.signal(signal.SIGTERM, signal.default_int_handler)


@dataclass(frozen=True, kw_only=True)
class ObjectStore:
    """Ray's object stores, summed over the nodes; MB are 10^6 bytes."""

    used_mb: float
    wanted_mb: float  # of that, what somebody still refers to; Ray clears the rest once a second or when it needs room
    capacity_mb: float
    spilled_mb: float  # written to disk since the nodes started, because a store was full
    objects: int


def object_store() -> ObjectStore:
    """What Ray's node managers count. Nodes that do not answer are left out."""
    import ray

    from bsp_platform.work.cluster.ray_internals import node_stats

    stores = []
    for node in ray.nodes():
        if node["Alive"]:
            with contextlib.suppress(Exception):  # gone meanwhile; grpc has errors of its own
                address, port = node["NodeManagerAddress"], node["NodeManagerPort"]
                stores.append(node_stats(address, port, include_memory_info=False).store_stats)
    return ObjectStore(
        used_mb=sum(store.object_store_bytes_used for store in stores) / 1e6,
        wanted_mb=sum(store.object_store_bytes_primary_copy for store in stores) / 1e6,
        capacity_mb=sum(store.object_store_bytes_avail for store in stores) / 1e6,
        spilled_mb=sum(store.spilled_bytes_total for store in stores) / 1e6,
        objects=sum(store.num_local_objects for store in stores),
    )


def object_store_bytes() -> int:
    """Size of the running cluster's object stores."""
    import ray

    return int(ray.cluster_resources().get("object_store_memory", 0))


def cluster_size() -> tuple[float, float]:
    """CPUs and GPUs of the running Ray cluster."""
    import ray

    have = ray.cluster_resources()
    return have.get("CPU", 0.0), have.get("GPU", 0.0)
