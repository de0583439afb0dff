"""The one writer of tables: Markdown, CSV and JSON side by side in a folder, and on the console.

A table is a list of lines, the first of which is the header. Text is escaped here (plain_text.py).
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from bsp.io import write_text
from bsp_platform.plain_text import csv_cell, markdown_text, plain_table, printable
from bsp_platform.storage.files import write_json
from bsp_platform.storage.manifests import as_plain

Lines = Sequence[Sequence[object]]


def write_table(folder: Path, content: dict[str, Any], csv_lines: Iterable[Sequence[object]], text: str) -> None:
    """Write ``folder/table.json`` (``content``), ``table.csv`` (``csv_lines``) and ``table.md`` (``text``)."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "table.json", as_plain(content))
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(map(csv_cell, line) for line in csv_lines)
    write_text(folder / "table.csv", out.getvalue())
    write_text(folder / "table.md", text)


def markdown_table(table: Lines) -> list[str]:
    """The lines of a Markdown table."""
    header, *body = [[markdown_text(cell) for cell in line] for line in table]
    return ["| " + " | ".join(line) + " |" for line in [header, ["---"] * len(header), *body]]


def mean_and_spread(mean: float | None, std: float | None, form: str = ".2f") -> str:
    """ "12.30 ± 0.41"; without the spread if it is None, nothing if the mean is."""
    if mean is None:
        return ""
    return f"{mean:{form}}" + (f" ± {std:.2f}" if std is not None else "")


def print_tables(
    tables: Iterable[tuple[str, Lines]],
    *,
    notes: Sequence[str] = (),
    more: Iterable[tuple[str, Lines]] = (),
    width: int = 160,
) -> None:
    """Print tables, each with its title, with numbers to the right; then notes; then ``more`` tables that have lines.

    ``width``: in characters, where the output is no terminal; more for a table of many columns.
    """
    console = Console()
    tables = list(tables)
    if not console.is_terminal:
        console = Console(width=max(width, *(30 + 13 * len(lines[0]) for _, lines in tables)))
    for title, lines in tables:
        console.print(plain_table(lines[0], lines[1:], title=title, first_left=True))
    for note in notes:
        console.print(printable(note, lines=True), markup=False, highlight=False)
    for title, lines in more:
        if lines:
            console.print(plain_table(lines[0], lines[1:], title=title))
