"""Load published TSM weights, or any torchvision-style ResNet, into the encoder.

The names differ only in prefixes ("module.base_model.") and in the ".net" that TSM's release puts behind the shifted
conv1 of every block. A file that does not fit is refused with the reason and nothing is loaded: a partly loaded network
would run without an error and be wrong.
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
from bsp.encoders.tsm import EncoderSettings, TSMResNet
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
_BACKBONE = re.compile(r"(conv1|bn1|layer\d+)\.")
_DEPTHS: dict[tuple[tuple[int, ...], str], int] = {
    ((2, 2, 2, 2), "basic"): 18,
    ((3, 4, 6, 3), "basic"): 34,
    ((3, 4, 6, 3), "bottleneck"): 50,
    ((3, 4, 23, 3), "bottleneck"): 101,
}
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_SUPPORTED = (18, 34, 50)
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


def checkpoint_settings(source: Source) -> EncoderSettings:
    """Depth and width of the ResNet in a checkpoint, read from the names and shapes of its weights.

    :func:`load_checkpoint` then loads it into an encoder of that depth and width. Raises FileError, naming the file and
    the reason, as load_checkpoint, and for an unsupported ResNet.
    """
    name, found, origin = _open(source)
    depth, width = _architecture(found, name)
    # A file without ".net" may be a plain ResNet or our own: it fits an encoder with or without the shift.
    settings = EncoderSettings(depth=depth, width=width, shift=bool(_shifted(origin)))
    with torch.device("meta"):  # names and shapes only
        target = TSMResNet(settings).state_dict()
    _refuse_misfit(settings, found, target, _shifted(origin), name)
    return EncoderSettings(depth=depth, width=width, shift=width >= EncoderSettings.shift_div)


def choose_settings(source: Source, offered: Iterable[Architecture]) -> EncoderSettings:
    """Those of ``offered`` that the checkpoint fits. FileError as :func:`checkpoint_settings`, and if it fits none."""
    found, names = checkpoint_settings(source), []
    for settings in offered:
        if isinstance(settings, EncoderSettings) and (settings.depth, settings.width) == (found.depth, found.width):
            return settings
        names.append(settings.name)
    raise FileError(f"{_name_of(source)}: {_described(found.depth, found.width)}, not one of {', '.join(names)}")


def load_checkpoint(encoder: Encoder, source: Source) -> LoadReport:
    """Fill ``encoder`` from a checkpoint.

    Raises FileError, naming the file and the reason, for: not a checkpoint, another depth or width, optical
    flow, a shift in another place, entries missing or unknown, values not finite or absurd. The encoder then stays
    as it was. TypeError if it is no TSM.
    """
    if not isinstance(encoder, TSMResNet):
        raise TypeError(f"checkpoints of ResNets fit TSM, not {encoder.settings.name}")
    settings = encoder.settings
    name, found, origin = _open(source)
    target = encoder.state_dict()
    theirs, ours = _architecture(found, name), (settings.depth, settings.width)
    if theirs != ours:
        raise FileError(
            f"{name}: holds {_described(*theirs)}, the encoder is {_described(*ours)}; change EncoderSettings or the"
            " checkpoint"
        )
    _refuse_misfit(settings, found, target, _shifted(origin), name)
    filled = {key: found[key] for key in target if key in found}
    encoder.load_state_dict(target | filled)
    return LoadReport(
        matched=tuple(filled),
        renamed=tuple((origin[key], key) for key in filled if origin[key] != key),
        unused=tuple(old for key, old in origin.items() if key not in target),
        missing=tuple(key for key in target if key not in found),
    )


def _described(depth: int, width: int) -> str:
    return f"a ResNet-{depth} of width {width}"


def _name_of(source: Source) -> str:
    return "the state dict" if isinstance(source, Mapping) else os.fspath(source)


def _open(source: Source) -> tuple[str, dict[str, Tensor], dict[str, str]]:
    """A name for messages, the weights under the encoder's names, and for each of these the name in the file."""
    name = _name_of(source)
    content = source if isinstance(source, Mapping) else read_weights(name)
    return name, *_canonical(_weights(content, name), name)


def _shifted(origin: Mapping[str, str]) -> set[str]:
    """The convolutions that the release marks as shifted."""
    return {key for key, old in origin.items() if ".net." in old}


def _weights(content: Any, name: str) -> dict[str, Tensor]:
    """The dictionary of a ResNet's tensors in a checkpoint, wherever it is nested."""
    if not isinstance(content, Mapping):
        what = "a whole model or another object" if isinstance(content, Ignored) else f"a {type(content).__name__}"
        raise FileError(f"{name}: holds {what}, not a dictionary of weights; save its state_dict() alone")
    found = [_tensors(part) for part in _parts(content)]
    for weights in found:
        if any(_BACKBONE.match(_our_name(key)) for key in weights):
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


def _our_name(old: str) -> str:
    """An entry's name without the prefixes that wrappers put before it."""
    while old.startswith(_PREFIXES):
        old = old.split(".", 1)[1]
    return re.sub(r"^(layer\d+\.\d+\.conv1)\.net\.", r"\1.", old)


def _canonical(weights: dict[str, Tensor], name: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Weights under the encoder's names, and for each of these the name in the file."""
    found: dict[str, Tensor] = {}
    origin: dict[str, str] = {}
    for old, value in weights.items():
        key = _our_name(old)
        if key in found:
            raise FileError(f"{name}: {old} and {origin[key]} are the same layer {key}; keep one of them")
        found[key], origin[key] = value, old
    return found, origin


def _architecture(found: Mapping[str, Tensor], name: str) -> tuple[int, int]:
    """(depth, width) of a set of canonical names and shapes; ValueError if no encoder has them."""
    if not any(_BACKBONE.match(key) for key in found):
        raise FileError(f"{name}: no ResNet in it; its tensors are {sorted(found)[:8]}")
    if any(re.match(r"layer\d+\.\d+\.net\.", key) for key in found):
        raise FileError(f'{name}: TSM with the in-place shift ("block"); only "blockres" is supported')
    stem = found.get("conv1.weight")
    if stem is None:
        raise FileError(f"{name}: without the first convolution conv1.weight; another network, or truncated")
    if stem.ndim == 5:
        raise FileError(f"{name}: a network of 3-D convolutions (conv1 is {list(stem.shape)}); the encoder's are 2-D")
    if stem.ndim == 4 and stem.shape[1] == 10:
        raise FileError(f"{name}: trained on optical flow (conv1 takes 10 channels); get the RGB weights")
    if stem.ndim != 4 or stem.shape[1:] != (3, 7, 7):
        raise FileError(f"{name}: conv1.weight is {list(stem.shape)} instead of [width, 3, 7, 7]; another network")
    blocks = tuple(len({k.split(".")[1] for k in found if k.startswith(f"layer{s}.")}) for s in (1, 2, 3, 4))
    kind = "bottleneck" if any(".conv3." in key for key in found) else "basic"
    depth = _DEPTHS.get((blocks, kind))
    if depth not in _SUPPORTED:
        what = f"a ResNet with {kind} blocks {list(blocks)}" if depth is None else f"a ResNet-{depth}"
        raise FileError(f"{name}: holds {what}; supported are ResNet-{', '.join(map(str, _SUPPORTED))}")
    return depth, stem.shape[0]


def _refuse_misfit(
    settings: EncoderSettings, found: dict[str, Tensor], target: Mapping[str, Tensor], shifted: set[str], name: str
) -> None:
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
    unknown = [k for k in found if _BACKBONE.match(k) and k not in target]
    if unknown:
        raise FileError(f"{name}: {len(unknown)} entries that the encoder does not have: {unknown[:4]}")
    first = {k for k in target if re.fullmatch(r"layer\d+\.\d+\.conv1\.weight", k)}
    # Without any ".net" the file is a plain ResNet (ImageNet weights, TSN): it can initialise either encoder.
    if shifted and not settings.shift:
        raise FileError(f"{name}: trained with temporal shift, but the encoder has shift=False")
    if shifted and shifted != first:
        raise FileError(f"{name}: only {len(shifted)} of {len(first)} blocks are shifted; another TSM variant")
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
