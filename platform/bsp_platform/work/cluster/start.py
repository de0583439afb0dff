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
from dataclasses import dataclass, replace

TRIAL_CPUS = 0.01  # a trial only waits for others; Ray refuses 0
# Trials run on the head, where the driver is: a worker node that goes away takes no row with it, only what the row
# had running there, which is started again elsewhere.
TRIAL_RESOURCES = {"CPU": TRIAL_CPUS, "node:__internal_head__": 0.001}


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What one row of a sweep may use at a time. CPUs are Ray's logical CPUs."""

    train_workers: int = 1  # data-parallel training processes at most; with less room, fewer (work/elastic.py)
    wait_for_workers_s: float = 0.0  # with room for one of them, how long to wait for the others before starting
    compile_training: bool = False  # torch.compile: faster on GPUs; like the kind of GPU it changes the last bits
    cpus_per_worker: float = 0.55  # CPUs of a training process
    gpus_per_worker: float = 0.0  # 0 = train on the CPU
    makers_per_worker: int = 1  # clip-making actors feeding each training process
    cpus_per_maker: float = 0.4
    frame_cache_mb: int = 0  # decoded videos that a clip maker keeps, MiB; 0 = off; pays when all fit
    extractors: int = 1  # feature extraction actors
    cpus_per_extractor: float = 0.95
    gpus_per_extractor: float = 0.0
    decoders_per_extractor: int = 0  # tasks that decode for it; 0 = it decodes itself, on a CPU
    cpus_per_decoder: float = 1.0
    cpus_per_head: float = 0.95  # training and scoring a localisation head
    gpus_per_head: float = 0.0

    def __post_init__(self) -> None:
        if min(self.train_workers, self.makers_per_worker, self.extractors) < 1:
            raise ValueError(
                f"train_workers {self.train_workers}, makers_per_worker {self.makers_per_worker} and "
                f"extractors {self.extractors} must be at least 1"
            )
        if bool(self.gpus_per_extractor) != bool(self.decoders_per_extractor):
            raise ValueError(
                f"gpus_per_extractor {self.gpus_per_extractor:g} and decoders_per_extractor "
                f"{self.decoders_per_extractor}: on a GPU others decode, on a CPU none"
            )

    @property
    def row_cpus(self) -> float:
        """CPUs of one row at its widest moment."""
        training = self.train_workers * (self.cpus_per_worker + self.makers_per_worker * self.cpus_per_maker)
        extraction = self.extractors * (self.cpus_per_extractor + self.decoders_per_extractor * self.cpus_per_decoder)
        return TRIAL_CPUS + max(training, extraction, self.cpus_per_head)

    @property
    def row_gpus(self) -> float:
        return max(
            self.train_workers * self.gpus_per_worker,
            self.extractors * self.gpus_per_extractor,
            self.gpus_per_head,
        )

    def smallest(self) -> Resources:
        """As little as a row can run with."""
        return replace(
            self,
            train_workers=1,
            makers_per_worker=1,
            extractors=1,
            decoders_per_extractor=min(1, self.decoders_per_extractor),
        )

    def rows_at_a_time(self, cpus: float, gpus: float = 0.0) -> int:
        """How many rows fit side by side; 1 if a row fits with a single process of each kind.

        ValueError, with the numbers and the remedy, if not even that does.
        """
        fit = int((cpus + 1e-9) // self.row_cpus)
        if self.row_gpus:
            fit = min(fit, int((gpus + 1e-9) // self.row_gpus))
        smallest = self.smallest()
        if fit < 1 and self != smallest:
            return min(1, smallest.rows_at_a_time(cpus, gpus))
        if fit < 1:
            raise ValueError(
                f"one row needs {self.row_cpus:.2f} CPUs and {self.row_gpus:.2f} GPUs (one training process), but "
                f"there are {cpus:g} CPUs and {gpus:g} GPUs; join a larger cluster"
            )
        return fit


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
        ray.init(address=os.environ["RAY_ADDRESS"], log_to_driver=log_to_driver, logging_level="ERROR")
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
            logging_level="ERROR",
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
