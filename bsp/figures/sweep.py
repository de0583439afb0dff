"""Plots of a search: parallel coordinates, and how the scores respond to each parameter.

Every parameter is an axis of a few named values at equal distances, in the order of the search space. Nothing here
opens a window or keeps global state.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from bsp.figures.style import BSP, OTHER, SMALL_PT, VANILLA, add_axes, add_text, new_figure

_COLOURS = "viridis"
_SPREAD = 0.16  # width over which the trials at one value are set apart, in distances between values


@dataclass(frozen=True, kw_only=True)
class SweepTrial:
    """One trial as it is drawn."""

    values: Mapping[str, str]  # by parameter
    probes: tuple[float | None, ...]  # at the rungs, percent
    score: float | None  # mAP_avg, percent; None: stopped early


def draw_parallel(
    trials: Sequence[SweepTrial], axes: Mapping[str, Sequence[str]], path: Path, *, title: str, caption: str
) -> Figure:
    """One line per trial through its parameters, probes and mAP; grey and dashed for a trial that was stopped.

    ``axes`` are the parameters that vary, with their values from bottom to top. Lines of trials that share a value are
    set apart a little. The colour is the mAP.
    """
    rungs = max((len(trial.probes) for trial in trials), default=0)
    names = [*axes, *(f"probe {k + 1}" for k in range(rungs)), "mAP_avg"]
    gap_in, height_in = 1.5, 3.6
    figure = new_figure(
        max(7.0, gap_in * (len(names) - 1) + 2.0), height_in + 0.45, title=f"Trials: {title}", caption=caption
    )
    plot = add_axes(figure, 0.9, 1.0, figure.get_size_inches()[0] - 2.4, height_in)
    plot.set(xlim=(-0.05, max(1, len(names) - 1) + 0.05), ylim=(-0.08, 1.08))
    plot.axis("off")
    scales = {name: _scale(name, trials) for name in names[len(axes) :]}
    for place, name in enumerate(names):
        plot.axvline(place, color="#444444", lw=0.8)
        plot.text(place, 1.13, name, ha="center", va="bottom", fontsize=SMALL_PT + 1, fontweight="bold")
        marks = _value_marks(axes[name]) if name in axes else _number_marks(scales[name])
        for height, text in marks:
            plot.plot([place - 0.02, place + 0.02], [height, height], color="#444444", lw=0.8)
            plot.text(
                place + 0.03, height, text, va="center", fontsize=SMALL_PT, zorder=5,
                bbox={"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 0.6},
            )  # fmt: skip
    norm = Normalize(*scales["mAP_avg"])
    for number, trial in sorted(enumerate(trials), key=lambda pair: pair[1].score or -1.0):
        points = _points(trial, number, len(trials), axes, scales, rungs)
        finished = trial.score is not None
        plot.plot(
            *zip(*points, strict=True),
            color=OTHER if trial.score is None else colormaps[_COLOURS](norm(trial.score)),
            lw=1.8 if finished else 1.0, ls="-" if finished else (0, (4, 2)), marker="o", ms=3,
        )  # fmt: skip
    _colour_bar(figure, norm)
    return _save(figure, path)


def _points(
    trial: SweepTrial,
    number: int,
    count: int,
    axes: Mapping[str, Sequence[str]],
    scales: Mapping[str, tuple[float, float]],
    rungs: int,
) -> list[tuple[float, float]]:
    """(axis, height in [0, 1]) of what a trial has."""
    apart = _SPREAD * (number / max(1, count - 1) - 0.5)
    points: list[tuple[float, float]] = [
        (place, _height(values.index(trial.values[name]), len(values)) + apart / max(1, len(values)))
        for place, (name, values) in enumerate(axes.items())
    ]
    numbers = [*trial.probes, *[None] * (rungs - len(trial.probes)), trial.score]
    for place, (value, (low, high)) in enumerate(zip(numbers, scales.values(), strict=True), start=len(axes)):
        if value is not None:
            points.append((place, (value - low) / (high - low)))
    return points


def _height(place: int, count: int) -> float:
    return place / (count - 1) if count > 1 else 0.5


def _scale(name: str, trials: Sequence[SweepTrial]) -> tuple[float, float]:
    """Lowest and highest value of a score, never the same."""
    if name == "mAP_avg":
        found = [trial.score for trial in trials]
    else:
        rung = int(name.split()[-1]) - 1
        found = [trial.probes[rung] for trial in trials if rung < len(trial.probes)]
    known = [value for value in found if value is not None] or [0.0]
    low, high = min(known), max(known)
    return (low, high) if high > low else (low - 1.0, high + 1.0)


def _value_marks(values: Sequence[str]) -> list[tuple[float, str]]:
    return [(_height(k, len(values)), value) for k, value in enumerate(values)]


def _number_marks(scale: tuple[float, float]) -> list[tuple[float, str]]:
    low, high = scale
    digits = 1 if high - low >= 1 else 2
    return [(h, f"{low + h * (high - low):.{digits}f}") for h in (0.0, 0.5, 1.0)]


def _colour_bar(figure: Figure, norm: Normalize) -> None:
    width_in, _ = figure.get_size_inches()
    bar = add_axes(figure, width_in - 0.75, 1.3, 0.15, 3.0)
    figure.colorbar(ScalarMappable(norm, colormaps[_COLOURS]), cax=bar)
    bar.tick_params(labelsize=SMALL_PT)
    add_text(figure, width_in - 0.95, 1.12, "mAP_avg", fontsize=SMALL_PT)


def draw_responses(
    trials: Sequence[SweepTrial], axes: Mapping[str, Sequence[str]], path: Path, *, title: str, caption: str
) -> Figure:
    """For each parameter that varies: mAP (top) and first probe (bottom) of every trial against its value.

    A bar is the mean of the trials at a value; they differ in the other parameters too, so a difference of bars is a
    hint, not an effect. Trials that were stopped have no mAP, only a probe (hollow).
    """
    columns = max(1, len(axes))
    width_in = max(7.0, 2.3 * columns + 1.0)
    figure = new_figure(width_in, 4.75, title=f"Response: {title}", caption=caption)
    if not axes:
        add_text(figure, 0.5, 2.0, "No parameter varies in this space.")
    step_in = (width_in - 1.0) / columns
    tops = {"mAP_avg": (0.85, VANILLA), "probe 1": (3.2, BSP)}
    for column, (name, values) in enumerate(axes.items()):
        for what, (top_in, colour) in tops.items():
            plot = add_axes(figure, 0.75 + column * step_in, top_in, step_in - 0.45, 1.85)
            _response(plot, trials, name, values, what, colour)
            plot.set_ylim(*_margins(_scale(what, trials)))
            if column == 0:
                plot.set_ylabel("mAP_avg (%)" if what == "mAP_avg" else "probe 1 (%)", fontsize=SMALL_PT + 1)
            if top_in > 2:
                plot.set_xlabel(name, fontsize=SMALL_PT + 1, fontweight="bold")
    return _save(figure, path)


def _response(
    plot: Axes, trials: Sequence[SweepTrial], name: str, values: Sequence[str], what: str, colour: str
) -> None:
    for place, value in enumerate(values):
        chosen = [(k, trial) for k, trial in enumerate(trials) if trial.values[name] == value]
        known = []
        for number, trial in chosen:
            score = trial.score if what == "mAP_avg" else next(iter(trial.probes), None)
            if score is None:
                continue
            known.append(score)
            apart = 0.3 * (number / max(1, len(trials) - 1) - 0.5)
            face = colour if trial.score is not None else "white"
            plot.plot(place + apart, score, "o", ms=5, mfc=face, mec=colour, alpha=0.85)
        if known:
            plot.plot([place - 0.3, place + 0.3], [float(np.mean(known))] * 2, color="#222222", lw=1.6)
    labels = ["\n".join(textwrap.wrap(value.replace("+", "+ "), 9)).replace("+ ", "+") for value in values]
    plot.set_xticks(range(len(values)), labels)
    plot.set_xlim(-0.6, len(values) - 0.4)
    plot.tick_params(labelsize=SMALL_PT - 1)
    plot.grid(axis="y", color="#DDDDDD", lw=0.6)
    plot.set_axisbelow(True)
    plot.spines[["top", "right"]].set_visible(False)


def _margins(scale: tuple[float, float]) -> tuple[float, float]:
    low, high = scale
    return low - 0.08 * (high - low), high + 0.08 * (high - low)


def _save(figure: Figure, path: Path) -> Figure:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, metadata={"Software": None})
    return figure
