"""Shared by all tests: a tiny rendered data set, and one Ray per session for the tests that need it."""

import os
import uuid
from pathlib import Path

import hypothesis
import pytest

# Ray and MLflow read these when they are imported; importing the package sets them.
import bsp_platform  # noqa: F401
from fault_report import fault_row, print_matrix  # noqa: F401 (a fixture)

hypothesis.settings.register_profile("no deadline", deadline=None)  # a busy machine is no failure
hypothesis.settings.load_profile("no deadline")
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Programs and Ray's processes import what the tests import: the toys, and helpers that a test module needs.
SHARED = [str(Path(__file__).parent / name) for name in ("support", "examples")]
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (os.environ.get("PYTHONPATH"), *SHARED)))
os.environ["BSP_TEST_MARK"] = uuid.uuid4().hex  # tells this session's Ray processes from others (ray_processes.py)


@pytest.fixture(scope="session")
def tiny_pantomime():
    """Settings of a data set that renders in seconds."""
    from bsp.datasets.pantomime.render import PantomimeSettings

    return PantomimeSettings(
        trimmed_per_class=2, trimmed_val_per_class=0, untrimmed_train=4, untrimmed_val=4, untrimmed_seconds=12.0,
        actions=("wave", "squat", "walk", "kick"),
    )  # fmt: skip


@pytest.fixture(scope="session")
def tiny_data(tiny_pantomime, tmp_path_factory):
    """Folder of the tiny data set."""
    from bsp.datasets.pantomime.render import render

    return render(tiny_pantomime, tmp_path_factory.mktemp("pantomime"), workers=1, progress=False)


@pytest.fixture(scope="session")
def tiny_catalog(tiny_data):
    from bsp.datasets.kinetics import load_kinetics_csv

    return load_kinetics_csv(tiny_data / "trimmed" / "train.csv", tiny_data / "trimmed" / "videos", progress=False)


@pytest.fixture(scope="session")
def tiny_untrimmed(tiny_data):
    from bsp.datasets.activitynet import load_activitynet

    return load_activitynet(tiny_data / "untrimmed" / "activitynet.json", tiny_data / "untrimmed" / "videos")


@pytest.fixture(scope="session")
def ray_session():
    """Ray on two logical CPUs, as on the smallest machine that the README names, and a GPU that is only counted."""
    import ray

    from bsp_platform.plan.device import LOGICAL_GPUS
    from bsp_platform.work.cluster.start import start_ray

    with pytest.MonkeyPatch.context() as patch:  # for Ray's processes, not for this one
        patch.setenv(LOGICAL_GPUS, "1")
        start_ray(cpus=2, gpus=1, object_store_mb=256)
    yield ray
    ray.shutdown()


LONG = (
    "test_sweeps",
    "test_all_tables",
    "test_ray_up",
    "test_faults_training",
    "test_sweep_boundaries",
    "test_logical_gpu",
    "test_extraction",
)


def pytest_collection_modifyitems(items):
    """The longest files first, so that of two processes none is left with one of them at the end."""
    items.sort(key=lambda item: LONG.index(item.path.stem) if item.path.stem in LONG else len(LONG))


def pytest_terminal_summary(terminalreporter):
    print_matrix(terminalreporter)
