"""What each row's encoders cost at inference: parameters, FLOPs per clip, clips per second.

Rows with the same encoders cost the same. All architectures of a table are timed in turns within one run, so
that their ratios are comparable on a busy machine; the results are kept in the store.
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
from bsp.encoders.contract import Architecture, Encoder
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
    # Which they are, for each of these numbers; () = all ``encoder``.
    encoders: tuple[tuple[Architecture, ...], ...] = field(default=(), metadata={"later": True})

    @property
    def variants(self) -> tuple[tuple[Architecture, ...], ...]:
        """The encoders of every architecture."""
        return self.encoders or tuple((self.encoder,) * count for count in self.streams)


def row_costs(rows: Sequence[Row], profile: Profile, store: StageStore) -> dict[str, dict[str, Any]]:
    """By row name: "streams", "parameters", "flops_per_clip", "clips_per_s"."""

    def variant(row: Row) -> tuple[Architecture, ...]:
        return tuple(profile.encoder_of(stream) for stream in row.streams)

    variants = sorted({variant(row) for row in rows}, key=lambda encoders: (len(encoders), _name(encoders)))
    recipe = CostRecipe(
        encoder=profile.encoder,
        size_px=profile.augment.size_px,
        streams=tuple(map(len, variants)),
        hardware=hardware(),
        encoders=() if {e for encoders in variants for e in encoders} == {profile.encoder} else tuple(variants),
    )

    def build(folder: Path) -> None:
        write_json(folder / _COSTS, measure(recipe))

    folder, _ = store.ensure("costs", recipe, build)
    measured = dict(zip(variants, json.loads((folder / _COSTS).read_text("utf-8")), strict=True))
    return {row.name: measured[variant(row)] for row in rows}


def _name(encoders: Sequence[Architecture]) -> str:
    return "+".join(dict.fromkeys(encoder.name for encoder in encoders))


def measure(recipe: CostRecipe) -> list[dict[str, Any]]:
    """One dict per architecture, in the recipe's order; clips/s is the median over rounds, on a GPU if there is one."""
    device = torch.device(local_device("auto"))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)

    def with_clips(encoder: Architecture, seed: int) -> tuple[Encoder, torch.Tensor]:
        size = encoder.size_px or recipe.size_px
        clips = torch.rand((_BATCH, encoder.clip_frames, 3, size, size), generator=generator)
        return build_encoder(encoder, seed).eval().to(device), clips.to(device)

    models = [[with_clips(encoder, seed) for seed, encoder in enumerate(encoders)] for encoders in recipe.variants]
    seconds: list[list[float]] = [[] for _ in models]
    with torch.inference_mode():
        for round_number in range(-1, _ROUNDS):  # the first round warms up
            for model, times in zip(models, seconds, strict=True):
                began = time.perf_counter()
                for encoder, clips in model:
                    encoder(clips)
                if device.type == "cuda":
                    torch.cuda.synchronize()
                if round_number >= 0:
                    times.append(time.perf_counter() - began)
    torch.set_num_threads(threads)
    return [
        {
            "streams": len(encoders),
            "encoder": _name(encoders),
            "parameters": sum(p.numel() for encoder, _ in model for p in encoder.parameters()),
            "flops_per_clip": sum(flops_per_clip(e, e.size_px or recipe.size_px) for e in encoders),
            "clips_per_s": _BATCH / statistics.median(times),
            "device": str(device),
        }
        for encoders, model, times in zip(recipe.variants, models, seconds, strict=True)
    ]
