"""One report of all tables and figures: ``results/REPORT.md``, written from the JSON files that the scripts left."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bsp.errors import FileError
from bsp.files.text import parse_json
from bsp.io import write_text
from bsp_platform.plain_text import markdown_text
from bsp_platform.report.claims import APPEARS, NO_DIFFERENCE, REVERSED, claim_lines, holds, how_told
from bsp_platform.report.table_files import markdown_table
from bsp_platform.report.tables import of_papers, table_body

REPORT = "REPORT.md"
_ORDER = (APPEARS, NO_DIFFERENCE, REVERSED)


def write_report(results: Path, profile: str, names: Sequence[str], failures: dict[str, str]) -> Path:
    """Write the report of the scripts ``names`` for one profile; ``failures``: what went wrong, by script.

    FileError, naming it, for a damaged table.json or figure.json.
    """
    parts, claims, about = [], [], ""
    for name in names:
        folder = results / name / profile
        if (folder / "table.json").exists():
            with _read_own_json(folder / "table.json") as content:
                about = about or markdown_text(content["about"])
                claims += [claim for claim in content["claims"] if claim not in claims]
                parts.append("\n".join(_table(name, content, folder.relative_to(results))))
        elif (folder / "figure.json").exists():
            with _read_own_json(folder / "figure.json") as content:
                claims += content.get("claims", [])
                parts.append("\n".join(_figure(content, folder.relative_to(results), results)))
        if name in failures:
            parts += [f"**{name} failed:** {markdown_text(failures[name])}", ""]
    lines = [
        "# All tables and figures",
        "",
        f"Profile `{profile}`: {about}.",
        "Ours and the paper's numbers come from different data and must not be compared in value; what can be compared",
        "is which rows are above which others.",
        "",
        *_summary(claims),
        *parts,
    ]
    results.mkdir(parents=True, exist_ok=True)
    path = results / REPORT
    write_text(path, "\n".join(lines).rstrip() + "\n")
    return path


@contextmanager
def _read_own_json(path: Path) -> Iterator[dict[str, Any]]:
    """The content of a table.json or figure.json; FileError, naming it, if the block finds another layout."""
    content = parse_json(path.read_bytes(), path)
    try:
        yield content
    except (KeyError, IndexError, TypeError, AttributeError, ValueError, ArithmeticError) as error:
        raise FileError(
            f"{path}: not as this version writes it ({type(error).__name__}: {str(error)[:100]}); run its script again"
        ) from None


def _summary(claims: list[dict[str, Any]]) -> list[str]:
    """How many of the paper's relations appear, and which do not."""
    of_paper = [claim for claim in claims if claim["stated_by_paper"]]
    if not of_paper:
        return []
    counts = Counter(claim["verdict"] for claim in of_paper)
    found = ", ".join(f"{counts[v]} {v}" for v in (*_ORDER, *sorted(set(counts) - set(_ORDER))) if counts[v])
    absent = [claim for claim in of_paper if not holds(claim)]
    lines = [
        "## Which of the paper's relations appear",
        "",
        f"Of {len(of_paper)} relations that the paper states: {found}. A relation *appears* when the whole 95%",
        "interval of the difference is above 0, and is *reversed* when it is below. Otherwise there is no difference",
        "larger than the interval's farther end (by itself each interval is wrong in 1 of 20 cases).",
        *([how_told(of_paper)] if how_told(of_paper) else []),
        "",
    ]
    return [*lines, "Those that do not:", "", *markdown_table(claim_lines(absent)), ""] if absent else lines


def _relations(claims: list[dict[str, Any]]) -> list[str]:
    if not claims:
        return []
    told = how_told(claims)
    return [*markdown_table(claim_lines(claims)), "", *([told, ""] if told else [])]


def _table(name: str, content: dict[str, Any], folder: Path) -> list[str]:
    seeds, minutes = content["seeds"], content["duration_s"] / 60
    failed = [(row["label"], seed, why) for row in content["rows"] for seed, why in row["failures"].items()]
    return [
        f"## {content['title']}",
        "",
        f"Ours: {seeds} seed(s), percent{', mean ± standard deviation' if seeds > 1 else ''}. "
        f"{'. '.join(of_papers(content))}.",
        "",
        *markdown_table(table_body(content)),
        "",
        *([content["note"], ""] if content["note"] else []),
        *_relations(content["claims"]),
        *(f"- {markdown_text(label)} seed {seed} failed: {markdown_text(why)}" for label, seed, why in failed),
        f"`python experiments/{name}.py --profile {content['profile']} --seeds {seeds}`; last run {minutes:.1f} min",
        f"(stages in the storage are not made again); {content['hardware']}; commit {content['commit']}.",
        f"Files: [{folder}/]({folder}/).",
        "",
    ]


def _figure(content: dict[str, Any], folder: Path, results: Path) -> list[str]:
    pictures = sorted(path.relative_to(results) for path in (results / folder).glob("*.png"))
    return [
        f"## {content['title']}",
        "",
        *([markdown_text(content["caption"]), ""] if content.get("caption") else []),
        *(line for picture in pictures for line in (f"![{picture.stem}]({picture.as_posix()})", "")),
        *_relations(content.get("claims", [])),
    ]
