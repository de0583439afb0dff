"""Faults of annotation files: each is named with place, field, value and remedy."""

import json

import pytest

from bsp.errors import AnnotationError
from bsp.survey.annotations import check_annotations

DURATIONS = {"a": 10.0, "b": 20.0, "v_c": 5.0}


def csv_file(tmp_path, *rows, header="video,start_s,end_s,label"):
    path = tmp_path / "labels.csv"
    path.write_text("\n".join([header, *rows]), "utf-8")
    return path


def grave(checked):
    return {(one.place, one.field) for one in checked.findings if one.grave}


def test_a_good_file_has_no_fault(tmp_path):
    checked = check_annotations(csv_file(tmp_path, "a.mp4,1,2.5,jump", "b,0,20.2,run", "v_c,,,"), DURATIONS)
    assert not checked.findings  # 0.2 s over the end is rounding; v_c has no action
    assert next((one.video_id, one.start_s, one.end_s, one.label) for one in checked.instances) == ("a", 1, 2.5, "jump")


@pytest.mark.parametrize(
    ("row", "field", "problem", "remedy"),
    [
        ("a,3,2,jump", "end_s", "end before start", "exchange"),
        ("a,2,2,jump", "end_s", "no length", "correct"),
        ("a,nan,2,jump", "start_s", "no finite number", "seconds"),
        ("a,0:01,0:02.5,jump", "end_s", "no finite number", "write 2.5"),
        ("a,-1,2,jump", "start_s", "before the video begins", "0 or more"),
        ("a,11,12,jump", "start_s", "10.00 s long", "in seconds?"),
        ("a,1,2,", "label", "is empty", "write the label"),
        (",1,2,jump", "video", "is empty", "write the video"),
        ("A,1,2,jump", "video", "no readable video", "'a' (upper and lower case differ)"),
        ("c,1,2,jump", "video", "no readable video", "'v_c' (one side has \"v_\" in front)"),
        ("b,1,2,Jump", "label", "occurs once", "'jump' (upper and lower case differ)"),
        ("zzz,1,2,jump", "video", "no readable video", "copy the video"),
    ],
)
def test_faults_of_a_row(tmp_path, row, field, problem, remedy):
    checked = check_annotations(csv_file(tmp_path, "b,0,1,jump", row), DURATIONS)
    found = [one for one in checked.findings if one.grave and one.place == "line 3" and one.field == field]
    assert len(found) == 1
    assert problem in found[0].problem
    assert remedy in found[0].remedy
    assert str(found[0]).startswith(f"{tmp_path / 'labels.csv'}: line 3: {field}")


def test_all_faults_are_told_and_remarks_do_not_lose_instances(tmp_path):
    rows = ["a,1,2,jump high", "a,1,2,jump high", "a,3,14,jump high", "b,1,2,jump hihg", "b,9,8,run", "b,x,8,run"]
    checked = check_annotations(csv_file(tmp_path, *rows), DURATIONS)
    assert grave(checked) == {("line 3", "label"), ("line 6", "end_s"), ("line 7", "start_s")}
    remarks = {one.place: one.problem + one.remedy for one in checked.findings}
    assert "the same as line 2" in remarks["line 3"]
    assert "10.00 s long" in remarks["line 4"]
    assert "'jump high' is probably meant" in remarks["line 5"]
    assert "has no annotation" in remarks["the file"]  # v_c
    assert len(checked.instances) == 3


def test_two_letters_exchanged_in_a_label_are_a_remark(tmp_path):
    rows = [f"a,{k},{k + 0.5},{label}" for k, label in enumerate(["slide"] * 5 + ["turn"] * 5 + ["slied"])]
    (finding,) = [one for one in check_annotations(csv_file(tmp_path, *rows), None).findings if one.field == "label"]
    assert (finding.value, finding.grave) == ("slied", False)
    assert "'slide' is probably meant" in finding.remedy


def test_a_name_that_two_files_have(tmp_path):
    known = {"mon__clip": 5.0, "tue__clip": 5.0}
    checked = check_annotations(csv_file(tmp_path, "clip,1,2,x"), known)
    assert "'mon__clip' or 'tue__clip'" in next(one for one in checked.findings if one.grave).remedy


def test_sentences_and_wrong_headers(tmp_path):
    header = "video,start_s,end_s,sentence"
    checked = check_annotations(
        csv_file(tmp_path, 'a,1,2,"She opens, then closes"', "a,1,2,", header=header), DURATIONS
    )
    assert checked.instances[0].label == "She opens, then closes"
    assert grave(checked) == {("line 3", "sentence")}
    with pytest.raises(AnnotationError, match=r"no column start_s.*the first line must be video,start_s,end_s,label"):
        check_annotations(csv_file(tmp_path, "a,1,2,x", header="video,start,end_s,label"), DURATIONS)


def test_activitynet_layout(tmp_path):
    item = {"label": "jump", "segment": [1, 2]}
    database = {
        "a": {"subset": "training", "duration": 10, "annotations": [item, {"label": "jump", "segment": [4, 3]}]},
        "b": {"subset": "validaton", "annotations": [{"segment": [1]}, item, {"label": " ", "segment": ["1", "2"]}]},
        "c": {"duration": "nan", "annotations": None},
    }  # fmt: skip
    path = tmp_path / "anno.json"
    path.write_text(json.dumps({"database": database}))
    checked = check_annotations(path, DURATIONS | {"c": 9.0})
    assert grave(checked) == {
        ("database.a.annotations[1]", "segment[1]"), ("database.b.annotations[0]", "segment"),
        ("database.b.annotations[2]", "label"), ("database.c", "subset"), ("database.c", "duration"),
        ("database.c", "annotations"),
    }  # fmt: skip
    assert dict(checked.subsets) == {"training": 1, "validaton": 1}
    missing = next(one for one in checked.findings if one.field == "subset" and not one.grave)
    assert missing.value == "validation"
    assert "'validaton' is probably meant" in missing.remedy
    path.write_text('{"db": {}}')
    with pytest.raises(AnnotationError, match="no object 'database'"):
        check_annotations(path, DURATIONS)


def test_what_the_loader_of_the_training_refuses_besides_is_a_fault(tmp_path):
    path = csv_file(tmp_path, "a,1,2,x,trainng", "b,1,2,x,validation", header="video,start_s,end_s,label,subset")
    found = [one for one in check_annotations(path, DURATIONS).findings if one.grave]
    assert len(found) == 1
    assert "line 2: subset: must be training or validation, found 'trainng'" in found[0].problem
