"""Start or join Ray; size and use of the running cluster."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
from dataclasses import dataclass

from bsp_platform.plan.resources import TRIAL_CPUS

# Trials run on the head, where the driver is: the loss of a worker node ends no row, only its tasks there,
# which are started again on another node.
DASHBOARD = "BSP_RAY_DASHBOARD"  # set: a Ray that is started here has its dashboard, on http://127.0.0.1:8265
TRIAL_RESOURCES = {"CPU": TRIAL_CPUS, "node:__internal_head__": 0.001}


def start_ray(
    *, cpus: int | None = None, gpus: int = 0, object_store_mb: int = 768, log_to_driver: bool = False
) -> None:
    """Join the cluster at RAY_ADDRESS (cluster.yaml sets it on the head), or start Ray on this machine.

    A Ray started here listens on the loopback address only, needs its token, and keeps its session in a folder that
    only its user may enter, removed when this process ends (cluster/loopback.py). ``log_to_driver``: its workers print
    here (to ``ray_log.RayLog``). ``gpus`` is the number that a Ray started here counts.
    """
    import ray

    from bsp_platform.work.cluster.loopback import loopback_only, private_folder, private_token

    if ray.is_initialized():
        return
    logging.getLogger("ray").setLevel(logging.ERROR)
    if os.environ.get("RAY_ADDRESS"):
        ray.init(address=os.environ["RAY_ADDRESS"], log_to_driver=log_to_driver, logging_level=logging.ERROR)
        return
    private_token()
    folder = private_folder() / "r"  # Ray gives it mode 0777, but the folder around it is private
    with loopback_only():
        ray.init(
            address="local",  # never another cluster that runs on this machine
            num_cpus=cpus or os.cpu_count(),
            num_gpus=gpus,
            include_dashboard=bool(os.environ.get(DASHBOARD)),  # 3 s of the start
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
    wanted_mb: float  # of that, objects with references; Ray removes others once a second or when it needs room
    capacity_mb: float
    spilled_mb: float  # written to disk since the nodes started, because a store was full
    objects: int


def object_store() -> ObjectStore:
    """The sums over Ray's nodes; those that do not answer are left out."""
    import ray

    from bsp_platform.work.cluster.ray_internals import node_stats

    stores = []
    for node in ray.nodes():
        if node["Alive"]:
            with contextlib.suppress(Exception):  # the node is lost; of grpc's own types
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
