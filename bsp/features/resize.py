"""Resizing of a video's features to a fixed number of cells, for heads with a fixed input and for other projects.

Letters: S snippets of a video, C feature width.
"""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional


def resize_features(feat_SC: np.ndarray, cells: int) -> np.ndarray:
    """[S, C] to [cells, C] by linear interpolation, half-pixel centres; unchanged when S == cells."""
    if len(feat_SC) == cells:
        return feat_SC
    feat = torch.from_numpy(np.ascontiguousarray(feat_SC)).t()[None]
    return functional.interpolate(feat, size=cells, mode="linear", align_corners=False)[0].t().numpy()
