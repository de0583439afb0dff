"""A small video encoder whose ImageNet weights come by pip: EfficientNet-Lite0 with the temporal shift.

Every frame goes through EfficientNet-Lite0 (EfficientNet-B0 without squeeze-and-excitation, with ReLU6), and
neighbouring frames see each other through TSM's shift before the expansion of every inverted residual block that has a
shortcut, where TSM put it in MobileNetV2. A fifth of TSM-R18's operations; 1280 numbers per frame. Padding is
TensorFlow's "SAME", uneven at stride 2, as the published weights were trained with it. Names are those of the weights
without leading underscores. Letters: B clips, T frames per clip, N = B * T (clip-major), C H W image, D width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from bsp.clips.normalisation import RGB
from bsp.encoders.contract import Architecture, Encoder
from bsp.encoders.tsm import SNIPPET_FRAMES, temporal_shift


class _Stage(NamedTuple):
    blocks: int
    kernel: int
    stride: int  # of the first block; the others have 1 and a shortcut
    expansion: int
    channels: int


HEAD_CHANNELS = 1280  # of the published network, as those of the stages
_STEM_CHANNELS = 32
_STAGES = (
    _Stage(1, 3, 1, 1, 16),
    _Stage(2, 3, 2, 6, 24),
    _Stage(2, 5, 2, 6, 40),
    _Stage(3, 3, 2, 6, 80),
    _Stage(3, 5, 1, 6, 112),
    _Stage(4, 5, 2, 6, 192),
    _Stage(1, 3, 1, 6, 320),
)
_EPS = 1e-3  # of the published batch norms
# Choice: PyTorch's 0.1 instead of the published 0.01, which lags behind trainings of a few hundred steps (findings.md).
_MOMENTUM = 0.1


@dataclass(frozen=True, kw_only=True)
class TSMLite0Settings(Architecture):
    """Shape of the encoder; ImageNet weights fit width 1."""

    width: float = 1.0  # factor of all channel numbers, rounded to multiples of 8; small ones are for tests; > 0
    frames: int = 8  # T, frames per clip that the shift mixes; >= 1
    shift_div: int = 8  # channels // shift_div move forward and as many backward in time; >= 2
    shift: bool = True  # False = EfficientNet-Lite0 per frame, no mixing over time

    def __post_init__(self) -> None:
        if not (self.width > 0 and math.isfinite(self.width)):
            raise ValueError(f"width must be above 0, not {self.width}")
        if self.frames < 1:
            raise ValueError(f"frames must be at least 1, not {self.frames}")
        if self.shift_div < 2:
            raise ValueError(f"shift_div must be at least 2 (two groups of channels move), not {self.shift_div}")

    def channels(self, published: int) -> int:
        """Channels of this width where Lite0 has ``published``: EfficientNet's rounding, never below 90 %."""
        scaled = published * self.width
        rounded = max(8, int(scaled + 4) // 8 * 8)
        return rounded + 8 if rounded < 0.9 * scaled else rounded

    @property
    def feature_width(self) -> int:
        """D, the length of a frame's feature vector: 1280 at width 1."""
        return self.channels(HEAD_CHANNELS)

    @property
    def name(self) -> str:
        """ "tsm_lite0", or "tsm_lite0w0.25" of another width."""
        return "tsm_lite0" if self.width == 1 else f"tsm_lite0w{self.width:g}"

    @property
    def clip_frames(self) -> int:
        """T, frames of a training clip."""
        return self.frames

    @property
    def mean(self) -> RGB:
        """127 of 255 in every channel, as the published weights were trained (EfficientNet-Lite, TensorFlow)."""
        return (127 / 255,) * 3

    @property
    def std(self) -> RGB:
        """128 of 255; see ``mean``."""
        return (128 / 255,) * 3

    def for_clips(self, frames: int) -> TSMLite0Settings:
        """Any length works: the shift has no weights."""
        return replace(self, frames=frames)

    def for_snippets(self) -> TSMLite0Settings:
        """Snippets are 8 frames, whatever the length of training clips."""
        return replace(self, frames=SNIPPET_FRAMES)


class _SameConv(nn.Conv2d):
    """Convolution without bias, padded to ceil(size / stride) as TensorFlow does: the odd pixel at right and bottom."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1):
        padding = kernel // 2 if stride == 1 else 0
        super().__init__(inputs, outputs, kernel, stride, padding, groups=groups, bias=False)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        stride, kernel = self.stride[0], self.kernel_size[0]
        if stride > 1:
            missing = [max(0, (math.ceil(side / stride) - 1) * stride + kernel - side) for side in x_NCHW.shape[:1:-1]]
            x_NCHW = functional.pad(x_NCHW, [pixels for of in missing for pixels in (of // 2, of - of // 2)])
        return super().forward(x_NCHW)


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=_EPS, momentum=_MOMENTUM)


class _Block(nn.Module):
    """Inverted residual block: expand, depthwise, project; the shift is in the residual branch alone."""

    def __init__(self, inputs: int, outputs: int, stage: _Stage, settings: TSMLite0Settings, *, first: bool):
        super().__init__()
        inner = inputs * stage.expansion
        self.shortcut = not first
        self.frames = settings.frames
        self.fold = inputs // settings.shift_div if settings.shift and self.shortcut else 0
        self.expands = stage.expansion > 1
        if self.expands:
            self.expand_conv, self.bn0 = _SameConv(inputs, inner, 1), _norm(inner)
        self.depthwise_conv = _SameConv(inner, inner, stage.kernel, stage.stride if first else 1, groups=inner)
        self.bn1 = _norm(inner)
        self.project_conv, self.bn2 = _SameConv(inner, outputs, 1), _norm(outputs)
        self.relu6 = nn.ReLU6(inplace=True)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        out = temporal_shift(x_NCHW, self.frames, self.fold)
        if self.expands:
            out = self.relu6(self.bn0(self.expand_conv(out)))
        out = self.relu6(self.bn1(self.depthwise_conv(out)))
        out = self.bn2(self.project_conv(out))
        # Choice: no stochastic depth (0.2 in the published training): it is for hundreds of epochs.
        return out.add_(x_NCHW) if self.shortcut else out


class TSMLite0(Encoder):
    """EfficientNet-Lite0 with temporal shift, without a classification layer.

    forward: float [B, T, 3, H, W], normalised, T = settings.frames -> [B, T, D] per-frame features (global
    average pool). Use :func:`build_tsm_lite0` for the seeded initialisation.
    """

    settings: TSMLite0Settings

    def __init__(self, settings: TSMLite0Settings):
        super().__init__(settings)
        inputs = settings.channels(_STEM_CHANNELS)
        self.conv_stem, self.bn0 = _SameConv(3, inputs, 3, 2), _norm(inputs)
        self.blocks = nn.Sequential()
        for stage in _STAGES:
            outputs = settings.channels(stage.channels)
            for index in range(stage.blocks):
                self.blocks.append(_Block(inputs, outputs, stage, settings, first=index == 0))
                inputs = outputs
        self.conv_head, self.bn1 = _SameConv(inputs, settings.feature_width, 1), _norm(settings.feature_width)
        self.relu6 = nn.ReLU6(inplace=True)

    def forward(self, clip_BTCHW: Tensor) -> Tensor:
        """Float [B, T, 3, H, W], normalised -> [B, T, D]; ValueError for another shape."""
        self.check_clip(clip_BTCHW)
        batch, frames = clip_BTCHW.shape[:2]
        x = self.relu6(self.bn0(self.conv_stem(clip_BTCHW.flatten(0, 1))))
        x = self.relu6(self.bn1(self.conv_head(self.blocks(x))))
        return x.mean(dim=(2, 3)).view(batch, frames, -1)


def build_tsm_lite0(settings: TSMLite0Settings, seed: int, *, zero_residual: bool = False) -> TSMLite0:
    """A freshly initialised encoder: the same weights for the same seed, global random state untouched.

    Convolutions are normal with EfficientNet's variance 2 / (kernel area * outputs per group), batch norms 1 and 0;
    with ``zero_residual`` every block with a shortcut begins as it. The weights are in channels-last memory format.
    """
    with torch.random.fork_rng(devices=[]):  # the constructors draw weights that are overwritten below
        encoder = TSMLite0(settings)
    generator = torch.Generator().manual_seed(seed)
    for module in encoder.modules():
        if isinstance(module, _SameConv):
            fan_out = module.kernel_size[0] ** 2 * module.out_channels // module.groups
            nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out), generator=generator)
        elif zero_residual and isinstance(module, _Block) and module.shortcut:
            nn.init.zeros_(module.bn2.weight)
    return encoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # as documented
