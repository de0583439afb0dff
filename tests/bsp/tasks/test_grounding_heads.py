"""Grounding heads as work of the platform: from feature files to predictions that the evaluator reads."""

import json
from dataclasses import replace

import numpy as np
import pytest

from bsp.datasets.charades_sta import GroundingDataset, GroundingVideo, Moment
from bsp.encoders.tsm import EncoderSettings
from bsp.errors import AnnotationError, TooManyBroken
from bsp.features.store import FeatureInfo, write_features
from bsp.localization.grounding.lgi import LGISettings
from bsp.localization.grounding.tan2d import TAN2DSettings
from bsp.localization.grounding.words import WordVectors
from bsp.metrics.grounding import evaluate_grounding
from bsp.tasks.heads import HEADS
from bsp_platform.plan.recipes import EncoderRecipe, FeatureRecipe, GroundingRecipe
from bsp_platform.work.heads import train_and_score

VERBS = ("waves", "squats", "kicks", "walks")
SNIPPETS, DURATION_S = 12, 8.0
TAN2D = TAN2DSettings(
    feature_width=8, frames=12, pool=1, scales=(12,), hidden=48, kernel=3, layers=2, lstm_layers=1, learning_rate=3e-3,
    batch_size=8, epochs=60,
)  # fmt: skip
LGI = LGISettings(
    feature_width=8, segments=12, hidden=16, attention=8, kernel=3, heads=2, learning_rate=5e-3, batch_size=8, epochs=3,
)  # fmt: skip
STREAM = FeatureRecipe(encoder=EncoderRecipe(encoder=EncoderSettings(width=8)), untrimmed="t", size_px=32)
RECIPE = GroundingRecipe(streams=(STREAM,), head=TAN2D, glove=None, word_width=8, moments="m", held_out_every=6)


def info_of(video_id: str, width: int) -> FeatureInfo:
    return FeatureInfo(
        video_id=video_id, frames=8 * SNIPPETS, fps=12.0, snippet_frames=8, stride_frames=8, offset_frames=0,
        size_px=32, mean=(0.5,) * 3, std=(0.2,) * 3, feature_width=width, snippets=SNIPPETS, encoder_hash="h",
        code_version=1,
    )  # fmt: skip


@pytest.fixture
def world(tmp_path):
    """Features whose number k is high while verb k is going on, a third of the video each."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "features"
    videos, moments = [], {"train": [], "test": []}
    for number in range(36):
        subset = "train" if number < 24 else "test"
        video_id = f"video{number}"
        feat = 0.1 * rng.normal(size=(SNIPPETS, 8)).astype(np.float32)
        for third, verb in enumerate(rng.permutation(len(VERBS))[:3]):
            feat[4 * third : 4 * third + 4, verb] += 2
            moments[subset].append(
                Moment(
                    video_id=video_id, sentence=f"a person {VERBS[verb]}.", start_s=third * DURATION_S / 3,
                    end_s=(third + 1) * DURATION_S / 3, line=len(moments[subset]),
                )
            )  # fmt: skip
        write_features(folder, video_id, feat, info_of(video_id, 8))
        videos.append(GroundingVideo(video_id=video_id, path=None, duration_s=DURATION_S, subset=subset))
    data = GroundingDataset(
        videos=tuple(videos), moments={k: tuple(v) for k, v in moments.items()}, missing=(), dropped=()
    )
    return folder, data


def run(tmp_path, recipe, folders, data, *, glove=None, name="head"):
    folder = tmp_path / name
    folder.mkdir()
    head = HEADS["lgi" if recipe.head is LGI else "2dtan"]
    how = {"expect": {"size_px": 32}, "subsets": ("train", "test"), "glove": glove}
    return folder, train_and_score(folder, head, recipe, folders, None, data, **how)


@pytest.mark.long
def test_a_head_learns_the_sentences_and_its_predictions_give_the_same_scores(world, tmp_path):
    features, data = world
    folder, facts = run(tmp_path, RECIPE, [features], data)
    predictions = json.loads((folder / "predictions.json").read_text())
    assert [(p["video"], p["sentence"]) for p in predictions] == [
        (m.video_id, m.sentence) for m in data.moments["test"]
    ]
    truth = [
        {"video": m.video_id, "sentence": m.sentence, "start_s": m.start_s, "end_s": m.end_s, "duration_s": DURATION_S}
        for m in data.moments["test"]
    ]
    again = evaluate_grounding(truth, predictions, protocol="2dtan")
    assert facts["scores"]["R1@0.5"] == pytest.approx(100 * again["R1@0.5"])
    assert facts["scores"]["R1@0.5"] > 80  # three places are possible, so chance is a third
    assert facts["queries"] == {"train": 60, "held out": 12, "test": 36}
    assert "no GloVe" in facts["words"]
    assert len(json.loads((folder / "history.json").read_text())) == TAN2D.epochs
    again_folder, _ = run(tmp_path, RECIPE, [features], data, name="again")
    assert (again_folder / "predictions.json").read_bytes() == (folder / "predictions.json").read_bytes()


@pytest.mark.long
@pytest.mark.parametrize("blind", ["text", "video"])
def test_a_blind_head_is_near_chance(world, tmp_path, blind):
    features, data = world
    _, facts = run(tmp_path, replace(RECIPE, blind=blind), [features], data)
    assert facts["scores"]["R1@0.5"] < 60


def test_lgi_gives_one_moment_per_sentence(world, tmp_path):
    features, data = world
    folder, facts = run(tmp_path, replace(RECIPE, head=LGI), [features], data)
    predictions = json.loads((folder / "predictions.json").read_text())
    assert {len(p["moments"]) for p in predictions} == {1}
    assert 0 <= facts["scores"]["mIoU"] <= 100


@pytest.mark.long
def test_streams_are_concatenated_and_a_video_that_lacks_one_is_a_miss(world, tmp_path):
    features, data = world
    other = tmp_path / "other"
    for video in data.videos[:-1]:
        write_features(other, video.video_id, np.ones((SNIPPETS, 4), np.float32), info_of(video.video_id, 4))
    folder, _ = run(tmp_path, replace(RECIPE, streams=(STREAM, STREAM)), [features, other], data)
    predictions = json.loads((folder / "predictions.json").read_text())
    assert {v.video_id for v in data.videos[24:]} - {p["video"] for p in predictions} == {data.videos[-1].video_id}
    report = json.loads((folder / "scores.json").read_text())["grounding"]
    assert report["queries"]["missing"] == 3


def test_training_sentences_without_a_known_word_are_left_out_and_named(world, tmp_path):
    features, data = world
    words = ("a", "person", *VERBS)
    vectors = np.random.default_rng(0).normal(size=(len(words), 5)).astype(np.float32)
    glove = WordVectors(words=words, vectors=vectors, name="tiny.txt", sha256="s")
    strange = replace(data.moments["train"][4], sentence="xyzzy plugh.")
    train = (*data.moments["train"][:4], strange, *data.moments["train"][5:])
    some = replace(data, moments={"train": train, "test": data.moments["test"]})
    recipe = replace(RECIPE, head=replace(TAN2D, epochs=1), glove="s")
    _, facts = run(tmp_path, recipe, [features], some, glove=glove)
    assert facts["training_sentences_without_a_known_word"] == ["line 5: 'xyzzy plugh.'"]
    assert "tiny.txt" in facts["words"]
    foreign = WordVectors(words=("waves",), vectors=vectors[:1], name="few.txt", sha256="g")
    with pytest.raises(TooManyBroken, match=r"of 72 training sentences have no known word .*few\.txt"):
        run(tmp_path, recipe, [features], data, glove=foreign, name="foreign")


def test_features_of_other_videos_are_refused(world, tmp_path):
    _, data = world
    (tmp_path / "empty").mkdir()
    with pytest.raises(AnnotationError, match="none of the 72 moments has a video with features"):
        run(tmp_path, RECIPE, [tmp_path / "empty"], data)
