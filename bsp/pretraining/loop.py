"""The pre-training loop: clips in, encoder weights out (Section 3.3). Plain PyTorch, one process or several.

The loop reads one long numbered stream of clips. Step s uses clips [s*B, (s+1)*B), so the step number is the whole
position, and a resumed run equals an uninterrupted one. The caller provides the clips (a Ray Data stream, a list in a
test) and saves checkpoints. On a GPU autocast uses bfloat16, steps do not wait for the device, and only records
synchronise with it.

Letters: B clips of a batch, T frames, H W image.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from bsp.clips.normalisation import normalise
from bsp.errors import TooManyBroken
from bsp.pretraining.contract import Loss, PretrainingModel
from bsp.pretraining.prefetch import IdleClock, Prefetcher
from bsp.pretraining.workers import MeanGradient, Workers, running_statistics

Missing = tuple[int, int, str]  # step, virtual rank and name of a clip that could not be made


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
    checkpoint_every_steps: int = 100  # at most so many steps are lost when a worker dies
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
        """Optimiser steps of the whole run."""
        return self.clips // self.batch_size

    def rate_at(self, step: int) -> float:
        """Learning rate of step 0 .. steps-1: linear warm-up, then half a cosine down to zero.

        Choice: cosine; the paper gives no schedule.
        """
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        progress = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        return 0.5 * self.learning_rate * (1 + math.cos(math.pi * progress))


def parameter_groups(model: nn.Module, lr: float, weight_decay: float) -> list[dict[str, Any]]:
    """Optimiser groups of TSM's recipe: weight decay on convolution and linear weights only.

    Biases and batch-norm scales and shifts (all of them vectors) get none. Frozen parameters are left out.
    """
    # Choice: TSM's x5 and x10 learning rate of the last linear layer is left out; it is for fine-tuning
    # from ImageNet weights, while the pretext is trained from scratch here unless weights are given.
    trained = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trained if p.ndim > 1], "lr": lr, "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "lr": lr, "weight_decay": 0.0},
    ]


def make_optimiser(model: nn.Module, settings: TrainSettings) -> torch.optim.Optimizer:
    """SGD with momentum, weight decay on convolution and linear weights only (TSM's recipe)."""
    groups = parameter_groups(model, settings.learning_rate, settings.weight_decay)
    on_gpu = any(parameter.is_cuda for parameter in model.parameters())
    # Fused: one kernel instead of several per tensor. Not on a CPU, where it would change the bits of results.
    return torch.optim.SGD(groups, lr=settings.learning_rate, momentum=settings.momentum, fused=on_gpu or None)


def prepare_device(device: torch.device, threads: int) -> None:
    """Process-wide settings for training on ``device``: threads on a CPU; TF32 and measured kernels on a GPU."""
    if device.type == "cpu":
        torch.set_num_threads(threads)
        return
    if device.index is not None:  # "cuda" without index is the current GPU
        torch.cuda.set_device(device)
    torch.backends.cudnn.benchmark = True  # sizes are fixed, so searching the fastest kernels is worth it
    torch.set_float32_matmul_precision("high")  # TF32 for operations that autocast leaves in float32
    torch.backends.cudnn.allow_tf32 = True


def training_state(model: nn.Module, optimiser: torch.optim.Optimizer, step: int, skipped: list[str]) -> dict[str, Any]:
    """Checkpoint of a run; schedule and clip stream are functions of ``step``."""
    state = {
        "model": model.state_dict(),
        "optimiser": optimiser.state_dict(),
        "step": step,
        "skipped": list(skipped),
        "torch_generator": torch.get_rng_state(),
    }
    if next(model.parameters()).is_cuda:
        state["cuda_generator"] = torch.cuda.get_rng_state()
    return state


def restore(state: dict[str, Any], model: nn.Module, optimiser: torch.optim.Optimizer) -> tuple[int, list[str]]:
    """Load a :func:`training_state`. Returns the next step and the clips skipped so far."""
    model.load_state_dict(state["model"])
    fused = [group["fused"] for group in optimiser.param_groups]  # depends on this device, not on the one that saved
    optimiser.load_state_dict(state["optimiser"])
    for group, value in zip(optimiser.param_groups, fused, strict=True):
        group["fused"] = value
    torch.set_rng_state(state["torch_generator"])
    if "cuda_generator" in state and next(model.parameters()).is_cuda:
        torch.cuda.set_rng_state(state["cuda_generator"])
    return state["step"], list(state["skipped"])


def train_steps(
    model: PretrainingModel,
    optimiser: torch.optim.Optimizer,
    batches: Iterable[dict[str, np.ndarray]],
    *,
    loss: Loss,
    settings: TrainSettings,
    device: torch.device,
    start_step: int = 0,
    skipped: list[str] | None = None,
    workers: Workers | None = None,
) -> Iterator[tuple[int, dict[str, float] | None]]:
    """Train from ``start_step`` on; yields (steps done, record or None) after every step.

    ``batches`` are this process's: dicts of arrays "clip" uint8 [B/processes, T, H, W, 3], "label" int64,
    "change_point" float32, "plain" bool, "damaged" int64 (may be absent: frames that the decoder flags; records then
    have no damaged_share), and "error" (empty, or why a clip could not be made: such a clip weighs nothing, is named in
    ``skipped``, and above ``max_skipped_share`` of the stream :class:`TooManyBroken` is raised). ``workers`` gives this
    process's share of each step. All processes have the same weights; at a record or checkpoint ``skipped`` and records
    are merged over all processes. A record is made every ``log_every_steps``: loss and its statistics, clips_per_s,
    data_wait_share, learning_rate, on a GPU max_memory_mb. The caller saves, reports and stops.
    """
    workers = workers or Workers()
    skipped = skipped if skipped is not None else []
    on_gpu = device.type == "cuda"
    mean, std = model.encoder.mean, model.encoder.std
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    gradient = MeanGradient(model, workers)
    missing: list[Missing] = []
    numbered = enumerate(batches, start_step)
    feed = Prefetcher((_good_parts(batch, step, workers, missing) for step, batch in numbered), device)
    window = _Window(feed, workers, device)
    model.train()
    for step in range(start_step, settings.steps):
        try:
            parts = next(feed)
        except StopIteration:
            raise RuntimeError(f"the clip stream ended at step {step} of {settings.steps}") from None
        if not all(len(part["label"]) for part in parts):
            raise _too_many([*skipped, *(name for _, _, name in missing)], settings)
        done = step + 1
        logs = done % settings.log_every_steps == 0 or done == settings.steps
        if workers.processes == 1 or logs or done % settings.checkpoint_every_steps == 0:
            _count_skipped(missing, skipped, workers, settings)
        window.begin_step()
        for group in optimiser.param_groups:
            group["lr"] = settings.rate_at(step)
        optimiser.zero_grad(set_to_none=True)
        for virtual_rank, targets in zip(workers.here, parts, strict=True):
            workers.draw_for(step, virtual_rank)
            with gradient.part(virtual_rank):
                with (
                    running_statistics(norms, kept=virtual_rank == 0),
                    torch.autocast("cuda", dtype=torch.bfloat16, enabled=on_gpu),
                ):
                    clip_BTCHW = normalise(targets["clip"], torch.bfloat16 if on_gpu else torch.float32, mean, std)
                    value, stats = loss(gradient.network(clip_BTCHW), targets | {"clip": clip_BTCHW})
                value.backward()
            if "damaged" in targets:  # frames that the decoder flags, of each clip
                stats = stats | {"damaged_share": targets["damaged"].float().mean() / clip_BTCHW.shape[1]}
            window.add({"loss": value.detach()} | stats)
        gradient.finish()
        if settings.clip_gradient:
            nn.utils.clip_grad_norm_(model.parameters(), settings.clip_gradient)
        optimiser.step()
        window.end_step(settings.batch_size)
        record = None
        if logs:
            record = window.close(done, settings)
            if not math.isfinite(record["loss"]):
                raise RuntimeError(f"the loss is {record['loss']} at step {done}; lower learning_rate")
            window = _Window(feed, workers, device)
        yield done, record


class _Window:
    """Sums of one logging interval; tensors stay on the device until it closes."""

    def __init__(self, feed: Prefetcher, workers: Workers, device: torch.device) -> None:
        self.feed, self.workers, self.device = feed, workers, device
        self.idle = IdleClock() if device.type == "cuda" else None
        self.began = time.perf_counter()
        self.clips = 0
        self.stats: dict[str, list[Tensor]] = {}
        feed.waited_s = 0.0

    def begin_step(self) -> None:
        if self.idle:
            self.idle.begin_step()

    def add(self, stats: dict[str, Tensor]) -> None:
        """Add one virtual worker's part of a step, in the order of ranks."""
        for name, value in stats.items():
            self.stats.setdefault(name, []).append(value.detach())

    def end_step(self, clips: int) -> None:
        self.clips += clips
        if self.idle:
            self.idle.end_step()

    def close(self, step: int, settings: TrainSettings) -> dict[str, float]:
        """The record: means over the steps and all virtual workers; every process calls it."""
        each = len(self.workers.here)
        mine = {
            name: [float(torch.stack(values[k::each]).float().mean()) for k in range(each)]
            for name, values in self.stats.items()
        }
        everyone = self.workers.gather(mine)
        record: dict[str, float] = {"step": step}
        for name in mine:
            values = [value for parts in everyone for value in parts[name]]
            record[name] = sum(values) / len(values)
        elapsed = max(time.perf_counter() - self.began, 1e-9)
        record["clips_per_s"] = self.clips / elapsed
        # On a GPU only its idle time counts: waiting while it computes loses nothing.
        record["data_wait_share"] = (self.idle.take_s() if self.idle else self.feed.waited_s) / elapsed
        record["learning_rate"] = settings.rate_at(step - 1)
        if self.device.type == "cuda":
            record["max_memory_mb"] = torch.cuda.max_memory_allocated(self.device) / 2**20
        return record


def _good_parts(
    batch: dict[str, Any], step: int, workers: Workers, missing: list[Missing]
) -> list[dict[str, np.ndarray]]:
    """Batches by virtual worker without the clips with an error, which are added to ``missing``."""
    parts = []
    for virtual_rank, part in zip(workers.here, workers.cut(batch), strict=True):
        names = ("clip", "label", "change_point", "plain", "damaged")
        arrays = {name: part[name] for name in names if name in part}
        bad = np.array([bool(error) for error in part.get("error", ())])
        if bad.any():
            missing.extend((step, virtual_rank, str(part["error"][row])) for row in np.flatnonzero(bad))
            arrays = {name: array[~bad] for name, array in arrays.items()}
        parts.append(arrays)
    return parts


def _count_skipped(missing: list[Missing], skipped: list[str], workers: Workers, settings: TrainSettings) -> None:
    """Move missing clips of all processes into ``skipped``, in stream order; TooManyBroken above the cap."""
    everyone = sorted(row for rows in workers.gather(missing) for row in rows)
    missing.clear()
    skipped.extend(name for _, _, name in everyone)
    if len(skipped) > settings.max_skipped_share * settings.clips:
        raise _too_many(skipped, settings)


def _too_many(skipped: list[str], settings: TrainSettings) -> TooManyBroken:
    names = "\n  ".join(sorted(set(skipped))[:20])
    return TooManyBroken(
        f"{len(skipped)} clips could not be made, more than {settings.max_skipped_share:.0%} of "
        f"{settings.clips} (or a whole batch). Repair or remove these videos, or raise "
        f"max_skipped_share:\n  {names}"
    )
