"""bsp.datasets.thumos14: the files of the G-TAD release read, Ambiguous and excluded videos, wrong files named."""

from __future__ import annotations

import gzip
import json
import logging

import pytest

from bsp.datasets.activitynet import Instance
from bsp.datasets.thumos14 import load_thumos14
from bsp.errors import AnnotationError, TooManyBroken
from bsp.metrics.detection import THUMOS_TIOUS, evaluate_detection

HEADER = "video,type,type_idx,start,end,startFrame,endFrame\n"
TRAINING = f"""{HEADER}video_validation_0000051,Billiards,12,67.5,75.9,2025,2277
video_validation_0000051,Ambiguous,0,80.0,82.0,2400,2460
video_validation_0000052,Diving,26,0.0,3.5,0,105
video_validation_0000052,CliffDiving,22,0.0,3.5,0,105
"""
TEST = f"""{HEADER}video_test_0000004,Diving,26,0.2,1.1,6,33
video_test_0000004,Diving,26,11.4,12.2,342,366
video_test_0000004,Ambiguous,0,13.0,14.0,390,420
video_test_0000270,Billiards,12,1.0,2.0,30,60
video_test_0001292,Ambiguous,0,1.0,2.0,30,60
"""
DURATIONS = """video-name,t-init,t-end,f-init,f-end,video-duration,frame-rate,video-frames,label-idx
video_test_0000004,0.2,1.1,6,33,33.7,30.0,1011,7
video_test_0000004,11.4,12.2,342,366,33.7,30.0,1011,7
"""
# times as text, as in the release; its training videos are there under another subset name
TRUTH = {
    "database": {
        "video_test_0000004": {
            "subset": "test",
            "annotations": [
                {"segment": ["0.2", "1.1"], "label": "Diving"},
                {"segment": ["11.4", "12.2"], "label": "Diving"},
            ],
        },
        "video_validation_0000051": {
            "subset": "train",
            "annotations": [{"segment": ["67.5", "75.9"], "label": "Billiards"}],
        },
    }
}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "val_Annotation.csv").write_text(TRAINING)
    (tmp_path / "test_Annotation.csv").write_text(TEST)
    return tmp_path


def add_optional(folder):
    (folder / "thumos14_test_groundtruth.csv").write_text(DURATIONS)
    (folder / "thumos_gt.json").write_text(json.dumps(TRUTH))
    return folder


def test_reads_the_release(folder, caplog):
    with caplog.at_level(logging.WARNING):
        data = load_thumos14(add_optional(folder))
    assert [(v.video_id, v.subset, v.duration_s, v.path) for v in data.videos] == [
        ("video_validation_0000051", "validation", 82.0, None),  # no file says it: the last annotated second
        ("video_validation_0000052", "validation", 3.5, None),
        ("video_test_0000004", "test", 33.7, None),
    ]
    assert data.videos[0].instances == (Instance("Billiards", 67.5, 75.9), Instance("Ambiguous", 80.0, 82.0))
    assert data.videos[2].instances == (Instance("Diving", 0.2, 1.1), Instance("Diving", 11.4, 12.2))
    assert data.class_names == ("Billiards", "CliffDiving", "Diving")
    assert data.ground_truth == TRUTH
    assert data.dropped == (
        "test_Annotation.csv: line 4: Ambiguous in video_test_0000004, 13.0 to 14.0 s",
        "test_Annotation.csv: video video_test_0000270 is not evaluated (thumos_gt.json)",
        "test_Annotation.csv: video video_test_0001292 is not evaluated (thumos_gt.json)",
    )
    assert "3 videos and ambiguous rows are left out" in caplog.text


def test_without_the_evaluation_file_the_csv_is_the_truth(folder):
    data = load_thumos14(folder)
    assert [(v.video_id, v.duration_s) for v in data.videos if v.subset == "test"] == [
        ("video_test_0000004", 14.0),
        ("video_test_0000270", 2.0),
    ]
    assert [name for name in data.dropped if "0001292" in name] == [
        "test_Annotation.csv: video video_test_0001292 is not evaluated (test_Annotation.csv)"
    ]
    truth = data.ground_truth["database"]
    assert set(truth) == {"video_test_0000004", "video_test_0000270"}
    assert [one["segment"] for one in truth["video_test_0000004"]["annotations"]] == [[0.2, 1.1], [11.4, 12.2]]


@pytest.mark.parametrize("optional", [True, False])
def test_perfect_detections_score_one(folder, optional):
    data = load_thumos14(add_optional(folder) if optional else folder)
    results = {
        v.video_id: [{"label": i.label, "score": 1.0, "segment": [i.start_s, i.end_s]} for i in v.instances]
        for v in data.videos
        if v.subset == "test"
    }
    report = evaluate_detection(data.ground_truth, {"results": results}, subset="test", tious=THUMOS_TIOUS)
    assert report["average_mAP"] == 1.0
    assert report["videos"]["without_ground_truth"] == 0


def test_gzipped_files_with_other_beginnings(folder):
    plain = load_thumos14(add_optional(folder))
    for path in list(folder.iterdir()):
        (folder / f"thumos14_gtad_{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    packed = load_thumos14(folder)
    assert packed.videos == plain.videos
    assert packed.ground_truth == plain.ground_truth


def test_finds_the_videos_of_both_splits(folder):
    videos = folder / "videos"
    videos.mkdir()
    for name in ("video_validation_0000051.mp4", "video_test_0000004.mp4"):
        (videos / name).touch()
    data = load_thumos14(add_optional(folder), videos)
    assert data.missing == ("video_validation_0000052",)
    assert data.videos[2].path == str(videos / "video_test_0000004.mp4")
    with pytest.raises(TooManyBroken, match="1 of 3 annotated videos have no file: video_validation_0000052"):
        load_thumos14(folder, videos, max_missing_share=0.1)


@pytest.mark.parametrize(
    ("name", "line", "message"),
    [
        ("test_Annotation.csv", "v,Diving,26,3.0,3.0,0,0", r"test_Annotation\.csv: line 7: 'v', 'Diving' from 3\.0"),
        ("test_Annotation.csv", "v,Diving,26,x,3.0,0,0", r"line 7: start: 'x' is no number"),
        ("test_Annotation.csv", "v,Diving,26,0,nan,0,0", r"line 7: end: 'nan' is no number"),
        ("test_Annotation.csv", "v,Diving,26", "line 7: 3 fields, not 7"),
        ("test_Annotation.csv", ",Diving,26,1,2,0,0", "line 7: '', 'Diving'"),
        ("test_Annotation.csv", "v,Diving,0,1,2,0,0", "line 7: type_idx '0' of 'Diving'"),
        ("test_Annotation.csv", "v,Ambiguous,3,1,2,0,0", "line 7: type_idx '3' of 'Ambiguous'"),
        (
            "test_Annotation.csv",
            "video_validation_0000051,Diving,26,1,2,0,0",
            r"also in val_Annotation\.csv: video_val",
        ),
        ("thumos14_test_groundtruth.csv", "video_test_0000004,1,2,3,4,35.0,30,1,7", r"line 4: video-duration: 35\.0 s"),
        ("thumos14_test_groundtruth.csv", "v,1,2,3,4,0,30,1,7", r"line 4: video-duration: 0\.0 s of 'v'"),
    ],
)
def test_wrong_lines_are_named(folder, name, line, message):
    path = add_optional(folder) / name
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(AnnotationError, match=message):
        load_thumos14(folder)


def test_wrong_files_are_named(folder):
    add_optional(folder)
    other = {"database": {"video_test_0000005": {"subset": "test", "annotations": []}}}
    (folder / "thumos_gt.json").write_text(json.dumps(other))
    with pytest.raises(AnnotationError, match=r"1 of 1 videos .* not in test_Annotation\.csv: video_test_0000005"):
        load_thumos14(folder)
    (folder / "old_thumos_gt.json").write_text("{}")
    with pytest.raises(AnnotationError, match=r"2 files end with thumos_gt\.json: old_thumos_gt\.json"):
        load_thumos14(folder)
    (folder / "old_thumos_gt.json").unlink()
    (folder / "test_Annotation.csv").write_text("video,start\n")
    with pytest.raises(AnnotationError, match="line 1: no column type, type_idx, end, found 'video, start'"):
        load_thumos14(folder)
    (folder / "test_Annotation.csv").unlink()
    (folder / "test_Annotation.csv.gz").write_bytes(gzip.compress(TEST.encode())[:40])
    with pytest.raises(AnnotationError, match=r"test_Annotation\.csv\.gz: damaged gzip"):
        load_thumos14(folder)
    (folder / "test_Annotation.csv.gz").unlink()
    with pytest.raises(AnnotationError, match=r"no file ends with test_Annotation\.csv"):
        load_thumos14(folder)
    with pytest.raises(AnnotationError, match="no such folder"):
        load_thumos14(folder / "nowhere")
