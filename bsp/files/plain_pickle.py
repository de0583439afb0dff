"""Untrusted pickles of plain data, read without running code from them.

A pickle names functions, which Python's own reader imports and calls. bsp/files/pickle_machine.py does neither; this
module provides replacements for the few names that plain data and NumPy arrays need, and refuses every other name.
Protocols 0 to 5 are read, also as written by Python 2 and by NumPy 1 and 2.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from bsp.errors import AnnotationError
from bsp.files.pickle_machine import Machine, Name, StandIn
from bsp.files.plain_trees import Refused, check_key
from bsp.files.text import read_bytes

MAX_BYTES = 512 * 2**20  # the largest published annotation pickles have some tens of MB


def read_plain_pickle(path: str | Path) -> Any:
    """The content of a pickle of dicts, lists, tuples, sets, text, bytes, booleans, numbers and None.

    NumPy arrays come as (nested) lists, NumPy scalars as Python numbers, text of Python 2 decoded as Latin-1; keys of
    dicts and items of sets are text, bytes or numbers. Raises AnnotationError with the file, and the name of anything
    else in it; also above the budget of files/pickle_machine.py.
    """
    content = read_bytes(path, max_bytes=MAX_BYTES)
    try:
        return Machine(content, plain_name).load()
    except Refused as error:
        raise AnnotationError(
            f"{path}: this pickle wants to use {error}, which is no plain data; it was not read. Convert the file to"
            " JSON where you trust it"
        ) from None
    except Exception as error:  # damaged bytes can raise any exception of the machine or a constructor
        raise AnnotationError(f"{path}: damaged pickle ({type(error).__name__}: {error}); download it again") from None


def plain_name(module: str, name: str) -> Name:
    """Replacement of a name that plain data need; Refused for any other."""
    module = {"__builtin__": "builtins"}.get(module, module).replace("numpy.core.", "numpy._core.")
    try:
        return _ALLOWED[module, name]
    except KeyError:
        raise Refused(f"{module}.{name}"[:200]) from None


class _DType(StandIn):
    """Replacement of numpy.dtype: an item type of fixed size without fields."""

    def __init__(self, machine: Machine, code: str, align: bool = False, copy: bool = False):
        if not re.fullmatch(r"b1|[iu][1248]|f[248]|[SU]\d{1,4}|O8?", code):
            raise Refused(f"a NumPy array of type {code!r:.60}")
        self.code, self.order = code, "="

    def set_state(self, machine: Machine, state: tuple[Any, ...]) -> None:
        if state[1] not in ("<", ">", "=", "|"):
            raise ValueError(f"the byte order {state[1]!r:.60}")
        self.order = state[1]

    @property
    def is_object(self) -> bool:
        return self.code[0] == "O"

    def items(self, machine: Machine, data: Any) -> np.ndarray:
        """The bytes (from Python 2: Latin-1 text) as a flat array."""
        if self.is_object:
            raise Refused("a NumPy scalar of type object")
        machine.spend(len(data) // 8)
        items = np.frombuffer(data.encode("latin1") if isinstance(data, str) else data, self.order + self.code)
        machine.spend(len(items))
        return items


class _Array(list[Any], StandIn):
    """Replacement of numpy.ndarray; converted to a nested list."""

    def set_state(self, machine: Machine, state: tuple[Any, ...]) -> None:
        _, shape, dtype, fortran, data = state
        if not dtype.is_object:
            self[:] = _nested(dtype.items(machine, data), shape, "F" if fortran else "C")
        elif len(shape) == 1 and len(data) == math.prod(shape):  # the items themselves are plain data
            self[:] = data
        else:
            raise Refused(f"a NumPy array of objects with the shape {shape!r:.60}")


def _nested(items: np.ndarray, shape: tuple[int, ...], order: Literal["C", "F"]) -> list[Any]:
    if not shape:
        raise Refused("a NumPy array without dimensions")
    if not items.size and shape != (0,):  # [1000000, 0] would be a million empty lists
        raise Refused(f"an empty NumPy array of the shape {shape!r:.60}")
    return items.reshape(shape, order=order).tolist()


def _empty_array(machine: Machine, subtype: Any, shape: tuple[Any, ...], code: Any) -> _Array:
    return _Array()


def _array_of(
    machine: Machine, data: Any, dtype: _DType, shape: tuple[int, ...], order: Literal["C", "F"]
) -> list[Any]:
    return _nested(dtype.items(machine, data), shape, order)


def _scalar(machine: Machine, dtype: _DType, data: Any) -> Any:
    return dtype.items(machine, data)[0].item()


def _bytes(machine: Machine, *parts: str) -> bytes:
    """Protocol 2 writes bytes as Latin-1 text with the name of that encoding, and empty ones as bytes()."""
    if not parts:
        return b""
    if len(parts) != 2 or parts[1].replace("-", "") != "latin1":
        raise Refused(f"the encoding {parts[1:]!r:.60}")
    machine.spend(len(parts[0]) // 8)
    return parts[0].encode("latin1")


def _set(machine: Machine, items: Sequence[Any] = ()) -> set[Any]:
    machine.spend(len(items))
    for item in items:
        check_key(item)
    return set(items)


def _frozen_set(machine: Machine, items: Sequence[Any] = ()) -> frozenset[Any]:
    return frozenset(_set(machine, items))


_MAKERS: dict[tuple[str, str], Callable[..., Any]] = {
    ("builtins", "set"): _set,
    ("builtins", "frozenset"): _frozen_set,
    ("builtins", "bytes"): _bytes,
    ("_codecs", "encode"): _bytes,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _DType,
    ("numpy._core.multiarray", "_reconstruct"): _empty_array,
    ("numpy._core.multiarray", "scalar"): _scalar,
    ("numpy._core.numeric", "_frombuffer"): _array_of,
}
_ALLOWED = {key: Name(".".join(key), make) for key, make in _MAKERS.items()}
