"""Ray Data: the numbered stream of clips, from plan to collated uint8 batches.

A pre-training run is the stream of clips 0 .. N-1. Each row of the Ray Data set is a clip's number; an actor
pool plans, decodes, synthesises and augments it (all pure functions of ``bsp``), so the same clip comes out
whichever worker makes it, and resuming is starting at clip n. One data set covers all epochs: the pipeline
starts once.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import ray
from ray.data import ActorPoolStrategy, DataContext, Dataset
from ray.data._internal.execution.execution_callback import ExecutionCallback
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask

from bsp.augment import AugmentSettings
from bsp.catalog import Catalog
from bsp.clips import ClipSettings, plan_clip
from bsp.errors import VideoError
from bsp.frame_cache import FrameCache
from bsp.synthesis import collate, render_clip

_BREATH_S = 0.02  # far below the time of a task (two batches), so that it delays nothing


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


def make_clips(
    catalog: Catalog, stream: ClipStream, indices: Iterable[int], cache: FrameCache | None = None
) -> dict[str, np.ndarray]:
    """Clips ``indices`` as one batch: "clip" uint8 [B, T, H, W, 3], "label", "change_point", "index", "error".

    A clip whose video cannot be read is all zeros and carries the reason in "error" (else ""): it is counted
    and named by the consumer, never replaced.
    """
    plans, clips, errors = [], [], []
    size = stream.augment.size_px
    for index in indices:
        plan = plan_clip(catalog, stream.clips, stream.seed, int(index))
        try:
            clip = render_clip(catalog, plan, stream.augment, time_limit_s=stream.time_limit_s, cache=cache)
            errors.append("")
        except VideoError as error:
            clip = np.zeros((2 * stream.clips.half_len, size, size, 3), np.uint8)
            errors.append(f"clip {index}: {error}")
        plans.append(plan)
        clips.append(clip)
    return {**collate(plans, clips), "error": np.array(errors, dtype=np.str_)}


class ClipMaker:
    """The actor of the pool: holds the catalog (zero-copy from the object store) and makes batches."""

    def __init__(self, stream: ClipStream):
        import torch

        torch.set_num_threads(1)
        self.stream = stream
        self.catalog = ray.get(stream.catalog)
        self.cache = FrameCache(stream.frame_cache_mb * 2**20)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return make_clips(self.catalog, self.stream, batch["index"], self.cache)


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


class ClipNumbers(Datasource):
    """Source of clip numbers: ``rows_per_task`` rows per read task, no list of the whole stream anywhere."""

    def __init__(self, start: int, stop: int, *, batch_size: int, rank: int, world_size: int, batches_per_task: int):
        super().__init__()
        self._span = (start, stop)
        self._cut = {"batch_size": batch_size, "rank": rank, "world_size": world_size}
        self._task_clips = batches_per_task * batch_size

    def estimate_inmemory_data_size(self) -> int:
        return 8 * (self._span[1] - self._span[0]) // self._cut["world_size"]

    def get_read_tasks(self, parallelism: int, per_task_row_limit=None, data_context=None) -> list[ReadTask]:
        tasks = []
        for first in range(self._span[0], self._span[1], self._task_clips):
            last = min(first + self._task_clips, self._span[1])
            rows = (last - first) // self._cut["world_size"]
            facts = BlockMetadata(num_rows=rows, size_bytes=8 * rows, input_files=None, exec_stats=None)
            tasks.append(ReadTask(functools.partial(_read_numbers, first, last, self._cut), facts))
        return tasks


def _read_numbers(first: int, last: int, cut: dict[str, int]) -> Iterator:
    import pyarrow

    yield pyarrow.table({"index": worker_indices(first, last, **cut)})


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

    Reading numbers and making clips have equal resource demands, so Ray fuses them into the actor pool: the
    set needs ``actors * cpus_per_actor`` CPUs and nothing else.
    """
    context = DataContext.get_current()
    if Breathe not in context.custom_execution_callback_classes:
        context.custom_execution_callback_classes.append(Breathe)
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    context.enable_operator_progress_bars = False
    # A task is a few batches: large enough to hide the task overhead, small enough to be redone.
    source = ClipNumbers(
        start,
        stream.length,
        batch_size=stream.batch_size,
        rank=rank,
        world_size=world_size,
        batches_per_task=2,
    )
    numbers = ray.data.read_datasource(source, num_cpus=cpus_per_actor)
    return numbers.map_batches(
        ClipMaker,
        fn_constructor_args=(stream,),
        batch_size=None,
        batch_format="numpy",
        compute=ActorPoolStrategy(size=actors),
        num_cpus=cpus_per_actor,
    )


def iterate_batches(dataset: Dataset, batch_size: int, *, prefetch_batches: int = 2) -> Iterator[dict]:
    """Numpy batches of exactly ``batch_size`` clips, in the stream's order."""
    return iter(
        dataset.iter_batches(
            batch_size=batch_size, batch_format="numpy", prefetch_batches=prefetch_batches, drop_last=False
        )
    )
