"""Untrusted HDF5 files: only numbers in the file itself are read, within bounds; a dead child process is an error."""

from __future__ import annotations

import os
import signal
import threading
import zlib

import h5py
import numpy as np
import pytest

from bsp.errors import FileError
from bsp.files.hdf5 import HDF5Reader

ROWS = np.arange(12, dtype=np.float32).reshape(3, 4)


@pytest.fixture(scope="module")
def reader():
    with HDF5Reader() as reader:
        yield reader


def external(file):
    file.create_dataset("a", shape=(8, 16), dtype="u1", external=[("/etc/passwd", 0, 128)])


def virtual(file):
    layout = h5py.VirtualLayout((3, 4), "f4")
    layout[:] = h5py.VirtualSource("other.h5", "a", shape=(3, 4))
    file.create_virtual_dataset("a", layout)


def external_link(file):
    file["a"] = h5py.ExternalLink("other.h5", "/a")


def external_link_in_group(file):
    file.create_group("a")["c3d_features"] = h5py.ExternalLink("other.h5", "/a")


def soft_link(file):
    file["b"] = ROWS
    file["a"] = h5py.SoftLink("/b")


def references(file):
    file["b"] = ROWS
    file.create_dataset("a", (2, 2), h5py.ref_dtype)[0, 0] = file["b"].ref


def other_filter(file):
    file.create_dataset("a", data=ROWS, scaleoffset=3)


def terabytes(file):
    file.create_dataset("a", shape=(10**8, 4096), dtype="f4")


def terabytes_in_pieces(file):
    data = file.create_dataset("a", shape=(10**8, 4096), dtype="f4", chunks=(1, 4096), compression="gzip")
    data[0] = 1


def large_piece(file):
    keywords = {"maxshape": (None, 4096), "chunks": (10**5, 4096), "compression": "gzip"}
    file.create_dataset("a", shape=(1, 4096), dtype="f4", **keywords).id.write_direct_chunk((0, 0), bytes(100))


def bomb(file):
    """16 kB of packed zeros become 16 MiB, of which a kilobyte belongs to the array."""
    data = file.create_dataset("a", shape=(1, 256), dtype="f4", chunks=(1, 256), compression="gzip")
    data.id.write_direct_chunk((0, 0), zlib.compress(bytes(1 << 24)))


def text(file):
    file["a"] = ["x", "y"]


def no_rows(file):
    file.create_dataset("a", (0, 4), "f4")


@pytest.mark.parametrize(
    ("write", "reason"),
    [
        (external, "other files, which are not opened"),
        (virtual, "other files, which are not opened"),
        (external_link, "a is a link to another place"),
        (external_link_in_group, "c3d_features is a link to another place"),
        (soft_link, "a is a link to another place"),
        (references, "items of the type object, not numbers"),
        (other_filter, "packed by the filter 6; pack it with gzip"),
        (terabytes, "1,638,400,000,000 bytes are declared, of which 0 are in the file"),
        (terabytes_in_pieces, "1,638,400,000,000 bytes are declared"),
        (large_piece, "16,384 bytes are declared"),
        (bomb, "packed bytes for 1,024"),
        (text, "not numbers"),
        (no_rows, "the shape"),
    ],
)
def test_what_is_not_in_the_file_is_not_read(write, reason, reader, tmp_path):
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["a"] = ROWS
    with h5py.File(tmp_path / "x.h5", "w") as file:
        write(file)
    with pytest.raises(FileError, match=rf"x\.h5:a: .*{reason}"):
        reader.read(tmp_path / "x.h5", "a")


PACKED = {"chunks": (2, 3), "compression": "gzip", "shuffle": True, "fletcher32": True}


@pytest.mark.parametrize("keywords", [{}, PACKED, {"chunks": (3, 1), "compression": "lzf"}, {"chunks": (1, 4)}])
@pytest.mark.parametrize("dtype", ["<f4", ">f8", "<f2", "u1"])
def test_numbers_come_back(keywords, dtype, reader, tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("a", data=ROWS.astype(dtype), **keywords).attrs.update(
            {"fps": 25.0, "id": "ä", "mean": [0.5, 1]}
        )
        file.create_group("b")["only"] = ROWS
    array, attributes = reader.read(tmp_path / "x.h5", "a", attributes=True)
    assert array.dtype == dtype
    np.testing.assert_array_equal(array, ROWS)
    assert attributes == {"fps": 25.0, "id": "ä", "mean": [0.5, 1.0]}
    np.testing.assert_array_equal(reader.read(tmp_path / "x.h5", "b")[0], ROWS)
    assert reader.names(tmp_path / "x.h5") == ["a", "b"]
    with pytest.raises(KeyError, match=r"expected one data set of this name, found \['a', 'b'\]"):
        reader.read(tmp_path / "x.h5", "c")


def test_an_attribute_that_points_elsewhere_is_refused(reader, tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["a"] = ROWS
        file["a"].attrs["x"] = file["a"].ref
    with pytest.raises(FileError, match="the attribute 'x' is no text and no number"):
        reader.read(tmp_path / "x.h5", "a", attributes=True)


def test_a_reader_that_dies_is_an_error_about_the_file_and_starts_anew(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["a"] = ROWS
    os.mkfifo(tmp_path / "pipe.h5")
    with HDF5Reader() as reader:
        with pytest.raises(FileError, match=r"pipe\.h5: .*not a regular file"):
            reader.names(tmp_path / "pipe.h5")
        os.kill(reader._child.pid, signal.SIGSTOP)  # it takes the next question, but cannot answer
        threading.Timer(0.5, os.kill, (reader._child.pid, signal.SIGKILL)).start()
        with pytest.raises(FileError, match=r"x\.h5: reading it as HDF5 ended the reader \(status -9\)"):
            reader.names(tmp_path / "x.h5")
        assert reader.names(tmp_path / "x.h5") == ["a"]
    with pytest.raises(FileNotFoundError, match="absent"):
        reader.names(tmp_path / "absent.h5")
