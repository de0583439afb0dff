"""What a model is asked for, and what becomes of its answer; with a model that knows its answers by heart."""

import hashlib
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from bsp.models.model import Model
from bsp.pages.look import Question, look
from bsp.tasks.found import BoundaryCurve, Segment
from bsp.video.read import probe
from bsp.video.write import write_mp4
from make_videos import numbered_frames
from small_models import info_of, planted, run_gtad, small_stream

STREAM = small_stream()
FEATURES = [
    (
        np.zeros((5, STREAM.feature_width), np.float32),
        replace(info_of("v", 5), encoder_hash=STREAM.encoder_hash, size_px=STREAM.size_px),
    )
]


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    path = tmp_path_factory.mktemp("look") / "v.mp4"
    write_mp4(path, numbered_frames(40, width=64, height=48), fps=10)
    return probe(path)


def by_heart(**other) -> SimpleNamespace:
    curve = BoundaryCurve(
        times_s=np.array([1.0]), scores=np.array([0.5]), curve_times_s=np.arange(4.0), curve=np.arange(4.0)
    )
    model = SimpleNamespace(
        kind="2dtan", streams=(STREAM,), head_streams=1, classifier_stream=0,
        provenance={"note": "read me"}, class_agnostic=True, device="cpu",
        describe=lambda: {"kind": "2dtan"},
        applied=SimpleNamespace(detect=True, ground=True), unknown_words=lambda sentence: sentence.split()[1:],
        detect_features=lambda feat, info, for_classes: [Segment(label="", start_s=0.0, end_s=1.0, score=0.5)],
        ground_features=lambda feat, info, sentence: [Segment(label=sentence, start_s=1.0, end_s=3.0, score=0.9)],
        boundaries_features=lambda feat, info: curve,
    )  # fmt: skip
    model.__dict__.update(other)
    return model


def test_moments_come_with_the_words_that_are_not_known(video) -> None:
    found = look(by_heart(), video, Question(what="ground", sentence="open xyzzy"), video_id="v", features=FEATURES)
    assert [(s.label, s.start_s, s.end_s, s.score) for s in found.segments] == [("open xyzzy", 1.0, 3.0, 0.9)]
    assert found.boundaries is None
    assert found.sentence == "open xyzzy"
    assert found.notes == ("read me", "Words that the model has not learnt, and does not use: xyzzy.")
    assert found.duration_s == 4.0


def test_detections_come_with_boundaries_and_boundaries_alone(video) -> None:
    both = look(by_heart(), video, Question(what="detect"), video_id="v", features=FEATURES)
    assert len(both.segments) == 1
    assert both.boundaries.times_s.tolist() == [1.0]
    assert both.notes == ("read me", "This model has no classifier: its segments have no class.")
    alone = look(by_heart(provenance={}), video, Question(what="boundaries"), video_id="v", features=FEATURES)
    assert (list(alone.segments), alone.notes) == ([], ())
    with open(video.path, "rb") as file:
        assert both.made["SHA-256 of the video"] == hashlib.sha256(file.read()).hexdigest()
    assert both.made["video"] == "64 x 48 px, h264, 10 frames/s, 40 frames"


def test_a_model_that_cannot_detect_is_refused_before_the_video_is_read(video) -> None:
    grounder = by_heart(applied=SimpleNamespace(detect=None, ground=True))
    with pytest.raises(ValueError, match="detects nothing; bsp ground takes it"):
        look(grounder, video, Question(what="detect"), video_id="v")
    with pytest.raises(ValueError, match="detects nothing; bsp boundaries takes it"):
        look(Model(kind="encoder", streams=(small_stream(),)), video, Question(what="detect"), video_id="v")


def test_a_model_of_imported_features_takes_these_and_no_video(video) -> None:
    from bsp.models.streams import imported_stream
    from bsp.tasks.class_scores import classify_videos

    data, features = planted()
    classifier = classify_videos(features, data, ("training", "validation")).classifier
    kept = run_gtad(data, features, classifier).kept
    given = features.read("v6")
    model = Model(kind="gtad", streams=(imported_stream(given[1]),), kept=kept, classifier=classifier)
    found = look(model, video, Question(what="detect"), video_id="v6", features=[given])
    assert [s.score for s in found.segments] == [s.score for s in model.detect_features(*given)]
    with pytest.raises(ValueError, match="made from imported features"):
        look(model, video, Question(what="detect"), video_id="v6")
