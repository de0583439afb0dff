"""The throughput benchmark: its loaders give the same batches, its ratios are right, its parts run. No speeds."""

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest

import benchmark_throughput
import throughput_parts
import throughput_processes
import throughput_training
from bsp.clips.augment import AugmentSettings
from bsp.clips.plan import ClipSettings
from bsp_platform.work.streaming import ClipStream, make_clips
from throughput_clock import Sample, clips_per_second, in_turns, ratio, watch
from throughput_loaders import LOADERS
from throughput_report import markdown, targets
from throughput_sources import EMBEDDED, PREPARED, RAW, Source


@pytest.fixture(scope="module")
def source(ray_session, tiny_catalog):
    stream = ClipStream(
        catalog=ray_session.put(tiny_catalog),
        clips=ClipSettings(),
        augment=AugmentSettings(size_px=32),
        seed=5,
        batch_size=8,
        length=8 * 400,
        frame_cache_mb=64,
    )
    return Source("tiny", tiny_catalog, stream)


def test_rounds_take_turns_and_every_other_one_is_reversed():
    order = []
    results = in_turns({name: lambda name=name: order.append(name) or len(order) for name in "abc"}, 3)
    assert "".join(order) == "abc" + "cba" + "abc"
    assert results == {"a": [1, 6, 7], "b": [2, 5, 8], "c": [3, 4, 9]}


def test_a_ratio_is_taken_within_each_round():
    # Rounds 2/1, 30/10, 400/100: the machine became a hundred times faster, the ratio did not.
    assert ratio([2.0, 30.0, 400.0], [1.0, 10.0, 100.0]) == {"ratio": 3.0, "low": 2.0, "high": 4.0}


def test_a_rate_counts_whole_deliveries():
    # Three batches of 8 clips every 3 s, seen from the middle of one delivery to the middle of another.
    waits = [0.0, 0.0, 3.0, 0.0, 0.0, 3.0, 0.0, 0.0, 3.0, 0.0]
    arrivals = [(sum(waits[: k + 1]), waited, 8) for k, waited in enumerate(waits)]
    assert clips_per_second(arrivals) == pytest.approx(8.0)
    # One by one, at an uneven pace.
    assert clips_per_second([(1.0, 1.0, 4), (3.0, 2.0, 4), (4.0, 1.0, 4)]) == pytest.approx(8 / 3)


def test_a_watched_loader_is_closed_and_warm_batches_do_not_count():
    closed = []

    def batches():
        try:
            for _ in itertools.count():
                yield {"clip": np.zeros((4, 8, 2, 2, 3), np.uint8)}
        finally:
            closed.append(True)

    sample = watch(batches(), warm_batches=2, seconds=0.01)
    assert isinstance(sample, Sample)
    assert closed
    with pytest.raises(StopIteration):
        watch(iter([{"clip": np.zeros((4, 8, 2, 2, 3), np.uint8)}]), warm_batches=1, seconds=0.01)


def test_a_step_is_own_work_waiting_for_the_slower_process_and_averaging():
    # Process 0 comes 2 s before the other, then 1 s after it; averaging ends half a second, then one after the last.
    came = np.array([[10.0, 21.0], [12.0, 20.0]])
    left = np.array([[12.5, 22.0], [12.5, 22.0]])
    found = throughput_processes.anatomy(came, left)
    assert found == {"own_ms": pytest.approx(8000), "slower_ms": pytest.approx(750), "averaging_ms": pytest.approx(750)}


@pytest.mark.ray
@pytest.mark.parametrize("loader", LOADERS)
def test_every_loader_gives_the_stream_of_the_pure_functions(loader, source):
    short = replace(source.stream, length=8 * 5)
    got = list(LOADERS[loader](source.catalog, short, 2))
    assert [batch["index"].tolist() for batch in got] == [list(range(k, k + 8)) for k in range(0, 40, 8)]
    whole = make_clips(source.catalog, replace(short, catalog=None), range(40))
    for name, wanted in whole.items():
        np.testing.assert_array_equal(np.concatenate([batch[name] for batch in got]), wanted)


@pytest.mark.ray
@pytest.mark.slow
def test_the_parts_of_the_tool_run_and_their_result_is_written(source, tmp_path, monkeypatch):
    def quickly(catalog, stream, workers):  # the real loaders have a test of their own
        for first in itertools.count(0, stream.batch_size):
            yield make_clips(catalog, stream, range(first, first + stream.batch_size))

    for name in LOADERS:
        monkeypatch.setitem(LOADERS, name, quickly)
    tiny = benchmark_throughput.Scale(rounds=1, seconds=0.1, videos=2, workers=(1,))
    said = []
    loaders = benchmark_throughput.measure_loaders({EMBEDDED: source}, tiny, said.append)
    assert [row["loader"] for row in loaders] == list(LOADERS)
    assert said == [f"loaders: {EMBEDDED}, 1 worker"]
    readers = throughput_parts.measure_readers({RAW: source, PREPARED: source}, plans=2, rounds=1)
    stages = {EMBEDDED: throughput_parts.measure_stages(source, seconds=0.01, rounds=1)}
    assert stages[EMBEDDED]["bytes"] == 8 * 32 * 32 * 3
    waiting = {EMBEDDED: throughput_training.measure_waiting(source, workers=1, seconds=0.05, rounds=1)}
    device = throughput_training.torch.device("cpu")
    variants = throughput_training.variants(device, quick=True, size_px=32, batch_size=4)
    assert [(v.network, v.bf16) for v in variants] == [
        ("TSM", False), ("no shift", False), ("TSM", True), ("no shift", True),
    ]  # fmt: skip
    steps = throughput_training.measure_steps(variants, device, steps=1, rounds=1)
    *ready, pipeline = throughput_processes.feeds(source, source)
    assert [feed.name for feed in ready] == ["ready batches, 32 px"] * 2
    fed = (replace(pipeline, batch_size=8, log_every=5),)
    processes = throughput_processes.measure_processes(fed, tmp_path, seconds=0.05, rounds=1)
    assert list(processes) == [f"whole pipeline, 32 px, {number}" for number in ("1", "2", "2 apart")]
    for name, (found,) in processes.items():
        assert found["clips_per_s"] > 0
        assert min(found["own_ms"], found["averaging_ms"]) > 0
        assert (found["slower_ms"] > 0) == name.endswith("2")  # alone, no one is waited for
    result = {
        "hardware": "x", "date": "2026-11-22", "command": "c", "ray_idle_cores": 0.05, "loaders": loaders,
        "readers": readers, "stages": stages, "waiting_workers": 1, "waiting": waiting, "steps": steps,
        "processes": processes,
    }  # fmt: skip
    benchmark_throughput.write(result | {"targets": targets(result)}, tmp_path / "out")
    table = json.loads((tmp_path / "out" / "table.json").read_text())
    assert [row["target"] for row in table["targets"]] == [
        f"Ray Data / process pool: {EMBEDDED}, 1 worker",
        f"Ray Data / DataLoader: {EMBEDDED}, 1 worker",
        "training step, TSM / no shift: R18 width 16, 32 px, fp32",
        "training step, TSM / no shift: R18 width 16, 32 px, bf16",
        "two training processes / one: whole pipeline, 32 px",
    ]
    assert (tmp_path / "out" / "plot.png").stat().st_size > 10_000


def handmade() -> dict:
    def row(source, loader, rates):
        return {
            "source": source, "workers": 2, "loader": loader,
            "clips_per_s": rates, "cpu_ms": [1.0, 1.0], "first_s": [2.0, 2.0],
        }  # fmt: skip

    def process(clips_per_s, own_ms, slower_ms, averaging_ms):
        return [
            {
                "clips_per_s": clips_per_s, "own_ms": own_ms, "slower_ms": slower_ms, "averaging_ms": averaging_ms,
                "data_wait_share": 0.0, "cores": 1.5,
            }
        ]  # fmt: skip

    return {
        "hardware": "two cores", "date": "2026-11-22", "command": "the command", "ray_idle_cores": 0.06,
        "loaders": [
            row(RAW, "process pool", [10.0, 20.0]), row(RAW, "DataLoader", [9.0, 19.0]),
            row(RAW, "Ray Data", [9.5, 18.0]),
            row(PREPARED, "process pool", [90.0, 150.0]), row(PREPARED, "DataLoader", [80.0, 150.0]),
            row(PREPARED, "Ray Data", [72.0, 150.0]),
        ],
        "readers": {RAW: {"pyav": 120.0, "mp4": 100.0}},
        "stages": {
            RAW: {"plan": 0.05, "decode": 100.0, "object store": 0.25, "training step": 5.0, "bytes": 500_000.0}
        },
        "waiting_workers": 1,
        "waiting": {RAW: {"Ray Data": [{"clips_per_s": 10.0, "data_wait_share": 0.95, "cores": 1.25}]}},
        "steps": [
            {"network": "TSM", "setting": "R18, fp32", "rates": [95.0, 190.0, 96.0], "memory_mb": None},
            {"network": "no shift", "setting": "R18, fp32", "rates": [100.0, 200.0, 100.0], "memory_mb": None},
        ],
        "processes": {
            "ready batches, 1": process(100.0, 160.0, 0.0, 0.0),
            "ready batches, 2": process(170.0, 168.0, 9.0, 11.5),
            "ready batches, 2 apart": process(200.0, 160.0, 0.0, 0.0),
        },
    }  # fmt: skip


def test_targets_of_a_result_worked_by_hand():
    found = {row["target"]: (round(row["ratio"], 4), row["wanted"], row["reached"]) for row in targets(handmade())}
    assert found == {
        f"Ray Data / process pool: {RAW}, 2 workers": (0.925, 0.9, True),  # 9.5/10 and 18/20
        f"Ray Data / DataLoader: {RAW}, 2 workers": (round((9.5 / 9 + 18 / 19) / 2, 4), 1.0, True),
        f"Ray Data / process pool: {PREPARED}, 2 workers": (0.9, 0.9, True),  # 0.8 and 1
        f"Ray Data / DataLoader: {PREPARED}, 2 workers": (0.95, 1.0, False),  # 0.9 and 1
        "prepared / raw files, process pool, 2 workers": (8.25, 8.0, True),  # 9 and 7.5
        "training step, TSM / no shift: R18, fp32": (0.95, 0.95, True),
        "two training processes / one: ready batches": (1.7, 1.8, False),
    }


def test_the_markdown_says_what_was_measured_where_and_by_which_command():
    result = handmade()
    text = markdown(result | {"targets": targets(result)})
    assert text.startswith("two cores; 2026-11-22; `the command`.")
    assert "| two training processes / one: ready batches | 1.8 | 1.70 (1.70 to 1.70) | not reached |" in text
    assert f"| {RAW} | 2 | process pool | 15 | 1 | 2 |" in text
    # 500,000 bytes in 0.25 ms; 0.25 of 100.3 ms.
    assert f"Object store: {RAW}: 2.00 GB/s, 0.2% of a clip's time before training." in text
    # 200 / 100, 170 / 200.
    assert "What two apart reach, and two together of that: ready batches: 2.00 of one, 85%." in text
    assert f"| {RAW} | Ray Data | 10 | 95.0% | 1.25 |" in text
    assert "| ready batches, 2 | 170 | 168.0 | 9.0 | 11.5 | 0.0% | 1.50 |" in text
