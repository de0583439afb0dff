"""NumPy's files: what the header says is compared with the file before memory is allocated."""

from __future__ import annotations

import io
import pickle

import numpy as np
import pytest

from bsp.errors import FileError
from bsp.files.npy import read_npy


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8", "<f2", "|u1", ">i8"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_of_numbers_come_back(dtype, order, tmp_path):
    array = np.arange(24).reshape(2, 3, 4).astype(dtype, order=order)
    np.save(tmp_path / "a.npy", array)
    found = read_npy(tmp_path / "a.npy")
    assert found.dtype == array.dtype
    np.testing.assert_array_equal(found, np.load(tmp_path / "a.npy"))


def with_header(header: str, data: bytes = b"", version: bytes = b"\x01\x00") -> bytes:
    text = header.ljust(117) + "\n"
    return b"\x93NUMPY" + version + len(text).to_bytes(2, "little") + text.encode() + data


def saved(array, **keywords) -> bytes:
    file = io.BytesIO()
    np.save(file, array, **keywords)
    return file.getvalue()


def zipped() -> bytes:
    file = io.BytesIO()
    np.savez(file, a=np.ones(3))
    return file.getvalue()


GOOD = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (with_header(GOOD.replace("2, 3", "1000000000, 2048")), "8192000000000 bytes, but 0 follow"),
        (with_header(GOOD, bytes(23)), "24 bytes, but 23 follow"),
        (with_header(GOOD, bytes(25)), "24 bytes, but 25 follow"),
        (with_header(GOOD.replace("2, 3", "-2, -3"), bytes(24)), "the shape"),
        (with_header(GOOD.replace("2, 3", "9" * 400)), "bytes, but 0 follow|damaged header"),
        (with_header("(" * 3000), "a damaged header"),
        (with_header("{'descr': ("), "a damaged header"),
        (with_header(GOOD, bytes(24), b"\x09\x00"), r"version 9\.0"),
        (with_header(GOOD + "\n" * 60_000), "a damaged header"),
        (zipped(), "zip archive such as .npz"),
        (b"PK\x03\x04" + bytes(100), "zip archive"),
        (saved(np.array([{}], object), allow_pickle=True), "items of the type object"),
        (saved(np.array(["x"])), "items of the type"),
        (saved(np.zeros(3, [("x", "f4")])), "items of the type"),
        (saved(np.zeros((0, 3))), "the shape"),
        (saved(np.float32(3)), "the shape"),
        (pickle.dumps(np.ones(3)), "another kind of file"),
        (b"", "another kind of file"),
    ],
)  # fmt: skip
def test_everything_else_is_refused_by_name(content, reason, tmp_path):
    (tmp_path / "a.npy").write_bytes(content)
    with pytest.raises(FileError, match=rf"a\.npy: not an array of numbers in NumPy's format \(.*({reason})"):
        read_npy(tmp_path / "a.npy")


def test_an_absent_file_and_a_folder(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_npy(tmp_path / "a.npy")
    with pytest.raises(FileError, match="cannot be read"):
        read_npy(tmp_path)
