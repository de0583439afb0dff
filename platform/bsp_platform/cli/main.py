"""The ``bsp`` command. It starts fast: everything heavier than click is imported inside the commands.

Exit codes: 0 done, 1 an input is malformed or missing, 2 wrong usage.
"""

from __future__ import annotations

import click

from bsp_platform.cli.common import CommandGroup
from bsp_platform.cli.evaluate import evaluate
from bsp_platform.cli.features import features, weights
from bsp_platform.cli.prepare import prepare
from bsp_platform.cli.tracking import deliver
from bsp_platform.cli.train import train
from bsp_platform.plain_text import escape_unencodable


@click.group(cls=CommandGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="bsp-platform", prog_name="bsp")
def main() -> None:
    """Boundary-sensitive pre-training for temporal localisation in videos."""
    escape_unencodable()


for command in (deliver, evaluate, features, prepare, train, weights):
    main.add_command(command)
