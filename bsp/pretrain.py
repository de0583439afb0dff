"""The pre-training loop: clips in, encoder weights out (Section 3.3). Plain PyTorch, one process or DDP.

The loop reads one long numbered stream of clips. Step s uses clips [s*B, (s+1)*B), so "where are we" is one
number, and stopping and continuing equals never stopping. Where the clips come from (a Ray Data stream, a
list in a test) is the caller's business, and so is where checkpoints go.

Letters: B clips of a batch, T frames, H W image.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bsp.augment import normalise
from bsp.encoder import parameter_groups
from bsp.errors import TooManyBroken

# (output of the model, targets) -> mean loss and statistics of a batch. Targets are "label" int64 [B],
# "change_point" float32 [B], "plain" bool [B] and "clip", the model's input.
Loss = Callable[[Any, dict[str, Tensor]], tuple[Tensor, dict[str, Tensor]]]


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """How an encoder is trained; together with data, clips and pretext it decides the weights."""

    clips: int  # length of the stream, over all epochs; a multiple of batch_size
    batch_size: int = 32  # clips per step, over all workers
    learning_rate: float = 0.02  # peak; SGD
    momentum: float = 0.9  # 0 = off
    weight_decay: float = 1e-4  # not on biases and norms; 0 = off
    warmup_steps: int = 0  # linear from 0; 0 = off
    clip_gradient: float = 20.0  # total L2 norm (TSM's recipe); 0 = off
    log_every_steps: int = 20  # one record of the history per so many steps
    checkpoint_every_steps: int = 100  # work lost at most when a worker dies
    max_skipped_share: float = 0.05  # of all clips; above it the run stops with the list
    threads: int = 1  # torch threads per worker on a CPU; part of the recipe, as sums depend on it

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.clips < self.batch_size or self.clips % self.batch_size:
            raise ValueError(f"clips {self.clips} must be a positive multiple of batch_size {self.batch_size}")
        if self.warmup_steps >= self.steps and self.warmup_steps:
            raise ValueError(f"warmup_steps {self.warmup_steps} leaves nothing of the {self.steps} steps")
        if min(self.log_every_steps, self.checkpoint_every_steps, self.threads) < 1:
            raise ValueError("log_every_steps, checkpoint_every_steps and threads must be at least 1")

    @property
    def steps(self) -> int:
        return self.clips // self.batch_size

    def rate_at(self, step: int) -> float:
        """Learning rate of step 0 .. steps-1: linear warm-up, then half a cosine down to zero.

        Choice: cosine; the paper does not give its schedule.
        """
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        progress = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        return 0.5 * self.learning_rate * (1 + math.cos(math.pi * progress))


def make_optimiser(model: nn.Module, settings: TrainSettings) -> torch.optim.Optimizer:
    """SGD with momentum, weight decay on convolution and linear weights only (TSM's recipe)."""
    groups = parameter_groups(model, settings.learning_rate, settings.weight_decay)
    return torch.optim.SGD(groups, lr=settings.learning_rate, momentum=settings.momentum)


def training_state(model: nn.Module, optimiser: torch.optim.Optimizer, step: int, skipped: list) -> dict:
    """All that decides the rest of the run; the schedule is a function of ``step``, the stream of it too."""
    return {
        "model": model.state_dict(),
        "optimiser": optimiser.state_dict(),
        "step": step,
        "skipped": list(skipped),
        "torch_generator": torch.get_rng_state(),
    }


def restore(state: dict, model: nn.Module, optimiser: torch.optim.Optimizer) -> tuple[int, list]:
    """Put a :func:`training_state` back. Returns the next step and the clips skipped so far."""
    model.load_state_dict(state["model"])
    optimiser.load_state_dict(state["optimiser"])
    torch.set_rng_state(state["torch_generator"])
    return state["step"], list(state["skipped"])


def train_steps(
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    batches: Iterable[dict[str, np.ndarray]],
    *,
    loss: Loss,
    settings: TrainSettings,
    device: torch.device,
    start_step: int = 0,
    skipped: list | None = None,
    world_size: int = 1,
) -> Iterator[tuple[int, dict[str, float] | None]]:
    """Train from ``start_step`` on; yields (steps done, record or None) after every step.

    ``batches`` are this worker's: dicts of arrays "clip" uint8 [B/world_size, T, H, W, 3], "label" int64,
    "change_point" float32, "plain" bool, and "error" (empty, or why a clip could not be made: such a clip weighs
    nothing, is named in ``skipped``, and above ``max_skipped_share`` of the stream :class:`TooManyBroken` is
    raised).
    A record is made every ``log_every_steps``: loss and its statistics, clips_per_s, data_wait_share,
    learning_rate. The caller saves, reports and stops.
    """
    skipped = skipped if skipped is not None else []
    on_gpu = device.type == "cuda"
    window = _Window()
    model.train()
    iterator = iter(batches)
    for step in range(start_step, settings.steps):
        began = time.perf_counter()
        try:
            batch = next(iterator)
        except StopIteration:
            raise RuntimeError(f"the clip stream ended at step {step} of {settings.steps}") from None
        window.waited_s += time.perf_counter() - began
        good = _good_rows(batch, skipped, settings)
        for group in optimiser.param_groups:
            group["lr"] = settings.rate_at(step)
        optimiser.zero_grad(set_to_none=True)
        with torch.autocast("cuda", dtype=torch.bfloat16, enabled=on_gpu):
            clip_BTCHW = normalise(_to_device(batch["clip"][good], device))
            targets = {name: _to_device(batch[name][good], device) for name in ("label", "change_point", "plain")}
            value, stats = loss(model(clip_BTCHW), targets | {"clip": clip_BTCHW})
        value.backward()
        if settings.clip_gradient:
            nn.utils.clip_grad_norm_(model.parameters(), settings.clip_gradient)
        optimiser.step()
        window.add(value.detach(), stats, clips=len(batch["label"]) * world_size)
        done = step + 1
        record = None
        if done % settings.log_every_steps == 0 or done == settings.steps:
            record = window.close(done, settings)
            if not math.isfinite(record["loss"]):
                raise RuntimeError(f"the loss is {record['loss']} at step {done}; lower learning_rate")
            window = _Window()
        yield done, record


class _Window:
    """Sums of one logging interval; tensors stay on the device until it closes."""

    def __init__(self) -> None:
        self.began = time.perf_counter()
        self.waited_s = 0.0
        self.clips = 0
        self.losses: list[torch.Tensor] = []
        self.stats: dict[str, list[torch.Tensor]] = {}

    def add(self, loss: torch.Tensor, stats: dict[str, torch.Tensor], *, clips: int) -> None:
        self.losses.append(loss)
        for name, value in stats.items():
            self.stats.setdefault(name, []).append(value.detach())
        self.clips += clips

    def close(self, step: int, settings: TrainSettings) -> dict[str, float]:
        record = {"step": step, "loss": float(torch.stack(self.losses).mean())}
        record |= {name: float(torch.stack(values).float().mean()) for name, values in self.stats.items()}
        elapsed = max(time.perf_counter() - self.began, 1e-9)
        record["clips_per_s"] = self.clips / elapsed
        record["data_wait_share"] = self.waited_s / elapsed
        record["learning_rate"] = settings.rate_at(step - 1)
        return record


def _good_rows(batch: dict[str, Any], skipped: list, settings: TrainSettings) -> np.ndarray:
    errors = batch.get("error")
    if errors is None:
        return np.arange(len(batch["label"]))
    bad = np.array([bool(error) for error in errors])
    skipped.extend(str(errors[row]) for row in np.flatnonzero(bad))
    cap = settings.max_skipped_share * settings.clips
    if len(skipped) > cap or bad.all():
        names = "\n  ".join(sorted(set(skipped))[:20])
        raise TooManyBroken(
            f"{len(skipped)} clips could not be made, more than {settings.max_skipped_share:.0%} of "
            f"{settings.clips} (or a whole batch). Repair or remove these videos, or raise "
            f"max_skipped_share:\n  {names}"
        )
    return np.flatnonzero(~bad)


def _to_device(array: np.ndarray, device: torch.device) -> torch.Tensor:
    # Batches that come out of the object store are read-only; torch wants memory that it may write.
    tensor = torch.from_numpy(np.require(array, requirements=["C", "W"]))
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor
