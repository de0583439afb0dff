"""Made-up grounding data with a known answer, shared by the tests of the grounding heads.

Every video holds a few moments, each adding the vector of one event to noise; the sentence about a moment is the
event's word, perhaps with a filler word. The event vectors and the word table never change, so one seed can be
trained on and another tested on. Letters: S snippets, D feature width, V words, W word width, Q queries.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bsp.localization.grounding.queries import Query, interval_iou

FIRST_WORD = 4  # rows before it: padding, unknown, two unused
FILLERS = 2


def make(
    seed: int,
    *,
    videos: int,
    snippets: int = 32,
    width: int = 16,
    words: int = 8,
    moments: int = 4,
    noise: float = 0.5,
) -> tuple[list[np.ndarray], list[Query], np.ndarray]:
    """Features (float32 [S, D] per video), ``moments`` queries per video in a row, and the word table [V, 24].

    Moments lie at whole snippets, do not overlap, and are half to a whole ``snippets / moments`` long. A query
    is one or two words: the event's, and in half of the queries a filler before or after it.
    """
    fixed = np.random.default_rng(7)
    events_ED = fixed.standard_normal((words, width)).astype(np.float32)
    table_VW = fixed.standard_normal((FIRST_WORD + words + FILLERS, 24)).astype(np.float32)
    table_VW[0] = 0
    rng = np.random.default_rng(seed)
    longest = snippets // moments
    features, queries = [], []
    for video in range(videos):
        feat_SD = (noise * rng.standard_normal((snippets, width))).astype(np.float32)
        lengths = rng.integers((longest + 1) // 2, longest + 1, moments)
        # a gap before each moment and one after the last, which sum to the rest
        marks = np.sort(rng.integers(0, snippets - lengths.sum() + 1, moments))
        starts = marks + np.concatenate([[0], lengths[:-1].cumsum()])
        for event, first, length in zip(rng.permutation(words)[:moments], starts, lengths, strict=True):
            feat_SD[first : first + length] += events_ED[event]
            tokens = [FIRST_WORD + event]
            place = rng.integers(4)  # 0 before, 1 after, 2 and 3 no filler
            if place < 2:
                tokens.insert(place, FIRST_WORD + words + rng.integers(FILLERS))
            start, end = first / snippets, (first + length) / snippets
            queries.append(Query(video=video, tokens=np.array(tokens, np.int64), start=start, end=end))
        features.append(feat_SD)
    return features, queries, table_VW


def without_words(queries: Sequence[Query]) -> list[Query]:
    """The same queries, all saying the same one word: what a model that ignores the text has to go by."""
    word = np.array([FIRST_WORD], np.int64)
    return [Query(video=q.video, tokens=word, start=q.start, end=q.end) for q in queries]


def best_cells(queries: Sequence[Query], cells: int) -> list[np.ndarray]:
    """Per query the interval [1, 2] of best IoU among those that start and end at multiples of 1 / cells."""
    grid = np.array([(i / cells, (j + 1) / cells) for i in range(cells) for j in range(i, cells)])
    return [grid[[interval_iou(grid, q.start, q.end).argmax()]] for q in queries]


def recall(moments: Sequence[np.ndarray], queries: Sequence[Query], threshold: float) -> float:
    """Fraction of queries whose first moment has an IoU above ``threshold``."""
    hits = [interval_iou(m[:1, :2], q.start, q.end)[0] > threshold for m, q in zip(moments, queries, strict=True)]
    return float(np.mean(hits))
