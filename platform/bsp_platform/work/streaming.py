"""Ray Data: the numbered stream of clips, from plan to collated uint8 batches.

A pre-training run is the stream of clips 0 .. N-1. The Ray Data set begins with spans of their numbers; an actor
pool plans, decodes, synthesises and augments it (all pure functions of ``bsp``), so the same clip comes out
whichever worker makes it, and resuming is starting at clip n. One data set covers all epochs: the pipeline
starts once.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import ray
from ray.data import ActorPoolStrategy, Dataset
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask
from typing_extensions import override

from bsp.clips.augment import AugmentSettings, augment_clip
from bsp.clips.catalog import Catalog
from bsp.clips.frame_cache import FrameCache
from bsp.clips.plan import ClipPlan, ClipSettings, plan_clip
from bsp.clips.synthesis import collate, decode, synthesise
from bsp.errors import VideoError
from bsp_platform.work.bottleneck import MAKER, MakerClock
from bsp_platform.work.cluster.ray_internals import (
    ENABLED_BACKPRESSURE_POLICIES_CONFIG_KEY,
    BackpressurePolicy,
    ExecutionCallback,
    data_context,
)
from bsp_platform.work.cluster.start import object_store_bytes
from bsp_platform.work.cluster.stream_size import StreamSize, clip_bytes, room_of_stream, stream_size

if TYPE_CHECKING:
    from bsp_platform.plan.recipes import EncoderRecipe

_LOOP_PAUSE_S = 0.05  # clip makers have tasks waiting meanwhile
_SPANS_AHEAD = 64  # waiting for a clip maker; far more than makers
_TASKS_IN_FLIGHT = "bsp.tasks_in_flight"  # key of Ray Data's context: StreamSize.tasks


@dataclass(frozen=True, kw_only=True)
class ClipStream:
    """The settings that determine clip k of a stream, and its cut; small, as the catalog is a reference."""

    catalog: ray.ObjectRef | None  # of a Catalog; None where the catalog is given beside it
    clips: ClipSettings
    augment: AugmentSettings
    seed: int
    batch_size: int  # clips per step over all workers
    length: int  # clips
    time_limit_s: float = 60.0  # per video file
    frame_cache_mb: int = 0  # decoded videos kept per clip maker, 0 = off; changes no clip
    # (catalog, plan, time_limit_s=, cache=) -> the planned frames of each video; simulations bring their own
    decode: Callable[..., list[np.ndarray]] = decode
    plan: Callable[[Catalog, ClipSettings, int, int], ClipPlan] = plan_clip  # a pretext brings its own ...
    synthesise: Callable[[ClipPlan, Sequence[np.ndarray]], np.ndarray] = synthesise  # ... and this


def clip_stream(recipe: EncoderRecipe, catalog: Any, *, frame_cache_mb: int = 0, seed: int | None = None) -> ClipStream:
    """The stream of clips of a recipe; ``catalog``: a reference, or None."""
    pretext, clips, augment, train = recipe.training
    return ClipStream(
        catalog=catalog,
        clips=clips,
        augment=augment,
        seed=recipe.seed if seed is None else seed,
        batch_size=train.batch_size,
        length=train.clips,
        frame_cache_mb=frame_cache_mb,
        plan=pretext.plan,
        synthesise=pretext.synthesise,
    )


def make_clips(
    catalog: Catalog, stream: ClipStream, indices: Iterable[int], cache: FrameCache | None = None
) -> dict[str, np.ndarray]:
    """Clips ``indices`` as one batch: "clip" uint8 [B, T, H, W, 3], "label", "change_point", "index", "error", and
    "damaged", int64 [B]: the source frames of the clip that FFmpeg flags as damaged.

    A clip whose video cannot be read is all zeros and has the reason in "error" (else ""): the consumer counts and
    names it and never replaces it.
    """
    plans, clips, errors, damaged = [], [], [], []
    cache = cache or FrameCache(0)
    size = stream.augment.size_px
    for index in indices:
        plan = stream.plan(catalog, stream.clips, stream.seed, int(index))
        before = cache.damaged
        try:
            frames = stream.decode(catalog, plan, time_limit_s=stream.time_limit_s, cache=cache)
            clip = np.ascontiguousarray(stream.synthesise(plan, frames))  # a pretext may give a view
            clip = augment_clip(clip, stream.augment, plan.augment_seed)
            errors.append("")
        except VideoError as error:
            clip = np.zeros((len(plan.weights), size, size, 3), np.uint8)
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
        assert stream.catalog is not None
        self.catalog = ray.get(stream.catalog)
        self.cache = FrameCache(stream.frame_cache_mb * 2**20)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Spans of clip numbers -> a batch of clips."""
        spans = zip(batch["first"], batch["last"], strict=True)
        indices = np.concatenate([clip_numbers(int(first), int(last), **self.cut) for first, last in spans])
        with self.clock:
            clips = make_clips(self.catalog, self.stream, indices, self.cache)
        return clips | {MAKER: self.clock.column(len(indices))}


def worker_span(start: int, stop: int, *, batch_size: int, world_size: int) -> tuple[int, int]:
    """The first and last (exclusive) of a worker's own clips in the stream [start, stop), counted from 0.

    ``start`` and ``stop`` must be multiples of ``batch_size``, and that of ``world_size`` (ValueError).
    """
    if batch_size % world_size:
        raise ValueError(f"batch_size {batch_size} cannot be shared by {world_size} workers equally")
    if start % batch_size or stop % batch_size:
        raise ValueError(f"the stream [{start}, {stop}) is not cut at multiples of batch_size {batch_size}")
    return start // world_size, stop // world_size


def clip_numbers(first: int, last: int, *, batch_size: int, rank: int, world_size: int) -> np.ndarray:
    """Numbers in the stream, int64, of clips ``first`` .. ``last`` - 1 of those that are this worker's, in order.

    Step s trains on clips [s*batch_size, (s+1)*batch_size); worker r takes the r-th equal part of it. Of a stream
    of batches of 6 for two workers the second one's are 3, 4, 5, 9, 10, 11, ...: its clips 2 .. 3 are 5 and 9.
    """
    part = batch_size // world_size
    own = np.arange(first, last, dtype=np.int64)
    return own // part * batch_size + rank * part + own % part


class ClipSpans(Datasource):
    """Source of spans of a worker's clips, a row each: "first" and "last" (exclusive), one task of a clip maker.

    A span has ``most`` clips or fewer, wherever batches begin. The first ones have ``least``, so that training starts
    soon and every one of ``actors`` clip makers has work at once, and each next round of spans is twice as long. One
    read task gives one small block, which Ray Data splits into blocks of a row while the stream runs
    (``override_num_blocks`` = number of spans). A read task per span would be made before the first clip: with twelve
    million clips of 224 px 920,000 of them (docs/scale.md).
    """

    def __init__(self, start: int, stop: int, *, least: int, most: int, actors: int):
        super().__init__()
        self.cut = {"start": start, "stop": stop, "least": least, "most": most, "actors": actors}
        self.first, self.last = cut_spans(**self.cut)

    def __len__(self) -> int:
        return len(self.first)

    @override
    def estimate_inmemory_data_size(self) -> int:
        return self.first.nbytes + self.last.nbytes

    @override
    def get_read_tasks(self, parallelism: int, per_task_row_limit=None, data_context=None) -> list[ReadTask]:
        size = self.estimate_inmemory_data_size()
        facts = BlockMetadata(num_rows=len(self), size_bytes=size, input_files=None, exec_stats=None)
        return [ReadTask(functools.partial(_read_spans, **self.cut), facts)]


def spans_of(first: int, last: int, batch_size: int, size: StreamSize) -> ClipSpans:
    """A worker's clips first .. last - 1 as tasks; all clip makers make the first of its batches together."""
    least = min(size.task_clips, -(-batch_size // size.makers))
    return ClipSpans(first, last, least=least, most=size.task_clips, actors=size.makers)


def cut_spans(start: int, stop: int, *, least: int, most: int, actors: int) -> tuple[np.ndarray, np.ndarray]:
    """First and last (exclusive) clip of each span of ``ClipSpans``, int64."""
    lengths = []
    while least < most:
        lengths += [least] * actors
        least *= 2
    first = start + np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64)
    rest = np.arange(first[-1] + most, stop, most, dtype=np.int64)
    first = np.concatenate([first[first < stop], rest])
    return first, np.append(first[1:], stop)[: len(first)]


def _read_spans(**cut: int) -> Iterator:
    import pyarrow

    # Cut again here: Ray refuses a read task that carries more than a megabyte.
    first, last = cut_spans(**cut)
    yield pyarrow.table({"first": first, "last": last})


def _operators(topology, name: str) -> set:
    """Ray Data's operators of that name, whatever follows after an arrow; found once, as the names are computed."""
    return {op for op in topology if op.name.split("->")[0] == name}


class FewSpansAhead(BackpressurePolicy):
    """Bound the spans that wait for clip makers: Ray Data's own limits count bytes, and a span has few."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self._sources = _operators(self._topology, "Read" + ClipSpans.__name__)

    @override
    def max_task_output_bytes_to_read(self, op) -> int | None:
        if op not in self._sources:
            return None
        return 0 if self._topology[op].total_enqueued_output_blocks() >= _SPANS_AHEAD else None  # None: no limit


class BoundInFlight(BackpressurePolicy):
    """Give clip makers no more tasks than ``StreamSize.tasks``, including finished blocks that are not taken.

    Replaces Ray Data's own policies, which extrapolate from past sizes and leave half of the store unused.
    """

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self._makers = _operators(self._topology, f"MapBatches({ClipMaker.__name__})")

    @override
    def can_add_input(self, op) -> bool:
        if op not in self._makers:
            return True
        tasks = op.num_active_tasks() + self._topology[op].total_enqueued_output_blocks()
        return tasks < self._data_context.get_config(_TASKS_IN_FLIGHT)


class ThrottledLoop(ExecutionCallback):
    """Let Ray Data's scheduling loop, a thread of the training process, sleep between its steps.

    While finished clips wait for the trainer the loop never blocks; it would take the interpreter lock from
    the training thread most of the time (measured: 80 clips/s instead of 200).
    """

    @override
    def on_execution_step(self, executor) -> None:
        time.sleep(_LOOP_PAUSE_S)


def size_of_stream(stream: ClipStream, actors: int, streams: int = 1) -> StreamSize:
    """How the stream is cut on the running Ray, whose object store it shares with ``streams`` - 1 others."""
    clip = clip_bytes(stream.clips.half_len, stream.augment.size_px)
    return stream_size(clip, actors, room_of_stream(object_store_bytes(), streams))


def clip_dataset(
    stream: ClipStream,
    *,
    start: int = 0,
    rank: int = 0,
    world_size: int = 1,
    actors: int = 1,
    cpus_per_actor: float = 1.0,
    streams: int = 1,
) -> Dataset:
    """This worker's part of the stream from clip ``start`` on, as a lazy Ray Data set of rendered clips.

    The set needs ``actors * cpus_per_actor`` CPUs; the task that gives out spans of numbers needs none. ``streams``
    share the object store (``stream_size.streams_at_a_time``). ``start`` and ``stream.length`` must be multiples of
    ``stream.batch_size``, and that of ``world_size`` (ValueError).
    """
    first, last = worker_span(start, stream.length, batch_size=stream.batch_size, world_size=world_size)
    size = size_of_stream(stream, actors, streams)
    spans = spans_of(first, last, stream.batch_size // world_size, size)
    with data_context(read_buffer_blocks=_SPANS_AHEAD) as context:  # spans that may wait at their source
        context.custom_execution_callback_classes.append(ThrottledLoop)
        context.set_config(ENABLED_BACKPRESSURE_POLICIES_CONFIG_KEY, [FewSpansAhead, BoundInFlight])
        context.set_config(_TASKS_IN_FLIGHT, size.tasks)
        context.execution_options.preserve_order = True
        context.memory_usage_poll_interval_s = None  # else each task starts a thread that measures memory
        numbers = ray.data.read_datasource(spans, num_cpus=0, override_num_blocks=max(1, len(spans)))
        return numbers.map_batches(
            ClipMaker,
            fn_constructor_args=(stream, rank, world_size),
            batch_size=None,
            batch_format="numpy",
            compute=ActorPoolStrategy(size=actors, max_tasks_in_flight_per_actor=size.ahead),
            num_cpus=cpus_per_actor,
        )


def iterate_batches(
    dataset: Dataset, batch_size: int, empty: Callable[[tuple[int, ...], np.dtype], np.ndarray] = np.empty
) -> Generator[dict[str, np.ndarray], None, None]:
    """Numpy batches of exactly ``batch_size`` clips (the last one may be smaller), in the stream's order.

    Blocks are taken uncut, one ahead: cutting by Ray Data needs two more threads in the training process and two
    queues per batch. Each block is copied once, into its place in the batch, and leaves the object store; ``empty``
    (shape, dtype) gives the memory for numbers of a batch: pinned where it goes to a GPU (``prefetch.empty_for``).
    """
    batch = _Batch(batch_size, empty)
    for block in dataset.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=1):
        first, clips = 0, len(block["index"])
        while first < clips:
            first += batch.add(block, first)
            if batch.clips == batch_size:
                yield batch.take()
        del block  # before the next one is asked for
    if batch.clips:
        yield batch.take()


class _Batch:
    """A batch that is filled from blocks; its memory is asked for with the first clips."""

    def __init__(self, size: int, empty: Callable[[tuple[int, ...], np.dtype], np.ndarray]):
        self.size, self.empty = size, empty
        self._reset()

    def _reset(self) -> None:
        self.clips = 0
        self.numbers: dict[str, np.ndarray] = {}
        self.texts: dict[str, list[np.ndarray]] = {}  # joined at the end: their widths differ

    def add(self, block: dict[str, np.ndarray], first: int) -> int:
        """Take over as many clips of a block, from ``first`` on, as there is room for; returns their number."""
        count = min(self.size - self.clips, len(block["index"]) - first)
        for name, array in block.items():
            piece = array[first : first + count]
            if array.dtype.kind not in "biuf":
                self.texts.setdefault(name, []).append(piece)
                continue
            if name not in self.numbers:
                self.numbers[name] = self.empty((self.size, *array.shape[1:]), array.dtype)
            self.numbers[name][self.clips : self.clips + count] = piece
        self.clips += count
        return count

    def take(self) -> dict[str, np.ndarray]:
        """The clips that are there; the next batch begins."""
        batch = {name: array[: self.clips] for name, array in self.numbers.items()}
        batch |= {name: np.concatenate(pieces) for name, pieces in self.texts.items()}
        self._reset()
        return batch
