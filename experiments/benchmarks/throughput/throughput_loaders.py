"""Three loaders that do the same work: batches of the same stream of clips, by the same pure functions, in order.

Each takes (catalog, stream, number of workers) and yields dicts of arrays. The plain process pool is the yardstick:
nothing but ``concurrent.futures`` and pickling. PyTorch's ``DataLoader`` sends its batches through shared memory. Ray
Data is used exactly as training uses it. Only the third one survives a dead worker and reaches other machines.
"""

from __future__ import annotations

import itertools
import multiprocessing
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np

from bsp.clips.catalog import Catalog
from bsp.clips.frame_cache import FrameCache
from bsp_platform.work.streaming import ClipStream, clip_dataset, iterate_batches, make_clips

Batches = Iterator[dict[str, np.ndarray]]
_AHEAD = 2  # batches per worker that wait for the consumer, as in the DataLoader (its prefetch_factor)


class BatchMaker:
    """Batch number ``step`` of the stream, in a worker process. Also what DataLoader calls a map-style data set."""

    def __init__(self, catalog: Catalog, stream: ClipStream):
        self.catalog, self.stream = catalog, replace(stream, catalog=None)  # Ray's reference stays with Ray
        self.cache: FrameCache | None = None

    def __len__(self) -> int:
        return self.stream.length // self.stream.batch_size

    def __getitem__(self, step: int) -> dict[str, np.ndarray]:
        if self.cache is None:  # the first call in this process
            import torch

            torch.set_num_threads(1)
            self.cache = FrameCache(self.stream.frame_cache_mb * 2**20)
        size = self.stream.batch_size
        return make_clips(self.catalog, self.stream, range(step * size, (step + 1) * size), self.cache)


_maker: BatchMaker  # of a pool's process


def _start(maker: BatchMaker) -> None:
    global _maker  # noqa: PLW0603  # one for each process of the pool
    _maker = maker


def _make(step: int) -> dict[str, np.ndarray]:
    return _maker[step]


def pool_batches(catalog: Catalog, stream: ClipStream, workers: int) -> Batches:
    """A plain process pool of ``workers`` processes; ``_AHEAD`` batches per worker are asked for ahead."""
    maker = BatchMaker(catalog, stream)
    context = multiprocessing.get_context("forkserver")
    with ProcessPoolExecutor(workers, context, initializer=_start, initargs=(maker,)) as pool:
        steps = iter(range(len(maker)))
        asked = deque(pool.submit(_make, step) for step in itertools.islice(steps, (_AHEAD + 1) * workers))
        try:
            while asked:
                batch = asked.popleft().result()
                asked.extend(pool.submit(_make, step) for step in itertools.islice(steps, 1))
                yield batch
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def torch_batches(catalog: Catalog, stream: ClipStream, workers: int) -> Batches:
    """``torch.utils.data.DataLoader`` with ``workers`` processes; each batch is made by one of them."""
    from torch.utils.data import DataLoader

    loader: DataLoader[Any] = DataLoader(
        BatchMaker(catalog, stream),  # type: ignore[arg-type]  # it has a length and items
        batch_size=None,
        num_workers=workers,
        prefetch_factor=_AHEAD,
        multiprocessing_context="forkserver",
    )
    for batch in loader:
        yield {name: np.asarray(value) for name, value in batch.items()}


def ray_batches(catalog: Catalog, stream: ClipStream, workers: int) -> Batches:
    """Ray Data as ``bsp_platform.work.pretraining`` uses it, with ``workers`` clip makers; needs a running Ray."""
    dataset = clip_dataset(stream, actors=workers, cpus_per_actor=0.5)
    yield from iterate_batches(dataset, stream.batch_size)


LOADERS: dict[str, Callable[[Catalog, ClipStream, int], Batches]] = {
    "process pool": pool_batches,
    "DataLoader": torch_batches,
    "Ray Data": ray_batches,
}
