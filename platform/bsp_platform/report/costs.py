"""What each row's encoders cost at inference: parameters, FLOPs per clip, clips per second.

Rows with the same encoders cost the same. All architectures of a table are timed in turns in one go, so that
their ratios mean something on a busy machine; the figures are kept in the store and not measured again.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from bsp.encoders.build import build_encoder, flops_per_clip
from bsp.encoders.contract import Architecture
from bsp.pretraining.fusion import TwoStream
from bsp_platform.plan.device import local_device
from bsp_platform.plan.profiles import Profile
from bsp_platform.plan.rows import Row
from bsp_platform.report.tables import hardware
from bsp_platform.storage.files import write_json
from bsp_platform.storage.stages import StageStore

_COSTS = "costs.json"
_BATCH, _ROUNDS = 16, 7  # clips of a forward pass; timed passes of each architecture


@dataclass(frozen=True, kw_only=True)
class CostRecipe:
    """A comparison of encoders side by side on one machine."""

    encoder: Architecture
    size_px: int
    streams: tuple[int, ...]  # numbers of encoders side by side
    hardware: str
    encoders: tuple[Architecture, ...] = field(default=(), metadata={"later": True})  # of each; () = encoder

    @property
    def variants(self) -> tuple[tuple[int, Architecture], ...]:
        """(number of encoders, their settings) of every architecture."""
        encoders = self.encoders or (self.encoder,) * len(self.streams)
        return tuple(zip(self.streams, encoders, strict=True))


def row_costs(rows: Sequence[Row], profile: Profile, store: StageStore) -> dict[str, dict[str, Any]]:
    """By row name: "streams", "parameters", "flops_per_clip", "clips_per_s"."""

    def variant(row: Row) -> tuple[int, Architecture]:
        return len(row.streams), profile.encoder_of(row.streams[0])

    variants = sorted({variant(row) for row in rows}, key=lambda variant: (variant[0], variant[1].name))
    encoders = tuple(encoder for _, encoder in variants)
    recipe = CostRecipe(
        encoder=profile.encoder,
        size_px=profile.augment.size_px,
        streams=tuple(count for count, _ in variants),
        hardware=hardware(),
        encoders=() if set(encoders) == {profile.encoder} else encoders,
    )

    def build(folder: Path) -> None:
        write_json(folder / _COSTS, measure(recipe))

    folder, _ = store.ensure("costs", recipe, build)
    measured = dict(zip(variants, json.loads((folder / _COSTS).read_text("utf-8")), strict=True))
    return {row.name: measured[variant(row)] for row in rows}


def measure(recipe: CostRecipe) -> list[dict[str, Any]]:
    """One dict per architecture, in the recipe's order; clips/s is the median over rounds, on a GPU if there is one."""
    device = torch.device(local_device("auto"))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    size = recipe.size_px
    generator = torch.Generator().manual_seed(0)
    clips = [
        torch.rand((_BATCH, encoder.clip_frames, 3, size, size), generator=generator).to(device)
        for _, encoder in recipe.variants
    ]
    models = [
        TwoStream([build_encoder(encoder, seed) for seed in range(count)]).eval().to(device)
        for count, encoder in recipe.variants
    ]
    seconds: list[list[float]] = [[] for _ in models]
    with torch.inference_mode():
        for round_number in range(-1, _ROUNDS):  # the first round warms up
            for model, clip, times in zip(models, clips, seconds, strict=True):
                began = time.perf_counter()
                model(clip)
                if device.type == "cuda":
                    torch.cuda.synchronize()
                if round_number >= 0:
                    times.append(time.perf_counter() - began)
    torch.set_num_threads(threads)
    return [
        {
            "streams": count,
            "encoder": encoder.name,
            "parameters": sum(p.numel() for p in model.parameters()),
            "flops_per_clip": count * flops_per_clip(encoder, size),
            "clips_per_s": _BATCH / statistics.median(times),
            "device": str(device),
        }
        for (count, encoder), model, times in zip(recipe.variants, models, seconds, strict=True)
    ]
