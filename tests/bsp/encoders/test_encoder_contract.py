"""An encoder that keeps the contract goes through pre-training, features and a head: the toy of tests/examples."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from bsp.clips.augment import centre_clip
from bsp.clips.plan import PAPER_KINDS, ClipSettings
from bsp.encoders.build import ENCODERS, build_encoder, flops_per_clip
from bsp.encoders.contract import Encoder
from bsp.encoders.tsm import EncoderSettings
from bsp.features.store import encode_snippets, read_features
from bsp.video.read import iter_frames
from bsp_platform.plan.recipes import EncoderRecipe, FeatureRecipe, Stream
from bsp_platform.plan.rows import Row, row_recipes
from bsp_platform.report.costs import CostRecipe, measure
from bsp_platform.work.extractor import ExtractionJob, Extractor
from bsp_platform.work.pretraining import save_encoder
from bsp_platform.work.probe import ProbeSettings, load_probe_videos, score_encoder
from search_cases import sources_of, tiny_profile, train_plainly
from toy_encoder import ToyEncoder, ToyEncoderSettings

TOY = ToyEncoderSettings()
PROFILE = replace(tiny_profile(), encoders={"toy": TOY})
DATA = {"trimmed": "t", "num_actions": 4, "workers": 1, "seed": 3}


def recipe_of(method: str, **stream) -> EncoderRecipe:
    return PROFILE.encoder_recipe(Stream(method=method, encoder="toy", **stream), **DATA)


@pytest.fixture(scope="module")
def trained(tiny_catalog) -> tuple[EncoderRecipe, Encoder]:
    """The toy after a few steps of the paper's four-way classification."""
    recipe = recipe_of("classification", kinds=PAPER_KINDS)
    encoder = build_encoder(recipe.encoder, recipe.seed)
    encoder.load_state_dict(train_plainly(recipe, tiny_catalog))
    return recipe, encoder


def test_clips_of_its_own_length_train_it(trained):
    recipe, encoder = trained
    assert recipe.name == "dc+sc+ds+ss_cls_toy_w16_seed3_step8"
    assert recipe.clips.half_len == 6
    assert not torch.equal(encoder.tubelets.weight, build_encoder(TOY, 3).tubelets.weight)


def test_snippets_of_its_own_length_become_features_and_a_record(trained, tiny_untrimmed, tmp_path):
    recipe, encoder = trained
    save_encoder(encoder, recipe, tmp_path)
    features = FeatureRecipe(encoder=recipe, untrimmed="u", size_px=32)
    video = tiny_untrimmed.videos[0]
    extractor = Extractor(ExtractionJob(recipe=features, weights=tmp_path / "encoder.pt", folder=tmp_path))
    assert extractor.extract(video.video_id, video.path)[1] == ""
    feat_SD, info = read_features(tmp_path, video.video_id)
    frames = sum(len(chunk) for chunk in iter_frames(video.path, chunk_frames=100))
    assert (info.snippet_frames, info.stride_frames, info.frames, info.feature_width) == (12, 12, frames, 16)
    assert feat_SD.shape == (frames // 12, 16)

    # The first one by hand: 4 x 4 x 4 tubelets of 3 x 8 x 8 pixels, each one dot product per feature.
    snippet_THWC = centre_clip(next(iter_frames(video.path, chunk_frames=12)), 32)
    normal_THWC = (snippet_THWC / 255 - np.array(TOY.mean)) / np.array(TOY.std)
    tubelets = normal_THWC.reshape(4, 3, 4, 8, 4, 8, 3)  # t, frame of it, row, y in it, column, x in it, channel
    weight, bias = (value.detach().numpy() for value in encoder.tubelets.parameters())
    products = np.einsum("tfryqxc,dcfyx->trqd", tubelets, weight) + bias
    np.testing.assert_allclose(feat_SD[0], np.maximum(products, 0).mean(axis=(0, 1, 2)), atol=1e-5)


def test_a_linear_head_reads_its_features(trained, tiny_untrimmed):
    recipe, encoder = trained
    videos = load_probe_videos(tiny_untrimmed, 32, TOY.clip_frames, ProbeSettings(videos=4))
    assert {video.frames_STHWC.shape[1] for video in videos} == {12}
    assert 0 < score_encoder(encoder, recipe, videos) <= 100


def test_regression_has_a_value_for_every_frame_though_the_encoder_joins_them():
    recipe = recipe_of("regression", kinds=PAPER_KINDS[:1])
    model = recipe.pretext.model(build_encoder(TOY, 0), 0)
    clip = torch.rand(2, 12, 3, 32, 32)
    assert model.encoder(clip).shape == (2, 4, 16)
    assert model(clip).shape == (2, 12)


def test_pixels_are_normalised_as_the_encoder_says():
    class Bright(ToyEncoderSettings):
        mean, std = (0.5, 0.0, 0.25), (0.5, 1.0, 0.25)

    class Colours(Encoder):
        def forward(self, clip_BTCHW):
            return clip_BTCHW.mean(dim=(3, 4))

    white = torch.full((1, 12, 8, 8, 3), 255, dtype=torch.uint8)
    feat_BD = encode_snippets(Colours(Bright()), white, "float32")
    assert feat_BD[0].tolist() == pytest.approx([1.0, 1.0, 3.0])


def test_flops_of_a_clip_by_hand():
    """64 tubelets of 3 x 3 x 8 x 8 numbers, 16 features, 2 operations each."""
    assert flops_per_clip(TOY, 32) == 2 * 64 * 16 * (3 * 3 * 8 * 8)


def test_tsm_makes_features_of_8_frames_whatever_its_clips_were_and_the_toy_of_its_own():
    longer = EncoderSettings(width=8).for_clips(16)
    assert (longer.clip_frames, longer.for_snippets().clip_frames) == (16, 8)
    assert TOY.for_snippets() is TOY
    with pytest.raises(ValueError, match="toy_w16 takes clips of 12 frames, not 16"):
        TOY.for_clips(16)


class Fixed(ToyEncoderSettings):
    """Takes one size of image only, as transformers do."""

    size_px = 16


def test_an_encoder_may_ask_for_a_size_of_its_own_and_costs_are_counted_at_it(monkeypatch):
    monkeypatch.setitem(ENCODERS, Fixed, ToyEncoder)
    profile = replace(PROFILE, encoders={"toy": TOY, "fixed": Fixed()})
    row = Row(name="r", label="r", streams=(Stream(method="action", encoder="fixed"),))
    recipes = row_recipes(row, 0, profile, sources_of(), 1)
    assert recipes.encoders[0].augment.size_px == 16
    assert [features.size_px for _, features in recipes.features()] == [16]
    with pytest.raises(ValueError, match=r"clips \[B, 12, 3, 16, 16\], not \[1, 12, 3, 32, 32\]"):
        build_encoder(Fixed(), 0)(torch.zeros(1, 12, 3, 32, 32))
    one, both = measure(
        CostRecipe(encoder=TOY, size_px=32, streams=(1, 2), hardware="h", encoders=((Fixed(),), (TOY, Fixed())))
    )
    # 4 x 2 x 2 tubelets of the small image, 4 x 4 x 4 of the large one; 2 * 16 * 3 * 3 * 8 * 8 operations each.
    assert (one["flops_per_clip"], both["flops_per_clip"]) == (16 * 18432, (16 + 64) * 18432)
    assert both["parameters"] == 2 * one["parameters"] == 2 * 16 * (3 * 3 * 8 * 8 + 1)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"no encoder called 'x3d'; it has toy"):
        PROFILE.encoder_recipe(Stream(method="random", encoder="x3d"), **DATA)
    with pytest.raises(ValueError, match="takes clips of 12 frames, but half_len 4 gives 8"):
        replace(recipe_of("action"), clips=ClipSettings())
    with pytest.raises(ValueError, match=r"toy_w16 takes clips \[B, 12, 3, H, W\], not \[1, 8, 3, 32, 32\]"):
        build_encoder(TOY, 0)(torch.zeros(1, 8, 3, 32, 32))
    with pytest.raises(TypeError, match=r"no encoder for .*: add its class to ENCODERS"):
        build_encoder(PROFILE.clips, 0)
