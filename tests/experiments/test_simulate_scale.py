"""The simulation of large data sets: what it makes up, what it measures, and the arithmetic of the cost model."""

import json
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner

import scale_costs
import simulate_scale
from bsp.clips.plan import BoundaryKind, ClipSettings, plan_clip
from scale_figure import draw_store

TINY = replace(simulate_scale.QUICK, catalogs={"tiny": (600, 12)}, plans=5, streams={"small": (16, 1024)})


@pytest.fixture(scope="module")
def catalog():
    return simulate_scale.synthetic_catalog(20_000, 100)


def test_the_synthetic_catalog_looks_like_kinetics(catalog):
    assert len(catalog) == 20_000
    sizes = np.diff(catalog.class_offsets)
    assert len(sizes) == 100
    low, high = np.percentile(sizes, [5, 95])
    assert 2.5 < high / low < 6.5  # Kinetics-400: about 250 to 1000 videos a class
    assert (catalog.frames <= 300).all()
    assert np.median(catalog.frames / catalog.fps) == pytest.approx(10, abs=0.1)
    assert len(set(catalog.paths.tolist())) == 20_000


def test_the_same_seed_gives_the_same_catalog(catalog):
    assert simulate_scale.synthetic_catalog(20_000, 100).fingerprint() == catalog.fingerprint()
    assert simulate_scale.synthetic_catalog(20_000, 100, seed=1).fingerprint() != catalog.fingerprint()


@pytest.mark.parametrize("kind", BoundaryKind)
def test_the_decode_stub_gives_the_frames_that_a_plan_names(catalog, kind):
    plan = plan_clip(catalog, ClipSettings(kinds=(kind,)), 0, 1)
    frames = simulate_scale.stub_decode(catalog, plan, time_limit_s=1, cache=None)
    assert [len(part) for part in frames] == [len(part) for part in plan.frames]
    assert {part.dtype for part in frames} == {np.dtype(np.uint8)}


def test_the_bytes_of_a_catalog_are_those_of_its_columns(tmp_path):
    catalog, row = simulate_scale.measure_catalog(600, 12, TINY, tmp_path)
    longest = max(len(path) for path in catalog.paths.tolist())
    # int32 labels and frames, int64 first frame, size and order, float32 fps, uint8 reader, and two offsets.
    per_video = longest + 4 + 4 + 3 * 8 + 4 + 1
    assert row["catalog_mb"] * 1e6 == 600 * per_video + 2 * 13 * 8
    assert row["pickled_beside_arrays_bytes"] < 5_000
    assert row["cache_file_mb"] > 0


@pytest.mark.ray
def test_workers_share_the_arrays_and_a_stream_stays_within_the_store(ray_session, tmp_path):
    ray_session.cloudpickle.register_pickle_by_value(simulate_scale)  # as for a script; workers cannot import it
    large = simulate_scale.synthetic_catalog(200_000, 100)
    sharing = simulate_scale.measure_sharing(large, plans=5, workers=1)
    stored = simulate_scale.array_bytes(large) / 1e6
    assert sharing["arrays_are_shared"]
    assert sharing["store_mb_on_the_node"] == pytest.approx(stored, rel=0.02)
    assert sharing["uss_growth_mb_per_worker"] < stored / 4
    row, samples = simulate_scale.measure_stream(ray_session.put(large), 16, 1024, TINY)
    assert row["clips"] == 1024
    assert row["spilled_mb"] == 0
    assert all(0 < sample["used_mb"] < sample["capacity_mb"] for sample in samples)
    content = {"hardware": "some", "date": "2026-01-01", "load_before": 0.0, "sharing": sharing, "starts": [{"a": 1}],
               "catalogs": {"x": {"videos": 5}}, "streams": {"small": row}, "samples": {"small": samples}}  # fmt: skip
    draw_store(content, tmp_path / "store.png")
    assert (tmp_path / "store.png").read_bytes().startswith(b"\x89PNG")
    assert "| small | 16 | 1,024 |" in simulate_scale.as_markdown(content)


@pytest.mark.long
def test_the_cost_model_follows_its_formulas(tmp_path):
    inputs = scale_costs.Inputs(
        gpu_clips_per_s=1000, raw_clips_per_core_s=5, prepared_clips_per_core_s=50, scaling=0.8,
        price_gpu_hour=2.0, price_core_hour=0.05,
    )  # fmt: skip
    text, content = scale_costs.cost_model(tmp_path, inputs)
    # Eight encoders of 12,000,000 clips at 1000 a second: 96,000 s.
    assert content["gpu_hours"] == pytest.approx(96_000 / 3600)
    assert content["hours"] == {1: pytest.approx(26.6667, abs=1e-3), 8: pytest.approx(26.6667 / 8 / 0.8, abs=1e-3),
                                64: pytest.approx(26.6667 / 64 / 0.8, abs=1e-3)}  # fmt: skip
    assert content["cores_per_gpu"] == {"raw": 200, "prepared": 20}
    # One GPU and 20 cores for 26.67 hours: 26.67 x (2 + 1).
    assert "| 1 | 26.67 | 200 | 20 | 1,500 | 750 | 1,204 | 80 |" in text
    assert "ASSUMED" not in "".join(rate["source"] for rate in content["rates"].values())


def test_what_is_not_measured_is_called_an_assumption_and_what_is_measured_is_used(tmp_path):
    assumed = scale_costs.rates(tmp_path, scale_costs.Inputs())
    assert all(rate.source.startswith("ASSUMED") for rate in assumed.values())
    # ResNet-18 at 224 px: 1.814 GMAC per image (torchvision), 8 images, 2 FLOP, 3 passes: 87.1 GFLOP.
    assert assumed["gpu"].value == pytest.approx(312e12 * 0.3 / 87.1e9, rel=0.01)
    loader = {"source": "prepared", "loader": "Ray Data", "workers": 1, "cpu_ms": [19.0, 20.0, 40.0]}
    step = {
        "network": "TSM",
        "setting": "R18 width 64, 224 px, bf16",
        "rates": [800.0, 900.0, 1000.0],
        "memory_mb": 9.0,
    }
    benchmark = {
        "hardware": "two cores", "date": "2026-01-01",
        "loaders": [loader, loader | {"workers": 2, "cpu_ms": [1.0]},
                    loader | {"loader": "DataLoader", "cpu_ms": [1.0]}],
        "steps": [step, step | {"setting": "R50 width 64, 224 px, bf16", "rates": [5000.0]},
                  step | {"network": "no shift", "rates": [5000.0]}, step | {"memory_mb": None, "rates": [5000.0]}],
    }  # fmt: skip
    folder = tmp_path / "benchmark_throughput"
    folder.mkdir()
    (folder / "table.json").write_text(json.dumps(benchmark))
    found = scale_costs.rates(tmp_path, scale_costs.Inputs())
    assert found["prepared"].value == 1000 / 20
    assert found["prepared"].source.endswith("20.0 ms of CPU per clip; benchmark_throughput: two cores, 2026-01-01")
    assert found["gpu"].value == 900
    assert found["raw"] == assumed["raw"]


def test_the_cost_model_is_a_command(tmp_path):
    done = CliRunner().invoke(
        simulate_scale.main, ["--cost-model", "--results", str(tmp_path), "--gpu-clips-per-s", "500"]
    )
    assert done.exit_code == 0, done.output
    costs = json.loads((tmp_path / "simulate_scale" / "costs.json").read_text())
    assert costs["gpu_hours"] == pytest.approx(8 * 12_000_000 / 500 / 3600)
    assert "| gpu | 500.0 | given |" in done.output
