"""From uint8 pixels to the encoder's normalised input, on the training device.

Letters: B clips, T frames, H W image.
"""

from __future__ import annotations

from functools import lru_cache

import torch

RGB = tuple[float, float, float]  # in [0, 1]
MEAN: RGB = (0.485, 0.456, 0.406)  # of ImageNet
STD: RGB = (0.229, 0.224, 0.225)


def normalise(
    clip_BTHWC: torch.Tensor, dtype: torch.dtype = torch.float32, mean: RGB = MEAN, std: RGB = STD
) -> torch.Tensor:
    """uint8 [B, T, H, W, 3] on any device to ``dtype`` [B, T, 3, H, W], (x / 255 - mean) / std.

    The result is a channels-last view in memory; the arithmetic is float32 whatever ``dtype`` is.
    """
    if clip_BTHWC.dtype != torch.uint8 or clip_BTHWC.ndim != 5 or clip_BTHWC.shape[-1] != 3:
        raise ValueError(f"expected uint8 [B, T, H, W, 3], not {clip_BTHWC.dtype} {list(clip_BTHWC.shape)}")
    offset, scale = _statistics(clip_BTHWC.device, mean, std)
    return clip_BTHWC.float().sub_(offset).mul_(scale).to(dtype).permute(0, 1, 4, 2, 3)


@lru_cache(maxsize=16)
def _statistics(device: torch.device, mean: RGB, std: RGB) -> tuple[torch.Tensor, torch.Tensor]:
    """255 * mean and 1 / (255 * std), kept per device so that a batch costs no transfer for them."""
    return 255 * torch.tensor(mean, device=device), 1 / (255 * torch.tensor(std, device=device))
