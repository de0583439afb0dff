"""Load published weights into an encoder: TSM's, any torchvision-style ResNet, or EfficientNet-Lite0.

The names of ResNets differ only in prefixes ("module.base_model.") and in the ".net" that TSM's release puts behind the
shifted conv1 of every block; those of EfficientNet-Lite0 in underscores (families.py). A file that does not fit is
refused with the reason and nothing is loaded: a partly loaded network would run without an error and be wrong.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bsp.encoders.contract import Architecture, Encoder
from bsp.encoders.families import FAMILIES, Family, described, shifted
from bsp.encoders.tsm import EncoderSettings, TSMResNet
from bsp.encoders.tsm_lite0 import TSMLite0, TSMLite0Settings
from bsp.errors import FileError
from bsp.files.pickle_machine import Ignored
from bsp.files.weights import read_weights

# Prefixes of data parallel, torch.compile, TSM's wrapper, PretextModel, MMAction, MoCo, and common attribute names.
_PREFIXES = (
    "module.", "_orig_mod.", "base_model.", "encoder.", "encoder_q.", "backbone.", "model.", "net.", "network.",
    "resnet.",
)  # fmt: skip
# Keys under which checkpoints store the weights, in this order: "model" may come with its moving average.
_NESTED = (
    "state_dict", "model_state_dict", "model_state", "model", "net", "network", "module", "encoder", "backbone",
    "weights", "params",
)  # fmt: skip
_LARGEST = 1e8  # Choice: values of trained ResNets stay below 1e5; a flipped exponent bit exceeds this
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_SHOWN = 6  # names per group in a printed report


@dataclass(frozen=True, kw_only=True)
class LoadReport:
    """What :func:`load_checkpoint` did. Names of parameters and buffers."""

    matched: tuple[str, ...]  # encoder entries that the file filled
    renamed: tuple[tuple[str, str], ...]  # (name in the file, name in the encoder) of those that differ
    unused: tuple[str, ...]  # file entries that belong to no part of the encoder, such as the classifier
    missing: tuple[str, ...]  # encoder entries not in the file; only num_batches_tracked may be

    def __str__(self) -> str:
        """One line per group, with examples below it."""
        arrows = tuple(f"{theirs} -> {ours}" for theirs, ours in self.renamed)
        groups = (
            ("matched", "entries of the encoder filled from the file", len(self.matched), ()),
            ("renamed", "of these have another name in the file", len(arrows), arrows),
            ("unused", "entries of the file without a place in the encoder", len(self.unused), self.unused),
            ("missing", "entries of the encoder not in the file, left as they were", len(self.missing), self.missing),
        )
        lines = []
        for name, meaning, count, examples in groups:
            lines.append(f"{name:<8}{count:>5}  {meaning}")
            lines += [f"{'':15}{example}" for example in examples[:_SHOWN]]
            if len(examples) > _SHOWN:
                lines.append(f"{'':15}and {len(examples) - _SHOWN} more")
        return "\n".join(lines)


Source = str | os.PathLike[str] | Mapping[str, Any]  # a file, or a state dict (plain, or under a usual name)


def checkpoint_settings(source: Source) -> EncoderSettings | TSMLite0Settings:
    """Settings of the encoder that a checkpoint fits, read from the names and shapes of its weights.

    :func:`load_checkpoint` then loads it into that encoder. Raises FileError, naming the file and the reason, as
    load_checkpoint, and for an unsupported network.
    """
    opened = _open(source)
    settings = opened.settings
    assert isinstance(settings, EncoderSettings | TSMLite0Settings)
    with torch.device("meta"):  # names and shapes only
        target = (TSMResNet(settings) if isinstance(settings, EncoderSettings) else TSMLite0(settings)).state_dict()
    _refuse_misfit(settings, opened, target)
    return settings


def choose_settings(source: Source, offered: Iterable[Architecture]) -> Architecture:
    """Those of ``offered`` that the checkpoint fits. FileError as :func:`checkpoint_settings`, and if it fits none."""
    found, names = described(checkpoint_settings(source)), []
    for settings in offered:
        if described(settings) == found:
            return settings
        names.append(settings.name)
    raise FileError(f"{_name_of(source)}: {found}, not one of {', '.join(names)}")


def load_checkpoint(encoder: Encoder, source: Source) -> LoadReport:
    """Fill ``encoder`` from a checkpoint.

    Raises FileError, naming the file and the reason, for: not a checkpoint, another depth or width, optical
    flow, a shift in another place, entries missing or unknown, values not finite or absurd. The encoder then stays
    as it was. TypeError if it is neither TSM nor TSMLite0.
    """
    if not isinstance(encoder, TSMResNet | TSMLite0):
        raise TypeError(f"checkpoints fit TSM's ResNets and tsm_lite0, not {encoder.settings.name}")
    opened = _open(source)
    found, origin, target = opened.found, opened.origin, encoder.state_dict()
    if (theirs := described(opened.settings)) != (ours := described(encoder.settings)):
        raise FileError(f"{opened.name}: holds {theirs}, the encoder is {ours}; change its settings or the checkpoint")
    _refuse_misfit(encoder.settings, opened, target)
    filled = {key: found[key] for key in target if key in found}
    encoder.load_state_dict(target | filled)
    return LoadReport(
        matched=tuple(filled),
        renamed=tuple((origin[key], key) for key in filled if origin[key] != key),
        unused=tuple(old for key, old in origin.items() if key not in target),
        missing=tuple(key for key in target if key not in found),
    )


@dataclass(frozen=True, kw_only=True)
class _Opened:
    """The weights in a file."""

    name: str  # for messages
    family: Family
    found: dict[str, Tensor]  # by the encoder's names
    origin: dict[str, str]  # for each of these the name in the file

    @property
    def settings(self) -> Architecture:
        return self.family.settings(self.found, self.origin, self.name)


def _name_of(source: Source) -> str:
    return "the state dict" if isinstance(source, Mapping) else os.fspath(source)


def _open(source: Source) -> _Opened:
    name = _name_of(source)
    weights = _weights(source if isinstance(source, Mapping) else read_weights(name), name)
    family = next((family for family in FAMILIES if _has(weights, family)), None)
    if family is None:
        raise FileError(f"{name}: no ResNet in it, and no EfficientNet-Lite0; its tensors are {sorted(weights)[:8]}")
    found: dict[str, Tensor] = {}
    origin: dict[str, str] = {}
    for old, value in weights.items():
        key = family.rename(_without_prefixes(old))
        if key in found:
            raise FileError(f"{name}: {old} and {origin[key]} are the same layer {key}; keep one of them")
        found[key], origin[key] = value, old
    return _Opened(name=name, family=family, found=found, origin=origin)


def _has(weights: Mapping[str, Tensor], family: Family) -> bool:
    return any(family.marks.match(_without_prefixes(key)) for key in weights)


def _weights(content: Any, name: str) -> dict[str, Tensor]:
    """The dictionary of a network's tensors in a checkpoint, wherever it is nested."""
    if not isinstance(content, Mapping):
        what = "a whole model or another object" if isinstance(content, Ignored) else f"a {type(content).__name__}"
        raise FileError(f"{name}: holds {what}, not a dictionary of weights; save its state_dict() alone")
    found = [_tensors(part) for part in _parts(content)]
    for weights in found:
        if any(_has(weights, family) for family in FAMILIES):
            return weights
    weights = next((weights for weights in found if weights), {})
    if not weights:
        raise FileError(
            f"{name}: no tensors in it; its entries are {sorted(map(str, content))[:8]}. Save the model's state_dict()"
            " alone"
        )
    return weights


def _parts(content: Mapping[Any, Any], depth: int = 3) -> Iterator[Mapping[Any, Any]]:
    """The dictionary itself, then those in it under the usual names, then the other ones."""
    yield content
    if depth:
        names = [key for key in _NESTED if key in content] + [key for key in content if key not in _NESTED]
        for inner in (content[key] for key in names):
            if isinstance(inner, Mapping):
                yield from _parts(inner, depth - 1)


def _tensors(content: Mapping[Any, Any]) -> dict[str, Tensor]:
    return {str(key): value for key, value in content.items() if isinstance(value, Tensor)}


def _without_prefixes(old: str) -> str:
    """An entry's name without the prefixes that wrappers put before it."""
    while old.startswith(_PREFIXES):
        old = old.split(".", 1)[1]
    return old


def _refuse_misfit(settings: Architecture, opened: _Opened, target: Mapping[str, Tensor]) -> None:
    name, found = opened.name, opened.found
    misfits = [
        f"{key} {list(found[key].shape)} instead of {list(value.shape)}"
        for key, value in target.items()
        if key in found and found[key].shape != value.shape
    ]
    if misfits:
        raise FileError(f"{name}: {len(misfits)} shapes do not fit: {'; '.join(misfits[:4])}")
    missing = [k for k in target if k not in found and not k.endswith(".num_batches_tracked")]
    if missing:
        raise FileError(f"{name}: {len(missing)} entries are missing: {missing[:4]}; is the file truncated?")
    unknown = [k for k in found if opened.family.backbone.match(k) and k not in target]
    if unknown:
        raise FileError(f"{name}: {len(unknown)} entries that the encoder does not have: {unknown[:4]}")
    if isinstance(settings, EncoderSettings):
        _refuse_other_shift(settings, shifted(opened.origin), target, name)
    numbers = [k for k in target if k in found and not k.endswith(".num_batches_tracked")]
    others = [f"{k} ({found[k].dtype})" for k in numbers if found[k].dtype not in _FLOATS]
    if others:
        raise FileError(f"{name}: entries that are no plain floating-point numbers: {others[:4]}; quantised weights?")
    broken = [k for k in numbers if not bool(torch.isfinite(found[k]).all())]
    if broken:
        raise FileError(f"{name}: values that are not finite in {broken[:4]}; the file is damaged")
    absurd = [k for k in numbers if found[k].numel() and float(found[k].abs().max()) > _LARGEST]
    absurd += [k for k in numbers if k.endswith(".running_var") and bool((found[k] < 0).any())]
    if absurd:
        raise FileError(
            f"{name}: values above {_LARGEST:g}, or negative variances, in {absurd[:4]}; the file is damaged, or the"
            " training diverged"
        )


def _refuse_other_shift(settings: EncoderSettings, marked: set[str], target: Mapping[str, Tensor], name: str) -> None:
    first = {k for k in target if re.fullmatch(r"layer\d+\.\d+\.conv1\.weight", k)}
    # Without any ".net" the file is a plain ResNet (ImageNet weights, TSN): it can initialise either encoder.
    if marked and not settings.shift:
        raise FileError(f"{name}: trained with temporal shift, but the encoder has shift=False")
    if marked and marked != first:
        raise FileError(f"{name}: only {len(marked)} of {len(first)} blocks are shifted; another TSM variant")
