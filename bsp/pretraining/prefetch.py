"""Transfer of batches from host memory to the training device without making the device wait.

Pixels are sent as uint8 and normalised on the device.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import Tensor


def empty_for(device: torch.device) -> Callable[[tuple[int, ...], np.dtype], np.ndarray]:
    """(shape, dtype) -> buffer for a batch that goes to ``device``; pinned for a GPU, which saves a copy."""
    if device.type != "cuda":
        return np.empty
    # PyTorch's allocator reuses freed pinned memory: pinning takes longer than filling.
    return lambda shape, dtype: torch.empty(shape, dtype=_torch_dtype(dtype), pin_memory=True).numpy()


class Prefetcher:
    """Iterates over steps; a step is a list of batches (dicts of arrays) and comes out as tensors on ``device``.

    On a GPU a training step is only queued: while the device still computes it, the next batch is taken here,
    copied to pinned memory (unless it lies there) and sent on a stream of its own, so that transfer and computation
    overlap. The device, not the program, waits for the copy. On a CPU the tensors share memory with the arrays.
    ``waited_s`` is the time spent waiting for the batches.
    """

    def __init__(self, steps: Iterable[list[dict[str, np.ndarray]]], device: torch.device):
        self.steps, self.device = iter(steps), device
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self.waited_s = 0.0
        self.leaving: deque[tuple[torch.cuda.Event, list[Tensor]]] = deque()  # pinned, until they are on the device

    def __iter__(self) -> Prefetcher:
        return self

    def __next__(self) -> list[dict[str, Tensor]]:
        began = time.perf_counter()
        step = next(self.steps)
        self.waited_s += time.perf_counter() - began
        if self.stream is None:
            return [{name: _tensor(array) for name, array in batch.items()} for batch in step]
        while self.leaving and self.leaving[0][0].query():
            self.leaving.popleft()
        pinned = [{name: _pinned(array) for name, array in batch.items()} for batch in step]
        with torch.cuda.stream(self.stream):
            sent = [{n: t.to(self.device, non_blocking=True) for n, t in batch.items()} for batch in pinned]
            self.leaving.append((self.stream.record_event(), [t for batch in pinned for t in batch.values()]))
        computing = torch.cuda.current_stream(self.device)
        computing.wait_stream(self.stream)
        for batch in sent:
            for tensor in batch.values():
                tensor.record_stream(computing)  # else its memory could be reused by the next copy too early
        return sent


def _pinned(array: np.ndarray) -> Tensor:
    """The array itself if it is pinned and contiguous, else a pinned copy."""
    if array.flags.writeable and array.flags.c_contiguous:
        tensor = torch.from_numpy(array)
        if tensor.is_pinned():
            return tensor
    tensor = torch.empty(array.shape, dtype=_torch_dtype(array.dtype), pin_memory=True)
    tensor.numpy()[...] = array
    return tensor


def _torch_dtype(dtype: np.dtype) -> torch.dtype:
    return torch.from_numpy(np.empty(0, dtype)).dtype


def _tensor(array: np.ndarray) -> Tensor:
    # Batches from the object store are read-only; torch requires writable memory.
    return torch.from_numpy(np.require(array, requirements=["C", "W"]))


class IdleClock:
    """Measures a GPU's idle seconds between steps with CUDA events, without waiting during a step."""

    def __init__(self) -> None:
        self.last: torch.cuda.Event | None = None
        self.gaps: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    def begin_step(self) -> None:
        """Record the start of a step on the device."""
        began = _mark()
        if self.last is not None:
            self.gaps.append((self.last, began))

    def end_step(self) -> None:
        """Record the end of a step on the device."""
        self.last = _mark()

    def take_s(self) -> float:
        """Idle seconds since the last call; the device must have finished these steps."""
        total_ms = sum(before.elapsed_time(after) for before, after in self.gaps)
        self.gaps = []
        return total_ms / 1e3


def _mark() -> torch.cuda.Event:
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event
