"""The PyTorch device of the GPU that Ray has assigned."""

from __future__ import annotations

import os

import torch

from bsp_platform.plan.device import logical_gpus


def assigned_device(gpus: float) -> torch.device:
    """The device of this Ray task, actor or training process, which asked Ray for ``gpus`` GPUs (0 = the CPU).

    RuntimeError if PyTorch cannot use that GPU.
    """
    import ray

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
