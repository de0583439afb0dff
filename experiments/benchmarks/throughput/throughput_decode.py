"""Reading clips: original files and prepared variants, every reader, bytes against time. One process, one thread.

    python experiments/benchmarks/throughput/throughput_decode.py    # two minutes; results/throughput_decode.json

CPU milliseconds for one clip: 8 frames at a stride from a random start of one file, opened each time. Readers take
turns on the same clips, round after round; medians. torchcodec is measured where it is installed.
"""

from __future__ import annotations

import io
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import click
import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

from bsp.video.prepare import PrepareSettings, prepare_video
from bsp.video.read import probe, read_frames
from bsp_platform.plain_text import escape_unencodable
from bsp_platform.report.tables import hardware
from throughput_clock import in_turns
from throughput_parts import readers
from throughput_videos import FRAMES, make_kinetics_like

ROOT = Path(__file__).resolve().parents[3]
CLIP_FRAMES = 8
STRIDES = (1, 8)
VARIANTS = {
    "prepared, GOP 12": PrepareSettings(keyframe_interval=12),
    "prepared, GOP 8 (default)": PrepareSettings(),
    "prepared, GOP 8, CRF 23": PrepareSettings(crf=23),
    "prepared, GOP 4": PrepareSettings(keyframe_interval=4),
    "prepared, all key frames": PrepareSettings(keyframe_interval=1),
}
JPEG_QUALITY = 90

Read = Callable[[str, np.ndarray], np.ndarray]


def store_jpegs(source: Path, target: Path) -> None:
    """All frames as JPEG, one after the other, behind a table of their ends (int64 [frames + 1])."""
    pictures = []
    for pixels in read_frames(source, np.arange(probe(source).frames)):
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "JPEG", quality=JPEG_QUALITY)
        pictures.append(buffer.getvalue())
    ends = 8 * (len(pictures) + 1) + np.concatenate(([0], np.cumsum([len(picture) for picture in pictures])))
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(ends.astype(np.int64).tobytes() + b"".join(pictures))


def read_jpegs(path: str, indices: np.ndarray) -> np.ndarray:
    """Frames of a file of :func:`store_jpegs`, by Pillow."""
    with open(path, "rb") as file:
        ends = np.frombuffer(file.read(8 * (FRAMES + 1)), np.int64)
        pictures = []
        for index in indices.tolist():
            file.seek(int(ends[index]))
            pictures.append(np.asarray(Image.open(io.BytesIO(file.read(int(ends[index + 1] - ends[index]))))))
    return np.stack(pictures)


def make_files(folder: Path, videos: int) -> tuple[dict[str, list[Path]], float]:
    """Files by variant, and CPU seconds to prepare a video with the defaults."""
    raw = make_kinetics_like(folder / "raw", videos)
    files = {"original, 340x256, GOP 250": raw}
    used = 0.0
    for number, (name, settings) in enumerate(VARIANTS.items()):
        files[name] = [folder / f"prepared{number}" / path.relative_to(folder / "raw") for path in raw]
        began = time.process_time()
        for source, target in zip(raw, files[name], strict=True):
            prepare_video(source, target, settings)
        if settings == PrepareSettings():
            used = (time.process_time() - began) / videos
    small = files["prepared, all key frames"]
    files[f"stored JPEG, quality {JPEG_QUALITY}"] = [path.with_suffix(".jpegs") for path in small]
    for source, path in zip(small, files[f"stored JPEG, quality {JPEG_QUALITY}"], strict=True):
        store_jpegs(source, path)
    return files, used


def cpu_ms(read: Read, clips: list[tuple[str, np.ndarray]]) -> float:
    """CPU milliseconds per clip, of all threads of this process."""
    began = time.process_time()
    for path, indices in clips:
        read(path, indices)
    return 1000 * (time.process_time() - began) / len(clips)


def measure(files: dict[str, list[Path]], *, clips: int, rounds: int) -> list[dict]:
    """A row per variant: bytes per video, and CPU ms per clip by stride and reader."""
    generator = np.random.Generator(np.random.Philox(0))
    work: dict[tuple[str, int, str], Callable[[], float]] = {}
    for name, paths in files.items():
        for stride in STRIDES:
            starts = generator.integers(0, FRAMES - (CLIP_FRAMES - 1) * stride, clips)
            chosen = generator.integers(0, len(paths), clips)
            wanted = [
                (str(paths[k]), start + stride * np.arange(CLIP_FRAMES))
                for k, start in zip(chosen, starts, strict=True)
            ]
            for reader, read in ({"pillow": read_jpegs} if "JPEG" in name else readers()).items():
                work[name, stride, reader] = partial(cpu_ms, read, wanted)
    taken = in_turns(work, rounds)
    rows = []
    for name, paths in files.items():
        cpu: dict[str, dict[str, float]] = {}
        kb = sum(path.stat().st_size for path in paths) / len(paths) / 1000
        for (whose, stride, reader), values in taken.items():
            if whose == name:
                cpu.setdefault(str(stride), {})[reader] = statistics.median(values)
        rows.append({"videos": name, "kb": kb, "cpu_ms": cpu})
    return rows


@click.command()
@click.option("--videos", default=4, show_default=True, type=click.IntRange(min=1))
@click.option("--clips", default=24, show_default=True, type=click.IntRange(min=1), help="Per reader and round.")
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(min=1))
@click.option("--out", default=ROOT / "results" / "throughput_decode.json", type=click.Path(path_type=Path))
def main(videos: int, clips: int, rounds: int, out: Path) -> None:
    """Measure and print the table; the numbers also go into a JSON file."""
    escape_unencodable()
    with tempfile.TemporaryDirectory() as folder:
        files, prepare_s = make_files(Path(folder), videos)
        rows = measure(files, clips=clips, rounds=rounds)
    best = {stride: min(rows[0]["cpu_ms"][str(stride)].values()) for stride in STRIDES}
    table = Table(title=f"CPU ms per clip of {CLIP_FRAMES} frames; in brackets: times the originals' fastest reader")
    for head in ("videos", "kB", "stride", *readers(), "pillow"):
        table.add_column(head, justify="left" if head == "videos" else "right")
    for row in rows:
        for stride in STRIDES:
            ms = row["cpu_ms"][str(stride)]
            cells = [f"{ms[r]:.2f} ({best[stride] / ms[r]:.1f})" if r in ms else "" for r in (*readers(), "pillow")]
            table.add_row(row["videos"], f"{row['kb']:.0f}", str(stride), *cells)
    Console(width=160).print(table)
    click.echo(f"preparing a video of {FRAMES} frames with the defaults: {prepare_s:.2f} s of CPU time")
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({"rows": rows, "prepare_cpu_s": prepare_s, "hardware": hardware()}, indent=1), "utf-8")


if __name__ == "__main__":
    main()
