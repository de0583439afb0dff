"""Text from file names, labels and error messages, escaped for the place where it is shown.

Such text may hold control characters (ANSI escapes that move the cursor or change the
terminal's title, marks that turn the direction of writing), rich's markup (``[red]``), Markdown, HTML, and what
spreadsheets take for formulas. It passes through here once, where it is printed or written.
"""

from __future__ import annotations

import codecs
import logging
import re
import sys
import unicodedata
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, TextIO

import click

if TYPE_CHECKING:
    from rich.table import Table

_IN_ASCII = {"±": "+-", "×": "x", "–": "-", "—": "-", "…": "...", "→": "->", "≤": "<=", "≥": ">=", "µ": "u"}
_MARKDOWN = re.compile(r"[\\`*\[\]|~$]|(?<![^\W_])_|_(?![^\W_])")  # an underscore within a word means nothing
FALLBACK = "bsp_spelled_out"  # error handler of streams: "±" as "+-", other characters as their number


def printable(text: object, *, lines: bool = False) -> str:
    r"""``text`` with control characters, marks of direction and lone surrogates escaped (``\x1b``, ``\u202e``).

    ``lines`` keeps line breaks and tabs, for messages of several lines; in a name they are escaped as well.
    """
    kept = "\n\t\u200c\u200d" if lines else "\u200c\u200d"  # the two joiners are part of some languages' words
    return "".join(
        char if char in kept or unicodedata.category(char) not in ("Cc", "Cf", "Cs", "Zl", "Zp") else _escaped(char)
        for char in str(text)
    )


def _escaped(char: str) -> str:
    return char.encode("unicode_escape", "surrogatepass").decode("ascii")


def markdown_text(text: object, *, starts_line: bool = False) -> str:
    """``text`` on one line of Markdown, with its markup, HTML and cell marks escaped.

    ``starts_line``: it may be the first on a line, where some more characters have a meaning.
    """
    plain = " ".join(printable(text, lines=True).split())
    plain = _MARKDOWN.sub(lambda match: f"\\{match[0]}", plain)
    plain = re.sub(r"&(?=#?\w+;)", "&amp;", plain).replace("<", "&lt;").replace(">", "&gt;")
    return f"\\{plain}" if starts_line and plain.startswith(("#", "+", "-")) else plain


def csv_cell(value: object) -> object:
    """A cell that no spreadsheet runs: text that begins like a formula gets an apostrophe in front.

    Choice: quoting does not help, as spreadsheets take the quotes off before they look for "="; the apostrophe is
    what they themselves use for text. Numbers stay numbers, also negative ones written as text.
    """
    if not isinstance(value, str):
        return value
    text = printable(value)
    if text.lstrip()[:1] in ("=", "+", "-", "@") and not _is_number(text):
        return f"'{text}"
    return text


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def plain_table(
    header: Sequence[object], rows: Iterable[Sequence[object]], *, title: str = "", first_left: bool = False
) -> Table:
    """A table for rich's console that shows text as it is. ``first_left``: all but the first column to the right."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(printable(title, lines=True)) if title else None)
    for place, name in enumerate(header):
        table.add_column(Text(printable(name)), justify="right" if first_left and place else "left")
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    return table


def duration(seconds: float) -> str:
    """Two units at most: "40 s", "3 min 20 s", "5 h 12 min", "2 d 3 h"."""
    whole = round(seconds)
    for size, unit, smaller, part in ((86400, "d", "h", 3600), (3600, "h", "min", 60), (60, "min", "s", 1)):
        if whole >= size:
            rest = whole % size // part
            return f"{whole // size} {unit}" + (f" {rest} {smaller}" if rest else "")
    return f"{whole} s"


def say(text: object, *, err: bool = False, file: TextIO | None = None) -> None:
    """Print a message at once, on stdout, on stderr (``err``) or to a ``file``."""
    click.echo(printable(text, lines=True), err=err, file=file)


class PlainFormatter(logging.Formatter):
    """Log records made :func:`printable`; their tracebacks keep their lines."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as text that a terminal can show."""
        return printable(super().format(record), lines=True)


def escape_unencodable() -> None:
    """Let standard output and error escape characters that they cannot encode (ASCII locale), instead of failing.

    To be called when a program starts. Log records without a handler of their own are made printable, too.
    """
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(PlainFormatter())
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a program that runs ours may have put something else there
            stream.reconfigure(errors=FALLBACK)


def _escape_error(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    chars = error.object[error.start : error.end]
    return "".join(_IN_ASCII.get(char) or _escaped(char) for char in chars), error.end


codecs.register_error(FALLBACK, _escape_error)
