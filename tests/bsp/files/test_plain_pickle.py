"""Pickles of plain data are read, also old ones, and anything else is refused by name without being run."""

from __future__ import annotations

import collections
import os
import pickle
from fractions import Fraction

import numpy as np
import pytest

from bsp.errors import AnnotationError
from bsp.files.plain_pickle import read_plain_pickle

PLAIN = {
    "id": [1, 2.5, -(10**20), True, None, "täxt", b"bytes", b""],
    "nested": {"tuple": (1, (2,)), "set": {1, 2}, "frozen": frozenset({3})},
}


def written(tmp_path, content: bytes):
    path = tmp_path / "file.pkl"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_data_comes_back_as_it_was(tmp_path, protocol):
    assert read_plain_pickle(written(tmp_path, pickle.dumps(PLAIN, protocol))) == PLAIN


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_numpy_arrays_come_as_lists_and_scalars_as_numbers(tmp_path, protocol):
    value = {
        "matrix": np.arange(6, dtype=np.int32).reshape(2, 3),
        "columns first": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "big endian": np.array([1.5, -2.0], ">f4"),
        "empty": np.zeros((0,)),
        "flags": np.array([True, False]),
        "names": np.array(["ab", "c"]),
        "objects": np.array([[1.0], "x", None], object),
        "scalars": [np.float64(0.1), np.int64(7), np.bool_(True), np.float32(0.5)],
    }
    assert read_plain_pickle(written(tmp_path, pickle.dumps(value, protocol))) == {
        "matrix": [[0, 1, 2], [3, 4, 5]],
        "columns first": [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]],
        "big endian": [1.5, -2.0],
        "empty": [],
        "flags": [True, False],
        "names": ["ab", "c"],
        "objects": [[1.0], "x", None],
        "scalars": [0.1, 7, True, 0.5],
    }


def test_a_file_that_python_2_wrote_with_protocol_2(tmp_path):
    # {'fps': 15.0, u'id': 'v', 'times': numpy.array([1.0, 2.5]), 'n': 3L}: byte strings are SHORT_BINSTRING, "U".
    times = np.array([1.0, 2.5], "<f8").tobytes()
    content = (
        b"\x80\x02}q\x00(U\x03fpsG@.\x00\x00\x00\x00\x00\x00X\x02\x00\x00\x00idU\x01vU\x01n\x8a\x01\x03U\x05times"
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01K\x02\x85cnumpy\ndtype\nU\x02f8K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        b"\x89U\x10" + times + b"tbu."
    )
    assert read_plain_pickle(written(tmp_path, content)) == {"fps": 15.0, "id": "v", "n": 3, "times": [1.0, 2.5]}


class Command:
    """Unpickled by Python's own reader it would create a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def test_a_command_is_refused_by_name_and_does_not_run(tmp_path):
    marker = tmp_path / "was-run"
    path = written(tmp_path, pickle.dumps({"id": Command(marker)}))
    with pytest.raises(AnnotationError, match=r"file\.pkl.*posix\.system.*not read"):
        read_plain_pickle(path)
    assert not marker.exists()
    pickle.loads(path.read_bytes())  # the command is a working one
    assert marker.exists()


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (Fraction(1, 3), "fractions.Fraction"),
        (collections.OrderedDict(a=1), "collections.OrderedDict"),
        (1 + 2j, "builtins.complex"),
        (getattr, "builtins.getattr"),
        (np.random.default_rng, "numpy.random"),
        (np.array([("a", 1)], [("x", "U1"), ("y", "i4")]), "'V8'"),
        (np.datetime64("2020-01-01"), "'M8'"),
    ],
)
def test_whatever_is_no_plain_data_is_refused_by_name(tmp_path, value, name):
    with pytest.raises(AnnotationError, match=name):
        read_plain_pickle(written(tmp_path, pickle.dumps([value], 4)))


def test_a_persistent_object_is_refused(tmp_path):
    with pytest.raises(AnnotationError, match="stored elsewhere"):
        read_plain_pickle(written(tmp_path, b"\x80\x02U\x01xQ."))


@pytest.mark.parametrize("content", [b"", b"{}", pickle.dumps(PLAIN)[:40], pickle.dumps(np.arange(9.0), 2)[:-9] + b"."])
def test_damaged_files_are_named(tmp_path, content):
    with pytest.raises(AnnotationError, match=r"file\.pkl: damaged pickle"):
        read_plain_pickle(written(tmp_path, content))


def test_an_absent_file_is_named(tmp_path):
    with pytest.raises(AnnotationError, match=r"nowhere\.pkl: no such file"):
        read_plain_pickle(tmp_path / "nowhere.pkl")
