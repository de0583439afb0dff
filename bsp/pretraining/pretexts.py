"""Pretext tasks by the name used in table rows."""

from __future__ import annotations

from collections.abc import Callable

from bsp.clips.catalog import Catalog
from bsp.clips.plan import BoundaryKind, ClipSettings
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


def too_short(pretext: Pretext, clips: ClipSettings, catalog: Catalog) -> str:
    """How many videos are not in the stream of ``pretext``, in words; "" if none. ValueError if none is left."""
    needed = pretext.frames_needed(clips)
    short = int((catalog.frames < needed).sum())
    if short == len(catalog):
        raise ValueError(
            f"{pretext.name} needs videos of {needed} frames (clips.stride_frames {clips.stride_frames}), but the "
            f"longest of the {short} has {int(catalog.frames.max())}; give longer ones, or another pretext"
        )
    needs = f"the {needed} frames that {pretext.name} needs"
    return f"{short} of {len(catalog)} videos are shorter than {needs}, and not in its clips" if short else ""
