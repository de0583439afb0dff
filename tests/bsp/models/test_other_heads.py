"""Every other head, trained, kept, written, loaded and applied: on the test videos it finds what scoring wrote."""

from dataclasses import replace

import numpy as np
import pytest

from bsp.localization.actionness import ActionnessSettings
from bsp.localization.boundaries import BoundaryHeadSettings, PeakSettings
from bsp.localization.grounding.lgi_network import LGISettings
from bsp.localization.grounding.tan2d import TAN2DSettings
from bsp.localization.grounding.words import WordVectors
from bsp.localization.gtad.windows import WindowSettings
from bsp.models.folder import load_model, write_model
from bsp.models.model import Model
from bsp.models.streams import imported_stream
from bsp.tasks.class_scores import classify_videos
from bsp.tasks.detection import segments_of
from bsp.tasks.found import Segment
from bsp.tasks.head import HeadInputs, Sentences, run_head
from bsp.tasks.heads import HEADS
from bsp.tasks.steps import runs_of
from small_models import (
    DURATION_S,
    SNIPPETS,
    STEP_S,
    VERBS,
    class_scores_of,
    clips,
    planted,
    sentences,
    steps,
)
from toy_head import NEAREST_MEAN, NearestMeanSettings

WINDOWS = WindowSettings(
    feature_width=8, cells=16, stride_cells=8, max_duration=8, inner_samples=2, context_samples=1, epochs=2,
    learning_rate=1e-3, max_proposals=20,
)  # fmt: skip
TAN2D = TAN2DSettings(
    feature_width=8, frames=12, pool=1, scales=(12,), hidden=16, kernel=3, layers=2, lstm_layers=1, epochs=2
)
LGI = LGISettings(feature_width=8, segments=12, hidden=16, attention=8, kernel=3, heads=2, epochs=2)


def through_folder(kind, run, features, video, tmp_path, **other) -> Model:
    stream = imported_stream(features.read(video)[1])
    write_model(tmp_path / kind, Model(kind=kind, streams=(stream,), kept=run.kept, **other))
    return load_model(tmp_path / kind)


def scores_of_all_videos_are_its_scores(kind, run, inputs) -> None:
    """What a head leaves is enough to score its videos again, each counted as often as one likes."""
    read = run.documents.__getitem__
    per_video = HEADS[kind].per_video(inputs.data, inputs.settings, inputs.subsets[1], read)
    assert len(per_video.videos) >= 2
    found, scores = per_video.identity(), run.facts["scores"]
    assert found == {name: pytest.approx(scores[name], abs=1e-9) for name in found}
    assert set(scores) - set(found) == set()


def test_gtad_on_windows(tmp_path):
    data, features = planted()
    classifier = classify_videos(features, data, ("training", "validation")).classifier
    inputs = HeadInputs(
        features=features, data=data, settings=WINDOWS, class_scores=class_scores_of(classifier, features)
    )
    run = run_head(HEADS["gtad-windows"], inputs)
    scores_of_all_videos_are_its_scores("gtad-windows", run, inputs)
    model = through_folder("gtad-windows", run, features, "v0", tmp_path, classifier=classifier)
    for video, rows in run.documents["detections.json"]["results"].items():
        found, wanted = model.detect_features(*features.read(video)), segments_of(rows)
        assert found
        assert [s.label for s in found] == [s.label for s in wanted]
        numbers = [[(s.start_s, s.end_s, s.score) for s in some] for some in (found, wanted)]
        np.testing.assert_allclose(*numbers, rtol=1e-5, atol=1e-9)
    without = replace(model, classifier=None)
    assert without.class_agnostic
    assert {s.label for s in without.detect_features(*features.read("v6"))} == {""}


GLOVE = WordVectors(
    words=("a", *(f"{verb}." for verb in VERBS), *VERBS),
    vectors=np.random.default_rng(1).standard_normal((9, 6)).astype(np.float32), name="small", sha256="s",
)  # fmt: skip


@pytest.mark.parametrize(
    ("blind", "vectors"),
    [("", None), ("", GLOVE), ("text", None), ("video", None)],
    ids=["learnt", "glove", "no text", "no video"],
)
@pytest.mark.parametrize("settings", [TAN2D, LGI], ids=["2dtan", "lgi"])
def test_grounding(settings, vectors, blind, tmp_path):
    data, features = sentences()
    kind = "2dtan" if settings is TAN2D else "lgi"
    how = Sentences(width=8, held_out_every=3, blind=blind, vectors=vectors)
    inputs = HeadInputs(features=features, data=data, settings=settings, subsets=("train", "test"), sentences=how)
    run = run_head(HEADS[kind], inputs)
    scores_of_all_videos_are_its_scores(kind, run, inputs)
    model = through_folder(kind, run, features, "g0", tmp_path)
    rows = run.documents["predictions.json"]
    assert len(rows) == 9
    for row in rows:
        found = model.ground_features(*features.read(row["video"]), row["sentence"])
        assert {s.label for s in found} == {row["sentence"]}
        moments_K3 = np.array(row["moments"])
        # LGI's moments may be reversed or reach out of the video; those of a model do not
        times_K2 = np.sort(np.clip(moments_K3[:, :2], 0, DURATION_S), axis=1)
        np.testing.assert_allclose([(s.start_s, s.end_s) for s in found], times_K2, rtol=1e-5, atol=1e-5)
        if kind == "2dtan":
            np.testing.assert_allclose([s.score for s in found], moments_K3[:, 2], rtol=1e-5)
        else:
            assert 0 <= found[0].score < 1


@pytest.mark.parametrize("settings", [TAN2D, LGI], ids=["2dtan", "lgi"])
def test_unknown_words_are_reported_and_a_sentence_of_nothing_else_is_refused(settings, tmp_path):
    data, features = sentences()
    kind = "2dtan" if settings is TAN2D else "lgi"
    how = Sentences(width=8, held_out_every=0)
    inputs = HeadInputs(features=features, data=data, settings=settings, subsets=("train", "test"), sentences=how)
    model = through_folder(kind, run_head(HEADS[kind], inputs), features, "g0", tmp_path)
    assert model.unknown_words("A person waves.") == []
    assert model.unknown_words("a penguin waves twice") == ["penguin", "twice"]
    video = features.read("g9")
    assert model.ground_features(*video, "a penguin waves") != []
    for ask in (model.unknown_words, lambda said: model.ground_features(*video, said)):
        with pytest.raises(
            ValueError, match=r"'Penguins dance': the model knows none of its words; it knows 6 \(learnt"
        ):
            ask("Penguins dance")
    with pytest.raises(ValueError, match=r"not detect"):
        model.detect_features(*video)
    with pytest.raises(ValueError, match="knows none of its words"):
        model.ground("no such file.mp4", "Penguins dance")  # before the video is read


def test_steps(tmp_path):
    data, features = steps()
    settings = ActionnessSettings(batch_segments=32)
    inputs = HeadInputs(features=features, data=data, settings=settings, subsets=("training", "test"))
    run = run_head(HEADS["actionness"], inputs)
    scores_of_all_videos_are_its_scores("actionness", run, inputs)
    model = through_folder("actionness", run, features, "s0", tmp_path)
    threshold = model.kept.facts["threshold"]
    for video, scores in run.documents["predictions.json"]["scores"].items():
        found = model.detect_features(*features.read(video))
        # on a grid of 0.2 s, the segments are exactly those whose written score reaches the threshold
        inside = np.zeros(len(scores), bool)
        for s in found:
            first, end = round(s.start_s / 0.2), round(s.end_s / 0.2 + 0.4)
            inside[first:end] = True
            assert s.label == "step"
            assert s.score == pytest.approx(np.mean(scores[first:end]), abs=1e-6)
        assert inside.tolist() == (np.array(scores) >= threshold).tolist()
        step = next(v for v in data.videos if v.video_id == video).steps[0]
        best = found[0]
        overlap = min(best.end_s, step.end_s) - max(best.start_s, step.start_s)
        assert overlap > 0.5 * (step.end_s - step.start_s)
    assert not model.class_agnostic


def test_runs_by_hand():
    found = runs_of(np.array([0.9, 0.7, 0.1, 0.5]), 0.5, 0.7)
    assert found == [
        Segment(label="step", start_s=0.0, end_s=0.4, score=pytest.approx(0.8)),
        Segment(label="step", start_s=pytest.approx(0.6), end_s=0.7, score=0.5),
    ]
    assert runs_of(np.array([0.1]), 0.5, 0.2) == []


@pytest.mark.parametrize(
    ("kind", "settings"),
    [("boundary-peaks", PeakSettings()), ("boundary-head", BoundaryHeadSettings(epochs=20, learning_rate=3e-2))],
)
def test_boundaries(kind, settings, tmp_path):
    data, features = clips()
    inputs = HeadInputs(features=features, data=data, settings=settings)
    run = run_head(HEADS[kind], inputs)
    scores_of_all_videos_are_its_scores(kind, run, inputs)
    model = through_folder(kind, run, features, "c0", tmp_path)
    results = run.documents["boundaries.json"]
    assert sum(map(len, results.values())) >= 6
    for video, times_s in results.items():
        found = model.boundaries_features(*features.read(video))
        assert found.times_s.round(4).tolist() == times_s
        assert len(found.curve) == len(found.curve_times_s) == SNIPPETS - 1
        at = [found.curve_times_s.tolist().index(time_s) for time_s in found.times_s]
        assert found.scores.tolist() == found.curve[at].tolist()


def test_curves_of_long_videos_in_blocks_are_the_same(monkeypatch):
    from bsp.localization import boundaries

    data, features = clips()
    runs = [
        run_head(HEADS[kind], HeadInputs(features=features, data=data, settings=settings)).kept
        for kind, settings in (("boundary-peaks", PeakSettings()), ("boundary-head", BoundaryHeadSettings(epochs=2)))
    ]
    kinds = ("boundary-peaks", "boundary-head")
    stream = imported_stream(features.read("c0")[1])

    def curves():
        models = [Model(kind=kind, streams=(stream,), kept=kept) for kind, kept in zip(kinds, runs, strict=True)]
        return [model.boundaries_features(*features.read("c15")).curve for model in models]

    whole = curves()
    for rows in (1, 7, SNIPPETS - 1):
        monkeypatch.setattr(boundaries, "_ROWS_AT_ONCE", rows)
        for one, two in zip(whole, curves(), strict=True):
            np.testing.assert_allclose(one, two, rtol=1e-5)


def test_a_head_of_ones_own(tmp_path, monkeypatch):
    monkeypatch.setitem(HEADS, "nearest-mean", NEAREST_MEAN)
    data, features = planted()
    run = run_head(NEAREST_MEAN, HeadInputs(features=features, data=data, settings=NearestMeanSettings(weight=0.9)))
    model = through_folder("nearest-mean", run, features, "v0", tmp_path)
    for video, inside in run.documents["snippets.json"].items():
        marked = np.zeros(len(inside), bool)
        for segment in model.detect_features(*features.read(video)):
            marked[round(segment.start_s / STEP_S) : round(segment.end_s / STEP_S)] = True
        assert marked.tolist() == inside
    without = replace(NEAREST_MEAN, keep=None, apply=None)
    assert run_head(without, HeadInputs(features=features, data=data, settings=NearestMeanSettings())).kept is None
