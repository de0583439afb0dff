"""The training loop without Ray: schedule, records, resuming, skipped clips."""

import math

import numpy as np
import pytest
import torch

from bsp.clips.plan import BoundaryKind
from bsp.encoders.build import build_encoder
from bsp.encoders.tsm import EncoderSettings
from bsp.errors import TooManyBroken
from bsp.pretraining.contract import PretextModel
from bsp.pretraining.loop import TrainSettings, make_optimiser, restore, train_steps, training_state
from bsp.pretraining.pretext import PretextSettings

PRETEXT = PretextSettings(task="classification", kinds=(BoundaryKind.DIFF_CLASS, BoundaryKind.SAME_SPEED))


def new_model(seed: int = 0) -> PretextModel:
    return PretextModel(build_encoder(EncoderSettings(width=8), seed), PRETEXT, seed=seed)


def batch(step: int, size: int = 4) -> dict[str, np.ndarray]:
    """Clips of class 0 change their colour half-way, clips of class 1 do not."""
    rng = np.random.default_rng(step)
    label = np.arange(size, dtype=np.int64) % 2
    clip = np.repeat(rng.integers(0, 256, (size, 1, 1, 1, 3), dtype=np.uint8), 8, axis=1)
    clip = np.broadcast_to(clip, (size, 8, 32, 32, 3)).copy()
    clip[label == 0, 4:] = 255 - clip[label == 0, 4:]
    change = np.where(label == 0, 3.0, np.nan).astype(np.float32)
    return {
        "clip": clip,
        "label": label,
        "change_point": change,
        "plain": np.zeros(size, bool),
        "error": np.array([""] * size),
    }


def run(model, optimiser, settings, *, start: int = 0, stop: int | None = None, batches=None, skipped=None):
    records = []
    stream = batches if batches is not None else (batch(step) for step in range(start, settings.steps))
    for done, record in train_steps(
        model, optimiser, stream, loss=PRETEXT.loss, settings=settings, device=torch.device("cpu"),
        start_step=start, skipped=skipped,
    ):  # fmt: skip
        if record:
            records.append(record)
        if done == stop:
            break
    return records


def test_the_learning_rate_warms_up_linearly_and_falls_as_half_a_cosine():
    settings = TrainSettings(clips=120, batch_size=10, learning_rate=0.4, warmup_steps=2)
    rates = [settings.rate_at(step) for step in range(settings.steps)]
    # By hand: 12 steps, 2 of warm-up; then 0.2 * (1 + cos(pi * k / 10)), k = 0 .. 9.
    assert rates[:3] == pytest.approx([0.2, 0.4, 0.4])
    assert rates[7] == pytest.approx(0.2 * (1 + math.cos(math.pi * 0.5)))
    assert rates[11] == pytest.approx(0.2 * (1 + math.cos(math.pi * 0.9)))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"clips": 10, "batch_size": 4}, "clips 10 must be a positive multiple of batch_size 4"),
        ({"clips": 8, "batch_size": 4, "warmup_steps": 2}, "leaves nothing of the 2 steps"),
        ({"clips": 8, "batch_size": 4, "threads": 0}, "at least 1"),
    ],
)
def test_settings_that_cannot_work_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        TrainSettings(**fields)


@pytest.mark.long
def test_it_learns_what_can_be_learnt():
    model = new_model()
    settings = TrainSettings(clips=960, batch_size=16, learning_rate=0.1, warmup_steps=5, log_every_steps=20)
    batches = (batch(step, 16) for step in range(settings.steps))
    records = run(model, make_optimiser(model, settings), settings, batches=batches)
    assert [record["step"] for record in records] == [20, 40, 60]
    assert records[-1]["loss"] < 0.7 * math.log(2)  # chance
    assert records[-1]["accuracy"] > 0.8
    assert 0 <= records[-1]["data_wait_share"] <= 1
    assert records[-1]["clips_per_s"] > 0


def test_stop_and_continue_equals_never_stopped(tmp_path):
    settings = TrainSettings(clips=48, batch_size=4, learning_rate=0.02, warmup_steps=3, log_every_steps=1)
    whole = new_model()
    expected = run(whole, make_optimiser(whole, settings), settings)

    first = new_model()
    optimiser = make_optimiser(first, settings)
    seen = run(first, optimiser, settings, stop=5)
    torch.save(training_state(first, optimiser, 5, []), tmp_path / "state.pt")

    second = new_model(seed=7)  # other weights: the state must bring its own
    optimiser = make_optimiser(second, settings)
    step, skipped = restore(torch.load(tmp_path / "state.pt", weights_only=True), second, optimiser)
    seen += run(second, optimiser, settings, start=step)
    assert skipped == []
    assert [r["loss"] for r in seen] == [r["loss"] for r in expected]
    for name, value in whole.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name
    halfway = torch.load(tmp_path / "state.pt", weights_only=True)["model"]
    assert not torch.equal(halfway["encoder.conv1.weight"], whole.state_dict()["encoder.conv1.weight"])


def test_a_skipped_clip_weighs_nothing():
    settings = TrainSettings(clips=8, batch_size=4, learning_rate=0.02, max_skipped_share=0.5)
    batches = [batch(0), batch(1)]
    batches[1]["error"] = np.array(["", "clip 5: a.mp4: broken", "", ""])
    poisoned = [dict(b) for b in batches]
    poisoned[1]["clip"] = batches[1]["clip"].copy()
    poisoned[1]["clip"][1] = 77  # must not matter
    models = [new_model(), new_model()]
    skipped: list[str] = []
    run(models[0], make_optimiser(models[0], settings), settings, batches=batches, skipped=skipped)
    run(models[1], make_optimiser(models[1], settings), settings, batches=poisoned)
    assert skipped == ["clip 5: a.mp4: broken"]
    for name, value in models[0].state_dict().items():
        assert torch.equal(value, models[1].state_dict()[name]), name


def test_damaged_frames_are_in_the_records_and_change_no_weight():
    settings = TrainSettings(clips=16, batch_size=4, warmup_steps=1, log_every_steps=2)
    models = [new_model(), new_model()]
    plain, told = (
        run(
            model,
            make_optimiser(model, settings),
            settings,
            batches=(batch(step) | ({"damaged": np.array([0, step, 0, 4])} if counted else {}) for step in range(4)),
        )
        for counted, model in enumerate(models)
    )
    # By hand: 4 and 5, then 6 and 7 frames of the 32 of a step.
    assert [record["damaged_share"] for record in told] == pytest.approx([4.5 / 32, 6.5 / 32])
    assert all("damaged_share" not in record for record in plain)
    assert [record["loss"] for record in told] == [record["loss"] for record in plain]


def test_too_many_skipped_clips_stop_the_run_with_their_names():
    settings = TrainSettings(clips=40, batch_size=4, max_skipped_share=0.05)
    batches = [batch(step) for step in range(10)]
    for k in (2, 4, 6):
        batches[k]["error"] = np.array(["", "", f"clip {4 * k + 2}: v{k}.mp4: broken", ""])
    model = new_model()
    with pytest.raises(TooManyBroken, match=r"3 clips could not be made, more than 5% of 40(.|\n)*v2\.mp4"):
        run(model, make_optimiser(model, settings), settings, batches=batches)


def test_a_stream_that_ends_early_is_an_error():
    settings = TrainSettings(clips=12, batch_size=4)
    model = new_model()
    with pytest.raises(RuntimeError, match="the clip stream ended at step 2 of 3"):
        run(model, make_optimiser(model, settings), settings, batches=[batch(0), batch(1)])


def test_a_loss_that_is_not_a_number_stops_the_run():
    settings = TrainSettings(clips=40, batch_size=4, learning_rate=1e30, clip_gradient=0.0, log_every_steps=5)
    model = new_model()
    with pytest.raises(RuntimeError, match=r"the loss is (nan|inf|-inf) at step"):
        run(model, make_optimiser(model, settings), settings)
