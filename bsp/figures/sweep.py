"""Plots of a search: parallel coordinates, and how the scores respond to each parameter.

Every parameter is an axis of a few named values at equal distances, in the order of the search space. Nothing here
opens a window or keeps global state.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from bsp.figures.style import BSP, OTHER, SMALL_PT, VANILLA, add_axes, add_text, new_figure

_COLOURS = colormaps["viridis"]
_SPREAD = 0.16  # width over which trials at one value are spread, relative to the distance between values
_INK = "#444444"


@dataclass(frozen=True, kw_only=True)
class SweepTrial:
    """One trial as it is drawn."""

    values: Mapping[str, str]  # by parameter
    probes: tuple[float | None, ...]  # at the rungs, percent
    score: float | None  # mAP_avg, percent; None: stopped early


Axes = Mapping[str, Sequence[str]]  # by parameter that varies: its values


def draw_parallel(trials: Sequence[SweepTrial], axes: Axes, path: Path, *, title: str, caption: str) -> Figure:
    """One line per trial through its parameters, probes and mAP; grey and dashed for a trial that was stopped.

    ``axes`` are the parameters that vary, with their values from bottom to top. Lines of trials that share a value are
    set apart a little. The colour is the mAP.
    """
    scores = _scores(trials)
    names = [*axes, *scores]
    figure = new_figure(max(7.0, 1.5 * len(names) + 0.5), 4.05, title=f"Trials: {title}", caption=caption)
    width_in, _ = figure.get_size_inches()
    plot = add_axes(figure, 0.9, 1.0, width_in - 2.4, 3.6)
    plot.set(xlim=(-0.05, max(1, len(names) - 1) + 0.05), ylim=(-0.08, 1.08))
    plot.axis("off")
    norm = Normalize(*_limits(scores["mAP_avg"]))
    lines: list[list[tuple[int, float]]] = [[] for _ in trials]  # (axis, height in [0, 1])
    for place, name in enumerate(names):
        if name in axes:
            heights = np.linspace(0, 1, len(axes[name])) if len(axes[name]) > 1 else [0.5]
            marks = dict(zip(axes[name], heights, strict=True))
            for trial, line, apart in zip(trials, lines, _offsets(len(trials), _SPREAD), strict=True):
                line.append((place, marks[trial.values[name]] + apart / len(marks)))
        else:
            low, high = _limits(scores[name])
            digits = 1 if high - low >= 1 else 2
            marks = {f"{low + h * (high - low):.{digits}f}": h for h in (0.0, 0.5, 1.0)}
            for score, line in zip(scores[name], lines, strict=True):
                if score is not None:
                    line.append((place, (score - low) / (high - low)))
        plot.axvline(place, color=_INK, lw=0.8)
        plot.text(place, 1.13, name, ha="center", va="bottom", fontsize=SMALL_PT + 1, fontweight="bold")
        for text, height in marks.items():
            plot.plot([place - 0.02, place + 0.02], [height, height], color=_INK, lw=0.8)
            plot.text(
                place + 0.03, height, text, va="center", fontsize=SMALL_PT, zorder=5,
                bbox={"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 0.6},
            )  # fmt: skip
    for trial, line in sorted(zip(trials, lines, strict=True), key=lambda pair: pair[0].score or -1.0):
        style: dict[str, Any] = {"color": OTHER, "lw": 1.0, "ls": (0, (4, 2))}
        if trial.score is not None:
            style = {"color": _COLOURS(norm(trial.score)), "lw": 1.8}
        plot.plot(*zip(*line, strict=True), marker="o", ms=3, **style)
    bar = add_axes(figure, width_in - 0.75, 1.3, 0.15, 3.0)
    figure.colorbar(ScalarMappable(norm, _COLOURS), cax=bar)
    bar.tick_params(labelsize=SMALL_PT)
    add_text(figure, width_in - 0.95, 1.12, "mAP_avg", fontsize=SMALL_PT)
    return _save(figure, path)


def draw_responses(trials: Sequence[SweepTrial], axes: Axes, path: Path, *, title: str, caption: str) -> Figure:
    """For each parameter that varies: mAP (top) and first probe (bottom) of every trial against its value.

    A bar is the mean of the trials at a value; they differ in the other parameters too, so a difference of bars is a
    hint, not an effect. Trials that were stopped have no mAP, only a probe (hollow).
    """
    width_in = max(7.0, 2.3 * len(axes) + 1.0)
    figure = new_figure(width_in, 4.75, title=f"Response: {title}", caption=caption)
    if not axes:
        add_text(figure, 0.5, 2.0, "No parameter varies in this space.")
    scores, step_in = _scores(trials), (width_in - 1.0) / max(1, len(axes))
    for column, (name, values) in enumerate(axes.items()):
        for what, top_in, colour in (("mAP_avg", 0.85, VANILLA), ("probe 1", 3.2, BSP)):
            plot = add_axes(figure, 0.75 + column * step_in, top_in, step_in - 0.45, 1.85)
            known: dict[str, list[float]] = {value: [] for value in values}
            found = scores.get(what, [None] * len(trials))
            for trial, score, apart in zip(trials, found, _offsets(len(trials), 0.3), strict=True):
                if score is not None:
                    known[trial.values[name]].append(score)
                    face = colour if trial.score is not None else "white"
                    place = values.index(trial.values[name]) + apart
                    plot.plot(place, score, "o", ms=5, mfc=face, mec=colour, alpha=0.85)
            for place, at_value in enumerate(known.values()):
                if at_value:
                    plot.plot([place - 0.3, place + 0.3], [float(np.mean(at_value))] * 2, color="#222222", lw=1.6)
            labels = ["\n".join(textwrap.wrap(value.replace("+", "+ "), 9)).replace("+ ", "+") for value in values]
            plot.set_xticks(range(len(values)), labels)
            low, high = _limits(found)
            margin = 0.08 * (high - low)
            plot.set(xlim=(-0.6, len(values) - 0.4), ylim=(low - margin, high + margin))
            plot.tick_params(labelsize=SMALL_PT - 1)
            plot.grid(axis="y", color="#DDDDDD", lw=0.6)
            plot.set_axisbelow(True)
            plot.spines[["top", "right"]].set_visible(False)
            if column == 0:
                plot.set_ylabel(f"{what} (%)", fontsize=SMALL_PT + 1)
            if what == "probe 1":
                plot.set_xlabel(name, fontsize=SMALL_PT + 1, fontweight="bold")
    return _save(figure, path)


def _scores(trials: Sequence[SweepTrial]) -> dict[str, list[float | None]]:
    """By name of an axis ("probe 1", ..., "mAP_avg"), the score of each trial."""
    rungs = max((len(trial.probes) for trial in trials), default=0)
    probes = [(*trial.probes, *[None] * (rungs - len(trial.probes))) for trial in trials]
    return {f"probe {k + 1}": [p[k] for p in probes] for k in range(rungs)} | {"mAP_avg": [t.score for t in trials]}


def _limits(scores: Sequence[float | None]) -> tuple[float, float]:
    """Lowest and highest score, never the same."""
    known = [score for score in scores if score is not None] or [0.0]
    low, high = min(known), max(known)
    return (low, high) if high > low else (low - 1.0, high + 1.0)


def _offsets(count: int, width: float) -> list[float]:
    """Offsets that separate trials drawn at the same place."""
    return [width * (number / max(1, count - 1) - 0.5) for number in range(count)]


def _save(figure: Figure, path: Path) -> Figure:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, metadata={"Software": None})
    return figure
