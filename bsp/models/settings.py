"""Settings dataclasses as JSON, {"class": name, fields}, read back into known classes only.

Known are the settings of ENCODERS and HEADS. What a file says is checked by the types of the fields and by the
dataclass's own rules; nothing is imported by name.
"""

from __future__ import annotations

import dataclasses
import math
import types
from collections.abc import Iterable
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from bsp.encoders.build import ENCODERS
from bsp.errors import FileError
from bsp.tasks.heads import HEADS

_REMEDY = "the file is damaged or of another version; make the model again or update the program"
_MOST = 10**6  # of any count or width; more would build a network without end
_NOT_FINITE = ("inf", "-inf", "nan")  # how floats that JSON lacks are written


def known_classes() -> dict[str, type[Any]]:
    """The classes that a model folder may name."""
    return {kind.__name__: kind for kind in [*ENCODERS, *(head.settings for head in HEADS.values())]}


def settings_json(settings: Any) -> dict[str, Any]:
    """A settings dataclass as JSON types."""
    values = {field.name: _plain(getattr(settings, field.name)) for field in dataclasses.fields(settings)}
    return {"class": type(settings).__name__, **values}


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return settings_json(value)
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"settings cannot hold {value!r} ({type(value).__name__})")


def read_settings(document: object, where: str, kinds: Iterable[type[Any]] = ()) -> Any:
    """The settings of a document. FileError, beginning with ``where``, for an unknown class, field or type of value.

    kinds: classes to choose from; () = all known ones. A field that the document lacks gets its default.
    """
    classes = {kind.__name__: kind for kind in kinds} or known_classes()
    name = document.get("class") if isinstance(document, dict) else None
    if not isinstance(document, dict) or not isinstance(name, str) or name not in classes:
        raise FileError(f"{where}: class is {name!r:.80}, known are {', '.join(sorted(classes))}; {_REMEDY}")
    kind = classes[name]
    fields = {field.name: field for field in dataclasses.fields(kind) if field.init}
    given = {key: value for key, value in document.items() if key != "class"}
    unknown = sorted(set(given) - set(fields))
    if unknown:
        raise FileError(f"{where}: {name} has no field {unknown[0]!r:.80}; {_REMEDY}")
    absent = [
        key
        for key, field in fields.items()
        if key not in given and field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]
    if absent:
        raise FileError(f"{where}: {name} lacks the field {absent[0]!r}; {_REMEDY}")
    hints = get_type_hints(kind)
    values = {key: _read(value, hints[key], f"{where}: {name}.{key}") for key, value in given.items()}
    try:
        return kind(**values)
    except (ValueError, TypeError) as error:  # the rules of the dataclass
        raise FileError(f"{where}: {name}: {error}; {_REMEDY}") from None


def _read(value: Any, hint: Any, where: str) -> Any:
    """``value`` as the type ``hint``; FileError if it is of another one."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        for option in arguments:
            try:
                return _read(value, option, where)
            except FileError:
                continue
    elif origin is Literal:
        if any(type(value) is type(option) and value == option for option in arguments):
            return value
    elif origin is tuple and isinstance(value, list):
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return tuple(_read(item, arguments[0], where) for item in value)
        if len(arguments) == len(value):
            return tuple(_read(item, of, where) for item, of in zip(value, arguments, strict=True))
    elif dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return read_settings(value, where, (hint,))
    elif hint is float:
        if type(value) in (int, float):
            return float(value)
        if isinstance(value, str) and value in _NOT_FINITE:
            return float(value)
    elif hint is type(None):
        if value is None:
            return None
    elif hint in (int, str, bool) and type(value) is hint and (hint is not int or abs(value) <= _MOST):
        return value
    wanted = getattr(hint, "__name__", None) if origin is None else str(hint)
    limit = f", at most {_MOST:,}" if hint is int else ""
    raise FileError(f"{where} cannot be {value!r:.80}, it is of the type {wanted or hint}{limit}; {_REMEDY}")
