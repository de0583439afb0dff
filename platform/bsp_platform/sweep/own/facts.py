"""What is known about videos and machine, which decides the settings: sizes, lengths, and measured speeds."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from bsp import apart
from bsp.clips.catalog import Catalog
from bsp.errors import VideoError
from bsp.pretraining.loop import make_optimiser, prepare_device
from bsp.video.read import probe
from bsp_platform.plan.own import DataFacts
from bsp_platform.plan.recipes import EncoderRecipe
from bsp_platform.work.pretraining import build_model
from bsp_platform.work.streaming import clip_stream, make_clips

_LOOKED_AT = 24  # videos whose size in pixels stands for all
_MEASURE_S = 6.0


def data_facts(catalog: Catalog) -> DataFacts:
    """Facts of these videos; the size of their pictures from some of them."""
    some = np.unique(np.linspace(0, len(catalog) - 1, _LOOKED_AT).astype(int))
    sizes = []
    for video in some:
        try:
            info = probe(catalog.path(int(video)))
        except VideoError:
            continue
        sizes.append((min(info.width, info.height), info.width * info.height))
    short, pixels = (int(np.median(values)) for values in zip(*sizes)) if sizes else (224, 224 * 224)
    return DataFacts(
        videos=len(catalog),
        seconds=round(float(catalog.seconds().sum()), 1),
        short_side_px=short,
        decoded_mb=round(float(catalog.frames.sum()) * pixels * 3 / 2**20, 1),
    )


def measure(recipe: EncoderRecipe, catalog: Catalog, device: str) -> tuple[float, float]:
    """Seconds per clip to train on one (one process) and to make one (one core), both measured at the same time."""
    calls: list[tuple[Any, ...]] = [("train", recipe, catalog, device), ("make", recipe, catalog, device)]
    results = list(apart.in_order(_measure_one, calls, 2))
    for result in results:
        if isinstance(result, Exception):
            raise RuntimeError(f"the speed of this machine cannot be measured: {result}; leave --minutes out") from None
    return results[0], results[1]


def _measure_one(what: str, recipe: EncoderRecipe, catalog: Catalog, device: str) -> float:
    """In a process of its own."""
    stream = clip_stream(recipe, None, frame_cache_mb=64)
    batch = min(16, recipe.training.train.batch_size)
    if what == "make":
        began, clips = time.monotonic(), 0
        make_clips(catalog, stream, range(2))  # the first one pays for imports
        began = time.monotonic()
        while time.monotonic() - began < _MEASURE_S and clips < 2_000:
            make_clips(catalog, stream, range(clips, clips + 4))
            clips += 4
        return (time.monotonic() - began) / clips
    place = torch.device(device)
    prepare_device(place, recipe.training.train.threads)
    model = build_model(replace(recipe, teachers=(), start="", zero_residual=False)).to(place)
    optimiser = make_optimiser(model, recipe.training.train)
    size, frames = recipe.training.augment.size_px, recipe.encoder.clip_frames
    clip = torch.zeros((batch, frames, 3, size, size), device=place)
    seconds: list[float] = []
    while len(seconds) < 2 or (sum(seconds[1:]) < _MEASURE_S and len(seconds) < 50):
        began = time.monotonic()
        with torch.autocast("cuda", dtype=torch.bfloat16, enabled=place.type == "cuda"):
            feat_BTD = model.encoder(clip)
        feat_BTD.float().square().mean().backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        if place.type == "cuda":
            torch.cuda.synchronize(place)
        seconds.append(time.monotonic() - began)
    return float(np.median(seconds[1:])) / batch
