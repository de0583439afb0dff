"""Sphinx: the documents in this folder and the API from the docstrings, as a site. ``make docs`` builds it."""

from __future__ import annotations

import importlib.metadata
import re
import sys
from pathlib import Path

from sphinx.application import Sphinx

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "platform")]

project = "Boundary-sensitive pre-training"
author = "The authors of this implementation"
release = importlib.metadata.version("bsp-platform")
html_title = f"BSP {release}"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.apidoc", "sphinx.ext.viewcode", "sphinx_copybutton"]
myst_enable_extensions = ["attrs_inline", "colon_fence", "deflist"]
myst_heading_anchors = 3
exclude_patterns = ["_build", "README.md"]

html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
copybutton_prompt_text = "$ "

apidoc_modules = [{"path": "../bsp", "destination": "api", "separate_modules": False, "include_private": False}]
apidoc_module_first = True
autodoc_default_options = {"members": True, "undoc-members": False, "show-inheritance": True}
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True

# Marks of reStructuredText that stand for themselves in our docstrings: a last underscore, a bar, a star.
_MARKS = re.compile(r"(?<=\w)_(?![\w`])|\||(?<![*\w])\*(?=\w)")

# A link to a file of the repository that is no page of the site becomes the file's name.
_LINK = re.compile(r"\[([^\]\[]+)\]\(((?!https?:|mailto:|#)[^)\s#]+)(#[^)\s]*)?\)")


def _links_of(text: str, folder: Path) -> str:
    """``text`` with links that fit the site: pages of it stay, other files become their path in the repository."""

    def replaced(match: re.Match[str]) -> str:
        title, target, anchor = match.group(1), match.group(2), match.group(3) or ""
        path = (folder / target).resolve()
        if path.is_relative_to(ROOT / "docs") and path.is_file():
            return f"[{title}](/{path.relative_to(ROOT / 'docs').as_posix()}{anchor})"
        if not path.exists() or not path.is_relative_to(ROOT):
            return match.group(0)  # Sphinx refuses it
        name = path.relative_to(ROOT).as_posix()
        return f"`{name}`" if title.strip("`") in (name, path.name) else f"{title} (`{name}`)"

    return _LINK.sub(replaced, text)


def _page(app: Sphinx, name: str, source: list[str]) -> None:
    path = Path(app.env.doc2path(name))
    if path.suffix == ".md":
        source[0] = _links_of(source[0], path.parent)


def _included(app: Sphinx, relative: Path, parent: str, content: list[str]) -> None:
    text = _links_of(content[0], (ROOT / "docs" / relative).resolve().parent)
    content[0] = text.replace(" ± ", "\u00a0±\u00a0")  # a wide table scrolls, its numbers are not broken


def _docstring(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Docstrings here are plain text: an indented part is shown as it is, and single marks mean nothing."""
    shown: list[str] = []
    literal = False
    for line in lines:
        indented = line.startswith(" ")
        if indented and not literal:
            shown += ["", "::", ""]
        if literal and line and not indented:
            shown.append("")
        literal = indented or (literal and not line)
        shown.append(line if literal else _MARKS.sub(lambda mark: "\\" + mark.group(0), line))
    lines[:] = shown


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("autodoc-process-docstring", _docstring)
    app.connect("source-read", _page)
    app.connect("include-read", _included)
