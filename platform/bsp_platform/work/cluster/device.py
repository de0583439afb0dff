"""On which device a process computes: the one place where Ray's assignment becomes a PyTorch device.

``--device auto`` takes a GPU if there is one, ``cpu`` none, ``cuda`` refuses to start without. What needs a GPU is
tested without one: with BSP_LOGICAL_GPUS=1, which only tests set, a Ray that is started here counts a GPU that does
not exist, and who is given it computes on the CPU. Without that variable a process that was given a GPU which PyTorch
cannot use stops with an error.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

Device = Literal["auto", "cpu", "cuda"]
DEVICES = ("auto", "cpu", "cuda")
LOGICAL_GPUS = "BSP_LOGICAL_GPUS"  # for tests: how many GPUs Ray counts where PyTorch has none


def logical_gpus() -> int:
    """How many GPUs are only counted."""
    return int(os.environ.get(LOGICAL_GPUS) or 0)


def local_gpus() -> int:
    """GPUs of this machine that PyTorch can use; a Ray that is started here is told this number."""
    import torch

    return torch.cuda.device_count() or logical_gpus()


def choose_device(wanted: Device, gpus: float, where: str) -> Literal["cpu", "cuda"]:
    """ "cuda" if there are ``gpus`` and they are ``wanted``. ValueError, with the remedy, for "cuda" without any."""
    if wanted == "cuda" and not gpus:
        raise ValueError(f"--device cuda: {where}, or use --device cpu")
    return "cuda" if gpus and wanted != "cpu" else "cpu"


def no_gpu_here() -> str:
    """Why this machine has no GPU, and what to do, for :func:`choose_device`."""
    import torch

    return (
        f"PyTorch {torch.__version__} finds no GPU on this machine; see whether nvidia-smi lists one, install a CUDA "
        "build of PyTorch"
    )


def local_device(wanted: Device) -> str:
    """For commands that compute in this process, without Ray. ValueError as :func:`choose_device`."""
    import torch

    return choose_device(wanted, torch.cuda.device_count(), no_gpu_here())


def assigned_device(gpus: float) -> torch.device:
    """The device of this Ray task, actor or training process, which asked Ray for ``gpus`` GPUs (0 = the CPU).

    RuntimeError if PyTorch cannot use what Ray gave.
    """
    import ray
    import torch

    if not gpus:
        return torch.device("cpu")
    if torch.cuda.is_available():
        # A task sees its own GPU only, a training process those of all processes on its node.
        seen = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
        given = [str(name) for name in ray.get_gpu_ids()] if ray.is_initialized() else []
        return torch.device("cuda", seen.index(given[0]) if given and given[0] in seen else 0)
    if logical_gpus():
        return torch.device("cpu")
    raise RuntimeError(
        f"Ray gave this process a GPU, but PyTorch {torch.__version__} on {os.uname().nodename} cannot use it; install "
        "a CUDA build of PyTorch there that fits the driver, or use --device cpu"
    )


def process_group_backend() -> str | None:
    """What the training processes talk through; None = Ray Train's choice (NCCL on GPUs, else gloo)."""
    return "gloo" if logical_gpus() else None
