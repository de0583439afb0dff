"""Check of data from untrusted files: a tree of plain data, of bounded size and depth.

Otherwise a container that holds itself would never end, deep nesting would overflow the C stack, a few shared
containers could unfold beyond any memory, and keys could be chosen to collide.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

STEPS = 30_000_000  # objects, and items of arrays; the largest published annotation pickles have a few millions
DEEPEST = 64  # containers inside one another
_CONTAINERS = (dict, list, tuple, set, frozenset)


class Refused(Exception):
    """The message names what the file asked for."""


def check_key(key: object) -> None:
    """Raises Refused for an unsafe dict key: other types and longer integers can be made to collide."""
    if not (isinstance(key, str | bytes | float | bool | None) or (type(key) is int and -(2**63) <= key < 2**64)):
        raise Refused(f"a {type(key).__name__} as the key of a dict or in a set")


def check_tree(root: object, most: int = STEPS) -> None:
    """Raise Refused for a container that holds itself, is nested above DEEPEST, or unfolds to over ``most`` objects."""
    sizes: dict[int, int] = {}  # unfolded sizes of finished containers, by id
    path = {id(root)}
    frames: list[list[Any]] = [[root, _children(root), 1]]
    while frames:
        frame = frames[-1]
        for child in frame[1]:
            if not isinstance(child, _CONTAINERS):
                frame[2] += 1
                continue
            if id(child) in path:
                raise Refused("a container that holds itself")
            size = sizes.get(id(child))
            if size is None:
                if len(frames) >= DEEPEST:
                    raise Refused(f"more than {DEEPEST} containers inside one another")
                path.add(id(child))
                frames.append([child, _children(child), 1])
                break
            frame[2] += size
        else:
            frames.pop()
            path.discard(id(frame[0]))
            sizes[id(frame[0])] = frame[2]
            if frames:
                frames[-1][2] += frame[2]
        if frame[2] > most:
            raise Refused("containers that unfold to more objects than any such file holds")


def _children(value: object) -> Iterator[Any]:
    if isinstance(value, dict):
        return iter(value.values())  # keys are no containers: see check_key
    return iter(value) if isinstance(value, _CONTAINERS) else iter(())
