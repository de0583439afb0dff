"""Trials, the steps of their probes, and the settings of grid and random searches. Without Ray."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from bsp.clips.plan import ClipSettings
from bsp_platform.search.space import Setting, Space, all_settings, make_setting

Kind = Literal["grid", "random", "optuna"]
Status = Literal["open", "finished", "stopped", "failed"]
MOST_RUNGS = 4  # Choice: earlier scores are near chance
_TRIES = 200  # draws in a row that are impossible or known, after which a random search ends


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A setting and its results."""

    number: int  # from 1
    setting: Setting
    status: Status
    probes: Mapping[int, float]  # by rung, 0-based: probe score in percent
    value: float | None = None  # of a finished trial: mean mAP_avg over the seeds, percent
    last_probe: float | None = None  # of the finished encoder, from its features
    stopped_at: int | None = None  # step
    reason: str = ""  # of a failure
    seconds: float = 0.0  # of all ended attempts

    @property
    def name(self) -> str:
        """As it is shown."""
        return f"trial {self.number:02d}"


def rung_steps(steps: int, every: int, eta: int) -> tuple[int, ...]:
    """Steps of the rungs, rising: about steps/eta, steps/eta^2, ..., rounded to checkpoints, ``every`` so many steps.

    Empty if no checkpoint lies before the end.
    """
    found: list[int] = []
    wanted = steps / eta
    while wanted >= every / 2 and len(found) < MOST_RUNGS:
        step = max(every, round(wanted / every) * every)
        if step < steps and step not in found:
            found.append(step)
        wanted /= eta
    return tuple(sorted(found))


def sequence(kind: Kind, space: Space, base: ClipSettings, seed: int) -> Iterator[Setting]:
    """All settings of a grid in order, or those of any other search in the order of random draws, each once."""
    if kind == "grid":
        yield from all_settings(space, base)
        return
    seen: set[Setting] = set()
    misses = 0
    for draw in itertools.count():
        # Counter-based: draw k is the same whatever was asked before.
        generator = np.random.Generator(np.random.Philox(key=np.array((seed, draw), np.uint64)))
        values = {name: options[int(generator.integers(len(options)))] for name, options in space.items()}
        setting = make_setting(values, base)
        if setting is None or setting in seen:
            misses += 1
            if misses == _TRIES:
                return
            continue
        misses = 0
        seen.add(setting)
        yield setting
