"""Text as other programs write it: every reader reads a changed copy of its file as the clean one, or names it."""

from __future__ import annotations

import codecs
import csv
import io
import json

import pytest

from bsp.datasets.activitynet import load_activitynet, load_hacs
from bsp.datasets.charades_sta import load_charades_sta, read_durations
from bsp.datasets.class_scores import read_class_scores
from bsp.datasets.crosstask import load_crosstask
from bsp.datasets.gebd import load_gebd
from bsp.errors import AnnotationError
from bsp.features.store import read_features
from bsp.files.text import (
    clean_id,
    clean_label,
    delimiter_of,
    is_hidden,
    parse_json,
    read_csv,
    read_table,
    read_text,
    safe_name,
)
from text_readers import APPLE_DOUBLE, GEBD, NFC, NFD, READERS, VARIETIES, database, instance, write_files


def with_delimiter(text, delimiter):
    out = io.StringIO()
    csv.writer(out, delimiter=delimiter, lineterminator="\n").writerows(csv.reader(io.StringIO(text)))
    return out.getvalue()


@pytest.mark.parametrize("reader", READERS)
def test_every_reader_takes_every_variety_of_text(reader, tmp_path):
    files, read = READERS[reader]
    clean = read(write_files(tmp_path / "clean", files))
    assert clean
    for name, change in VARIETIES.items():
        assert read(write_files(tmp_path / name, files, change)) == clean, name


@pytest.mark.parametrize("reader", [name for name, (files, _) in READERS.items() if any(".csv" in f for f in files)])
@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_every_csv_may_have_semicolons_or_tabs_and_empty_columns_of_spreadsheets(reader, delimiter, tmp_path):
    files, read = READERS[reader]
    clean = read(write_files(tmp_path / "clean", files))
    other = {n: with_delimiter(t, delimiter) if n.endswith(".csv") else t for n, t in files.items()}
    assert other != files
    assert read(write_files(tmp_path / "other", other)) == clean
    if reader in ("THUMOS14", "Charades-STA", "Kinetics"):
        wide = {n: t.replace("\n", 2 * delimiter + "\n") if n.endswith(".csv") else t for n, t in other.items()}
        assert read(write_files(tmp_path / "wide", wide)) == clean


@pytest.mark.parametrize("reader", READERS)
def test_what_macos_leaves_beside_files_is_passed_over(reader, tmp_path):
    files, read = READERS[reader]
    clean = read(write_files(tmp_path / "clean", files))
    folder = write_files(tmp_path / "mac", files)
    for path in [path for path in folder.rglob("*") if path.is_file()]:
        path.with_name(f"._{path.name}").write_bytes(APPLE_DOUBLE)
    (folder / ".DS_Store").write_bytes(APPLE_DOUBLE)
    assert read(folder) == clean


@pytest.mark.parametrize("reader", READERS)
def test_text_of_an_old_windows_program_is_named_with_the_remedy(reader, tmp_path):
    files, read = READERS[reader]
    name = next(iter(files))
    folder = write_files(tmp_path, files)
    lines = files[name].split("\n")
    (folder / name).write_bytes("\n".join([lines[0] + "\xfc", *lines[1:]]).encode("latin-1", "replace"))
    with pytest.raises(AnnotationError) as error:
        read(folder)
    assert str(folder / name) in str(error.value)
    assert "line 1: not UTF-8 text (byte 0x" in str(error.value)
    assert "iconv -f WINDOWS-1252" in str(error.value)


# -- the functions themselves --


def test_utf16_without_its_mark_and_binary_files_are_named(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes("a,b\n1,2\n".encode("utf-16-le"))
    with pytest.raises(AnnotationError, match=r"a\.csv: line 1: a zero byte.*iconv -f UTF-16LE"):
        read_text(path)
    with pytest.raises(AnnotationError, match="more than 3 bytes"):
        read_text(path, max_bytes=3)
    with pytest.raises(AnnotationError, match="cannot be read"):
        read_text(tmp_path)
    with pytest.raises(AnnotationError, match="no zero byte"):
        read_text("a\0b")
    path.write_bytes(codecs.BOM_UTF16_LE + b"a\0b\0\n\0c")
    with pytest.raises(AnnotationError, match=r"not UTF-16-LE text"):
        read_text(path)


def test_json_with_a_key_twice_too_deep_or_cut_off_is_refused_at_its_place():
    assert parse_json(b'{"a": [1, 2.5, null, "\xc3\xa9"]}', "x") == {"a": [1, 2.5, None, "é"]}
    for content, message in (
        (b'{"database": {"v1": 1,\n "v1": 2}}', r'^f\.json: malformed JSON, .*duplicate key "v1" at line 2'),
        (b"[" * 100_000 + b"]" * 100_000, "recursion limit"),
        (b'{"a": 1', r"EOF.* line 1"),
        (b"", r"EOF"),
        (b"{'a': 1}", "line 1"),
    ):
        with pytest.raises(AnnotationError, match=message):
            parse_json(content, "f.json")


def test_whole_numbers_that_no_float_holds_are_named(tmp_path):
    big = "1" + "0" * 400
    path = tmp_path / "a.json"
    for text, read in (
        (f'{{"v1": {big}}}', read_durations),
        (f'{{"class": ["a"], "results": {{"v1": [{big}]}}}}', lambda p: read_class_scores(p, ["a"], ["v1"])),
        (
            json.dumps(database(v1=[])).replace("9", big),
            lambda p: load_activitynet(p, None, subsets=["validation"]),
        ),
    ):
        path.write_text(text)
        with pytest.raises(AnnotationError, match="v1") as error:
            read(path)
        assert len(str(error.value)) < 400


def test_csv_rows_have_their_lines(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('\ufeffa ; b,x\n\n " ; "\n"one\ntwo"; 3\n;\n')
    assert delimiter_of("a ; b,x") == ","  # as many of each: the comma
    path.write_text('\ufeffa ; b\n\n"one\ntwo"; 3\n;\n4;5;;\n')
    assert list(read_csv(path)) == [(1, ["a", "b"]), (4, ["one\ntwo", "3"]), (6, ["4", "5", "", ""])]
    assert list(read_table(path, ["b"])) == [(4, {"a": "one\ntwo", "b": "3"}), (6, {"a": "4", "b": "5"})]
    for content, message in (
        ("a,b\n1\n", "line 2: 1 fields, not 2: '1'"),
        ("a,b\n1,2,3\n", "line 2: 3 fields, not 2"),
        ("a,c\n1,2\n", "line 1: no column b, found 'a, c'; do this"),
        ("", "line 1: no column a, b, found 'nothing'"),
        ("a,b,a\n1,2,3\n", "line 1: the column 'a' twice"),
        ('a,b\n"1,2\n', "line 2: not valid CSV"),
    ):
        path.write_text(content)
        with pytest.raises(AnnotationError, match=message):
            list(read_table(path, ["a", "b"], remedy="do this"))


def test_labels_ids_and_hidden_names():
    for text in (f" {NFD}  au\tlait\n", f"\xa0{NFC} au lait"):
        assert clean_label(text) == f"{NFC} au lait"
    assert clean_label("Walk") != clean_label("walk")
    for text in ("v1", " v1\r", "v1.mp4", "v1.WEBM "):
        assert clean_id(text) == "v1"
    assert [clean_id(text) for text in (NFD, "v_1", "a.b", "v1.txt")] == [NFC, "v_1", "a.b", "v1.txt"]
    for clean in (clean_label, clean_id):
        for text in ("", "  "):
            with pytest.raises(ValueError, match="at least one character"):
                clean(text)
    assert [is_hidden(name) for name in ("._a.npy", "x/.DS_Store", "__MACOSX", "a._b", "_a")] == [True] * 3 + [
        False
    ] * 2


BAD_NAMES = ("", ".", "..", "../x", "/etc/passwd", "a/b", "a\\b", "C:\\x", "a\0b", "a\nb", "._a", " a", "a ", "ü" * 200)


@pytest.mark.parametrize("name", BAD_NAMES)
def test_ids_that_are_no_file_names_are_refused_wherever_they_would_become_one(name, tmp_path):
    with pytest.raises(AnnotationError, match=r"^list, line 3: .* cannot be a file name: it "):
        safe_name(name, "list, line 3")
    with pytest.raises(AnnotationError, match="cannot be a file name"):
        read_features(tmp_path, name)
    if name != name.strip() or not name:
        return  # blanks around ids are taken off before
    document = tmp_path / "a.json"
    document.write_text(json.dumps(database(good=[], **{name: [instance("x")]})))
    for load in (load_activitynet, load_hacs):
        with pytest.raises(AnnotationError, match="cannot be a file name"):
            load(document, None, subsets=["validation"])
    document.write_text(json.dumps({name: GEBD}))
    with pytest.raises(AnnotationError, match="cannot be a file name"):
        load_gebd(document, subset="training")
    if "\n" in name or "\0" in name:
        return  # no field of the text files below
    files = READERS["CrossTask"][0]
    for part in ("11", "video_1"):
        changed = {n: t.replace(part, name) if "annotations" not in n else t for n, t in files.items()}
        with pytest.raises(AnnotationError, match="cannot be a file name"):
            load_crosstask(write_files(tmp_path / part, changed))
    files = {n: t.replace("AB1XY", name) for n, t in READERS["Charades-STA"][0].items()}
    with pytest.raises(AnnotationError, match="cannot be a file name"):
        load_charades_sta(write_files(tmp_path / "charades", files))


def test_good_names_stay():
    for name in ("-DGsqL65o4k", "_a-b", "v_x", NFC, "a.b", "a b", "video~1"):
        assert safe_name(name, "x") == name
