"""Trained G-TAD, through a model folder: on the test videos it finds what scoring wrote."""

from dataclasses import replace

import numpy as np
import pytest

from bsp.models.folder import load_model, write_model
from bsp.models.model import Model
from bsp.models.streams import imported_stream
from bsp.tasks.class_scores import classify_videos
from bsp.tasks.detection import segments_of
from small_models import GTAD, NAMES, planted, run_gtad


@pytest.fixture(scope="module")
def trained():
    data, features = planted()
    classified = classify_videos(features, data, ("training", "validation"))
    return data, features, classified.classifier, run_gtad(data, features, classified.classifier)


def model_of(features, kept, classifier, **other) -> Model:
    stream = imported_stream(features.read("v0")[1])
    return Model(kind="gtad", streams=(stream,), kept=kept, classifier=classifier, **other)


def rows_of(segments):
    return [(s.label, s.start_s, s.end_s, s.score) for s in segments]


def equal(found, wanted) -> bool:
    """The same segments; times and scores to the rounding of sums in another order."""
    assert [s.label for s in found] == [s.label for s in wanted]
    np.testing.assert_allclose(
        [row[1:] for row in rows_of(found)], [row[1:] for row in rows_of(wanted)], rtol=1e-5, atol=1e-9
    )
    return True


def test_the_test_videos_through_the_folder(trained, tmp_path):
    _, features, classifier, run = trained
    write_model(tmp_path / "m", model_of(features, run.kept, classifier, provenance={"data": "planted", "seed": 0}))
    model = load_model(tmp_path / "m")
    assert model.class_names == NAMES
    assert model.kept.settings == GTAD
    results = run.documents["detections.json"]["results"]
    assert len(results) == 2
    for video, rows in results.items():
        assert rows
        assert equal(model.detect_features(*features.read(video)), segments_of(rows))
    lines = model.describe()
    assert lines["kind"] == "gtad"
    assert lines["classes"] == "2: kick, wave"
    assert lines["data"] == "planted"
    assert "detections" not in lines


def test_lengths_and_origin_of_the_features_are_kept(trained):
    data, features, _, run = trained
    snippets = [features.read(video.video_id)[1].snippets for video in data.videos]
    assert run.kept.facts["lengths"]["snippets"] == [min(snippets), np.median(snippets), max(snippets)]
    assert run.kept.facts["lengths"]["seconds"][2] == pytest.approx((8 * max(snippets) + 3) / 12.5)
    assert run.kept.facts["features"]["encoder_hash"] == "imported:1"


def test_without_a_classifier_detections_have_no_class_and_the_model_says_so(trained, tmp_path):
    _, features, classifier, run = trained
    model = model_of(features, run.kept, None)
    assert model.class_agnostic
    assert "without a class" in model.describe()["detections"]
    found = model.detect_features(*features.read("v6"))
    assert {s.label for s in found} == {""}
    # every proposal comes with two classes otherwise, and the classes' scores sum to 1
    with_classes = model_of(features, run.kept, classifier).detect_features(*features.read("v6"))
    total: dict[tuple, float] = {}
    for s in with_classes:
        total[s.start_s, s.end_s] = total.get((s.start_s, s.end_s), 0) + s.score
    assert {(s.start_s, s.end_s): pytest.approx(s.score) for s in found} == total


def test_hacs_rule_with_one_class(trained):
    data, features, classifier, _ = trained
    run = run_gtad(data, features, classifier, replace(GTAD, top_classes=1))
    model = model_of(features, run.kept, classifier)
    for video, rows in run.documents["detections.json"]["results"].items():
        assert equal(model.detect_features(*features.read(video)), segments_of(rows))


def test_a_duration_other_than_the_records(trained):
    _, features, classifier, run = trained
    model = model_of(features, run.kept, classifier)
    feat_SD, info = features.read("v6")
    plain = model.detect_features(feat_SD, info)
    longer = model.detect_features(feat_SD, info, duration_s=2 * info.frames / info.fps)
    np.testing.assert_allclose([s.end_s for s in longer], [2 * s.end_s for s in plain])


def test_boundaries_without_a_boundary_head(trained):
    _, features, classifier, run = trained
    model = model_of(features, run.kept, classifier)
    feat_SD = np.zeros((20, 8), np.float32)
    feat_SD[:10, 0], feat_SD[10:, 1] = 1, 1
    info = replace(features.read("v6")[1], video_id="two", snippets=20, frames=160)
    found = model.boundaries_features(feat_SD, info)
    assert found.times_s.tolist() == pytest.approx([10 * 0.64])  # between the centres of snippets 9 and 10
    assert found.curve_times_s.tolist() == pytest.approx([0.64 * k for k in range(1, 20)])
    assert found.curve.argmax() == 9
    assert found.scores.tolist() == [found.curve.max()]
    one = model.boundaries_features(feat_SD[:1], replace(info, snippets=1, frames=8))
    assert (len(one.times_s), len(one.curve)) == (0, 0)


def test_refusals(trained):
    _, features, classifier, run = trained
    model = model_of(features, run.kept, classifier)
    feat_SD, info = features.read("v6")
    with pytest.raises(ValueError, match=r"v6: features \[\d+, 4\], but the model takes \[\d+, 8\]"):
        model.detect_features(feat_SD[:, :4], replace(info, feature_width=4))
    with pytest.raises(ValueError, match="v6: stride_frames of the features is 4, of the model 8"):
        model.detect_features(feat_SD, replace(info, stride_frames=4))
    with pytest.raises(ValueError, match=r"made from imported features \(imported:1\).*video\.mp4"):
        model.features("video.mp4")
    with pytest.raises(ValueError, match="kind 'gtad'; it has features, boundaries, detect, not ground"):
        model.ground_features(feat_SD, info, "a person runs")
    with pytest.raises(ValueError, match="takes features of width 8, its streams give 16"):
        Model(kind="gtad", streams=(model.streams[0],) * 2, head_streams=2, kept=run.kept)
    with pytest.raises(ValueError, match="'encoder' has no head"):
        Model(kind="encoder", streams=model.streams, kept=run.kept)
    with pytest.raises(ValueError, match="'gtad' needs a head"):
        Model(kind="gtad", streams=model.streams)
