"""Pickles that other people made, read without letting them run anything.

A pickle is a program: it names functions, which Python's own reader imports and calls. This reader knows a handful
of names (those that plain data and NumPy arrays need) and answers them with functions of its own; any other name is
refused. Protocols 0 to 5 are read, also as written by Python 2 and by NumPy 1 and 2.
"""

from __future__ import annotations

import math
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np

from bsp.errors import AnnotationError


def read_plain_pickle(path: str | Path) -> Any:
    """The content of a pickle of dicts, lists, tuples, sets, text, bytes, booleans, numbers and None.

    NumPy arrays come as (nested) lists, NumPy scalars as Python numbers, text of Python 2 decoded as Latin-1. Raises
    AnnotationError with the file and, for a pickle that holds anything else, the name of that.
    """
    try:
        with open(path, "rb") as file:
            return _PlainUnpickler(file, encoding="latin1").load()
    except _Refused as error:
        raise AnnotationError(
            f"{path}: this pickle wants to use {error}, which is no plain data; it was not read. Convert the file to"
            " JSON where you trust it"
        ) from None
    except OSError as error:
        raise AnnotationError(f"{path}: cannot be read ({error.strerror or error})") from error
    except Exception as error:  # damaged bytes can end in any exception that the reader or a constructor raises
        raise AnnotationError(f"{path}: damaged pickle ({type(error).__name__}: {error}); download it again") from error


class _Refused(Exception):
    """The message names what the pickle asked for."""


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        module = {"__builtin__": "builtins"}.get(module, module).replace("numpy.core.", "numpy._core.")
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise _Refused(f"{module}.{name}") from None

    def persistent_load(self, _: Any) -> Any:
        raise _Refused("an object that is stored elsewhere")


class _DType:
    """Stands for numpy.dtype: an item type of fixed size without fields."""

    def __init__(self, code: str, align: bool = False, copy: bool = False):
        if not re.fullmatch(r"b1|[iu][1248]|f[248]|[SU]\d{1,4}|O8?", code):
            raise _Refused(f"a NumPy array of type {code!r}")
        self.code, self.order = code, "="

    def __setstate__(self, state: tuple) -> None:
        self.order = state[1]

    @property
    def is_object(self) -> bool:
        return self.code[0] == "O"

    def items(self, data: Any) -> np.ndarray:
        """The bytes (as Python 2 stored them: Latin-1 text) as a flat array."""
        if self.is_object:
            raise _Refused("a NumPy scalar of type object")
        return np.frombuffer(data.encode("latin1") if isinstance(data, str) else data, self.order + self.code)


class _Array(list):
    """Stands for numpy.ndarray; becomes the nested list of its items."""

    def __setstate__(self, state: tuple) -> None:
        _, shape, dtype, fortran, data = state
        if not dtype.is_object:
            self[:] = _nested(dtype.items(data), shape, "F" if fortran else "C")
        elif len(shape) == 1 and len(data) == math.prod(shape):  # the items themselves are plain data
            self[:] = data
        else:
            raise _Refused(f"a NumPy array of objects with the shape {shape}")


def _nested(items: np.ndarray, shape: tuple, order: str) -> list:
    if not shape:
        raise _Refused("a NumPy array without dimensions")
    return items.reshape(shape, order=order).tolist()


def _empty_array(subtype: type, shape: tuple, code: Any) -> _Array:
    return _Array()


def _array_of(data: Any, dtype: _DType, shape: tuple, order: str) -> list:
    return _nested(dtype.items(data), shape, order)


def _scalar(dtype: _DType, data: Any) -> Any:
    return dtype.items(data)[0].item()


def _bytes(*parts: str) -> bytes:
    """Protocol 2 writes bytes as Latin-1 text with the name of that encoding, and empty ones as bytes()."""
    if parts and (len(parts) != 2 or parts[1].replace("-", "") != "latin1"):
        raise _Refused(f"the encoding {parts[1:]}")
    return parts[0].encode("latin1") if parts else b""


_ALLOWED = {
    ("builtins", "set"): set,
    ("builtins", "frozenset"): frozenset,
    ("builtins", "bytes"): _bytes,
    ("_codecs", "encode"): _bytes,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _DType,
    ("numpy._core.multiarray", "_reconstruct"): _empty_array,
    ("numpy._core.multiarray", "scalar"): _scalar,
    ("numpy._core.numeric", "_frombuffer"): _array_of,
}
