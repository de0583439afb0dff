"""Which epoch of a detector is kept: chosen by the scored subset, by held-out training videos, or the last."""

import hashlib
from dataclasses import replace

import pytest

from bsp.errors import AnnotationError
from bsp.localization.gtad.windows import WindowSettings
from bsp.tasks.class_scores import classify_videos
from bsp.tasks.head import hold_out, read_split
from small_models import GTAD, planted, run_gtad

WINDOWS = WindowSettings(
    feature_width=8, cells=12, max_duration=8, inner_samples=2, context_samples=1, epochs=3, stride_cells=6,
    max_proposals=20, too_long_cells=9, hidden=32, block=32, aligned=8, mapped=8,
)  # fmt: skip
WHOLE = replace(GTAD, epochs=3, hidden=32, block=32, aligned=8, mapped=8)


def run(settings, head="gtad", drop=()):
    data, features = planted(12)
    classifier = classify_videos(features, data, ("training", "validation")).classifier
    data = replace(data, videos=tuple(video for video in data.videos if video.video_id not in drop))
    done = run_gtad(data, features, classifier, settings, head)
    return done.documents["history.json"], done.kept.tensors


def test_a_tenth_is_held_out_by_the_hashes_of_the_ids():
    data, features = planted(32)
    whole = read_split(features, data.videos, "training")
    ids = [video.video_id for video in whole.videos]
    expected = sorted(ids, key=lambda name: hashlib.sha256(name.encode()).hexdigest())[: len(ids) // 10]
    rest, held_out = hold_out(whole)
    assert sorted(video.video_id for video in held_out.videos) == sorted(expected)
    assert [video.video_id for video in rest.videos] == [name for name in ids if name not in expected]
    for video, feat_SD, info in zip(rest.videos, rest.features, rest.infos, strict=True):
        assert info.video_id == video.video_id
        assert (feat_SD == features.read(video.video_id)[0]).all()
    one = read_split(features, data.videos[:1], "training")
    with pytest.raises(AnnotationError, match=r"head\.epoch_by=last"):
        hold_out(one)


@pytest.mark.parametrize(("head", "settings"), [("gtad", WHOLE), ("gtad-windows", WINDOWS)])
def test_what_chooses_the_epoch(head, settings):
    by_scored, _ = run(replace(settings, epoch_by="scored"), head)
    last, last_weights = run(replace(settings, epoch_by="last"), head)
    held_out, _ = run(replace(settings, epoch_by="held-out"), head)
    assert all("validation_loss" in entry for entry in (*by_scored, *held_out))
    assert not any("validation_loss" in entry for entry in last)
    assert [e["loss"] for e in by_scored] == [e["loss"] for e in last]  # choosing does not change the training
    assert [e["loss"] for e in held_out] != [e["loss"] for e in last]  # which has fewer videos

    # What is held out is as if it were not there: without it the last epoch is the same as by hand.
    data, features = planted(12)
    _, chosen = hold_out(read_split(features, data.videos, "training"))
    without, _ = run(replace(settings, epoch_by="last"), head, drop=[video.video_id for video in chosen.videos])
    assert [e["loss"] for e in without] == [e["loss"] for e in held_out]
    assert last_weights


def test_other_words_are_refused():
    with pytest.raises(ValueError, match="epoch_by must be scored, held-out or last, got 'best'"):
        replace(WHOLE, epoch_by="best")
