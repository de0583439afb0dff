"""Load published TSM weights, or any torchvision-style ResNet, into the encoder.

The names differ only in prefixes ("module.base_model.") and in the ".net" that TSM's release puts behind
the shifted conv1 of every block. A file that does not fit is refused with the reason and nothing is loaded:
a half-loaded network trains and extracts without complaint and is wrong.
"""

from __future__ import annotations

import os
import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from bsp.encoder import EncoderSettings, TSMResNet

_PREFIXES = ("module.", "base_model.", "encoder.")  # data parallel, TSM's wrapper, our own pretext model
_NESTED = ("state_dict", "encoder")  # where checkpoints keep the weights: TSM's release, ours
_BACKBONE = re.compile(r"(conv1|bn1|layer\d+)\.")
_DEPTHS = {
    ((2, 2, 2, 2), "basic"): 18,
    ((3, 4, 6, 3), "basic"): 34,
    ((3, 4, 6, 3), "bottleneck"): 50,
    ((3, 4, 23, 3), "bottleneck"): 101,
}
_SUPPORTED = (18, 34, 50)
_SHOWN = 6  # names per group in a printed report


@dataclass(frozen=True, kw_only=True)
class LoadReport:
    """What :func:`load_tsm_checkpoint` did. Names of parameters and buffers."""

    matched: tuple[str, ...]  # encoder entries that the file filled
    renamed: tuple[tuple[str, str], ...]  # (name in the file, name in the encoder) of those that differ
    unused: tuple[str, ...]  # file entries that belong to no part of the encoder, such as the classifier
    missing: tuple[str, ...]  # encoder entries not in the file; only num_batches_tracked may be

    def __str__(self) -> str:
        """One line per group, and below it examples of what is worth reading."""
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


def checkpoint_architecture(source: str | os.PathLike[str] | Mapping[str, Any]) -> tuple[int, int]:
    """(depth, width) of the ResNet in a checkpoint, read from the names and shapes of its weights.

    What this accepts, :func:`load_tsm_checkpoint` loads into an encoder of that depth and width. Raises
    ValueError, naming the file and the reason, as that does, and for a ResNet that the encoder cannot be.
    """
    from bsp.encoder import EncoderSettings, TSMResNet  # that module imports this one

    name, found, origin = _open(source)
    depth, width = _architecture(found, name)
    # A file without ".net" may be a plain ResNet, or one of our own: it fits an encoder with or without the shift.
    settings = EncoderSettings(depth=depth, width=width, shift=bool(_shifted(origin)))
    with torch.device("meta"):  # names and shapes only
        target = TSMResNet(settings).state_dict()
    _refuse_misfit(settings, found, target, _shifted(origin), name)
    return depth, width


def load_tsm_checkpoint(encoder: TSMResNet, source: str | os.PathLike[str] | Mapping[str, Any]) -> LoadReport:
    """Fill ``encoder`` from a checkpoint file or a state dict (plain or under "state_dict").

    Raises ValueError, naming the file and the reason, for: not a checkpoint, another depth or width, optical
    flow, a shift in another place, entries missing or unknown, values not finite. The encoder then stays
    as it was.
    """
    name, found, origin = _open(source)
    target = encoder.state_dict()
    theirs, (depth, width) = _architecture(found, name), (encoder.settings.depth, encoder.settings.width)
    if theirs != (depth, width):
        raise ValueError(
            f"{name}: holds a ResNet-{theirs[0]} of width {theirs[1]}, the encoder is a ResNet-{depth} of width"
            f" {width}; change EncoderSettings or the checkpoint"
        )
    _refuse_misfit(encoder.settings, found, target, _shifted(origin), name)
    filled = {key: found[key] for key in target if key in found}
    encoder.load_state_dict(target | filled)
    return LoadReport(
        matched=tuple(filled),
        renamed=tuple((origin[key], key) for key in filled if origin[key] != key),
        unused=tuple(old for key, old in origin.items() if key not in target),
        missing=tuple(key for key in target if key not in found),
    )


def _open(source: str | os.PathLike[str] | Mapping[str, Any]) -> tuple[str, dict[str, Tensor], dict[str, str]]:
    """A name for messages, the weights under the encoder's names, and for each of these the name in the file."""
    name = "the state dict" if isinstance(source, Mapping) else os.fspath(source)
    content = source if isinstance(source, Mapping) else _read(name)
    return name, *_canonical(_weights(content, name), name)


def _shifted(origin: Mapping[str, str]) -> set[str]:
    """The convolutions that the release marks as shifted."""
    return {key for key, old in origin.items() if ".net." in old}


def _read(path: str) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, OSError) as error:
        brief = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"{path}: not a PyTorch checkpoint of plain tensors, or truncated ({brief}); download it again,"
            " or save its state_dict() alone with torch.save"
        ) from error


def _weights(content: Any, name: str) -> dict[str, Tensor]:
    """The dictionary of tensors in a checkpoint, wherever it is nested."""
    if isinstance(content, Mapping):
        for key in _NESTED:
            if isinstance(content.get(key), Mapping):
                content = content[key]
                break
    if not isinstance(content, Mapping):
        raise ValueError(f"{name}: holds a {type(content).__name__}, not a dictionary of weights")
    weights = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
    if not weights:
        raise ValueError(f"{name}: no tensors in it; its entries are {sorted(map(str, content))[:8]}")
    return weights


def _canonical(weights: dict[str, Tensor], name: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Weights under the encoder's names, and for each of these the name in the file."""
    found: dict[str, Tensor] = {}
    origin: dict[str, str] = {}
    for old, value in weights.items():
        key = old
        while key.startswith(_PREFIXES):
            key = key.split(".", 1)[1]
        key = re.sub(r"^(layer\d+\.\d+\.conv1)\.net\.", r"\1.", key)
        if key in found:
            raise ValueError(f"{name}: {old} and {origin[key]} are the same layer {key}; keep one of them")
        found[key], origin[key] = value, old
    return found, origin


def _architecture(found: Mapping[str, Tensor], name: str) -> tuple[int, int]:
    """(depth, width) that a set of canonical names and shapes belongs to; ValueError where no encoder is like it."""
    if not any(_BACKBONE.match(key) for key in found):
        raise ValueError(f"{name}: no ResNet in it; its tensors are {sorted(found)[:8]}")
    if any(re.match(r"layer\d+\.\d+\.net\.", key) for key in found):
        raise ValueError(f'{name}: TSM with the in-place shift ("block"); only "blockres" is supported')
    stem = found.get("conv1.weight")
    if stem is None:
        raise ValueError(f"{name}: without the first convolution conv1.weight; another network, or truncated")
    if stem.ndim == 5:
        raise ValueError(f"{name}: a network of 3-D convolutions (conv1 is {list(stem.shape)}); the encoder's are 2-D")
    if stem.ndim == 4 and stem.shape[1] == 10:
        raise ValueError(f"{name}: trained on optical flow (conv1 takes 10 channels); get the RGB weights")
    if stem.ndim != 4 or stem.shape[1:] != (3, 7, 7):
        raise ValueError(f"{name}: conv1.weight is {list(stem.shape)} instead of [width, 3, 7, 7]; another network")
    blocks = tuple(len({k.split(".")[1] for k in found if k.startswith(f"layer{s}.")}) for s in (1, 2, 3, 4))
    kind = "bottleneck" if any(".conv3." in key for key in found) else "basic"
    depth = _DEPTHS.get((blocks, kind))
    if depth not in _SUPPORTED:
        what = f"a ResNet with {kind} blocks {list(blocks)}" if depth is None else f"a ResNet-{depth}"
        raise ValueError(f"{name}: holds {what}; supported are ResNet-{', '.join(map(str, _SUPPORTED))}")
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
        raise ValueError(f"{name}: {len(misfits)} shapes do not fit: {'; '.join(misfits[:4])}")
    missing = [k for k in target if k not in found and not k.endswith(".num_batches_tracked")]
    if missing:
        raise ValueError(f"{name}: {len(missing)} entries are missing: {missing[:4]}; is the file truncated?")
    unknown = [k for k in found if _BACKBONE.match(k) and k not in target]
    if unknown:
        raise ValueError(f"{name}: {len(unknown)} entries that the encoder does not have: {unknown[:4]}")
    first = {k for k in target if re.fullmatch(r"layer\d+\.\d+\.conv1\.weight", k)}
    # Without any ".net" the file is a plain ResNet (ImageNet weights, TSN): a fine start for either encoder.
    if shifted and not settings.shift:
        raise ValueError(f"{name}: trained with temporal shift, but the encoder has shift=False")
    if shifted and shifted != first:
        raise ValueError(f"{name}: only {len(shifted)} of {len(first)} blocks are shifted; another TSM variant")
    broken = [k for k in target if k in found and not bool(torch.isfinite(found[k]).all())]
    if broken:
        raise ValueError(f"{name}: values that are not finite in {broken[:4]}; the file is damaged")
