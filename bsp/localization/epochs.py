"""What the training loops of all heads do after an epoch: refuse a loss that is not finite, keep the best weights."""

from __future__ import annotations

import copy
import math

from torch import nn


def require_finite(record: dict, learning_rate: float) -> None:
    """RuntimeError, with the remedy, if the "loss" of an epoch's record is not a finite number."""
    if not math.isfinite(record["loss"]):
        raise RuntimeError(
            f"the loss became {record['loss']} in epoch {record['epoch']}; lower learning_rate "
            f"({learning_rate}) or scale the features"
        )


class BestEpoch:
    """The weights of the epoch with the highest score, the first of equals."""

    def __init__(self) -> None:
        self._score, self._state = -math.inf, None

    def offer(self, model: nn.Module, score: float) -> None:
        """Keep a copy of the weights if ``score`` is above all before."""
        if score > self._score:
            self._score, self._state = score, copy.deepcopy(model.state_dict())

    def restore(self, model: nn.Module) -> None:
        """Put the kept weights back; without any, the model stays as it is."""
        if self._state is not None:
            model.load_state_dict(self._state)
