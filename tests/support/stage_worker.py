"""A driver for tests of the storage, without Ray: it makes shared stages and one of its own, and prints the result.

    python stage_worker.py STORAGE NAME LOG [--lease SECONDS] [--pause SECONDS]

``LOG`` gets a line for each stage that was built. The value of a stage is a function of its recipe alone.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import time
from dataclasses import dataclass
from pathlib import Path

from bsp_platform.storage import leases
from bsp_platform.storage.files import write_json
from bsp_platform.storage.stages import StageStore

SHARED = 3


@dataclass(frozen=True)
class Recipe:
    name: str
    number: int


def value(recipe: Recipe) -> str:
    return hashlib.sha256(f"{recipe}".encode()).hexdigest()


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("storage")
    options.add_argument("name")
    options.add_argument("log")
    options.add_argument("--lease", type=float, default=leases.LEASE_S)
    options.add_argument("--pause", type=float, default=0.3)
    given = options.parse_args()
    logging.basicConfig(level=logging.WARNING)
    leases.LEASE_S = given.lease
    store = StageStore(given.storage)
    out = []
    for recipe in [*(Recipe("shared", number) for number in range(SHARED)), Recipe(given.name, 0)]:

        def build(folder: Path, recipe: Recipe = recipe) -> dict:
            with open(given.log, "a") as log:
                log.write(f"{recipe.name} {recipe.number}\n")
            time.sleep(given.pause)
            write_json(folder / "value.json", {"value": value(recipe)})
            return {}

        folder, _ = store.ensure("things", recipe, build)
        out.append((folder / "value.json").read_text())
    print(hashlib.sha256("".join(out).encode()).hexdigest())


if __name__ == "__main__":
    main()
