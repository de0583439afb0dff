"""The device on which a process computes, from the option and from the GPUs that exist.

``--device auto`` takes a GPU if there is one, ``cpu`` none, ``cuda`` refuses to start without. Tests set
BSP_LOGICAL_GPUS=1: a Ray that is started here then counts a GPU that does not exist, and a process with that GPU
computes on the CPU. Otherwise a process whose GPU PyTorch cannot use stops with an error.
"""

from __future__ import annotations

import os
from typing import Literal

Device = Literal["auto", "cpu", "cuda"]
DEVICES = ("auto", "cpu", "cuda")
LOGICAL_GPUS = "BSP_LOGICAL_GPUS"  # for tests: how many GPUs Ray counts where PyTorch has none


def logical_gpus() -> int:
    """The number of GPUs that Ray counts without their existing."""
    return int(os.environ.get(LOGICAL_GPUS) or 0)


def local_gpus() -> int:
    """GPUs of this machine that PyTorch can use; a Ray that is started here counts this number."""
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
    """Backend of the training processes' group; None = Ray Train's choice (NCCL on GPUs, else gloo)."""
    return "gloo" if logical_gpus() else None
