"""Shared parts of the heads' training loops: checks after an epoch, the best epoch, and the loop of linear heads."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from bsp.errors import Diverged


def require_finite(record: Mapping[str, float], learning_rate: float) -> None:
    """Diverged, with the remedy, if the "loss" of an epoch's record is not a finite number."""
    if not math.isfinite(record["loss"]):
        raise Diverged(
            f"the loss became {record['loss']} in epoch {record['epoch']}; lower learning_rate "
            f"({learning_rate}) or scale the features"
        )


class BestEpoch:
    """The weights of the epoch with the highest score, the first of equals."""

    def __init__(self) -> None:
        self._score = -math.inf
        self._state: dict[str, Any] | None = None

    def offer(self, model: nn.Module, score: float) -> None:
        """Keep a copy of the weights if ``score`` is above all before."""
        if score > self._score:
            self._score, self._state = score, copy.deepcopy(model.state_dict())

    def restore(self, model: nn.Module) -> None:
        """Load the kept weights; without any, the model is unchanged."""
        if self._state is not None:
            model.load_state_dict(self._state)


def mean_and_std(blocks: Callable[[], Iterable[Tensor]]) -> tuple[Tensor, Tensor]:
    """Of every channel over the rows of all blocks [rows, D], float64 [D].

    A constant channel gets deviation 1. ``blocks`` is called twice, so that only one block is in memory.
    """
    rows = 0
    total = square = torch.zeros((), dtype=torch.float64)
    for block in blocks():
        rows += len(block)
        total = total + block.sum(0, dtype=torch.float64)
    mean = total / rows
    for block in blocks():
        square = square + ((block - mean) ** 2).sum(0)
    std = (square / rows).sqrt()
    std[std <= 1e-6 * mean.abs()] = 1.0
    return mean, std


def train_linear(
    inputs: Callable[[Tensor], Tensor],
    label_N: Tensor,
    mean_D: Tensor,
    std_D: Tensor,
    generator: np.random.Generator,
    *,
    epochs: int,
    batch: int,
    learning_rate: float,
    weight_decay: float,
    weight_N: Tensor | None = None,
    on_epoch: Callable[[dict[str, float]], None] | None = None,
    device: str | torch.device = "cpu",
) -> tuple[Tensor, float]:
    """Logistic regression from zero: weights of the standardised inputs, float32 [D] on the CPU, and the bias.

    inputs: indices of rows, int64 [B] -> float32 [B, D] on the CPU; mean_D, std_D: float32, see ``mean_and_std``.
    label_N: float32, 0 or 1; weight_N: loss weights; generator: determines the order of rows.
    learning_rate: of Adam, falls linearly towards 0; weight_decay: L2 on the weights, not on the bias.
    on_epoch gets "epoch" (from 0) and "loss", the mean over rows. RuntimeError when it stops being finite.
    """
    weight_D = torch.zeros(len(mean_D), device=device, requires_grad=True)
    bias = torch.zeros((), device=device, requires_grad=True)
    groups = [{"params": [weight_D], "weight_decay": weight_decay}, {"params": [bias], "weight_decay": 0.0}]
    optimiser = torch.optim.Adam(groups, lr=learning_rate)
    steps = epochs * -(-len(label_N) // batch)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: 1 - step / steps)
    mean_on, std_on = mean_D.to(device), std_D.to(device)
    for epoch in range(epochs):
        total = torch.zeros((), device=device)
        for batch_B in torch.from_numpy(generator.permutation(len(label_N))).split(batch):
            logit_B = ((inputs(batch_B).to(device) - mean_on) / std_on) @ weight_D + bias
            weight_B = None if weight_N is None else weight_N[batch_B].to(device)
            loss = functional.binary_cross_entropy_with_logits(logit_B, label_N[batch_B].to(device), weight_B)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            total += loss.detach() * len(batch_B)
        record = {"epoch": epoch, "loss": float(total) / len(label_N)}
        require_finite(record, learning_rate)
        if on_epoch is not None:
            on_epoch(record)
    return weight_D.detach().cpu(), float(bias.detach())
