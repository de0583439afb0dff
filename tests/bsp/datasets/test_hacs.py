"""bsp.datasets.hacs: durations as text, instances without length left out on both sides."""

from __future__ import annotations

import json

import pytest

from bsp.datasets.activitynet import Instance
from bsp.datasets.hacs import load_hacs
from bsp.errors import AnnotationError
from bsp.metrics.detection import evaluate_detection

DODGEBALL = [{"label": "Dodgeball", "segment": [5.4, 11.6]}, {"label": "Dodgeball", "segment": [12.6, 88.16]}]
DOCUMENT = {
    "database": {
        "--0edUL8zmA": {"annotations": DODGEBALL, "subset": "training", "duration": "92.166667", "url": "u"},
        "abcdefghijk": {
            "annotations": [
                {"label": "Archery", "segment": [3.0, 3.0]},
                {"label": "Archery", "segment": [4.0, 9.5]},
                {"label": "Archery", "segment": [8.0, 7.0]},
            ],
            "subset": "validation",
            "duration": "30.5",
            "url": "u",
        },
        "testvideo01": {"annotations": [], "subset": "testing", "duration": "12.0", "url": "u"},
    }
}


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "HACS_segments_v1.1.1.json"
    file.write_text(json.dumps(DOCUMENT))
    return file


def test_reads_the_layout(path):
    data = load_hacs(path, None)
    assert [(v.video_id, v.subset, v.duration_s) for v in data.videos] == [
        ("--0edUL8zmA", "training", 92.166667),
        ("abcdefghijk", "validation", 30.5),
    ]
    assert data.videos[0].instances == (Instance("Dodgeball", 5.4, 11.6), Instance("Dodgeball", 12.6, 88.16))
    assert data.class_names == ("Archery", "Dodgeball")


def test_instances_without_length_are_left_out_and_named(path):
    data = load_hacs(path, None)
    assert data.videos[1].instances == (Instance("Archery", 4.0, 9.5),)
    assert data.dropped == (
        f"{path}: database.abcdefghijk.annotations[0]: 'Archery' from 3.0 to 3.0 s has no length",
        f"{path}: database.abcdefghijk.annotations[2]: 'Archery' from 8.0 to 7.0 s has no length",
    )
    found = {"results": {"abcdefghijk": [{"label": "Archery", "score": 1.0, "segment": [4.0, 9.5]}]}}
    assert evaluate_detection(data.ground_truth, found, subset="validation")["average_mAP"] == 1.0


def test_finds_videos_with_and_without_the_prefix(path, tmp_path):
    videos = tmp_path / "videos"
    videos.mkdir()
    for name in ("v_abcdefghijk.mp4", "--0edUL8zmA.mkv"):
        (videos / name).touch()
    data = load_hacs(path, videos)
    assert [v.path for v in data.videos] == [str(videos / "--0edUL8zmA.mkv"), str(videos / "v_abcdefghijk.mp4")]
    assert load_hacs(path, videos, subsets=("testing",), max_missing_share=1.0).missing == ("testvideo01",)


def test_a_duration_that_is_no_number_is_named(path):
    document = json.loads(path.read_text())
    document["database"]["abcdefghijk"]["duration"] = "long"
    path.write_text(json.dumps(document))
    with pytest.raises(AnnotationError, match=r"database\.abcdefghijk\.duration.*'long'"):
        load_hacs(path, None)
