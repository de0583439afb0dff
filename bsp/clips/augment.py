"""Augmentation of clips, after the Kinetics recipe of TSM (Lin et al., ICCV 2019).

One draw per clip: all frames are cropped, flipped and coloured alike, so augmentation never adds a boundary.
Letters: T frames, H W image. Clips are uint8 RGB and stay so until they are on the training device.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from bsp.video.read import fit_frames, resize_frames

LUMA = np.array((0.299, 0.587, 0.114), np.float32)  # grey of RGB, ITU-R BT.601

# Corners, centre, edge middles and quarter points, in steps of a quarter of the free room, (x, y).
OFFSETS = (
    (0, 0), (4, 0), (0, 4), (4, 4), (2, 2),
    (0, 2), (4, 2), (2, 4), (2, 0),
    (1, 1), (3, 1), (1, 3), (3, 3),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class AugmentSettings:
    """Training augmentation of one clip. The defaults are TSM's; colour is off there."""

    size_px: int = 224  # side of the square output, pixels, at least 1
    # Crop sides as shares of the shorter side, in (0, 1]; (1.0,) crops the largest square only.
    scales: tuple[float, ...] = (1.0, 0.875, 0.75, 0.66)
    flip: float = 0.5  # probability of a horizontal flip, 0..1; 0 = off (actions with a left or right)
    # Choice: off by default. The paper names no augmentation; TSM's recipe has none of colour.
    brightness: float = 0.0  # factor drawn from 1 - this .. 1 + this, 0..1; 0 = off
    contrast: float = 0.0  # the same, about the mean grey of the clip; 0 = off
    saturation: float = 0.0  # the same, about each pixel's grey; 0 = off

    def __post_init__(self) -> None:
        object.__setattr__(self, "scales", tuple(float(scale) for scale in self.scales))
        if self.size_px < 1:
            raise ValueError(f"size_px must be at least 1, not {self.size_px}")
        if not self.scales or any(not 0 < scale <= 1 for scale in self.scales):
            raise ValueError(f"scales must be one or more numbers in (0, 1], not {self.scales}")
        for name in ("flip", "brightness", "contrast", "saturation"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in 0..1 (0 = off), not {getattr(self, name)}")


def augment_clip(clip_THWC: np.ndarray, settings: AugmentSettings, seed: int) -> np.ndarray:
    """Crop, resize, flip and colour a clip with one draw; uint8 [T, H, W, 3] to uint8 [T, size, size, 3].

    The same ``seed`` (0 or more) gives the same draw; callers pass ``ClipPlan.augment_seed``.
    """
    if clip_THWC.ndim != 4 or clip_THWC.shape[-1] != 3 or clip_THWC.dtype != np.uint8:
        raise ValueError(f"a clip must be uint8 [T, H, W, 3], not {clip_THWC.dtype} {list(clip_THWC.shape)}")
    generator = np.random.Generator(np.random.Philox(key=seed))
    left, top, width, height = draw_crop(clip_THWC.shape[2], clip_THWC.shape[1], settings, generator)
    clip = clip_THWC[:, top : top + height, left : left + width]
    flip = generator.random() < settings.flip
    ranges = (settings.brightness, settings.contrast, settings.saturation)
    factors = 1 + (2 * generator.random(3) - 1) * ranges
    if (height, width) != (settings.size_px, settings.size_px):
        clip = resize_frames(clip, settings.size_px, settings.size_px)
    if flip:
        clip = clip[:, :, ::-1]
    clip = np.ascontiguousarray(clip)
    return clip if (factors == 1).all() else jitter_colour(clip, *factors)


def draw_crop(
    width: int, height: int, settings: AugmentSettings, generator: np.random.Generator
) -> tuple[int, int, int, int]:
    """TSM's multi-scale corner crop: (left, top, width, height) in pixels, within the image.

    The sides are the shorter side times two scales next to each other at most (10 pairs of 4), uniform over
    pairs; the place is uniform over 13 fixed ones.
    """
    pairs = _scale_pairs(len(settings.scales))
    scale_x, scale_y = pairs[int(generator.integers(len(pairs)))]
    x_step, y_step = OFFSETS[int(generator.integers(len(OFFSETS)))]
    crop_width = _crop_side(width, height, settings.scales[scale_x], settings.size_px)
    crop_height = _crop_side(height, width, settings.scales[scale_y], settings.size_px)
    left, top = x_step * ((width - crop_width) // 4), y_step * ((height - crop_height) // 4)
    return left, top, crop_width, crop_height


def _crop_side(side: int, other: int, scale: float, size_px: int) -> int:
    """Pixels of a crop along ``side``; a size within 2 pixels of the output becomes that, as in TSM."""
    crop = max(1, int(min(side, other) * scale))
    return min(side, size_px) if abs(crop - size_px) <= 2 else crop  # never larger than the image


@lru_cache(maxsize=16)
def _scale_pairs(scales: int) -> tuple[tuple[int, int], ...]:
    return tuple((x, y) for x in range(scales) for y in range(scales) if abs(x - y) <= 1)


def jitter_colour(clip_THWC: np.ndarray, brightness: float, contrast: float, saturation: float) -> np.ndarray:
    """Multiply brightness, contrast and saturation of a uint8 RGB clip by factors (1 = unchanged).

    grey = LUMA . rgb; saturation: grey + s (rgb - grey); contrast: m + c (rgb - m), m the mean grey of the
    clip; brightness: b rgb. In this order.
    """
    # Choice: one affine map for all three with one rounding and one clipping, and m over the clip, not the
    # frame: faster, and no frame is coloured differently from its neighbours.
    pixels = clip_THWC.reshape(-1, 3).astype(np.float32)
    # A product with ones: the mean over the first axis of [pixels, 3] takes 40 times as long.
    mean_grey = float(np.full(len(pixels), 1 / len(pixels), np.float32) @ pixels @ LUMA)
    mix = brightness * contrast * (saturation * np.eye(3) + (1 - saturation) * LUMA[:, None])
    shift = brightness * (1 - contrast) * mean_grey + 0.5  # the half makes the cast below round to nearest
    # BLAS multiplies 4 pixels by a 12 x 12 matrix in half the time of 4 times one pixel by 3 x 3.
    together = 4 if len(pixels) % 4 == 0 else 1
    blocks = np.kron(np.eye(together), mix).astype(np.float32)
    out = pixels.reshape(-1, 3 * together) @ blocks
    out += np.float32(shift)
    np.clip(out, 0, 255, out=out)
    return out.astype(np.uint8).reshape(clip_THWC.shape)


def centre_clip(clip_THWC: np.ndarray, size_px: int) -> np.ndarray:
    """The test-time view: shorter side to size * 256 / 224, centre crop; uint8 [T, size, size, 3].

    A video with a smaller shorter side is scaled to exactly ``size_px``, so that small videos lose no border.
    """
    height, width = clip_THWC.shape[1:3]
    short = round(size_px * 256 / 224)
    # Choice: small videos are not enlarged and then cropped; at 64 px they would lose an eighth of every side.
    if min(height, width) < short:
        return fit_frames(clip_THWC, size_px, size_px)
    scale = short / min(height, width)
    resized = clip_THWC
    if scale != 1:
        resized = resize_frames(clip_THWC, round(height * scale), round(width * scale))
    top, left = (resized.shape[1] - size_px) // 2, (resized.shape[2] - size_px) // 2
    return np.ascontiguousarray(resized[:, top : top + size_px, left : left + size_px])
