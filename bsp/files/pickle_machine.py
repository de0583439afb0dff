"""A safe interpreter of pickles, which are programs for a small stack machine, in bounded time and memory.

Python's own reader imports and calls the names in a pickle, allocates memory for any declared size, and recurses on the
C stack, so that a file of 300 kB can crash the process. Here names are looked up in the caller's table, every
instruction counts against a budget, and the result is a tree: no container holds itself, none is deeper than
``DEEPEST``, and shared ones do not unfold to more than the budget. Protocols 0 to 5 are read, text of Python 2 as
Latin-1.
"""

from __future__ import annotations

import codecs
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pickletools import opcodes
from typing import Any

from bsp.files.plain_trees import DEEPEST, STEPS, Refused, check_key, check_tree

_LONGEST_NUMBER = 64  # characters or bytes; torch's magic number has 10 bytes


@dataclass(frozen=True, eq=False)
class Name:
    """Replacement of a name in the pickle: a call of the name calls ``make(machine, *arguments)``."""

    title: str
    make: Callable[..., Any]


class StandIn:
    """A created object that a pickle may set the state of."""

    def set_state(self, machine: Machine, state: Any) -> None:
        """Set the state from the pickle; Refused unless a subclass supports it."""
        raise Refused(f"an object of the type {type(self).__name__}")


class Ignored(StandIn):
    """An unneeded object: accepts every state and item, stores nothing."""

    def set_state(self, machine: Machine, state: Any) -> None:
        """Ignore the state."""


class Machine:
    """Reads the pickles that lie one after the other in ``data``.

    find: (module, name) -> its replacement; raises Refused for an unknown name.
    persistent: persistent id -> object.

    :meth:`load` raises Refused for unsupported content, and any other Exception for damaged bytes.
    """

    def __init__(
        self,
        data: bytes,
        find: Callable[[str, str], Name],
        persistent: Callable[[Any], Any] | None = None,
        steps: int = STEPS,
    ):
        self.data, self.at, self.steps = data, 0, steps
        self._find, self._persistent = find, persistent
        self.stack: list[Any] = []
        self._marked: list[list[Any]] = []  # the stacks below the open marks
        self._memo: dict[int, Any] = {}

    def load(self) -> Any:
        """The value of the pickle that begins at ``at``; ``at`` is then its end."""
        self.stack, self._marked, self._memo = [], [], {}
        data, operations, before = self.data, _OPERATIONS, self.steps
        while True:
            code = data[self.at]
            self.at += 1
            self.steps -= 1
            if self.steps < 0:
                raise Refused("more objects than any such file holds")
            if code == _STOP:
                break
            operation = operations[code]
            if operation is None:
                raise ValueError(f"the byte 0x{code:02x} at {self.at - 1} is no instruction for plain data")
            operation(self)
        value = self.stack.pop()
        check_tree(value, before)
        return value

    def spend(self, items: int) -> None:
        """Count ``items`` more objects."""
        self.steps -= items
        if self.steps < 0:
            raise Refused("more objects than any such file holds")

    # --- bytes ------------------------------------------------------------------------------------------------

    def take(self, count: int) -> bytes:
        """The next ``count`` bytes; ValueError if the file ends before."""
        start, stop = self.at, self.at + count
        if count < 0 or stop > len(self.data):
            raise ValueError(f"{count} bytes are wanted at {start} of {len(self.data)}")
        self.at = stop
        return self.data[start:stop]

    def unpack(self, layout: str) -> Any:
        """One number in ``layout`` of the struct module."""
        return struct.unpack(layout, self.take(struct.calcsize(layout)))[0]

    def line(self, longest: int | None = None) -> bytes:
        """The rest of the line, without its end; ValueError if none ends within ``longest`` bytes (None: anywhere)."""
        stop = self.data.find(b"\n", self.at, None if longest is None else self.at + longest + 1)
        if stop < 0:
            raise ValueError(f"a line without an end at {self.at}")
        line, self.at = self.data[self.at : stop], stop + 1
        return line

    # --- containers -------------------------------------------------------------------------------------------

    def since_mark(self) -> list[Any]:
        """Everything above the last mark, which is removed; the stack is again what lay below it."""
        items, self.stack = self.stack, self._marked.pop()
        return items

    def mark(self) -> None:
        """Set a mark; Refused above 4 * DEEPEST marks."""
        if len(self._marked) > 4 * DEEPEST:
            raise Refused(f"more than {4 * DEEPEST} open marks")
        self._marked.append(self.stack)
        self.stack = []

    def append(self, items: list[Any]) -> None:
        """Put items into the list on top of the stack; TypeError for another object."""
        target = self.stack[-1]
        if isinstance(target, list):
            target.extend(items)
        elif not isinstance(target, Ignored):
            raise TypeError("items for what is no list")

    def set_items(self, items: list[Any]) -> None:
        """Put keys and values, in turn, into the dict on top of the stack; ValueError for a key without a value."""
        target = self.stack[-1]
        if isinstance(target, dict):
            if len(items) % 2:
                raise ValueError("a key without a value")
            for key, value in zip(items[::2], items[1::2]):
                if type(key) is not str:
                    check_key(key)
                target[key] = value
        elif not isinstance(target, Ignored):
            raise TypeError("keys for what is no dict")

    def add(self, items: list[Any]) -> None:
        """Put items into the set on top of the stack; TypeError for another object."""
        target = self.stack[-1]
        for item in items:
            check_key(item)
        if isinstance(target, set):
            target.update(items)
        elif not isinstance(target, Ignored):
            raise TypeError("items for what is no set")

    # --- objects ----------------------------------------------------------------------------------------------

    def name(self, module: Any, name: Any) -> None:
        """Push the replacement of ``module.name``; the caller's table refuses unknown names."""
        if not (isinstance(module, str) and isinstance(name, str)):
            raise TypeError("a name that is no text")
        self.stack.append(self._find(module, name))

    def call(self, function: Any, arguments: Any) -> None:
        """Push the result of calling a :class:`Name`; TypeError for other objects."""
        if not isinstance(function, Name) or not isinstance(arguments, tuple | list):
            raise TypeError("a call of what is no function")
        self.stack.append(function.make(self, *arguments))

    def build(self) -> None:
        """Set the state (top of the stack) of the object below it."""
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, StandIn):
            target.set_state(self, state)
        elif type(target) is not dict or not isinstance(state, dict):  # attributes of an OrderedDict: not needed
            raise TypeError(f"a state for a {type(target).__name__}")

    def persistent(self, identity: Any) -> None:
        """Push an object stored outside the pickle; Refused if the caller supports none."""
        if self._persistent is None:
            raise Refused("an object that is stored elsewhere")
        self.stack.append(self._persistent(identity))

    def put(self, place: int) -> None:
        """Memoize the top of the stack under a number."""
        self._memo[place] = self.stack[-1]

    def memoize(self) -> None:
        """Memoize the top of the stack under the next number."""
        self.put(len(self._memo))

    def get(self, place: int) -> None:
        """Push the memo of a number; KeyError."""
        self.stack.append(self._memo[place])


def _integer(data: bytes) -> int:
    return int.from_bytes(data, "little", signed=True)


def _long(machine: Machine, size: int) -> int:
    if not 0 <= size <= _LONGEST_NUMBER:
        raise Refused(f"an integer of {size} bytes")
    return _integer(machine.take(size))


def _text_line(machine: Machine) -> str:
    return machine.line(4096).decode("utf-8")


def _int_line(machine: Machine) -> int | bool:
    line = machine.line(_LONGEST_NUMBER)
    return line == b"01" if line in (b"00", b"01") else int(line.rstrip(b"L"))


def _string_line(machine: Machine) -> str:
    line = machine.line().strip()
    if len(line) < 2 or line[:1] != line[-1:] or line[:1] not in b"'\"":
        raise ValueError("text without quotes")
    return codecs.escape_decode(line[1:-1])[0].decode("latin1")


def _unicode_line(machine: Machine) -> str:
    text = machine.line().decode("raw-unicode-escape")
    text.encode()  # a lone surrogate is no text
    return text


def _push(read: Callable[[Machine], Any]) -> Callable[[Machine], None]:
    def operation(machine: Machine) -> None:
        machine.stack.append(read(machine))

    return operation


def _tuple_of(count: int) -> Callable[[Machine], None]:
    def operation(machine: Machine) -> None:
        items = tuple(machine.stack[-count:])
        if len(items) < count:
            raise IndexError("an empty stack")
        machine.stack[-count:] = [items]

    return operation


def _protocol(machine: Machine) -> None:
    if machine.take(1)[0] > 5:
        raise Refused("a protocol above 5")


def _pop(machine: Machine) -> None:
    machine.stack.pop() if machine.stack else machine.since_mark()


def _call_marked(machine: Machine) -> None:  # OBJ
    function, *arguments = machine.since_mark()
    machine.call(function, arguments)


def _call_named(machine: Machine) -> None:  # INST
    module, name, arguments = _text_line(machine), _text_line(machine), machine.since_mark()
    machine.name(module, name)
    machine.call(machine.stack.pop(), arguments)


def _call(machine: Machine) -> None:
    arguments, function = machine.stack.pop(), machine.stack.pop()
    machine.call(function, arguments)


def _call_with_keywords(machine: Machine) -> None:
    keywords = machine.stack.pop()
    if keywords != {}:
        raise Refused("an object made with keywords")
    _call(machine)


def _stack_name(machine: Machine) -> None:
    name, module = machine.stack.pop(), machine.stack.pop()
    machine.name(module, name)


def _items_of(method: Callable[[Machine, list[Any]], None], count: int | None) -> Callable[[Machine], None]:
    """Pop ``count`` items, or all since the mark; the container that gets them is then on top."""

    def operation(machine: Machine) -> None:
        if count is None:
            items = machine.since_mark()
        else:
            items = machine.stack[-count:]
            del machine.stack[-count:]
        method(machine, items)

    return operation


def _collected(make: Callable[[list[Any]], Any]) -> Callable[[Machine], None]:
    def operation(machine: Machine) -> None:
        items = machine.since_mark()
        machine.stack.append(make(items))

    return operation


def _checked_dict(items: list[Any]) -> dict[Any, Any]:
    for key in items[::2]:
        check_key(key)
    return dict(zip(items[::2], items[1::2], strict=True))


def _checked_set(items: list[Any]) -> frozenset[Any]:
    for item in items:
        check_key(item)
    return frozenset(items)


def _dropped(read: Callable[[Machine], object]) -> Callable[[Machine], None]:
    def operation(machine: Machine) -> None:
        read(machine)

    return operation


_BY_NAME: dict[str, Callable[[Machine], None]] = {
    "PROTO": _protocol,
    "FRAME": _dropped(lambda m: m.take(8)),
    "MARK": Machine.mark,
    "POP": _pop,
    "POP_MARK": _dropped(Machine.since_mark),
    "DUP": _push(lambda m: m.stack[-1]),
    "NONE": _push(lambda m: None),
    "NEWTRUE": _push(lambda m: True),
    "NEWFALSE": _push(lambda m: False),
    "INT": _push(_int_line),
    "LONG": _push(_int_line),
    "BININT": _push(lambda m: _integer(m.take(4))),
    "BININT1": _push(lambda m: m.take(1)[0]),
    "BININT2": _push(lambda m: int.from_bytes(m.take(2), "little")),
    "LONG1": _push(lambda m: _long(m, m.take(1)[0])),
    "LONG4": _push(lambda m: _long(m, m.unpack("<i"))),
    "FLOAT": _push(lambda m: float(m.line(_LONGEST_NUMBER))),
    "BINFLOAT": _push(lambda m: m.unpack(">d")),
    "STRING": _push(_string_line),
    "BINSTRING": _push(lambda m: m.take(m.unpack("<i")).decode("latin1")),
    "SHORT_BINSTRING": _push(lambda m: m.take(m.take(1)[0]).decode("latin1")),
    "UNICODE": _push(_unicode_line),
    "SHORT_BINUNICODE": _push(lambda m: m.take(m.take(1)[0]).decode("utf-8")),
    "BINUNICODE": _push(lambda m: m.take(m.unpack("<I")).decode("utf-8")),
    "BINUNICODE8": _push(lambda m: m.take(m.unpack("<Q")).decode("utf-8")),
    "SHORT_BINBYTES": _push(lambda m: m.take(m.take(1)[0])),
    "BINBYTES": _push(lambda m: m.take(m.unpack("<I"))),
    "BINBYTES8": _push(lambda m: m.take(m.unpack("<Q"))),
    "BYTEARRAY8": _push(lambda m: m.take(m.unpack("<Q"))),
    "EMPTY_LIST": _push(lambda m: []),
    "EMPTY_DICT": _push(lambda m: {}),
    "EMPTY_SET": _push(lambda m: set()),
    "EMPTY_TUPLE": _push(lambda m: ()),
    "LIST": _collected(list),
    "TUPLE": _collected(tuple),
    "DICT": _collected(_checked_dict),
    "FROZENSET": _collected(_checked_set),
    "TUPLE1": _tuple_of(1),
    "TUPLE2": _tuple_of(2),
    "TUPLE3": _tuple_of(3),
    "APPEND": _items_of(Machine.append, 1),
    "APPENDS": _items_of(Machine.append, None),
    "SETITEM": _items_of(Machine.set_items, 2),
    "SETITEMS": _items_of(Machine.set_items, None),
    "ADDITEMS": _items_of(Machine.add, None),
    "GET": lambda m: m.get(int(m.line(_LONGEST_NUMBER))),
    "BINGET": lambda m: m.get(m.take(1)[0]),
    "LONG_BINGET": lambda m: m.get(m.unpack("<I")),
    "PUT": lambda m: m.put(int(m.line(_LONGEST_NUMBER))),
    "BINPUT": lambda m: m.put(m.take(1)[0]),
    "LONG_BINPUT": lambda m: m.put(m.unpack("<I")),
    "MEMOIZE": Machine.memoize,
    "GLOBAL": lambda m: m.name(_text_line(m), _text_line(m)),
    "STACK_GLOBAL": _stack_name,
    "REDUCE": _call,
    "NEWOBJ": _call,
    "NEWOBJ_EX": _call_with_keywords,
    "OBJ": _call_marked,
    "INST": _call_named,
    "BUILD": Machine.build,
    "PERSID": lambda m: m.persistent(_text_line(m)),
    "BINPERSID": lambda m: m.persistent(m.stack.pop()),
}


# Extension codes and out-of-band buffers are not supported: no plain file has them.
_OPERATIONS: list[Callable[[Machine], None] | None] = [None] * 256
for _opcode in opcodes:
    _OPERATIONS[ord(_opcode.code)] = _BY_NAME.get(_opcode.name)
_STOP = ord(".")
