"""Videos that are kept out of training, and what a pretext is worth on them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from bsp.clips.catalog import Catalog
from bsp.encoders.build import build_encoder
from bsp.encoders.tsm import EncoderSettings
from bsp.pretraining.contract import PretextModel
from bsp.pretraining.held_out import Level, at_chance, chance_levels, score_clips, split_held_out
from bsp.pretraining.pretext import PretextSettings


def catalog(classes: list[int], seconds: float = 10.0) -> Catalog:
    """As many videos of each class."""
    labels = np.repeat(np.arange(len(classes)), classes)
    count = len(labels)
    return Catalog(
        root="/v",
        paths=np.array([f"{label}/{k}.mp4".encode() for k, label in enumerate(labels)]),
        labels=labels.astype(np.int32),
        first_frame=np.zeros(count, np.int64),
        frames=np.full(count, int(25 * seconds), np.int32),
        fps=np.full(count, 25.0, np.float32),
        readers=np.zeros(count, np.uint8),
        class_names=tuple(f"c{k}" for k in range(len(classes))),
        sizes=np.arange(count, dtype=np.int64),
    )


@pytest.mark.parametrize("classes", [[30] * 5, [5] * 40, [2] * 50, [100, 3, 1, 1], [200]])
def test_about_a_tenth_is_kept_out_in_pairs_of_a_class(classes):
    videos = catalog(classes)
    split = split_held_out(videos, 0.1)
    assert sorted([*split.training, *split.held_out]) == list(range(len(videos)))
    counts = np.bincount(videos.labels[split.held_out], minlength=len(classes))
    assert (counts % 2 == 0).all()
    left = np.array(classes) - counts
    assert (left[counts > 0] >= np.maximum(2, np.array(classes)[counts > 0] / 2)).all()
    if max(classes) > 3:  # classes of two have none to spare
        assert abs(len(split.held_out) - 0.1 * len(videos)) <= 3
    else:
        assert len(split.held_out) == 0


def test_the_same_videos_are_kept_out_whatever_their_order():
    videos = catalog([30] * 3)
    names = set(videos.paths[split_held_out(videos, 0.1).held_out].tolist())
    mixed = videos.select(np.random.default_rng(0).permutation(len(videos)))
    assert set(mixed.paths[split_held_out(mixed, 0.1).held_out].tolist()) == names


def test_few_videos_all_train():
    assert len(split_held_out(catalog([10, 9]), 0.1).held_out) == 0
    assert len(split_held_out(catalog([10, 10]), 0.0).held_out) == 0
    with pytest.raises(ValueError, match=r"0\.\.0\.5, not 0\.6"):
        split_held_out(catalog([30]), 0.6)


def test_parts_of_a_file_stay_together_and_few_long_files_lose_their_ends():
    many = catalog([40], seconds=30).in_stretches(10)
    split = split_held_out(many, 0.1)
    assert len(many) == 120
    assert not set(many.paths[split.training].tolist()) & set(many.paths[split.held_out].tolist())
    assert len(split.held_out) == 12  # four files of three parts
    few = catalog([3], seconds=600).in_stretches(10)
    split = split_held_out(few, 0.1)
    assert len(split.held_out) == 18
    for path in set(few.paths.tolist()):
        own = few.paths == path
        assert (
            few.first_frame[split.training][own[split.training]].max()
            < few.first_frame[split.held_out][own[split.held_out]].min()
        )


def test_stretches_cover_each_long_video_once_and_leave_short_ones():
    videos = catalog([2])
    videos.frames[:] = [24 * 25, 19 * 25]  # 24 and 19 seconds
    parts = videos.in_stretches(10)
    assert parts.paths.tolist() == [videos.paths[0]] * 2 + [videos.paths[1]]
    assert parts.first_frame.tolist() == [0, 300, 0]
    assert parts.frames.tolist() == [300, 300, 475]
    assert parts.fingerprint() != videos.fingerprint()
    short = videos.select(np.array([1]))
    assert short.in_stretches(10).fingerprint() == short.fingerprint()


def batch(labels: list[int], error: str = "") -> dict:
    rng = np.random.default_rng(len(labels))
    count = len(labels)
    return {
        "clip": rng.integers(0, 256, (count, 8, 32, 32, 3), dtype=np.uint8),
        "label": np.array(labels),
        "change_point": np.full(count, 3, np.float32),
        "plain": np.zeros(count, bool),
        "error": np.array([error] * count),
    }


def test_the_score_is_that_of_the_formula_and_changes_nothing():
    pretext = PretextSettings(task="classification", kinds=(0, 3))
    model = PretextModel(build_encoder(EncoderSettings(width=8), 1), pretext, seed=1)
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    batches = [batch([0, 1, 1]), batch([0, 1], "a.mp4: broken"), batch([0])]
    scores = score_clips(model, pretext.loss, batches, torch.device("cpu"))
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())

    from bsp.clips.normalisation import normalise

    model.eval()
    logits = [model(normalise(torch.from_numpy(one["clip"]), torch.float32)) for one in (batches[0], batches[2])]
    logits_BK, label_B = torch.cat(logits).detach(), torch.tensor([0, 1, 1, 0])
    assert scores["accuracy"] == pytest.approx(float((logits_BK.argmax(1) == label_B).float().mean()), abs=1e-6)
    assert scores["loss"] == pytest.approx(float(torch.nn.functional.cross_entropy(logits_BK, label_B)), abs=1e-5)
    assert score_clips(model, pretext.loss, [batches[1]], torch.device("cpu")) == {}


def test_chance_is_the_most_frequent_label_and_the_best_constant():
    clips = batch([0, 0, 0, 1])
    clips["change_point"] = np.array([2, 4, 6, np.nan], np.float32)
    clips["plain"] = np.array([True, True, False, False])
    levels = chance_levels(["accuracy", "action_accuracy", "boundary_accuracy", "change_point_error", "loss"], [clips])
    assert levels["accuracy"].value == 0.75
    assert levels["accuracy"].margin == pytest.approx(3 * math.sqrt(0.75 * 0.25 / 4))
    assert levels["action_accuracy"].value == 1.0
    assert levels["boundary_accuracy"].value == 0.5
    assert levels["change_point_error"].value == pytest.approx(4 / 3)
    assert "loss" not in levels
    assert chance_levels(["accuracy"], []) == {}


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [("accuracy", 0.31, True), ("accuracy", 0.36, False), ("change_point_error", 0.2, True),
     ("change_point_error", 0.1, False), ("accuracy", math.nan, True)],
)  # fmt: skip
def test_what_is_within_the_margin_is_chance(name, value, expected):
    assert at_chance(name, value, Level(0.25, 0.1)) is expected
