"""Virtual workers: data-parallel training whose number of processes may change on the way.

A recipe says how many *virtual* workers V share each step. Batch norm normalises one worker's clips at a time,
so V belongs to the result. On how many processes W they run does not: W divides V, and a process trains its
V / W virtual workers one after another. Three things keep the result independent of W:

- the gradient of a step is the mean over the virtual workers, added in the order of their ranks (on a CPU);
- the running statistics of batch norm are those of virtual worker 0;
- what a step draws at random (dropout) depends on seed, step and virtual rank.

Letters: K = V / W virtual workers of a process, P parameters.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm


@dataclass(frozen=True, kw_only=True)
class Workers:
    """Where this process stands; the default is one process with one virtual worker."""

    virtual: int = 1  # V, of the recipe; at least 1
    processes: int = 1  # W, divides V; with more than one, torch.distributed must be set up
    rank: int = 0  # of this process, 0 .. W-1
    seed: int = 0  # of the recipe

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
        """``value`` of every process, by rank; a meeting point of all processes."""
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
    """Within, batch norms in training mode update their running statistics only if ``kept``; outputs are the same."""
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
    """The mean of the virtual workers' gradients: :meth:`add` after each backward pass, :meth:`finish` after all.

    On a CPU the parts travel to all processes and are added in the order of the virtual ranks, so that the sum
    has the same bits for every number of processes; a step sends V * P numbers. On a GPU each process adds up
    its own parts and the sums are all-reduced, in whatever order the devices like.
    """

    # Choice: no DistributedDataParallel. It adds in an order that depends on the number of processes, and its
    # overlap of transfer and backward pass is lost anyway when the network is compiled.

    def __init__(self, model: nn.Module, workers: Workers, device: torch.device):
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.workers, self.ordered = workers, device.type == "cpu"
        self.parts: list[Tensor] = []

    def add(self) -> None:
        if self.workers.virtual > 1 and self.ordered:
            self.parts.append(self._flat())
            for parameter in self.parameters:
                parameter.grad = None

    def finish(self) -> None:
        """Leave the mean in ``.grad`` of all parameters."""
        if self.workers.virtual == 1:
            return
        total_P = self._sum_in_order() if self.ordered else self._sum()
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

    def _sum(self) -> Tensor:
        total_P = self._flat()  # autograd has added up the parts of this process
        if self.workers.processes > 1:
            distributed.all_reduce(total_P)
        return total_P
