"""Which grid a head needs for somebody's videos: from their durations and the lengths of the instances."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

SNIPPET_FRAMES = 8  # of TSM, the encoder of the paper
_CELLS_OF_SHORT = 4.0  # Choice: cells that a short instance should have; a proposal ends where a cell ends
_SHORT = 0.1  # share of the instances that count as short
# Fewest and most of G-TAD. Choice: its table of proposals grows with their square; beyond these, windows do better.
CELLS = (16, 128)


@dataclass(frozen=True, kw_only=True)
class Grid:
    """A suggestion for G-TAD, which resizes a whole video (or window) to ``cells``."""

    cells: int
    max_duration: int  # longest proposal, cells
    stride_frames: int  # from snippet to snippet
    window_s: float  # longest stretch that the cells must cover; longer videos are cut into windows of it
    cell_s: float  # of the longest stretch
    snippet_s: float  # of the median video
    shorter_than_cell: float  # share of the instances
    on_windows: bool  # the longest videos are longer than ``window_s``
    reasons: tuple[str, ...]


def suggest_grid(
    durations_s: Sequence[float],
    rates: Sequence[float],
    instances: Sequence[tuple[float, float]],
    *,
    snippet_frames: int = SNIPPET_FRAMES,
) -> Grid:
    """The suggestion for videos of ``durations_s`` (at ``rates`` frames a second) and ``instances`` (start, end), s.

    The cells are such that an instance shorter than nine in ten others still has four cells in the longest video,
    but no more cells than snippets (a finer grid shows nothing more) and at most CELLS[1]. ValueError without
    videos.
    """
    if not len(durations_s) or len(rates) != len(durations_s):
        raise ValueError(f"{len(durations_s)} durations and {len(rates)} rates; give one of each for every video")
    longest = float(np.max(durations_s))
    snippet_s = float(snippet_frames / np.median(rates))
    reasons = [
        f"videos last {np.min(durations_s):.1f} to {longest:.1f} s (median {np.median(durations_s):.1f} s); a snippet"
        f" of {snippet_frames} frames is {snippet_s:.2f} s"
    ]
    snippets = max(1, math.floor(longest / snippet_s))
    lengths_s = np.array([end - start for start, end in instances], float)
    wanted = 100.0  # Choice: without annotations the paper's number
    window_s = longest
    if len(lengths_s):
        short_s = float(np.quantile(lengths_s, _SHORT))
        wanted = _CELLS_OF_SHORT * longest / max(short_s, 1e-9)
        reasons.append(
            f"instances last {lengths_s.min():.2f} to {lengths_s.max():.1f} s (median {np.median(lengths_s):.2f} s):"
            f" the shortest tenth are {short_s / snippet_s:.1f} snippets or less"
        )
    cells = int(min(max(CELLS[0], math.ceil(wanted)), max(CELLS[0], snippets), CELLS[1]))
    if wanted > cells and cells == CELLS[1]:
        window_s = min(longest, max(cells * short_s / _CELLS_OF_SHORT, 1.5 * float(lengths_s.max())))
        reasons.append(
            f"{math.ceil(wanted)} cells would be needed for whole videos, more than {CELLS[1]}: windows of"
            f" {window_s:.0f} s, or coarse ends"
        )
    elif wanted > cells:
        reasons.append(f"{math.ceil(wanted)} cells would be finer than the {snippets} snippets of the longest video")
    cell_s = window_s / cells
    reach = float(lengths_s.max()) / cell_s + 1 if len(lengths_s) else cells
    below = float((lengths_s < cell_s).mean()) if len(lengths_s) else 0.0
    if len(lengths_s):
        reasons.append(f"a cell is {cell_s:.2f} s of the longest video; {below:.0%} of the instances are shorter")
        tiny = float((lengths_s < snippet_s).mean())
        if tiny > 0.05:
            reasons.append(
                f"{tiny:.0%} of the instances are shorter than a snippet: no head can place them; encode the videos at"
                " a higher frame rate, or leave them out"
            )
    return Grid(
        cells=cells,
        max_duration=min(cells, max(1, math.ceil(reach))),
        stride_frames=snippet_frames,
        window_s=window_s,
        cell_s=cell_s,
        snippet_s=snippet_s,
        shorter_than_cell=below,
        on_windows=window_s < longest,
        reasons=tuple(reasons),
    )
