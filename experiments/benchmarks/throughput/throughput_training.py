"""Training steps on ready batches, with and without shift, compiled, bf16; and training fed by each loader.

Letters: B clips of a batch, T frames, H image side.
"""

from __future__ import annotations

import itertools
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import psutil
import torch

from bsp.clips.normalisation import normalise
from bsp.clips.plan import PAPER_KINDS
from bsp.encoders.build import build_encoder
from bsp.encoders.tsm import EncoderSettings
from bsp.pretraining.contract import PretextModel
from bsp.pretraining.loop import TrainSettings, make_optimiser, prepare_device, train_steps
from bsp.pretraining.pretext import PretextSettings
from bsp.pretraining.workers import Workers
from bsp_platform.work.streaming import ClipStream
from throughput_clock import cpu_seconds, in_turns, used_since
from throughput_loaders import LOADERS
from throughput_sources import Source


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A way to compute a training step."""

    encoder: EncoderSettings
    size_px: int
    batch_size: int
    compiled: bool = False
    bf16: bool = False

    @property
    def network(self) -> str:
        """ "TSM", or "no shift" for the plain ResNet."""
        return "TSM" if self.encoder.shift else "no shift"

    @property
    def setting(self) -> str:
        """Depth, width, size and arithmetic as a text for tables."""
        how = ", ".join([("bf16" if self.bf16 else "fp32"), *(["compiled"] if self.compiled else [])])
        return f"R{self.encoder.depth} width {self.encoder.width}, {self.size_px} px, {how}"


def variants(device: torch.device, *, quick: bool, size_px: int, batch_size: int) -> list[Variant]:
    """The variants for this device: on a GPU R18 and R50 at 224 px, on a CPU the narrow encoder of profile mini.

    On a CPU also R18 in full width, a few clips of 112 px: the shift's work grows with the width, a convolution's with
    its square.
    """
    compiler = device.type == "cuda" or any(shutil.which(name) for name in ("g++", "c++", "clang++"))
    if device.type == "cuda":
        encoders = [EncoderSettings(depth=18), EncoderSettings(depth=50)]
        size_px, batch_size = 224, 32
    else:
        encoders = [EncoderSettings(width=16)]
    found = []
    for encoder in encoders:
        for compiled, bf16 in itertools.product((False, True), repeat=2):
            if compiled and (quick or not compiler or (bf16 and device.type == "cpu")):
                continue
            base = Variant(encoder=encoder, size_px=size_px, batch_size=batch_size, compiled=compiled, bf16=bf16)
            found.append(base)
    if device.type == "cpu" and not quick:
        found.append(Variant(encoder=EncoderSettings(), size_px=112, batch_size=2))
    return [variant for ours in found for variant in (ours, replace(ours, encoder=replace(ours.encoder, shift=False)))]


class StepRunner:
    """One variant with its network: the step of ``pretraining.loop``, written out with bf16 or fp32."""

    def __init__(self, variant: Variant, device: torch.device):
        self.variant, self.device = variant, device
        pretext = PretextSettings(task="classification", kinds=PAPER_KINDS)
        settings = TrainSettings(clips=variant.batch_size, batch_size=variant.batch_size)
        model = PretextModel(build_encoder(variant.encoder, 0), pretext, seed=0)
        self.model = model.to(device).train()
        self.optimiser = make_optimiser(self.model, settings)
        self.loss = pretext.loss
        if variant.compiled:
            self.model.compile()
        shape = (variant.batch_size, variant.encoder.frames, variant.size_px, variant.size_px, 3)
        generator = torch.Generator().manual_seed(0)
        self.clip_BTHWC = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator).to(device)
        self.targets = {
            "label": (torch.arange(variant.batch_size) % 4).to(device),
            "change_point": torch.full((variant.batch_size,), 3.0, device=device),
            "plain": torch.zeros(variant.batch_size, dtype=torch.bool, device=device),
        }

    def step(self) -> None:
        """One training step on the same batch: forward, backward, clipping, update."""
        self.optimiser.zero_grad(set_to_none=True)
        dtype = torch.bfloat16 if self.variant.bf16 else torch.float32
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.variant.bf16):
            clip_BTCHW = normalise(self.clip_BTHWC, dtype)
            value, _ = self.loss(self.model(clip_BTCHW), self.targets | {"clip": clip_BTCHW})
        value.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 20.0)
        self.optimiser.step()

    def rate(self, steps: int) -> float:
        """Clips per second over ``steps`` steps."""
        self._wait()
        began = time.perf_counter()
        for _ in range(steps):
            self.step()
        self._wait()
        return steps * self.variant.batch_size / (time.perf_counter() - began)

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def measure_steps(chosen: list[Variant], device: torch.device, *, steps: int, rounds: int) -> list[dict[str, Any]]:
    """Clips per second of each variant, round by round, and on a GPU the memory of a step; one thread on a CPU."""
    prepare_device(device, 1)
    runners: dict[Variant, StepRunner] = {}
    memory: dict[Variant, float] = {}
    for variant in chosen:
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
        runner = runners[variant] = StepRunner(variant, device)
        for _ in range(3 if device.type == "cuda" else 1):  # compiles, searches for kernels
            runner.step()
        if device.type == "cuda":
            memory[variant] = (torch.cuda.max_memory_allocated() - before) / 2**20
    taken = in_turns({name: partial(runner.rate, steps) for name, runner in runners.items()}, rounds)
    return [
        {
            "network": variant.network,
            "setting": variant.setting,
            "rates": taken[variant],
            "memory_mb": memory.get(variant),
        }
        for variant in chosen
    ]


def small_training(stream: ClipStream, batch_size: int, steps: int, log_every: int) -> tuple[Any, ...]:
    """Network of profile mini, optimiser, loss and settings for some steps of ``bsp.pretraining.loop`` on a CPU."""
    pretext = PretextSettings(task="classification", kinds=stream.clips.kinds)
    settings = TrainSettings(
        clips=batch_size * steps, batch_size=batch_size, log_every_steps=log_every, checkpoint_every_steps=10**9
    )
    model = PretextModel(build_encoder(EncoderSettings(width=16), 0), pretext, seed=0)
    return model, make_optimiser(model, settings), pretext.loss, settings


def timed_training(
    stream: ClipStream,
    batches: Iterator,
    *,
    batch_size: int,
    seconds: float,
    workers: Workers,
    log_every: int = 5,
    everything: psutil.Process | None = None,
) -> dict[str, float]:
    """Train until ``seconds`` have passed after the first record; means of the later records, and their steps.

    ``cores`` is the CPU time of ``everything`` (this process by default) and all processes below it, per second.
    """
    prepare_device(torch.device("cpu"), 1)
    model, optimiser, loss, settings = small_training(stream, batch_size, 10**5, log_every)
    steps = train_steps(
        model, optimiser, batches, loss=loss, settings=settings, device=torch.device("cpu"), workers=workers
    )  # fmt: skip
    records, began, used = [], None, {}
    for _, record in steps:
        if record is None:
            continue
        if began is None:
            began, used = time.perf_counter(), cpu_seconds(everything)  # the first record holds the pipeline's start
            continue
        records.append(record)
        elapsed = time.perf_counter() - began
        # All processes must stop at the same step: at the first one after the time is over for one of them.
        if any(workers.gather(elapsed > seconds)):
            break
    means = {name: float(np.mean([r[name] for r in records])) for name in ("clips_per_s", "data_wait_share")}
    return means | {"steps": len(records) * log_every, "cores": used_since(used, everything) / elapsed}


def measure_waiting(source: Source, *, workers: int, seconds: float, rounds: int) -> dict[str, list[dict]]:
    """Training (one process, one thread) fed by each loader: clips/s and share of time spent waiting, by round."""

    def train(make: Callable) -> dict:
        batches = make(source.catalog, source.stream, workers)
        try:
            return timed_training(
                source.stream, batches, batch_size=source.stream.batch_size, seconds=seconds, workers=Workers()
            )
        finally:
            batches.close()

    return in_turns({name: partial(train, make) for name, make in LOADERS.items()}, rounds)
