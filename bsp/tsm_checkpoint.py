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
    from bsp.encoder import TSMResNet

_PREFIXES = ("module.", "base_model.", "encoder.")  # data parallel, TSM's wrapper, our own pretext model
_NESTED = ("state_dict", "encoder")  # where checkpoints keep the weights: TSM's release, ours
_BACKBONE = re.compile(r"(conv1|bn1|layer\d+)\.")


@dataclass(frozen=True, kw_only=True)
class LoadReport:
    """What :func:`load_tsm_checkpoint` did. Names of parameters and buffers."""

    matched: tuple[str, ...]  # encoder entries that the file filled
    renamed: tuple[tuple[str, str], ...]  # (name in the file, name in the encoder) of those that differ
    unused: tuple[str, ...]  # file entries that belong to no part of the encoder, such as the classifier
    missing: tuple[str, ...]  # encoder entries not in the file; only num_batches_tracked may be

    def __str__(self) -> str:
        return (
            f"{len(self.matched)} entries loaded ({len(self.renamed)} renamed), "
            f"{len(self.unused)} unused {list(self.unused)}, {len(self.missing)} missing"
        )


def load_tsm_checkpoint(encoder: TSMResNet, source: str | os.PathLike[str] | Mapping[str, Any]) -> LoadReport:
    """Fill ``encoder`` from a checkpoint file or a state dict (plain or under "state_dict").

    Raises ValueError, naming the file and the reason, for: not a checkpoint, another depth or width, optical
    flow, a shift in another place, entries missing or unknown, values not finite. The encoder then stays
    as it was.
    """
    name = "the state dict" if isinstance(source, Mapping) else os.fspath(source)
    content = source if isinstance(source, Mapping) else _read(name)
    found, origin = _canonical(_weights(content, name), name)
    target = encoder.state_dict()
    shifted = {key for key, old in origin.items() if ".net." in old}
    _refuse_misfit(encoder, found, target, shifted, name)
    filled = {key: found[key] for key in target if key in found}
    encoder.load_state_dict(target | filled)
    return LoadReport(
        matched=tuple(filled),
        renamed=tuple((origin[key], key) for key in filled if origin[key] != key),
        unused=tuple(old for key, old in origin.items() if key not in target),
        missing=tuple(key for key in target if key not in found),
    )


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


def _describe(found: Mapping[str, Tensor]) -> str:
    """The architecture that a set of canonical names and shapes belongs to."""
    blocks = [len({k.split(".")[1] for k in found if k.startswith(f"layer{s}.")}) for s in (1, 2, 3, 4)]
    kind = "bottleneck" if any(".conv3." in key for key in found) else "basic"
    known = {(2, 2, 2, 2, "basic"): 18, (3, 4, 6, 3, "basic"): 34, (3, 4, 6, 3, "bottleneck"): 50}
    known |= {(3, 4, 23, 3, "bottleneck"): 101}
    depth = known.get((*blocks, kind), f"of {kind} blocks {blocks}")
    width = found["conv1.weight"].shape[0] if "conv1.weight" in found else "?"
    return f"ResNet-{depth} of width {width}" if isinstance(depth, int) else f"ResNet {depth}, width {width}"


def _refuse_misfit(
    encoder: TSMResNet, found: dict[str, Tensor], target: dict[str, Tensor], shifted: set[str], name: str
) -> None:
    settings = encoder.settings
    if not any(_BACKBONE.match(key) for key in found):
        raise ValueError(f"{name}: no ResNet in it; its tensors are {sorted(found)[:8]}")
    if any(re.match(r"layer\d+\.\d+\.net\.", key) for key in found):
        raise ValueError(f'{name}: TSM with the in-place shift ("block"); only "blockres" is supported')
    stem = found.get("conv1.weight")
    if stem is not None and stem.ndim == 4 and stem.shape[1] == 10:
        raise ValueError(f"{name}: trained on optical flow (conv1 takes 10 channels); get the RGB weights")
    theirs, ours = _describe(found), _describe(target)
    if theirs != ours:
        raise ValueError(f"{name}: holds a {theirs}, the encoder is a {ours}; change EncoderSettings or the checkpoint")
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
