"""``--set NAME=VALUE``: change fields of nested frozen dataclasses by their dotted names.

A value is read by the annotation of its field; the dataclass's own ``__post_init__`` decides whether it may be. What
:func:`as_lines` prints can be given back: ``train.clips=51200``, ``clips.kinds=dc,ss``, ``clips.change_point=none``.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
from collections.abc import Iterator, Sequence
from enum import Enum
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")

_NONE, _EMPTY = "none", "()"
_SWITCH = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


def apply_overrides(config: T, texts: Sequence[str]) -> T:
    """``config``, a dataclass, with the fields changed that ``texts`` name, each ``NAME=VALUE``.

    All changes of one dataclass are made at once, so that fields which depend on each other can change together. Of a
    union of dataclasses the present value's fields can be set. ValueError, with the text, what is wrong with it and
    what would be right, for an unknown name, a value of another type, one that the dataclass refuses, and a name that
    is given twice.
    """
    changes: dict[str, tuple[str, Any]] = {}  # by dotted name: the text and the value
    known = {name: (kind, value) for name, kind, value in _fields(config)}
    for text in texts:
        name, sign, written = (part.strip() for part in text.partition("="))
        if not sign or not name:
            raise ValueError(f"--set {text}: expected NAME=VALUE, such as {_an_example(known)}")
        if name not in known:
            raise ValueError(f"--set {text}: {_unknown(name, known)}")
        if name in changes:
            raise ValueError(f"--set {text}: {name} is set twice, first by {changes[name][0]!r}; leave one out")
        kind, _ = known[name]
        try:
            changes[name] = text, _parse(written, kind)
        except ValueError as error:
            fields = _below(name, known)
            reason = f"{name} has fields of its own: {_some(fields)}" if fields else error
            raise ValueError(f"--set {text}: {reason}") from None
    return _replaced(config, changes, "")


def as_lines(config: object, before: object = None) -> list[str]:
    """The resolved configuration, a line ``name = value`` for each field that a text can set, in their order.

    Where ``before``, an earlier configuration, has another value, the line ends with it.
    """
    old = {name: _render(value) for name, kind, value in _fields(before) if _settable(kind, value)} if before else {}
    lines = []
    for name, kind, value in _fields(config):
        if _settable(kind, value):
            now = _render(value)
            was = f"  (changed; was {old.get(name, 'absent')})" if before is not None and old.get(name) != now else ""
            lines.append(f"{name} = {now}{was}")
    return lines


def _fields(config: object, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(dotted name, annotation, value) of every field, a dataclass before its own fields."""
    if not dataclasses.is_dataclass(config):
        return
    kinds = get_type_hints(type(config))
    for field in dataclasses.fields(config):
        if field.init:
            name, value = prefix + field.name, getattr(config, field.name)
            yield name, kinds[field.name], value
            yield from _fields(value, f"{name}.")


def _settable(kind: Any, value: Any) -> bool:
    """Whether a text can give the field its present value."""
    if dataclasses.is_dataclass(value):
        return False
    if isinstance(value, tuple):
        return not any(dataclasses.is_dataclass(item) for item in value) and get_origin(kind) is not None
    return value is None or isinstance(value, bool | int | float | str | Enum | Path)


def _replaced(config: Any, changes: dict[str, tuple[str, Any]], prefix: str) -> Any:
    """``config`` with the changes of the fields whose names begin with ``prefix``; the innermost come first."""
    new: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        name, value = prefix + field.name, getattr(config, field.name)
        if name in changes:
            new[field.name] = changes[name][1]
            below = [text for other, (text, _) in changes.items() if other.startswith(f"{name}.")]
            if below:
                raise ValueError(f"--set {below[0]}: {name} itself is set by {changes[name][0]!r}; leave one out")
        elif any(other.startswith(f"{name}.") for other in changes):
            new[field.name] = _replaced(value, changes, f"{name}.")
    try:
        return dataclasses.replace(config, **new)
    except ValueError as error:
        said = " ".join(f"--set {text}" for name, (text, _) in changes.items() if name.startswith(prefix))
        raise ValueError(f"{said}: {prefix.rstrip('.') or type(config).__name__}: {error}") from None


def _parse(text: str, kind: Any) -> Any:
    """The value of a text under an annotation. ValueError says what was expected."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return _parse_union(text, arguments)
    if origin is Literal:
        return _one_of(text, {_render(choice): choice for choice in arguments})
    if origin is tuple:
        return _parse_tuple(text, arguments)
    if kind is type(None):
        return _one_of(text.lower(), {_NONE: None})
    if kind is bool:
        return _one_of(text.lower(), _SWITCH, "true or false")
    if kind is int or kind is float:
        return _parse_number(text, kind)
    if kind is str:
        return text
    if kind is Path:
        return Path(text)
    if isinstance(kind, type) and issubclass(kind, Enum):
        names = {name.lower(): member for name, member in kind.__members__.items()}
        short = {str(member.short): member for member in kind if hasattr(member, "short")}
        return _one_of(text.lower(), short | names, ", ".join(short or names))
    raise ValueError("this field is not set by a text")


def _parse_number(text: str, kind: type[int] | type[float]) -> int | float:
    try:
        number = kind(text)
    except ValueError:
        wanted = "a whole number" if kind is int else "a number"
        raise ValueError(f"{wanted} is expected, not {text!r}") from None
    if not math.isfinite(number):
        raise ValueError(f"a finite number is expected, not {text!r}")
    return number


def _parse_union(text: str, kinds: tuple[Any, ...]) -> Any:
    """By the first of the annotations that the text fits; text itself is tried last, as everything is one."""
    errors = []
    for kind in sorted(kinds, key=lambda kind: (kind is not type(None), kind is str)):
        try:
            return _parse(text, kind)
        except ValueError as error:
            errors.append(str(error))
    raise ValueError("; or ".join(reversed(errors)))


def _parse_tuple(text: str, kinds: tuple[Any, ...]) -> tuple[Any, ...]:
    parts = _split(text)
    if len(kinds) == 2 and kinds[1] is Ellipsis:
        return tuple(_parse(part, kinds[0]) for part in parts)
    if len(parts) != len(kinds):
        raise ValueError(f"{len(kinds)} values with commas between them are expected, not {len(parts)} ({text!r})")
    return tuple(_parse(part, kind) for part, kind in zip(parts, kinds, strict=True))


def _split(text: str) -> list[str]:
    """The items of "a,b", "(a, b)", "[a]" or, for none, "()"; commas within brackets belong to an item."""
    text = text.strip()
    if text[:1] + text[-1:] in ("()", "[]") and _closes_at_end(text):
        text = text[1:-1].strip()
    if not text:
        return []
    items, depth = [""], 0
    for letter in text:
        depth += (letter in "([") - (letter in ")]")
        if letter == "," and depth == 0:
            items.append("")
        else:
            items[-1] += letter
    return [item.strip() for item in items if item.strip()]


def _closes_at_end(text: str) -> bool:
    """Whether the first bracket is closed by the last one: not of "(a),(b)"."""
    depth = 0
    for place, letter in enumerate(text):
        depth += (letter in "([") - (letter in ")]")
        if depth == 0:
            return place == len(text) - 1
    return False


def _one_of(text: str, choices: dict[str, Any], wanted: str = "") -> Any:
    if text not in choices:
        raise ValueError(f"{wanted or ' or '.join(choices)} is expected, not {text!r}{_near(text, choices)}")
    return choices[text]


def _render(value: Any, *, inside: bool = False) -> str:
    """A value as text that gives it back."""
    if value is None:
        return _NONE
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Enum):
        return str(getattr(value, "short", value.name.lower()))
    if isinstance(value, tuple):
        text = ",".join(_render(item, inside=True) for item in value)
        alone = len(value) == 1 and isinstance(value[0], tuple)  # its brackets would be taken for those of the whole
        return f"({text})" if inside or alone or not value else text
    return str(value)


def _unknown(name: str, known: dict[str, tuple[Any, Any]]) -> str:
    """Why a name is none, with the names that may have been meant."""
    above = name.rpartition(".")[0]
    if above in known and known[above][1] is None:
        return f"{above} is none here and has no fields"
    last = name.rpartition(".")[2]
    same = [other for other in known if other.rpartition(".")[2] == last]
    near = same or difflib.get_close_matches(name, known, n=3)
    if not near:  # the last part alone may be misspelt
        parts = {other.rpartition(".")[2] for other in known}
        close = difflib.get_close_matches(last, parts, n=1)
        near = [other for other in known if other.rpartition(".")[2] in close]
    if near:
        return f"there is no {name}; did you mean {_some(near)}?"
    return f"there is no {name}; there are {_some([other for other in known if '.' not in other])}"


def _near(text: str, choices: dict[str, Any]) -> str:
    close = difflib.get_close_matches(text, choices, n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _below(name: str, known: dict[str, tuple[Any, Any]]) -> list[str]:
    return [other for other in known if other.startswith(f"{name}.")]


def _some(names: Sequence[str], most: int = 12) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _an_example(known: dict[str, tuple[Any, Any]]) -> str:
    named = (f"{name}={_render(value)}" for name, (kind, value) in known.items() if _settable(kind, value))
    return next(named, "name=value")
