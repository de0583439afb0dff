"""Untrusted weight files: PyTorch's zip archives, its older format, and safetensors.

PyTorch's formats are pickles plus raw numbers. bsp/files/pickle_machine.py reads the pickle: tensors and plain data are
kept, other objects (arguments, optimisers, functions) are dropped, and nothing is imported or called. Sizes are checked
before memory is allocated. Unlike PyTorch, the archives' checksums (CRC-32) are verified. The older format and
safetensors have none, but many file names do: ``resnet18-f37072fd.pth`` holds the beginning of its SHA-256.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bsp.errors import FileError
from bsp.files.pickle_machine import Ignored, Machine, Name
from bsp.files.plain_pickle import plain_name
from bsp.files.plain_trees import Refused

MAX_BYTES = 2 * 2**30  # a ResNet-50 with its optimiser has 0.3
_OLD_MAGIC, _OLD_PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
_DTYPES = {
    "FloatStorage": torch.float32, "DoubleStorage": torch.float64, "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32,
    "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8, "BoolStorage": torch.bool,
}  # fmt: skip
_AS_STATE_DICT = "save its state_dict() alone: torch.save(model.state_dict(), OUT)"


def read_weights(path: str | os.PathLike[str]) -> Any:
    """Content of a .pt, .pth or .safetensors file: (nested) dicts and lists of CPU tensors and plain data.

    The format is recognised by the content. Raises FileNotFoundError, and FileError with the remedy for a file that is
    damaged, too large, a TorchScript program or no weights at all.
    """
    path = Path(path)
    try:
        if not path.is_file() and path.exists():
            raise FileError(f"{path}: not a regular file; give the file of weights")
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise FileError(f"{path}: {size:,} bytes, more than any encoder's weights have; {_AS_STATE_DICT}")
        content = path.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise FileError(f"{path}: cannot be read ({error.strerror or error})") from None
    _check_name(path, content)
    return parse_weights(content, path)


def parse_weights(content: bytes, path: str | os.PathLike[str]) -> Any:
    """As :func:`read_weights`, from the bytes of the file; ``path`` stands in the FileError."""
    try:
        return _reader(content)(content)
    except Refused as error:
        raise FileError(f"{path}: not weights that can be used: it holds {error}; {_AS_STATE_DICT}") from None
    except zipfile.BadZipFile as error:
        raise FileError(f"{path}: a damaged archive ({error}); download it again") from None
    except Exception as error:  # damaged bytes can raise any exception of the machine, the archive or the tensors
        brief = f"{type(error).__name__}: {error}".strip().splitlines()[0][:200]
        raise FileError(
            f"{path}: neither PyTorch's format nor safetensors, or damaged ({brief}); download it again, or"
            f" {_AS_STATE_DICT}"
        ) from None


def _check_name(path: Path, content: bytes) -> None:
    """Check the SHA-256 prefix at the end of a file name, as torch.hub. A suffix of digits only may be a date."""
    found = re.search(r"-([0-9a-f]{8,64})\.[a-z.]+$", path.name)
    if not found or found[1].isdigit():
        return
    sha256 = hashlib.sha256(content).hexdigest()
    if not sha256.startswith(found[1]):
        raise FileError(
            f"{path}: its SHA-256 begins with {sha256[:8]}, its name says {found[1]}; it is damaged: download it again"
            " (if the name means something else, rename it)"
        )


def _reader(content: bytes) -> Callable[[bytes], Any]:
    if content[:4] == b"PK\x03\x04":
        return _from_zip
    if content[8:9] == b"{" and int.from_bytes(content[:8], "little") < len(content):
        return _from_safetensors
    if content[257:262] == b"ustar":
        raise Refused("a tar archive, PyTorch's format before 2017 (or other files packed together)")
    return _from_old_format


def _from_safetensors(content: bytes) -> dict[str, Tensor]:
    import safetensors.torch

    return safetensors.torch.load(content)


def _from_zip(content: bytes) -> Any:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {member.filename.partition("/")[2]: member for member in archive.infolist()}
        if "data.pkl" not in members:
            raise Refused("an archive of other things (no data.pkl in it)")
        if "constants.pkl" in members or any(name.startswith("code/") for name in members):
            raise Refused("a TorchScript program; in PyTorch, torch.jit.load(FILE).state_dict() are its weights")
        packed = [name for name, member in members.items() if member.compress_type != zipfile.ZIP_STORED]
        if packed or sum(member.file_size for member in members.values()) > len(content):
            raise Refused(f"{len(packed)} packed members, which PyTorch does not write")
        if "byteorder" in members and archive.read(members["byteorder"]) != b"little":
            raise Refused("numbers in big-endian order")
        kept: dict[str, Tensor] = {}

        def storage(kind: Name, key: str, count: int) -> Tensor:
            if key not in kept:
                kept[key] = _numbers(archive.read(members[f"data/{key}"]), kind, count)  # compares the CRC-32
            return kept[key]

        found = Machine(archive.read(members["data.pkl"]), _name, _storages(storage)).load()
        unread = set(members) - {"data.pkl", "byteorder"} - {f"data/{key}" for key in kept}
        for name in unread:
            archive.read(members[name])
        return found


def _from_old_format(content: bytes) -> Any:
    """The older format: three small pickles, the content, the storage keys, then the storages one after another."""
    kinds: dict[str, Name] = {}

    def note(kind: Name, key: str, count: int) -> Ignored:
        kinds[key] = kind
        return Ignored()

    machine = Machine(content, _name, _storages(note))
    if machine.load() != _OLD_MAGIC or machine.load() != _OLD_PROTOCOL:
        raise Refused("a pickle, but not one of torch.save")
    if not machine.load()["little_endian"]:
        raise Refused("numbers in big-endian order")
    start = machine.at
    machine.load()  # to learn the number type of each storage
    kept: dict[str, Tensor] = {}
    for key in machine.load():
        count = int.from_bytes(machine.take(8), "little")
        kept[key] = _numbers(machine.take(count * _dtype(kinds[key]).itemsize), kinds[key], count)

    def storage(kind: Name, key: str, count: int) -> Tensor:
        if len(kept[key]) != count:
            raise ValueError(f"storage {key} has {len(kept[key])} numbers instead of {count}")
        return kept[key]

    machine = Machine(content, _name, _storages(storage))
    machine.at = start
    return machine.load()


def _storages(storage: Callable[[Name, str, int], Any]) -> Callable[[Any], Any]:
    """Resolver of persistent ids: ("storage", kind, key, device, count) and, in the older format, a view of it."""

    def persistent(identity: Any) -> Any:
        word, kind, key, _, count, *view = identity
        if word != "storage" or any(part is not None for part in view):
            raise Refused("a part of another storage")
        if not (isinstance(key, str) and type(count) is int and count >= 0):
            raise TypeError("a storage without a key or size")
        return storage(kind, key, count)

    return persistent


def _dtype(kind: object) -> torch.dtype:
    if not isinstance(kind, Name) or kind.title not in _DTYPES:
        raise Refused(f"numbers of the kind {getattr(kind, 'title', kind)!r:.60}")
    return _DTYPES[kind.title]


def _numbers(data: bytes, kind: object, count: int) -> Tensor:
    dtype = _dtype(kind)
    if len(data) != count * dtype.itemsize:
        raise ValueError(f"{len(data)} bytes for {count} numbers of {dtype}")
    return torch.frombuffer(bytearray(data), dtype=dtype) if data else torch.empty(0, dtype=dtype)


def _tensor(
    machine: Machine, storage: Any, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any
) -> Any:
    if isinstance(storage, Ignored):
        return storage
    if (
        len(size) != len(stride)
        or len(size) > 8
        or not all(type(n) is int and n >= 0 for n in (offset, *size, *stride))
    ):
        raise ValueError(f"a tensor {size!r:.60} with the strides {stride!r:.60}")
    last, count = offset, 1
    for side, step in zip(size, stride):
        last, count = last + (side - 1) * step, count * side
    if count and (last >= len(storage) or count > len(storage)):
        raise ValueError(f"a tensor {size!r:.60} in {len(storage)} numbers")
    return storage.as_strided(size, stride, offset) if count else storage.new_empty(size)


def _parameter(machine: Machine, tensor: Any, *_: Any) -> Any:
    return tensor


def _dict(machine: Machine, pairs: Any = (), *_: Any) -> dict[Any, Any]:
    found: dict[Any, Any] = {}
    machine.stack.append(found)
    machine.set_items([part for key, value in pairs for part in (key, value)])
    return machine.stack.pop()


def _size(machine: Machine, sides: Any = ()) -> tuple[Any, ...]:
    return tuple(sides)


def _ignored(machine: Machine, *_: Any) -> Ignored:
    return Ignored()


_NAMES = {
    ("collections", "OrderedDict"): Name("OrderedDict", _dict),
    ("torch._utils", "_rebuild_tensor_v2"): Name("a tensor", _tensor),
    ("torch._utils", "_rebuild_tensor"): Name("a tensor", _tensor),
    ("torch._utils", "_rebuild_parameter"): Name("a parameter", _parameter),
    ("torch._utils", "_rebuild_parameter_with_state"): Name("a parameter", _parameter),
    ("torch", "Size"): Name("torch.Size", _size),
} | {("torch", name): Name(name, _ignored) for name in _DTYPES}


def _name(module: str, name: str) -> Name:
    """Replacement of a name: tensors and plain data are kept, every other object becomes an empty stand-in."""
    if (module, name) in _NAMES:
        return _NAMES[module, name]
    try:
        return plain_name(module, name)
    except Refused:
        return Name(f"{module}.{name}", _ignored)


assert sys.byteorder == "little"  # PyTorch knows no other machine of today
