"""What each row's encoders cost at inference: parameters, FLOPs per clip, clips per second.

Rows with the same encoders cost the same. All architectures of a table are timed in turns in one go, so that
their ratios mean something on a busy machine; the figures are kept in the store and not measured again.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bsp.encoder import EncoderSettings, build_encoder, macs_per_clip
from bsp.fusion import TwoStream
from bsp_platform.profiles import Profile
from bsp_platform.stages import StageStore, write_json
from bsp_platform.tables import hardware

_COSTS = "costs.json"
_BATCH, _ROUNDS = 16, 7  # clips of a forward pass; timed passes of each architecture


@dataclass(frozen=True, kw_only=True)
class CostRecipe:
    """A comparison of encoders side by side on one machine."""

    encoder: EncoderSettings
    size_px: int
    streams: tuple[int, ...]  # numbers of encoders side by side
    hardware: str


def row_costs(rows: Sequence, profile: Profile, store: StageStore) -> dict[str, dict[str, Any]]:
    """By row name: "streams", "parameters", "flops_per_clip", "clips_per_s"."""
    counts = tuple(sorted({len(row.streams) for row in rows}))
    recipe = CostRecipe(encoder=profile.encoder, size_px=profile.augment.size_px, streams=counts, hardware=hardware())

    def build(folder: Path) -> None:
        write_json(folder / _COSTS, measure(recipe))

    folder, _ = store.ensure("costs", recipe, build)
    by_count = {cost["streams"]: cost for cost in json.loads((folder / _COSTS).read_text())}
    return {row.name: by_count[len(row.streams)] for row in rows}


def measure(recipe: CostRecipe) -> list[dict[str, Any]]:
    """One dict per number of streams; clips/s is the median over rounds, on a GPU if there is one."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    size = recipe.size_px
    generator = torch.Generator().manual_seed(0)
    clip = torch.rand((_BATCH, recipe.encoder.frames, 3, size, size), generator=generator).to(device)
    models = {
        count: TwoStream([build_encoder(recipe.encoder, seed) for seed in range(count)]).eval().to(device)
        for count in recipe.streams
    }
    seconds: dict[int, list[float]] = {count: [] for count in models}
    with torch.inference_mode():
        for round_number in range(-1, _ROUNDS):  # the first round warms up
            for count, model in models.items():
                began = time.perf_counter()
                model(clip)
                if device.type == "cuda":
                    torch.cuda.synchronize()
                if round_number >= 0:
                    seconds[count].append(time.perf_counter() - began)
    torch.set_num_threads(threads)
    return [
        {
            "streams": count,
            "parameters": sum(p.numel() for p in model.parameters()),
            "flops_per_clip": 2 * count * macs_per_clip(recipe.encoder, size),
            "clips_per_s": _BATCH / statistics.median(seconds[count]),
            "device": str(device),
        }
        for count, model in models.items()
    ]
