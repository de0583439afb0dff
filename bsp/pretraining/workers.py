"""Virtual workers: data-parallel training whose number of processes may change during a run.

A recipe says how many *virtual* workers V share each step. Batch norm normalises one worker's clips at a time, so the
result depends on V. It does not depend on the number of processes W, which divides V: a process trains its V / W
virtual workers one after another, and

- the gradient of a step is the mean over the virtual workers, on CPUs added in the order of their ranks (on GPUs by
  DistributedDataParallel, where the last bits depend on W);
- the running statistics of batch norm are those of virtual worker 0;
- what a step draws at random (dropout) depends on seed, step and virtual rank.

Letters: K = V / W virtual workers of a process, P parameters.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel


@dataclass(frozen=True, kw_only=True)
class Workers:
    """Place of this process; default: one process with one virtual worker."""

    virtual: int = 1  # V, of the recipe; at least 1
    processes: int = 1  # W, divides V; with more than one, torch.distributed must be set up
    rank: int = 0  # of this process, 0 .. W-1
    seed: int = 0  # of the recipe
    # Whether gradients are added in the order of the virtual ranks: the same bits on any number of processes. Otherwise
    # DistributedDataParallel adds them, and overlaps that with the backward pass. Choice: ordered on CPUs, not on GPUs.
    ordered: bool = True

    def __post_init__(self) -> None:
        if min(self.virtual, self.processes) < 1 or self.virtual % self.processes:
            raise ValueError(f"{self.virtual} virtual workers cannot be shared by {self.processes} processes equally")
        if not 0 <= self.rank < self.processes:
            raise ValueError(f"rank {self.rank} is not one of {self.processes} processes")

    @property
    def here(self) -> range:
        """Virtual ranks of this process."""
        each = self.virtual // self.processes
        return range(self.rank * each, (self.rank + 1) * each)

    def cut(self, batch: dict[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
        """The process's part of a step, as one batch per virtual worker, in the order of the stream.

        ValueError if the clips cannot be shared equally.
        """
        clips, parts = len(batch["label"]), len(self.here)
        if clips % parts:
            raise ValueError(f"{clips} clips of a step cannot be shared by {parts} virtual workers equally")
        each = clips // parts
        return [{name: array[k * each : (k + 1) * each] for name, array in batch.items()} for k in range(parts)]

    def gather(self, value: Any) -> list[Any]:
        """``value`` of every process, by rank; synchronises all processes."""
        if self.processes == 1:
            return [value]
        values: list[Any] = [None] * self.processes
        distributed.all_gather_object(values, value)
        return values

    def draw_for(self, step: int, virtual_rank: int) -> None:
        """Seed PyTorch's generators for one virtual worker's part of a step; one worker alone keeps its stream."""
        if self.virtual > 1:
            words = np.random.SeedSequence([self.seed, step, virtual_rank]).generate_state(1, np.uint64)
            torch.manual_seed(int(words[0]))


@contextmanager
def running_statistics(norms: list[_BatchNorm], *, kept: bool) -> Iterator[None]:
    """Batch norms in training mode update running statistics only if ``kept``; outputs are unchanged."""
    if kept:
        yield
        return
    before = [norm.track_running_stats for norm in norms]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm, track in zip(norms, before, strict=True):
            norm.track_running_stats = track


class MeanGradient:
    """The mean of the virtual workers' gradients: each forward and backward pass of ``network`` within a :meth:`part`,
    then :meth:`finish`.

    If ``workers.ordered`` the parts travel to all processes and are added in the order of the virtual ranks, so that
    the sum has the same bits for every number of processes; a step sends V * P numbers. Otherwise each process adds up
    its own parts, and DistributedDataParallel averages the sums while the last backward pass still runs, in an order
    that may vary.
    """

    def __init__(self, model: nn.Module, workers: Workers):
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.workers = workers
        self.network = model  # the callable; weight names are those of ``model``
        self.parts: list[Tensor] = []
        if workers.processes > 1 and not workers.ordered:
            # Around a model that is compiled in place, as PyTorch's documentation has it: Dynamo then cuts the network
            # where a bucket of gradients is full, which keeps the overlap. Without its broadcast of buffers: running
            # statistics are those of virtual worker 0, and only its process saves them.
            self.network = DistributedDataParallel(model, forward_sync_buffers=False, gradient_as_bucket_view=True)

    @contextmanager
    def part(self, virtual_rank: int) -> Iterator[None]:
        """Around forward and backward pass of one virtual worker; those of a process come in the order of its ranks."""
        averaging: AbstractContextManager[None] = nullcontext()
        if isinstance(self.network, DistributedDataParallel) and virtual_rank != self.workers.here[-1]:
            averaging = self.network.no_sync()  # synchronise with the last part only
        with averaging:
            yield
        if self.workers.virtual > 1 and self.workers.ordered:
            self.parts.append(self._flat())
            for parameter in self.parameters:
                parameter.grad = None

    def finish(self) -> None:
        """Leave the mean in ``.grad`` of all parameters."""
        if not self.workers.ordered:
            here = len(self.workers.here)
            if here > 1:
                gradients = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
                torch._foreach_div_(gradients, here)
            return
        if self.workers.virtual == 1:
            return
        total_P = self._sum_in_order()
        total_P /= self.workers.virtual
        sizes = [parameter.numel() for parameter in self.parameters]
        for parameter, part in zip(self.parameters, total_P.split(sizes), strict=True):
            parameter.grad = part.as_strided(parameter.shape, parameter.stride())

    def _flat(self) -> Tensor:
        """All gradients in the order of their memory (channels last): faster than in that of their axes."""
        grads = []
        for parameter in self.parameters:
            grad = parameter.grad if parameter.grad is not None else torch.zeros_like(parameter)
            if grad.stride() != parameter.stride():
                grad = torch.empty_like(parameter).copy_(grad)
            grads.append(grad.as_strided((grad.numel(),), (1,)))
        return torch.cat(grads)

    def _sum_in_order(self) -> Tensor:
        parts_VP = torch.stack(self.parts) if len(self.parts) > 1 else self.parts[0][None]
        self.parts = []
        if self.workers.processes > 1:
            mine_KP, parts_VP = parts_VP, parts_VP.new_empty(self.workers.virtual, parts_VP.shape[1])
            distributed.all_gather_single(parts_VP, mine_KP)
        for part_P in parts_VP[1:]:
            parts_VP[0] += part_P
        return parts_VP[0]
