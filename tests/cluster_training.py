"""Program: train on a cluster of two nodes, and SIGKILL the raylet of the second one after a checkpoint.

Arguments: folder of the tiny data set, folder of the result. The reports are written there.
"""

import os
import shutil
import signal
import sys
import tempfile
from functools import partial
from pathlib import Path

sys.path.append(str(Path(__file__).parent))
import bsp_platform  # noqa: F401  (Ray's settings)

# A folder of its own: in the common one the address of this cluster would lie where any ray.init() of the machine
# looks for a cluster to join.
HOME = os.environ["RAY_TMPDIR"] = tempfile.mkdtemp(prefix="bsp-ray-")
os.environ["RAY_AUTH_TOKEN"] = os.urandom(32).hex()  # of this cluster
os.environ.update(RAY_raylet_start_wait_time_s="300")  # a busy machine
from bsp.datasets.kinetics import load_kinetics_csv


def main(data: Path, folder: Path) -> None:
    import ray
    from faulty_training import RECIPE, Reports, stream_of
    from ray.cluster_utils import Cluster

    from bsp_platform.cluster import Resources
    from bsp_platform.pretraining import train_encoder

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
    (raylet,) = second.all_processes["raylet"]
    callback = Reports(folder / "reports.jsonl")(partial(os.kill, raylet.process.pid, signal.SIGKILL))
    train_encoder(folder, RECIPE, stream_of(RECIPE, ray.put(catalog)), resources, callbacks=[callback])
    ray.shutdown()
    cluster.shutdown()
    shutil.rmtree(HOME, ignore_errors=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
