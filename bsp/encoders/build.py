"""Builds an encoder from its settings and counts its operations; the only list of encoders."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from bsp.encoders.contract import Architecture, Encoder
from bsp.encoders.tsm import EncoderSettings, build_tsm
from bsp.encoders.tsm_lite0 import TSMLite0Settings, build_tsm_lite0

# By class of settings: (settings, seed, zero_residual=) -> the encoder. A new encoder is a line here.
ENCODERS: dict[type[Any], Callable[..., Encoder]] = {
    EncoderSettings: build_tsm,
    TSMLite0Settings: build_tsm_lite0,
}


def build_encoder(settings: Architecture, seed: int, *, zero_residual: bool = False) -> Encoder:
    """A freshly initialised encoder: the same weights for the same seed, global random state untouched.

    With ``zero_residual`` (of ``Architecture``) its blocks begin as their shortcuts. TypeError for settings of an
    unknown class.
    """
    if type(settings) not in ENCODERS:
        known = ", ".join(kind.__name__ for kind in ENCODERS)
        raise TypeError(f"no encoder for {settings!r}: add its class to ENCODERS in {__file__}; known are {known}")
    build = ENCODERS[type(settings)]
    return build(settings, seed, zero_residual=True) if zero_residual else build(settings, seed)


def flops_per_clip(settings: Architecture, size_px: int) -> int:
    """Floating-point operations of one clip [T, 3, size_px, size_px] in evaluation, two per multiply-add.

    PyTorch counts convolutions, matrix products and attention; norms, pools and copies count nothing. Shapes alone
    are computed, no numbers.
    """
    encoder = build_encoder(settings, 0).to("meta").eval()
    clip = torch.empty((1, encoder.clip_frames, 3, size_px, size_px), device="meta")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        encoder(clip)
    return counter.get_total_flops()
