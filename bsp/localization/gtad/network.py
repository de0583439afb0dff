"""G-TAD, the temporal localisation head of the paper's Section 4, in plain PyTorch (Xu et al., CVPR 2020).

The head is used at its ActivityNet settings; only the features change. This file has the network, train_gtad and
propose. No batch norm, no dropout; outputs only for valid anchors. gtad/windows.py is the variant for long videos,
which shares the network and the training loop.

Letters: B videos, C input width, T time cells, D longest duration (cells), K = 3 neighbours, N valid anchors.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeVar, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bsp.features.resize import resize_features
from bsp.localization.epochs import BestEpoch, require_finite
from bsp.localization.gtad.decode import attach_classes, candidates, soft_nms
from bsp.localization.gtad.labels import Labels, Outputs, Weights, loss_weights, make_labels, weighted_loss
from bsp.localization.gtad.sgalign import AlignedLinear, linear_rows

__all__ = ["GTAD", "GTADSettings", "attach_classes", "build_gtad", "fit", "propose", "run_head", "train_gtad"]

CARDINALITY, NEIGHBOURS = 32, 3
CELLS_AT_ONCE = 400  # computed at once on a CPU: four videos of 100 cells; larger tables exceed the memory pool


@dataclass(frozen=True, kw_only=True)
class GTADSettings:
    """Settings of the head; the defaults are those of its ActivityNet release."""

    feature_width: int  # C, width of the snippet features, a multiple of 4
    cells: int = 100  # T, time cells that a whole video is resized to, at least 3
    max_duration: int = 100  # D, longest proposal, cells, 1..cells
    inner_samples: int = 32  # samples of an anchor's features, at least 1
    context_samples: int = 4  # samples of its neighbours' features, at least 1
    learning_rate: float = 4e-3  # Adam, above 0
    weight_decay: float = 1e-4  # Adam's L2 penalty, 0 = off
    batch_size: int = 16  # videos
    epochs: int = 10  # at least 1
    decay_epoch: int = 5  # the learning rate drops after every so many epochs; >= epochs = off
    decay: float = 0.1  # factor of the drop, (0, 1], 1 = off
    soft_nms_sigma: float = 0.8  # above 0; smaller suppresses more
    max_proposals: int = 100  # kept per video
    top_classes: int = 2  # classes attached to every proposal
    # Widths of the network; those of the release. Narrow ones for small data, and for models that must be small.
    hidden: int = field(default=256, metadata={"later": True})  # of cells, a multiple of 4
    block: int = field(default=128, metadata={"later": True})  # within a graph block, a multiple of 32
    aligned: int = field(default=512, metadata={"later": True})  # of an anchor, after alignment
    mapped: int = field(default=128, metadata={"later": True})  # of an anchor, in the layers after that
    # Which epoch is kept, by loss: that of the "scored" subset chooses, as in the release; of a tenth of the training
    # videos, which are "held-out"; the "last".
    epoch_by: Literal["scored", "held-out", "last"] = field(default="scored", metadata={"later": True})

    def __post_init__(self) -> None:
        if self.feature_width < 4 or self.feature_width % 4:
            raise ValueError(f"feature_width must be a positive multiple of 4, got {self.feature_width}")
        if self.cells < 3:
            raise ValueError(f"cells must be at least 3, got {self.cells}")
        if not 1 <= self.max_duration <= self.cells:
            raise ValueError(f"max_duration must be in 1..cells ({self.cells}), got {self.max_duration}")
        for name, unit in (("hidden", 4), ("block", CARDINALITY)):
            if getattr(self, name) < unit or getattr(self, name) % unit:
                raise ValueError(f"{name} must be a positive multiple of {unit}, got {getattr(self, name)}")
        counts = "inner_samples context_samples batch_size epochs decay_epoch max_proposals top_classes aligned mapped"
        for name in counts.split():
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("learning_rate", "soft_nms_sigma"):
            if not (getattr(self, name) > 0 and math.isfinite(getattr(self, name))):
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")
        if not self.weight_decay >= 0:
            raise ValueError(f"weight_decay must be 0 or more, got {self.weight_decay}")
        if not 0 < self.decay <= 1:
            raise ValueError(f"decay must be in (0, 1], got {self.decay}")
        if self.epoch_by not in ("scored", "held-out", "last"):
            raise ValueError(f"epoch_by must be scored, held-out or last, got {self.epoch_by!r}")


def nearest_cells(feat_BTC: Tensor) -> Tensor:
    """Each cell's K = 3 nearest cells in feature space, int64 [B, T, K]; always including the cell itself.

    Squared Euclidean distance. No gradient goes through the choice.
    """
    with torch.no_grad():
        square = (feat_BTC**2).sum(-1)
        distance = square[:, :, None] + square[:, None, :] - 2 * feat_BTC @ feat_BTC.transpose(1, 2)
        distance.diagonal(dim1=1, dim2=2).fill_(-1.0)  # Choice: itself first even among equal cells
        return distance.topk(NEIGHBOURS, dim=2, largest=False).indices


def take_cells(feat_BTC: Tensor, index_BTK: Tensor) -> Tensor:
    """Rows [B, T, K, C] of the given cells, by an embedding, whose gradient is summed in a fixed order."""
    batch, cells, width = feat_BTC.shape
    first = torch.arange(batch, device=feat_BTC.device)[:, None, None] * cells
    return F.embedding(index_BTK + first, feat_BTC.reshape(-1, width))


class GCNeXt(nn.Module):
    """Graph convolution block, [B, T, C] -> [B, T, C]: neighbours in time and feature space, 32 groups."""

    same_group: Tensor  # float32 [inner, inner], 1 where a grouped convolution connects two channels

    def __init__(self, channels: int, inner: int, groups: int = CARDINALITY):
        super().__init__()
        conv = nn.Conv1d
        self.time_in = nn.utils.skip_init(conv, channels, inner, 1)
        self.time = nn.utils.skip_init(conv, inner, inner, 3, padding=1, groups=groups)
        self.time_out = nn.utils.skip_init(conv, inner, channels, 1)
        self.graph_in = nn.utils.skip_init(conv, 2 * channels, inner, 1)
        self.graph = nn.utils.skip_init(conv, inner, inner, 1, groups=groups)
        self.graph_out = nn.utils.skip_init(conv, inner, channels, 1)
        same = torch.arange(inner) // (inner // groups)
        self.register_buffer("same_group", (same[:, None] == same).float(), persistent=False)

    def _grouped(self, conv: nn.Conv1d) -> Tensor:
        """Weights of a grouped conv as those of a full one [O, I, kernel]; dense products are faster."""
        return conv.weight.repeat(1, conv.groups, 1) * self.same_group[:, :, None]

    def forward(self, feat_BTC: Tensor) -> Tensor:
        """[B, T, C] -> [B, T, C]."""
        channels = feat_BTC.shape[2]
        time = linear_rows(feat_BTC, self.time_in.weight[:, :, 0], self.time_in.bias).relu()
        full = self._grouped(self.time)
        window = torch.cat([F.pad(time, (0, 0, 1, 0))[:, :-1], time, F.pad(time, (0, 0, 0, 1))[:, 1:]], 2)
        time = linear_rows(window, full.permute(0, 2, 1).flatten(1), self.time.bias).relu()
        time = linear_rows(time, self.time_out.weight[:, :, 0], self.time_out.bias)

        # the first 1x1 convolution reads [neighbour; centre]: apply its halves to the cells, then gather
        weight = self.graph_in.weight[:, :, 0]
        neighbour = linear_rows(feat_BTC, weight[:, :channels])
        centre = linear_rows(feat_BTC, weight[:, channels:], self.graph_in.bias)
        graph = (take_cells(neighbour, nearest_cells(feat_BTC)) + centre[:, :, None]).relu()
        graph = linear_rows(graph, self._grouped(self.graph)[:, :, 0], self.graph.bias).relu()
        graph = linear_rows(graph, self.graph_out.weight[:, :, 0], self.graph_out.bias).amax(2)
        return (feat_BTC + time + graph).relu()


class GTAD(nn.Module):
    """The head: float features [B, T, C] -> Outputs. Made by :func:`build_gtad`, which draws the weights."""

    def __init__(self, settings: GTADSettings, *, outside: bool = False):
        super().__init__()
        self.settings = settings
        conv = nn.Conv1d
        hidden, block = settings.hidden, settings.block
        self.base = nn.utils.skip_init(conv, settings.feature_width, hidden, 3, padding=1, groups=4)
        self.base_graph = GCNeXt(hidden, block)
        self.start_graph, self.end_graph, self.map_graph = (GCNeXt(hidden, block) for _ in range(3))
        self.start, self.end = nn.utils.skip_init(conv, hidden, 1, 1), nn.utils.skip_init(conv, hidden, 1, 1)
        self.align = AlignedLinear(
            cells=settings.cells,
            max_duration=settings.max_duration,
            channels=hidden,
            width=settings.aligned,
            inner=settings.inner_samples,
            context=settings.context_samples,
            outside=outside,
        )
        widths = (settings.aligned, settings.mapped, settings.mapped, settings.mapped, 2)
        self.stack = nn.ModuleList(nn.utils.skip_init(nn.Linear, a, b) for a, b in itertools.pairwise(widths))

    def forward(self, feat_BTC: Tensor) -> Outputs:
        """Features [B, T, D] -> confidences of all anchors, and start and end probabilities [B, T]."""
        hidden = self.base(feat_BTC.transpose(1, 2)).transpose(1, 2).relu()
        hidden = self.base_graph(hidden)
        start = self.start_graph(hidden) @ self.start.weight[0, :, 0] + self.start.bias
        end = self.end_graph(hidden) @ self.end.weight[0, :, 0] + self.end.bias
        graph = self.map_graph(hidden)
        aligned = self.align(graph, take_cells(graph, nearest_cells(graph)).mean(2))
        anchors = torch.stack([self._confidences(x) for x in aligned])
        return Outputs(anchors, start.sigmoid(), end.sigmoid())

    def _confidences(self, x: Tensor) -> Tensor:
        """The remaining layers of the localisation stack on one video's anchors, a matrix product each."""
        *layers, last = cast(list[nn.Linear], list(self.stack))
        for layer in layers:
            x = linear_rows(x, layer.weight, layer.bias).relu_()
        return F.linear(x[: self.align.anchors], last.weight, last.bias).sigmoid().t()


Head = TypeVar("Head", bound=GTAD)


def build_gtad(settings: GTADSettings, seed: int) -> GTAD:
    """A new head on the CPU, its weights drawn from ``seed``; the global generator is not touched."""
    return draw_weights(GTAD(settings), seed)


@torch.no_grad()
def draw_weights(model: Head, seed: int) -> Head:
    """PyTorch's default for convolutions: weights and biases uniform within 1 / sqrt(fan in)."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Linear):
            bound = 1 / math.sqrt(module.weight[0].numel())
            module.weight.uniform_(-bound, bound, generator=generator)
            if module.bias is not None:
                module.bias.uniform_(-bound, bound, generator=generator)
        elif isinstance(module, AlignedLinear):
            bound = 1 / math.sqrt(module.channel_major_weight().shape[1])
            for parameter in module.parameters():
                parameter.uniform_(-bound, bound, generator=generator)
    return model


def _batch(
    features: Sequence[np.ndarray], videos: Sequence[int], settings: GTADSettings, device: str | torch.device
) -> Tensor:
    rows = []
    for i in videos:
        feat_SC = np.asarray(features[i], dtype=np.float32)
        if feat_SC.ndim != 2 or len(feat_SC) == 0 or feat_SC.shape[1] != settings.feature_width:
            raise ValueError(
                f"features of video {i} have shape {feat_SC.shape}, but the head expects [S >= 1, "
                f"{settings.feature_width}]; set feature_width to the features' or extract them again"
            )
        if not np.isfinite(feat_SC).all():
            raise ValueError(f"features of video {i} hold NaN or infinite values; extract them again")
        rows.append(resize_features(feat_SC, settings.cells))
    return torch.from_numpy(np.stack(rows)).to(device)


def _videos_at_once(settings: GTADSettings, device: torch.device) -> int:
    return max(1, CELLS_AT_ONCE // settings.cells) if device.type == "cpu" else settings.batch_size


def _run_batch(
    model: GTAD,
    features: Sequence[np.ndarray],
    labels: Sequence[Labels],
    videos: Sequence[int],
    generator: torch.Generator,
    *,
    backward: bool,
) -> dict[str, float]:
    """Loss of a batch (and its gradient), a few videos at a time: the weighted loss is a sum over videos."""
    settings, device = model.settings, model.start.bias.device
    target = Labels(*(torch.stack([labels[i][part] for i in videos]) for part in range(3)))
    weights = loss_weights(target, torch.rand(target.tiou.shape, generator=generator))
    at_once = _videos_at_once(settings, device)
    sums: dict[str, float] = {}
    for first in range(0, len(videos), at_once):
        part = slice(first, first + at_once)
        outputs = model(_batch(features, videos[part], settings, device))
        terms = weighted_loss(
            outputs,
            Labels(*(x[part].to(device) for x in target)),
            Weights(*(w[part].to(device) for w in weights)),
        )
        if backward:
            terms["loss"].backward()
        for name, value in terms.items():
            sums[name] = sums.get(name, 0.0) + value.item()
    return sums


def _checked(
    features: Sequence[np.ndarray], segments: Sequence[np.ndarray], settings: GTADSettings, name: str
) -> list[Labels]:
    if len(features) != len(segments) or len(features) == 0:
        raise ValueError(f"{name}: {len(features)} feature arrays and {len(segments)} lists of segments")
    return [make_labels(one, settings.cells, settings.max_duration) for one in segments]


def train_gtad(
    features: Sequence[np.ndarray],
    segments: Sequence[np.ndarray],
    settings: GTADSettings,
    *,
    seed: int,
    validation: tuple[Sequence[np.ndarray], Sequence[np.ndarray]] | None = None,
    on_epoch: Callable[[dict[str, float]], None] | None = None,
    device: str | torch.device = "cpu",
) -> GTAD:
    """Trains a head from scratch and returns it in eval mode.

    ``features``: per video float32 [S, C], read batch by batch, so a lazy sequence works; ``segments``: per video [G,
    2], fractions 0..1 of the features' extent (G may be 0). With ``validation`` (features, segments) the epoch of the
    lowest validation loss is kept, else the last. ``on_epoch`` gets epoch (from 0), learning_rate, the mean loss terms
    over batches and, with validation, "validation_loss" and its terms.

    On a CPU the same seed and number of threads give the same bits. ValueError on features that don't fit;
    RuntimeError when the loss stops being finite.
    """
    labels = _checked(features, segments, settings, "training")
    held_out = None
    if validation is not None:
        held_out = (validation[0], _checked(*validation, settings, "validation"))
    model = build_gtad(settings, seed).to(device)
    return fit(model, features, labels, settings, seed=seed, validation=held_out, on_epoch=on_epoch)


def fit(
    model: Head,
    features: Sequence[np.ndarray],
    labels: Sequence[Labels],
    settings: GTADSettings,
    *,
    seed: int,
    validation: tuple[Sequence[np.ndarray], Sequence[Labels]] | None = None,
    clip_norm: float = math.inf,
    on_epoch: Callable[[dict[str, float]], None] | None = None,
) -> Head:
    """The training loop, on the model's device; ``clip_norm`` limits the L2 norm of a step's gradient.

    ``labels`` belong to the ``features``; the rest as in :func:`train_gtad`.
    """
    optimiser = torch.optim.Adam(
        model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True
    )
    schedule = torch.optim.lr_scheduler.StepLR(optimiser, settings.decay_epoch, settings.decay)
    # Choice: three streams of numbers (weights; order and draws; validation): validation does not change training
    generator = torch.Generator().manual_seed(seed + 1)
    held_out_generator = torch.Generator().manual_seed(seed + 2)
    best = BestEpoch()
    for epoch in range(settings.epochs):
        record = {"epoch": epoch, "learning_rate": float(schedule.get_last_lr()[0])}
        model.train()
        # Choice: the last, smaller batch is trained on too; every batch counts the same in the epoch's means
        batches = torch.randperm(len(labels), generator=generator).split(settings.batch_size)
        runs = []
        for videos in batches:
            optimiser.zero_grad(set_to_none=False)
            runs.append(_run_batch(model, features, labels, videos.tolist(), generator, backward=True))
            if clip_norm < math.inf:
                nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
            optimiser.step()
        record |= {name: float(np.mean([run[name] for run in runs])) for name in runs[0]}
        schedule.step()
        require_finite(record, settings.learning_rate)
        if validation is not None:
            model.eval()
            with torch.no_grad():
                runs = [
                    _run_batch(model, *validation, videos.tolist(), held_out_generator, backward=False)
                    for videos in torch.arange(len(validation[0])).split(settings.batch_size)
                ]
            record |= {f"validation_{name}": float(np.mean([run[name] for run in runs])) for name in runs[0]}
            best.offer(model, -record["validation_loss"])
        if on_epoch is not None:
            on_epoch(record)
    best.restore(model)
    return model.eval()


@torch.no_grad()
def run_head(
    model: GTAD, features: Sequence[np.ndarray], device: str | torch.device
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """The outputs for every video in turn: anchors [2, N], start [T] and end [T], float32."""
    model = model.to(device).eval()
    at_once = _videos_at_once(model.settings, torch.device(device))
    for first in range(0, len(features), at_once):
        videos = range(first, min(first + at_once, len(features)))
        outputs = model(_batch(features, videos, model.settings, device))
        yield from zip(*(part.cpu().numpy() for part in outputs))


def propose(
    model: GTAD, features: Sequence[np.ndarray], settings: GTADSettings, device: str | torch.device = "cpu"
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Proposals of every video: (segments [N, 2] fractions of the features' extent, scores [N]), float64.

    Best first, at most ``settings.max_proposals``, after gating and Soft-NMS.
    """
    found = []
    for anchors, start, end in run_head(model, features, device):
        pool = candidates(anchors, start, end, model.settings.max_duration)
        found.append(soft_nms(*pool, sigma=settings.soft_nms_sigma, max_proposals=settings.max_proposals))
    return found
