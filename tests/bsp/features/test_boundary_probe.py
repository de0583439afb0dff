"""The linear probe for boundaries, the cheap proxy of a search."""

import dataclasses

import numpy as np
import pytest
import torch

from bsp.encoders.build import build_encoder
from bsp.features.probe import boundary_snippets, load_probe_video, probe_score, snippet_features, with_neighbours
from bsp.features.store import extract_features
from bsp.video.read import VideoInfo
from bsp_platform.search.space import all_settings, plan_trial, read_space
from bsp_platform.work.probe import ProbeSettings, load_probe_videos, score_encoder
from search_cases import WIDTH_8, sources_of, tiny_profile, train_plainly


def test_boundaries_fall_into_snippets_of_eight_frames():
    # 10 fps: frame 8 opens snippet 1; 3.2 s is frame 32, snippet 4, which a video of 4 snippets lacks.
    info = VideoInfo(path="a.mp4", frames=32, fps=10, uniform=True, width=64, height=64, codec="h264", reader="pyav")
    assert boundary_snippets([0.0, 0.8, 2.39, 3.2], info, snippets=4, snippet_frames=8).tolist() == [
        True,
        True,
        True,
        False,
    ]


def test_the_probe_finds_what_is_linear_in_a_neighbour_and_nothing_in_noise():
    generator = np.random.default_rng(0)
    features, boundaries = [], []
    for _ in range(12):
        boundary = generator.random(40) < 0.15
        feature = generator.normal(size=(40, 6)).astype(np.float32)
        feature[1:, 0] += 8 * boundary[:-1]  # the trace of a boundary is in the snippet after it
        features.append(feature)
        boundaries.append(boundary)
    assert probe_score(features, boundaries) > 95
    chance = 100 * np.concatenate(boundaries[1::2]).mean()
    noise = [generator.normal(size=f.shape) for f in features]
    assert abs(probe_score(noise, boundaries) - chance) < 15
    # What is only in the videos that are fitted does not count.
    for k in range(1, 12, 2):
        features[k] = noise[k]
    assert probe_score(features, boundaries) < 50
    np.testing.assert_array_equal(with_neighbours(np.array([[1.0], [2], [3]])), [[1, 1, 2], [1, 2, 3], [2, 3, 3]])


def test_a_probe_without_boundaries_says_what_is_missing():
    with pytest.raises(ValueError, match="of 4 probe videos those held out have 0 snippets with a boundary among 4"):
        probe_score([np.zeros((2, 3))] * 4, [np.array([True, False]), np.zeros(2, bool)] * 2)


@pytest.mark.long
def test_the_probe_reads_training_videos_as_extraction_does(tiny_untrimmed):
    videos = load_probe_videos(tiny_untrimmed, 32, 8, ProbeSettings(videos=4))
    subsets = {video.video_id: video.subset for video in tiny_untrimmed.videos}
    assert [subsets[video.video_id] for video in videos] == ["training"] * 4
    path = next(v.path for v in tiny_untrimmed.videos if v.video_id == videos[0].video_id)
    encoder = build_encoder(WIDTH_8, 1).eval()
    expected, _ = extract_features(encoder, path, video_id="v", size_px=32)
    np.testing.assert_array_equal(snippet_features(encoder, videos[0].frames_STHWC, "cpu"), expected)
    source = next(v for v in tiny_untrimmed.videos if v.video_id == videos[0].video_id)
    part = load_probe_video(source, 32, 5, 8)
    assert part.boundary_S.any()
    whole = slice(part.first, part.first + 5)
    np.testing.assert_array_equal(part.frames_STHWC, videos[0].frames_STHWC[whole])
    np.testing.assert_array_equal(part.boundary_S, videos[0].boundary_S[whole])


@pytest.mark.long
def test_probing_leaves_training_bit_identical(tiny_catalog, tiny_untrimmed):
    profile = tiny_profile()
    (setting,) = all_settings(read_space({"kinds": "dc+ss", "tau": "2"}, profile), profile.clips)
    recipe = plan_trial(setting, 0, profile, sources_of(tiny_catalog), 1).searched
    recipe = dataclasses.replace(recipe, train=dataclasses.replace(recipe.train, clips=24, checkpoint_every_steps=1))
    videos = load_probe_videos(tiny_untrimmed, 32, 8, ProbeSettings(videos=4))
    scores = []

    def probe(encoder, _step):
        before = torch.get_rng_state()
        scores.append(score_encoder(encoder, recipe, videos))
        assert torch.equal(torch.get_rng_state(), before)
        assert all(module.training for module in encoder.modules())

    alone, probed = train_plainly(recipe, tiny_catalog), train_plainly(recipe, tiny_catalog, probe)
    assert len(set(scores)) == 3  # the encoder changes, and the probe sees it
    assert all(torch.equal(value, probed[name]) for name, value in alone.items())
