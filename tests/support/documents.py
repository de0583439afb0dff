"""Code blocks of the documents: as they are printed, so that tests can run them or look names up."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from repository import ROOT

_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def documents() -> list[Path]:
    """README, CONTRIBUTING and the pages of the site."""
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(path: Path) -> list[tuple[str, str]]:
    """(language, text) of each code block; "" where none is named."""
    return _BLOCK.findall(path.read_text("utf-8"))


def commands(text: str) -> Iterator[str]:
    """Lines of a shell block with continued lines joined, without prompts, comments and blank lines."""
    for line in re.sub(r"\\\n\s*", "", text).splitlines():
        command = re.split(r"\s#\s", line.removeprefix("$ "))[0].strip()
        if command and not command.startswith("#"):
            yield command
