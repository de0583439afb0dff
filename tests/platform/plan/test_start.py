"""What trainings start from: image weights as stages of their own, given files, and rows that have none."""

from dataclasses import replace

import click
import pytest
import torch
from click.testing import CliRunner

from bsp.encoders.build import build_encoder
from bsp.encoders.tsm import EncoderSettings
from bsp.pretraining.still import StillPictures
from bsp_platform.plan.options import experiment_command
from bsp_platform.plan.profiles import paper, smoke
from bsp_platform.plan.recipes import EncoderRecipe, Stream
from bsp_platform.plan.resources import Resources
from bsp_platform.plan.rows import Row, row_recipes, startable
from bsp_platform.plan.sources import GivenFile
from bsp_platform.storage.manifests import recipe_hash
from bsp_platform.sweep import row_runner
from bsp_platform.sweep.row_runner import RowJob
from bsp_platform.work.pretraining import WEIGHTS, given_encoder, load_encoder, save_encoder
from bsp_platform.work.probe import HeldOutAtEnd, held_out_score, is_scored, score_held_out
from paper_tables import SOURCES
from row_without_ray import RowWithoutRay

ACTION = Stream(method="action")
IMAGES = replace(SOURCES, start="image")


def stages_of(*streams: Stream, sources=SOURCES, profile=None, seed: int = 0) -> list[EncoderRecipe]:
    row = Row(name="r", label="r", streams=streams, heads=())
    return [recipe for _, recipe in row_recipes(row, seed, profile or smoke(), sources, 1).stages()]


def test_image_weights_are_two_stages_before_a_training():
    still, image, trained = stages_of(ACTION, sources=IMAGES, seed=3)
    assert still.name == "still_tsm_r18w8_seed3_step8"
    assert (image.name, image.pretext, image.still) == ("image_tsm_r18w8_seed3", None, still)
    assert trained.name == "action_tsm_r18w8_seed3_step8_from_image"
    assert (trained.start_recipe, trained.still) == (image, still)
    assert still.encoder.clip_frames == 1
    assert stages_of(Stream(method="image"), seed=3) == [still, image]  # the row "image only" has the same ones
    assert stages_of(replace(ACTION, start="image"), seed=3) == [still, image, trained]
    assert stages_of(replace(ACTION, start="random"), sources=IMAGES) == stages_of(ACTION)


def test_what_comes_after_the_classifier_of_pictures_depends_on_its_hash():
    longer = replace(smoke(), still_train=replace(smoke().still_train, clips=256))
    for stream, differ in ((ACTION, True), (Stream(method="image"), True), (Stream(method="random"), False)):
        one, two = (stages_of(stream, sources=IMAGES, profile=profile)[-1] for profile in (smoke(), longer))
        assert (recipe_hash(one) != recipe_hash(two)) == differ
    assert stages_of(ACTION, profile=longer) == stages_of(ACTION)


def test_students_and_deep_networks_start_from_it_too():
    kinds = smoke().clips.kinds
    names = [recipe.name for recipe in stages_of(Stream(method="distillation", kinds=kinds), sources=IMAGES)]
    assert [name.split("_tsm")[0] for name in names] == ["still", "image", "action", "dc+sc+ds+ss_cls",
                                                         "distilled_action+dc+sc+ds+ss"]  # fmt: skip
    still, _, deep = stages_of(replace(ACTION, encoder="r50"), sources=IMAGES)
    assert (still.zero_residual, deep.zero_residual) == (True, False)


def test_still_pictures_go_with_the_start_image_only():
    still = stages_of(Stream(method="image"))[0]
    with pytest.raises(ValueError, match="gives the start weights called image, and no others"):
        EncoderRecipe(encoder=smoke().encoder, start="ab12", still=still)


def test_the_weights_are_carried_over(tmp_path):
    still, image = stages_of(Stream(method="image"))
    of_still = build_encoder(still.encoder, 5)
    save_encoder(of_still, still, tmp_path)
    (tmp_path / "image").mkdir()
    facts = given_encoder(tmp_path / "image", image, tmp_path / WEIGHTS)
    assert facts["checkpoint"] == still.name
    assert "   0  of these have another name in the file" in facts["loading_report"]
    found = load_encoder(tmp_path / "image" / WEIGHTS, image).state_dict()
    assert all(torch.equal(value, found[name]) for name, value in of_still.state_dict().items())
    assert found.keys() == of_still.state_dict().keys()


def test_a_given_file_is_what_image_means_for_its_encoder():
    given = replace(SOURCES, start_weights={paper().encoder: GivenFile(path="r18.pth", sha256="ab12")})
    row = Row(name="image", label="image", streams=(Stream(method="image"),))
    assert [recipe.start for recipe in stages_of(*row.streams, sources=given, profile=paper())] == ["ab12"]
    started = stages_of(replace(ACTION, start="image"), sources=given, profile=paper())
    assert [recipe.start for recipe in started] == ["ab12", "ab12"]
    assert stages_of(ACTION, sources=given, profile=paper())[0].start == ""
    assert startable([row], paper(), given, named=True) == [row]


def test_rows_without_image_weights_are_left_out_and_named(capsys):
    image, action = (Row(name=s.method, label="", streams=(s,)) for s in (Stream(method="image"), ACTION))
    assert startable([image, action], smoke(), SOURCES, named=False) == [image, action]
    assert startable([image, action], paper(), SOURCES, named=False) == [action]
    assert "left out, as there are no image weights for their encoders: image; give --start" in capsys.readouterr().out
    with pytest.raises(ValueError, match="no image weights for the encoders of image: give --start-weights FILE"):
        startable([image], paper(), SOURCES, named=True)
    with pytest.raises(ValueError, match="of image, action"):
        startable([image, action], paper(), replace(SOURCES, start="image"), named=False)


def test_the_option(tmp_path):
    seen = []
    command = experiment_command(tmp_path, lambda options: seen.append(options.data) or 0)
    path = tmp_path / "resnet.pth"
    torch.save(build_encoder(EncoderSettings(width=64), 0).state_dict(), path)
    for options in ([], ["--start", "image"], ["--start", str(path)], ["--start-weights", str(path)]):
        assert CliRunner().invoke(command, options).exit_code == 0
    assert [data.start for data in seen] == ["random", "image", "image", "random"]
    assert [data.start_weights for data in seen] == [(), (), (path,), (path,)]
    refused = CliRunner().invoke(command, ["--start", "imagenet"])
    assert refused.exit_code == 2
    assert "--start imagenet: no such file; give random, image or a file" in click.unstyle(refused.output)


def test_a_row_makes_what_its_training_starts_from_first_and_once(tmp_path, tiny_catalog, monkeypatch):
    import ray

    calls = []

    def train_encoder(folder, recipe, stream, resources, *, start=None, held_out=None, **_):
        calls.append((recipe, start, held_out is not None, stream.length))
        weights = build_encoder(recipe.encoder, 40 + len(calls))
        save_encoder(weights, recipe, folder)
        return {"name": recipe.name}

    monkeypatch.setattr(ray, "get", lambda reference: reference)
    monkeypatch.setattr(row_runner, "train_encoder", train_encoder)
    still, image, action = stages_of(ACTION, sources=IMAGES)
    job = RowJob(
        storage=str(tmp_path), resources=Resources(), catalog=tiny_catalog, data={}, glove=None, class_scores={},
        weights={}, recipes={}, validation=tiny_catalog,
    )  # fmt: skip
    runner = RowWithoutRay(job, tmp_path / "node")
    runner.encoder(action)
    found = {recipe: runner.store.find("encoders", recipe) for recipe in (still, image, action)}
    assert calls == [(still, None, True, 128), (action, found[image] / WEIGHTS, True, 128)]
    one, two = (load_encoder(found[recipe] / WEIGHTS, recipe).state_dict() for recipe in (still, image))
    assert all(torch.equal(value, one[name]) for name, value in two.items())
    runner.encoder(image)
    assert runner.made == ["encoders"] * 3


@pytest.mark.long
def test_pictures_are_scored_at_the_end_on_other_videos(tiny_catalog, monkeypatch):
    import ray

    from bsp_platform.work.pretraining import build_model

    monkeypatch.setattr(ray, "get", lambda reference: reference)
    still, image = stages_of(Stream(method="image"))
    still = replace(still, pretext=StillPictures(num_actions=len(tiny_catalog.class_names)))
    assert (is_scored(still), is_scored(image)) == (True, False)
    assert held_out_score(None, still) is held_out_score(tiny_catalog, image) is None
    model, loss, device = build_model(still), still.pretext.loss, torch.device("cpu")
    score = held_out_score(tiny_catalog, still)
    assert isinstance(score, HeldOutAtEnd)
    assert score(model, loss, 7, device) == {}
    found = score(model, loss, 8, device)
    assert set(found) - {"held_out_accuracy_chance", "held_out_accuracy_margin"} == {
        "held_out_loss",
        "held_out_accuracy",
    }
    with torch.no_grad():  # a head that always says class 1
        model.head.weight.zero_()
        model.head.bias.copy_(torch.tensor([0.0, 1.0, 0.0, 0.0]))
    plans = [still.pretext.plan(tiny_catalog, still.clips, still.seed, index) for index in range(12)]
    expected = sum(plan.label == 1 for plan in plans) / 12
    assert score_held_out(model, loss, still, tiny_catalog, device, clips=12)["accuracy"] == pytest.approx(expected)
