"""Weight files: what PyTorch and safetensors write comes back, read without running anything; damage is named."""

from __future__ import annotations

import hashlib
import os
import zipfile

import numpy as np
import pytest
import safetensors.torch
import torch

from bsp.errors import FileError
from bsp.files.weights import read_weights


def tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    whole = torch.randn(6, 10, generator=generator)
    return {
        "float": whole,
        "view": whole[1:3, ::2],  # shares the storage
        "turned": whole.t(),
        "parameter": torch.nn.Parameter(torch.randn(3, generator=generator)),
        "double": torch.randn(2, dtype=torch.float64, generator=generator),
        "half": torch.randn(2, generator=generator).half(),
        "bfloat": torch.randn(2, generator=generator).bfloat16(),
        "counter": torch.tensor(7),
        "empty": torch.zeros(0, 4),
        "flags": torch.tensor([True, False]),
    }


@pytest.mark.parametrize("zipped", [True, False])
def test_both_formats_of_pytorch_come_back_as_pytorch_reads_them(zipped, tmp_path):
    path = tmp_path / "x.pth"
    content = {"nested": {"state": tensors()}, "epoch": 3, "scale": np.float64(0.5), "sizes": torch.Size([1, 2])}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    expected = torch.load(path, weights_only=False)  # our own file
    found = read_weights(path)
    assert {k: found[k] for k in ("epoch", "scale")} == {"epoch": 3, "scale": 0.5}
    assert found["sizes"] == (1, 2)
    for name, value in expected["nested"]["state"].items():
        got = found["nested"]["state"][name]
        assert (got.dtype, got.shape) == (value.dtype, value.shape), name
        assert torch.equal(got, value.detach()), name


def test_safetensors_come_back(tmp_path):
    state = {name: value.detach().clone().contiguous() for name, value in tensors().items()}
    safetensors.torch.save_file(state, tmp_path / "x.safetensors")
    found = read_weights(tmp_path / "x.safetensors")
    assert set(found) == set(state)
    assert all(torch.equal(found[name], state[name]) for name in state)


class Trap:
    def __reduce__(self):
        return os.system, ("touch trapped",)


@pytest.mark.parametrize("zipped", [True, False])
def test_nothing_is_called(zipped, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"w": torch.ones(2), "trap": Trap()}, "x.pth", _use_new_zipfile_serialization=zipped)
    assert torch.equal(read_weights("x.pth")["w"], torch.ones(2))
    assert not os.path.exists("trapped")
    torch.load("x.pth", weights_only=False)
    assert os.path.exists("trapped")  # the trap is a working one


def test_a_flipped_bit_in_an_archive_is_noticed(tmp_path):
    path = tmp_path / "x.pth"
    torch.save({"w": torch.arange(1000.0)}, path)
    content = bytearray(path.read_bytes())
    place = content.index(torch.arange(1000.0).numpy().tobytes()[:64]) + 50
    content[place] ^= 1
    path.write_bytes(content)
    torch.load(path, weights_only=True)  # PyTorch takes it
    with pytest.raises(FileError, match=r"x\.pth: a damaged archive \(Bad CRC-32"):
        read_weights(path)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_name_that_begins_the_hash_is_compared_with_it(zipped, tmp_path):
    torch.save({"w": torch.ones(2)}, tmp_path / "x", _use_new_zipfile_serialization=zipped)
    content = (tmp_path / "x").read_bytes()
    right = hashlib.sha256(content).hexdigest()[:8]
    wrong = ("a" if right[0] != "a" else "b") + right[1:]
    for name in (f"net-{right}.pth", "net-20210701.pth", "net_r50-best.pth"):
        (tmp_path / name).write_bytes(content)
        read_weights(tmp_path / name)
    (tmp_path / f"net-{wrong}.pth").write_bytes(content)
    if any(c.isalpha() for c in wrong):
        with pytest.raises(FileError, match=f"its name says {wrong}; it is damaged"):
            read_weights(tmp_path / f"net-{wrong}.pth")


def program(path):
    torch.jit.save(torch.jit.script(torch.nn.ReLU()), path)


def packed(path):
    """A megabyte of zeros that takes a kilobyte."""
    torch.save({"w": torch.zeros(1 << 18)}, path)
    with zipfile.ZipFile(path) as archive:
        members = {member.filename: archive.read(member) for member in archive.infolist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def too_few(path):
    """An old file that ends before its numbers; declares 8 TB."""
    torch.save({"w": torch.ones(5)}, path, _use_new_zipfile_serialization=False)
    content = path.read_bytes()
    path.write_bytes(content[:-28] + (1 << 41).to_bytes(8, "little") + content[-20:])


def beyond(path):
    """A safetensors header that declares more than there is."""
    header = b'{"w":{"dtype":"F32","shape":[1000000000000],"data_offsets":[0,4000000000000]}}'
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(100))


@pytest.mark.parametrize(
    ("write", "reason"),
    [
        (program, "TorchScript program; .*state_dict"),
        (packed, "packed members"),
        (too_few, "bytes are wanted"),
        (beyond, "damaged"),
        (lambda path: zipfile.ZipFile(path, "w").writestr("a/b", b"c"), "archive of other things"),
        (lambda path: path.write_bytes(bytes(257) + b"ustar" + bytes(300)), "tar archive"),
        (lambda path: path.mkdir(), "not a regular file"),
    ],
)
def test_other_files_are_refused_with_the_reason(write, reason, tmp_path):
    write(tmp_path / "x.pth")
    with pytest.raises(FileError, match=rf"x\.pth: .*{reason}"):
        read_weights(tmp_path / "x.pth")


def test_a_tensor_outside_its_numbers_is_refused(tmp_path):
    path = tmp_path / "x.pth"
    torch.save({"w": torch.ones(5)}, path, _use_new_zipfile_serialization=False)
    content = path.read_bytes()
    size = b"K\x05\x85"  # (5,), the shape
    assert content.count(size) == 1
    path.write_bytes(content.replace(size, b"K\x06\x85"))
    with pytest.raises(FileError, match=r"a tensor \(6,\) in 5 numbers"):
        read_weights(path)
