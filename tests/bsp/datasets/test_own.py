"""Labels of one's own as CSV: what is read, what is refused with which remedy, and which videos are held out."""

from __future__ import annotations

import codecs

import pytest

from bsp.datasets.own import (
    load_own_actions,
    load_own_boundaries,
    load_own_moments,
    read_lines,
    split_videos,
    subsets_of,
)
from bsp.errors import AnnotationError

ACTIONS = "video,start_s,end_s,label\na.mp4,1.5,4,jump\na,5,6,dig\nb.mkv,0,2,jump\nc,,,\n"


def written(tmp_path, text, name="labels.csv"):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def refusal(tmp_path, text, what="actions"):
    with pytest.raises(AnnotationError) as error:
        read_lines(written(tmp_path, text), what)
    return str(error.value)


def test_lines_are_read_with_their_numbers_and_names_without_ending(tmp_path):
    lines = read_lines(written(tmp_path, ACTIONS), "actions")
    assert [(line.line, line.video_id, line.times_s, line.label) for line in lines] == [
        (2, "a", (1.5, 4.0), "jump"),
        (3, "a", (5.0, 6.0), "dig"),
        (4, "b", (0.0, 2.0), "jump"),
        (5, "c", (), ""),
    ]


@pytest.mark.parametrize(
    "text",
    [
        ACTIONS.replace(",", ";"),
        ACTIONS.replace(",", "\t"),
        ACTIONS.replace("\n", "\r\n"),
        codecs.BOM_UTF8 + ACTIONS.encode(),
        codecs.BOM_UTF16_LE + ACTIONS.encode("utf-16-le"),
        ACTIONS.replace("jump", '"jump"'),
        ACTIONS.replace("jump", "  jump "),
    ],
    ids=["semicolons", "tabs", "windows", "utf-8 mark", "utf-16", "quotes", "blanks"],
)
def test_varieties_of_tables_say_the_same(tmp_path, text):
    expected = read_lines(written(tmp_path, ACTIONS, "plain.csv"), "actions")
    assert read_lines(written(tmp_path, text), "actions") == expected


HEAD = "video,start_s,end_s,label\n"


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("video,from,to,label\na,1,2,x\n", ("line 1", "start_s", "the first line names the columns")),
        (HEAD, ("no line besides the first",)),
        (HEAD + ",1,2,x\n", ("line 2: video: is empty",)),
        (HEAD + "a,1,2,x\na,4,3,x\n", ("line 3: end_s", "after start_s 4", "found 3")),
        (HEAD + "a,2,2,x\n", ("line 2: end_s",)),
        (HEAD + "a,1,2,\n", ("line 2: label: is empty",)),
        (HEAD + "a,,2,x\n", ("line 2: start_s", "such as 12.5")),
        (HEAD + "a,-1,2,x\n", ("line 2: start_s", "found '-1'")),
        (HEAD + "a,1,inf,x\n", ("line 2: end_s", "found 'inf'")),
        (HEAD + "a,1:23,2:00,x\n", ("line 2: start_s", "found '1:23'", "83.5 for 1:23.5")),
        ((HEAD + "a,1§5,2,x\n").replace(",", ";").replace("§", ","), ("line 2: start_s", "'1,5'", "as a point")),
        (HEAD + "a,1,2,x\na.mp4,1,2,x\n", ("line 3: the same as line 2", "delete one")),
        (HEAD + "a,1,2,x\nA,1,2,x\n", ("line 3", "the video 'A'", "'a'", "differ only in case")),
        (HEAD + "a,1,2,Jump\nb,1,2,jump\n", ("line 3", "the label 'jump'", "'Jump'")),
        (HEAD + "../a,1,2,x\n", ("line 2: video", "'../a'", "separator")),
        ("video,start_s,end_s,label,subset\na,1,2,x,dev\n", ("line 2: subset", "'dev'", "training or validation")),
        ("video,start_s,end_s,label,subset\na,1,2,x,train\na,3,4,x,val\n", ("line 3: subset", "line 2")),
        ("video,start_s,end_s,label,duration_s\na,1,2,x,0\n", ("line 2: duration_s", "above 0")),
        ("video,start_s,end_s,label,duration_s\na,1,2,x,9\na,3,4,x,8\n", ("line 3: duration_s", "8.0", "9.0")),
    ],
)  # fmt: skip
def test_what_cannot_be_right_is_refused_with_line_column_value_and_remedy(tmp_path, text, parts):
    message = refusal(tmp_path, text)
    assert "labels.csv" in message
    for part in parts:
        assert part in message


def test_moments_and_boundaries_have_rules_of_their_own(tmp_path):
    assert "line 2: sentence: is empty" in refusal(tmp_path, "video,start_s,end_s,sentence\na,,,\n", "moments")
    assert "line 2: time_s" in refusal(tmp_path, "video,time_s\na,soon\n", "boundaries")
    assert read_lines(written(tmp_path, "video,time_s\na,\nb,1\n"), "boundaries")[0].times_s == ()
    # Two sentences that differ only in case are two sentences, not one label in two spellings.
    twice = "video,start_s,end_s,sentence\na,1,2,He runs\nb,1,2,he runs\n"
    assert len(read_lines(written(tmp_path, twice), "moments")) == 2


def test_the_split_depends_on_the_names_alone_and_has_the_share_that_was_asked_for():
    names = [f"video{k}" for k in range(50)]
    split = split_videos({name: ["x"] for name in names}, 0.2)
    assert sorted(split.values()).count("validation") == 10
    assert split_videos({name: ["x"] for name in reversed(names)}, 0.2) == split
    assert split_videos({name: ["x"] for name in names}, 0.4) != split
    # The videos held out of fewer are held out of more as well.
    fewer = split_videos({name: ["x"] for name in names}, 0.1)
    assert all(split[name] == "validation" for name, subset in fewer.items() if subset == "validation")


def test_the_last_video_of_a_label_stays_in_training():
    for rare in range(10):  # whichever the names' hashes would hold out
        labels = {f"v{k}": ["rare", "x"] if k == rare else ["x"] for k in range(10)}
        split = split_videos(labels, 0.9)
        assert split[f"v{rare}"] == "training"
        assert "x" in {label for name, of in labels.items() if split[name] == "training" for label in of}


def test_splits_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="at least two"):
        split_videos({"a": ["x"]})
    with pytest.raises(ValueError, match="a label that no other video has"):
        split_videos({"a": ["x"], "b": ["y"], "c": ["z"]})
    for share in (0.0, 1.0):
        with pytest.raises(ValueError, match="between 0 and 1"):
            split_videos({"a": ["x"], "b": ["x"]}, share)


def test_a_column_of_subsets_decides_and_has_to_be_whole(tmp_path):
    head = "video,start_s,end_s,label,subset\n"
    path = written(tmp_path, head + "a,1,2,x,train\nb,1,2,x,Testing\nc,1,2,x,val\n")
    found = subsets_of(read_lines(path, "actions"), path, 0.2)
    assert found == {"a": "training", "b": "validation", "c": "validation"}
    path = written(tmp_path, head + "a,1,2,x,train\nb,1,2,x,\n")
    with pytest.raises(AnnotationError, match="line 3: subset: is empty, other videos have one"):
        subsets_of(read_lines(path, "actions"), path, 0.2)
    path = written(tmp_path, head + "a,1,2,x,train\nb,1,2,x,train\n")
    with pytest.raises(AnnotationError, match="no video of the subset validation"):
        subsets_of(read_lines(path, "actions"), path, 0.2)


def test_actions_become_a_localisation_data_set(tmp_path):
    head = "video,start_s,end_s,label,subset,duration_s\n"
    text = head + "a.mp4,1.5,4,jump,train,\na,5,6,dig,train,\nb,0,2,jump,val,30\nc,,,,val,\n"
    data = load_own_actions(written(tmp_path, text), {"a": 10.0, "b": 20.0})
    assert data.class_names == ("dig", "jump")
    videos = {video.video_id: video for video in data.videos}
    # Durations: from the features, from the file, which goes first, and at least a second where neither knows.
    assert {name: video.duration_s for name, video in videos.items()} == {"a": 10.0, "b": 30.0, "c": 1.0}
    found = [(one.start_s, one.end_s) for one in videos["a"].instances]
    assert found == [(1.5, 4.0), (5.0, 6.0)]
    assert videos["c"].instances == ()
    assert {name: video.subset for name, video in videos.items()} == {
        "a": "training", "b": "validation", "c": "validation",
    }  # fmt: skip
    with pytest.raises(AnnotationError, match="no line has a label"):
        load_own_actions(written(tmp_path, HEAD + "a,,,\nb,,,\n"), {})


def test_moments_become_a_grounding_data_set_and_training_moments_end_with_their_video(tmp_path):
    head = "video,start_s,end_s,sentence,subset\n"
    text = head + 'a,1,12,"he runs, then sits",train\na,11,12,he is gone,train\nb,2,12,he eats,val\n'
    data = load_own_moments(written(tmp_path, text), {"a": 10.0, "b": 10.0})
    (kept,) = data.moments["train"]
    assert (kept.sentence, kept.start_s, kept.end_s) == ("he runs, then sits", 1.0, 10.0)
    assert [(one.video_id, one.end_s) for one in data.moments["test"]] == [("b", 12.0)]  # truth is not changed
    (why,) = data.dropped
    assert why.startswith("labels.csv:3: a from 11.0 to 12.0 s")


def test_boundaries_become_a_data_set_of_one_annotator(tmp_path):
    text = "video,time_s,subset\na,7.5,train\na,2,train\nb,1,val\nc,,val\n"
    data = load_own_boundaries(written(tmp_path, text), {"a": 10.0, "b": 4.0}, {"a": 30.0})
    videos = {video.video_id: video for video in data.videos}
    assert videos["a"].boundaries_s == ((2.0, 7.5),)
    assert videos["a"].boundary_frames == ((60.0, 225.0),)
    assert (videos["a"].frames, videos["b"].frames) == (300, 100)  # 25 frames a second where the rate is not known
    assert videos["c"].boundaries_s == ((),)
    assert (videos["a"].subset, videos["b"].subset) == ("training", "validation")


@pytest.mark.parametrize("name", [f"empty{k}" for k in range(8)])
def test_videos_without_a_label_alone_are_not_what_is_scored(name):
    """Whichever comes first by its name."""
    split = split_videos({name: [], "other": ["dig"], "third": ["dig"], "fourth": ["dig"]})
    assert (split[name], sorted(split.values()).count("validation")) == ("training", 1)
    assert sorted(split_videos({"a": [], "b": []}).values()) == ["training", "validation"]


def test_durations_come_from_the_file_then_the_features_then_the_last_label(tmp_path):
    text = "video,start_s,end_s,label,duration_s\na,1,2,dig,30\nb,1,2,dig,\nc,1,7.5,dig,\nd,,,,\n"
    data = load_own_actions(written(tmp_path, text), {"a": 29.0, "b": 28.0})
    assert {video.video_id: video.duration_s for video in data.videos} == {"a": 30.0, "b": 28.0, "c": 7.5, "d": 1.0}
    assert next(video for video in data.videos if video.video_id == "d").instances == ()
