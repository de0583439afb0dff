"""Program: train on a cluster of two nodes, SIGKILL the raylet of the second one after a checkpoint, and let a third
node join once training goes on without it: what spot machines do.

Arguments: folder of the tiny data set, folder of the result. The reports are written there.
"""

import os
import shutil
import signal
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import bsp_platform  # noqa: F401  (Ray's settings)

# A folder of its own: in the common one the address of this cluster would lie where any ray.init() of the machine
# looks for a cluster to join.
HOME = os.environ["RAY_TMPDIR"] = tempfile.mkdtemp(prefix="bsp-ray-")
os.environ["RAY_AUTH_TOKEN"] = os.urandom(32).hex()  # of this cluster
os.environ.update(RAY_raylet_start_wait_time_s="300")  # a busy machine
from bsp.datasets.kinetics import load_kinetics_csv


def main(data: Path, folder: Path) -> None:
    import ray
    from ray.cluster_utils import Cluster

    from bsp_platform.plan.resources import Resources
    from bsp_platform.work import elastic
    from bsp_platform.work.pretraining import train_encoder
    from faulty_training import RECIPE, Reports, decode_at_pace, stream_of

    store = 100 * 2**20
    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 1, "include_dashboard": False, "object_store_memory": store},
    )
    second = cluster.add_node(num_cpus=1, object_store_memory=store)
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")

    catalog = load_kinetics_csv(data / "trimmed" / "train.csv", data / "trimmed" / "videos", progress=False)
    # Two training processes and their clip makers fill a node.
    resources = Resources(train_workers=4, cpus_per_worker=0.4, cpus_per_maker=0.1)
    elastic._LOOK_AGAIN_S = 2.0  # a minute otherwise
    (raylet,) = second.all_processes["raylet"]
    pid = raylet.process.pid
    reports, pace = Reports(folder / "reports.jsonl"), folder / "pace"

    def lose_a_node() -> None:
        pace.write_text("0.1")  # most of the run is still to come when training goes on
        os.kill(pid, signal.SIGKILL)

    def wait_for(processes: int) -> None:
        """Until the last report came from so many, or the training has ended."""
        while not training.done() and not (reports.path.exists() and reports.lines()[-1][1] == processes):
            time.sleep(0.2)

    stream = replace(stream_of(RECIPE, ray.put(catalog)), decode=partial(decode_at_pace, pace=pace))
    with ThreadPoolExecutor(1) as thread:  # nodes are added by the main thread only
        training = thread.submit(train_encoder, folder, RECIPE, stream, resources, callbacks=[reports(lose_a_node)])
        wait_for(4)
        wait_for(2)
        pace.write_text("0.3")  # Ray counts the resources anew every 20 s
        cluster.add_node(num_cpus=1, object_store_memory=store)
        wait_for(4)
        pace.write_text("0")
        training.result()
    ray.shutdown()
    cluster.shutdown()
    shutil.rmtree(HOME, ignore_errors=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
