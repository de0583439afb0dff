"""On which device a process computes: what is wished for, and what there is.

``--device auto`` takes a GPU if there is one, ``cpu`` none, ``cuda`` refuses to start without. What needs a GPU is
tested without one: with BSP_LOGICAL_GPUS=1, which only tests set, a Ray that is started here counts a GPU that does
not exist, and who is given it computes on the CPU. Without that variable a process that was given a GPU which PyTorch
cannot use stops with an error.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    pass

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


def local_device(wanted: Device) -> Literal["cpu", "cuda"]:
    """For commands that compute in this process, without Ray. ValueError as :func:`choose_device`."""
    import torch

    return choose_device(wanted, torch.cuda.device_count(), no_gpu_here())


def process_group_backend() -> str | None:
    """What the training processes talk through; None = Ray Train's choice (NCCL on GPUs, else gloo)."""
    return "gloo" if logical_gpus() else None
