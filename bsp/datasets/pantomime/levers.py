"""Levers of Pantomime's version 2: what makes its videos harder, each a number.

Version 1 has none of them (``levers=None`` in the settings of a data set); at its defaults a lever changes nothing.
Levers that earlier settings have already are settings still: the share of cuts, the classes, noise, light.
``VERSIONS`` holds the settings of each version by kind of data set, calibrated on the random and the vanilla encoder
alone (docs/calibration.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeVar

import numpy as np

CODE_VERSION = 1  # raise it with every change of what levers render; version 1 of the data does not depend on it
Settings = TypeVar("Settings")


@dataclass(frozen=True, kw_only=True)
class Levers:
    """Difficulty of the videos."""

    # Share of the classes of the untrimmed videos that the trimmed ones lack, 0..0.9; the classes are spread evenly.
    unseen_classes: float = 0.0
    long_instances: float = 0.0  # share of untrimmed videos with one instance of 45 to 90% of the length, 0..1
    # Share of idle stretches (1-3 s) spent in movement as lively as an action, 0..1: motion energy tells nothing at 1.
    restless: float = 0.0
    # Distance of the light's warmth between shots that act and shots that idle, in standard deviations, 0..5: what the
    # scene tells, without any motion. Also, shots that act come back only to places of acting.
    scene_cue: float = 0.0
    others: float = 0.0  # other people in a shot, on average, 0..3; they move all the time
    clutter: float = 0.0  # things that move in the background of a shot, on average, 0..10
    camera: float = 1.0  # amount of the camera's motion, 0..3
    contrast: float = 1.0  # of figures against the background, 0.1..1
    figure_height: float = 1.0  # of the figure, relative to version 1, 0.4..1
    # How much of the last five trimmed videos have, 0..1: clips made for a class show it well, and the small trainings
    # of the embedded data learn nothing from pictures that are as weak as those of untrimmed videos may be.
    in_trimmed: float = 1.0

    def __post_init__(self) -> None:
        limits = {
            "unseen_classes": (0, 0.9), "long_instances": (0, 1), "restless": (0, 1), "scene_cue": (0, 5),
            "others": (0, 3), "clutter": (0, 10), "camera": (0, 3), "contrast": (0.1, 1), "figure_height": (0.4, 1),
            "in_trimmed": (0, 1),
        }  # fmt: skip
        for name, (least, most) in limits.items():
            if not least <= getattr(self, name) <= most:
                raise ValueError(f"{name} must be in {least}..{most}, not {getattr(self, name)}")

    def of_trimmed(self) -> Levers:
        """The levers of the pictures of trimmed videos."""
        share = self.in_trimmed
        return replace(
            self, others=share * self.others, clutter=share * self.clutter, camera=1 + share * (self.camera - 1),
            contrast=1 - share * (1 - self.contrast), figure_height=1 - share * (1 - self.figure_height),
        )  # fmt: skip


NO_LEVERS = Levers()


def record(settings: Any) -> dict[str, Any]:
    """All fields of settings that are a dataclass with ``levers``; without that one where it is None (version 1).

    Levers come with the version of their code.
    """
    fields = asdict(settings)
    if fields["levers"] is None:
        del fields["levers"]
        return fields
    return {**fields, "levers_code_version": CODE_VERSION}


def seen_classes(names: Sequence[str], unseen: float) -> tuple[str, ...]:
    """The classes that trimmed videos show: all but a share, rounded, spread evenly over ``names``; at least one."""
    count = min(round(unseen * len(names)), len(names) - 1)
    left_out = {int((k + 0.5) * len(names) / count) for k in range(count)}
    return tuple(name for k, name in enumerate(names) if k not in left_out)


def long_instance(frames: int, fps: int, rng: np.random.Generator) -> tuple[tuple[int, int], ...]:
    """One instance of 45 to 90% of a video, 1 s from its ends or more, as a half-open frame range."""
    length = min(int(frames * rng.uniform(0.45, 0.9)), frames - 2 * fps)
    first = int(rng.integers(fps, frames - fps - length + 1))
    return ((first, first + length),)


def acts_most(first: int, end: int, spans: Sequence[tuple[int, int]]) -> bool:
    """Whether ``spans`` of acting (half-open, none overlap) cover more than half of the frames ``first`` to ``end``."""
    return 2 * sum(max(0, min(end, stop) - max(first, start)) for start, stop in spans) > end - first


_VERSION_2 = Levers(
    unseen_classes=0.2, long_instances=0.35, restless=1.0, scene_cue=1.2, others=0.5, clutter=1.0, contrast=0.7,
    camera=1.2, in_trimmed=0.0,
)  # fmt: skip
_CUTS = {"boundary_cut_share": 0.8, "other_cuts_per_minute": 4.0}
# Ten actions, and five of the finer ones that are nearest to them.
_ACTIONS = (
    "arm circles", "bow", "box", "jump", "jumping jack", "kick", "squat", "walk", "wave", "windmill",
    "clap", "crawl", "lunge", "march", "side kick",
)  # fmt: skip
VERSIONS: dict[int, dict[str, dict[str, Any]]] = {
    1: {},
    2: {
        "untrimmed": {"levers": _VERSION_2, **_CUTS, "actions": _ACTIONS, "instance_seconds": (1.5, 9.0)},
        # Choice: nobody else in the picture, as a smaller giant is a child and every sentence is true of one moment.
        "grounding": {"levers": replace(_VERSION_2, others=0.0)},
        "stories": {"levers": _VERSION_2, **_CUTS},
    },
}


def in_version(settings: Settings, kind: str, version: int) -> Settings:
    """Settings of a data set of this ``kind`` ("untrimmed", "grounding" or "stories") with a version's values.

    ValueError for a version that there is not.
    """
    if version not in VERSIONS:
        raise ValueError(f"there is no version {version} of the embedded data, but {', '.join(map(str, VERSIONS))}")
    return replace(settings, **VERSIONS[version].get(kind, {}))  # type: ignore[type-var]
