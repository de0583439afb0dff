"""What a pretext has learnt, on videos that it was not trained on.

A few clips can be learnt by heart: 150 real videos from random weights reach an accuracy of 0.88 on themselves and stay
at chance on others (docs/findings.md). So some videos are kept out of training, and the pretext's own head is
scored on clips of them. Letters: N videos, B clips, T frames.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch

from bsp.clips.catalog import Catalog
from bsp.clips.normalisation import normalise
from bsp.pretraining.contract import Loss, PretrainingModel

FEWEST = 20  # Choice: with fewer videos none is kept out; two of twenty would say little and cost much
_TARGETS = ("label", "change_point", "plain")


class Split(NamedTuple):
    """Positions of videos in a catalog, int64, rising."""

    training: np.ndarray
    held_out: np.ndarray  # empty if there are too few


def split_held_out(catalog: Catalog, share: float) -> Split:
    """Keep about ``share`` of the videos out of training, in pairs of a class; the same ones whatever their order.

    Choice: pairs, so that same-class clips can be made of them, and two of them at least; a class keeps two videos and
    half of its own for training. The parts of a file stay together, unless there are fewer than ``FEWEST`` files: then
    the last parts of each are kept out. ValueError for a share outside 0..0.5.
    """
    if not 0 <= share <= 0.5:
        raise ValueError(f"the share of videos that are kept out must lie in 0..0.5, not {share}")
    none = Split(np.arange(len(catalog)), np.arange(0))
    if not share or len(catalog) < FEWEST:
        return none
    files, of_file = np.unique(catalog.paths, return_inverse=True)
    if len(files) < FEWEST:
        chosen = _last_parts(catalog, of_file, share)
    else:
        # A file with labels of several classes counts for the first of them.
        label = np.full(len(files), -1)
        for video in range(len(catalog) - 1, -1, -1):
            label[of_file[video]] = catalog.labels[video]
        names = [hashlib.blake2b(name, digest_size=8).digest() for name in files.tolist()]
        chosen = np.isin(of_file, _pairs(label, names, max(share, 4 / len(files))))
    if not chosen.any():
        return none
    return Split(np.flatnonzero(~chosen), np.flatnonzero(chosen))


def _pairs(label_F: np.ndarray, names: Sequence[bytes], share: float) -> list[int]:
    """Files by position, two of a class at a time; what a class is too small for is owed by the next ones."""
    chosen: list[int] = []
    owed = 0.0
    for label in np.unique(label_F):
        files = sorted(np.flatnonzero(label_F == label).tolist(), key=lambda file: names[file])
        owed += share * len(files)
        most = min(len(files) - 2, len(files) // 2) // 2  # pairs
        pairs = max(0, min(most, int(owed / 2 + 1e-9)))
        chosen += files[: 2 * pairs]
        owed -= 2 * pairs
    return chosen


def _last_parts(catalog: Catalog, of_file: np.ndarray, share: float) -> np.ndarray:
    """Whether a video, bool [N], is among the last ``share`` of the parts of its file."""
    chosen = np.zeros(len(catalog), bool)
    for file in range(of_file.max() + 1):
        parts = np.flatnonzero(of_file == file)
        parts = parts[np.argsort(catalog.first_frame[parts], kind="stable")]
        chosen[parts[len(parts) - int(share * len(parts)) :]] = True
    return chosen


def score_clips(
    model: PretrainingModel, loss: Loss, batches: Iterable[Mapping[str, np.ndarray]], device: torch.device
) -> dict[str, float]:
    """Loss and statistics of the pretext on clips, with the model in evaluation mode; means over ``batches``.

    ``batches`` are as of the training loop; clips with an "error" are left out. Weights, statistics of batch norm and
    random generators stay as they are. Empty without any clip.
    """
    sums: dict[str, list[tuple[float, int]]] = {}
    mean, std = model.encoder.mean, model.encoder.std
    kind = torch.bfloat16 if device.type == "cuda" else torch.float32
    training = model.training
    model.eval()
    try:
        for batch in batches:
            good = np.array([not error for error in batch.get("error", [""] * len(batch["label"]))])
            if not good.any():
                continue
            targets = {name: torch.from_numpy(batch[name][good]).to(device) for name in _TARGETS}
            with (
                torch.no_grad(),
                torch.compiler.set_stance("force_eager"),  # compiling once more would take longer than all clips
                torch.autocast("cuda", dtype=torch.bfloat16, enabled=device.type == "cuda"),
            ):
                clip_BTCHW = normalise(torch.from_numpy(batch["clip"][good]).to(device), kind, mean, std)
                value, stats = loss(model(clip_BTCHW), targets | {"clip": clip_BTCHW})
            for name, number in ({"loss": value} | stats).items():
                sums.setdefault(name, []).append((float(number), int(good.sum())))
    finally:
        model.train(training)
    return {name: _mean(values) for name, values in sums.items()}


def _mean(values: Sequence[tuple[float, int]]) -> float:
    """Weighted by clips; batches that have no clip of a task (nan) do not count."""
    some = [(value, clips) for value, clips in values if not math.isnan(value)]
    return sum(value * clips for value, clips in some) / sum(clips for _, clips in some) if some else math.nan


class Level(NamedTuple):
    """What a statistic is without any knowledge of the clips."""

    value: float
    margin: float  # a result has to be better than ``value`` by more than this to be no accident


def chance_levels(statistics: Iterable[str], batches: Sequence[Mapping[str, np.ndarray]]) -> dict[str, Level]:
    """For accuracies the share of the most frequent label; for errors of the change point that of the best constant.

    Other statistics are left out. The margin is three standard errors of the mean over the clips.
    """
    if not batches:
        return {}
    label, point, plain = (np.concatenate([batch[name] for batch in batches]) for name in _TARGETS)
    levels = {}
    for name in statistics:
        if name.endswith("accuracy"):
            chosen = (
                plain
                if name.startswith("action")
                else ~plain
                if name.startswith("boundary")
                else np.full(len(plain), True)
            )
            if chosen.any():
                share = np.bincount(label[chosen]).max() / chosen.sum()
                levels[name] = Level(share, 3 * math.sqrt(share * (1 - share) / chosen.sum()))
        elif name.endswith("change_point_error"):
            known = point[~np.isnan(point)]
            if len(known):
                error = np.abs(known - np.median(known))
                levels[name] = Level(float(error.mean()), 3 * float(error.std()) / math.sqrt(len(known)))
    return levels


def at_chance(name: str, value: float, level: Level) -> bool:
    """Whether a statistic is no better than its level: accuracies are better above, errors below."""
    better = level.value - value if name.endswith("error") else value - level.value
    return not better > level.margin
