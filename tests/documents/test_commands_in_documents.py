"""Commands and files that the documents name exist."""

from __future__ import annotations

import re
import shlex

import click
import pytest

from bsp_platform.cli.main import main
from documents import blocks, commands, documents
from repository import ROOT


def bsp_calls() -> list[tuple[str, str]]:
    """(document, command) of every ``bsp ...`` in a code block."""
    found = []
    for path in documents():
        for _, text in blocks(path):
            found += [(path.relative_to(ROOT).as_posix(), c) for c in commands(text) if c.startswith("bsp ")]
    return found


def complaint(call: str) -> str:
    """What a ``bsp`` command line has that the program does not: "" if nothing."""
    words = shlex.split(re.split(r"\s(?:\|\|?|&&|>|2>|;)\s", call)[0])[1:]
    command: click.Command = main
    context = click.Context(main, info_name="bsp")
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        found = command.get_command(context, words[0])
        if found is None:
            return f"no command {words[0]!r} in {context.command_path!r}"
        command, context = found, click.Context(found, info_name=words.pop(0), parent=context)
    known = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    known |= {"--help", "-h", "--version"}
    unknown = [word.split("=")[0] for word in words if word.startswith("--") and word.split("=")[0] not in known]
    return f"{context.command_path} has no {' '.join(unknown)}" if unknown else ""


def test_commands_in_documents_exist_with_their_options() -> None:
    calls = bsp_calls()
    assert len(calls) > 20
    wrong = [f"{document}: {call!r}: {said}" for document, call in calls if (said := complaint(call))]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        ("bsp evaluate detection --ground-truth a.json --predictions b.json", ""),
        ("bsp evaluate detection --truth a.json", "--truth"),
        ("bsp evaluates", "'evaluates'"),
        ("bsp evaluate nothing", "'nothing'"),
    ],
)
def test_the_check_above_notices_names_that_are_wrong(call: str, said: str) -> None:
    assert said in complaint(call)
    assert bool(said) == bool(complaint(call))


def test_make_targets_and_scripts_in_documents_exist() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    targets = set(re.findall(r"^([\w-]+):", makefile, re.MULTILINE)) | set(re.findall(r"([\w-]+)=\w+", makefile))
    wrong = []
    for path in documents():
        for _, text in blocks(path):
            for command in commands(text):
                words = command.split()
                if words[0] == "make":
                    wrong += [f"{path.name}: make {w}" for w in words[1:2] if w not in targets and "=" not in w]
                scripts = [w for w in words if re.fullmatch(r"(experiments|tests)/[\w/]+\.(py|sh)", w)]
                wrong += [f"{path.name}: {script}" for script in scripts if not (ROOT / script).exists()]
    assert not wrong, "\n".join(wrong)
