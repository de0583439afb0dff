"""The device: what Ray assigns, what PyTorch has, and the one place where a logical GPU is a CPU."""

import pytest
import torch
from click.testing import CliRunner

from bsp.pretraining.loop import prepare_device
from bsp_platform.plan.device import LOGICAL_GPUS, local_device, local_gpus
from bsp_platform.work.cluster.assigned_device import assigned_device
from repository import ROOT


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.delenv(LOGICAL_GPUS, raising=False)


def test_a_gpu_that_pytorch_cannot_use_is_an_error_unless_it_is_a_logical_one(no_gpu, monkeypatch):
    assert assigned_device(0) == torch.device("cpu")
    assert local_gpus() == 0
    with pytest.raises(RuntimeError, match=r"Ray gave this process a GPU.*cannot use it.*--device cpu"):
        assigned_device(0.25)
    monkeypatch.setenv(LOGICAL_GPUS, "1")
    assert local_gpus() == 1
    assert assigned_device(0.25) == torch.device("cpu")


@pytest.mark.parametrize(
    ("seen", "given", "index"),
    [("2", ["2"], 0), ("0,1,2,3", ["2"], 2), ("GPU-ab,GPU-cd", ["GPU-cd"], 1), ("", [], 0)],
)
def test_the_index_is_that_of_rays_gpu_among_those_the_process_sees(monkeypatch, seen, given, index):
    """Facts: a Ray task sees its own GPU only; Ray Train shows each process those of all on its node."""
    import ray

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray, "get_gpu_ids", lambda: given)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", seen)
    assert assigned_device(1.0) == torch.device("cuda", index)


def test_commands_without_ray_take_a_gpu_if_pytorch_has_one(no_gpu, monkeypatch):
    assert local_device("auto") == local_device("cpu") == "cpu"
    with pytest.raises(ValueError, match=r"--device cuda: PyTorch .* finds no GPU"):
        local_device("cuda")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert (local_device("auto"), local_device("cuda"), local_device("cpu")) == ("cuda", "cuda", "cpu")


def test_training_on_cuda_without_an_index_takes_the_current_gpu(monkeypatch):
    """``torch.cuda.set_device`` refuses it: "Expected a torch.device with a specified index"."""
    chosen = []
    monkeypatch.setattr(torch._C, "_cuda_setDevice", chosen.append, raising=False)
    with pytest.raises(ValueError, match="specified index"):
        torch.cuda.set_device(torch.device("cuda"))
    before = torch.get_float32_matmul_precision()
    try:
        prepare_device(torch.device("cuda"), 1)
        assert chosen == []
        prepare_device(torch.device("cuda", 1), 1)
        assert chosen == [1]
    finally:
        torch.set_float32_matmul_precision(before)
        torch.backends.cudnn.benchmark = False


def test_ray_data_refuses_whole_blocks_on_gpus():
    """Why extraction on GPUs is no actor pool of Ray Data with blocks as they are: it never started."""
    import ray.data

    with pytest.raises(ValueError, match="must provide `batch_size`"):
        ray.data.Dataset.map_batches(object(), lambda batch: batch, batch_size=None, num_gpus=1)


def test_bsp_train_refuses_cuda_before_it_reads_anything(no_gpu, tmp_path):
    from bsp_platform.cli.main import main

    (tmp_path / "a.json").write_text("not read")
    arguments = [
        "train",
        "gtad",
        "--features",
        tmp_path,
        "--annotations",
        tmp_path / "a.json",
        "--out",
        tmp_path / "out",
    ]
    result = CliRunner().invoke(main, [*map(str, arguments), "--device", "cuda"])
    assert result.exit_code == 2
    assert "--device" in result.output
    assert "no GPU" in " ".join(result.output.split())


def test_devices_are_chosen_in_one_place():
    """Only these ask whether there is a GPU, and nothing but tests sets the variable."""
    files = [*(ROOT / "bsp").rglob("*.py"), *(ROOT / "platform").rglob("*.py")]
    asking = {
        path.name for path in files if "cuda.is_available" in path.read_text() or LOGICAL_GPUS in path.read_text()
    }
    assert asking == {"device.py", "assigned_device.py"}
