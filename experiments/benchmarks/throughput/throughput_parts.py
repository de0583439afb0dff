"""One process, one thread: what each stage of a clip costs, and which reader decodes fastest."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import ray
import torch

from bsp.clips.augment import augment_clip
from bsp.clips.frame_cache import FrameCache
from bsp.clips.plan import plan_clip
from bsp.clips.synthesis import collate, decode, synthesise
from bsp.encoders.build import build_encoder
from bsp.encoders.contract import Architecture
from bsp.pretraining.contract import PretextModel
from bsp.pretraining.loop import TrainSettings, make_optimiser, train_steps
from bsp.pretraining.pretext import PretextSettings
from bsp.video.read import READERS, read_frames
from bsp_platform.plan.profiles import mini
from throughput_clock import in_turns, seconds_per_call
from throughput_sources import PREPARED, RAW, Source


def training_step(source: Source, batch: dict[str, np.ndarray], encoder: Architecture) -> Callable[[], Any]:
    """A function that trains one step of ``bsp.pretraining.loop`` on ``batch``, over and over."""
    pretext = PretextSettings(task="classification", kinds=source.stream.clips.kinds)
    size = len(batch["label"])
    settings = TrainSettings(clips=size * 10**6, batch_size=size, log_every_steps=10**6, checkpoint_every_steps=10**6)
    model = PretextModel(build_encoder(encoder, 0), pretext, seed=0)
    optimiser = make_optimiser(model, settings)
    steps = train_steps(
        model,
        optimiser,
        itertools.repeat(batch),
        loss=pretext.loss,
        settings=settings,
        device=torch.device("cpu"),
    )
    return lambda: next(steps)


def measure_stages(source: Source, *, seconds: float, rounds: int) -> dict[str, float]:
    """Milliseconds per clip of each stage, medians over the rounds; "object store" is putting and getting a batch.

    The training step is that of profile mini (TSM R18, width 16) at the clip size of the source.
    """
    stream, catalog = source.stream, source.catalog
    cache = FrameCache(stream.frame_cache_mb * 2**20)
    size = stream.batch_size
    numbers = itertools.count(10**6)  # clips that nothing else has read
    plans = [plan_clip(catalog, stream.clips, stream.seed, k) for k in range(size)]
    frames = [decode(catalog, plan, cache=cache) for plan in plans]
    if stream.frame_cache_mb:
        for video in range(len(catalog)):  # warm, as in the middle of a run
            first = int(catalog.first_frame[video])
            cache.read(
                catalog.path(video), np.array([first]), first=first, frames=int(catalog.frames[video]),
                reader=READERS[catalog.readers[video]], time_limit_s=60.0,
            )  # fmt: skip
    drawn = [synthesise(plan, pixels) for plan, pixels in zip(plans, frames, strict=True)]
    clips = [augment_clip(clip, stream.augment, plan.augment_seed) for plan, clip in zip(plans, drawn, strict=True)]
    batch = collate(plans, clips)

    def decode_next() -> None:
        decode(catalog, plan_clip(catalog, stream.clips, stream.seed, next(numbers)), cache=cache)

    def pass_on() -> None:
        got = ray.get(ray.put(batch))
        np.require(got["clip"], requirements=["C", "W"])

    step = training_step(source, batch, mini().encoder)
    step()
    work: dict[str, tuple[Callable[[], Any], int]] = {
        "plan": (lambda: plan_clip(catalog, stream.clips, stream.seed, next(numbers)), 1),
        "decode": (decode_next, 1),
        "synthesise": (lambda: [synthesise(p, f) for p, f in zip(plans, frames, strict=True)], size),
        "augment": (
            lambda: [augment_clip(c, stream.augment, p.augment_seed) for p, c in zip(plans, drawn, strict=True)],
            size,
        ),
        "collate": (lambda: collate(plans, clips), size),
        "object store": (pass_on, size),
        "training step": (step, size),
    }

    def ms_per_clip(do: Callable[[], Any], clips: int) -> float:
        return 1000 * seconds_per_call(do, seconds) / clips

    taken = in_turns(
        {name: partial(ms_per_clip, do, clips) for name, (do, clips) in work.items()},
        rounds,
    )
    medians = {name: float(np.median(values)) for name, values in taken.items()}
    medians["decode"] = max(0.0, medians["decode"] - medians["plan"])
    return medians | {"bytes": float(batch["clip"][0].nbytes)}


def readers() -> dict[str, Callable[[str, np.ndarray], np.ndarray]]:
    """The platform's readers and, if it is installed and works, torchcodec: (path, frame numbers) -> frames."""
    found: dict[str, Callable[[str, np.ndarray], np.ndarray]] = {
        name: partial(read_frames, reader=name)
        for name in READERS
        if name != "decord"  # which reads AVI only, and these are mp4
    }
    try:
        from torchcodec.decoders import VideoDecoder  # type: ignore[import-not-found]
    except (ImportError, OSError, RuntimeError):  # a CUDA build on a machine without CUDA raises any of these
        return found

    def torchcodec(path: str, indices: np.ndarray) -> np.ndarray:
        decoder = VideoDecoder(path, num_ffmpeg_threads=1, dimension_order="NHWC")
        return decoder.get_frames_at(np.unique(indices).tolist()).data.numpy()

    return found | {"torchcodec": torchcodec}


def measure_readers(sources: dict[str, Source], *, plans: int, rounds: int) -> dict[str, dict[str, float]]:
    """{source: {reader: CPU ms per clip}} for the frames of the same planned clips, the file opened each time."""
    result = {}
    for name in (RAW, PREPARED):
        catalog, stream = sources[name].catalog, sources[name].stream
        wanted = [
            (catalog.path(video), frames)
            for k in range(plans)
            for plan in [plan_clip(catalog, stream.clips, stream.seed, k)]
            for video, frames in zip(plan.videos, plan.frames, strict=True)
        ]

        def cpu_ms(read: Callable, wanted=wanted) -> float:
            began = time.process_time()
            for path, frames in wanted:
                read(path, frames)
            return 1000 * (time.process_time() - began) / plans

        taken = in_turns({reader: partial(cpu_ms, read) for reader, read in readers().items()}, rounds)
        result[name] = {reader: float(np.median(values)) for reader, values in taken.items()}
    return result
