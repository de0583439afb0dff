"""Any pretext that keeps the contract trains an encoder, alone, beside vanilla or in one network with the actions: here
the toy of tests/examples."""

from __future__ import annotations

from dataclasses import replace
from math import isfinite, log

import numpy as np
import pytest
import torch

from bsp.clips.augment import AugmentSettings
from bsp.clips.plan import PAPER_KINDS
from bsp.encoders.build import build_encoder
from bsp.pretraining.fusion import FusionSettings
from bsp.pretraining.loop import TrainSettings, make_optimiser, train_steps
from bsp.pretraining.pretext import PretextSettings
from bsp_platform.plan.recipes import Stream
from bsp_platform.plan.rows import Row, row_recipes
from bsp_platform.work.streaming import ClipStream, make_clips
from search_cases import sources_of, tiny_profile, train_plainly
from toy_encoder import ToyEncoderSettings
from toy_pretext import DirectionPretext

TOY = DirectionPretext()
PROFILE = tiny_profile()
CLIPS = replace(PROFILE.clips, kinds=())


def recipes(*streams: Stream, catalog=None):
    return row_recipes(Row(name="r", label="r", streams=streams), 0, PROFILE, sources_of(catalog), 1).encoders


def brightening(catalog, plan, **_) -> list[np.ndarray]:
    """In the place of a file: frames that become brighter from one to the next, from any level on."""
    start = plan.augment_seed % 60
    levels = np.linspace(start, start + 180, len(plan.frames[0])).astype(np.uint8)
    return [np.broadcast_to(levels[:, None, None, None], (len(levels), 32, 32, 3)).copy()]


def stream_of(pretext, clips=CLIPS, size_px: int = 32, **more) -> ClipStream:
    return ClipStream(
        catalog=None, clips=clips, augment=AugmentSettings(size_px=size_px), seed=0, batch_size=16, length=16,
        plan=pretext.plan, synthesise=pretext.synthesise, **more,
    )  # fmt: skip


@pytest.mark.long
def test_its_clips_are_planned_made_and_labelled_by_itself(tiny_catalog):
    batch = make_clips(tiny_catalog, stream_of(TOY, decode=brightening), range(6))
    assert batch["label"].tolist() == [0, 1, 0, 1, 0, 1]
    rising = np.diff(batch["clip"].mean(axis=(2, 3, 4)), axis=1)
    assert (rising[::2] > 0).all()
    assert (rising[1::2] < 0).all()


def test_it_is_learnt_in_a_few_steps(tiny_catalog):
    settings = TrainSettings(clips=960, batch_size=16, learning_rate=0.05, log_every_steps=20)
    stream = stream_of(TOY, replace(CLIPS, half_len=6), decode=brightening)
    batches = (make_clips(tiny_catalog, stream, range(first, first + 16)) for first in range(0, settings.clips, 16))
    model = TOY.model(build_encoder(ToyEncoderSettings(), 0), 0)
    steps = train_steps(
        model, make_optimiser(model, settings), batches, loss=TOY.objective(), settings=settings,
        device=torch.device("cpu"),
    )  # fmt: skip
    records = [record for _, record in steps if record]
    assert records[-1]["loss"] < 0.7 * log(2)  # chance
    assert records[-1]["accuracy"] > 0.9


def test_it_is_a_row_alone_and_a_second_stream_beside_vanilla():
    (alone,) = recipes(Stream(method="direction"))
    assert alone.pretext == TOY
    assert alone.name == "direction_tsm_r18w8_seed0_step8"
    assert recipes(Stream(method="action"), Stream(method="direction")) == (*recipes(Stream(method="action")), alone)


@pytest.mark.parametrize("method", ["two-head", "distillation"])
def test_it_is_joined_with_the_actions_in_one_encoder(method):
    (joined,) = recipes(Stream(method=method, second="direction"))
    name = {"two-head": "two-head", "distillation": "distilled"}[method]
    assert joined.name.startswith(f"{name}_action+direction_tsm_r18w8")
    assert [teacher.pretext.name for teacher in joined.teachers] == (["action", "direction"] if joined.teachers else [])


def test_half_of_the_clips_of_a_joined_encoder_are_the_actions_and_half_its_own(tiny_catalog):
    (joined,) = recipes(Stream(method="two-head", second="direction"), catalog=tiny_catalog)
    plans = [joined.pretext.plan(tiny_catalog, joined.clips, 0, index) for index in range(8)]
    assert [plan.index for plan in plans] == list(range(8))
    assert [plan.kind is None for plan in plans] == [True, False] * 4
    assert [plan.label for plan in plans if plan.kind is None] == [
        tiny_catalog.labels[plan.videos[0]] for plan in plans if plan.kind is None
    ]
    assert [plan.label for plan in plans if plan.kind is not None] == [0, 1, 0, 1]
    batch = make_clips(tiny_catalog, stream_of(joined.pretext, joined.clips, decode=brightening), range(4))
    assert (np.diff(batch["clip"].mean(axis=(2, 3, 4)), axis=1)[:, 0] > 0).tolist() == [True, True, True, False]
    assert batch["plain"].tolist() == [True, False, True, False]
    weights = train_plainly(joined, tiny_catalog)
    assert not torch.equal(weights["conv1.weight"], build_encoder(joined.encoder, 0).conv1.weight)


@pytest.mark.parametrize(
    ("pretext", "second"),
    [
        (PretextSettings(task="regression", kinds=PAPER_KINDS[:1]), {"change_point": torch.tensor([np.nan, 3.0])}),
        (TOY, {}),
    ],
)
def test_a_joined_loss_reads_only_the_clips_of_each_task(pretext, second):
    """Clip 0 is plain, of action 2; clip 1 is of the other task, label 1: alone the pretext gives for it what it adds
    here, whatever its output for clip 0."""
    settings = FusionSettings(kinds=(), num_actions=3, pretext=pretext)
    targets = {"label": torch.tensor([2, 1]), "plain": torch.tensor([True, False]), **second}
    width = 8 if pretext != TOY else 2
    output = torch.randn(2, width, generator=torch.Generator().manual_seed(0))
    action = torch.tensor([[0.0, 0.0, log(2.0)], [5.0, 0.0, 0.0]])
    loss, stats = settings.loss({"action": action, "boundary": output, "matched": []}, targets)
    own, own_stats = pretext.loss(output[1:], {name: value[1:] for name, value in targets.items()})
    assert loss.item() == pytest.approx(log(2) + own.item())
    assert stats.keys() == {"action_accuracy", *(f"boundary_{name}" for name in own_stats)}
    assert all(stats[f"boundary_{name}"].item() == pytest.approx(value.item()) for name, value in own_stats.items())
    nothing = {**targets, "plain": torch.tensor([True, True])}
    assert isfinite(settings.loss({"action": action, "boundary": output, "matched": []}, nothing)[0].item())


def test_what_there_is_not_is_named():
    with pytest.raises(ValueError, match=r"is called 'jigsaw'; there are random, image, action, .*direction"):
        Stream(method="jigsaw")
    with pytest.raises(ValueError, match="not both"):
        FusionSettings(kinds=PAPER_KINDS, num_actions=3, pretext=TOY)
