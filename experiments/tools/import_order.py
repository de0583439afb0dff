"""The order of imports between the sub-packages, as a picture: python experiments/tools/import_order.py (make layout).

Every arrow points from a sub-package to one that it imports; a box stands above all that it imports. Writes
docs/import_order.svg. tests/test_layout.py reads the same arrows and refuses circles.
"""

from __future__ import annotations

import ast
import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path

import click

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = {"bsp": ROOT / "bsp", "bsp_platform": ROOT / "platform" / "bsp_platform"}
Arrows = Mapping[str, set[str]]  # sub-package -> sub-packages that it imports


def imports(source: str) -> Iterator[tuple[int, str]]:
    """Yields (line, absolute dotted module) of every import in ``source``, also inside functions and branches.

    Relative imports are left out: they cannot leave their own package. ``from a.b import c`` yields a.b and a.b.c, as
    c may be a module. ``import_module("x")`` and ``__import__("x")`` count when the name is written as a string.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.lineno, node.module
            for alias in node.names:
                yield node.lineno, f"{node.module}.{alias.name}"
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name in ("import_module", "__import__") and isinstance(node.args[0].value, str):
                yield node.lineno, node.args[0].value


def modules(packages: Mapping[str, Path] = PACKAGES) -> dict[str, Path]:
    """Dotted name -> file of every module; packages have the name of their folder."""
    found = {}
    for name, folder in packages.items():
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            found[".".join((name, *(part for part in parts if part != "__init__")))] = path
    return found


def sub_package(module: str, path: Path) -> str:
    """The box of a module: its folder. Modules of the top folder are boxes of their own."""
    if path.name == "__init__.py" or module.count(".") == 1:
        return module
    return module.rpartition(".")[0]


def arrows(packages: Mapping[str, Path] = PACKAGES) -> dict[str, set[str]]:
    """The imports between sub-packages. Imports of a package's mere name do not count, nor those for types only."""
    files = modules(packages)
    box = {module: sub_package(module, path) for module, path in files.items()}
    found: dict[str, set[str]] = {name: set() for name in box.values() if name not in packages}
    for module, path in files.items():
        for _, target in imports(_without_types(path.read_text("utf-8"))):
            if target in box and target not in packages and module not in packages and box[target] != box[module]:
                found[box[module]].add(box[target])
    return found


def _without_types(source: str) -> str:
    """``source`` without its ``if TYPE_CHECKING:`` blocks."""
    tree = ast.parse(source)
    tree.body = [
        node for node in tree.body if not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test))
    ]
    return ast.unparse(tree)


def floors(found: Arrows) -> dict[str, int]:
    """Floor of every sub-package: 0 imports nothing, others stand one above the highest that they import.

    ValueError names the sub-packages of a circle.
    """
    floor: dict[str, int] = {}
    rest = dict(found)
    while rest:
        ready = [name for name, needed in rest.items() if needed <= floor.keys()]
        if not ready:
            raise ValueError(f"imports in a circle, among {', '.join(sorted(rest))}")
        for name in ready:
            floor[name] = 1 + max((floor[other] for other in rest.pop(name)), default=-1)
    return floor


def draw(found: Arrows, out: Path) -> None:
    """Writes the picture. An arrow that follows from two others is left out."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "import_order"  # the same file every time
    from matplotlib import pyplot as plt

    floor = floors(found)
    reach: dict[str, set[str]] = {}
    for name in sorted(found, key=floor.__getitem__):
        reach[name] = set(found[name]).union(*(reach[other] for other in found[name]))
    height, places = max(floor.values()) + 1, {}
    figure, axes = plt.subplots(figsize=(14, 1.05 * height))
    for level, ours in itertools.product(range(height), (False, True)):  # bsp on the left, the platform on the right
        row = sorted(name for name in floor if floor[name] == level and name.startswith("bsp_platform") == ours)
        for column, name in enumerate(row):
            places[name] = (0.5 * ours + (column + 0.5) / len(row) / 2, level)
            axes.text(
                *places[name], name.removeprefix("bsp_platform.") if ours else name, ha="center", va="center",
                fontsize=9,
                bbox={"boxstyle": "round,pad=0.35", "facecolor": "#ffe8cc" if ours else "#d7e9fb", "edgecolor": "#555"},
            )  # fmt: skip
    for name, needed in found.items():
        for other in needed - set().union(*(reach[between] for between in needed)):
            axes.annotate(
                "", xy=places[other], xytext=places[name], zorder=0,
                arrowprops={"arrowstyle": "->", "color": "#999", "shrinkA": 12, "shrinkB": 12},
            )  # fmt: skip
    axes.set(xlim=(0, 1), ylim=(-0.5, height - 0.5))
    axes.axis("off")
    figure.savefig(out, bbox_inches="tight", metadata={"Date": None})
    plt.close(figure)


@click.command(help=__doc__)
@click.option("--out", type=click.Path(path_type=Path), default=ROOT / "docs" / "import_order.svg", show_default=True)
def main(out: Path) -> None:
    """Draw the picture and print the floors."""
    found = arrows()
    floor = floors(found)
    for level in range(max(floor.values()) + 1):
        click.echo(f"{level:2}  " + "  ".join(sorted(name for name in floor if floor[name] == level)))
    draw(found, out)
    click.echo(f"wrote {out}")


if __name__ == "__main__":
    main()
