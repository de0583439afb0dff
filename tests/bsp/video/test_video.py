"""The video reader, against videos whose frames name themselves (tests/support/make_videos.py)."""

from __future__ import annotations

import math
import multiprocessing
import os
import pickle
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import av
import decord
import numpy as np
import pytest

from bsp.errors import VideoDecodeError, VideoError, VideoOpenError, VideoTimeout
from bsp.video import mp4_reader, time_limit
from bsp.video.read import READER_CLASSES, READERS, iter_frames, probe, read_frames
from bsp.video.readers import PyavReader
from make_videos import numbered_frames, read_numbers, write_audio, write_cut, write_rotated, write_video, x264

FRAMES = 130
VARYING_MS = np.cumsum(np.random.Generator(np.random.Philox(3)).integers(5, 100, FRAMES)).tolist()


@dataclass(frozen=True)
class Case:
    reader: str  # the one that probe() must choose
    how: dict = field(default_factory=dict)  # arguments of write_video
    cut_at: int | None = None  # stream-copied from this frame of a longer file (an edit list hides the rest)
    codec: str = "h264"


VP9 = {"codec": "libvpx-vp9", "options": {"g": "60", "cpu-used": "8", "deadline": "realtime", "b": "1M"}}
AV1 = {"codec": "libsvtav1", "options": {"preset": "8", "g": "48", "crf": "25"}}
X265 = "keyint=24:bframes=3:b-adapt=0:log-level=none"
CASES = {
    "gop12.mp4": Case("mp4", x264("keyint=12:bframes=3")),
    "gop250.mp4": Case("mp4", x264("keyint=250:bframes=3")),
    "gop12.mkv": Case("pyav", x264("keyint=12:bframes=3")),
    "no_b.mov": Case("mp4", x264("keyint=30:bframes=0")),
    "vfr.mp4": Case("mp4", x264("keyint=12") | {"times_ms": VARYING_MS}),
    "fragmented.mp4": Case("pyav", x264("keyint=12") | {"container": {"movflags": "frag_keyframe+empty_moov"}}),
    "vp9.webm": Case("pyav", VP9, codec="vp9"),
    "vp9.mp4": Case("pyav", VP9, codec="vp9"),
    "vp8.webm": Case("pyav", VP9 | {"codec": "libvpx"}, codec="vp8"),
    "mpeg4.avi": Case("decord", {"codec": "mpeg4", "options": {"g": "24", "b": "2M"}}, codec="mpeg4"),
    "mpeg4_b.avi": Case("pyav", {"codec": "mpeg4", "options": {"bf": "2", "g": "24", "b": "2M"}}, codec="mpeg4"),
    "mpeg4_b.mp4": Case("pyav", {"codec": "mpeg4", "options": {"bf": "2", "g": "24", "b": "2M"}}, codec="mpeg4"),
    "h264.avi": Case("pyav", x264("keyint=12:bframes=0")),
    "h264.ts": Case("pyav", x264("keyint=12:bframes=3")),
    "open.mp4": Case("pyav", x264("keyint=24:open-gop=1:bframes=3:b-adapt=0")),
    "open.mkv": Case("pyav", x264("keyint=24:open-gop=1:bframes=3:b-adapt=0")),
    "refresh.mp4": Case("pyav", x264("keyint=24:intra-refresh=1:bframes=0")),
    "cut.mp4": Case("pyav", x264("keyint=50:bframes=3"), cut_at=70),
    "hevc_open.mp4": Case(
        "pyav",
        {"codec": "libx265", "options": {"preset": "ultrafast", "x265-params": f"{X265}:open-gop=1"}},
        codec="hevc",
    ),
    "hevc_closed.mp4": Case(
        "pyav",
        {"codec": "libx265", "options": {"preset": "ultrafast", "x265-params": f"{X265}:open-gop=0"}},
        codec="hevc",
    ),
    "av1.mp4": Case("pyav", AV1, codec="av1"),
    "av1.webm": Case("pyav", AV1, codec="av1"),
}
EXACT = {"mp4": ("mp4", "pyav"), "pyav": ("pyav",), "decord": ("decord", "pyav")}
OF_READER = {"decord": "mpeg4.avi", "pyav": "gop12.mp4", "mp4": "gop12.mp4"}  # a file for each of READERS
BOTH = [(name, reader) for name, case in CASES.items() for reader in EXACT[case.reader]]


@pytest.fixture(scope="session")
def sample(tmp_path_factory):
    """sample(name) -> (path, number that its first frame shows, frames); each file is written once."""
    folder = tmp_path_factory.mktemp("videos")
    frames = numbered_frames(FRAMES)
    written = {}

    def get(name: str) -> tuple[Path, int, int]:
        if name not in written:
            case, path = CASES[name], folder / name
            if case.cut_at is None:
                write_video(path, frames, **case.how)
                written[name] = (path, 0, FRAMES)
            else:
                whole = write_video(folder / f"whole_{name}", frames, **case.how)
                write_cut(whole, path, first_frame=case.cut_at)
                written[name] = (path, case.cut_at, FRAMES - case.cut_at)
        return written[name]

    return get


# ---- every frame is the one asked for -------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_probe_counts_frames_and_chooses_the_reader(sample, name):
    path, _, frames = sample(name)
    info = probe(path)
    assert (info.frames, info.width, info.height) == (frames, 128, 96)
    assert (info.reader, info.codec, info.path) == (CASES[name].reader, CASES[name].codec, str(path))
    mean_fps = 1000 * (FRAMES - 1) / (VARYING_MS[-1] - VARYING_MS[0]) if name == "vfr.mp4" else 25
    assert info.fps == pytest.approx(mean_fps, rel=0.005)


@pytest.mark.long
@pytest.mark.parametrize(("name", "reader"), BOTH)
def test_frames_are_the_ones_asked_for(sample, name, reader):
    path, first, frames = sample(name)
    generator = np.random.Generator(np.random.Philox(5))
    scattered = [generator.integers(0, frames, 8) for _ in range(6)]
    singles = [[index] for index in (0, 1, 11, 23, 24, 25, 47, 49, frames // 2, frames - 2, frames - 1)]
    runs = [np.arange(20, 36), np.arange(frames - 1, frames - 9, -1), np.arange(0, frames, 17)]
    repeats = [[5, 5, 5], [40, 3, 40, frames - 1, 3], [frames - 1, 0, frames - 1]]
    for indices in scattered + singles + runs + repeats:
        got = read_frames(path, np.array(indices), reader=reader)
        assert got.dtype == np.uint8
        assert got.shape == (len(indices), 96, 128, 3)
        assert read_numbers(got) == [first + index for index in indices]


@pytest.mark.parametrize(("name", "reader"), BOTH)
def test_iterating_gives_every_frame_once(sample, name, reader):
    path, first, frames = sample(name)
    pieces = list(iter_frames(path, chunk_frames=32, reader=reader))
    assert [len(piece) for piece in pieces] == [32] * (frames // 32) + [frames % 32] * (frames % 32 > 0)
    assert read_numbers(np.concatenate(pieces)) == list(range(first, first + frames))


def test_reader_none_probes(sample):
    path, first, frames = sample("open.mp4")
    assert read_numbers(read_frames(path, np.arange(frames))) == list(range(first, first + frames))
    assert read_numbers(next(iter_frames(str(path), chunk_frames=5))) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("name", ["gop12.mp4", "gop250.mp4", "no_b.mov", "vfr.mp4"])
def test_colours_are_rgb_and_pixels_equal_in_all_readers(sample, name):
    path, _, _ = sample(name)
    plain = read_frames(path, np.arange(0, 40, 7), reader="pyav")
    square = plain[:, 52:68, 4:28].reshape(-1, 3).mean(axis=0)
    assert np.abs(square - [220, 30, 30]).max() < 25  # the red square of numbered_frames, not a blue one
    assert np.array_equal(read_frames(path, np.arange(0, 40, 7), reader="mp4"), plain)


@pytest.mark.parametrize(
    "name",
    ["open.mp4", "open.mkv", "hevc_open.mp4", "av1.mp4", "av1.webm", "gop12.mkv", "mpeg4_b.mp4", "vp9.webm"],
)
def test_pyav_decodes_only_from_the_key_frame_before(sample, name, monkeypatch):
    path, _, _ = sample(name)
    decoded = []
    decode = PyavReader._decode

    def counted(self, *args, **kwargs):
        for frame in decode(self, *args, **kwargs):
            decoded.append(frame.pts)
            yield frame

    monkeypatch.setattr(PyavReader, "_decode", counted)
    # Groups are at most 60 frames here, and a group may be entered from the one before (open GOP).
    assert read_numbers(read_frames(path, [FRAMES - 3], reader="pyav")) == [FRAMES - 3]
    assert len(decoded) < FRAMES - 50
    decoded.clear()
    assert read_numbers(read_frames(path, [2, FRAMES - 3], reader="pyav")) == [2, FRAMES - 3]
    assert len(decoded) < FRAMES - 40


def test_a_read_opens_the_file_once_and_does_not_probe(sample, monkeypatch):
    opened = []
    monkeypatch.setattr("bsp.video.read._probe", lambda *_: pytest.fail("probed"))
    open_av = av.open
    monkeypatch.setattr(av, "open", lambda *a, **k: opened.append("pyav") or open_av(*a, **k))
    open_index = mp4_reader.read_mp4_index
    monkeypatch.setattr(mp4_reader, "read_mp4_index", lambda file: opened.append("mp4") or open_index(file))
    open_decord = decord.VideoReader
    monkeypatch.setattr(decord, "VideoReader", lambda *a, **k: opened.append("decord") or open_decord(*a, **k))
    for reader in READERS:
        path, _, _ = sample(OF_READER[reader])
        read_frames(path, [90, 3, 40], reader=reader)
        assert opened == [reader]
        opened.clear()
        list(iter_frames(path, chunk_frames=50, reader=reader))
        assert opened == ([reader] if reader == "pyav" else [reader, "pyav"])  # whole files go through PyAV
        opened.clear()


# ---- rotation -------------------------------------------------------------------------------------------


# ISO/IEC 14496-12, 6.2.2: a shown point is (a x + c y, b x + d y), y pointing down. Quarter turns clockwise.
@pytest.mark.parametrize("quarter_turns", [1, 2, 3])
def test_rotated_files_come_out_upright(tmp_path, quarter_turns):
    path = write_rotated(tmp_path / "turned.mp4", numbered_frames(40), quarter_turns)
    info = probe(path)
    assert (info.frames, info.width, info.height) == (40, 128, 96)
    for reader in {info.reader, "pyav"}:
        frames = read_frames(path, [33, 0, 12], reader=reader)
        assert frames.shape == (3, 96, 128, 3)
        assert read_numbers(frames) == [33, 0, 12]
        assert frames.flags.c_contiguous
        (all_frames,) = iter_frames(path, chunk_frames=50, reader=reader)
        assert read_numbers(all_frames) == list(range(40))


# ---- broken files and misuse ----------------------------------------------------------------------------


def keep(source: Path, target: Path, share: float) -> Path:
    data = source.read_bytes()
    target.write_bytes(data[: int(share * len(data))])
    return target


@pytest.fixture(scope="session")
def broken(sample, tmp_path_factory):
    """Broken files by name; the value's second part is a word of the message."""
    folder = tmp_path_factory.mktemp("broken")
    (folder / "empty.mp4").touch()
    (folder / "text.mp4").write_text("<html>Video unavailable</html>\n" * 50)
    (folder / "folder.mp4").mkdir()
    (folder / "noise.mp4").write_bytes(np.random.Generator(np.random.Philox(1)).bytes(5000))
    fast = write_video(
        folder / "fast.mp4", numbered_frames(60), **x264("keyint=12"), container={"movflags": "faststart"}
    )
    return {
        "missing": (folder / "missing.mp4", "no such file"),
        "empty": (folder / "empty.mp4", "empty"),
        "text": (folder / "text.mp4", "not a video"),
        "folder": (folder / "folder.mp4", "folder"),
        "noise": (folder / "noise.mp4", "not a video"),
        "audio": (write_audio(folder / "audio.mp4"), "no video stream"),
        "index cut off": (keep(sample("gop12.mp4")[0], folder / "moovless.mp4", 0.5), "truncated"),
        "fast-start cut off": (keep(fast, folder / "short_fast.mp4", 0.5), "truncated"),
        "fragments cut off": (keep(sample("fragmented.mp4")[0], folder / "short_frag.mp4", 0.6), "truncated"),
        "mkv cut off": (keep(sample("gop12.mkv")[0], folder / "short.mkv", 0.5), "truncated"),
        "webm cut off": (keep(sample("vp9.webm")[0], folder / "short.webm", 0.5), "truncated"),
        "avi cut off": (keep(sample("mpeg4_b.avi")[0], folder / "short.avi", 0.5), "truncated"),
    }


UNREADABLE = ["missing", "empty", "text", "folder", "noise", "audio", "index cut off"]
SHORTENED = ["fast-start cut off", "fragments cut off", "mkv cut off", "webm cut off", "avi cut off"]


@pytest.mark.parametrize("kind", UNREADABLE + SHORTENED)
def test_probe_names_the_broken_file_and_the_reason(broken, kind, capfd):
    path, word = broken[kind]
    with pytest.raises(VideoOpenError) as caught:
        probe(path)
    assert str(path) in str(caught.value)
    assert word in str(caught.value)
    again = pickle.loads(pickle.dumps(caught.value))
    assert (type(again), str(again)) == (VideoOpenError, str(caught.value))
    assert capfd.readouterr() == ("", "")  # the decoders stay silent


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("kind", UNREADABLE)
def test_reading_an_unreadable_file_says_why(broken, kind, reader, capfd):
    path, word = broken[kind]
    with pytest.raises(VideoOpenError, match=word):
        read_frames(path, [0], reader=reader)
    with pytest.raises(VideoOpenError, match=word):
        next(iter_frames(path, chunk_frames=8, reader=reader))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("kind", SHORTENED)
def test_what_a_shortened_file_lost_is_an_error(broken, kind, reader):
    path, _ = broken[kind]
    with pytest.raises(VideoError, match="short"):
        read_frames(path, [0, 59 if kind.startswith("fast") else FRAMES - 1], reader=reader)


@pytest.mark.parametrize(("name", "reader"), [(n, r) for n, r in BOTH if n in ("gop12.mp4", "h264.avi", "av1.mp4")])
def test_an_index_out_of_range_is_named(sample, name, reader):
    path, _, frames = sample(name)
    with pytest.raises(VideoDecodeError, match=f"frame {frames} .* {frames} frames") as caught:
        read_frames(path, [3, frames], reader=reader)
    assert caught.value.path == str(path)
    with pytest.raises(VideoDecodeError, match="frame -1 "):
        read_frames(path, [3, -1], reader=reader)


@pytest.mark.parametrize("reader", READERS)
def test_damaged_data_never_gives_a_foreign_frame_or_a_foreign_error(sample, tmp_path, reader):
    path, _, _ = sample(OF_READER[reader])
    for seed in range(6):
        data = bytearray(path.read_bytes())
        end = data.index(b"idx1" if path.suffix == ".avi" else b"moov") - 4
        for at in np.random.Generator(np.random.Philox(seed)).integers(6000, end, 30):
            data[at] ^= 0x55
        damaged = tmp_path / f"damaged{seed}{path.suffix}"
        damaged.write_bytes(data)
        try:
            frames = read_frames(damaged, np.arange(0, FRAMES, 13), reader=reader)
        except VideoDecodeError as error:
            assert str(damaged) in str(error)  # noqa: PT017  (either outcome is right)
        else:
            assert len(frames) == FRAMES // 13 + (FRAMES % 13 > 0)


def test_misuse_is_refused(sample):
    path, _, _ = sample("gop12.mp4")
    with pytest.raises(ValueError, match="float64"):
        read_frames(path, np.array([1.0]), reader="pyav")
    with pytest.raises(ValueError, match=r"\[0\]"):
        read_frames(path, np.zeros(0, int), reader="pyav")
    with pytest.raises(ValueError, match=r"\[1, 2\]"):
        read_frames(path, [[1, 2]], reader="pyav")
    with pytest.raises(ValueError, match="opencv"):
        read_frames(path, [1], reader="opencv")
    with pytest.raises(ValueError, match="opencv"):
        iter_frames(path, chunk_frames=8, reader="opencv")
    with pytest.raises(ValueError, match=r"chunk_frames .* 0"):
        iter_frames(path, chunk_frames=0)
    with pytest.raises(ValueError, match=r"time_limit_s .* 0"):
        read_frames(path, [1], reader="pyav", time_limit_s=0)


# ---- time limit -----------------------------------------------------------------------------------------


def wait_until(condition, seconds: float = 20.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end and not condition():
        time.sleep(0.01)
    return condition()


def release(fifo: Path) -> None:
    """Unblock readers that wait in open() on the pipe, by opening and closing a writer."""
    os.close(os.open(fifo, os.O_RDWR | os.O_NONBLOCK))
    descriptor = os.open(fifo, os.O_RDWR | os.O_NONBLOCK)
    time.sleep(0.2)
    os.close(descriptor)


@pytest.mark.parametrize("reader", READERS)
def test_a_read_that_hangs_in_native_code_is_given_up(tmp_path, reader, monkeypatch, sample):
    fifo = tmp_path / "never"
    os.mkfifo(fifo)  # without a writer open() blocks
    path, _, _ = sample(OF_READER[reader])
    start = READER_CLASSES[reader]

    def stuck(of: str, stop: threading.Event):
        if of.endswith("never.mp4"):
            os.close(os.open(fifo, os.O_RDONLY))
        return start(of, stop)

    monkeypatch.setitem(READER_CLASSES, reader, stuck)
    try:
        with pytest.raises(VideoTimeout, match=r"never\.mp4: .* 0\.2 s"):
            read_frames(tmp_path / "never.mp4", [0], reader=reader, time_limit_s=0.2)
        assert time_limit.hanging_reads() == 1
        assert read_numbers(read_frames(path, [7], reader=reader)) == [7]  # other reads still work
        monkeypatch.setattr(time_limit, "MAX_HANGING", 1)
        with pytest.raises(VideoTimeout, match=f"{path.name}: not read: 1 earlier"):
            read_frames(path, [7], reader=reader)
    finally:
        assert wait_until(lambda: release(fifo) or time_limit.hanging_reads() == 0)


def test_a_slow_read_is_given_up_and_then_stops(sample, monkeypatch):
    path, _, _ = sample("mpeg4_b.avi")
    decode, steps = PyavReader._decode, []

    def slow(self, *args, **kwargs):
        for frame in decode(self, *args, **kwargs):
            steps.append(threading.current_thread())
            time.sleep(0.02)
            yield frame

    monkeypatch.setattr(PyavReader, "_decode", slow)
    for attempt in (
        lambda: read_frames(path, [FRAMES - 1], reader="pyav", time_limit_s=0.2),
        lambda: list(iter_frames(path, chunk_frames=FRAMES, reader="pyav", time_limit_s=0.2)),
        lambda: probe(path, time_limit_s=0.2),
    ):
        steps.clear()
        with pytest.raises(VideoTimeout, match="mpeg4_b"):
            attempt()
        assert wait_until(lambda: time_limit.hanging_reads() == 0)
        assert 0 < len(steps) < FRAMES  # it did not decode to the end
        assert not steps[0].is_alive()


@pytest.mark.long
def test_each_piece_of_an_iteration_has_its_own_time(sample):
    path, _, _ = sample("gop12.mp4")
    pieces = 0
    for _ in iter_frames(path, chunk_frames=32, reader="pyav", time_limit_s=1.5):
        time.sleep(0.5)  # the consumer's time does not count: 5 pieces take 2.5 s
        pieces += 1
    assert pieces == 5


def test_no_limit_runs_in_the_callers_thread(sample):
    path, _, _ = sample("gop12.mp4")
    assert time_limit.call_within(lambda _: threading.current_thread(), "x", math.inf) is threading.current_thread()
    assert read_numbers(read_frames(path, [9], reader="pyav", time_limit_s=math.inf)) == [9]


def test_helper_threads_end_with_their_callers(sample):
    path, _, _ = sample("gop12.mp4")

    def helpers() -> int:
        return sum(thread.name == "bsp-video" for thread in threading.enumerate())

    read_frames(path, [1], reader="pyav")
    before = helpers()
    seen = []

    def body():
        for index in (1, 2, 3):
            seen.append(read_numbers(read_frames(path, [index], reader="pyav")))

    callers = [threading.Thread(target=body) for _ in range(3)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert sorted(seen) == [[1]] * 3 + [[2]] * 3 + [[3]] * 3
    assert wait_until(lambda: helpers() == before)


def test_files_and_threads_do_not_pile_up(sample, broken):
    def used() -> tuple[int, int]:
        return len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))

    def use_once():
        for reader in READERS:
            path, _, _ = sample(OF_READER[reader])
            read_frames(path, [5, 90], reader=reader)
            next(iter_frames(path, chunk_frames=4, reader=reader))  # not read to the end
            with pytest.raises(VideoOpenError):
                read_frames(broken["text"][0], [0], reader=reader)

    use_once()
    before = used()
    for _ in range(15):
        use_once()
    assert wait_until(lambda: used() <= before)


def _read_in_child(path: str) -> list[int]:
    return read_numbers(read_frames(path, [4, 2], reader="pyav"))


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_can_read(sample):
    path, _, _ = sample("gop12.mp4")
    read_frames(path, [1], reader="pyav")  # the parent has a helper thread, which the child lacks
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.apply_async(_read_in_child, (str(path),)).get(timeout=30) == [4, 2]
