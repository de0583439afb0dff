"""Faults in training, on real processes: each result equals that of a plain loop without Ray and without a fault."""

import itertools
import json
import subprocess
import sys
from dataclasses import replace
from functools import partial

import pytest

from bsp_platform.plan.resources import Resources
from bsp_platform.storage.errors import StorageFull
from bsp_platform.work.pretraining import train_encoder
from faulty_training import (
    RECIPE,
    Reports,
    decode_slowly,
    fill,
    kill_one,
    note_sockets,
    result_of,
    stream_of,
    undisturbed,
)
from ray_processes import CLIP_MAKER, LOOPBACK, TRAINING
from repository import SUPPORT

STEPS = RECIPE.train.steps
pytestmark = pytest.mark.fault


@pytest.fixture(scope="module")
def reference(tiny_catalog) -> dict:
    """Digest of the weights, and losses, of the run that nothing disturbs."""
    result = undisturbed(tiny_catalog)
    assert len(result["losses"]) == STEPS // RECIPE.train.log_every_steps
    return result


@pytest.mark.ray
def test_a_killed_clip_maker(ray_session, tiny_catalog, reference, tmp_path, fault_row):
    stream = replace(stream_of(RECIPE, ray_session.put(tiny_catalog)), decode=decode_slowly)
    reports = Reports(tmp_path / "reports.jsonl")
    sockets = tmp_path / "sockets.json"
    callback = reports(lambda: (note_sockets(sockets), kill_one(CLIP_MAKER)))
    train_encoder(tmp_path, RECIPE, stream, Resources(cpus_per_maker=0.4), callbacks=[callback])
    before, after = reports.around()
    steps = [step for step, _ in before + after]
    found = json.loads(sockets.read_text())  # in mid-training, with PyTorch's process group
    assert {"gcs_server", "raylet"} <= {name for name, _, _ in found}
    assert any(TRAINING in name for name, _, _ in found)
    assert [socket for socket in found if socket[1] not in LOOPBACK] == []
    assert steps == sorted(set(steps)), "training started again, which a lost clip maker is no reason for"
    fault_row(
        "SIGKILL of a data worker (the actor that makes the clips)",
        f"killed after step {before[-1][0]}; Ray Data started it again and training went on to step {steps[-1]}",
        equal=result_of(tmp_path) == reference,
    )


@pytest.mark.ray
@pytest.mark.slow
def test_a_killed_training_process_of_two(ray_session, tiny_catalog, reference, tmp_path, fault_row):
    stream, reports = stream_of(RECIPE, ray_session.put(tiny_catalog)), Reports(tmp_path / "reports.jsonl")
    resources = Resources(train_workers=2, cpus_per_worker=0.6, cpus_per_maker=0.3)
    train_encoder(tmp_path, RECIPE, stream, resources, callbacks=[reports(partial(kill_one, TRAINING))])
    before, after = reports.around()
    assert after[-1] == [STEPS, 2]
    fault_row(
        "SIGKILL of a training worker",
        f"one of 2 processes killed after step {before[-1][0]}; both started again from the last checkpoint and went "
        f"on to step {after[-1][0]}",
        equal=result_of(tmp_path) == reference,
    )


@pytest.mark.slow
def test_a_lost_node_and_a_new_one(tiny_data, reference, tmp_path, fault_row):
    """On a Ray of its own, of two nodes, in a program of its own."""
    program = SUPPORT / "cluster_training.py"
    done = subprocess.run([sys.executable, program, tiny_data, tmp_path], capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-4000:]
    before, after = Reports(tmp_path / "reports.jsonl").around()
    assert {processes for _, processes in before} == {4}
    numbers = [number for number, _ in itertools.groupby(processes for _, processes in after)]
    assert numbers[-2:] == [2, 4]  # the four may have reported once more before they noticed
    assert after[-1][0] == STEPS
    on_two = [step for step, processes in after if processes == 2]
    fault_row(
        "SIGKILL of the raylet of one of two nodes (node loss), which held 2 of 4 training processes; later a new node",
        f"4 processes up to step {before[-1][0]}; from the last checkpoint on 2, on the node that was left, to step "
        f"{on_two[-1]}; from the last checkpoint on 4 again, to step {after[-1][0]}",
        equal=result_of(tmp_path) == reference,
    )


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 16 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(disk)]
    made = subprocess.run(mount, capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"no small file system can be mounted here: {made.stderr.strip()}")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.mark.ray
@pytest.mark.slow
def test_the_disk_fills_up_during_a_checkpoint(ray_session, tiny_catalog, reference, small_disk, tmp_path, fault_row):
    stream, reports = stream_of(RECIPE, ray_session.put(tiny_catalog)), Reports(tmp_path / "reports.jsonl")

    def train() -> None:
        callback = reports(partial(fill, small_disk))
        train_encoder(small_disk, RECIPE, stream, Resources(cpus_per_maker=0.4), callbacks=[callback])

    with pytest.raises(StorageFull, match=rf"no space left under {small_disk}.*free some space.*run the same command"):
        train()
    stopped = reports.lines()
    assert stopped[-1][0] < STEPS
    (small_disk / "filler").unlink()
    train()
    went_on = reports.lines()[len(stopped)][0]
    assert went_on > RECIPE.train.log_every_steps, "it began again instead of going on from a checkpoint"
    fault_row(
        "disk full during a checkpoint",
        f"stopped after step {stopped[-1][0]} of {STEPS} and said what to do; with room again, the same call went on: "
        f"next report at step {went_on}",
        equal=result_of(small_disk) == reference,
    )
