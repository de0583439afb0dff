"""LGI, the anchor-free video grounding head of the paper's Section 4 (Mun, Cho and Han, CVPR 2020), in plain PyTorch.

Sampling, losses, training and inference: features and queries in, one moment per query out. The network is in
grounding/lgi_network.py. Published: Adam without schedule, decay or clipping, words learnt from scratch.

Letters: B queries of a batch, T segments, S snippets of a video, D feature width, V words of the table, W its width,
N phrases, L words of a sentence.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from bsp.localization.epochs import BestEpoch, require_finite
from bsp.localization.grounding.lgi_network import LGI, LGIOutputs, LGISettings
from bsp.localization.grounding.queries import Query, mean_iou, pad_tokens, query_batches

__all__ = ["LGI", "LGIOutputs", "LGISettings", "build_lgi", "ground_lgi", "train_lgi"]


def build_lgi(settings: LGISettings, table: np.ndarray, trainable_words: bool, seed: int) -> LGI:
    """A new head on the CPU, its weights drawn from ``seed``; the global generator is not touched.

    ``table``: float32 [V, W], row 0 for padding; it is copied, and learnt too if ``trainable_words``.
    """
    table = np.asarray(table)
    if table.ndim != 2 or len(table) < 2 or table.shape[1] < 1:
        raise ValueError(f"a word table must be [V >= 2, W >= 1] (row 0 is padding), got shape {table.shape}")
    if not np.isfinite(table).all():
        raise ValueError("the word table holds NaN or infinite values")
    # Choice: PyTorch's default initial weights, also for the positions (the published ones are not known)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return LGI(settings, torch.from_numpy(table.astype(np.float32)), trainable_words)


def largest_offset(rows: int, segments: int) -> int:
    """Largest random offset of the sampled rows: the largest integer below rows / segments - 0.5, or 0."""
    return max(0, (2 * rows - segments - 1) // (2 * segments))


def sampled_rows(rows: int, segments: int, offset: int = 0) -> np.ndarray:
    """Indices of a video's rows used as segments, int64 [min(rows, segments)], rising.

    All rows if there are at most ``segments``; else round(offset + k * rows / segments), half to even.
    """
    if rows <= segments:
        return np.arange(rows)
    return np.round(offset + np.arange(segments) * (rows / segments)).astype(np.int64)


def guided_segments(start: float, end: float, rows: int, segments: int) -> np.ndarray:
    """Segments inside a moment (fractions of the duration), bool [T], at least one.

    Both ends are included. ``rows`` is the video's number of feature rows.
    """
    real = min(rows, segments)
    first = min(round(start * real), real - 1)
    last = max(round(end * real), first + 1)
    # Choice: last is clipped to the last real segment. As published it may be padding, whose attention is 0: this adds
    # a constant log(1e-8) = -18.4 to the mean and lowers the weight of real segments
    last = min(last, real - 1)
    index = np.arange(segments)
    return (first <= index) & (index <= last)


def regression_loss(moments_B2: Tensor, targets_B2: Tensor) -> Tensor:
    """Smooth L1 (transition at 1) of the start plus that of the end, mean over the batch."""
    return F.smooth_l1_loss(moments_B2, targets_B2, reduction="none").sum(1).mean()


def guidance_loss(segment_weights_BT: Tensor, inside_BT: Tensor) -> Tensor:
    """Temporal attention guidance: mean of -log attention over the segments inside, mean over the batch."""
    inside = inside_BT.to(segment_weights_BT.dtype)
    return (-(inside * (segment_weights_BT + 1e-8).log()).sum(1) / inside.sum(1)).mean()


def distinct_loss(word_weights_BNL: Tensor, distinct_lambda: float) -> Tensor:
    """Distinct query attention: squared Frobenius norm of A A^T - lambda I, mean over the batch."""
    gram_BNN = word_weights_BNL @ word_weights_BNL.transpose(1, 2)
    identity = gram_BNN.new_ones(gram_BNN.shape[1]).diag()
    return (gram_BNN - distinct_lambda * identity).square().sum((1, 2)).mean()


class Batch(NamedTuple):
    rows_BTD: Tensor  # float32, 0 on padding
    mask_BT: Tensor  # bool, true at real segments
    tokens_BL: Tensor  # int64
    lengths_B: Tensor  # int64
    targets_B2: Tensor  # float32, fractions of the duration, not clamped
    inside_BT: Tensor  # bool, segments inside the moment


def _checked(feat_SD: np.ndarray, video: int, settings: LGISettings) -> np.ndarray:
    feat_SD = np.asarray(feat_SD, dtype=np.float32)
    if feat_SD.ndim != 2 or len(feat_SD) == 0 or feat_SD.shape[1] != settings.feature_width:
        raise ValueError(
            f"features of video {video} have shape {feat_SD.shape}, but the head expects [S >= 1, "
            f"{settings.feature_width}]; set feature_width to the features' or extract them again"
        )
    if not np.isfinite(feat_SD).all():
        raise ValueError(f"features of video {video} hold NaN or infinite values; extract them again")
    return feat_SD


def _batch(
    features: Sequence[np.ndarray],
    queries: Sequence[Query],
    settings: LGISettings,
    device: torch.device,
    generator: np.random.Generator | None = None,
) -> Batch:
    """Queries and their videos as tensors; with a generator the sampled rows get a random offset."""
    segments = settings.segments
    rows_BTD = np.zeros((len(queries), segments, settings.feature_width), np.float32)
    mask_BT, inside_BT = np.zeros((2, len(queries), segments), bool)
    for b, query in enumerate(queries):
        feat_SD = _checked(features[query.video], query.video, settings)
        offset = 0
        if generator is not None and (top := largest_offset(len(feat_SD), segments)) > 0:
            offset = int(generator.integers(top + 1))
        rows = sampled_rows(len(feat_SD), segments, offset)
        rows_BTD[b, : len(rows)] = feat_SD[rows]
        mask_BT[b, : len(rows)] = True
        inside_BT[b] = guided_segments(query.start, query.end, len(feat_SD), segments)
    targets_B2 = np.array([(query.start, query.end) for query in queries], np.float32)
    arrays = (rows_BTD, mask_BT, *pad_tokens(queries, settings.max_words), targets_B2, inside_BT)
    return Batch(*(torch.from_numpy(array).to(device) for array in arrays))


def _check_queries(queries: Sequence[Query], videos: int, words: int, name: str) -> None:
    if len(queries) == 0:
        raise ValueError(f"{name}: no queries")
    for i, query in enumerate(queries):
        if not 0 <= query.video < videos:
            raise ValueError(f"{name}: query {i} names video {query.video}, but there are {videos} feature arrays")
        if query.tokens.min() < 1 or query.tokens.max() >= words:
            raise ValueError(
                f"{name}: query {i} has tokens {query.tokens.tolist()}, but the word table has rows 1..{words - 1} "
                f"for words (0 is padding); encode the sentences with the table that the head gets"
            )


def _losses(outputs: LGIOutputs, batch: Batch, settings: LGISettings) -> dict[str, Tensor]:
    terms = {
        "regression": regression_loss(outputs.moments_B2, batch.targets_B2),
        "guidance": guidance_loss(outputs.segment_weights_BT, batch.inside_BT),
        "distinct": distinct_loss(outputs.word_weights_BNL, settings.distinct_lambda),
    }
    weighted = settings.guidance_weight * terms["guidance"] + settings.distinct_weight * terms["distinct"]
    return {"loss": terms["regression"] + weighted, **terms}


def _train_epoch(
    model: LGI,
    optimiser: torch.optim.Optimizer,
    features: Sequence[np.ndarray],
    queries: Sequence[Query],
    generator: np.random.Generator,
    device: torch.device,
) -> dict[str, float]:
    """One pass over the queries; mean of each loss term over the batches."""
    model.train()
    settings, runs = model.settings, []
    every_gpu = range(torch.cuda.device_count()) if device.type == "cuda" else []
    with torch.random.fork_rng(devices=every_gpu):  # dropout can only draw from the global generators
        dropout_seed = int(generator.integers(2**62))
        torch.default_generator.manual_seed(dropout_seed)
        if device.type == "cuda":
            torch.cuda.manual_seed_all(dropout_seed)
        for chosen in query_batches(len(queries), settings.batch_size, generator, drop_last=True):
            batch = _batch(features, [queries[i] for i in chosen], settings, device, generator)
            terms = _losses(model(*batch[:4]), batch, settings)
            optimiser.zero_grad()
            terms["loss"].backward()
            optimiser.step()
            runs.append({name: value.item() for name, value in terms.items()})
    return {name: float(np.mean([run[name] for run in runs])) for name in runs[0]}


def train_lgi(
    features: Sequence[np.ndarray],
    queries: Sequence[Query],
    settings: LGISettings,
    *,
    table: np.ndarray,
    trainable_words: bool,
    seed: int,
    validation: tuple[Sequence[np.ndarray], Sequence[Query]] | None = None,
    on_epoch: Callable[[dict[str, float]], None] | None = None,
    device: str | torch.device = "cpu",
) -> LGI:
    """Trains a head from scratch and returns it in eval mode.

    ``features``: per video float32 [S, D], read batch by batch, so a lazy sequence works; ``queries`` name their videos
    by position; ``table``: float32 [V, W], a row per word, row 0 for padding. With ``validation`` (features, queries)
    the epoch of the highest mean IoU is kept (the first of equal ones), else the last. ``on_epoch`` gets epoch (from
    0), the means over batches of loss, regression, guidance and distinct (unweighted terms) and, with validation,
    "validation_miou".

    On a CPU the same seed and number of threads give the same bits. ValueError on features or queries that
    don't fit; RuntimeError when the loss stops being finite.
    """
    device = torch.device(device)
    _check_queries(queries, len(features), len(table), "training")
    if validation is not None:
        _check_queries(validation[1], len(validation[0]), len(table), "validation")
    model = build_lgi(settings, table, trainable_words, seed).to(device)
    learnt = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.Adam(learnt, lr=settings.learning_rate, fused=True)
    generator = np.random.default_rng([seed, 1])  # order of queries, first rows, and dropout's seed
    best = BestEpoch()
    for epoch in range(settings.epochs):
        record = {"epoch": epoch, **_train_epoch(model, optimiser, features, queries, generator, device)}
        require_finite(record, settings.learning_rate)
        if validation is not None:
            # Choice: the epoch is chosen by mean IoU on held-out queries (published: R@1 at IoU 0.5 on the test split)
            record["validation_miou"] = mean_iou(ground_lgi(model, *validation, device=device), validation[1])
            best.offer(model, record["validation_miou"])
        if on_epoch is not None:
            on_epoch(record)
    best.restore(model)
    return model.eval()


@torch.no_grad()
def ground_lgi(
    model: LGI,
    features: Sequence[np.ndarray],
    queries: Sequence[Query],
    device: str | torch.device = "cpu",
) -> list[np.ndarray]:
    """One moment per query, float64 [1, 3]: start and end (fractions of the duration), score 1.

    As published neither clamped nor swapped: with the ReLU output an end above 1, or below its start, is possible.
    """
    if len(queries) == 0:
        return []
    device = torch.device(device)
    model = model.to(device).eval()
    _check_queries(queries, len(features), model.sentence.words.num_embeddings, "grounding")
    found = []
    for first in range(0, len(queries), model.settings.batch_size):
        batch = _batch(features, queries[first : first + model.settings.batch_size], model.settings, device)
        for start, end in model(*batch[:4]).moments_B2.cpu().double().tolist():
            found.append(np.array([[start, end, 1.0]]))
    return found


@torch.no_grad()
def ground_lgi_by_attention(
    model: LGI, feat_SD: np.ndarray, query: Query, device: str | torch.device = "cpu"
) -> np.ndarray:
    """As :func:`ground_lgi` for one video and query, float64 [1, 3], with a score in [0, 1] that tells windows apart.

    Choice: the share of the attention over the segments that lies inside the moment, minus the moment's share of the
    segments: 0 where the attention is even. LGI itself has no score.
    """
    device = torch.device(device)
    model = model.to(device).eval()
    _check_queries([query], 1, model.sentence.words.num_embeddings, "grounding")
    batch = _batch([feat_SD], [query], model.settings, device)
    outputs = model(*batch[:4])
    ((start, end),) = outputs.moments_B2.cpu().double().tolist()
    rows, segments = len(feat_SD), model.settings.segments
    low, high = (min(max(side, 0.0), 1.0) for side in sorted((start, end)))
    inside_T = torch.from_numpy(guided_segments(low, high, rows, segments))
    weight = float(outputs.segment_weights_BT[0].cpu()[inside_T].sum())
    score = max(0.0, weight - float(inside_T.sum()) / min(rows, segments))
    return np.array([[start, end, score]])
