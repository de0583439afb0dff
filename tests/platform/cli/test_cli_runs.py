"""``bsp runs`` and ``bsp gc``: what is in a storage, what uses it, and what may go; ``bsp completion``."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner

from bsp_platform.cli.main import main
from bsp_platform.storage.stages import StageStore
from bsp_platform.tracking.record import ShownStage, new_record, write_record
from s3_server import BUCKET, s3_server


@dataclass(frozen=True)
class EncoderRecipe:
    seed: int


@dataclass(frozen=True)
class FeatureRecipe:
    encoder: EncoderRecipe


@dataclass(frozen=True)
class HeadRecipe:
    streams: tuple[FeatureRecipe, ...]
    seed: int = 0


USED, UNUSED, TRIED = EncoderRecipe(1), EncoderRecipe(2), EncoderRecipe(3)
HEAD = HeadRecipe((FeatureRecipe(USED),))


def made(text: str, **facts):
    def build(folder: Path) -> dict:
        (folder / "content").write_text(text)
        return facts

    return build


def interrupted(folder: Path) -> dict:
    (folder / "_train").mkdir()
    (folder / "_train" / "state.pt").write_text("half")
    raise KeyboardInterrupt


def fill(address) -> StageStore:
    """A table's head with its features and encoder; an encoder that nothing uses; an unfinished try; one put aside."""
    store = StageStore(address)
    store.ensure("encoders", USED, made("12345", name="used_encoder"))
    store.ensure("features", HEAD.streams[0], made("1234567"))
    head, _ = store.ensure("heads", HEAD, made("123"))
    store.ensure("encoders", UNUSED, made("1", name="unused_encoder"))
    store.put_aside("encoders", UNUSED)
    store.ensure("encoders", UNUSED, made("1", name="unused_encoder"))
    with pytest.raises(KeyboardInterrupt):
        store.ensure("encoders", TRIED, interrupted)
    if store.bucket:
        store.files.upload(store.folder("encoders", TRIED), ["_train/state.pt"])
    record = new_record("table9", "key", "01 a row seed 0", {})
    write_record(
        store, record.__class__(**{**vars(record), "stages": (ShownStage(name=f"heads/{head.name}", prefix=""),)})
    )
    return store


def run(*arguments, **more):
    return CliRunner().invoke(main, [str(argument) for argument in arguments], **more)


def listed(store: StageStore) -> dict[str, dict]:
    done = run("runs", "--storage", store.address, "--json")
    assert done.exit_code == 0, done.output
    return {f"{one['kind']}/{one['state']}/{one['name']}": one for one in json.loads(done.stdout)["stages"]}


@pytest.fixture(scope="module")
def server():
    with s3_server() as running:
        yield running


@pytest.fixture(params=["folder", pytest.param("s3", marks=pytest.mark.server)])
def store(request, tmp_path, monkeypatch):
    if request.param == "folder":
        return fill(tmp_path / "storage")
    request.getfixturevalue("server")
    monkeypatch.setenv("BSP_CACHE", str(tmp_path / "cache"))
    return fill(f"s3://{BUCKET}/{request.node.name.split('[')[0]}/storage")


def test_stages_are_listed_with_what_uses_them_and_only_what_nothing_needs_is_removed(store):
    before = listed(store)
    assert set(before) == {
        "encoders/complete/used_encoder",
        "encoders/complete/unused_encoder",
        "encoders/incomplete/",
        "encoders/replaced/unused_encoder",
        "features/complete/used_encoder",
        "heads/complete/head: used_encoder, seed 0",
    }
    head = store.folder("heads", HEAD).name
    features = store.folder("features", HEAD.streams[0]).name
    assert sorted(before["encoders/complete/used_encoder"]["users"]) == [f"features/{features}", f"heads/{head}"]
    assert before["heads/complete/head: used_encoder, seed 0"]["users"] == ["table table9"]
    assert before["encoders/complete/unused_encoder"]["users"] == []
    assert before["encoders/incomplete/"]["bytes"] == len("half")
    assert [name for name, one in before.items() if one["needed"]] == [
        name for name in before if "/complete/" in name and "unused" not in name
    ]

    young = run("gc", "--storage", store.address, "--unused", "--yes")  # a week old by default: nothing is
    assert (young.exit_code, listed(store).keys()) == (0, before.keys())
    every = ("gc", "--storage", store.address, "--older-than", "0d")
    shown = run(*every, "--dry-run")
    assert "2 stages" in shown.stdout
    assert listed(store).keys() == before.keys()
    refused = run(*every, input="n\n")
    assert (refused.exit_code, listed(store).keys()) == (1, before.keys())
    done = run(*every, "--incomplete", "--replaced", "--unused", "--yes", "--json")
    assert done.exit_code == 0, done.output
    assert len(json.loads(done.stdout)["removed"]) == 3
    assert set(listed(store)) == {name for name in before if "used_encoder" in name and "unused" not in name}
    assert store.find("heads", HEAD)
    assert store.find("encoders", USED)
    assert not store.folder("encoders", UNUSED).exists()


def test_nothing_counts_as_unused_while_a_record_or_model_cannot_be_read(tmp_path):
    """Else the stages of a table whose record is damaged would go."""
    fill(tmp_path / "storage")
    arguments = ["gc", "--storage", str(tmp_path / "storage"), "--unused", "--older-than", "0d", "--yes"]
    (record,) = (tmp_path / "storage").glob("runs/**/*.json")
    whole = record.read_text()
    model = tmp_path / "storage" / "mine" / "model.json"
    model.parent.mkdir()
    before = sorted((tmp_path / "storage").rglob("content"))
    for path in (record, model):
        record.write_text(whole)
        path.write_text("{")
        result = CliRunner().invoke(main, arguments)
        assert (result.exit_code, "nothing counts as unused" in result.output) == (1, True)
        assert path.name in result.output
        assert sorted((tmp_path / "storage").rglob("content")) == before


def test_nothing_is_removed_while_somebody_makes_it_or_an_experiment_runs(tmp_path):
    store, every = fill(tmp_path), ("gc", "--storage", tmp_path, "--older-than", "0d", "--yes")
    held, go = threading.Event(), threading.Event()

    def hold(name: str) -> None:
        with store.claim(store.root / name):
            held.set()
            go.wait(60)

    for name, status, told in (
        ("table9", 1, "table9 runs with"),
        (f"encoders/{store.folder('encoders', TRIED).name}", 0, "in use, left: encoders/"),
    ):
        held.clear()
        go.clear()
        thread = threading.Thread(target=hold, args=(name,))
        thread.start()
        assert held.wait(60)
        done = run(*every)
        go.set()
        thread.join()
        assert done.exit_code == status, done.output
        assert told in done.stderr
        assert "encoders/incomplete/" in listed(store)
    assert run(*every).exit_code == 0
    assert "encoders/incomplete/" not in listed(store)


def test_a_damaged_stage_is_marked_and_rendered_data_are_no_stage(tmp_path):
    store = fill(tmp_path)
    (store.folder("encoders", UNUSED) / "content").write_text("longer")
    data = tmp_path / "pantomime" / ("0" * 16)
    data.mkdir(parents=True)
    (data / "manifest.json").write_text("{}")
    shown = run("runs", "--storage", tmp_path)
    assert "content has 6 bytes, its manifest says 1" in shown.stderr
    assert "encoders/damaged/unused_encoder" in listed(store)
    assert run("gc", "--storage", tmp_path, "--older-than", "0d", "--unused", "--incomplete", "--yes").exit_code == 0
    assert (data / "manifest.json").exists()


@pytest.mark.parametrize(
    "arguments", [("--older-than", "7"), ("--json",), ("--storage", "/no/such/folder")], ids=lambda given: given[0]
)
def test_wrong_usage_is_status_2(tmp_path, arguments):
    assert run("gc", "--storage", tmp_path, *arguments).exit_code == 2


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_bash_completes_commands_options_and_choices(tmp_path):
    program = tmp_path / "bsp"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m bsp_platform.cli.main "$@"\n')
    program.chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"

    def completed(line: str) -> list[str]:
        words = line.split(" ")
        code = (
            'eval "$(bsp completion bash)"\n'
            f"COMP_WORDS=({' '.join(word or repr('') for word in words)}); COMP_CWORD={len(words) - 1}\n"
            f'_bsp_completion bsp; printf "%s\\n" "${{COMPREPLY[@]}}"'
        )
        done = subprocess.run(
            ["bash", "-c", code],
            env={**os.environ, "PATH": path},
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        )
        return done.stdout.split()

    assert {"runs", "gc", "train", "completion"} <= set(completed("bsp "))
    assert completed("bsp gc --older") == ["--older-than"]
    assert completed("bsp completion z") == ["zsh"]
