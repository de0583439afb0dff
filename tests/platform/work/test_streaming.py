"""The clip stream: the same clips through Ray Data, called directly, from any start, for any worker count."""

import itertools
import threading
import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from bsp.clips.augment import AugmentSettings, augment_clip
from bsp.clips.plan import PAPER_KINDS, ClipSettings, plan_clip
from bsp.clips.synthesis import decode, synthesise
from bsp_platform.work.cluster.stream_size import stream_size
from bsp_platform.work.streaming import (
    BoundInFlight,
    ClipSpans,
    ClipStream,
    FewSpansAhead,
    clip_dataset,
    clip_numbers,
    iterate_batches,
    make_clips,
    size_of_stream,
    spans_of,
    worker_span,
)


def stream_of(catalog_ref, length=96, batch_size=16) -> ClipStream:
    return ClipStream(
        catalog=catalog_ref,
        clips=ClipSettings(kinds=PAPER_KINDS),
        augment=AugmentSettings(size_px=32),
        seed=5,
        batch_size=batch_size,
        length=length,
    )


def worker_indices(start, stop, *, batch_size, rank, world_size):
    first, last = worker_span(start, stop, batch_size=batch_size, world_size=world_size)
    return clip_numbers(first, last, batch_size=batch_size, rank=rank, world_size=world_size)


def test_workers_share_each_step_without_gap_or_overlap():
    # Worked by hand: batches of 6 for 2 workers, clips 6..17.
    assert worker_indices(6, 18, batch_size=6, rank=0, world_size=2).tolist() == [6, 7, 8, 12, 13, 14]
    assert worker_indices(6, 18, batch_size=6, rank=1, world_size=2).tolist() == [9, 10, 11, 15, 16, 17]


@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 6])
def test_any_number_of_workers_trains_on_every_clip_once(world_size):
    parts = [worker_indices(12, 60, batch_size=12, rank=r, world_size=world_size) for r in range(world_size)]
    assert sorted(np.concatenate(parts).tolist()) == list(range(12, 60))


def test_a_batch_that_cannot_be_shared_is_refused():
    with pytest.raises(ValueError, match="batch_size 8 cannot be shared by 3 workers"):
        worker_indices(0, 8, batch_size=8, rank=0, world_size=3)
    with pytest.raises(ValueError, match="multiples of batch_size 8"):
        worker_indices(4, 16, batch_size=8, rank=0, world_size=1)


def test_a_broken_video_costs_a_named_clip_and_is_not_replaced(tiny_catalog, tmp_path):
    import dataclasses
    import shutil

    shutil.copytree(tiny_catalog.root, tmp_path / "videos")
    broken = dataclasses.replace(tiny_catalog, root=str(tmp_path / "videos"))
    victim = broken.path(0)
    open(victim, "wb").close()  # zero bytes
    stream = stream_of(None)
    batch = make_clips(broken, stream, range(32))
    hit = np.array([0 in plan_clip(broken, stream.clips, stream.seed, k).videos for k in range(32)])
    assert hit.any()
    assert not hit.all()
    assert [bool(error) for error in batch["error"]] == hit.tolist()
    assert all(victim in error for error in batch["error"][hit])
    assert not batch["clip"][hit].any()
    whole = make_clips(tiny_catalog, stream, range(32))
    np.testing.assert_array_equal(batch["clip"][~hit], whole["clip"][~hit])


@pytest.mark.ray
def test_ray_data_gives_the_same_clips_as_the_pure_functions(ray_session, tiny_catalog):
    stream = stream_of(ray_session.put(tiny_catalog))
    dataset = clip_dataset(stream, start=32, actors=2, cpus_per_actor=0.4)
    batches = list(iterate_batches(dataset, 16))
    assert [b["index"].tolist() for b in batches] == [list(range(k, k + 16)) for k in range(32, 96, 16)]
    for batch in batches:
        assert batch["clip"].dtype == np.uint8
        for row, index in enumerate(batch["index"]):
            plan = plan_clip(tiny_catalog, stream.clips, 5, int(index))
            clip = synthesise(plan, decode(tiny_catalog, plan))
            np.testing.assert_array_equal(batch["clip"][row], augment_clip(clip, stream.augment, plan.augment_seed))
            assert batch["label"][row] == plan.label
            assert not batch["error"][row]


@pytest.mark.ray
def test_the_second_of_two_workers_gets_the_second_half_of_each_step(ray_session, tiny_catalog):
    stream = stream_of(ray_session.put(tiny_catalog), length=48)
    dataset = clip_dataset(stream, rank=1, world_size=2, cpus_per_actor=0.4)
    got = [batch["index"].tolist() for batch in iterate_batches(dataset, 8)]
    assert got == [list(range(k, k + 8)) for k in (8, 24, 40)]


def test_clips_of_a_worker_are_numbered_across_batches():
    # Batches of 6 for two workers; the second one's clips are 3 4 5, 9 10 11, 15 16 17, ...: its 2nd to 7th.
    assert clip_numbers(2, 7, batch_size=6, rank=1, world_size=2).tolist() == [5, 9, 10, 11, 15]
    assert clip_numbers(2, 7, batch_size=6, rank=0, world_size=1).tolist() == [2, 3, 4, 5, 6]


def test_the_first_tasks_are_short_and_all_clips_are_in_one():
    # Worked by hand: 3 clips at first, 13 at most, two makers: 3 3 6 6 12 12 clips, then 13 each.
    spans = ClipSpans(8, 8 + 42 + 13 + 5, least=3, most=13, actors=2)
    assert (spans.last - spans.first).tolist() == [3, 3, 6, 6, 12, 12, 13, 5]
    assert spans.first.tolist() == [8, *spans.last.tolist()[:-1]]
    assert spans.last[-1] == 8 + 42 + 13 + 5


@pytest.mark.parametrize(("stop", "most"), [(16, 8), (0, 8), (64, 1), (4, 1), (50, 13)])
def test_short_streams_are_cut_without_gap_or_overlap(stop, most):
    spans = ClipSpans(0, stop, least=1, most=most, actors=3)
    numbers = [k for first, last in zip(spans.first, spans.last, strict=True) for k in range(first, last)]
    assert numbers == list(range(stop))
    assert (spans.last - spans.first).max(initial=0) <= most


def test_batches_are_put_together_from_blocks_of_any_size():
    """Blocks that are views of an object store; a batch's numbers are in the memory that was given for it."""
    blocks = []
    for first, clips in ((0, 8), (8, 5), (13, 1), (14, 10), (24, 3)):
        index = np.arange(first, first + clips)
        clip = np.repeat(index.astype(np.uint8)[:, None], 6, axis=1).reshape(clips, 2, 3)
        clip.setflags(write=False)
        text = np.array([f"clip {k}: " + "x" * k if k in (5, 20) else "" for k in index], np.str_)
        blocks.append({"index": index, "clip": clip, "error": text})

    class Blocks:
        def iter_batches(self, **how):
            assert how["batch_size"] is None
            return iter(blocks)

    given = []

    def empty(shape, dtype):
        given.append(np.full(shape, 99, dtype))
        return given[-1]

    got = list(iterate_batches(Blocks(), 4, empty))
    assert [batch["index"].tolist() for batch in got] == [list(range(k, min(k + 4, 27))) for k in range(0, 27, 4)]
    for batch in got:
        assert batch["clip"][:, 1, 2].tolist() == batch["index"].tolist()
        assert batch["clip"].flags.writeable
        assert any(batch["clip"].base is array for array in given)
        assert [len(text) for text in batch["error"]] == [{5: 8 + 5, 20: 9 + 20}.get(k, 0) for k in batch["index"]]
    assert len(given) == 2 * 7
    assert list(iterate_batches(Blocks(), 4))[6]["index"].tolist() == [24, 25, 26]


def test_makers_get_no_task_while_enough_is_in_flight():
    """Tasks that run or wait and finished blocks count alike; the source of numbers is not held back by them."""

    class Operator:
        def __init__(self, name, tasks):
            self.name, self.tasks = name, tasks

        def num_active_tasks(self):
            return self.tasks

    source, makers = Operator("ReadClipSpans->SplitBlocks(900)", 50), Operator("MapBatches(ClipMaker)", 3)
    blocks = {source: 0, makers: 4}
    topology = {op: SimpleNamespace(total_enqueued_output_blocks=lambda op=op: blocks[op]) for op in (source, makers)}
    policy = BoundInFlight(SimpleNamespace(get_config={"bsp.tasks_in_flight": 8}.get), topology, None)
    assert policy.can_add_input(makers)  # 3 + 4
    makers.tasks = 4
    assert not policy.can_add_input(makers)
    blocks[makers] = 3  # the trainer has taken one
    assert policy.can_add_input(makers)
    assert policy.can_add_input(source)
    spans = FewSpansAhead(None, topology, None)
    assert spans.max_task_output_bytes_to_read(source) is None
    blocks[source] = 64
    assert spans.max_task_output_bytes_to_read(source) == 0
    assert spans.max_task_output_bytes_to_read(makers) is None


class Watched:
    """A data set whose blocks are weighed on their way to the batches."""

    def __init__(self, dataset):
        self.dataset, self.bytes = dataset, []

    def iter_batches(self, **how):
        for block in self.dataset.iter_batches(**how):
            self.bytes.append(sum(array.nbytes for array in block.values()))
            yield block


@pytest.mark.ray
def test_a_slow_trainer_of_large_clips_leaves_the_store_within_its_bound(ray_session, tiny_catalog):
    """Ray's store of 256 MiB, the first 462 MB of a stream as long as profile paper's, in batches of 154 MB.

    Ray's node manager counts, not we.
    """
    from bsp_platform.work.cluster.start import object_store

    stream = replace(stream_of(ray_session.put(tiny_catalog), 93_750 * 128, 128), augment=AugmentSettings(size_px=224))
    before, used, done = object_store(), [], threading.Event()
    bound = size_of_stream(stream, 2).in_flight_bytes
    assert bound < 128 * 2**20
    assert before.wanted_mb < 64

    def watch():
        while not done.wait(0.05):
            used.append(object_store().wanted_mb - before.wanted_mb)

    watcher = threading.Thread(target=watch)
    watcher.start()
    dataset = Watched(clip_dataset(stream, actors=2, cpus_per_actor=0.4))
    batches = iterate_batches(dataset, 128)
    try:
        numbers = []
        for batch in itertools.islice(batches, 3):
            assert batch["clip"].nbytes == 128 * 8 * 224 * 224 * 3
            numbers += batch["index"].tolist()
            while len(set(used[-20:])) > 1:  # until the makers may do no more
                time.sleep(0.1)
    finally:
        batches.close()
        done.set()
        watcher.join()
    assert numbers == list(range(3 * 128))
    assert max(dataset.bytes) < 16 * 2**20
    assert 40e6 < max(used) * 1e6 <= bound * 1.01  # Ray counts Arrow's headers, too
    assert object_store().spilled_mb == before.spilled_mb


@pytest.mark.long
@pytest.mark.parametrize("batch_size", [1, 13, 128, 4096])
def test_a_task_is_16_mib_at_most_whatever_the_batch_size(batch_size):
    size = stream_size(8 * 224 * 224 * 3, 2)
    spans = spans_of(0, 40 * batch_size, batch_size, size)
    clips = spans.last - spans.first
    assert clips.sum() == 40 * batch_size
    assert clips.max() * 8 * 224 * 224 * 3 <= 16 * 2**20
