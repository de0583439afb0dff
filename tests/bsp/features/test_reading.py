"""Readouts, sampling and re-estimated statistics against numpy."""

import copy

import numpy as np
import pytest
import torch

from bsp.encoders.build import build_encoder
from bsp.encoders.tsm import EncoderSettings
from bsp.features.reading import Reading, frames_of, read_out, spread
from bsp.features.statistics import chosen_snippets, random_snippets, reestimated
from bsp.features.store import encode_snippets, encoder_hash, extract_features
from bsp.models.folder import load_model, write_model
from bsp.models.model import Model
from bsp.models.streams import extract_streams, stream_of
from bsp.video.write import write_mp4

TINY = EncoderSettings(depth=18, width=8)


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    path = tmp_path_factory.mktemp("v") / "v.mp4"
    frames = np.zeros((45, 32, 32, 3), np.uint8)
    for k in range(45):
        frames[k, :, : 1 + k % 32] = 40 + 4 * k
    write_mp4(path, frames, fps=10)
    return path


def test_readouts_are_numpys_statistics():
    feat = np.random.default_rng(0).normal(size=(4, 8, 6)).astype(np.float32)
    mean, std, diff = feat.mean(1), feat.std(1), np.abs(feat[:, 1:] - feat[:, :-1]).mean(1)
    expected = {
        "": mean, "three": np.concatenate([mean, std, diff], 1), "deviation": std, "difference": diff,
        "thirds": np.stack([mean[:, 0], std[:, 1], diff[:, 2], mean[:, 3], std[:, 4], diff[:, 5]], 1),
    }  # fmt: skip
    for readout, wanted in expected.items():
        found = read_out(torch.from_numpy(feat), readout).numpy()
        assert found.shape[1] == Reading(readout=readout).width(6)
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
    assert torch.equal(read_out(torch.from_numpy(feat), ""), torch.from_numpy(feat).mean(dim=1))  # bit for bit
    one = read_out(torch.from_numpy(feat[:, :1]), "three").numpy()
    assert not one[:, 6:].any()
    with pytest.raises(ValueError, match="readout"):
        Reading(readout="four")


@pytest.mark.parametrize("frames", [3, 8, 17, 45, 100, 200])
def test_eight_of_64_frames_in_the_grid_of_the_consecutive_ones(frames):
    count = max(1, frames // 8)
    chunks = [np.arange(8 * k, 8 * k + 8).clip(max=frames - 1).reshape(8, 1, 1, 1) for k in range(count)]
    found = [snippet.ravel().tolist() for snippet in spread(iter(chunks), "64x8")]
    for k, snippet in enumerate(found):
        assert snippet == [8 * min(max(k + j, 0), count - 1) for j in range(-3, 5)]
        assert frames_of(k, frames, 8, "64x8").tolist() == snippet
    assert len(found) == count
    assert frames_of(1, 20, 8, "").tolist() == list(range(8, 16))


def test_a_cumulative_average_of_batches_in_place_of_running_statistics():
    encoder = build_encoder(TINY, seed=0).eval()
    before = copy.deepcopy(encoder.state_dict())
    batches = [np.random.default_rng(k).integers(0, 256, (4, 8, 16, 16, 3), dtype=np.uint8) for k in range(3)]
    found = reestimated(encoder, batches)
    assert not found.training
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())

    first = next(name for name, module in found.named_modules() if isinstance(module, torch.nn.BatchNorm2d))
    inputs = []
    hook = encoder.get_submodule(first).register_forward_hook(lambda _, given, __: inputs.append(given[0].numpy()))
    for batch in batches:  # the first norm's input does not depend on any statistics
        encode_snippets(encoder, torch.from_numpy(batch), "float32")
    hook.remove()
    mean = np.mean([x.astype(float).mean((0, 2, 3)) for x in inputs], 0)
    variance = np.mean([x.astype(float).var((0, 2, 3), ddof=1) for x in inputs], 0)
    np.testing.assert_allclose(found.get_submodule(first).running_mean, mean, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.get_submodule(first).running_var, variance, rtol=1e-3)
    assert found.get_submodule(first).momentum == encoder.get_submodule(first).momentum
    changed = {name for name, value in found.state_dict().items() if not torch.equal(value, before[name])}
    assert changed
    assert all("running_" in name or "num_batches" in name for name in changed)
    with pytest.raises(ValueError, match="no snippet"):
        reestimated(encoder, [])


def test_snippets_are_chosen_by_the_seed_alone(video, tmp_path):
    chosen = chosen_snippets([45, 7, 800], 8, seed=1, count=20)
    assert sum(map(len, chosen)) == 20
    assert chosen == chosen_snippets([45, 7, 800], 8, seed=1, count=20) != chosen_snippets([45, 7, 800], 8, 2, 20)
    assert [len(numbers) for numbers in chosen_snippets([45, 7, 800], 8, seed=1, count=999)] == [5, 1, 100]
    (batch,) = random_snippets([str(video), str(tmp_path / "absent.mp4")], size_px=32, snippet_frames=8, seed=0)
    assert batch.shape == (5, 8, 32, 32, 3)


def test_a_model_reads_new_videos_as_in_training(video, tmp_path):
    encoder, reading = build_encoder(TINY, seed=0), Reading(readout="three", sampling="64x8")
    wanted, record = extract_features(encoder, video, video_id="v", size_px=32, reading=reading)
    assert wanted.shape == (5, 3 * encoder.feature_width)
    stream = stream_of(encoder, size_px=32, reading=reading)
    assert record.encoder_hash == stream.encoder_hash == encoder_hash(encoder, reading) != encoder_hash(encoder)
    write_model(tmp_path / "m", Model(kind="encoder", streams=(stream, stream_of(encoder, size_px=32))))
    model = load_model(tmp_path / "m")
    assert [stream.reading for stream in model.streams] == [reading, Reading()]
    (found, info), (plain, _) = extract_streams(model.streams, video, video_id="v")
    np.testing.assert_array_equal(found, wanted)
    assert info == record
    np.testing.assert_array_equal(plain, extract_features(encoder, video, video_id="v", size_px=32)[0])
