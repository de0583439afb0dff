"""2D-TAN, the first grounding head of the paper's Section 4.1, in plain PyTorch (Zhang et al., AAAI 2020).

All candidate moments of a video are scored for a sentence at once, on a two-dimensional map (grounding/tan2d_map.py).
The head is used at its published settings; only the features change. This file has the network, train_tan2d and
ground_tan2d.

Letters: V videos, S snippets, D feature width, M frames after resampling, N clips, H hidden width, B queries,
L words, W word width, C candidates, K moments kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bsp.localization.epochs import BestEpoch, require_finite
from bsp.localization.grounding.queries import Query, mean_iou, pad_tokens, query_batches
from bsp.localization.grounding.tan2d_map import (
    ProposalMap,
    candidate_cells,
    conv_plan,
    decode,
    overlap_targets,
    resample,
)
from bsp.localization.grounding.words import SentenceLSTM

__all__ = ["TAN2D", "TAN2DSettings", "build_tan2d", "ground_tan2d", "train_tan2d"]

PUBLISHED_NMS = {"conv": 0.5, "pool": 0.45}  # of Charades-STA
CACHE_BYTES = 2**30  # resampled features are kept in memory up to this size


@dataclass(frozen=True, kw_only=True)
class TAN2DSettings:
    """Settings of the head; the defaults are those of its Charades-STA release."""

    feature_width: int  # D, width of the snippet features
    frames: int = 256  # M, rows a video is resampled to, a multiple of pool
    pool: int = 16  # P, frames averaged into one clip; 1 = off
    hidden: int = 512  # H, width of everything inside
    form: str = "conv"  # how candidates are made: "conv" (learned) or "pool" (maximum)
    scales: tuple[int, ...] = (16,)  # lengths per group, strides 1, 2, 4, ..; longest <= frames / pool; (N,) = dense
    kernel: int = 5  # of the convolutions on the map, odd, 1 = each cell alone
    layers: int = 8  # convolutions on the map, at least 1
    lstm_layers: int = 3  # at least 1
    iou_min: float = 0.5  # IoU whose target is 0, [0, iou_max)
    iou_max: float = 1.0  # IoU whose target is 1, at most 1
    learning_rate: float = 1e-4  # Adam, above 0
    batch_size: int = 32  # queries
    epochs: int = 100  # at least 1
    clip_gradient: float = 10.0  # largest norm of the gradient, above 0; inf = off
    nms: float | None = None  # IoU of moments kept together, 0..1, 1 = off; None = published: 0.5 conv, 0.45 pool
    moments: int = 5  # kept per query
    normalise: bool = True  # snippets are divided by their L2 norm first

    def __post_init__(self) -> None:
        counts = "feature_width frames pool hidden layers lstm_layers batch_size epochs moments"
        for name in counts.split():
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.form not in PUBLISHED_NMS:
            raise ValueError(f'form must be "conv" or "pool", got {self.form!r}')
        if self.frames % self.pool:
            raise ValueError(f"frames must be a multiple of pool ({self.pool}), got {self.frames}")
        if not self.scales or min(self.scales) < 1:
            raise ValueError(f"scales must be one or more numbers of at least 1, got {self.scales}")
        longest = sum(levels * 2**group for group, levels in enumerate(self.scales))
        if longest > self.cells:
            raise ValueError(
                f"scales {self.scales} reach a length of {longest} clips, but there are {self.cells} "
                f"(frames {self.frames} / pool {self.pool})"
            )
        if self.kernel < 1 or self.kernel % 2 == 0:
            raise ValueError(f"kernel must be odd and at least 1, got {self.kernel}")
        if not 0 <= self.iou_min < self.iou_max <= 1:
            raise ValueError(f"need 0 <= iou_min < iou_max <= 1, got {self.iou_min} and {self.iou_max}")
        if not (self.learning_rate > 0 and math.isfinite(self.learning_rate)):
            raise ValueError(f"learning_rate must be above 0, got {self.learning_rate}")
        if not self.clip_gradient > 0:
            raise ValueError(f"clip_gradient must be above 0, got {self.clip_gradient}")
        if not 0 <= self.nms_threshold <= 1:
            raise ValueError(f"nms must be in 0..1, got {self.nms}")

    @property
    def cells(self) -> int:
        """N, clips of a video and cells on each side of the map."""
        return self.frames // self.pool

    @property
    def nms_threshold(self) -> float:
        """The IoU threshold in use."""
        return PUBLISHED_NMS[self.form] if self.nms is None else self.nms


class TAN2D(nn.Module):
    """The head, made by :func:`build_tan2d`; outputs logits of all candidates (``candidate_cells``)."""

    cells_C2: Tensor  # int64 [C, 2], first and last cell of each candidate
    at_C: Tensor  # int64 [C], place of each candidate in the flattened map

    def __init__(self, settings: TAN2DSettings, table_VW: Tensor, trainable_words: bool):
        super().__init__()
        self.settings = settings
        hidden, cells = settings.hidden, settings.cells
        self.words = nn.Embedding.from_pretrained(table_VW.clone(), freeze=not trainable_words)
        self.sentence = SentenceLSTM(table_VW.shape[1], hidden, settings.lstm_layers)
        self.frames_in = nn.Linear(settings.feature_width, hidden)
        self.proposals = ProposalMap(hidden, cells, settings.scales, settings.form)
        self.fuse_text, self.fuse_map = nn.Linear(hidden, hidden), nn.Linear(hidden, hidden)
        self.convs = nn.ModuleList(nn.Conv2d(hidden, hidden, settings.kernel) for _ in range(settings.layers))
        self.convs.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # as documented
        self.score = nn.Linear(hidden, 1)
        cells_C2 = torch.from_numpy(candidate_cells(cells, settings.scales))
        mask = torch.zeros(cells, cells).index_put_(tuple(cells_C2.T), torch.ones(()))
        plan = conv_plan(mask, settings.kernel, settings.layers)
        self.paddings = [padding for padding, _ in plan]
        self.register_buffer("cells_C2", cells_C2, persistent=False)
        self.register_buffer("at_C", cells_C2[:, 0] * cells + cells_C2[:, 1], persistent=False)
        for layer, (_, weight) in enumerate(plan):
            self.register_buffer(f"weight{layer}", weight, persistent=False)

    def forward(self, frames_VMD: Tensor, video_B: Tensor, tokens_BL: Tensor, lengths_B: Tensor) -> Tensor:
        """Logits float [B, C] of resampled videos [V, M, D] and queries; ``video_B`` is the video of each query."""
        settings = self.settings
        hidden_VMH = self.frames_in(frames_VMD).relu()
        clips_VNH = hidden_VMH.unflatten(1, (settings.cells, settings.pool)).mean(2)
        moments_VCH = self.fuse_map(self.proposals(clips_VNH))
        sentence_BH = self.fuse_text(self.sentence(self.words(tokens_BL), lengths_B))
        fused_BCH = F.normalize(moments_VCH[video_B] * sentence_BH[:, None], dim=2)
        return self.score(self._convolve(fused_BCH)).squeeze(2)

    def _convolve(self, fused_BCH: Tensor) -> Tensor:
        """The convolutions on the map, candidates [B, C, H] to candidates [B, C, H]; memory is channels last."""
        batch, _, hidden = fused_BCH.shape
        cells = self.settings.cells
        flat = fused_BCH.new_zeros(batch, cells * cells, hidden).index_copy(1, self.at_C, fused_BCH)
        x = flat.unflatten(1, (cells, cells)).permute(0, 3, 1, 2)
        convs = cast(list[nn.Conv2d], list(self.convs))
        for layer, (conv, padding) in enumerate(zip(convs, self.paddings, strict=True)):
            x = F.conv2d(x, conv.weight, conv.bias, padding=padding).relu_() * getattr(self, f"weight{layer}")
        return x.permute(0, 2, 3, 1).flatten(1, 2)[:, self.at_C]


def build_tan2d(settings: TAN2DSettings, table: np.ndarray, trainable_words: bool, seed: int) -> TAN2D:
    """A new head on the CPU, its weights PyTorch's defaults drawn from ``seed``; the global generator is not touched.

    ``table``: float32 [V, W], a vector per word, row 0 for padding; trained on when ``trainable_words``.
    """
    table = np.asarray(table, np.float32)
    if table.ndim != 2 or 0 in table.shape or not np.isfinite(table).all():
        raise ValueError(f"the word table must be finite and [V, W], not of shape {table.shape}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return TAN2D(settings, torch.from_numpy(table), trainable_words)


class _Frames:
    """Resampled features of videos, cached up to CACHE_BYTES."""

    def __init__(self, features: Sequence[np.ndarray], settings: TAN2DSettings):
        self.features, self.settings = features, settings
        size = len(features) * settings.frames * settings.feature_width * 4
        self.cache: dict[int, Tensor] | None = {} if size <= CACHE_BYTES else None

    def __getitem__(self, video: int) -> Tensor:
        """Float32 [M, D] of one video."""
        if self.cache is None or video not in self.cache:
            frames = self._read(video)
            if self.cache is None:
                return frames
            self.cache[video] = frames
        return self.cache[video]

    def _read(self, video: int) -> Tensor:
        feat_SD, width = np.asarray(self.features[video], np.float32), self.settings.feature_width
        if feat_SD.ndim != 2 or len(feat_SD) == 0 or feat_SD.shape[1] != width:
            raise ValueError(
                f"features of video {video} have shape {feat_SD.shape}, but the head expects [S >= 1, {width}]; "
                f"set feature_width to the features' or extract them again"
            )
        if not np.isfinite(feat_SD).all():
            raise ValueError(f"features of video {video} hold NaN or infinite values; extract them again")
        if self.settings.normalise:
            feat_SD = feat_SD / np.maximum(np.linalg.norm(feat_SD, axis=1, keepdims=True), 1e-12)
        return torch.from_numpy(resample(feat_SD, self.settings.frames))


def _checked(model: TAN2D, features: Sequence[np.ndarray], queries: Sequence[Query]) -> None:
    words = model.words.num_embeddings
    if len(queries) == 0:
        raise ValueError("there are no queries")
    for number, query in enumerate(queries):
        if not 0 <= query.video < len(features):
            raise ValueError(f"query {number} is about video {query.video} of {len(features)} feature arrays")
        if query.tokens.min() < 1 or query.tokens.max() >= words:
            raise ValueError(
                f"query {number} holds word {query.tokens.min()} or {query.tokens.max()}, outside 1..{words - 1} of "
                f"the word table; encode it with the words that the table was built with"
            )


def _logits(model: TAN2D, frames: _Frames, queries: Sequence[Query]) -> Tensor:
    """Logits [B, C] of some queries; video features are computed once per video."""
    device = model.score.bias.device
    videos, video_B = np.unique([query.video for query in queries], return_inverse=True)
    frames_VMD = torch.stack([frames[int(video)] for video in videos]).to(device)
    parts = [torch.from_numpy(part).to(device) for part in (video_B, *pad_tokens(queries))]
    return model(frames_VMD, *parts)


def train_tan2d(
    features: Sequence[np.ndarray],
    queries: Sequence[Query],
    settings: TAN2DSettings,
    *,
    table: np.ndarray,
    trainable_words: bool,
    seed: int,
    validation: tuple[Sequence[np.ndarray], Sequence[Query]] | None = None,
    on_epoch: Callable[[dict[str, float]], None] | None = None,
    device: str | torch.device = "cpu",
) -> TAN2D:
    """Trains a head from scratch and returns it in eval mode.

    ``features``: per video float32 [S, D], read batch by batch, so a lazy sequence works; ``queries`` name videos by
    position in it. ``table`` and ``trainable_words`` as in :func:`build_tan2d`. With ``validation`` (features, queries)
    the epoch of the highest mean IoU of the first moment is kept (the first of equals), else the last. ``on_epoch``
    gets epoch (from 0), loss (mean over batches) and, with validation, validation_miou.

    On a CPU the same seed and number of threads give the same bits. ValueError on features or queries that don't
    fit; RuntimeError when the loss stops being finite.
    """
    model = build_tan2d(settings, table, trainable_words, seed)
    _checked(model, features, queries)
    if validation is not None:
        _checked(model, *validation)
    model.to(device)
    frames = _Frames(features, settings)
    held_out = _Frames(validation[0], settings) if validation is not None else None
    moments_Q2 = torch.tensor([(query.start, query.end) for query in queries], dtype=torch.float32)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    # Choice: no reduce-on-plateau; the published schedule needs a validation set, which Charades-STA lacks
    optimiser = torch.optim.Adam(parameters, lr=settings.learning_rate, fused=True)
    generator = np.random.default_rng([seed, 1])
    best = BestEpoch()
    for epoch in range(settings.epochs):
        model.train()
        losses = []
        # Choice: an incomplete last batch is left out (published: 387 iterations an epoch of 12,404 queries)
        for batch in query_batches(len(queries), settings.batch_size, generator, drop_last=True):
            logits_BC = _logits(model, frames, [queries[i] for i in batch])
            target_BC = overlap_targets(
                moments_Q2[batch].to(device),
                model.cells_C2,
                settings.cells,
                iou_min=settings.iou_min,
                iou_max=settings.iou_max,
            )
            # mean over all candidates of the batch; cells without a candidate do not count
            loss = F.binary_cross_entropy_with_logits(logits_BC, target_BC)
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, settings.clip_gradient)
            optimiser.step()
            losses.append(loss.detach())
        record = {"epoch": epoch, "loss": torch.stack(losses).mean().item()}
        require_finite(record, settings.learning_rate)
        if held_out is not None and validation is not None:
            record["validation_miou"] = mean_iou(_ground(model, held_out, validation[1]), validation[1])
            best.offer(model, record["validation_miou"])
        if on_epoch is not None:
            on_epoch(record)
    best.restore(model)
    return model.eval()


@torch.no_grad()
def _ground(model: TAN2D, frames: _Frames, queries: Sequence[Query]) -> list[np.ndarray]:
    settings = model.settings
    model.eval()
    # queries of one video side by side, so that a batch computes few videos
    order = sorted(range(len(queries)), key=lambda i: queries[i].video)
    found: list[np.ndarray] = [np.empty(0)] * len(queries)
    i, j = model.cells_C2.cpu().numpy().T
    for first in range(0, len(order), settings.batch_size):
        batch = order[first : first + settings.batch_size]
        scores_BC = _logits(model, frames, [queries[at] for at in batch]).sigmoid().cpu().numpy()
        for at, score_C in zip(batch, scores_BC, strict=True):
            scores_NN = np.zeros((settings.cells, settings.cells), np.float32)
            scores_NN[i, j] = score_C
            found[at] = decode(scores_NN, nms=settings.nms_threshold, moments=settings.moments)
    return found


def ground_tan2d(
    model: TAN2D, features: Sequence[np.ndarray], queries: Sequence[Query], device: str | torch.device = "cpu"
) -> list[np.ndarray]:
    """Moments of every query, best first: float64 [K, 3] of start, end (fractions of the duration) and score.

    After NMS, K <= ``moments`` of the settings. Starts and ends of the queries are ignored.
    """
    model = model.to(device)
    _checked(model, features, queries)
    return _ground(model, _Frames(features, model.settings), queries)
