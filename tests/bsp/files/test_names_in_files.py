"""Labels, ids and names of videos that are written in two ways: matched where they are the same, else named."""

from __future__ import annotations

import json

import numpy as np
import pytest

from bsp.datasets.activitynet import find_videos, load_activitynet
from bsp.datasets.class_scores import read_class_scores
from bsp.datasets.crosstask import read_tasks
from bsp.datasets.gebd import load_gebd
from bsp.datasets.kinetics import load_class_folders, load_kinetics_csv, read_kinetics_csv
from bsp.datasets.results_json import check_ground_truth, prediction_columns
from bsp.datasets.thumos14 import load_thumos14
from bsp.errors import AnnotationError
from bsp.features.interchange import import_features, uniform_record
from bsp.features.store import FeatureInfo, read_features, write_features
from bsp.files.text import (
    parse_json,
    read_json,
)
from bsp.metrics.actionness import evaluate_actionness
from bsp.metrics.grounding import evaluate_grounding
from make_videos import numbered_frames, write_video
from text_readers import APPLE_DOUBLE, GEBD, NFC, NFD, READERS, database, instance, write_files

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
