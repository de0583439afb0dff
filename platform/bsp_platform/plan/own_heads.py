"""Settings of heads for somebody's own data: a handful to a few thousand videos, on whatever machine.

The grid follows from the lengths (bsp/survey/grid.py), batch and epochs from the number of videos. Every choice comes
with a line that says why.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bsp.datasets.activitynet import LocalizationDataset
from bsp.features.record import FeatureInfo, video_end_s
from bsp.localization.gtad.network import GTADSettings
from bsp.localization.gtad.windows import WindowSettings
from bsp.survey.grid import CELLS, suggest_grid
from bsp.tasks.heads import HEADS
from bsp_platform.plain_text import say
from bsp_platform.plan.overrides import apply_overrides, as_lines
from bsp_platform.plan.profiles import PROFILES
from bsp_platform.plan.tasks import Task

OWN = "own"  # the profile whose settings follow from the data
WINDOW_CELLS = 64  # snippets of a window
STEPS = 400  # Choice: steps of the optimiser that a small data set gets; the release's ActivityNet gets 6,000
_EPOCHS = (10, 60)


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """A head and its settings for somebody's data."""

    head: str  # name in HEADS
    settings: Any
    reasons: tuple[str, ...]  # a line each


def choose_detector(
    data: LocalizationDataset, infos: Mapping[str, FeatureInfo], subset: str, width: int, head: str | None = None
) -> Chosen:
    """G-TAD on whole videos or, where their actions would be too short on its grid, on windows; its settings.

    ``infos``: records of the features by video. ``subset``: of the training videos. ``head`` chooses one of the two.
    """
    known = [video for video in data.videos if video.subset == subset and video.video_id in infos]
    if not known:
        raise ValueError(f"no video of the subset {subset!r} has features, so no settings can be chosen; extract them")
    durations_s = [video_end_s(infos[video.video_id]) for video in known]
    rates = [infos[video.video_id].fps for video in known]
    instances = [(one.start_s, one.end_s) for video in known for one in video.instances]
    stride = infos[known[0].video_id].stride_frames
    grid = suggest_grid(durations_s, rates, instances, snippet_frames=stride)
    reasons = list(grid.reasons)
    batch, epochs = schedule(len(known))
    lengths_s = np.array([end - start for start, end in instances])
    on_windows = grid.on_windows if head is None else head == "gtad-windows"
    shared: dict[str, Any] = {
        "feature_width": width,
        "batch_size": batch,
        "epochs": epochs,
        "decay_epoch": math.ceil(0.7 * epochs),
    }
    settings: GTADSettings
    if not on_windows:
        settings = GTADSettings(**shared, cells=grid.cells, max_duration=grid.max_duration)
        reasons.append(f"G-TAD on whole videos: {grid.cells} cells, proposals of up to {grid.max_duration} cells")
    else:
        snippets = math.ceil(1.25 * float(lengths_s.max()) / grid.snippet_s)
        cells = 8 * math.ceil(max(WINDOW_CELLS, min(2 * snippets, CELLS[1])) / 8)
        longest = min(cells, snippets)
        settings = WindowSettings(
            **shared, cells=cells, stride_cells=cells // 2, max_duration=longest, too_long_cells=longest + 1,
            learning_rate=1e-3,
        )  # fmt: skip
        reasons.append(f"G-TAD on windows of {cells} snippets, one every {cells // 2}: proposals of up to {longest}")
    reasons.append(f"{len(known)} training videos: batches of {batch}, {epochs} epochs")
    classes = len(data.class_names)
    settings = replace(settings, top_classes=min(settings.top_classes, classes))
    return Chosen(head="gtad-windows" if on_windows else "gtad", settings=settings, reasons=tuple(reasons))


def schedule(videos: int, *, most_batch: int = 16) -> tuple[int, int]:
    """(batch size, epochs) for so many training videos: small batches for few, about ``STEPS`` steps in all."""
    batch = min(most_batch, max(2, videos // 8))
    steps = math.ceil(videos / batch)
    return batch, min(_EPOCHS[1], max(_EPOCHS[0], math.ceil(STEPS / steps)))


def for_few(settings: Any, examples: int) -> Chosen:
    """Another head: its settings with batch and epochs for so many training examples, where it has these fields."""
    fields = getattr(settings, "__dataclass_fields__", {})
    if "batch_size" not in fields or "epochs" not in fields:
        return Chosen(head="", settings=settings, reasons=())
    batch, epochs = schedule(examples, most_batch=settings.batch_size)
    epochs = max(epochs, settings.epochs)
    reasons = (f"{examples} training examples: batches of {batch}, {epochs} epochs",)
    return Chosen(head="", settings=replace(settings, batch_size=batch, epochs=epochs), reasons=reasons)


@dataclass(frozen=True)
class HeadConfiguration:
    """What ``--set`` reaches."""

    head: Any  # the settings of the head


def head_settings(
    task: Task,
    profile: str,
    choose: Callable[[], Chosen] | None,
    examples: int,
    changes: tuple[str, ...],
    err: bool,
) -> tuple[Any, Any, int]:
    """The head, its settings and the width of learnt words; how they came about is printed."""
    head, word_width = task.head, 32
    reasons: tuple[str, ...] = ()
    if profile != OWN:
        of_profile = PROFILES[profile]()
        before, word_width = task.settings(of_profile), of_profile.word_width
    elif choose is not None:
        chosen = choose()
        head, before, reasons = HEADS[chosen.head], chosen.settings, chosen.reasons
    else:
        chosen = for_few(task.settings(PROFILES["mini"]()), examples)
        before, reasons = chosen.settings, chosen.reasons
    for reason in reasons:
        say(f"- {reason}", err=err)
    config = apply_overrides(HeadConfiguration(before), changes)
    given = {text.partition("=")[0].strip() for text in changes}
    if "head.epochs" in given and "head.decay_epoch" not in given and hasattr(before, "decay_epoch"):
        # Choice: the rate falls at the same share of the training, however long that is.
        decay = math.ceil(before.decay_epoch * config.head.epochs / before.epochs)
        config = HeadConfiguration(replace(config.head, decay_epoch=decay))
    for line in as_lines(config, HeadConfiguration(before)):
        if profile == OWN or "changed" in line:
            say(f"  {line}", err=err)
    return head, config.head, word_width


def head_name(head: Any) -> str:
    """Its name in HEADS."""
    return next(name for name, known in HEADS.items() if known is head)
