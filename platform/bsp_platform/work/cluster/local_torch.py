"""PyTorch's process group on a Ray that listens on the loopback address only (cluster/loopback.py)."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import ray
from ray.train.torch import TorchConfig
from typing_extensions import override

from bsp_platform.work.cluster.ray_internals import (
    _set_torch_distributed_env_vars,
    _setup_torch_process_group,
    _TorchBackend,
    session_folder,
)


class LocalTorchConfig(TorchConfig):
    """Training processes of one machine find each other through a file: PyTorch's TCP store listens on every
    interface without a token."""

    @property
    @override
    def backend_cls(self) -> type[_TorchBackend]:
        return _LocalTorch


class _LocalTorch(_TorchBackend):
    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        store = Path(session_folder()) / f"torch-{uuid.uuid4().hex}"
        on_gpus = worker_group.get_resources_per_worker().get("GPU", 0) > 0
        backend = backend_config.backend or ("nccl" if on_gpus else "gloo")
        worker_group.execute(_set_torch_distributed_env_vars)
        ray.get(
            [
                worker_group.execute_single_async(
                    rank,
                    _setup_torch_process_group,
                    backend=backend,
                    world_rank=rank,
                    world_size=len(worker_group),
                    init_method=f"file://{store}",
                    timeout_s=backend_config.timeout_s,
                )
                for rank in range(len(worker_group))
            ]
        )
