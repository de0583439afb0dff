"""The catalog of trimmed videos: its arrays, building it from real files, broken ones, the cache."""

import logging
import os
import pickle
import subprocess
import sys

import numpy as np
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

import bsp.video.probe_many
from bsp import apart
from bsp.clips.catalog import Catalog, Listed, build_catalog
from bsp.errors import AnnotationError, TooManyBroken
from bsp.video.read import READERS, probe
from bsp.video.write import write_mp4


def make_catalog(numbers, classes=None, **changes):
    count = len(numbers)
    columns = {
        "root": "/videos",
        "paths": np.array([f"{i}.mp4".encode() for i in range(count)]),
        "labels": np.array(numbers, np.int32),
        "first_frame": np.zeros(count, np.int64),
        "frames": np.full(count, 100, np.int32),
        "fps": np.full(count, 30, np.float32),
        "readers": np.zeros(count, np.uint8),
        "class_names": tuple(f"class {c}" for c in range(classes or max(numbers, default=0) + 1)),
    }
    return Catalog(**(columns | changes))


# ---- the arrays


@given(labels=st.lists(st.integers(0, 5), min_size=1, max_size=30))
def test_videos_are_grouped_by_class(labels):
    catalog = make_catalog(labels, classes=6)
    assert len(catalog) == len(labels)
    for label in range(6):
        assert catalog.videos_of_class(label).tolist() == [i for i, c in enumerate(labels) if c == label]
    pairable = [labels.count(c) if labels.count(c) > 1 else 0 for c in range(6)]
    assert np.diff(catalog.pair_offsets).tolist() == pairable


def test_paths_may_hold_any_characters():
    names = ["b/ä ö.mp4", "x.mp4", b"bad \xff byte.mp4".decode("utf-8", "surrogateescape")]
    paths = np.array([name.encode("utf-8", "surrogateescape") for name in names])
    catalog = make_catalog([0, 0, 0], paths=paths)
    assert [catalog.path(i) for i in range(3)] == [f"/videos/{name}" for name in names]


def test_a_catalog_survives_pickling_without_its_arrays_being_writable():
    catalog = make_catalog([1, 0, 1], skipped=(("x.mp4", "empty"),))
    copy = pickle.loads(pickle.dumps(catalog))
    assert copy.fingerprint() == catalog.fingerprint()
    assert copy.videos_of_class(1).tolist() == [0, 2]
    assert copy.skipped == (("x.mp4", "empty"),)
    assert copy.without_skipped().skipped == ()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"labels": np.array([0, 2], np.int32)}, r"0\.\.1.*0\.\.2"),
        ({"labels": np.array([-1, 0], np.int32)}, "-1"),
        ({"frames": np.array([5, 0], np.int32)}, "1.mp4"),
        ({"fps": np.ones(3, np.float32)}, "'fps': 3"),
    ],
)
def test_columns_that_do_not_fit_are_refused(changes, named):
    with pytest.raises(ValueError, match=named):
        make_catalog([0, 1], **changes)


def test_an_empty_catalog_is_refused():
    with pytest.raises(ValueError, match="at least one video"):
        make_catalog([], classes=1)


def test_the_fingerprint_follows_the_data_and_not_the_place():
    plain = make_catalog([0, 1, 1])
    same = [make_catalog([0, 1, 1]), make_catalog([0, 1, 1], root="/elsewhere")]
    assert {catalog.fingerprint() for catalog in same} == {plain.fingerprint()}
    assert make_catalog([0, 1, 1], skipped=(("a", "b"),)).fingerprint() == plain.fingerprint()
    others = [
        make_catalog([0, 0, 1]),
        make_catalog([0, 1, 1], paths=np.array([b"0.mp4", b"1.mp4", b"3.mp4"])),
        make_catalog([0, 1, 1], paths=np.array([b"1.mp4", b"0.mp4", b"2.mp4"])),
        make_catalog([0, 1, 1], frames=np.array([100, 100, 99], np.int32)),
        make_catalog([0, 1, 1], first_frame=np.array([0, 0, 1])),
        make_catalog([0, 1, 1], sizes=np.array([7, 7, 7])),
        make_catalog([0, 1, 1], class_names=("a", "b")),
    ]
    assert len({catalog.fingerprint() for catalog in [plain, *others]}) == 1 + len(others)


# ---- from files


def write_video(path, frames, fps=10, size=(32, 64)):
    path.parent.mkdir(parents=True, exist_ok=True)
    ramp = np.linspace(0, 255, frames)[:, None, None, None]
    write_mp4(path, np.broadcast_to(ramp, (frames, *size, 3)).astype(np.uint8), fps=fps)


@pytest.fixture
def folder(tmp_path):
    write_video(tmp_path / "one" / "a.mp4", 20)
    write_video(tmp_path / "one" / "b.mp4", 33, fps=25)
    write_video(tmp_path / "two" / "c.mp4", 50)
    return tmp_path


GOOD = [Listed("one/a.mp4", 0), Listed("two/c.mp4", 1), Listed("one/b.mp4", 0)]


def build(root, listing=GOOD, **options):
    return build_catalog(root, listing, ["one", "two"], progress=False, **options)


def test_building_reads_lengths_in_the_order_of_the_listing(folder):
    catalog = build(folder)
    assert catalog.paths.tolist() == [b"one/a.mp4", b"two/c.mp4", b"one/b.mp4"]
    assert catalog.frames.tolist() == [20, 50, 33]
    assert catalog.labels.tolist() == [0, 1, 0]
    assert catalog.fps.tolist() == [10, 10, 25]
    assert catalog.first_frame.tolist() == [0, 0, 0]
    expected = [probe(catalog.path(video)).reader for video in range(3)]
    assert [READERS[reader] for reader in catalog.readers] == expected
    assert catalog.sizes.tolist() == [os.path.getsize(catalog.path(i)) for i in range(3)]
    assert catalog.path(1) == str(folder / "two" / "c.mp4")
    assert catalog.skipped == ()
    dtypes = [getattr(catalog, name).dtype for name in ("labels", "first_frame", "frames", "fps", "readers")]
    assert dtypes == [np.int32, np.int64, np.int32, np.float32, np.uint8]


def test_time_stamps_cut_a_range_of_the_file(folder):
    listing = [Listed("two/c.mp4", 1, 1, 3), Listed("two/c.mp4", 0, 4.5, 60), Listed("two/c.mp4", 1, 5, 15)]
    catalog = build(folder, listing, max_skipped_share=0.4)  # 50 frames at 10 frames/s
    assert catalog.first_frame.tolist() == [10, 45]
    assert catalog.frames.tolist() == [20, 5]
    [(path, reason)] = catalog.skipped
    assert path == "two/c.mp4"
    assert "5.00 s" in reason
    assert "5-15 s" in reason


def spoil(folder):
    """Seven files that are no usable video, and the words that each error message must contain."""
    good = (folder / "one" / "b.mp4").read_bytes()
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "text.mp4").write_text("this is not a video " * 50)
    (folder / "cut.mp4").write_bytes(good[: len(good) // 2])
    (folder / "noise.mp4").write_bytes(np.random.default_rng(0).bytes(5000))
    (folder / "folder.mp4").mkdir()
    write_audio(folder / "sound.mp4")
    return ["empty.mp4", "text.mp4", "cut.mp4", "noise.mp4", "folder.mp4", "sound.mp4", "absent.mp4"]


def write_audio(path):
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 44100), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 44100
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


@pytest.mark.parametrize("workers", [0, 1])
def test_broken_files_are_skipped_counted_and_named(folder, caplog, workers):
    names = spoil(folder)
    listing = [Listed(name, 1) for name in names] + GOOD
    with caplog.at_level(logging.WARNING):
        catalog = build(folder, listing, max_skipped_share=0.7, workers=workers)
    assert catalog.frames.tolist() == [20, 50, 33]
    assert [name for name, _ in catalog.skipped] == names
    reasons = dict(catalog.skipped)
    assert "0 bytes" in reasons["empty.mp4"]
    assert "no such file" in reasons["absent.mp4"]
    assert all(reasons.values())
    assert "7 of 10" in caplog.text
    assert all(name in caplog.text for name in names)


def test_too_many_broken_files_stop_the_program_with_their_names(folder):
    names = spoil(folder)
    listing = [Listed(name, 1) for name in names] + GOOD
    with pytest.raises(TooManyBroken) as error:
        build(folder, listing, max_skipped_share=0.69)
    assert "7 of 10" in str(error.value)
    assert "69%" in str(error.value)
    assert all(name in str(error.value) for name in names)
    with pytest.raises(TooManyBroken, match="1 of 4"):
        build(folder, [Listed("empty.mp4", 1), *GOOD], max_skipped_share=0)


def test_no_usable_file_is_an_error_under_any_cap(folder):
    spoil(folder)
    with pytest.raises(TooManyBroken, match="none of the 2"):
        build(folder, [Listed("empty.mp4", 0), Listed("text.mp4", 0)], max_skipped_share=1)


def test_an_empty_listing_and_an_impossible_cap_are_refused(folder):
    with pytest.raises(AnnotationError, match="nothing is listed"):
        build(folder, [])
    with pytest.raises(ValueError, match=r"1\.5"):
        build(folder, max_skipped_share=1.5)


# ---- the cache


@pytest.fixture
def probed(monkeypatch):
    """Names of the files that were opened."""
    opened = []
    probe = bsp.video.probe_many.probe
    monkeypatch.setattr(
        bsp.video.probe_many, "probe", lambda path: opened.append(os.path.basename(path)) or probe(path)
    )
    return opened


def test_a_file_is_probed_once_and_again_when_it_changes(folder, tmp_path, probed):
    cache = tmp_path / "cache" / "deep"
    first = build(folder, cache_dir=cache)
    assert sorted(probed) == ["a.mp4", "b.mp4", "c.mp4"]
    again = build(folder, cache_dir=cache)
    assert len(probed) == 3
    assert again.fingerprint() == first.fingerprint()
    assert again.fps.tolist() == first.fps.tolist()
    assert again.readers.tolist() == first.readers.tolist()
    write_video(folder / "one" / "a.mp4", 24)
    changed = build(folder, cache_dir=cache)
    assert probed[3:] == ["a.mp4"]
    assert changed.frames.tolist() == [24, 50, 33]


def test_failures_are_not_remembered(folder, tmp_path, probed):
    (folder / "late.mp4").write_text("still being copied")
    listing = [*GOOD, Listed("late.mp4", 1)]
    assert len(build(folder, listing, cache_dir=tmp_path / "cache", max_skipped_share=0.5).skipped) == 1
    build(folder, listing, cache_dir=tmp_path / "cache", max_skipped_share=0.5)
    assert probed.count("late.mp4") == 2
    assert probed.count("a.mp4") == 1


def test_an_interrupted_run_keeps_what_it_had(folder, tmp_path, probed, monkeypatch):
    counting = bsp.video.probe_many.probe

    def interrupted(path):
        if path.endswith("b.mp4"):
            raise KeyboardInterrupt
        return counting(path)

    monkeypatch.setattr(bsp.video.probe_many, "probe", interrupted)
    with pytest.raises(KeyboardInterrupt):
        build(folder, cache_dir=tmp_path / "cache")
    monkeypatch.setattr(bsp.video.probe_many, "probe", counting)
    build(folder, cache_dir=tmp_path / "cache")
    assert probed == ["a.mp4", "c.mp4", "b.mp4"]


def test_a_damaged_cache_costs_only_its_lines(folder, tmp_path, probed):
    build(folder, cache_dir=tmp_path / "cache")
    [file] = (tmp_path / "cache").iterdir()
    lines = file.read_text().splitlines()
    file.write_text("\n".join([lines[0], "[1, 2]", '{"a": 1}', lines[1], lines[2][:40]]))
    catalog = build(folder, cache_dir=tmp_path / "cache")
    assert len(probed) == 4
    assert catalog.frames.tolist() == [20, 50, 33]
    build(folder, cache_dir=tmp_path / "cache")  # what was probed after the damage is readable
    assert len(probed) == 4


@pytest.mark.parametrize(
    ("was", "becomes"),
    [(b'"frames": 20', b'"frames": 19'), (b'"fps": 25.0', b'"fps": 5.0'), (b'"mp4"', b'"pyav"'), (b"one/a", b"two/c")],
)
def test_a_changed_line_of_the_cache_is_not_believed(folder, tmp_path, probed, was, becomes):
    first = build(folder, cache_dir=tmp_path / "cache")
    [file] = (tmp_path / "cache").iterdir()
    content = file.read_bytes()
    assert was in content
    file.write_bytes(content.replace(was, becomes))
    again = build(folder, cache_dir=tmp_path / "cache")
    assert len(probed) > 3
    for column in ("frames", "fps", "readers", "paths"):
        assert getattr(again, column).tolist() == getattr(first, column).tolist()


def test_a_cache_of_anything_else_is_no_error(folder, tmp_path, probed):
    build(folder, cache_dir=tmp_path / "cache")
    [file] = (tmp_path / "cache").iterdir()
    deep = b"[" * 200_000
    file.write_bytes(b"\n".join([deep, b"0" * 32 + b" " + deep, bytes(range(256)), b" ", b"null", file.read_bytes()]))
    assert build(folder, cache_dir=tmp_path / "cache").frames.tolist() == [20, 50, 33]
    assert len(probed) == 3


# ---- processes


def crash_or_probe(path: str):
    """Replacement of the reader, importable by name in the worker process."""
    if path.endswith("b.mp4"):
        os._exit(3)
    return probe(path)


def test_a_file_that_crashes_its_process_costs_only_itself(folder, monkeypatch, caplog):
    monkeypatch.setattr(bsp.video.probe_many, "_probe_one", crash_or_probe)
    catalog = build(folder, workers=1, max_skipped_share=0.5)
    assert catalog.frames.tolist() == [20, 50]
    assert catalog.skipped == (("one/b.mp4", "the video reader crashed on it"),)


SCRIPT = """
import sys
from bsp.datasets.kinetics import load_class_folders
catalog = load_class_folders(sys.argv[1], workers=2, progress=False)
print(len(catalog), catalog.frames.min(), catalog.frames.max(), catalog.class_names)
"""


@pytest.mark.long
def test_a_plain_script_builds_a_catalog_with_processes(folder, tmp_path):
    """Without ``if __name__ == "__main__"``, and with files beside it that are named like modules."""
    for name in ("one", "two"):
        (tmp_path / "many" / name).mkdir(parents=True)
        for number in range(200):
            os.link(folder / "one" / "a.mp4", tmp_path / "many" / name / f"{number}.mp4")
    (tmp_path / "script.py").write_text(SCRIPT)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "numpy.py").write_text("raise RuntimeError('not this one')")
    paths = os.pathsep.join(path for path in sys.path if path)
    ran = subprocess.run(
        [sys.executable, str(tmp_path / "script.py"), str(tmp_path / "many")],
        cwd=elsewhere, env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout == "400 20 20 ('one', 'two')\n"


def test_calls_apart_keep_their_order_and_bring_their_errors():
    found = list(apart.in_order(eval, [("1 + 1",), ("__import__('os')._exit(3)",), ("2 + 2",), ("3 + 3",)], 2))
    assert [found[0], *found[2:]] == [2, 4, 6]
    assert isinstance(found[1], apart.ProcessDied)
    with pytest.raises(ZeroDivisionError):
        list(apart.in_order(eval, [("1",), ("1 / 0",), ("2",)], 1))


def test_an_interrupted_call_leaves_no_process():
    before = set(psutil.Process().children())
    calls = apart.in_order(eval, [("1",)] + [("__import__('time').sleep(600)",)] * 5, 2)
    assert next(calls) == 1
    children = set(psutil.Process().children()) - before
    assert children
    calls.close()  # what an exception in the loop over it does
    assert not any(process.is_running() for process in children)


def test_every_file_of_a_long_list_gets_its_own_answer(tmp_path):
    # More files than one batch of pending calls; every third one exists and is empty.
    paths = [f"{number}.mp4" for number in range(600)]
    for path in paths[::3]:
        (tmp_path / path).touch()
    found = bsp.video.probe_many.probe_files(str(tmp_path), paths, cache_dir=None, workers=0, progress=False)
    empty = [path for path, (_, reason) in found.items() if reason == "empty file (0 bytes); download it again"]
    missing = [path for path, (_, reason) in found.items() if reason == "no such file"]
    assert empty == paths[::3]
    assert len(missing) == 400
    assert list(found) == paths
