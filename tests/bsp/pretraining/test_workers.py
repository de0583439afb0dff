"""Virtual workers: one step by hand, and the same bits on any number of processes."""

import copy
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from bsp.clips.normalisation import normalise
from bsp.clips.plan import BoundaryKind
from bsp.encoders.build import build_encoder
from bsp.encoders.tsm import EncoderSettings
from bsp.pretraining.contract import PretextModel
from bsp.pretraining.loop import TrainSettings, make_optimiser, train_steps
from bsp.pretraining.pretext import PretextSettings
from bsp.pretraining.workers import MeanGradient, Workers
from repository import SUPPORT

PRETEXT = PretextSettings(task="classification", kinds=(BoundaryKind.DIFF_CLASS, BoundaryKind.SAME_SPEED))
CPU = torch.device("cpu")


def test_a_process_knows_its_virtual_ranks_and_cuts_its_clips_in_their_order():
    # 6 virtual workers on 3 processes; 4 clips per process and step.
    workers = Workers(virtual=6, processes=3, rank=1)
    assert list(workers.here) == [2, 3]
    parts = workers.cut({"label": np.arange(4, 8), "error": np.array(["", "a", "b", ""])})
    assert [part["label"].tolist() for part in parts] == [[4, 5], [6, 7]]
    assert parts[1]["error"].tolist() == ["b", ""]
    with pytest.raises(ValueError, match="3 clips of a step cannot be shared by 2 virtual workers"):
        workers.cut({"label": np.arange(3)})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"virtual": 4, "processes": 3}, "4 virtual workers cannot be shared by 3 processes"),
        ({"virtual": 4, "processes": 2, "rank": 2}, "rank 2 is not one of 2"),
        ({"virtual": 0}, "0 virtual workers"),
    ],
)
def test_what_cannot_be_shared_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Workers(**fields)


def test_a_step_is_the_mean_of_the_gradients_with_statistics_of_worker_0():
    """Against plain PyTorch: each worker's gradient on a copy of its own, averaged, one step of SGD by hand."""
    torch.manual_seed(0)
    model = PretextModel(build_encoder(EncoderSettings(width=8), 1), PRETEXT, seed=1)
    rng = np.random.default_rng(0)
    batch = {
        "clip": rng.integers(0, 256, (8, 8, 32, 32, 3), np.uint8),
        "label": np.arange(8) % 2,
        "change_point": np.full(8, 3, np.float32),
        "plain": np.zeros(8, bool),
    }
    copies = [copy.deepcopy(model).train() for _ in range(4)]
    for k, one in enumerate(copies):
        rows = slice(2 * k, 2 * k + 2)
        logits = one(normalise(torch.from_numpy(batch["clip"][rows])))
        nn.functional.cross_entropy(logits, torch.from_numpy(batch["label"][rows])).backward()
    expected = {}
    for name, parameter in model.named_parameters():
        gradient = sum(dict(one.named_parameters())[name].grad for one in copies) / 4
        expected[name] = parameter.detach() - 0.1 * gradient
    settings = TrainSettings(clips=8, batch_size=8, learning_rate=0.1, momentum=0, weight_decay=0, clip_gradient=0)
    optimiser = make_optimiser(model, settings)
    steps = train_steps(
        model, optimiser, [batch], loss=PRETEXT.loss, settings=settings, device=CPU,
        workers=Workers(virtual=4),
    )  # fmt: skip
    list(steps)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.detach(), expected[name], rtol=1e-5, atol=1e-7, msg=name)
    buffers = dict(copies[0].named_buffers())
    assert all(torch.equal(value, buffers[name]) for name, value in model.named_buffers())


def test_where_sums_have_no_order_the_mean_is_the_same_up_to_rounding():
    """One process of a GPU, on a CPU: autograd adds the parts up. Exact here, as sums of small whole numbers are."""
    layer = nn.Linear(3, 2)
    gradient = MeanGradient(layer, Workers(virtual=4, ordered=False))
    for k in range(4):
        with gradient.part(k):
            gradient.network(torch.full((1, 3), float(k))).sum().backward()
    gradient.finish()
    assert layer.weight.grad.tolist() == [[1.5] * 3] * 2
    assert layer.bias.grad.tolist() == [1.0, 1.0]


@pytest.mark.long
def test_one_and_four_processes_give_the_same_bits_and_two_of_a_gpu_nearly(tmp_path):
    """With dropout, and a clip that cannot be made, which a process other than the first one meets."""
    program = SUPPORT / "train_processes.py"
    arguments = [tmp_path, "1", "4", "2:overlapping", "2:overlapping-compiled"]
    done = subprocess.run([sys.executable, program, *arguments], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    one, four, *overlapping = json.loads(done.stdout.splitlines()[-1])
    assert one["skipped"] == ["clip 13: a.mp4: broken"]
    assert len(one["losses"]) == 2
    assert one == four
    ordered = torch.load(tmp_path / "1.pt")
    for number, two in zip((3, 4), overlapping, strict=True):
        assert two["skipped"] == one["skipped"]
        weights = torch.load(tmp_path / f"{number}.pt")
        assert two["losses"] == pytest.approx(one["losses"], rel=1e-4)
        assert list(weights) == list(ordered)
        for name, value in ordered.items():
            torch.testing.assert_close(weights[name], value, rtol=1e-3, atol=1e-5, msg=name)
