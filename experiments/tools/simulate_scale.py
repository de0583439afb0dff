"""Memory and speed of the platform with Kinetics-400, Kinetics-700 and a million videos, simulated without videos.

python experiments/tools/simulate_scale.py                 # about six minutes on two cores; results/simulate_scale/
python experiments/tools/simulate_scale.py --quick         # seconds; a trial run
python experiments/tools/simulate_scale.py --cost-model    # Table 4 on 1, 8, 64 GPUs from what has been measured

Catalogs are synthetic, and clips come from a decode stub that costs nothing, so that what is measured is planning,
synthesis, Ray Data and the object store. docs/scale.md explains the numbers.
"""

from __future__ import annotations

import gc
import pickle
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO

import click
import numpy as np
import psutil

import scale_costs
from bsp.clips.augment import AugmentSettings
from bsp.clips.catalog import Catalog, Listed, build_catalog
from bsp.clips.plan import PAPER_KINDS, ClipSettings, plan_clip
from bsp.video.probe_many import _ProbeCache
from bsp.video.read import READERS, VideoInfo
from bsp_platform.plain_text import escape_unencodable
from bsp_platform.report.tables import hardware
from bsp_platform.storage.files import write_json
from bsp_platform.sweep.ray_log import RayLog
from scale_figure import draw_store

ROOT = Path(__file__).resolve().parents[2]
MB = 1e6


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much to simulate."""

    catalogs: dict[str, tuple[int, int]]  # name: (videos, classes)
    plans: int  # timed per boundary kind
    streams: dict[str, tuple[int, int]]  # name: (pixels of a side, clips)
    batch_size: int
    long_stream: int  # clips, for the start of a pipeline
    makers: int  # clip makers of a stream


FULL = Size(
    catalogs={"Kinetics-400": (240_000, 400), "Kinetics-700": (650_000, 700), "a million": (1_000_000, 1_000)},
    plans=5_000,
    streams={"small frames": (32, 524_288), "224 px": (224, 16_384)},
    batch_size=128,
    long_stream=12_000_000 // 128 * 128,
    makers=2,
)
QUICK = Size(
    catalogs={"Kinetics-400": (2_000, 40), "a million": (8_000, 50)},
    plans=100,
    streams={"small frames": (16, 4_096)},
    batch_size=64,
    long_stream=64 * 10_000,
    makers=1,
)


def synthetic_catalog(videos: int, classes: int, seed: int = 0) -> Catalog:
    """Trimmed videos as Kinetics has them: class sizes spread log-normally, 10 s, several frame rates, long names.

    Class sizes differ by a factor of about four between the 5th and the 95th hundredth, as in Kinetics-400 (250 to
    1000 videos per class).
    """
    generator = np.random.Generator(np.random.Philox(key=seed))
    weights = generator.lognormal(0.0, 0.42, classes)
    labels = np.sort(generator.choice(classes, videos, p=weights / weights.sum())).astype(np.int32)
    fps = generator.choice(np.array([24, 25, 29.97, 30], np.float32), videos, p=[0.1, 0.2, 0.3, 0.4])
    seconds = np.where(generator.random(videos) < 0.9, 10.0, generator.uniform(2.0, 10.0, videos))
    return Catalog(
        root="/videos",
        paths=np.array([path_of(video, label) for video, label in enumerate(labels)]),
        labels=labels,
        first_frame=np.zeros(videos, np.int64),
        frames=np.maximum(1, np.floor(seconds * fps)).astype(np.int32),
        fps=fps,
        readers=np.zeros(videos, np.uint8),
        class_names=tuple(f"action class {label}" for label in range(classes)),
        sizes=generator.integers(200_000, 900_000, videos),
    )


def path_of(video: int, label: int) -> bytes:
    """A name of Kinetics' length: class, 11 characters of YouTube, two times."""
    return b"action class %d/%011d_000012_000022.mp4" % (label, video)


def stub_decode(catalog: Catalog, plan: Any, *, time_limit_s: float, cache: Any) -> list[np.ndarray]:
    """A frame source without decoding: views of one grey frame, 4 : 3, of the size that augmentation crops from."""
    return [np.broadcast_to(_FRAME, (len(frames), *_FRAME.shape)) for frames in plan.frames]


_FRAME = np.full((48, 64, 3), 127, np.uint8)


def array_bytes(catalog: Catalog) -> int:
    """Bytes of the catalog's arrays."""
    return sum(value.nbytes for value in vars(catalog).values() if isinstance(value, np.ndarray))


def timed(work, *arguments) -> tuple[Any, float]:
    """(result, seconds) of a call."""
    began = time.perf_counter()
    result = work(*arguments)
    return result, time.perf_counter() - began


def measure_catalog(videos: int, classes: int, size: Size, folder: Path) -> tuple[Catalog, dict[str, float]]:
    """Memory, times of the operations on a catalog, and microseconds per plan of each kind."""
    catalog = synthetic_catalog(videos, classes)
    buffers: list[pickle.PickleBuffer] = []
    small = pickle.dumps(catalog, protocol=5, buffer_callback=buffers.append)
    row = {
        "videos": videos,
        "classes": classes,
        "catalog_mb": array_bytes(catalog) / MB,
        "bytes_per_video": array_bytes(catalog) / videos,
        "pickled_beside_arrays_bytes": len(small),  # copied per worker; the rest is shared
        "fingerprint_s": timed(catalog.fingerprint)[1],
        **measure_build(catalog, folder),
    }
    for kind in (*PAPER_KINDS, None):
        settings = ClipSettings(kinds=() if kind is None else (kind,))
        row[f"plan_us_{'plain' if kind is None else kind.name.lower()}"] = plan_us(catalog, settings, size.plans)
    row["plan_us_all_kinds"] = plan_us(catalog, ClipSettings(), size.plans)
    row["plans_per_s"] = 1e6 / row["plan_us_all_kinds"]
    return catalog, row


def plan_us(catalog: Catalog, settings: ClipSettings, plans: int, rounds: int = 3) -> float:
    """CPU microseconds per plan, of the fastest of some rounds over clips spread over the stream."""

    def one_round(first: int) -> float:
        began = time.process_time()
        for k in range(first, first + plans):
            plan_clip(catalog, settings, 0, 7919 * k)
        return (time.process_time() - began) / plans * 1e6

    return min(one_round(number * plans) for number in range(rounds))


def measure_build(catalog: Catalog, folder: Path) -> dict[str, float]:
    """Seconds to build the catalog from the answers of an earlier probing, and the size of that file.

    The files are symbolic links to one file; asking a real file system for a million of them takes its own time.
    """
    root, cache = folder / f"videos{len(catalog)}", folder / f"cache{len(catalog)}"
    root.mkdir()
    target = root / "video.mp4"
    target.write_bytes(b"x")
    for label in range(len(catalog.class_names)):
        (root / catalog.class_names[label]).mkdir()
    info = VideoInfo(
        path=str(target), frames=300, fps=30.0, uniform=True, width=340, height=256, codec="h264", reader=READERS[0]
    )
    names = [path.decode() for path in catalog.paths.tolist()]
    stat = target.stat()
    with _ProbeCache(str(root), cache) as probes:
        for name in names:
            (root / name).symlink_to(target)
            probes.put(name, (stat.st_size, stat.st_mtime_ns), info)
    listing = [Listed(name, int(label)) for name, label in zip(names, catalog.labels, strict=True)]
    memory = psutil.Process().memory_info().rss
    built, seconds = timed(lambda: build_catalog(root, listing, catalog.class_names, cache_dir=cache, progress=False))
    assert len(built) == len(catalog)
    grown = psutil.Process().memory_info().rss - memory
    return {"build_from_cache_s": seconds, "build_grows_mb": grown / MB, "cache_file_mb": _size(cache) / MB}


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


def measure_sharing(catalog: Catalog, plans: int, workers: int = 2) -> dict[str, float]:
    """Private and shared memory of several worker processes after planning with a catalog."""
    import ray

    from bsp_platform.work.cluster.start import object_store

    @ray.remote(num_cpus=0.5)
    class Planner:
        def plan(self, catalog: Catalog) -> tuple[float, float, bool]:
            for k in range(plans):
                plan_clip(catalog, ClipSettings(), 0, 7919 * k)
            gc.collect()
            return *_own_and_shared(), catalog.order.flags.writeable

    small = ray.put(synthetic_catalog(5_000, 10))  # memory of imports and caches, which is not the catalog's
    actor: Any = Planner
    planners = [actor.remote() for _ in range(workers)]
    before = ray.get([planner.plan.remote(small) for planner in planners])
    used = object_store().used_mb
    reference, seconds = timed(ray.put, catalog)
    stored = object_store().used_mb - used
    after = ray.get([planner.plan.remote(reference) for planner in planners])
    return {
        "put_s": seconds,
        "store_mb_on_the_node": stored,
        "uss_growth_mb_per_worker": max(a[0] - b[0] for a, b in zip(after, before, strict=True)),
        "pss_growth_mb_per_worker": max(a[1] - b[1] for a, b in zip(after, before, strict=True)),
        "workers": workers,
        "arrays_are_shared": not any(writeable for *_, writeable in after),
    }


def _own_and_shared() -> tuple[float, float]:
    """(USS, PSS) of this process in MB: memory of its own; the same plus its part of what it shares."""
    memory = psutil.Process().memory_full_info()
    return memory.uss / MB, memory.pss / MB


def clip_stream(catalog: Any, size_px: int, length: int, size: Size) -> Any:
    """The stream of clips of a training over ``catalog``."""
    from bsp_platform.work.streaming import ClipStream

    return ClipStream(
        catalog=catalog,
        clips=ClipSettings(),
        augment=AugmentSettings(size_px=size_px),
        seed=0,
        batch_size=size.batch_size,
        length=length,
        decode=stub_decode,
    )


def measure_stream(catalog: Any, size_px: int, length: int, size: Size) -> tuple[dict[str, float], list[dict]]:
    """Read a whole stream; sample the object store and this process's memory once a second."""
    from bsp_platform.work.cluster.start import object_store
    from bsp_platform.work.streaming import clip_dataset, iterate_batches

    process, seen = psutil.Process(), 0
    samples: list[dict[str, float]] = []
    stream = clip_stream(catalog, size_px, length, size)
    began = sampled = time.perf_counter()
    for batch in iterate_batches(clip_dataset(stream, actors=size.makers, cpus_per_actor=0.8), size.batch_size):
        assert batch["index"][0] == seen  # in order, nothing missing
        seen += len(batch["index"])
        now = time.perf_counter()
        if seen == size.batch_size:
            first_s = now - began
        if now - sampled >= 1 or not samples:
            store, sampled = object_store(), now
            memory = process.memory_info().rss / MB
            samples.append({"seconds": now - began, "clips": seen, "process_mb": memory, **asdict(store)})
    assert seen == length
    used = np.array([sample["used_mb"] for sample in samples])
    half = len(used) // 2
    return {
        "size_px": size_px,
        "clips": length,
        "first_batch_s": first_s,
        "clips_per_s": (length - size.batch_size) / (time.perf_counter() - began - first_s),
        "store_mb_first_half": float(used[: half or 1].mean()),
        "store_mb_second_half": float(used[half:].mean()),
        "store_mb_at_most": float(used.max()),
        "store_capacity_mb": samples[-1]["capacity_mb"],
        "spilled_mb": samples[-1]["spilled_mb"] - samples[0]["spilled_mb"],
        "process_grows_mb": samples[-1]["process_mb"] - samples[half]["process_mb"],
    }, samples


def measure_start(catalog: Any, size: Size) -> list[dict[str, float]]:
    """Seconds to the first batch, and growth of the reading process, for a short and for a long stream."""
    from bsp_platform.work.streaming import clip_dataset, iterate_batches

    rows = []
    for length in (16 * size.batch_size, size.long_stream):
        gc.collect()
        before = psutil.Process().memory_info().rss
        stream = clip_stream(catalog, 32, length, size)
        dataset = clip_dataset(stream, actors=1, cpus_per_actor=0.8)
        batches, seconds = timed(lambda d=dataset: (it := iterate_batches(d, size.batch_size), next(it))[0])
        grown = psutil.Process().memory_info().rss - before
        rows.append({"clips": length, "first_batch_s": seconds, "process_grows_mb": grown / MB})
        batches.close()
    return rows


def run(size: Size, folder: Path, console: TextIO, *, object_store_mb: int) -> dict[str, Any]:
    """All measurements, as the content of table.json; prints its progress on ``console``."""
    import ray

    from bsp_platform.work.cluster.start import start_ray

    content: dict[str, Any] = {"hardware": hardware(), "load_before": psutil.getloadavg()[0], "catalogs": {}}
    for name, (videos, classes) in size.catalogs.items():
        print(f"catalog of {videos:,} videos", file=console)
        catalog, content["catalogs"][name] = measure_catalog(videos, classes, size, folder)
    start_ray(cpus=2, object_store_mb=object_store_mb)
    print("sharing the largest catalog", file=console)
    content["sharing"] = measure_sharing(catalog, size.plans)
    reference, content["streams"], content["samples"] = ray.put(catalog), {}, {}
    for name, (size_px, clips) in size.streams.items():
        print(f"a stream of {clips:,} clips, {size_px} px", file=console)
        content["streams"][name], content["samples"][name] = measure_stream(reference, size_px, clips, size)
    print("starting long streams", file=console)
    content["starts"] = measure_start(reference, size)
    return content


def as_markdown(content: dict[str, Any]) -> str:
    """The measurements as tables."""
    lines = [f"Simulated with synthetic catalogs and a decode stub; {content['hardware']}; {content['date']}; load "
             f"average before {content['load_before']:.1f}", ""]  # fmt: skip
    names = list(content["catalogs"])
    lines += ["| catalog | " + " | ".join(names) + " |", "| --- |" + " ---: |" * len(names)]
    for key in next(iter(content["catalogs"].values())):
        lines.append(f"| {key} | " + " | ".join(_number(content["catalogs"][n][key]) for n in names) + " |")
    lines += ["", "| shared through the object store | |", "| --- | ---: |"]
    lines += [f"| {key} | {_number(value)} |" for key, value in content["sharing"].items()]
    for rows in ([{"stream": n} | row for n, row in content["streams"].items()], content["starts"]):
        lines += ["", "| " + " | ".join(rows[0]) + " |", "|" + " --- |" * len(rows[0])]
        lines += ["| " + " | ".join(_number(value) for value in row.values()) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def _number(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


@click.command(context_settings={"show_default": True})
@click.option("--quick", is_flag=True, help="a few thousand videos and clips, to see that it works")
@click.option("--cost-model", is_flag=True, help="print and write Table 4's costs from what has been measured")
@click.option("--results", type=click.Path(path_type=Path), default=ROOT / "results")
@click.option("--object-store-mb", default=768, help="of the Ray that is started here")
@scale_costs.price_options
def main(quick: bool, cost_model: bool, results: Path, object_store_mb: int, **prices: float) -> None:
    """Simulate, or compute the cost model."""
    escape_unencodable()
    out = results / "simulate_scale"
    out.mkdir(parents=True, exist_ok=True)
    if cost_model:
        text, content = scale_costs.cost_model(results, scale_costs.Inputs(**prices))
        write_json(out / "costs.json", content)
        (out / "costs.md").write_text(text, "utf-8")
        print(text)
        return
    size = QUICK if quick else FULL
    with tempfile.TemporaryDirectory() as folder, RayLog(out / "ray.log") as log:
        content = run(size, Path(folder), log.console, object_store_mb=object_store_mb)
    content["date"] = time.strftime("%Y-%m-%d")
    write_json(out / "table.json", content)
    (out / "table.md").write_text(as_markdown(content), "utf-8")
    draw_store(content, out / "object_store.png")
    print(as_markdown(content))


if __name__ == "__main__":
    main()
