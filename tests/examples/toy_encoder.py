"""A complete encoder: everything that one needs, and no line of the package is touched.

A clip is cut into tubelets of 3 frames and 8 x 8 pixels (a 3D convolution without overlap, as in video transformers);
their mean over the image is a vector per tubelet: 12 frames give 4 vectors. Profiles offer it by a line
``encoders={"toy": ToyEncoderSettings()}``, rows of tables ask for it by ``Stream(method=..., encoder="toy")``.
Letters: B clips, T frames, T' = T / 3 vectors, H W image, D feature width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bsp.encoders.build import ENCODERS
from bsp.encoders.contract import Architecture, Encoder


@dataclass(frozen=True, kw_only=True)
class ToyEncoderSettings(Architecture):
    """The fields decide what the encoder is; they become part of the name (hash) of every result made with it."""

    width: int = 16  # numbers per feature, a multiple of 4
    frames: int = 12  # of a clip, a multiple of 3

    @property
    def name(self) -> str:
        """Readable, for names of files."""
        return f"toy_w{self.width}"

    @property
    def feature_width(self) -> int:
        """D."""
        return self.width

    @property
    def clip_frames(self) -> int:
        """T: clips of its pre-training and snippets of its features have so many frames."""
        return self.frames


class ToyEncoder(Encoder):
    """float [B, 12, 3, H, W] -> [B, 4, D]; ``seed`` decides the weights."""

    def __init__(self, settings: ToyEncoderSettings, seed: int):
        super().__init__(settings)
        with torch.random.fork_rng(devices=[]):  # the caller's random numbers stay as they are
            torch.manual_seed(seed)
            self.tubelets = nn.Conv3d(3, settings.width, kernel_size=(3, 8, 8), stride=(3, 8, 8))

    def forward(self, clip_BTCHW: Tensor) -> Tensor:
        """Tubelets, the positive part, the mean over the image."""
        self.check_clip(clip_BTCHW)
        return self.tubelets(clip_BTCHW.transpose(1, 2)).relu().mean(dim=(3, 4)).transpose(1, 2)


ENCODERS[ToyEncoderSettings] = (
    ToyEncoder  # the one line; for an encoder of the package it stands in bsp/encoders/build.py
)
