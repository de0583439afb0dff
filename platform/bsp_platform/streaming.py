"""Ray Data: the numbered stream of clips, from plan to collated uint8 batches.

A pre-training run is the stream of clips 0 .. N-1. The Ray Data set begins with spans of their numbers; an actor
pool plans, decodes, synthesises and augments it (all pure functions of ``bsp``), so the same clip comes out
whichever worker makes it, and resuming is starting at clip n. One data set covers all epochs: the pipeline
starts once.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import ray
from ray.data import ActorPoolStrategy, Dataset
from ray.data._internal.execution.backpressure_policy import (
    ENABLED_BACKPRESSURE_POLICIES,
    ENABLED_BACKPRESSURE_POLICIES_CONFIG_KEY,
)
from ray.data._internal.execution.backpressure_policy.backpressure_policy import BackpressurePolicy
from ray.data._internal.execution.execution_callback import ExecutionCallback
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask

from bsp.augment import AugmentSettings, augment_clip
from bsp.catalog import Catalog
from bsp.clips import ClipSettings, plan_clip
from bsp.errors import VideoError
from bsp.frame_cache import FrameCache
from bsp.synthesis import collate, decode, synthesise
from bsp_platform.bottleneck import MAKER, MakerClock
from bsp_platform.data_context import data_context

_BREATH_S = 0.05  # clip makers have tasks waiting meanwhile
_TASK_BYTES = 16 * 2**20  # of clips, at most (but a batch)
_SPANS_AHEAD = 64  # waiting for a clip maker; far more than makers
_TASKS_AHEAD = 8  # of 16 MiB, running or waiting at a clip maker; more than it ends in a turn of Ray Data's loop, 0.1 s


@dataclass(frozen=True, kw_only=True)
class ClipStream:
    """What decides clip k of a stream, and how to cut it; small, and the catalog is a reference."""

    catalog: ray.ObjectRef  # of a Catalog
    clips: ClipSettings
    augment: AugmentSettings
    seed: int
    batch_size: int  # clips per step over all workers
    length: int  # clips
    time_limit_s: float = 60.0  # per video file
    frame_cache_mb: int = 0  # decoded videos kept per clip maker, 0 = off; changes no clip
    # (catalog, plan, time_limit_s=, cache=) -> the planned frames of each video; simulations bring their own
    decode: Callable[..., list[np.ndarray]] = decode


def make_clips(
    catalog: Catalog, stream: ClipStream, indices: Iterable[int], cache: FrameCache | None = None
) -> dict[str, np.ndarray]:
    """Clips ``indices`` as one batch: "clip" uint8 [B, T, H, W, 3], "label", "change_point", "index", "error", and
    "damaged", int64 [B]: the source frames of the clip that FFmpeg flags as damaged.

    A clip whose video cannot be read is all zeros and carries the reason in "error" (else ""): it is counted
    and named by the consumer, never replaced.
    """
    plans, clips, errors, damaged = [], [], [], []
    cache = cache or FrameCache(0)
    size = stream.augment.size_px
    for index in indices:
        plan = plan_clip(catalog, stream.clips, stream.seed, int(index))
        before = cache.damaged
        try:
            frames = stream.decode(catalog, plan, time_limit_s=stream.time_limit_s, cache=cache)
            clip = augment_clip(synthesise(plan, frames), stream.augment, plan.augment_seed)
            errors.append("")
        except VideoError as error:
            clip = np.zeros((2 * stream.clips.half_len, size, size, 3), np.uint8)
            errors.append(f"clip {index}: {error}")
        plans.append(plan)
        clips.append(clip)
        damaged.append(cache.damaged - before)
    return {
        **collate(plans, clips),
        "error": np.array(errors, dtype=np.str_),
        "damaged": np.array(damaged, np.int64),
    }


class ClipMaker:
    """The actor of the pool: holds the catalog (zero-copy from the object store) and makes batches."""

    def __init__(self, stream: ClipStream, rank: int, world_size: int):
        import torch

        torch.set_num_threads(1)
        self.clock = MakerClock()
        self.stream = replace(stream, decode=self.clock.timed(stream.decode))
        self.cut = {"batch_size": stream.batch_size, "rank": rank, "world_size": world_size}
        self.catalog = ray.get(stream.catalog)
        self.cache = FrameCache(stream.frame_cache_mb * 2**20)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        spans = zip(batch["first"], batch["last"], strict=True)
        indices = np.concatenate([worker_indices(int(first), int(last), **self.cut) for first, last in spans])
        with self.clock:
            clips = make_clips(self.catalog, self.stream, indices, self.cache)
        return clips | {MAKER: self.clock.column(len(indices))}


def clip_bytes(stream: ClipStream) -> int:
    """Bytes of one clip's pixels, uint8 [T, H, W, 3]."""
    return 2 * stream.clips.half_len * stream.augment.size_px**2 * 3


def worker_indices(start: int, stop: int, *, batch_size: int, rank: int, world_size: int) -> np.ndarray:
    """Numbers of this worker's clips, int64, in order.

    Step s trains on clips [s*batch_size, (s+1)*batch_size); worker r takes the r-th equal part of it.
    ``start`` must be a multiple of ``batch_size``, and ``batch_size`` of ``world_size`` (ValueError).
    """
    if batch_size % world_size:
        raise ValueError(f"batch_size {batch_size} cannot be shared by {world_size} workers equally")
    if start % batch_size or stop % batch_size:
        raise ValueError(f"the stream [{start}, {stop}) is not cut at multiples of batch_size {batch_size}")
    part = batch_size // world_size
    steps = np.arange(start // batch_size, stop // batch_size, dtype=np.int64)
    return (steps[:, None] * batch_size + rank * part + np.arange(part)[None]).reshape(-1)


class ClipSpans(Datasource):
    """Source of spans of clip numbers, a row each: "first" and "last" (exclusive), one task of a clip maker.

    A span has ``batches`` batches or fewer: the first ones are short, so that training starts soon and every one of
    ``actors`` clip makers has work at once, and each next round of spans is twice as long. One read task gives one
    small block, which Ray Data splits into blocks of a row while the stream runs (``override_num_blocks`` = number
    of spans). A read task per span would be made before the first clip: with twelve million clips 47,000 of them
    (docs/scale.md).
    """

    def __init__(self, start: int, stop: int, *, batch_size: int, batches: int, actors: int):
        super().__init__()
        ramp = [length for length in (1, 2, 4, 8, 16, 32) if length < batches for _ in range(actors)]
        ends = start + batch_size * np.cumsum(ramp, dtype=np.int64)
        first = np.concatenate([[start], ends]).astype(np.int64)
        rest = np.arange(first[-1] + batch_size * batches, stop, batch_size * batches, dtype=np.int64)
        self.first = np.concatenate([first[first < stop], rest])
        self.last = np.append(self.first[1:], stop)[: len(self.first)]

    def __len__(self) -> int:
        return len(self.first)

    def estimate_inmemory_data_size(self) -> int:
        return self.first.nbytes + self.last.nbytes

    def get_read_tasks(self, parallelism: int, per_task_row_limit=None, data_context=None) -> list[ReadTask]:
        size = self.estimate_inmemory_data_size()
        facts = BlockMetadata(num_rows=len(self), size_bytes=size, input_files=None, exec_stats=None)
        return [ReadTask(functools.partial(_read_spans, self.first, self.last), facts)]


def _read_spans(first: np.ndarray, last: np.ndarray) -> Iterator:
    import pyarrow

    yield pyarrow.table({"first": first, "last": last})


class FewSpansAhead(BackpressurePolicy):
    """Hold the spans back until clip makers need them: Ray Data's own limits count bytes, and a span has hardly any."""

    def max_task_output_bytes_to_read(self, op) -> int | None:
        if op.name != "Read" + ClipSpans.__name__ and not op.name.startswith(f"Read{ClipSpans.__name__}->"):
            return None
        return 0 if self._topology[op].total_enqueued_output_blocks() >= _SPANS_AHEAD else None  # None: no limit


class Breathe(ExecutionCallback):
    """Let Ray Data's scheduling loop, a thread of the training process, sleep between its steps.

    While finished clips wait for the trainer the loop never blocks; it would take the interpreter lock from
    the training thread most of the time (measured: 80 clips/s instead of 200).
    """

    def on_execution_step(self, executor) -> None:
        time.sleep(_BREATH_S)


def clip_dataset(
    stream: ClipStream,
    *,
    start: int = 0,
    rank: int = 0,
    world_size: int = 1,
    actors: int = 1,
    cpus_per_actor: float = 1.0,
) -> Dataset:
    """This worker's part of the stream from clip ``start`` on, as a lazy Ray Data set of rendered clips.

    The set needs ``actors * cpus_per_actor`` CPUs; the task that gives out spans of numbers needs none.
    """
    # A task costs Ray some ms, so it makes many clips where they are small. Much longer ones lose: arrays above 32 MiB
    # come fresh from the kernel each time (docs/performance.md).
    batch_bytes = clip_bytes(stream) * stream.batch_size // world_size
    batches = max(1, _TASK_BYTES // batch_bytes)
    # Fewer large ones: they take longer, and would fill the object store.
    ahead = min(_TASKS_AHEAD, max(2, _TASKS_AHEAD * _TASK_BYTES // batch_bytes))
    spans = ClipSpans(start, stream.length, batch_size=stream.batch_size, batches=batches, actors=actors)
    with data_context() as context:
        context.custom_execution_callback_classes.append(Breathe)
        context.set_config(ENABLED_BACKPRESSURE_POLICIES_CONFIG_KEY, [*ENABLED_BACKPRESSURE_POLICIES, FewSpansAhead])
        context.execution_options.preserve_order = True
        context.memory_usage_poll_interval_s = None  # else each task starts a thread that measures memory
        # Spans that may wait at their source; of Ray Data's default, two, a turn of its loop takes no more than two.
        context._max_num_blocks_in_streaming_gen_buffer = _SPANS_AHEAD
        numbers = ray.data.read_datasource(spans, num_cpus=0, override_num_blocks=max(1, len(spans)))
        return numbers.map_batches(
            ClipMaker,
            fn_constructor_args=(stream, rank, world_size),
            batch_size=None,
            batch_format="numpy",
            compute=ActorPoolStrategy(size=actors, max_tasks_in_flight_per_actor=ahead),
            num_cpus=cpus_per_actor,
        )


def iterate_batches(dataset: Dataset, batch_size: int) -> Iterator[dict]:
    """Numpy batches of exactly ``batch_size`` clips (the last one may be smaller), in the stream's order; read-only.

    They are views of the blocks in the object store. Blocks are taken whole, one ahead, and cut here: letting Ray
    Data cut them costs two more threads in the training process and two hand-overs per batch.
    """
    rest: dict[str, np.ndarray] = {}
    for block in dataset.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=1):
        if rest:  # Ray Data has split a block of far more than 128 MiB
            block = {name: np.concatenate([rest[name], array]) for name, array in block.items()}
        clips = len(block["index"])
        whole = clips // batch_size * batch_size
        for first in range(0, whole, batch_size):
            yield {name: array[first : first + batch_size] for name, array in block.items()}
        rest = {name: array[whole:] for name, array in block.items()} if whole < clips else {}
    if rest:
        yield rest
