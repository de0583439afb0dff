"""Queries of video grounding (video, words, moment), shared by 2D-TAN and LGI.

Times are fractions of the video's duration. Letters: B queries of a batch,
L words, Q queries, K moments.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True, eq=False)
class Query:
    """One sentence about one video. ``start`` and ``end`` are fractions of the duration (end may exceed 1)."""

    video: int  # position in the list of features
    tokens: np.ndarray  # int64 [L], L >= 1, rows of the word table; 0 (padding) does not occur
    start: float  # >= 0
    end: float  # > start

    def __post_init__(self) -> None:
        if self.tokens.ndim != 1 or len(self.tokens) == 0:
            raise ValueError(f"a query needs at least one word, not tokens of shape {self.tokens.shape}")
        if not 0 <= self.start < self.end:
            raise ValueError(f"a moment must have 0 <= start < end, not {self.start} to {self.end}")


def pad_tokens(queries: Sequence[Query], max_words: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Tokens int64 [B, L], padded with 0 on the right, and lengths int64 [B]; at most ``max_words`` are kept."""
    tokens = [query.tokens[:max_words] for query in queries]
    lengths_B = np.array([len(row) for row in tokens], np.int64)
    tokens_BL = np.zeros((len(tokens), int(lengths_B.max())), np.int64)
    for row, words in zip(tokens_BL, tokens, strict=True):
        row[: len(words)] = words
    return tokens_BL, lengths_B


def query_batches(
    count: int, batch_size: int, generator: np.random.Generator, *, drop_last: bool
) -> Iterator[np.ndarray]:
    """Positions 0 .. count-1 in random order, int64, ``batch_size`` at a time.

    ``drop_last`` leaves an incomplete last batch out, unless it is the only one.
    """
    order = generator.permutation(count)
    for first in range(0, count, batch_size):
        batch = order[first : first + batch_size]
        if len(batch) == batch_size or not drop_last or first == 0:
            yield batch


def interval_iou(moments_K2: np.ndarray, start: float, end: float) -> np.ndarray:
    """IoU float64 [K] of intervals with [start, end], with the hull as union, as in the references; 0 if reversed."""
    moments_K2 = np.asarray(moments_K2, float)
    overlap = np.minimum(moments_K2[:, 1], end) - np.maximum(moments_K2[:, 0], start)
    hull = np.maximum(moments_K2[:, 1], end) - np.minimum(moments_K2[:, 0], start)
    return np.clip(overlap, 0, None) / np.maximum(hull, 1e-12)


def mean_iou(moments: Sequence[np.ndarray], queries: Sequence[Query]) -> float:
    """Mean over queries of the IoU of the first moment ([K, 2 or more], K >= 1) with the annotated one."""
    first = [interval_iou(m[:1, :2], query.start, query.end)[0] for m, query in zip(moments, queries, strict=True)]
    return float(np.mean(first))
