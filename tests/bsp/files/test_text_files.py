"""Text as other programs write it: every reader reads a changed copy of its file as the clean one, or names it."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import json
import unicodedata

import numpy as np
import pytest

from bsp.datasets.activitynet import find_videos, load_activitynet, load_hacs
from bsp.datasets.charades_sta import load_charades_sta, read_durations
from bsp.datasets.class_scores import read_class_scores
from bsp.datasets.crosstask import load_crosstask, read_tasks
from bsp.datasets.gebd import load_gebd, load_gebd_folder
from bsp.datasets.kinetics import load_class_folders, load_kinetics_csv, read_kinetics_csv
from bsp.datasets.results_json import check_ground_truth, prediction_columns, read_video_ids
from bsp.datasets.thumos14 import load_thumos14
from bsp.errors import AnnotationError
from bsp.features.interchange import import_features, uniform_record
from bsp.features.interchange_files import find_arrays
from bsp.features.store import FeatureInfo, read_features, write_features
from bsp.files.text import (
    clean_id,
    clean_label,
    delimiter_of,
    is_hidden,
    parse_json,
    read_csv,
    read_json,
    read_table,
    read_text,
    safe_name,
)
from bsp.localization.grounding.words import load_glove
from bsp.metrics.actionness import evaluate_actionness
from bsp.metrics.grounding import evaluate_grounding
from bsp.video.prepared_folder import find_videos as find_listed
from make_videos import numbered_frames, write_video

APPLE_DOUBLE = b"\0\5\26\7\0\2\0\0\231"  # how a "._name" begins
NFC, NFD = "Café", "Cafe\u0301"
assert NFC != NFD == unicodedata.normalize("NFD", NFC)


# -- one file or folder per reader: its clean files, and what is read of them --


def database(**videos):
    return {"database": {name: {"subset": "validation", "duration": 9, "annotations": a} for name, a in videos.items()}}


def instance(label, start_s=1.0, end_s=2.0):
    return {"label": label, "segment": [start_s, end_s]}


GEBD = {
    "num_frames": 100, "path_video": "a/clip.mp4", "fps": 10, "video_duration": 10.0, "f1_consis": [1],
    "f1_consis_avg": 1.0, "substages_timestamps": [[2.5]], "substages_myframeidx": [[25]],
}  # fmt: skip
TASKS = "11\nMake Tea\nhttp://a.org/b\n2\nboil water,pour water\n\n22\nTire\nhttp://a.org/c\n1\nlift car\n\n"
CHARADES = "id,script,length\nAB1XY,Ünïcode,10.5\n"
READERS = {
    "ActivityNet": (
        {"a.json": json.dumps(database(v1=[instance(NFC)], v2=[]))},
        lambda f: load_activitynet(f / "a.json", None, subsets=["validation"]).videos,
    ),
    "HACS": (
        {"a.json": json.dumps(database(v1=[instance(NFC)], v2=[]))},
        lambda f: load_hacs(f / "a.json", None, subsets=["validation"]).videos,
    ),
    "detections": (
        {"a.json": json.dumps({"results": {"v1": [instance(NFC) | {"score": 0.5}]}})},
        lambda f: prediction_columns(read_json(f / "a.json"), videos=["v1"], class_names=[NFC]).label.tolist(),
    ),
    "THUMOS14": (
        {
            "val_Annotation.csv": "video,type,type_idx,start,end\nv1,Diving,26,0.0,3.5\nv1,Ambiguous,0,4,5\n",
            "test_Annotation.csv": "video,type,type_idx,start,end\nv2,Diving,26,0.5,3.5\n",
            "test_groundtruth.csv": "video-name,t-init,video-duration\nv2,0.2,33.75\n",
            "thumos_gt.json": json.dumps({"database": {"v2": {"subset": "test", "annotations": [instance("Diving")]}}}),
        },
        lambda f: (load_thumos14(f).videos, load_thumos14(f).class_names),
    ),
    "Charades-STA": (
        {
            "charades_sta_train.txt": "AB1XY 0.0 6.9##a person enters a café.\nAB1XY 1 2##person runs.\n",
            "charades_sta_test.txt": "CD2XY 3.18 9##person drinks water.\n",
            "Charades_v1_train.csv": CHARADES,
            "Charades_v1_test.csv": CHARADES.replace("AB1XY", "CD2XY"),
        },
        lambda f: (load_charades_sta(f).videos, load_charades_sta(f).moments),
    ),
    "durations": ({"a.json": '{"AB1XY": 10.5, "v2": "3"}'}, lambda f: read_durations(f / "a.json")),
    "CrossTask": (
        {
            "tasks_primary.txt": TASKS,
            "videos.csv": "11,video_1,http://a.org/v=1\n22,video_2,http://a.org/v=2\n",
            "annotations/11_video_1.csv": "1,0.5,2.5\n2,2.5,4.0\n",
            "annotations/22_video_2.csv": "1,0.5,2.5\n",
        },
        lambda f: (load_crosstask(f).tasks, load_crosstask(f).videos),
    ),
    "Kinetics": (
        {"a.csv": f"label,youtube_id,time_start,time_end,split,is_cc\n{NFC} au lait,abc,1,11,train,0\n"},
        lambda f: read_kinetics_csv(f / "a.csv"),
    ),
    "Kinetics-GEBD": (
        {"k400_train.json": json.dumps({"c1": GEBD}), "k400_val.json": json.dumps({"c2": GEBD})},
        lambda f: load_gebd_folder(f, find_files=False).videos,
    ),
    "class scores": (
        {"a.json": json.dumps({"class": [NFC, "walk"], "results": {"v1": [0.25, 0.75]}})},
        lambda f: {v: row.tolist() for v, row in read_class_scores(f / "a.json", ["walk", NFC], ["v1"]).items()},
    ),
    "blocked videos": ({"a.json": '["v1", "v2"]'}, lambda f: read_video_ids(f / "a.json")),
    "blocked videos, text": ({"a.txt": "v1\nv2\n"}, lambda f: read_video_ids(f / "a.txt")),
    "GloVe": (
        {"a.txt": f"the 0.5 -1 2\n{NFC} 4 5 6\nthe 7 8 9\n"},
        lambda f: (load_glove(f / "a.txt").words, load_glove(f / "a.txt").vectors.tolist()),
    ),
    "videos to prepare": ({"a.txt": f"b.mp4\nc d/{NFC}.mkv\n"}, lambda f: find_listed(f / "a.txt")[1]),
    "features as CSV": (
        {"v1.csv": "f0,f1\n0.5,1.5\n2.5,3.5\n", "v2.csv": "0,1\n0.25,nan\n"},
        lambda f: [(a.name, a.read().tobytes()) for a in find_arrays(f, "csv")],
    ),
}  # fmt: skip
VARIETIES = {
    "UTF-8 with mark": lambda text: codecs.BOM_UTF8 + text.encode(),
    "UTF-16, little end first": lambda text: codecs.BOM_UTF16_LE + text.encode("utf-16-le"),
    "UTF-16, big end first": lambda text: codecs.BOM_UTF16_BE + text.encode("utf-16-be"),
    "UTF-32": lambda text: codecs.BOM_UTF32_LE + text.encode("utf-32-le"),
    "Windows line ends": lambda text: text.replace("\n", "\r\n").encode(),
    "mark and Windows line ends": lambda text: codecs.BOM_UTF8 + text.replace("\n", "\r\n").encode(),
    "blanks at line ends": lambda text: text.replace("\n", " \n").encode(),
    "no last line end": lambda text: text.rstrip("\n").encode(),
    "gzip": lambda text: gzip.compress(text.encode()),
    "gzipped UTF-16": lambda text: gzip.compress(text.encode("utf-16")),
}


def write_files(folder, files, change=str.encode):
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(change(text))
    return folder


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


# -- labels and ids that are written in two ways --


def test_labels_are_compared_as_cleaned_on_every_side(tmp_path):
    labels = {f"  {NFD} au  lait": 0, f"{NFC} au lait ": 0, "walk\n": 1}
    truth = database(v1=[instance(label) for label in labels])
    columns = [row["label"] for row in check_ground_truth(truth)["v1"]["annotations"]]
    assert columns == [f"{NFC} au lait"] * 2 + ["walk"]
    found = {"results": {"v1": [instance(label) | {"score": 1} for label in labels]}}
    predicted = prediction_columns(found, videos=["v1"], class_names=[f"{NFC} au lait", "walk"])
    assert predicted.label.tolist() == list(labels.values())[:1] * 2 + [1]
    path = tmp_path / "scores.json"
    path.write_text(json.dumps({"class": [f" {NFD}  au lait", "walk "], "results": {" v1.mp4": [0.25, 0.75]}}))
    assert read_class_scores(path, ["walk", f"{NFC} au lait"], ["v1"])["v1"].tolist() == [0.75, 0.25]
    path.write_text(json.dumps({"class": ["walk", "walk "], "results": {"v1": [0.25, 0.75]}}))
    with pytest.raises(AnnotationError, match="'walk' stands twice"):
        read_class_scores(path, ["walk"], ["v1"])


def in_thumos(first, second):
    files = dict(READERS["THUMOS14"][0])
    files["val_Annotation.csv"] = f"video,type,type_idx,start,end\nv1,{first},26,0,3\nv1,{second},26,4,5\n"
    return files, load_thumos14, r"line 3: the class 'diving', but 'Diving' in .*val_Annotation.csv: line 2"


def in_kinetics(first, second):
    text = f"label,youtube_id,time_start,time_end\n{first},a,0,3\n{second},b,4,5\n"
    return (
        {"a.csv": text},
        lambda f: read_kinetics_csv(f / "a.csv"),
        "line 3: the label 'diving', but 'Diving' in .*line 2",
    )


def in_activitynet(first, second):
    text = json.dumps(database(v1=[instance(first)], v2=[instance("x"), instance(second)]))
    place = r"database\.v2\.annotations\[1\]: the label 'diving', but 'Diving' in .*database\.v1\.annotations\[0\]"
    return {"a.json": text}, lambda f: load_activitynet(f / "a.json", None, subsets=["validation"]), place


def in_class_scores(first, second):
    text = json.dumps({"class": [first, second], "results": {"v": [1, 0]}})
    place = r"class\[1\]: the class 'diving', but 'Diving' in .*class\[0\]"
    return {"a.json": text}, lambda f: read_class_scores(f / "a.json", [first], ["v"]), place


def in_crosstask(first, second):
    text = f"11\nTea\nhttp://a.org/b\n2\n{first},{second}\n"
    return {"t.txt": text}, lambda f: read_tasks(f / "t.txt"), "line 5: the step 'diving', but 'Diving' in"


def in_predictions(first, second):
    text = json.dumps({"results": {"v": [instance(first) | {"score": 1}, instance(second) | {"score": 1}]}})
    place = r"results\.v\[1\]\.label: 'diving', but the ground truth has 'Diving'"
    return (
        {"a.json": text},
        lambda f: prediction_columns(read_json(f / "a.json"), videos=[], class_names=["Diving"]),
        place,
    )


@pytest.mark.parametrize("of", [in_thumos, in_kinetics, in_activitynet, in_class_scores, in_crosstask, in_predictions])
def test_labels_that_differ_only_in_case_are_named_with_both_places(of, tmp_path):
    files, read, message = of("Diving", "diving")
    with pytest.raises(AnnotationError, match=message):
        read(write_files(tmp_path / "bad", files))
    files, read, _ = of("Diving", "Jumping")
    assert read(write_files(tmp_path / "good", files))


def test_subsets_in_another_case_are_named(tmp_path):
    path = tmp_path / "a.json"
    document = database(v1=[instance("x")], v2=[instance("x")])
    document["database"]["v1"]["subset"] = " validation"
    path.write_text(json.dumps(document))
    assert len(load_activitynet(path, None, subsets=["validation"]).videos) == 2
    document["database"]["v1"]["subset"] = "Validation"
    path.write_text(json.dumps(document))
    with pytest.raises(AnnotationError, match=r"database\.v2\.subset: the subset 'validation', but 'Validation' in"):
        load_activitynet(path, None, subsets=["validation"])
    document["database"].pop("v2")
    path.write_text(json.dumps(document))
    with pytest.raises(AnnotationError, match=r"no video has the subset 'validation'; subsets present: Validation"):
        load_activitynet(path, None, subsets=["validation"])


def test_testing_videos_may_come_without_annotations(tmp_path):
    document = database(v1=[instance("x")])
    for number, rest in enumerate(({}, {"annotations": None}, {"annotations": []})):
        document["database"][f"t{number}"] = {"subset": ("testing", "Testing ", "test")[0], "duration": 5} | rest
    assert [len(record["annotations"]) for record in check_ground_truth(document).values()] == [1, 0, 0, 0]
    document["database"]["t0"]["subset"] = "training"
    with pytest.raises(AnnotationError, match=r"database\.t0\.annotations: is missing"):
        check_ground_truth(document, "f.json")


def test_two_ids_of_one_video_are_refused():
    for first, second in (("v1", "v1 "), ("v1", "v1.mp4"), (NFC, NFD)):
        with pytest.raises(AnnotationError, match="are the same video"):
            check_ground_truth(database(**{first: [], second: []}))
        with pytest.raises(AnnotationError, match=r"^p: results: .* are the same video"):
            prediction_columns({"results": {first: [], second: []}}, videos=[], class_names=[], name="p")
    with pytest.raises(AnnotationError, match=r"database: ' ': an id has at least one character"):
        check_ground_truth(database(**{" ": []}))


def test_blocked_ids_may_be_file_names():
    found = {"results": {name: [] for name in ("a", "b", "c", "v_d")}}
    blocked = [" a.mp4", "v_b", "v_d"]
    assert prediction_columns(found, videos=[], class_names=[], blocked=blocked).videos == ("c",)


@pytest.mark.parametrize(
    ("video_id", "file"),
    [
        (NFC, f"{NFD}.mp4"),
        (NFD, f"{NFC}.mkv"),
        (NFC, f"v_{NFD}.mp4"),
        ("v_abc", "abc.mp4"),
        ("abc", "v_abc.MP4"),
        ("v_abc", "v_v_abc.mp4"),
        ("a.b", "a.b.webm"),
    ],
)
def test_videos_are_found_by_any_spelling_of_their_name(video_id, file, tmp_path):
    for name in (file, f"._{file}", "other.mp4"):
        (tmp_path / name).touch()
    assert find_videos(tmp_path, [video_id, "absent"]) == {video_id: str(tmp_path / file)}


def test_one_file_is_not_two_videos(tmp_path):
    (tmp_path / "v_abc.mp4").touch()
    with pytest.raises(AnnotationError, match=r"v_abc\.mp4: would be both 'abc' and 'v_abc'"):
        find_videos(tmp_path, ["abc", "v_abc"])
    (tmp_path / "v_v_abc.mp4").touch()
    assert find_videos(tmp_path, ["abc", "v_abc"]) == {
        "abc": str(tmp_path / "v_abc.mp4"), "v_abc": str(tmp_path / "v_v_abc.mp4")
    }  # fmt: skip


def test_kinetics_finds_folders_and_files_with_decomposed_accents(tmp_path):
    frames = numbered_frames(16)
    for folder, name in ((f"{NFD}_au_lait", "abc_000001_000011"), ("Walk", f"{NFD}_000000_000004")):
        (tmp_path / "videos" / folder).mkdir(parents=True)
        write_video(tmp_path / "videos" / folder / f"{name}.mp4", frames)
        (tmp_path / "videos" / folder / f"._{name}.mp4").write_bytes(APPLE_DOUBLE)
    text = f"label,youtube_id,time_start,time_end\n {NFC} au  lait,abc,1,11\nwalk,{NFC},0,4\n"
    write_files(tmp_path, {"train.csv": text})
    catalog = load_kinetics_csv(tmp_path / "train.csv", tmp_path / "videos", workers=0, progress=False)
    assert catalog.class_names == (f"{NFC} au lait", "walk")
    assert catalog.labels.tolist() == [0, 1]
    assert catalog.skipped == ()
    classes = load_class_folders(tmp_path / "videos", workers=0, progress=False)
    assert classes.class_names == (f"{NFC}_au_lait", "Walk")
    (tmp_path / "videos" / "walk").mkdir()
    (tmp_path / "videos" / "Walk" / f"{NFD}_000000_000004.mp4").rename(tmp_path / "videos" / "walk" / "a.mp4")
    write_video(tmp_path / "videos" / "Walk" / "b.mp4", frames)
    with pytest.raises(AnnotationError, match="the class folder 'walk', but 'Walk' in"):
        load_class_folders(tmp_path / "videos", workers=0, progress=False)


def test_grounding_and_actionness_match_ids_and_sentences_as_cleaned():
    truth = [{"video": "v1", "sentence": f"person enters a {NFC}.", "start_s": 0, "end_s": 5, "duration_s": 9}]
    found = [{"video": "v1.mp4", "sentence": f" person  enters a {NFD}.", "moments": [[0, 5, 1]]}]
    assert evaluate_grounding(truth, found, protocol="lgi")["percent"]["mIoU"] == 100
    truth = {"segment_s": 1.0, "videos": {"v1": {"task": "t", "duration_s": 3, "steps": [[0, 1]]}}}
    report = evaluate_actionness(truth, {"segment_s": 1.0, "scores": {"v1.mp4 ": [1, 0, 0]}})
    assert report["AP"] == 1
    assert report["videos"]["missing"] == report["videos"]["unknown"] == 0


# -- features --


def record(video_id, rows):
    return FeatureInfo(
        video_id=video_id, frames=8 * rows, fps=25.0, snippet_frames=8, stride_frames=8, offset_frames=0, size_px=32,
        mean=(), std=(), feature_width=2, snippets=rows, encoder_hash="e", code_version=1,
    )  # fmt: skip


def test_folders_of_features_pass_hidden_files_over(tmp_path):
    write_features(tmp_path, "v1", np.ones((3, 2), np.float32), record("v1", 3))
    for suffix in (".npy", ".json"):
        (tmp_path / f"._v1{suffix}").write_bytes(APPLE_DOUBLE)
    assert uniform_record(tmp_path)[0] == ["v1"]


def test_features_whose_accents_were_decomposed_on_the_way_are_found(tmp_path):
    feat_SD = np.arange(6, dtype=np.float32).reshape(3, 2)
    write_features(tmp_path, NFC, feat_SD, record(NFC, 3))
    for suffix in (".npy", ".json"):
        (tmp_path / f"{NFC}{suffix}").rename(tmp_path / f"{NFD}{suffix}")
    assert uniform_record(tmp_path)[0] == [NFC]
    assert np.array_equal(read_features(tmp_path, NFC)[0], feat_SD)


def test_clips_of_gebd_lie_in_folders_of_their_class_in_any_spelling_and_nowhere_above(tmp_path):
    clips = {"a": f"{NFC} au lait/a_0_9.mp4", "b": "walk/b_0_9.mp4", "c": "../c_0_9.mp4", "d": "x/../../d_0_9.mp4"}
    text = json.dumps({clip: GEBD | {"path_video": path} for clip, path in clips.items()})
    folder = write_files(tmp_path, {"g.json": text}) / "videos"
    places = (f"{NFD}_au_lait/a_0_9.mp4", "walk/b_0_9.webm", "walk/._b_0_9.mp4", "../c_0_9.mp4", "../d_0_9.mp4")
    for place in places:
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        (folder / place).touch()
    data = load_gebd(tmp_path / "g.json", folder, subset="training")
    expected = [str(folder / places[0]), str(folder / places[1]), None, None]
    assert [video.path for video in data.videos] == expected
    assert data.missing == ("c", "d")


@pytest.mark.parametrize(
    "first_line", ["0.5,1.5", "\ufeff0.5,1.5", "nan,1.5", "1.5,nan", "inf,-inf", "0.5;1.5", "0.5,N/A", "1,0", " 0.5 ,1"]
)
def test_a_first_line_of_features_is_never_lost(first_line, tmp_path):
    """What would be read by a program that takes line 1 for names has a row less: refused, with the line."""
    folder = write_files(tmp_path / "f", {"a.csv": f"{first_line}\n2.5,3.5\n4.5,5.5\n"})
    with pytest.raises(AnnotationError, match=r"a\.csv: line 1 begins with"):
        import_features(folder, tmp_path / "out", layout="csv", durations={"a": 3.0})
    assert not (tmp_path / "out").exists()


def test_json_of_names_that_are_no_utf8_comes_back_as_python_wrote_it():
    written = {"caf\udce9.mp4": ["\udcff", 1], "b": None}
    assert parse_json(json.dumps(written).encode(), "a.json") == written
    with pytest.raises(AnnotationError, match=r"a\.json.*twice|a\.json.*duplicate key 'b'"):
        parse_json(b'{"b": "\\udcff", "b": 1}', "a.json")
    with pytest.raises(AnnotationError, match=r"a\.json"):
        parse_json(b'["\\udcff", ' + b"[" * 100_000, "a.json")
