"""Pretext tasks by the name used in table rows."""

from __future__ import annotations

from collections.abc import Callable

from bsp.clips.plan import BoundaryKind
from bsp.pretraining.arrow_of_time import ArrowOfTime
from bsp.pretraining.contract import Pretext
from bsp.pretraining.pace import PacePrediction
from bsp.pretraining.pretext import PretextSettings
from bsp.pretraining.speediness import Speediness

# By name: (kinds of boundary in the row, action classes in the data) -> the pretext. A new pretext is a line here.
PRETEXTS: dict[str, Callable[[tuple[BoundaryKind, ...], int], Pretext]] = {
    "action": lambda kinds, actions: PretextSettings(task="action", kinds=kinds, num_actions=actions),
    "classification": lambda kinds, actions: PretextSettings(task="classification", kinds=kinds),
    "regression": lambda kinds, actions: PretextSettings(task="regression", kinds=kinds),
    "arrow-of-time": lambda kinds, actions: ArrowOfTime(),
    "speediness": lambda kinds, actions: Speediness(),
    "pace": lambda kinds, actions: PacePrediction(),
}


def make_pretext(name: str, kinds: tuple[BoundaryKind, ...], num_actions: int) -> Pretext:
    """The pretext called ``name``. ValueError for an unknown one, listing the known names."""
    if name not in PRETEXTS:
        raise ValueError(f"no pretext is called {name!r}; there are {', '.join(PRETEXTS)}")
    return PRETEXTS[name](kinds, num_actions)
