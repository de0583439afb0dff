"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import resource

import pytest

from bsp.io import atomic_path, write_json, write_text


def test_a_file_is_replaced_whole_and_its_folder_made(tmp_path):
    path = tmp_path / "new" / "a.txt"
    write_text(path, "ä")
    write_text(path, "b")
    write_json(path.with_name("a.json"), {"b": 1, "a": [2]})
    assert path.read_bytes() == b"b"
    assert path.with_name("a.json").read_text() == '{\n "a": [\n  2\n ],\n "b": 1\n}\n'
    assert sorted(found.name for found in path.parent.iterdir()) == ["a.json", "a.txt"]


def test_a_name_may_be_as_long_as_the_system_allows(tmp_path):
    write_text(tmp_path / ("ä" * 125 + ".json"), "x")
    assert [len(path.name.encode()) for path in tmp_path.iterdir()] == [255]


def test_until_the_end_of_the_block_the_old_file_is_there(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with atomic_path(path) as partial:
        partial.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"


def test_a_folder_takes_the_place_of_an_empty_one_only(tmp_path):
    folder = tmp_path / "out"
    for number in range(2):
        folder.mkdir(exist_ok=True)
        try:
            with atomic_path(folder) as partial:
                partial.mkdir()
                (partial / f"{number}.txt").touch()
        except OSError:
            assert number == 1
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "0.txt"]


@pytest.mark.parametrize("is_folder", [False, True])
def test_after_an_error_nothing_is_left_but_what_was_there(tmp_path, is_folder):
    path = tmp_path / "a"
    path.mkdir() if is_folder else path.write_text("old")

    def stop() -> None:
        with atomic_path(path) as partial:
            if is_folder:
                partial.mkdir()
            (partial / "x" if is_folder else partial).write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stop()
    assert list(tmp_path.rglob("*")) == [path]
    assert is_folder or path.read_text() == "old"


def test_a_file_that_the_system_cuts_short_is_not_left(tmp_path):
    path = tmp_path / "table.md"
    write_text(path, "old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            write_text(path, "new" * 1000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_text("utf-8") == "old"
    assert list(tmp_path.iterdir()) == [path]
