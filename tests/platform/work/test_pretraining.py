"""Checkpoints that are checked, and what training refuses before it starts. Real runs: test_faults_training.py."""

import dataclasses

import pytest
import torch

from bsp.clips.augment import AugmentSettings
from bsp.clips.plan import BoundaryKind, ClipSettings
from bsp.encoders.build import build_encoder
from bsp.encoders.tsm import EncoderSettings
from bsp.encoders.tsm_lite0 import TSMLite0Settings
from bsp.pretraining.loop import TrainSettings
from bsp.pretraining.pretext import PretextSettings
from bsp_platform.plan.recipes import EncoderRecipe
from bsp_platform.plan.resources import Resources
from bsp_platform.storage.files import file_sha256
from bsp_platform.storage.manifests import recipe_hash
from bsp_platform.work.pretraining import (
    TrainJob,
    given_encoder,
    load_encoder,
    load_state,
    newest_complete_state,
    save_state,
    start_training,
    train_encoder,
)
from bsp_platform.work.streaming import ClipStream

KINDS = (BoundaryKind.DIFF_CLASS, BoundaryKind.SAME_SPEED)


def recipe_of(clips: int, every: int) -> EncoderRecipe:
    return EncoderRecipe(
        encoder=EncoderSettings(width=8),
        pretext=PretextSettings(task="classification", kinds=KINDS),
        clips=ClipSettings(kinds=KINDS),
        augment=AugmentSettings(size_px=32),
        train=TrainSettings(
            clips=clips, batch_size=8, learning_rate=0.02, log_every_steps=5, checkpoint_every_steps=every
        ),
        trimmed="test",
        seed=3,
    )


def stream_of(recipe: EncoderRecipe, catalog_ref) -> ClipStream:
    return ClipStream(
        catalog=catalog_ref, clips=recipe.clips, augment=recipe.augment, seed=recipe.seed,
        batch_size=recipe.train.batch_size, length=recipe.train.clips,
    )  # fmt: skip


def test_a_truncated_checkpoint_is_named_and_the_one_before_is_used(tmp_path, capsys):
    from ray.train import Checkpoint

    for step in (1, 2):
        (tmp_path / f"checkpoint_{step}").mkdir()
        save_state({"step": step, "weights": torch.arange(1000.0)}, tmp_path / f"checkpoint_{step}")
    latest = tmp_path / "checkpoint_2"
    assert newest_complete_state(Checkpoint.from_directory(latest))["step"] == 2
    content = (latest / "state.pt").read_bytes()
    (latest / "state.pt").write_bytes(content[:-7])
    with pytest.raises(ValueError, match=r"state\.pt is truncated or damaged"):
        load_state(latest)
    assert newest_complete_state(Checkpoint.from_directory(latest))["step"] == 1
    assert str(latest) in capsys.readouterr().out


def test_flipped_bytes_and_a_missing_record_are_damage_too(tmp_path):
    save_state({"step": 1}, tmp_path)
    content = bytearray((tmp_path / "state.pt").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "state.pt").write_bytes(bytes(content))
    with pytest.raises(ValueError, match="damaged"):
        load_state(tmp_path)
    (tmp_path / "state.json").unlink()
    with pytest.raises(ValueError, match="not a whole checkpoint"):
        load_state(tmp_path)
    assert newest_complete_state(None) is None


def test_recipes_are_complete_or_refused():
    with pytest.raises(ValueError, match="a trained encoder needs"):
        EncoderRecipe(encoder=EncoderSettings(), pretext=PretextSettings(task="action", num_actions=4))
    assert recipe_of(40, 5).name == "dc+ss_cls_tsm_r18w8_seed3_step5"
    assert EncoderRecipe(encoder=EncoderSettings(depth=50), seed=1).name == "random_tsm_r50w64_seed1"


def test_a_random_encoder_needs_no_ray(tmp_path):
    recipe = EncoderRecipe(encoder=EncoderSettings(width=8), seed=4)
    train_encoder(tmp_path, recipe, None, Resources())
    one, two = load_encoder(tmp_path / "encoder.pt", recipe), load_encoder(tmp_path / "encoder.pt", recipe)
    assert torch.equal(one.conv1.weight, two.conv1.weight)
    other = EncoderRecipe(encoder=EncoderSettings(width=8), seed=5)
    (tmp_path / "other").mkdir()
    train_encoder(tmp_path / "other", other, None, Resources())
    assert not torch.equal(one.conv1.weight, load_encoder(tmp_path / "other" / "encoder.pt", other).conv1.weight)


def test_workers_that_cannot_share_a_batch_are_refused_before_anything_starts(tmp_path):
    recipe = dataclasses.replace(recipe_of(40, 5), workers=3)
    with pytest.raises(ValueError, match="batch_size 8 cannot be shared by 3 workers equally; use --workers"):
        train_encoder(tmp_path, recipe, stream_of(recipe, None), Resources(train_workers=3))


def test_a_student_starts_as_its_action_teacher_and_needs_the_same_encoder(tmp_path):
    from bsp.pretraining.fusion import FusionSettings

    teachers, paths = [], []
    for seed in (4, 5):
        teachers.append(EncoderRecipe(encoder=EncoderSettings(width=8), seed=seed))
        paths.append(tmp_path / str(seed) / "encoder.pt")
        paths[-1].parent.mkdir()
        train_encoder(paths[-1].parent, teachers[-1], None, Resources())
    pretext = FusionSettings(kinds=KINDS, num_actions=3, matching_weight=1.0)
    clips = ClipSettings(kinds=KINDS, plain_clips=2)
    student = dataclasses.replace(recipe_of(40, 5), pretext=pretext, clips=clips, teachers=tuple(teachers))
    assert student.name == "distilled_action+dc+ss_tsm_r18w8_seed3_step5"
    job = TrainJob(recipe=student, stream=None, resources=Resources(), teachers=tuple(map(str, paths)))
    model, _ = start_training(job, torch.device("cpu"))
    saved = torch.load(paths[0], weights_only=True)["encoder"]
    assert all(torch.equal(value, saved[name]) for name, value in model.encoder.state_dict().items())
    with pytest.raises(ValueError, match="their encoders must be the same"):
        dataclasses.replace(student, encoder=EncoderSettings(width=16))
    with pytest.raises(ValueError, match="needs 2 teachers"):
        dataclasses.replace(student, teachers=teachers[:1])


def test_training_starts_from_the_weights_of_a_file(tmp_path):
    torch.save(build_encoder(EncoderSettings(width=8), 77).state_dict(), tmp_path / "resnet.pth")
    recipe = dataclasses.replace(recipe_of(40, 5), start=file_sha256(tmp_path / "resnet.pth"))
    assert recipe.name == f"dc+ss_cls_tsm_r18w8_seed3_step5_from_{recipe.start[:8]}"
    assert recipe_hash(recipe) != recipe_hash(recipe_of(40, 5))
    of_start = recipe.start_recipe
    assert (of_start.pretext, of_start.name) == (None, f"{recipe.start[:8]}_tsm_r18w8")
    given_encoder(tmp_path, of_start, tmp_path / "resnet.pth")
    assert "resnet.pth" in (tmp_path / "loading_report.txt").read_text()
    job = TrainJob(recipe=recipe, stream=None, resources=Resources(), start=str(tmp_path / "encoder.pt"))
    model, _ = start_training(job, torch.device("cpu"))
    expected = build_encoder(EncoderSettings(width=8), 77).state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in model.encoder.state_dict().items())
    assert model.training
    torch.save(build_encoder(EncoderSettings(width=8), 78).state_dict(), tmp_path / "resnet.pth")
    with pytest.raises(ValueError, match=r"resnet\.pth is no longer the file"):
        given_encoder(tmp_path, of_start, tmp_path / "resnet.pth")


def test_training_starts_from_image_weights_that_come_by_pip(tmp_path):
    from bsp.encoders.start import image_weights_file
    from bsp.files.weights import read_weights

    recipe = EncoderRecipe(encoder=TSMLite0Settings(), start="image", seed=5)
    assert recipe.name == "image_tsm_lite0"
    given_encoder(tmp_path, recipe, None)
    found = load_encoder(tmp_path / "encoder.pt", recipe)
    assert torch.equal(found.conv_head.weight, read_weights(image_weights_file())["_conv_head.weight"])
    trained = dataclasses.replace(recipe_of(40, 5), encoder=TSMLite0Settings(), start="image")
    assert trained.start_recipe == dataclasses.replace(recipe, seed=0)


def test_a_start_goes_with_no_other_beginning(tmp_path):
    plain = EncoderRecipe(encoder=EncoderSettings(width=8))
    assert plain.start_recipe is recipe_of(40, 5).start_recipe is None
    for other in ({"weights": "ab"}, {"zero_residual": True}):
        with pytest.raises(ValueError, match="start weights go with no other beginning"):
            dataclasses.replace(plain, start="image", **other)
    with pytest.raises(ValueError, match="is a checkpoint as it is"):
        train_encoder(tmp_path, dataclasses.replace(plain, start="ab"), None, Resources())
    with pytest.raises(ValueError, match="starts from random weights, given was the file"):
        train_encoder(tmp_path, recipe_of(40, 5), None, Resources(), start=tmp_path / "encoder.pt")
    with pytest.raises(ValueError, match="starts from image, given was the file None"):
        train_encoder(tmp_path, dataclasses.replace(recipe_of(40, 5), start="image"), None, Resources())


def test_profiles_give_the_start_to_every_training_but_a_students():
    from bsp.clips.plan import PAPER_KINDS
    from bsp_platform.plan.profiles import smoke
    from bsp_platform.plan.recipes import Stream

    data = {"trimmed": "t", "num_actions": 4, "workers": 1, "seed": 3, "start": "ab12"}
    alone = smoke().encoder_recipe(Stream(method="classification", kinds=PAPER_KINDS), **data)
    student = smoke().encoder_recipe(Stream(method="distillation", kinds=PAPER_KINDS), **data)
    deep = smoke().encoder_recipe(Stream(method="action", encoder="r50"), **data)
    assert (alone.start, student.start, [teacher.start for teacher in student.teachers]) == ("ab12", "", ["ab12"] * 2)
    assert (deep.start, deep.zero_residual) == ("ab12", False)
    assert smoke().encoder_recipe(Stream(method="action", encoder="r50"), **data | {"start": ""}).zero_residual


def test_start_weights_are_a_stage_of_the_row_before_what_is_trained():
    from bsp_platform.plan.rows import RowRecipes

    trained = dataclasses.replace(recipe_of(40, 5), start="ab12")
    stages = RowRecipes(encoders=(trained, recipe_of(40, 5)), heads={}).stages()
    assert stages == [("encoders", trained.start_recipe), ("encoders", trained), ("encoders", recipe_of(40, 5))]
