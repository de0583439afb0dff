"""Rivals of the paper's pretexts by worked examples: arrow of time, speediness, pace prediction."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from bsp.clips.augment import augment_clip
from bsp.clips.plan import PAPER_KINDS, ClipSettings
from bsp.clips.synthesis import collate
from bsp.encoders.build import build_encoder
from bsp.encoders.tsm import EncoderSettings
from bsp.pretraining.arrow_of_time import ArrowOfTime
from bsp.pretraining.fusion import FusionSettings
from bsp.pretraining.held_out import at_chance, chance_levels, score_clips
from bsp.pretraining.loop import TrainSettings, make_optimiser, train_steps
from bsp.pretraining.pace import PacePrediction
from bsp.pretraining.pretexts import PRETEXTS, make_pretext, too_short
from bsp.pretraining.speediness import Speediness, shrink_clip
from bsp_platform.plan.profiles import smoke
from golden_losses import catalog_of

CLIPS = ClipSettings(kinds=())
RIVALS = {"arrow-of-time": ArrowOfTime(), "speediness": Speediness(), "pace": PacePrediction()}
CLASSES = {"arrow-of-time": 2, "speediness": 2, "pace": 4}


def make_catalog(*frames: int):
    """Videos of so many frames, two of each class."""
    return catalog_of([np.zeros(count) for count in frames])


def plans_of(pretext, count, *, catalog=None, clips=CLIPS, seed=0):
    catalog = catalog or make_catalog(60, 60, 60, 60)
    return [pretext.plan(catalog, clips, seed, index) for index in range(count)]


def numbered(plan, size_px=16):
    """The planned frames as pictures: frame n is all of grey level n (below 256)."""
    levels = plan.frames[0].astype(np.uint8)
    return [np.broadcast_to(levels[:, None, None, None], (len(levels), size_px, size_px, 3)).copy()]


# ---- what the three have in common


@pytest.mark.parametrize("name", RIVALS)
def test_they_are_there_by_name_and_need_no_classes(name):
    assert make_pretext(name, (), 0) == RIVALS[name]
    assert RIVALS[name].name == name
    one_class = make_catalog(60, 60)
    assert {plan.kind for plan in plans_of(RIVALS[name], 8, catalog=one_class)} == {None}
    assert {name for name in PRETEXTS if name in RIVALS} == set(RIVALS)


@pytest.mark.parametrize("name", RIVALS)
def test_clip_k_is_the_same_whatever_came_before_and_whatever_the_kinds(name):
    catalog = make_catalog(60, 60, 60, 60)
    stream = plans_of(RIVALS[name], 24, catalog=catalog)
    again = [RIVALS[name].plan(catalog, CLIPS, 0, index) for index in reversed(range(24))]
    assert stream == again[::-1]
    assert stream == plans_of(RIVALS[name], 24, catalog=catalog, clips=replace(CLIPS, kinds=PAPER_KINDS))
    assert stream != plans_of(RIVALS[name], 24, catalog=catalog, seed=1)
    assert len({plan.videos for plan in stream}) > 1
    for plan in stream:
        assert 0 <= plan.frames[0].min() <= plan.frames[0].max() < 60


@pytest.mark.parametrize("name", RIVALS)
def test_every_block_of_the_stream_has_each_label_once(name):
    labels = np.array([plan.label for plan in plans_of(RIVALS[name], 96)])
    classes = CLASSES[name]
    np.testing.assert_array_equal(
        np.sort(labels.reshape(-1, classes), axis=1), [list(range(classes))] * (96 // classes)
    )


@pytest.mark.parametrize("name", RIVALS)
def test_the_loss_of_a_network_that_knows_nothing_is_that_of_chance(name):
    encoder = build_encoder(EncoderSettings(depth=18, width=8), 0)
    pretext, classes = RIVALS[name], CLASSES[name]
    targets = {"label": torch.tensor([0, 1, classes - 1])}
    head = pretext.head(encoder, 0)
    assert head.weight.shape == (classes, encoder.feature_width)
    loss, _ = pretext.loss(torch.zeros(3, classes), targets)
    assert loss.item() == pytest.approx(math.log(classes))
    # By hand: two right, one wrong by a logit of log 3: of two classes -log(3/4) twice and -log(1/4) once.
    logits = torch.zeros(3, classes)
    logits[0, 0] = logits[1, 1] = logits[2, 0] = math.log(3)
    weight = classes + 2  # exp(log 3) and classes - 1 ones
    loss, stats = pretext.loss(logits, targets)
    assert loss.item() == pytest.approx(-(2 * math.log(3 / weight) + math.log(1 / weight)) / 3)
    assert stats["accuracy"].item() == pytest.approx(2 / 3)
    loss, stats = pretext.loss(logits, targets, torch.tensor([False, False, True]))
    assert (loss.item(), stats["accuracy"].item()) == (pytest.approx(-math.log(1 / weight)), 0)


@pytest.mark.parametrize("name", RIVALS)
def test_a_joined_encoder_sees_actions_and_the_rival_in_turns(name):
    both = FusionSettings(kinds=(), num_actions=2, pretext=RIVALS[name])
    catalog = make_catalog(60, 60, 60, 60)
    plans = plans_of(both, 4 * CLASSES[name], catalog=catalog)
    alone = plans_of(RIVALS[name], 2 * CLASSES[name], catalog=catalog)
    assert [plan.kind is None for plan in plans] == [True, False] * (2 * CLASSES[name])
    assert [plan.label for plan in plans[1::2]] == [plan.label for plan in alone]
    for joined, own in zip(plans[1::2], alone):
        np.testing.assert_array_equal(
            both.synthesise(joined, numbered(joined)), RIVALS[name].synthesise(own, numbered(own))
        )


# ---- arrow of time


def test_a_backward_clip_is_the_same_frames_reversed():
    pretext = RIVALS["arrow-of-time"]
    plans = plans_of(pretext, 20)
    for forward, backward in zip(plans[::2], plans[1::2]):
        assert (forward.label, backward.label) == (0, 1)
        clips = [pretext.synthesise(plan, numbered(plan)) for plan in (forward, backward)]
        start = int(forward.frames[0][0])
        assert clips[0][:, 0, 0, 0].tolist() == list(range(start, start + 8))
        assert clips[1][:, 0, 0, 0].tolist() == list(range(start + 7, start - 1, -1))
    assert len({int(plan.frames[0][0]) for plan in plans}) > 5


def test_both_directions_are_cropped_and_flipped_alike():
    pretext = RIVALS["arrow-of-time"]
    pixels = np.random.default_rng(0).integers(0, 256, (60, 24, 24, 3), np.uint8)
    seen = []
    for plan in plans_of(pretext, 2):
        clip = np.ascontiguousarray(pretext.synthesise(plan, [pixels[plan.frames[0]]]))
        seen.append(augment_clip(clip, smoke().augment, plan.augment_seed))
    np.testing.assert_array_equal(seen[0], seen[1][::-1])


# ---- speediness


def test_a_pair_shows_one_moment_at_normal_and_at_twice_the_speed():
    for normal, fast in zip(plans_of(RIVALS["speediness"], 20)[::2], plans_of(RIVALS["speediness"], 20)[1::2]):
        assert (normal.label, fast.label) == (0, 1)
        assert normal.videos == fast.videos
        assert np.diff(normal.frames[0]).tolist() == [1] * 7
        assert np.diff(fast.frames[0]).tolist() == [2] * 7
        assert normal.frames[0][0] - fast.frames[0][0] == 3  # (14 - 7) // 2: in the middle
        assert normal.augment_seed != fast.augment_seed
    thrice = Speediness(speed_up=3)
    assert (thrice.frames_needed(CLIPS), RIVALS["speediness"].frames_needed(CLIPS)) == (22, 15)
    assert np.diff(plans_of(thrice, 2)[1].frames[0]).tolist() == [3] * 7


def test_a_shrunk_clip_by_hand():
    """4 x 8 px, left half 0, right half 100: the ground is 50, and the picture 2 x 4 with the edge kept inside."""
    clip = np.zeros((2, 4, 8, 3), np.uint8)
    clip[:, :, 4:] = 100
    shrunk = shrink_clip(clip, 0.5, np.random.default_rng(0))
    assert (shrunk.shape, shrunk.dtype) == (clip.shape, np.uint8)
    inside = (shrunk != 50).any(axis=(0, 3))
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    assert (len(rows), len(columns)) == (2, 4)
    assert inside[rows[0] : rows[0] + 2, columns[0] : columns[0] + 4].all()
    part = shrunk[0, rows[0], columns[0] : columns[0] + 4, 0]
    assert part[0] < part[1] < 50 < part[2] < part[3]
    assert shrink_clip(clip, 1.0, np.random.default_rng(0)) is clip


def test_the_size_of_things_varies_from_clip_to_clip_and_not_within_one():
    """A white square of 16 of 32 px: half of the side, times a share of 0.5 to 1, in every frame the same."""
    pretext = RIVALS["speediness"]
    frames = np.zeros((8, 32, 32, 3), np.uint8)
    frames[:, 8:24, 8:24] = 255
    sides = []
    for plan in plans_of(pretext, 60):
        clip = pretext.synthesise(plan, [frames])
        assert (clip == clip[:1]).all()
        sides.append(np.sqrt((clip[0, :, :, 0] > 160).sum()))
    assert min(sides) < 10
    assert max(sides) > 14
    assert min(sides) >= 7
    assert 11 < np.mean(sides) < 13
    off = replace(pretext, smallest_share=1.0)
    assert (off.synthesise(plans_of(off, 1)[0], [frames]) == frames).all()


# ---- pace


def test_the_label_is_the_stride():
    for plan in plans_of(RIVALS["pace"], 40):
        assert np.diff(plan.frames[0]).tolist() == [plan.label + 1] * 7
    assert RIVALS["pace"].frames_needed(CLIPS) == 29
    labels = [plan.label for plan in plans_of(RIVALS["pace"], 40)]
    assert len({tuple(labels[k : k + 4]) for k in range(0, 40, 4)}) > 3  # in an order drawn per block
    assert len({plan.frames[0][0] for plan in plans_of(RIVALS["pace"], 4)}) > 1  # each of a moment of its own


def test_every_frame_is_coloured_on_its_own_by_a_tenth_at_most():
    pretext = RIVALS["pace"]
    grey = [np.full((8, 4, 4, 3), 100, np.uint8)]  # contrast about the mean and saturation leave plain grey as it is
    plan = plans_of(pretext, 1)[0]
    levels = pretext.synthesise(plan, grey)[:, 0, 0, 0].astype(int)
    assert len(set(levels.tolist())) > 3
    assert np.abs(levels - 100).max() <= 10
    np.testing.assert_array_equal(pretext.synthesise(plan, grey), pretext.synthesise(plan, grey))
    off = replace(pretext, colour=0.0)
    assert (off.synthesise(plan, grey) == 100).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Speediness(speed_up=1), "speed_up must be at least 2, not 1"),
        (lambda: Speediness(smallest_share=0), r"smallest_share must lie in \(0, 1\], not 0"),
        (lambda: PacePrediction(strides=(2, 1)), r"rising numbers from 1 on, not \(2, 1\)"),
        (lambda: PacePrediction(strides=(1,)), "2 or more"),
        (lambda: PacePrediction(strides=(1, 1)), "rising"),
        (lambda: PacePrediction(colour=2), "colour must lie in 0..1"),
    ],
)
def test_settings_that_cannot_work_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_videos_that_are_too_short_are_counted():
    catalog = make_catalog(14, 15, 28, 29, 60)
    assert too_short(RIVALS["arrow-of-time"], CLIPS, catalog) == ""
    assert too_short(RIVALS["speediness"], CLIPS, catalog).startswith("1 of 5 videos are shorter than the 15 frames")
    assert too_short(RIVALS["pace"], CLIPS, catalog).startswith("3 of 5 videos are shorter than the 29 frames")
    joined = FusionSettings(kinds=(), num_actions=2, pretext=RIVALS["pace"])
    assert too_short(joined, CLIPS, catalog).startswith("3 of 5")
    with pytest.raises(ValueError, match=r"pace needs videos of 29 frames .*, but the longest of the 2 has 28"):
        too_short(RIVALS["pace"], CLIPS, make_catalog(28, 20))


# ---- learning, and scores on videos that were not trained on


def moving(video: int) -> np.ndarray:
    """40 frames of a dark square that goes to the right by a pixel per frame, from a place of its own, and around."""
    frames = np.full((40, 32, 32, 3), 200, np.uint8)
    for t, frame in enumerate(frames):
        columns = (np.arange(8) + 5 * video + t) % 32
        frame[4 + 2 * video : 14 + 2 * video, columns] = 30
    return frames


@pytest.mark.long
@pytest.mark.parametrize("name", RIVALS)
def test_each_is_learnt_and_solved_on_videos_that_were_kept_out(name):
    """In a world in which all move to the right at one speed, direction and stride can be seen."""
    pretext = RIVALS[name]
    videos = [moving(video) for video in range(8)]
    augment = replace(smoke().augment, size_px=32, flip=0.0, scales=(1.0,))

    def batch(catalog, first, seed=0):
        plans = [pretext.plan(catalog, CLIPS, seed, index) for index in range(first, first + 16)]
        of = [int(catalog.paths[plan.videos[0]].split(b".")[0]) for plan in plans]
        clips = [
            np.ascontiguousarray(pretext.synthesise(plan, [videos[video][plan.frames[0]]]))
            for plan, video in zip(plans, of)
        ]
        return collate(plans, [augment_clip(clip, augment, plan.augment_seed) for plan, clip in zip(plans, clips)])

    everything = catalog_of(videos)
    training, kept = everything.select(np.arange(6)), everything.select(np.arange(6, 8))
    settings = TrainSettings(clips=16 * 120, batch_size=16, learning_rate=0.05, log_every_steps=40, warmup_steps=10)
    torch.manual_seed(0)
    model = pretext.model(build_encoder(EncoderSettings(depth=18, width=8), 0), 0)
    held_out = [batch(kept, first, seed=9) for first in range(0, 96, 16)]
    level = chance_levels(["accuracy"], held_out)["accuracy"]
    assert level.value == 1 / CLASSES[name]
    steps = train_steps(
        model, make_optimiser(model, settings), (batch(training, first) for first in range(0, settings.clips, 16)),
        loss=pretext.objective(), settings=settings, device=torch.device("cpu"),
    )  # fmt: skip
    untrained = score_clips(model, pretext.objective(), held_out, torch.device("cpu"))
    assert at_chance("accuracy", untrained["accuracy"], level)
    assert len([record for _, record in steps if record]) == 3
    scores = score_clips(model, pretext.objective(), held_out, torch.device("cpu"))
    assert not at_chance("accuracy", scores["accuracy"], level)
