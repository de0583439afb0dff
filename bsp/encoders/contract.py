"""What a video encoder is to the rest of the program, whichever network is inside.

Section 4.1 of the paper takes a network that was trained on short clips, and keeps one vector per snippet of a long
video. Everything else (clip length, pixels, cost, file names) is asked of two things: the settings, small and frozen,
which are part of every recipe, and the module that is built from them. To add an encoder, write both in one file and
name them in build.py's ``ENCODERS``; tests/examples/toy_encoder.py is a complete example.
Letters: B clips, T frames of a clip, T' vectors that come out of it, H W image, D feature width.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Protocol, Self

from torch import Tensor, nn

from bsp.clips.normalisation import MEAN, RGB, STD


class Architecture(Protocol):
    """Settings of an encoder: a frozen dataclass whose class says which network it is.

    Its fields enter the hashes of recipes, properties and class attributes do not.
    """

    @property
    @abstractmethod
    def name(self) -> str:
        """Readable and short, such as "tsm_r18w64"; part of the names of files and runs."""

    @property
    @abstractmethod
    def feature_width(self) -> int:
        """D, the numbers of a feature vector."""

    @property
    @abstractmethod
    def clip_frames(self) -> int:
        """T, the frames of a clip."""

    @property
    def size_px(self) -> int | None:
        """Side of the square image that it takes; None = any."""
        return None

    @property
    def mean(self) -> RGB:
        """Subtracted from its pixels, RGB in [0, 1] ..."""
        return MEAN

    @property
    def std(self) -> RGB:
        """... which are then divided by this."""
        return STD

    @property
    def zero_residual(self) -> bool:
        """Whether it learns from random weights only if its blocks begin as their shortcuts."""
        return False

    def for_clips(self, frames: int) -> Self:
        """The same network for training clips of ``frames`` frames. ValueError if it has no such form."""
        if frames != self.clip_frames:
            raise ValueError(f"{self.name} takes clips of {self.clip_frames} frames, not {frames}")
        return self

    def for_snippets(self) -> Self:
        """The network, with the same weights, that makes features of videos; its ``clip_frames`` is their snippet."""
        return self


class Encoder(nn.Module):
    """A network that turns clips into features; whoever makes one subclasses this and writes ``forward``.

    forward: float [B, T, 3, H, W], normalised by ``mean`` and ``std``, T = ``clip_frames`` -> [B, T', D]. T' is T for
    TSM and less for networks that join frames; the mean over T' is the feature of the clip.
    """

    def __init__(self, settings: Architecture):
        super().__init__()
        self.settings = settings
        self.feature_width, self.clip_frames = settings.feature_width, settings.clip_frames
        self.size_px, self.mean, self.std = settings.size_px, settings.mean, settings.std

    def check_clip(self, clip_BTCHW: Tensor) -> None:
        """ValueError, with the shape, for what is no batch of clips of this encoder."""
        batch, size = clip_BTCHW.shape[:1], clip_BTCHW.shape[3:]
        wanted = (*batch, self.clip_frames, 3, *((self.size_px,) * 2 if self.size_px else size))
        if clip_BTCHW.ndim != 5 or clip_BTCHW.shape != wanted:
            side = f"{self.size_px}, {self.size_px}" if self.size_px else "H, W"
            raise ValueError(
                f"{self.settings.name} takes clips [B, {self.clip_frames}, 3, {side}], not {list(clip_BTCHW.shape)}"
            )
