"""Safe reader of ``.npy`` files: the header is checked before memory is allocated.

``numpy.load`` also opens zip archives, allocates what the header declares, and parses deeply nested headers. Nothing is
unpickled here, and the numbers must fill the file exactly.
"""

from __future__ import annotations

import math
import os
import stat
from pathlib import Path
from typing import BinaryIO

import numpy as np

from bsp.errors import FileError

_LONGEST_HEADER = 4096  # bytes; that of an array of numbers has about 100


def read_npy(path: str | os.PathLike[str]) -> np.ndarray:
    """The array of integers or floats of up to 8 bytes (1 to 8 dimensions, at least one number) in a .npy file.

    Raises FileNotFoundError, and FileError for a damaged or unsupported file.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            size = _regular_size(file)
            shape, fortran, dtype = _header(file)
            count = math.prod(shape)
            found = size - file.tell()
            if count * dtype.itemsize != found:
                raise _Wrong(
                    f"its header says {dtype} {list(shape)}, {count * dtype.itemsize} bytes, but {found} follow;"
                    " copy or make it again"
                )
            array = np.fromfile(file, dtype, count)
    except _Wrong as error:
        raise FileError(f"{path}: not an array of numbers in NumPy's format ({error})") from None
    except FileNotFoundError:
        raise
    except OSError as error:
        raise FileError(f"{path}: cannot be read ({error.strerror or error})") from None
    return array.reshape(shape, order="F" if fortran else "C")


class _Wrong(Exception):
    """Internal error without file name; the caller adds it."""


def _regular_size(file: BinaryIO) -> int:
    found = os.fstat(file.fileno())
    if not stat.S_ISREG(found.st_mode):
        raise _Wrong("not a regular file")
    return found.st_size


def _header(file: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype]:
    """(shape, whether in Fortran order, item type) from the header."""
    start = file.read(8)
    if start[:4] == b"PK\x03\x04":
        raise _Wrong("a zip archive such as .npz; unpack it")
    if start[:6] != b"\x93NUMPY":
        raise _Wrong(f"it begins with {start[:6]!r}, another kind of file")
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    reader = readers.get((start[6], start[7]))
    if reader is None:
        raise _Wrong(f"version {'.'.join(map(str, start[6:8]))} of the format, which arrays of numbers do not need")
    try:
        shape, fortran, dtype = reader(file, max_header_size=_LONGEST_HEADER)
    except Exception as error:  # the header is a Python literal: damage can raise many kinds of exceptions
        raise _Wrong(f"a damaged header, {type(error).__name__}: {str(error)[:200]}") from None
    if dtype.kind not in "fiu" or dtype.itemsize > 8 or dtype.subdtype is not None:
        raise _Wrong(f"items of the type {str(dtype)[:60]}")
    if not (1 <= len(shape) <= 8 and all(isinstance(side, int) and side >= 1 for side in shape)):
        raise _Wrong(f"the shape {str(shape)[:60]}")
    return shape, fortran, dtype
