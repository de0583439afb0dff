"""Extraction: the same features as the pure function, resumable per video, broken videos counted."""

import dataclasses
import shutil

import numpy as np
import pytest

from bsp.encoders.build import build_encoder
from bsp.encoders.tsm import EncoderSettings
from bsp.errors import TooManyBroken
from bsp.features.store import extract_features, read_features, read_features_h5
from bsp_platform.plan.recipes import EncoderRecipe, FeatureRecipe
from bsp_platform.plan.resources import Resources
from bsp_platform.work import extraction, gpu_extraction
from bsp_platform.work.extraction import extract_dataset
from bsp_platform.work.pretraining import train_encoder
from make_videos import numbered_frames, spoil_slice, write_video

RECIPE = FeatureRecipe(encoder=EncoderRecipe(encoder=EncoderSettings(width=8)), untrimmed="test", size_px=32)


@pytest.fixture
def weights(tmp_path):
    folder = tmp_path / "encoder"
    folder.mkdir()
    train_encoder(folder, RECIPE.encoder, None, Resources())
    return folder / "encoder.pt"


def broken_copy(data, folder, victims: int):
    """The data set with its first ``victims`` videos cut to nothing."""
    folder.mkdir()
    videos = []
    for number, video in enumerate(data.videos):
        path = folder / f"v_{video.video_id}.mp4"
        shutil.copy(video.path, path)
        if number < victims:
            path.write_bytes(b"")
        videos.append(dataclasses.replace(video, path=str(path)))
    return dataclasses.replace(data, videos=tuple(videos))


@pytest.mark.ray
def test_features_equal_the_pure_functions_and_only_missing_ones_are_made_again(
    ray_session, tiny_untrimmed, weights, tmp_path
):
    folder = tmp_path / "features"
    folder.mkdir()
    spoilt = write_video(tmp_path / "spoilt.mp4", numbered_frames(144), options={"bf": "0", "g": "12"})
    spoil_slice(spoilt, 20)
    first, *others = tiny_untrimmed.videos
    tiny_untrimmed = dataclasses.replace(tiny_untrimmed, videos=(dataclasses.replace(first, path=str(spoilt)), *others))
    reports = []
    facts = extract_dataset(folder, RECIPE, weights, tiny_untrimmed, Resources(), reports.append)
    assert facts["videos"] == len(tiny_untrimmed.videos) == reports[-1]["at"] == reports[-1]["total"]
    assert facts["broken"] == []
    assert facts["damaged_frames"] == {first.video_id: 1}
    encoder = build_encoder(RECIPE.encoder.encoder, RECIPE.encoder.seed)
    for video in tiny_untrimmed.videos:
        expected, _ = extract_features(encoder, video.path, video_id=video.video_id, size_px=32)
        found, info = read_features(folder, video.video_id)
        np.testing.assert_array_equal(found, expected)
        assert (info.stride_frames, info.snippets) == (8, 144 // 8)
        np.testing.assert_array_equal(read_features_h5(folder / "features.h5", video.video_id)[0], expected)

    made = {path: path.stat().st_mtime_ns for path in folder.glob("*.npy")}
    victim = tiny_untrimmed.videos[3].video_id
    (folder / f"{victim}.npy").write_bytes(b"torn")
    extract_dataset(folder, RECIPE, weights, tiny_untrimmed, Resources(), reports.append)
    changed = {path.stem for path, when in made.items() if path.stat().st_mtime_ns != when}
    assert changed == {victim}


@pytest.mark.ray
def test_too_many_broken_videos_stop_with_the_list(ray_session, tiny_untrimmed, weights, tmp_path):
    data = broken_copy(tiny_untrimmed, tmp_path / "videos", victims=2)
    (tmp_path / "features").mkdir()
    with pytest.raises(TooManyBroken, match=rf"untrimmed videos cannot be read(.|\n)*{data.videos[0].video_id}"):
        extract_dataset(tmp_path / "features", RECIPE, weights, data, Resources(), lambda progress: None)


@pytest.mark.ray
def test_one_broken_video_is_counted_and_named(ray_session, tiny_untrimmed, weights, tmp_path, monkeypatch):
    monkeypatch.setattr("bsp_platform.work.extraction.MAX_BROKEN_SHARE", 0.2)
    data = broken_copy(tiny_untrimmed, tmp_path / "videos", victims=1)
    (tmp_path / "features").mkdir()
    facts = extract_dataset(tmp_path / "features", RECIPE, weights, data, Resources(), lambda progress: None)
    assert facts["videos"] == len(data.videos) - 1
    assert [line.split(":")[0] for line in facts["broken"]] == [data.videos[0].video_id]


ON_A_GPU = Resources(
    cpus_per_extractor=0.5, gpus_per_extractor=1.0, decoders_per_extractor=2, cpus_per_decoder=0.5,
)  # fmt: skip
HALF = dataclasses.replace(RECIPE, precision="bfloat16")


def extracted(folder, recipe, weights, data, report=lambda progress: None) -> dict[str, np.ndarray]:
    """Features by video, made on the logical GPU of the tests' Ray."""
    folder.mkdir(exist_ok=True)
    extract_dataset(folder, recipe, weights, data, ON_A_GPU, report)
    return {video.video_id: read_features(folder, video.video_id)[0] for video in data.videos}


@pytest.mark.ray
def test_on_a_gpu_a_video_alone_and_among_others_and_after_a_stop_gives_the_same_bits(
    ray_session, tiny_untrimmed, weights, tmp_path
):
    reports = []
    together = extracted(tmp_path / "together", HALF, weights, tiny_untrimmed, reports.append)
    assert reports[-1]["at"] == reports[-1]["total"] == len(together) == len(tiny_untrimmed.videos)
    encoder = build_encoder(RECIPE.encoder.encoder, RECIPE.encoder.seed)
    for video in tiny_untrimmed.videos:
        expected, _ = extract_features(encoder, video.path, video_id=video.video_id, size_px=32, precision="bfloat16")
        found, info = read_features(tmp_path / "together", video.video_id, {"precision": "bfloat16"})
        np.testing.assert_allclose(found, expected, rtol=0.1, atol=0.02)
        assert (info.snippets, info.frames, info.size_px) == (18, 144, 32)

    last = tiny_untrimmed.videos[-1].video_id
    alone = dataclasses.replace(tiny_untrimmed, videos=tiny_untrimmed.videos[-1:])
    np.testing.assert_array_equal(extracted(tmp_path / "alone", HALF, weights, alone)[last], together[last])

    def stop(progress):
        if progress["at"] == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extracted(tmp_path / "stopped", HALF, weights, tiny_untrimmed, stop)
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "stopped").glob("*.json")}
    assert len(kept) >= 3
    rest = extracted(tmp_path / "stopped", HALF, weights, tiny_untrimmed)
    assert all(path.stat().st_mtime_ns == when for path, when in kept.items())
    for name, feat_SD in together.items():
        np.testing.assert_array_equal(rest[name], feat_SD)


@pytest.mark.ray
def test_on_a_gpu_broken_videos_are_named_and_too_many_stop_with_the_list(
    ray_session, tiny_untrimmed, weights, tmp_path, monkeypatch
):
    monkeypatch.setattr("bsp_platform.work.extraction.MAX_BROKEN_SHARE", 0.2)
    one = broken_copy(tiny_untrimmed, tmp_path / "one", victims=1)
    (tmp_path / "features").mkdir()
    facts = extract_dataset(tmp_path / "features", RECIPE, weights, one, ON_A_GPU, lambda progress: None)
    assert facts["videos"] == len(one.videos) - 1
    assert [line.split(":")[0] for line in facts["broken"]] == [one.videos[0].video_id]
    found, info = read_features(tmp_path / "features", one.videos[1].video_id)
    assert info.precision == "float32"
    expected, _ = extract_features(
        build_encoder(RECIPE.encoder.encoder, RECIPE.encoder.seed), one.videos[1].path, video_id="v", size_px=32
    )
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)

    many = broken_copy(tiny_untrimmed, tmp_path / "many", victims=3)
    (tmp_path / "other").mkdir()
    with pytest.raises(TooManyBroken, match=rf"untrimmed videos cannot be read(.|\n)*{many.videos[0].video_id}"):
        extract_dataset(tmp_path / "other", RECIPE, weights, many, ON_A_GPU, lambda progress: None)


@pytest.mark.long
def test_blocks_of_a_video_are_small_and_the_last_one_comes_after_all_checks(tiny_untrimmed, monkeypatch):
    monkeypatch.setattr(gpu_extraction, "BLOCK_BYTES", 5 * 8 * 32 * 32 * 3)
    video = tiny_untrimmed.videos[0]
    blocks = list(gpu_extraction.decode_video(video.video_id, video.path, 32, EncoderSettings()))
    assert [(block["first"], len(block["pixels"])) for block in blocks] == [(0, 5), (5, 5), (10, 5), (15, 3)]
    assert [block.get("record") is not None for block in blocks] == [False, False, False, True]
    assert blocks[-1]["record"].snippets == 18

    monkeypatch.setattr(
        "bsp.features.store.iter_frames", lambda path, **_: iter([np.zeros((8, 32, 32, 3), np.uint8)] * 17)
    )
    blocks = list(gpu_extraction.decode_video(video.video_id, video.path, 32, EncoderSettings()))
    assert [sorted(block) for block in blocks] == [["first", "pixels"]] * 2 + [["error"]]
    assert "136 frames were decoded of 144" in blocks[-1]["error"]


def test_an_extraction_that_ray_data_could_not_start_is_tried_once_more(caplog, tmp_path):
    from ray.exceptions import ActorUnschedulableError

    calls = []

    def fails(times: int):
        def extract(*arguments, store=None):
            calls.append((*arguments, store))
            if len(calls) <= times:
                raise ActorUnschedulableError("the node is gone")
            return {"videos": 3}

        return extract

    arguments = (tmp_path, "recipe", tmp_path / "weights", "data", "resources", print)
    assert extraction.retry_unschedulable(fails(1))(*arguments, store="store") == {"videos": 3}
    assert calls == [(*arguments, "store")] * 2
    assert "the node is gone" in caplog.text
    calls.clear()
    with pytest.raises(ActorUnschedulableError):
        extraction.retry_unschedulable(fails(2))(*arguments)
    assert hasattr(extract_dataset, "__wrapped__")
