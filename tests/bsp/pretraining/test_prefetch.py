"""Transfer of batches to the device. On a CPU tensors share memory; tests of GPU behaviour need a GPU."""

import numpy as np
import pytest
import torch

from bsp.clips.normalisation import normalise
from bsp.clips.plan import PAPER_KINDS
from bsp.encoders.build import build_encoder
from bsp.encoders.tsm import EncoderSettings
from bsp.pretraining.contract import PretextModel
from bsp.pretraining.loop import TrainSettings, make_optimiser, restore, training_state
from bsp.pretraining.prefetch import Prefetcher, empty_for
from bsp.pretraining.pretext import PretextSettings

CPU = torch.device("cpu")


def test_batches_pass_through_a_cpu_in_order_without_a_copy():
    steps = [[{"clip": np.full((2, 3), k, np.uint8)}, {"clip": np.full((2, 3), k + 10, np.uint8)}] for k in range(3)]
    feed = Prefetcher(steps, CPU)
    got = list(feed)
    assert [[int(batch["clip"][0, 0]) for batch in step] for step in got] == [[0, 10], [1, 11], [2, 12]]
    assert got[0][0]["clip"].dtype == torch.uint8
    assert got[1][1]["clip"].data_ptr() == steps[1][1]["clip"].ctypes.data
    assert feed.waited_s >= 0


def test_arrays_that_may_not_be_written_are_copied():
    """Ray's object store gives such arrays; what is done to the tensor must not reach it."""
    array = np.arange(4, dtype=np.uint8)
    array.setflags(write=False)
    ((batch,),) = Prefetcher([[{"clip": array}]], CPU)
    batch["clip"] += 1
    assert array.tolist() == [0, 1, 2, 3]


def test_batches_for_a_cpu_are_in_ordinary_memory():
    assert empty_for(CPU) is np.empty


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_batches_in_pinned_memory_are_sent_from_there_and_not_written_over():
    """More batches than the device has taken at any time, halves of them and a row left out, as training cuts them."""
    device, empty, sent = torch.device("cuda", 0), empty_for(torch.device("cuda", 0)), []

    def steps():
        for k in range(40):
            clip = empty((64, 1 << 18), np.dtype(np.uint8))
            assert torch.from_numpy(clip[32:]).is_pinned()
            clip[...] = k
            yield [{"clip": clip[:32]}, {"clip": clip[32:][np.arange(32) != 5]}]

    for step in Prefetcher(steps(), device):
        sent.append([(part["clip"].amin(), part["clip"].amax(), len(part["clip"])) for part in step])
    assert [[(int(a), int(b), n) for a, b, n in step] for step in sent] == [[(k, k, 32), (k, k, 31)] for k in range(40)]


def test_the_network_and_its_loss_in_bfloat16_are_near_those_in_float32():
    """What autocast does on a GPU, here on a CPU: 8 bits of mantissa, and losses in float32."""
    pretext = PretextSettings(task="classification", kinds=PAPER_KINDS)
    model = PretextModel(build_encoder(EncoderSettings(width=8), 0), pretext, seed=0)
    torch.nn.init.normal_(model.head.weight, 0.0, 0.5, generator=torch.Generator().manual_seed(0))
    clip = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (4, 8, 32, 32, 3), np.uint8))
    targets = {"label": torch.arange(4)}
    exact, _ = pretext.loss(model(normalise(clip)), targets)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(normalise(clip, torch.bfloat16))
        rough, _ = pretext.loss(output, targets)
    rough.backward()
    assert output.dtype == torch.bfloat16
    assert rough.dtype == torch.float32
    assert model.encoder.conv1.weight.grad.dtype == torch.float32
    torch.testing.assert_close(rough, exact, rtol=0.1, atol=0.1)
    assert not torch.equal(rough, exact)


def test_a_checkpoint_of_a_gpu_continues_on_a_cpu_and_the_other_way():
    """The optimiser's kernels are those of the device, whatever the checkpoint says."""
    model = torch.nn.Linear(2, 2)
    settings = TrainSettings(clips=8, batch_size=4)
    saved = training_state(model, make_optimiser(model, settings), 1, [])
    for group in saved["optimiser"]["param_groups"]:
        group["fused"] = True
    optimiser = make_optimiser(model, settings)
    restore(saved, model, optimiser)
    assert [group["fused"] for group in optimiser.param_groups] == [None, None]
