"""The search over boundary settings: from the texts of a space to settings, and from these to recipes."""

import dataclasses
from itertools import product

import numpy as np
import pytest
import torch

from bsp.clips.plan import PAPER_KINDS
from bsp.encoders.build import build_encoder
from bsp.features.store import extract_features
from bsp_platform.plan.profiles import mini
from bsp_platform.plan.recipes import EncoderRecipe, FeatureRecipe, Stream
from bsp_platform.plan.rows import Row, row_recipes
from bsp_platform.search.space import PARAMETERS, make_setting, plan_trial
from search_cases import BASE, WIDTH_8, settings_of, sources_of, space


def test_a_space_is_read_from_texts_and_the_rest_is_as_in_the_profile():
    found = space(epsilon="0, 2", gammas="2+0.5,4", kinds="ss+dc,dc+sc+ds+ss", fusion="two-stream")
    assert found == {
        "fusion": ("two-stream",), "kinds": (("dc", "ss"), ("dc", "sc", "ds", "ss")), "epsilon": (0, 2),
        "gammas": ((0.5, 2.0), (4.0,)), "min_segment": (2,), "stride": (1,), "tau": (4,),
    }  # fmt: skip
    assert tuple(found) == PARAMETERS


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ({"epsilons": "1"}, "unknown parameter epsilons"),
        ({"epsilon": "x"}, "epsilon=x: "),
        ({"kinds": "dc"}, "kinds=dc: a mix is two or more"),
        ({"kinds": "dc+xx"}, r"kinds=dc\+xx: a mix is two or more"),
        ({"fusion": "three-head"}, "fusion=three-head: it is one of alone, two-stream, two-head, distillation"),
    ],
)
def test_a_wrong_space_is_refused_by_name(texts, message):
    with pytest.raises(ValueError, match=message):
        space(**texts)


def test_what_cannot_matter_makes_no_new_trial_and_what_cannot_be_is_left_out():
    # epsilon counts only with dc, gammas only with ds: 3 + 1 + 3 * 2 of 3 * 2 * 3 combinations.
    found = settings_of(epsilon="0,1,2", gammas="0.5+2,4", kinds="dc+ss,sc+ss,dc+ds+ss")
    assert len(found) == len(set(found)) == 3 + 1 + 6
    assert {s.values()["epsilon"] for s in found if "dc" not in s.kinds} == {"-"}
    # With tau 2 neither epsilon nor min_segment may be above 2.
    found = settings_of(tau="2,4", epsilon="1,3", min_segment="1,4", kinds="dc+ss")
    assert {(s.tau, s.epsilon, s.min_segment) for s in found} == {(2, 1, 1), *product((4,), (1, 3), (1, 4))}
    assert make_setting({**dict(zip(PARAMETERS, ("alone", ("dc", "ss"), 3, None, 1, 1, 2)))}, BASE) is None


@pytest.mark.parametrize("fusion", ["alone", "two-stream", "two-head", "distillation"])
def test_the_profiles_own_setting_gives_the_stages_of_tables_4_and_5(fusion):
    kinds = PAPER_KINDS
    classify = Stream(method="classification", kinds=kinds)
    streams = {
        "alone": (classify,),
        "two-stream": (Stream(method="action"), classify),
        "two-head": (Stream(method="two-head", kinds=kinds),),
        "distillation": (Stream(method="distillation", kinds=kinds),),
    }[fusion]
    (setting,) = settings_of(fusion=fusion)
    plan = plan_trial(setting, 1, mini(), sources_of(), 1)
    expected = row_recipes(Row(name="r", label="r", streams=streams), 1, mini(), sources_of(), 1)
    assert plan.recipes == expected
    assert plan.searched == expected.encoders[-1]


def test_another_tau_trains_on_clips_of_that_length_and_leaves_vanilla_alone():
    (setting,) = settings_of(fusion="two-stream", tau="2", epsilon="0", min_segment="1", stride="3")
    (usual,) = settings_of(fusion="two-stream")
    plan, before = (plan_trial(s, 0, mini(), sources_of(), 1, clips=6_400) for s in (setting, usual))
    assert (plan.searched.encoder.frames, plan.searched.clips.half_len) == (4, 2)
    assert (plan.searched.clips.epsilon, plan.searched.clips.stride_frames) == (0, 3)
    assert plan.recipes.encoders[0] == before.recipes.encoders[0]
    assert plan.recipes.encoders[0].train == mini().train
    assert plan.recipes.class_scores() == before.recipes.class_scores()
    assert (plan.searched.train.steps, plan.searched.train.warmup_steps) == (200, 12)
    with pytest.raises(ValueError, match=r"--clips 99999.* more than the profile's 25600"):
        plan_trial(usual, 0, mini(), sources_of(), 1, clips=99_999)


def test_a_distilled_student_of_another_tau_has_an_action_teacher_of_that_tau():
    setting, usual = settings_of(fusion="distillation", tau="8,4")
    long = plan_trial(setting, 0, mini(), sources_of(), 1).searched
    assert [t.encoder.frames for t in (long, *long.teachers)] == [16, 16, 16]
    assert long.teachers[0].clips.kinds == ()
    searched = plan_trial(usual, 0, mini(), sources_of(), 1).searched
    assert searched.teachers[0] == plan_trial(usual, 0, mini(), sources_of(), 1, clips=3_200).searched.teachers[0]


@pytest.mark.long
def test_features_come_from_eight_frames_whatever_tau(tiny_untrimmed, tmp_path):
    from bsp_platform.work.extraction import ExtractionJob, Extractor
    from bsp_platform.work.pretraining import save_encoder

    video = tiny_untrimmed.videos[0]
    recipe = EncoderRecipe(encoder=dataclasses.replace(WIDTH_8, frames=4), seed=3)
    trained = build_encoder(recipe.encoder, 3)
    save_encoder(trained, recipe, tmp_path)
    features = FeatureRecipe(encoder=recipe, untrimmed="v", size_px=32)
    job = ExtractionJob(recipe=features, weights=tmp_path / "encoder.pt", folder=tmp_path)
    count, error = Extractor(job).extract(video.video_id, video.path)
    same_weights = build_encoder(WIDTH_8, 99)
    same_weights.load_state_dict(trained.state_dict())
    expected, info = extract_features(same_weights, video.path, video_id=video.video_id, size_px=32)
    found = np.load(tmp_path / f"{video.video_id}.npy")
    assert (count, error, info.snippet_frames) == (len(expected), "", 8)
    np.testing.assert_array_equal(found, expected)
    # The shift over 8 frames is not the one over 2 x 4: the length does matter.
    clip = torch.rand(1, 8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    halves = trained.eval()(clip.view(2, 4, 3, 32, 32)).view(1, 8, -1)
    assert not torch.allclose(same_weights.eval()(clip), halves)
