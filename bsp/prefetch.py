"""From arrays in host memory to tensors on the training device, without making the device wait.

Pixels travel as uint8 and are normalised on the device.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor


class Prefetcher:
    """Iterates over steps; a step is a list of batches (dicts of arrays) and comes out as tensors on ``device``.

    On a GPU a training step is only queued: while the device still computes it, the next batch is taken here,
    copied to pinned memory and sent on a stream of its own, so that transfer and computation overlap. The
    device, not the program, waits for the copy. On a CPU the tensors share memory with the arrays.
    ``waited_s`` is the time spent waiting for the batches.
    """

    def __init__(self, steps: Iterable[list[dict[str, np.ndarray]]], device: torch.device):
        self.steps, self.device = iter(steps), device
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self.waited_s = 0.0

    def __iter__(self) -> Prefetcher:
        return self

    def __next__(self) -> list[dict[str, Tensor]]:
        began = time.perf_counter()
        step = next(self.steps)
        self.waited_s += time.perf_counter() - began
        if self.stream is None:
            return [{name: _tensor(array) for name, array in batch.items()} for batch in step]
        with torch.cuda.stream(self.stream):
            sent = [{name: self._send(array) for name, array in batch.items()} for batch in step]
        computing = torch.cuda.current_stream(self.device)
        computing.wait_stream(self.stream)
        for batch in sent:
            for tensor in batch.values():
                tensor.record_stream(computing)  # else its memory could be given to the next copy too early
        return sent

    def _send(self, array: np.ndarray) -> Tensor:
        dtype = torch.from_numpy(np.empty(0, array.dtype)).dtype
        pinned = torch.empty(array.shape, dtype=dtype, pin_memory=True)
        pinned.numpy()[...] = array
        # PyTorch's allocator of pinned memory does not hand it out again before the copy has been made.
        return pinned.to(self.device, non_blocking=True)


def _tensor(array: np.ndarray) -> Tensor:
    # Batches that come out of the object store are read-only; torch wants memory that it may write.
    return torch.from_numpy(np.require(array, requirements=["C", "W"]))


class IdleClock:
    """Seconds that a GPU stood idle between steps, by events in its queue; reading them is the caller's only wait."""

    def __init__(self) -> None:
        self.last: torch.cuda.Event | None = None
        self.gaps: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    def begin_step(self) -> None:
        began = _mark()
        if self.last is not None:
            self.gaps.append((self.last, began))

    def end_step(self) -> None:
        self.last = _mark()

    def take_s(self) -> float:
        """Sum since the last call; the steps in question must have been waited for."""
        total_ms = sum(before.elapsed_time(after) for before, after in self.gaps)
        self.gaps = []
        return total_ms / 1e3


def _mark() -> torch.cuda.Event:
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event
