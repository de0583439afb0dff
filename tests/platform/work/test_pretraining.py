"""Checkpoints that are checked, and what training refuses before it starts. Real runs: test_faults_training.py."""

import dataclasses

import pytest
import torch

from bsp.clips.augment import AugmentSettings
from bsp.clips.plan import BoundaryKind, ClipSettings
from bsp.encoders.tsm import EncoderSettings
from bsp.pretraining.loop import TrainSettings
from bsp.pretraining.pretext import PretextSettings
from bsp_platform.plan.recipes import EncoderRecipe
from bsp_platform.plan.resources import Resources
from bsp_platform.work.pretraining import load_encoder, load_state, newest_complete_state, save_state, train_encoder
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
    from bsp_platform.work.pretraining import TrainJob, start_training

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
