"""Features in other projects' layouts: written so that their loaders find them, read back with a truthful record."""

from __future__ import annotations

import csv
import hashlib
import json

import h5py
import numpy as np
import pytest

from bsp.errors import AnnotationError, TooManyBroken
from bsp.features.interchange import Timing, export_features, import_features, uniform_record, video_durations
from bsp.features.store import FeatureInfo, is_complete, read_features, write_features

WIDTH = 8
ROWS = {"-a_b": 5, "K3x": 12}  # by video id
EIGHT = Timing(fps=24.0, stride_frames=8, snippet_frames=8)


def record(video_id: str, rows: int, **changes) -> FeatureInfo:
    fields = {
        "video_id": video_id, "frames": 8 * rows + 3, "fps": 24.0, "snippet_frames": 8, "stride_frames": 8,
        "offset_frames": 0, "size_px": 224, "mean": (0.5, 0.5, 0.5), "std": (0.2, 0.2, 0.2), "feature_width": WIDTH,
        "snippets": rows, "encoder_hash": "abc", "code_version": 1,
    }  # fmt: skip
    return FeatureInfo(**fields | changes)


def features_of(video_id: str) -> np.ndarray:
    seed = sum(map(ord, video_id))
    return np.random.default_rng(seed).normal(size=(ROWS[video_id], WIDTH)).astype(np.float32) * 1e3


@pytest.fixture
def store(tmp_path):
    """A feature folder of this project, with the other files that a stage has."""
    folder = tmp_path / "store"
    for video_id, rows in ROWS.items():
        write_features(folder, video_id, features_of(video_id), record(video_id, rows))
    (folder / "manifest.json").write_text("{}")
    return folder


def read_csv(path):
    """As pandas.read_csv(path).values: the first line names the columns."""
    with path.open(newline="") as file:
        names, *rows = csv.reader(file)
    assert len(set(names)) == WIDTH
    return np.array(rows, np.float32)


# How each project's loader reads one video: (layout, place below a folder, reader of (place, id)).
READERS = [
    ("gtad", "anet.h5", lambda place, i: h5py.File(place, "r")["v_" + i][()]),  # ActivityNet, THUMOS-14
    ("gtad", "csv_mean", lambda place, i: read_csv(place / f"v_{i}.csv")),
    ("csv", "table", lambda place, i: read_csv(place / f"v_{i}.csv")),
    ("opentad", "feats", lambda place, i: np.load(place / f"v_{i}.npy").astype(np.float32)),
    ("2dtan", "tsm_features.hdf5", lambda place, i: h5py.File(place, "r")["v_" + i][:]),
    ("lgi", "tsm", lambda place, i: np.load(place / f"v_{i}.npy").squeeze()),
]


@pytest.mark.parametrize(("layout", "place", "read"), READERS)
def test_export_is_what_the_project_reads_and_import_brings_it_back(layout, place, read, store, tmp_path):
    path, back = tmp_path / "out" / place, tmp_path / "back"
    report = export_features(store, path, layout=layout, prefix="v_")
    assert (report.videos, report.rows, report.width) == (2, 17, WIDTH)
    for video_id in ROWS:
        np.testing.assert_array_equal(read(path, video_id), features_of(video_id))
    report = import_features(path, back, layout=layout, timing=EIGHT, prefix="v_")
    assert (report.videos, report.rows, report.width, report.left_out) == (2, 17, WIDTH, ())
    for video_id, rows in ROWS.items():
        feat_SD, info = read_features(back, video_id, {"stride_frames": 8, "feature_width": WIDTH})
        np.testing.assert_array_equal(feat_SD, features_of(video_id))
        assert (info.fps, info.snippets, info.frames) == (24.0, rows, 8 * rows)
        assert (info.size_px, info.mean, info.std, info.code_version) == (0, (), (), 0)
        assert info.encoder_hash.startswith("imported:")
    assert not list(tmp_path.rglob("*.partial"))


def test_export_resized_to_cells(store, tmp_path):
    export_features(store, tmp_path / "csv", layout="gtad", cells=4)
    source, found = features_of("K3x"), read_csv(tmp_path / "csv" / "K3x.csv")
    # Half-pixel centres: cell k of 4 lies at (k + 0.5) * 12 / 4 - 0.5 = 1, 4, 7, 10 of 12 rows.
    np.testing.assert_allclose(found, source[[1, 4, 7, 10]], rtol=1e-6)
    found = read_csv(tmp_path / "csv" / "-a_b.csv")  # 5 rows: at 0.125, 1.375, 2.625, 3.875
    source = features_of("-a_b").astype(float)
    np.testing.assert_allclose(found[1], 0.625 * source[1] + 0.375 * source[2], rtol=1e-5)
    with pytest.raises(ValueError, match="cells must be at least 1, not 0"):
        export_features(store, tmp_path / "other", layout="csv", cells=0)


def folder_of(tmp_path, arrays: dict[str, np.ndarray]):
    folder = tmp_path / "theirs"
    folder.mkdir()
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    return folder


def test_durations_decide_the_frames_and_what_is_left_out(tmp_path):
    source_folder = folder_of(tmp_path, {"v_a": np.ones((10, 2)), "v_b": np.ones((4, 2)), "v_c": np.ones((4, 2))})
    durations = {"a": 3.5, "b": 1.4, "gone": 9.0}
    report = import_features(
        source_folder, tmp_path / "o", layout="opentad", timing=EIGHT, durations=durations, prefix="v_"
    )  # fmt: skip
    assert (report.videos, report.left_out, report.missing) == (2, ("v_c: has no duration",), ("gone",))
    assert read_features(tmp_path / "o", "a")[1].frames == 84  # 3.5 s of 24 frames
    assert not is_complete(tmp_path / "o", "c")


def test_rows_are_spread_evenly_without_frame_rate_and_stride(tmp_path):
    source_folder = folder_of(tmp_path, {"a": np.ones((100, 2))})
    import_features(source_folder, tmp_path / "out", layout="opentad", durations={"a": 250.0})
    info = read_features(tmp_path / "out", "a")[1]
    cell_s = info.stride_frames / info.fps
    assert (cell_s, info.frames, info.snippets) == (pytest.approx(2.5), 100, 100)
    assert info.frames / info.fps == pytest.approx(250)
    with pytest.raises(ValueError, match="durations of the videos are needed"):
        import_features(source_folder, tmp_path / "more", layout="opentad")


def test_wrong_stride_is_refused_with_the_remedy(tmp_path):
    source_folder = folder_of(tmp_path, {f"x{k}": np.ones((100, 2)) for k in range(5)})
    durations = {f"x{k}": 120.0 for k in range(5)}  # 2880 frames: 360 rows of 8
    with pytest.raises(
        TooManyBroken, match=r"x0: 100 rows of 8 frames at 24 fps cover 33.3 s of 120.0 s \(about 360.*both out"
    ):
        import_features(source_folder, tmp_path / "out", layout="lgi", timing=EIGHT, durations=durations)
    assert [p.name for p in tmp_path.iterdir()] == ["theirs"]
    timing = Timing(fps=24.0, stride_frames=29, snippet_frames=29)
    assert (
        import_features(source_folder, tmp_path / "out", layout="lgi", timing=timing, durations=durations).videos == 5
    )


def test_few_videos_that_do_not_fit_are_left_out_and_named(tmp_path):
    source_folder = folder_of(tmp_path, {f"x{k:02}": np.ones((30, 2)) for k in range(20)})
    durations = {f"x{k:02}": 10.0 for k in range(19)} | {"x19": 20.0}
    report = import_features(source_folder, tmp_path / "out", layout="lgi", timing=EIGHT, durations=durations)
    assert report.videos == 19
    assert [why.split(":")[0] for why in report.left_out] == ["x19"]


def test_arrays_of_other_shapes(tmp_path):
    rows = features_of("K3x")
    source_folder = folder_of(tmp_path, {"a": rows[:, None, None].astype(np.float64)})  # as I3D's were published
    import_features(source_folder, tmp_path / "out", layout="lgi", timing=EIGHT)
    np.testing.assert_array_equal(read_features(tmp_path / "out", "a")[0], rows)
    np.save(source_folder / "a.npy", rows.T)
    import_features(source_folder, tmp_path / "turned", layout="opentad", timing=EIGHT, channel_first=True)
    np.testing.assert_array_equal(read_features(tmp_path / "turned", "a")[0], rows)


def test_other_forms_of_hdf5(tmp_path):
    with h5py.File(tmp_path / "c3d.hdf5", "w") as file:  # 2D-TAN's ActivityNet Captions
        file.create_dataset("v_a/c3d_features", data=features_of("K3x"))
    import_features(tmp_path / "c3d.hdf5", tmp_path / "one", layout="2dtan", timing=EIGHT, prefix="v_")
    np.testing.assert_array_equal(read_features(tmp_path / "one", "a")[0], features_of("K3x"))
    (tmp_path / "many").mkdir()
    with h5py.File(tmp_path / "many" / "v_a.h5", "w") as file:  # G-TAD's second form for ActivityNet
        file["v_a"] = features_of("K3x")
    import_features(tmp_path / "many", tmp_path / "two", layout="gtad", timing=EIGHT, prefix="v_")
    np.testing.assert_array_equal(read_features(tmp_path / "two", "a")[0], features_of("K3x"))


def test_hash_tells_one_source_from_another(tmp_path):
    source_folder = folder_of(tmp_path, {"a": np.ones((4, 2)), "b": np.ones((4, 2))})
    expected = hashlib.sha256()
    for name in ("a.npy", "b.npy"):
        expected.update(f"{name} {hashlib.sha256((source_folder / name).read_bytes()).hexdigest()}\n".encode())
    import_features(source_folder, tmp_path / "one", layout="lgi", timing=EIGHT)
    assert read_features(tmp_path / "one", "b")[1].encoder_hash == f"imported:{expected.hexdigest()}"
    np.save(source_folder / "b.npy", np.zeros((4, 2)))
    import_features(source_folder, tmp_path / "two", layout="lgi", timing=EIGHT)
    assert read_features(tmp_path / "two", "a")[1].encoder_hash != f"imported:{expected.hexdigest()}"


def table(text: str):
    return "csv", "a.csv", text.encode()


@pytest.mark.parametrize(
    ("layout", "name", "content", "reason"),
    [
        (*table("0.25,1.5\n1,2\n"), "begins with 0.25, so it seems to be features"),
        (*table(",f0\n0,2\n"), "line 1: a column without a name"),
        (*table("f0,f1\n1,2,3\n"), "3 numbers in a row below 2 column names"),
        (*table("f0,f1\n1,x\n"), r"a\.csv: .*x"),
        (*table("f0,f1\n"), "no row below"),
        ("csv", "a.csv", b"f0\n\xff\n", r"a\.csv: line 2: not UTF-8"),
        ("lgi", "a.npy", b"hello", "not an array of numbers in NumPy's format"),
        ("lgi", "a.npy", np.zeros(7), r"\[7\], not \[rows, width\]"),
        ("lgi", "a.npy", np.zeros((2, 3, 4)), r"\[2, 3, 4\], not \[rows, width\]"),
        ("lgi", "a.npy", np.zeros((0, 4)), r"not an array of numbers .*\(0, 4\)"),
        ("lgi", "a.npy", np.array([["x", "y"]]), "not an array of numbers"),
        ("lgi", "a.npy", np.array([[1, 1], [1.0, np.nan]]), r"a\.npy: row 1, .* not finite \(nan"),
        ("lgi", "a.txt", b"", "expected one <name>.npy per video, found none"),
        ("2dtan", "a.npy", np.zeros((2, 2)), "is a folder, but the layout 2dtan is one HDF5 file"),
        ("gtad", "a.h5", b"not hdf5", "cannot be read as HDF5"),
    ],
)
def test_damaged_files_are_refused_by_name(layout, name, content, reason, tmp_path):
    (tmp_path / "theirs").mkdir()
    path = tmp_path / "theirs" / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        np.save(path, content)
    with pytest.raises(ValueError, match=reason):
        import_features(tmp_path / "theirs", tmp_path / "out", layout=layout, timing=EIGHT)
    assert [p.name for p in tmp_path.iterdir()] == ["theirs"]


def test_hdf5_without_the_expected_data_set(tmp_path):
    with h5py.File(tmp_path / "f.h5", "w") as file:
        file["v_a/one"], file["v_a/two"] = np.ones((2, 2)), np.ones((2, 2))
    with pytest.raises(ValueError, match=r"f\.h5:v_a: expected one data set of this name, found \['one', 'two'\]"):
        import_features(tmp_path / "f.h5", tmp_path / "out", layout="gtad", timing=EIGHT)
    with pytest.raises(ValueError, match="is a file, but the layout opentad is a folder"):
        import_features(tmp_path / "f.h5", tmp_path / "out", layout="opentad", timing=EIGHT)
    with pytest.raises(FileNotFoundError, match="absent"):
        import_features(tmp_path / "absent", tmp_path / "out", layout="gtad", timing=EIGHT)


def test_different_widths_names_and_places_are_refused(tmp_path, store):
    source_folder = folder_of(tmp_path, {"a": np.ones((4, 30)), "b": np.ones((4, 20))})
    with pytest.raises(ValueError, match=r"b\.npy: rows of width 20, but 30 before.*\[C, T\], import .* channel-first"):
        import_features(source_folder, tmp_path / "out", layout="lgi", timing=EIGHT)
    with pytest.raises(ValueError, match="2 of 2 names do not begin with 'v_', such as 'a'"):
        import_features(source_folder, tmp_path / "out", layout="lgi", timing=EIGHT, prefix="v_")
    with pytest.raises(ValueError, match=r"none of the 2 names, such as a, has a duration.*prefix"):
        import_features(source_folder, tmp_path / "out", layout="lgi", timing=EIGHT, durations={"v_a": 1.0})
    with pytest.raises(FileExistsError, match="store: is there already"):
        import_features(source_folder, store, layout="lgi", timing=EIGHT)
    with pytest.raises(FileExistsError, match="theirs: is there already"):
        export_features(store, source_folder, layout="lgi")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"stride_frames": 16}, "stride_frames is 16, but 8 for -a_b in the same folder; .*one stride"),
        ({"encoder_hash": "xyz"}, "encoder_hash is 'xyz', but 'abc' for -a_b"),
        ({"feature_width": WIDTH + 1}, "feature_width is 9, but 8 for -a_b"),
        ({"precision": "bfloat16"}, "precision is 'bfloat16', but 'float32' for -a_b"),
        ({"size_px": 96}, "size_px is 96, but "),
    ],
)
def test_folders_of_mixed_features_are_refused(change, reason, store, tmp_path):
    info = record("z", 4, **change)
    write_features(store, "z", np.zeros((4, info.feature_width)), info)
    with pytest.raises(ValueError, match=rf"z\.json: {reason}"):
        export_features(store, tmp_path / "out", layout="csv")
    assert not (tmp_path / "out").exists()


def test_incomplete_and_empty_folders_are_refused(store, tmp_path):
    assert uniform_record(store)[0] == ["-a_b", "K3x"]
    (store / "K3x.json").unlink()
    with pytest.raises(ValueError, match=r"1 of 2 videos are incomplete \(K3x\)"):
        uniform_record(store)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty: holds no features"):
        uniform_record(tmp_path / "empty")
    with pytest.raises(FileNotFoundError, match="absent"):
        uniform_record(tmp_path / "absent")


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"fps": 0.0}, "fps must be above 0, not 0"),
        ({"fps": float("nan")}, "fps must be above 0, not nan"),
        ({"stride_frames": 0}, "stride_frames must be at least 1, not 0"),
        ({"snippet_frames": 0}, "snippet_frames must be at least 1, not 0"),
        ({"offset_frames": -1}, "offset_frames must be at least 0, not -1"),
    ],
)
def test_timings_that_cannot_be(fields, reason):
    with pytest.raises(ValueError, match=reason):
        Timing(**{"fps": 24.0, "stride_frames": 8, "snippet_frames": 8} | fields)


def test_durations_from_annotations(tmp_path):
    path = tmp_path / "a.json"
    database = {
        "x": {"subset": "training", "duration": "12.5", "annotations": []},
        "y": {"subset": "testing", "annotations": []},
    }
    path.write_text(json.dumps({"database": database}))
    assert video_durations(path) == {"x": 12.5}
    path.write_text(json.dumps({"train": {"x": 3}, "test": {"y": 4.5}}))
    assert video_durations(path) == {"x": 3.0, "y": 4.5}
    (tmp_path / "c.csv").write_text("id,length\nAB,30.5\n")
    assert video_durations(tmp_path / "c.csv") == {"AB": 30.5}
    database["x"]["duration"] = 0
    path.write_text(json.dumps({"database": database}))
    with pytest.raises(AnnotationError, match=r"database\.x\.duration: is 0"):
        video_durations(path)
