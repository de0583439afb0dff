"""Training steps on ready batches: TSM against the same ResNet without shift, and their arithmetic against matmul's.

    python experiments/benchmarks/steps.py --work DIR            # on a GPU: R18 and R50, 224 px, bf16, compiled
    python experiments/benchmarks/steps.py --work DIR --tiny     # a narrow R18 on a CPU

Writes DIR/steps.json. A step is counted as three forward passes of two operations per multiply-add; the ceiling is the
best of some large products of matrices, measured in the same run. The design wants 0.97, and 0.35 of the ceiling (R50).
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from statistics import median

import click
import torch

from bsp.encoders.build import flops_per_clip
from bsp.encoders.tsm import EncoderSettings
from bsp_platform.plan.device import DEVICES, Device, local_device
from bsp_platform.report.tables import hardware

sys.path.append(str(Path(__file__).resolve().parent / "throughput"))
from throughput_training import Variant, measure_steps


def matmul_ceiling(device: torch.device, side: int, dtype: torch.dtype) -> float:
    """Operations/s of the best of five rounds of [side, side] products."""
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))

    def seconds(times: int) -> float:
        if device.type == "cuda":
            torch.cuda.synchronize()
        began = time.perf_counter()
        for _ in range(times):
            a @ b
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - began

    times = 20 if device.type == "cuda" else 2
    seconds(times)
    return max(2 * side**3 * times / seconds(times) for _ in range(5))


@click.command()
@click.option("--work", type=click.Path(path_type=Path), required=True)
@click.option("--tiny", is_flag=True)
@click.option("--device", type=click.Choice(DEVICES), default="auto", show_default=True)
@click.option("--depths", default="18,50", show_default=True)
def main(work: Path, tiny: bool, device: Device, depths: str) -> None:
    """Measure and print."""
    work.mkdir(parents=True, exist_ok=True)
    where = torch.device(local_device(device))
    on_gpu = where.type == "cuda"
    torch.set_num_threads(1)
    ceiling = matmul_ceiling(where, 256 if tiny else 8192, torch.bfloat16 if on_gpu else torch.float32)
    rows = []
    for depth in [18] if tiny else [int(text) for text in depths.split(",")]:
        ours = Variant(
            encoder=EncoderSettings(depth=depth, width=8 if tiny else 64), size_px=32 if tiny else 224,
            batch_size=4 if tiny else 64, compiled=on_gpu, bf16=on_gpu,
        )  # fmt: skip
        plain = replace(ours, encoder=replace(ours.encoder, shift=False))
        measured = measure_steps([ours, plain], where, steps=2 if tiny else 10, rounds=2 if tiny else 5)
        rates = [row["rates"] for row in measured]
        operations = 3 * flops_per_clip(ours.encoder, ours.size_px) * median(rates[0])
        rows.append(
            {
                "setting": ours.setting,
                "batch": ours.batch_size,
                "clips_per_s": median(rates[0]),
                "without_shift": median(rates[1]),
                "ratio": median(a / b for a, b in zip(*rates, strict=True)),
                "teraflops": operations / 1e12,
                "of_ceiling": operations / ceiling,
                "memory_mb": measured[0]["memory_mb"],
            }
        )
        row = rows[-1]
        print(
            f"{row['setting']}: {row['clips_per_s']:,.0f} clips/s, {row['ratio']:.3f} of the network without shift "
            f"(wanted: 0.97), {row['teraflops']:.3g} of {ceiling / 1e12:.3g} TFLOP/s: {row['of_ceiling']:.2f}",
            flush=True,
        )
        # Written after each depth, in case the next one runs out of time.
        result = {"hardware": hardware(), "device": str(where), "ceiling_teraflops": ceiling / 1e12, "rows": rows}
        (work / "steps.json").write_text(json.dumps(result, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
