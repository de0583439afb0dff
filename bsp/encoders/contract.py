"""Interface of video encoders.

Section 4.1 of the paper takes a network that was trained on short clips, and keeps one vector per snippet of a long
video. Clip length, normalisation, cost and file names come from two objects: the settings, small and frozen, which are
part of every recipe, and the module built from them. To add an encoder, write both in one file and name them in
build.py's ``ENCODERS``; tests/examples/toy_encoder.py is a complete example.
Letters: B clips, T frames of a clip, T' vectors that come out of it, H W image, D feature width.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Protocol, Self

from torch import Tensor, nn

from bsp.clips.normalisation import MEAN, RGB, STD


class Architecture(Protocol):
    """Settings of an encoder: a frozen dataclass whose class identifies the network.

    Fields enter recipe hashes; properties and class attributes do not.
    """

    @property
    @abstractmethod
    def name(self) -> str:
        """Short name such as "tsm_r18w64"; part of the names of files and runs."""

    @property
    @abstractmethod
    def feature_width(self) -> int:
        """D, the length of a feature vector."""

    @property
    @abstractmethod
    def clip_frames(self) -> int:
        """T, the frames of a clip."""

    @property
    def size_px(self) -> int | None:
        """Side of the square input image, pixels; None = any."""
        return None

    @property
    def mean(self) -> RGB:
        """Mean subtracted from the pixels, RGB in [0, 1]."""
        return MEAN

    @property
    def std(self) -> RGB:
        """Standard deviation that the pixels are divided by, RGB."""
        return STD

    @property
    def zero_residual(self) -> bool:
        """Whether training from random weights needs blocks that begin as their shortcuts."""
        return False

    def for_clips(self, frames: int) -> Self:
        """Settings of the same network for clips of ``frames`` frames. ValueError if it does not support them."""
        if frames != self.clip_frames:
            raise ValueError(f"{self.name} takes clips of {self.clip_frames} frames, not {frames}")
        return self

    def for_snippets(self) -> Self:
        """Settings of the same network for feature extraction, where ``clip_frames`` is the snippet length."""
        return self

    def for_pictures(self) -> Architecture:
        """Settings of the same network for single frames, without any mixing over time, whose weights fit this one.

        ValueError if it has no such form.
        """
        raise ValueError(f"{self.name} has no form for single pictures; give a file of start weights")


class Encoder(nn.Module):
    """Base class of encoders, clips to features; a subclass writes ``forward``.

    forward: float [B, T, 3, H, W], normalised by ``mean`` and ``std``, T = ``clip_frames`` -> [B, T', D]. T' is T for
    TSM and less for networks that pool over time; the mean over T' is the feature of the clip.
    """

    def __init__(self, settings: Architecture):
        super().__init__()
        self.settings = settings
        self.feature_width, self.clip_frames = settings.feature_width, settings.clip_frames
        self.size_px, self.mean, self.std = settings.size_px, settings.mean, settings.std

    def check_clip(self, clip_BTCHW: Tensor) -> None:
        """ValueError, with the shape, unless the input is a batch of clips of this encoder."""
        batch, size = clip_BTCHW.shape[:1], clip_BTCHW.shape[3:]
        wanted = (*batch, self.clip_frames, 3, *((self.size_px,) * 2 if self.size_px else size))
        if clip_BTCHW.ndim != 5 or clip_BTCHW.shape != wanted:
            side = f"{self.size_px}, {self.size_px}" if self.size_px else "H, W"
            raise ValueError(
                f"{self.settings.name} takes clips [B, {self.clip_frames}, 3, {side}], not {list(clip_BTCHW.shape)}"
            )
