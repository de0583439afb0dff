"""The plan: which device, and how a profile's wishes are fitted to a machine; arithmetic, nothing is started."""

from dataclasses import replace

import pytest

from bsp_platform.plan.profiles import PROFILES, mini, paper
from bsp_platform.plan.resources import Resources, laptop_resources, paper_resources
from bsp_platform.work.cluster.planning import Machine, fit, make_plan
from bsp_platform.work.cluster.stream_size import MEMORY, memory_bytes


@pytest.mark.parametrize("profile", sorted(PROFILES))
@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.parametrize("cpus", [2, 4, 8, 16, 96])
def test_every_profile_fits_every_machine_and_never_more_than_it_has(profile, device, workers, cpus):
    machine = Machine(cpus=cpus, gpus=1.0)
    plan = make_plan(PROFILES[profile](), machine, device=device, workers=workers)
    now = replace(plan.resources, train_workers=plan.processes)
    assert plan.device == device
    assert plan.rows * now.row_cpus <= cpus + 1e-6
    assert plan.rows * now.row_gpus <= (device == "cuda")
    assert workers % plan.processes == 0
    assert now.makers_per_worker <= plan.wish.makers_per_worker


def test_twelve_makers_are_a_wish():
    # 16 CPUs, 0.01 of them the trial's: 0.95 for training and 12 makers; 0.95 for an encoder, and 15 decode for it.
    row, rows, processes = fit(paper_resources(1, "cuda"), Machine(cpus=16, gpus=1))
    assert (row.makers_per_worker, row.decoders_per_extractor, rows, processes) == (12, 15, 1, 1)
    row, rows, processes = fit(paper_resources(1, "cuda"), Machine(cpus=8, gpus=1))
    assert (row.makers_per_worker, row.decoders_per_extractor, rows, processes) == (7, 7, 1, 1)
    # 8 GB: two thirds are 5.3; less the trial's 0.3 and 3 for training on a GPU, 5 makers of 0.35 have room.
    row, _, _ = fit(paper_resources(1, "cuda"), Machine(cpus=16, gpus=1, memory_gb=8))
    assert row.makers_per_worker == 5


def test_a_cluster_runs_as_many_rows_as_before():
    """docs/cluster.md: with --cpus 144 --gpus 8 eight rows run side by side, 18 CPUs each."""
    row, rows, _ = fit(paper_resources(1, "cuda"), Machine(cpus=144, gpus=8, joined=True))
    assert (rows, row.makers_per_worker, row.decoders_per_extractor) == (8, 12, 17)


def test_on_one_gpu_one_process_does_the_work_of_all():
    row, rows, processes = fit(laptop_resources(4, "cuda"), Machine(cpus=16, gpus=1))
    assert (rows, processes, row.train_workers) == (1, 1, 4)
    assert row.gpus_per_worker == 1.0  # two processes of one training cannot share a GPU
    assert fit(laptop_resources(1, "cuda"), Machine(cpus=16, gpus=1))[1] == 4


def test_on_cpus_little_memory_means_fewer_rows():
    assert fit(laptop_resources(1), Machine(cpus=2, gpus=0, memory_gb=6))[1] == 2  # the README's smallest machine
    assert fit(laptop_resources(1), Machine(cpus=16, gpus=0, memory_gb=6))[1] == 2
    assert fit(laptop_resources(1), Machine(cpus=16, gpus=0))[1] == 16


def test_a_machine_without_room_for_one_of_each_is_refused_with_the_numbers():
    with pytest.raises(ValueError, match=r"one row needs .* there are 1 CPUs and 1 GPUs; join a larger cluster"):
        fit(paper_resources(1, "cuda"), Machine(cpus=1, gpus=1))


def test_the_device_is_a_gpu_if_there_is_one_and_never_a_silent_cpu():
    without, with_one = Machine(cpus=16, gpus=0), Machine(cpus=16, gpus=1)
    assert make_plan(mini(), without, device="auto", workers=1).device == "cpu"
    assert make_plan(mini(), with_one, device="auto", workers=1).device == "cuda"
    on_cpu = make_plan(mini(), with_one, device="cpu", workers=1)
    assert on_cpu.resources.row_gpus == on_cpu.machine.gpus == 0
    with pytest.raises(ValueError, match=r"--device cuda: PyTorch .* finds no GPU on this machine.*--device cpu"):
        make_plan(mini(), without, device="cuda", workers=1)
    with pytest.raises(ValueError, match=r"--device cuda: the Ray cluster has no GPU; .*--gpus"):
        make_plan(mini(), replace(without, joined=True), device="cuda", workers=1)


def test_the_plan_is_told():
    slow = make_plan(paper(), Machine(cpus=8, gpus=0), device="auto", workers=1).lines(paper(), "auto")
    assert slow[0].startswith("plan: --device auto: CPU; this machine has 8 CPUs, 0 GPUs")
    assert "slow" in slow[-1]
    plan = make_plan(paper(), Machine(cpus=8, gpus=1, memory_gb=64), device="auto", workers=2)
    text = "\n".join(plan.lines(paper(), "auto"))
    for part in (
        "1 row at a time", "1 process (2 wished", "7 clip makers each (12 wished", "compiled", "bfloat16: 1 encoder",
        "7 decoders each", "object store",
    ):  # fmt: skip
        assert part in text


def test_memory_is_what_the_system_says_or_what_we_are_told(monkeypatch):
    assert memory_bytes() > 2**29
    monkeypatch.setenv(MEMORY, "126")
    assert memory_bytes() == 126 * 2**30


def test_too_little_memory_is_said(monkeypatch):
    monkeypatch.setenv(MEMORY, "2")
    told = make_plan(mini(), Machine(cpus=2, gpus=0, memory_gb=2), device="cpu", workers=1).lines(mini(), "cpu")
    assert "little memory" in told[-1]
    assert "there are 2.0" in told[-1]
    monkeypatch.setenv(MEMORY, "24")
    told = make_plan(mini(), Machine(cpus=2, gpus=0, memory_gb=24), device="cpu", workers=1).lines(mini(), "cpu")
    assert "memory" not in "".join(told)


def test_a_gpu_extractor_needs_decoders():
    with pytest.raises(ValueError, match="decoders_per_extractor 0"):
        Resources(gpus_per_extractor=1.0)
