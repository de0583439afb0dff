"""How a snippet's feature is read off the frozen encoder: over which frames, and by which statistics of their vectors.

The paper: 8 consecutive frames, the vector before the linear layer. The others are for comparison. A reading is part of
``encoder_hash``, so that features of different readings are never mixed.
Letters: B snippets, T' vectors of a snippet, D feature width, T frames of a snippet.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

# "" mean over the frames; "three" mean, standard deviation and mean absolute difference of consecutive frames, 3 D
# wide; of the width of the mean: "deviation", "difference" alone, and "thirds", each third channel by one of the three.
Readout = Literal["", "three", "thirds", "deviation", "difference"]
# "" the T frames of the snippet; "64x8" T frames at stride T around its middle, 8 out of 64 for TSM. Choice: in the
# same grid, so that heads, times and widths stay as they are.
Sampling = Literal["", "64x8"]


@dataclass(frozen=True, kw_only=True)
class Reading:
    """Readout and sampling. ValueError for unknown names."""

    readout: Readout = ""
    sampling: Sampling = ""

    def __post_init__(self) -> None:
        for name, value, known in (
            ("readout", self.readout, get_args(Readout)),
            ("snippet_sampling", self.sampling, get_args(Sampling)),
        ):
            if value not in known:
                raise ValueError(f"{name} cannot be {value!r:.80}; there are {', '.join(map(repr, known))}")

    def __str__(self) -> str:
        """Both names; "" as in the paper."""
        return " ".join(name for name in (self.readout, self.sampling) if name)

    def width(self, feature_width: int) -> int:
        """D of the features, for an encoder of this width."""
        return 3 * feature_width if self.readout == "three" else feature_width


PAPER = Reading()


def read_out(feat_BTD: Tensor, readout: Readout) -> Tensor:
    """Features float [B, D], or [B, 3 D], of the vectors float [B, T', D] of snippets.

    The deviation is that of the population, the difference the mean of |v(t + 1) - v(t)|; both are 0 for one vector.
    """
    mean_BD = feat_BTD.mean(dim=1)
    if not readout:
        return mean_BD
    deviation_BD = feat_BTD.std(dim=1, correction=0)
    steps_BTD = feat_BTD.diff(dim=1).abs()
    difference_BD = steps_BTD.mean(dim=1) if steps_BTD.shape[1] else torch.zeros_like(mean_BD)
    parts = (mean_BD, deviation_BD, difference_BD)
    if readout == "three":
        return torch.cat(parts, dim=1)
    if readout == "thirds":
        number_D = torch.arange(feat_BTD.shape[2], device=feat_BTD.device) % 3
        return torch.where(number_D == 0, mean_BD, torch.where(number_D == 1, deviation_BD, difference_BD))
    return deviation_BD if readout == "deviation" else difference_BD


def frames_of(number: int, frames: int, snippet_frames: int, sampling: Sampling) -> np.ndarray:
    """Frame numbers, int64 [T], of a snippet of a video of ``frames`` frames, as extraction reads them."""
    if not sampling:
        return np.minimum(number * snippet_frames + np.arange(snippet_frames), frames - 1)
    last = max(1, frames // snippet_frames) - 1
    around = number + np.arange(snippet_frames) - (snippet_frames - 1) // 2
    return np.clip(around, 0, last) * snippet_frames


def spread(snippets: Iterable[np.ndarray], sampling: Sampling) -> Iterator[np.ndarray]:
    """Snippets [T, H, W, 3] by ``sampling``, as many as there are, from those of consecutive frames.

    "64x8": frame j of snippet k is the first of snippet k + j - (T - 1) // 2. At the ends of the video the first
    and the last snippet's repeat.
    """
    if not sampling:
        yield from snippets
        return
    window: deque[np.ndarray] = deque()  # first frames of the snippets around
    read = 0
    for snippet in snippets:
        length = len(snippet)
        ahead = length // 2
        first = snippet[0].copy()  # else the whole chunk would stay in memory
        if not read:
            window.extend([first] * (length - ahead - 1))
        window.append(first)
        read += 1
        if len(window) == length:
            yield np.stack(window)
            window.popleft()
    if not read:
        return
    # As many as snippets were read have to come: the missing ones see the last frame again.
    for _ in range(min(read, ahead)):
        while len(window) < length:
            window.append(window[-1])
        yield np.stack(window)
        window.popleft()
