"""Ray Train: checkpoints that are checked, and a killed worker that costs nothing but time."""

import dataclasses
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from bsp.augment import AugmentSettings
from bsp.clips import BoundaryKind, ClipSettings
from bsp.encoder import EncoderSettings
from bsp.pretext import PretextSettings
from bsp.pretrain import TrainSettings
from bsp_platform.cluster import Resources, laptop_resources
from bsp_platform.pretraining import load_encoder, load_state, newest_whole_state, save_state, train_encoder
from bsp_platform.recipes import EncoderRecipe
from bsp_platform.streaming import ClipStream

sys.path.append(str(Path(__file__).parent))
from ray_processes import MARK, training_processes

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


class Folder:
    """Stands in for Ray Train's checkpoint: all that is used of it is its path."""

    def __init__(self, path):
        self.path = str(path)


def test_a_truncated_checkpoint_is_named_and_the_one_before_is_used(tmp_path, capsys):
    for step in (1, 2):
        (tmp_path / f"checkpoint_{step}").mkdir()
        save_state({"step": step, "weights": torch.arange(1000.0)}, tmp_path / f"checkpoint_{step}")
    latest = tmp_path / "checkpoint_2"
    assert newest_whole_state(Folder(latest))["step"] == 2
    content = (latest / "state.pt").read_bytes()
    (latest / "state.pt").write_bytes(content[:-7])
    with pytest.raises(ValueError, match=r"state\.pt is truncated or damaged"):
        load_state(latest)
    assert newest_whole_state(Folder(latest))["step"] == 1
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
    assert newest_whole_state(None) is None


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


def kill_a_worker_once(run_folder, killed: list[int]) -> None:
    """Wait until a checkpoint counts as saved, then SIGKILL the training process."""
    snapshots = os.path.join(run_folder, "_train", "run", "checkpoint_manager_snapshot.json")
    deadline = time.time() + 240
    while time.time() < deadline and not killed:
        workers = training_processes(os.environ[MARK])
        if os.path.exists(snapshots) and workers:
            os.kill(workers[0], signal.SIGKILL)
            killed.append(workers[0])
        time.sleep(0.05)


@pytest.mark.ray
def test_a_killed_worker_changes_nothing_in_the_result(ray_session, tiny_catalog, tmp_path):
    catalog = ray_session.put(tiny_catalog)
    recipe = recipe_of(clips=1600, every=20)
    resources = Resources(cpus_per_maker=0.4)
    folders = [tmp_path / "undisturbed", tmp_path / "killed"]
    killed: list[int] = []
    killer = threading.Thread(target=kill_a_worker_once, args=(str(folders[1]), killed), daemon=True)
    for folder in folders:
        folder.mkdir()
        if folder.name == "killed":
            killer.start()
        train_encoder(folder, recipe, stream_of(recipe, catalog), resources)
    killer.join()
    assert killed, "no worker was killed; the test proves nothing"
    weights = [torch.load(f / "encoder.pt", weights_only=True)["encoder"] for f in folders]
    for name, value in weights[0].items():
        assert torch.equal(value, weights[1][name]), name
    histories = [json.loads((f / "history.json").read_text()) for f in folders]
    assert [r["loss"] for r in histories[0]] == [r["loss"] for r in histories[1]]
    assert [r["step"] for r in histories[1]] == list(range(5, 201, 5))


@pytest.mark.ray
def test_two_workers_train_together_and_a_run_repeats(ray_session, tiny_catalog, tmp_path):
    catalog = ray_session.put(tiny_catalog)
    recipe = dataclasses.replace(recipe_of(clips=80, every=10), workers=2)
    losses = []
    for name in ("one", "two"):
        folder = tmp_path / name
        folder.mkdir()
        train_encoder(folder, recipe, stream_of(recipe, catalog), laptop_resources(2))
        history = json.loads((folder / "history.json").read_text())
        losses.append([record["loss"] for record in history])
        assert [record["step"] for record in history] == [5, 10]
    assert losses[0] == losses[1]


def test_a_student_starts_as_its_action_teacher_and_needs_the_same_encoder(tmp_path):
    from bsp.fusion import FusionSettings
    from bsp_platform.pretraining import TrainJob, start_training

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
