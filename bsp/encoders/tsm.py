"""The video encoder: a ResNet with the Temporal Shift Module (TSM; Lin et al., ICCV 2019).

Section 4.1 of the paper: every frame goes through a ResNet, and a shift along time before the first
convolution of every residual branch lets neighbouring frames see each other. One vector per frame comes
out; the mean over the 8 frames is the clip feature ("the features before the fully connected layer").
Learnt from mit-han-lab/temporal-shift-module; the module names are torchvision's, so that a ResNet state
dict fits without renaming. Letters: B clips, T frames per clip, N = B * T (clip-major), C H W image, D width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from bsp.encoders.contract import Architecture, Encoder

SNIPPET_FRAMES = 8  # T of Section 4.1: snippet length for features, whatever the length of training clips
_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}


@dataclass(frozen=True, kw_only=True)
class EncoderSettings(Architecture):
    """Shape of the TSM encoder. The paper uses depth 18 and 50 with width 64."""

    depth: int = 18  # 18 | 34 (basic blocks) | 50 (bottleneck blocks)
    width: int = 64  # channels after the stem; 64 = standard ResNet, 16 = a narrow one for small data; >= 1
    frames: int = 8  # T, frames per clip that the shift mixes; >= 1
    shift_div: int = 8  # channels // shift_div move forward and as many backward in time; >= 2
    shift: bool = True  # False = plain ResNet per frame, no mixing over time (TSN)

    def __post_init__(self) -> None:
        if self.depth not in _BLOCKS:
            raise ValueError(f"depth must be one of {sorted(_BLOCKS)}, not {self.depth}")
        if self.width < 1:
            raise ValueError(f"width must be at least 1 channel, not {self.width}")
        if self.frames < 1:
            raise ValueError(f"frames must be at least 1, not {self.frames}")
        if self.shift_div < 2:
            raise ValueError(f"shift_div must be at least 2 (two groups of channels move), not {self.shift_div}")
        if self.shift and self.width < self.shift_div:
            raise ValueError(
                f"width {self.width} is below shift_div {self.shift_div}: the first layers would shift"
                " nothing; use a larger width, a smaller shift_div, or shift=False"
            )

    @property
    def expansion(self) -> int:
        """Channels out of a block per channel of its stage."""
        return 4 if self.depth == 50 else 1

    @property
    def feature_width(self) -> int:
        """D, the length of a frame's feature vector: 512 for the standard R18, 2048 for R50."""
        return self.width * 8 * self.expansion

    @property
    def name(self) -> str:
        """Such as "tsm_r18w64"."""
        return f"tsm_r{self.depth}w{self.width}"

    @property
    def clip_frames(self) -> int:
        """T, frames of a training clip."""
        return self.frames

    @property
    def zero_residual(self) -> bool:
        """Choice: True for bottleneck networks, which stay at chance without it (docs/findings.md)."""
        return self.expansion > 1

    def for_clips(self, frames: int) -> EncoderSettings:
        """Any length works: the shift has no weights."""
        return replace(self, frames=frames)

    def for_snippets(self) -> EncoderSettings:
        """Snippets are 8 frames, whatever the length of training clips."""
        return replace(self, frames=SNIPPET_FRAMES)

    def for_pictures(self) -> EncoderSettings:
        """The plain ResNet; the shift has no weights, so that one picture network serves every share of it."""
        return EncoderSettings(depth=self.depth, width=self.width, frames=1, shift=False)


def shift_reference(x_NCHW: Tensor, frames: int, fold: int) -> Tensor:
    """Reference implementation that :func:`temporal_shift` is tested against.

    Channels [0, fold) take frame t+1, channels [fold, 2*fold) take frame t-1, the rest stays. Zeros enter
    at the clip's ends; nothing crosses from one clip to the next. Same shape and dtype as the input.
    """
    x = x_NCHW.unflatten(0, (-1, frames))
    out = torch.zeros_like(x)
    out[:, :-1, :fold] = x[:, 1:, :fold]
    out[:, 1:, fold : 2 * fold] = x[:, :-1, fold : 2 * fold]
    out[:, :, 2 * fold :] = x[:, :, 2 * fold :]
    return out.flatten(0, 1)


def _move(x_NCHW: Tensor, frames: int, fold: int, step: int) -> Tensor:
    """Channel group one takes frame t+step, group two frame t-step (step 1 or -1); a new tensor, same layout."""
    out_NCHW = x_NCHW.clone(memory_format=torch.preserve_format)
    x, out = x_NCHW.unflatten(0, (-1, frames)), out_NCHW.unflatten(0, (-1, frames))
    one, two = slice(0, fold), slice(fold, 2 * fold)
    later, sooner = (one, two) if step == 1 else (two, one)
    out[:, :-1, later] = x[:, 1:, later]
    out[:, -1, later] = 0
    out[:, 1:, sooner] = x[:, :-1, sooner]
    out[:, 0, sooner] = 0
    return out_NCHW


def _joined_shift(x_NCHW: Tensor, frames: int, fold: int) -> Tensor:
    """The shift as one expression without in-place writes, which torch.compile turns into a single copy."""
    x = x_NCHW.unflatten(0, (-1, frames))
    later = functional.pad(x[:, 1:, :fold], (0, 0, 0, 0, 0, 0, 0, 1))
    sooner = functional.pad(x[:, :-1, fold : 2 * fold], (0, 0, 0, 0, 0, 0, 1, 0))
    return torch.cat([later, sooner, x[:, :, 2 * fold :]], dim=2).flatten(0, 1)


class _Shift(torch.autograd.Function):
    """The shift with its transpose as the backward pass: one copy each way, nothing kept in between."""

    @staticmethod
    def forward(ctx: Any, x_NCHW: Tensor, frames: int, fold: int) -> Tensor:
        ctx.frames, ctx.fold = frames, fold
        return _move(x_NCHW, frames, fold, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_NCHW: Tensor) -> tuple[Tensor, None, None]:
        return _move(grad_NCHW, ctx.frames, ctx.fold, -1), None, None


def temporal_shift(x_NCHW: Tensor, frames: int, fold: int) -> Tensor:
    """What :func:`shift_reference` computes, faster, and never writing into its input.

    x_NCHW is [B * frames, C, H, W], clip-major, in any memory format (kept). fold is in channels, 0 <= 2 * fold <= C; 0
    shifts nothing. One full copy plus four strided ones: concatenated slices, masks, and fusion with the shortcut's
    gradient were slower on a CPU.
    """
    if fold == 0:
        return x_NCHW
    if torch.compiler.is_compiling():
        return _joined_shift(x_NCHW, frames, fold)
    if torch.is_grad_enabled() and x_NCHW.requires_grad:
        apply: Callable[[Tensor, int, int], Tensor] = _Shift.apply
        return apply(x_NCHW, frames, fold)
    return _move(x_NCHW, frames, fold, 1)


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)


class _Block(nn.Module):
    """A residual block, basic (two 3x3) or bottleneck (1x1, 3x3, 1x1), shifted before conv1 in the branch.

    The shortcut sees the unshifted input. The stride of a bottleneck is in its 3x3, as in torchvision.
    """

    def __init__(self, inputs: int, planes: int, stride: int, settings: EncoderSettings):
        super().__init__()
        outputs = planes * settings.expansion
        self.bottleneck = settings.expansion > 1
        self.frames = settings.frames
        # The share is of conv1's input channels, so 1/8 of 64 in R50's layer1.0 and of 256 in layer1.1.
        self.fold = inputs // settings.shift_div if settings.shift else 0
        if self.bottleneck:
            self.conv1, self.bn1 = _conv(inputs, planes, 1), nn.BatchNorm2d(planes)
            self.conv2, self.bn2 = _conv(planes, planes, 3, stride), nn.BatchNorm2d(planes)
            self.conv3, self.bn3 = _conv(planes, outputs, 1), nn.BatchNorm2d(outputs)
        else:
            self.conv1, self.bn1 = _conv(inputs, planes, 3, stride), nn.BatchNorm2d(planes)
            self.conv2, self.bn2 = _conv(planes, outputs, 3), nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Module | None = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(_conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))

    def forward(self, x_NCHW: Tensor) -> Tensor:
        out = self.bn1(self.conv1(temporal_shift(x_NCHW, self.frames, self.fold)))
        out = self.bn2(self.conv2(self.relu(out)))
        if self.bottleneck:
            out = self.bn3(self.conv3(self.relu(out)))
        shortcut = x_NCHW if self.downsample is None else self.downsample(x_NCHW)
        return self.relu(out.add_(shortcut))


class TSMResNet(Encoder):
    """ResNet with temporal shift, without a classification layer.

    forward: float [B, T, 3, H, W], normalised, T = settings.frames -> [B, T, D] per-frame features (global
    average pool). H and W of 32 or more are sensible; any memory format of the [B * T] images is kept.
    Weights are left as PyTorch makes them; use :func:`build_tsm` for the seeded initialisation.
    """

    layer1: nn.Sequential
    layer2: nn.Sequential
    layer3: nn.Sequential
    layer4: nn.Sequential
    settings: EncoderSettings

    def __init__(self, settings: EncoderSettings):
        super().__init__(settings)
        width = settings.width
        self.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        inputs = width
        for stage, blocks in enumerate(_BLOCKS[settings.depth]):
            planes = width * 2**stage
            layer = nn.Sequential()
            for index in range(blocks):
                layer.append(_Block(inputs, planes, 2 if stage > 0 and index == 0 else 1, settings))
                inputs = planes * settings.expansion
            self.add_module(f"layer{stage + 1}", layer)

    def forward(self, clip_BTCHW: Tensor) -> Tensor:
        """Float [B, T, 3, H, W], normalised -> [B, T, D]; ValueError for another shape."""
        self.check_clip(clip_BTCHW)
        batch, frames = clip_BTCHW.shape[:2]
        x = clip_BTCHW.flatten(0, 1)
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return x.mean(dim=(2, 3)).view(batch, frames, -1)


def build_tsm(settings: EncoderSettings, seed: int, *, zero_residual: bool = False) -> TSMResNet:
    """A freshly initialised encoder: the same weights for the same seed, global random state untouched.

    Convolutions are Kaiming normal (fan-out), batch norms 1 and 0, as torchvision initialises a ResNet; with
    ``zero_residual`` the last batch norm of every block is 0, so that each block begins as its shortcut.
    The weights are in channels-last memory format, the faster one on CPUs and GPUs alike.
    """
    with torch.random.fork_rng(devices=[]):  # the constructors draw weights that are overwritten below
        encoder = TSMResNet(settings)
    generator = torch.Generator().manual_seed(seed)
    for module in encoder.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu", generator=generator)
    if zero_residual:
        for name, module in encoder.named_modules():
            if name.endswith("bn3" if settings.expansion == 4 else "bn2"):
                nn.init.zeros_(module.weight)
    return encoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # as documented
