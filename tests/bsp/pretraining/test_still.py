"""The classifier of still pictures: one frame a clip, no shift, and weights that fit a TSM network as they are."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from bsp.clips.augment import AugmentSettings
from bsp.clips.plan import ClipSettings
from bsp.encoders.build import build_encoder
from bsp.encoders.checkpoints import load_checkpoint
from bsp.encoders.tsm import EncoderSettings
from bsp.encoders.tsm_lite0 import TSMLite0Settings
from bsp.errors import VideoOpenError
from bsp.pretraining.contract import PretextModel
from bsp.pretraining.still import StillPictures
from bsp_platform.work.streaming import ClipStream, make_clips

TSM = EncoderSettings(width=8, depth=18, shift_div=4)
STILL = StillPictures(num_actions=4)
CLIPS = ClipSettings(half_len=1, epsilon=0, min_segment=1, kinds=(), gammas=())


def as_of_other_weights(encoder):
    """Weights and running statistics that no initialisation has."""
    generator = torch.Generator().manual_seed(3)
    for value in encoder.state_dict().values():
        if value.is_floating_point():
            value += 0.1 * torch.rand(value.shape, generator=generator)
    return encoder.eval()


def stream(**more) -> ClipStream:
    return ClipStream(
        catalog=None, clips=CLIPS, augment=AugmentSettings(size_px=32), seed=0, batch_size=4, length=8,
        plan=STILL.plan, synthesise=STILL.synthesise, **more,
    )  # fmt: skip


def test_the_network_of_pictures_is_the_same_without_the_shift():
    pictures = TSM.for_pictures()
    assert (pictures.shift, pictures.clip_frames, pictures.feature_width) == (False, 1, TSM.feature_width)
    assert pictures == replace(TSM, shift_div=8).for_pictures()  # one serves every share of the shift
    assert all(block.fold == 0 for layer in layers(build_encoder(pictures, 0)) for block in layer)
    with pytest.raises(ValueError, match="tsm_lite0 has no form for single pictures; give a file"):
        TSMLite0Settings().for_pictures()


def layers(encoder):
    return (encoder.layer1, encoder.layer2, encoder.layer3, encoder.layer4)


def test_its_weights_fit_tsm_without_renaming_and_differ_by_the_shift_alone():
    still = as_of_other_weights(build_encoder(TSM.for_pictures(), 7))
    encoder = build_encoder(TSM, 8).eval()
    report = load_checkpoint(encoder, still.state_dict())
    assert (report.renamed, report.unused, report.missing) == ((), (), ())
    clip_BTCHW = torch.rand((2, 8, 3, 32, 32), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        alone = still(clip_BTCHW.flatten(0, 1)[:, None]).view(2, 8, -1)
        shifted = encoder(clip_BTCHW)
        for layer in layers(encoder):
            for block in layer:
                block.fold = 0  # shift share 0
        torch.testing.assert_close(encoder(clip_BTCHW), alone)
    assert not torch.allclose(shifted, alone)


def test_a_clip_is_one_frame_of_a_video_and_its_class():
    catalog = TinyCatalog()
    plans = [STILL.plan(catalog, CLIPS, 5, index) for index in range(200)]
    assert {len(plan.frames[0]) for plan in plans} == {len(plan.weights) for plan in plans} == {1}
    assert all(plan.label == catalog.labels[plan.videos[0]] for plan in plans)
    assert {int(plan.frames[0][0]) for plan in plans} == set(range(9))  # of ten frames all but the last
    assert STILL.clip_frames(CLIPS) == 1


class TinyCatalog:
    labels = np.array([2, 0, 1])
    frames = np.array([10, 10, 10])
    first_frame = np.array([0, 0, 0])

    def __len__(self):
        return 3


def test_a_broken_video_costs_one_picture():
    def decode(catalog, plan, **_):
        if plan.index == 1:
            raise VideoOpenError("x.mp4", "broken")
        return [np.full((len(plan.frames[0]), 40, 40, 3), 9, np.uint8)]

    batch = make_clips(TinyCatalog(), stream(decode=decode), range(4))
    assert batch["clip"].shape == (4, 1, 32, 32, 3)
    assert [bool(error) for error in batch["error"]] == [False, True, False, False]


def test_the_loss_is_that_of_the_classes():
    model = PretextModel(build_encoder(TSM.for_pictures(), 0), STILL, 0)
    with torch.no_grad():
        model.head.weight.zero_()
        model.head.bias.copy_(torch.tensor([0.0, 0.0, 5.0, 0.0]))
    label_B = torch.tensor([2, 1])
    loss, stats = STILL.loss(model(torch.rand(2, 1, 3, 32, 32)), {"label": label_B})
    total = np.exp(5) + 3
    assert loss.item() == pytest.approx((np.log(total) - 5 + np.log(total)) / 2, rel=1e-5)
    assert float(stats["accuracy"]) == 0.5
    with pytest.raises(ValueError, match="at least 2 classes, not 1"):
        StillPictures(num_actions=1)
