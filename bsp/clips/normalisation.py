"""From uint8 pixels to what the encoder takes, on the training device.

Letters: B clips, T frames, H W image.
"""

from __future__ import annotations

from functools import lru_cache

import torch

MEAN = (0.485, 0.456, 0.406)  # of ImageNet, RGB in [0, 1]
STD = (0.229, 0.224, 0.225)


def normalise(clip_BTHWC: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """uint8 [B, T, H, W, 3] on any device to ``dtype`` [B, T, 3, H, W], (x / 255 - MEAN) / STD.

    The result is a channels-last view in memory; the arithmetic is float32 whatever ``dtype`` is.
    """
    if clip_BTHWC.dtype != torch.uint8 or clip_BTHWC.ndim != 5 or clip_BTHWC.shape[-1] != 3:
        raise ValueError(f"expected uint8 [B, T, H, W, 3], not {clip_BTHWC.dtype} {list(clip_BTHWC.shape)}")
    mean, scale = _statistics(clip_BTHWC.device)
    return clip_BTHWC.float().sub_(mean).mul_(scale).to(dtype).permute(0, 1, 4, 2, 3)


@lru_cache(maxsize=16)
def _statistics(device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """255 * MEAN and 1 / (255 * STD), kept per device so that a batch costs no transfer for them."""
    return 255 * torch.tensor(MEAN, device=device), 1 / (255 * torch.tensor(STD, device=device))
