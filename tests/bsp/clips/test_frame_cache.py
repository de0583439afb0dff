"""The frame cache changes how often files are read, never what comes out."""

import numpy as np
import pytest

from bsp.clips import frame_cache
from bsp.clips.frame_cache import FrameCache
from bsp.errors import VideoDecodeError

FRAME_BYTES = 4 * 4 * 3


@pytest.fixture
def files(monkeypatch):
    """Stands in for read_frames: frame k of file n is full of 10 * n + k. Returns the list of reads."""
    reads = []

    def fake(path, indices, *, reader, time_limit_s, damaged):
        reads.append((path, len(indices)))
        damaged.update({3, 6} & set(indices.tolist()) if path == "4" else ())
        if path == "torn" and max(indices) > 5:
            raise VideoDecodeError(path, "torn")
        number = 0 if path == "torn" else int(path)
        return np.broadcast_to((10 * number + indices)[:, None, None, None], (len(indices), 4, 4, 3)).astype(np.uint8)

    monkeypatch.setattr(frame_cache, "read_frames", fake)
    return reads


def get(cache: FrameCache, path: str, indices: list[int], first: int = 0, frames: int = 8) -> list[int]:
    out = cache.read(path, np.array(indices), first=first, frames=frames, reader="mp4", time_limit_s=1.0)
    assert out.shape == (len(indices), 4, 4, 3)
    return out[:, 0, 0, 0].tolist()


def test_the_second_read_comes_from_memory(files):
    cache = FrameCache(100 * 8 * FRAME_BYTES)
    assert get(cache, "1", [2, 5]) == [12, 15]
    before = len(files)
    assert get(cache, "1", [7, 0, 7]) == [17, 10, 17]
    assert len(files) == before


def test_a_part_of_a_file_keeps_the_files_frame_numbers(files):
    cache = FrameCache(100 * 8 * FRAME_BYTES)
    assert get(cache, "2", [5, 6], first=4, frames=3) == [25, 26]
    assert get(cache, "2", [4], first=4, frames=3) == [24]


@pytest.mark.parametrize("max_bytes", [0, 100 * 8 * FRAME_BYTES])
def test_damaged_frames_are_counted_each_time_they_are_given_out(files, max_bytes):
    cache = FrameCache(max_bytes)
    for indices, damaged in (([0, 1], 0), ([3, 4], 1), ([6, 6, 3], 3), ([5], 0)):
        before = cache.damaged
        get(cache, "4", indices)
        assert cache.damaged - before == damaged


def test_off_reads_only_what_is_asked(files):
    cache = FrameCache(0)
    assert get(cache, "1", [3]) == get(cache, "1", [3]) == [13]
    assert files == [("1", 1), ("1", 1)]


def test_least_recently_used_videos_go_first_and_the_limit_holds(files):
    cache = FrameCache(16 * 8 * FRAME_BYTES)
    for number in [*range(16), 0, 16]:
        get(cache, str(number), [0])
        assert cache.bytes <= cache.max_bytes
    before = len(files)
    get(cache, "0", [1])  # used just before 16 came: still there
    assert len(files) == before
    get(cache, "1", [1])  # the oldest: gone
    assert len(files) > before


def test_a_video_too_long_for_the_cache_is_read_frame_by_frame(files):
    cache = FrameCache(16 * 8 * FRAME_BYTES)
    assert get(cache, "3", [20], frames=100) == [50]
    assert files == [("3", 1)]
    assert cache.bytes == 0


def test_damage_elsewhere_in_a_file_does_not_cost_a_clip(files):
    cache = FrameCache(100 * 8 * FRAME_BYTES)
    assert get(cache, "torn", [1, 2]) == [1, 2]
    assert get(cache, "torn", [3]) == [3]
    with pytest.raises(VideoDecodeError):
        get(cache, "torn", [6])


def test_a_negative_size_is_refused():
    with pytest.raises(ValueError, match="max_bytes must be 0"):
        FrameCache(-1)
