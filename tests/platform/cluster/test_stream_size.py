"""How much of the clip stream is in memory at a time: worked examples."""

import pytest

from bsp_platform.plan.resources import Resources
from bsp_platform.work.cluster.stream_size import (
    clip_bytes,
    plan_within,
    room_of_stream,
    store_limit,
    store_plan,
    stream_size,
    streams_at_a_time,
)

MIB = 2**20
GIB = 2**30
CLIP_224 = clip_bytes(4, 224)
PAPER = Resources(cpus_per_worker=1.0, gpus_per_worker=1.0, makers_per_worker=12, cpus_per_maker=1.0)


def test_a_task_of_large_clips_is_13_of_them():
    assert CLIP_224 == 1_204_224
    # 13 x 1,204,480 bytes (with 256 for labels and the like) are 14.9 MiB; 14 would be 16.1.
    size = stream_size(CLIP_224, 12)
    assert (size.task_clips, size.task_bytes, size.ahead, size.tasks) == (13, 15_658_240, 8, 96)
    assert size.in_flight_bytes == (96 + 5) * 15_658_240


def test_a_task_of_small_clips_has_many():
    # 48 px: 55,296 + 256 bytes; 16 MiB / 55,552 = 302.01.
    assert stream_size(8 * 48 * 48 * 3, 1).task_clips == 302


@pytest.mark.parametrize("size_px", [16, 32, 48, 112, 224, 256, 448])
@pytest.mark.parametrize("makers", [1, 2, 12, 64])
@pytest.mark.parametrize("room", [None, 64 * MIB, 200 * MIB, GIB, 64 * GIB])
def test_no_task_is_above_16_mib_and_what_is_in_flight_fits(size_px, makers, room):
    clip = 8 * size_px**2 * 3
    size = stream_size(clip, makers, room)
    assert size.task_clips * clip < 16 * MIB
    assert size.task_clips >= 1
    assert 1 <= size.ahead <= 8
    if room is not None and (makers + 5) * (clip + 256) <= room:  # else not even a clip for each fits
        assert size.in_flight_bytes <= room


def test_with_little_room_fewer_tasks_wait_and_then_they_are_smaller():
    # 9 blocks of 14.93 MiB fit into 144 MiB: 5 are the trainer's, 2 for each of two makers.
    assert stream_size(CLIP_224, 2, 144 * MIB).ahead == 2
    # 17 blocks must fit into 64 MiB: 3.76 MiB each, 3 clips.
    size = stream_size(CLIP_224, 12, 64 * MIB)
    assert (size.task_clips, size.ahead) == (3, 1)
    assert stream_size(CLIP_224, 12, 1000).task_clips == 1  # never none


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="makers 0"):
        stream_size(CLIP_224, 0)


def test_streams_share_the_store_as_training_processes_share_the_cpus():
    assert streams_at_a_time(16, PAPER) == 1  # 13 CPUs each
    assert streams_at_a_time(64, PAPER) == 4
    assert streams_at_a_time(8, PAPER) == 1  # too few for the makers that were wished for
    assert streams_at_a_time(2, Resources()) == 2  # 0.55 + 0.4
    # Ray begins to spill at 80%; 512 MiB of that are not for clips, of a small store half.
    assert room_of_stream(5 * GIB, 1) == 3584 * MIB
    assert room_of_stream(200 * MIB, 2) == 40 * MIB


def test_the_store_of_the_paper_profile_on_16_cores():
    # 101 blocks of 15,658,240 bytes and 512 MiB are 2,020.2 MiB, which is 80% of 2,525.3.
    plan = store_plan(CLIP_224, 16, PAPER, most_bytes=50 * GIB)
    assert plan.store_bytes == 2526 * MIB
    assert plan.stream == stream_size(CLIP_224, 12)
    assert str(plan) == (
        "clip stream: clip makers 12, clips per task 13, at most 1,508 MiB in flight; object store 2,526 MiB"
    )


def test_the_store_of_a_small_machine_is_what_the_machine_has_and_the_stream_fits_into_it():
    plan = store_plan(CLIP_224, 16, PAPER, most_bytes=600 * MIB)
    assert plan.store_bytes == 600 * MIB
    # 40% of it, 240 MiB, are for clips: 17 blocks, 5 of them the trainer's, one for each of 12 makers, 12 clips each.
    assert (plan.stream.task_clips, plan.stream.ahead) == (12, 1)
    assert plan.stream.in_flight_bytes <= 240 * MIB


def test_a_cluster_that_is_there_has_the_store_that_it_has():
    plan = plan_within(CLIP_224, 16, PAPER, 30 * GIB)
    assert (plan.store_bytes, plan.stream) == (30 * GIB, stream_size(CLIP_224, 12))


def test_small_clips_keep_the_store_that_they_had():
    plan = store_plan(8 * 48 * 48 * 3, 2, Resources(), most_bytes=50 * GIB)
    assert plan.streams == 2
    assert plan.object_store_mb == 1160  # 2 x 13 blocks of 16.0 MiB and 512 are 80% of it
    assert "clip makers 1 for each training process, clips per task 302, at most 416 MiB in flight" in str(plan)


def test_a_machine_gives_part_of_its_memory_and_no_more_than_dev_shm_has():
    assert store_limit(100 * GIB, 100 * GIB) == 40 * GIB
    assert store_limit(100 * GIB, 64 * MIB) == int(0.9 * 64 * MIB)  # a container without --shm-size
