"""Shared drawing code of Figures 2, 4 and 5: colours, layout in inches, film strips, captions, files.

Every figure is laid out in inches from its top left corner, so that nothing overlaps whatever its height, and
carries a caption that says how its content was chosen. Nothing here opens a window or keeps global state.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.textpath import TextPath

from bsp.video.read import fit_frames

# One meaning each, in all figures; distinguishable for the colour-blind (Okabe and Ito's palette).
TRUTH, VANILLA, BSP, CHANGE, OTHER = "#009E73", "#0072B2", "#D55E00", "#CC0066", "#9A9A9A"
TITLE_PT, TEXT_PT, SMALL_PT = 13, 10, 8.5
MARGIN_IN = 0.25
_CAPTION_LINE_IN = 0.19
_THUMBNAIL_PX = 160  # height of a frame in a figure, at most; small videos keep their pixels


def new_figure(width_in: float, content_in: float, *, title: str, caption: str) -> Figure:
    """A white figure with ``title`` on top, ``content_in`` inches to draw in from 0.7 inches on, and a caption."""
    lines = _lines(caption, width_in)
    height_in = 0.7 + content_in + _CAPTION_LINE_IN * len(lines) + 2 * MARGIN_IN
    figure = Figure(figsize=(width_in, height_in), facecolor="white")
    add_text(figure, MARGIN_IN, 0.38, title, fontsize=TITLE_PT, fontweight="bold")
    add_text(figure, MARGIN_IN, height_in - MARGIN_IN, "\n".join(lines), va="bottom", linespacing=1.3)
    return figure


def add_axes(figure: Figure, left_in: float, top_in: float, width_in: float, height_in: float) -> Axes:
    """Axes at a place in inches; ``top_in`` counts downwards from the top edge."""
    width, height = figure.get_size_inches()
    bottom = 1 - (top_in + height_in) / height
    return figure.add_axes((left_in / width, bottom, width_in / width, height_in / height))


def add_text(figure: Figure, left_in: float, top_in: float, text: str, **style: Any) -> None:
    """Text at a place in inches, by default centred on that height and starting there."""
    width, height = figure.get_size_inches()
    # Dollar signs in names of videos and classes do not start formulas.
    style = {"fontsize": TEXT_PT, "va": "center", "ha": "left", "parse_math": False, **style}
    figure.text(left_in / width, 1 - top_in / height, text, **style)


def thumbnails(frames_THWC: np.ndarray, *, like: np.ndarray | None = None) -> np.ndarray:
    """Frames small enough for a figure, uint8 [T, h, w, 3]; cropped to the aspect of the frames ``like``."""
    height, width = (frames_THWC if like is None else like).shape[1:3]
    scale = min(1.0, _THUMBNAIL_PX / height)
    return fit_frames(frames_THWC, max(1, round(height * scale)), max(1, round(width * scale)))


def draw_strip(axes: Axes, frames_THWC: np.ndarray, *, step: float = 1.0) -> None:
    """Frames side by side, each ``step`` wide on the x axis from 0 on, with small white gaps."""
    gap = 0.02 * step
    for place, frame in enumerate(frames_THWC):
        axes.imshow(frame, extent=(place * step + gap, (place + 1) * step - gap, 0, 1), aspect="auto")
    axes.set(xlim=(0, len(frames_THWC) * step), ylim=(0, 1))
    axes.axis("off")


def spread(values: Sequence[float]) -> dict[str, object]:
    """The values of all seeds with "mean" and "std" (n - 1; None for a single seed), for a figure's record."""
    std = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return {"mean": float(np.mean(values)), "std": std, "seeds": list(values)}


def spread_text(values: Sequence[float], digits: int = 3) -> str:
    """ "0.812 ± 0.013 (3 seeds)", or the value alone of one seed."""
    facts = spread(values)
    more = f" ± {facts['std']:.{digits}f} ({len(values)} seeds)" if len(values) > 1 else " (1 seed)"
    return f"{facts['mean']:.{digits}f}{more}"


def save_figure(figure: Figure, folder: Path, stem: str = "figure") -> list[Path]:
    """Write ``<stem>.png`` and ``<stem>.pdf``, the same bytes for the same figure; returns the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    png, pdf = folder / f"{stem}.png", folder / f"{stem}.pdf"
    figure.savefig(png, dpi=150, metadata={"Software": None})
    figure.savefig(pdf, dpi=150, metadata={"CreationDate": None})
    return [png, pdf]


def _lines(text: str, width_in: float) -> list[str]:
    """``text`` broken so that its longest line fits the figure at the caption's size; line breaks in it stay."""
    room_pt = (width_in - 2 * MARGIN_IN) * 72
    for characters in range(int(room_pt / _width_pt(text) * len(text)) + 2, 0, -1):
        lines = [line for part in text.splitlines() for line in textwrap.wrap(part, characters)]
        if all(_width_pt(line) <= room_pt for line in lines):
            return lines
    raise ValueError(f"a figure of {width_in} inches is too narrow for its caption")


def _width_pt(line: str) -> float:
    plain = line.replace("\n", " ").replace("$", "S")  # TextPath would take dollars for formulas
    return TextPath((0, 0), plain, size=TEXT_PT).get_extents().width
