"""The ``bsp`` command: its commands in the order of a user's way, each loaded when it is used.

It starts fast: this file needs click alone, and everything heavier than click is imported inside the commands.

Exit codes of all commands: 0 done; 1 an input is malformed or missing; 2 wrong usage; 3 done, but some videos were
left out, each named on stderr. With ``--json``, stdout holds one JSON document and nothing else.

To add a command: one ``Entry`` in ``COMMANDS``.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any, NamedTuple

import click

from bsp_platform.cli.common import CommandGroup
from bsp_platform.plain_text import escape_unencodable, say


class Entry(NamedTuple):
    """A command as the list of commands shows it, without loading it."""

    place: str  # module of bsp_platform.cli, ":", name of the click command in it
    line: str  # what it does
    example: str


COMMANDS: dict[str, dict[str, Entry]] = {
    "Your videos, in this order": {
        "check": Entry(
            "check:check",
            "Which videos are broken, short or odd; do the annotations fit?",
            "bsp check VIDEOS --annotations labels.csv",
        ),
        "pretrain": Entry(
            "pretrain:pretrain",
            "Train an encoder on boundaries made of your videos.",
            "bsp pretrain VIDEOS --pretext S --minutes 30 --out ENCODER",
        ),
        "extract": Entry(
            "check:extract",
            "Snippet features of videos, exactly as in training.",
            "bsp extract VIDEOS --model ENCODER --out FEATURES",
        ),
        "train": Entry(
            "train:train",
            "Train a head on features and annotations: a model folder.",
            "bsp train gtad --features FEATURES --annotations labels.csv --out MODEL",
        ),
        "detect": Entry(
            "look:detect",
            "Segments with label and score in a video, and a page to look at.",
            "bsp detect video.mp4 --model MODEL --out PAGES",
        ),
        "boundaries": Entry(
            "look:boundaries",
            "Where something changes in a video.",
            "bsp boundaries video.mp4 --model MODEL",
        ),
        "ground": Entry(
            "look:ground",
            "The moments of a video that a sentence describes.",
            'bsp ground video.mp4 "a person opens the door" --model MODEL',
        ),
        "demo": Entry(
            "demo:demo",
            "A rendered video, the model that comes with bsp, and the page.",
            "bsp demo",
        ),
    },
    "Features and scores": {
        "features": Entry(
            "features:features",
            "Features to and from other projects.",
            "bsp features export --features FEATURES --format openTAD --out DIR",
        ),
        "compare-features": Entry(
            "check:compare_features",
            "Are two folders of features on the same grid, and equal?",
            "bsp compare-features FEATURES OTHERS",
        ),
        "evaluate": Entry(
            "evaluate:evaluate",
            "Scores of anyone's result files, by the published protocols.",
            "bsp evaluate detection --ground-truth truth.json --predictions results.json",
        ),
        "weights": Entry(
            "features:weights",
            "What is in a file of published weights, and does it fit?",
            "bsp weights kinetics_rgb.pth",
        ),
        "export-encoder": Entry(
            "features:export_encoder",
            "A model's encoder as an ONNX file or a program of torch.export.",
            "bsp export-encoder --model MODEL --out encoder.onnx",
        ),
        "prepare": Entry(
            "prepare:prepare",
            "A small copy of a data set, from which clips are read faster.",
            "bsp prepare VIDEOS --out SMALL --short-side 128",
        ),
    },
    "What there is": {
        "runs": Entry(
            "runs:runs",
            "What is in a storage: age, size, and what uses it.",
            "bsp runs --storage storage",
        ),
        "gc": Entry(
            "runs:gc",
            "Remove from a storage what nothing needs.",
            "bsp gc --storage storage --unused --dry-run",
        ),
        "deliver": Entry(
            "tracking:deliver",
            "Send to MLflow what it lacks of the runs of a storage.",
            "bsp deliver --tracking-uri URI --show",
        ),
        "register": Entry(
            "tracking:register",
            "Copy a model folder into MLflow's registry.",
            "bsp register MODEL --name NAME --alias ALIAS",
        ),
        "completion": Entry(
            "runs:completion",
            "The shell completes commands, options and paths.",
            'eval "$(bsp completion bash)"',
        ),
    },
}


_CONTINUE = ("check", "detect", "extract", "prepare", "pretrain", "boundaries")  # where they were stopped


class Commands(CommandGroup):
    """The commands of ``COMMANDS``, in their order and groups; a command's module is imported when it is used."""

    def invoke(self, ctx: click.Context) -> Any:
        """As the other groups; who stops a command that can go on is told so."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            if ctx.invoked_subcommand in _CONTINUE:
                say("Stopped. The same command goes on from here.", err=True)
            raise

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Their names, in the order of use."""
        return [name for group in COMMANDS.values() for name, entry in group.items() if _is_there(entry)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, imported now; None if there is none of this name."""
        for group in COMMANDS.values():
            if cmd_name in group and _is_there(group[cmd_name]):
                module, _, attribute = group[cmd_name].place.partition(":")
                command = getattr(import_module(f"bsp_platform.cli.{module}"), attribute)
                assert isinstance(command, click.Command)
                return command
        return None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Each with a line on what it does and an example."""
        width = max(len(name) for group in COMMANDS.values() for name in group)
        for title, group in COMMANDS.items():
            there = [(name.ljust(width), entry) for name, entry in group.items() if _is_there(entry)]
            rows = [(name, f"\b\n{entry.line}\n{entry.example}") for name, entry in there]
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)


def _is_there(entry: Entry) -> bool:
    return find_spec(f"bsp_platform.cli.{entry.place.partition(':')[0]}") is not None


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="bsp-platform", prog_name="bsp")
def main() -> None:
    """Boundary-sensitive pre-training for temporal localisation in videos.

    Each command has its own --help, with examples. Exit codes: 0 done; 1 an input is malformed or missing; 2 wrong
    usage; 3 done, but some videos were left out.
    """
    escape_unencodable()


if __name__ == "__main__":
    main(prog_name="bsp")
