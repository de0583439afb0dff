"""Two drivers that share a storage: starts stage_worker.py as processes, and says what they must print."""

import hashlib
import subprocess
import sys
from pathlib import Path

from repository import SUPPORT
from stage_worker import SHARED, Recipe, value

WORKER = SUPPORT / "stage_worker.py"


def start(storage, name: str, log: Path, *options: str, env: dict | None = None) -> subprocess.Popen:
    command = [sys.executable, str(WORKER), str(storage), name, str(log), *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)


def expected(name: str) -> str:
    """What the worker prints, by its definition."""
    recipes = [*(Recipe("shared", number) for number in range(SHARED)), Recipe(name, 0)]
    text = "".join(f'{{\n "value": "{value(recipe)}"\n}}\n' for recipe in recipes)
    return hashlib.sha256(text.encode()).hexdigest()


def run_two_drivers(storage, tmp_path: Path, *options: str, env: dict | None = None) -> tuple[list[str], list[str]]:
    """What two drivers with shared stages print, and which stages were built, in order of name."""
    both = [start(storage, name, tmp_path / "log", *options, env=env) for name in ("first", "second")]
    printed = []
    for driver in both:
        out, errors = driver.communicate(timeout=120)
        assert driver.returncode == 0, errors
        printed.append(out.strip())
    return printed, sorted((tmp_path / "log").read_text().splitlines())


BUILT_ONCE = ["first 0", "second 0", *(f"shared {number}" for number in range(SHARED))]
