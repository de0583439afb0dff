"""Training at 224 px from prepared files against its two limits, in one run: the clip makers' rate and the step's.

    python experiments/benchmarks/training.py --work DIR             # R18, bf16, compiled, batches of 128; needs a GPU
    python experiments/benchmarks/training.py --work DIR --tiny      # small pictures, a narrow R18, on two cores

Writes DIR/training.json. "ratio" is training / min(makers x one maker alone, steps on ready batches); the design wants
0.85 with 12 makers. One maker is measured alone, in this process; training is what ``bsp.pretraining.loop`` does, fed
by Ray Data as always, from its second record on.
"""

from __future__ import annotations

import itertools
import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from statistics import median

import bsp_platform  # noqa: F401  isort: skip (first: it sets the environment that Ray reads)
import click
import ray
import torch

from bsp.clips.augment import AugmentSettings
from bsp.clips.plan import ClipSettings
from bsp.datasets.kinetics import load_class_folders
from bsp.encoders.build import build_encoder
from bsp.encoders.tsm import EncoderSettings
from bsp.pretraining.contract import PretextModel
from bsp.pretraining.loop import TrainSettings, make_optimiser, prepare_device, train_steps
from bsp.pretraining.prefetch import empty_for
from bsp.pretraining.pretext import PretextSettings
from bsp.video.prepare import PrepareSettings
from bsp_platform.plan.device import DEVICES, Device, local_device
from bsp_platform.plan.profiles import paper
from bsp_platform.report.tables import hardware
from bsp_platform.work.cluster.planning import make_plan, this_machine
from bsp_platform.work.streaming import ClipStream, clip_dataset, iterate_batches, make_clips

sys.path.append(str(Path(__file__).resolve().parent / "throughput"))
from bsp_platform.work.cluster.start import object_store, start_ray
from throughput_training import StepRunner, Variant
from throughput_videos import make_prepared


def one_maker(catalog, stream: ClipStream, seconds: float) -> float:
    """Clips/s that this process alone makes."""
    began, numbers, done = time.perf_counter(), itertools.count(10**6, 8), 0
    while time.perf_counter() - began < seconds:
        first = next(numbers)
        done += len(make_clips(catalog, stream, range(first, first + 8))["label"])
    return done / (time.perf_counter() - began)


def trained(stream: ClipStream, encoder: EncoderSettings, device, makers: int, *, compiled: bool, seconds: float):
    """(clips/s, share of time waiting) of training with ``makers``, medians of the records after the first."""
    every = 4
    settings = TrainSettings(
        clips=stream.length, batch_size=stream.batch_size, log_every_steps=every, checkpoint_every_steps=10**9
    )
    pretext = PretextSettings(task="classification", kinds=stream.clips.kinds)
    model = PretextModel(build_encoder(encoder, 0), pretext, seed=0).to(device)
    if compiled:
        model.compile()
    batches = iterate_batches(clip_dataset(stream, actors=makers), stream.batch_size, empty_for(device))
    steps = train_steps(
        model, make_optimiser(model, settings), batches, loss=pretext.loss, settings=settings,
        device=device,
    )  # fmt: skip
    records, began = [], None
    for _, record in steps:
        if record is None:
            continue
        if began is not None:
            records.append(record)
            if time.perf_counter() - began > seconds:
                break
        else:
            began = time.perf_counter()
    return median(r["clips_per_s"] for r in records), median(r["data_wait_share"] for r in records)


@click.command()
@click.option("--work", type=click.Path(path_type=Path), required=True)
@click.option("--tiny", is_flag=True)
@click.option("--device", type=click.Choice(DEVICES), default="auto", show_default=True)
@click.option("--seconds", default=25.0, show_default=True, help="of training after the first record")
@click.option("--object-store-mb", default=6144, show_default=True)
def main(work: Path, tiny: bool, device: Device, seconds: float, object_store_mb: int) -> None:
    """Measure and print."""
    work.mkdir(parents=True, exist_ok=True)
    chosen = local_device(device)
    where = torch.device(chosen)
    machine = this_machine(None)
    makers = make_plan(paper(), machine, device=chosen, workers=1).resources.makers_per_worker
    size_px, batch = (64, 16) if tiny else (224, 128)
    encoder = EncoderSettings(depth=18, width=8 if tiny else 64)
    settings = PrepareSettings(short_side_px=256)
    videos = make_prepared(work / "raw", work / "prepared", 4 if tiny else 8, settings)
    catalog = load_class_folders(videos, progress=False)
    stream = ClipStream(
        catalog=None, clips=ClipSettings(), augment=AugmentSettings(size_px=size_px), seed=0, batch_size=batch,
        length=batch * 10**5,
    )  # fmt: skip
    torch.set_num_threads(1)
    alone = one_maker(catalog, stream, 1.0 if tiny else 4.0)
    prepare_device(where, 1)
    on_gpu = where.type == "cuda"
    step = StepRunner(Variant(encoder=encoder, size_px=size_px, batch_size=batch, compiled=on_gpu, bf16=on_gpu), where)
    for _ in range(3):
        step.step()
    ready = step.rate(5 if tiny else 30)
    del step
    start_ray(object_store_mb=object_store_mb if not tiny else 256)
    rate, waited = trained(
        replace(stream, catalog=ray.put(catalog)), encoder, where, makers, compiled=on_gpu, seconds=seconds
    )
    limit = min(makers * alone, ready)
    result = {
        "hardware": hardware(),
        "device": str(where),
        "setting": f"R{encoder.depth} width {encoder.width}, {size_px} px, batch {batch}",
        "makers": makers,
        "one_maker": alone,
        "ready_batches": ready,
        "training": rate,
        "waiting_for_data": waited,
        "ratio": rate / limit,
        "spilled_mb": object_store().spilled_mb,
    }
    (work / "training.json").write_text(json.dumps(result, indent=1), encoding="utf-8")
    print(
        f"{result['setting']}: {rate:,.0f} clips/s of min({makers} makers x {alone:,.0f}, {ready:,.0f}): "
        f"{result['ratio']:.2f} (wanted: 0.85); waiting {waited:.0%}; spilled {result['spilled_mb']:,.0f} MB"
    )


if __name__ == "__main__":
    main()
