"""Peak memory and time of a model on short and long videos: python experiments/benchmarks/long_video.py

Writes a synthetic video of a minute, repeats its packets to the asked lengths without encoding again, and lets a model
(random weights: two encoders and G-TAD, trained, it says, on two minutes) detect in each, in a process of its own.
Prints a Markdown table.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import av
import click
import numpy as np

FPS, MINUTE_FRAMES = 25, 1500
WINDOW_S = 120.0


def write_minute(path: Path, width: int, height: int) -> None:
    """A minute of noise that moves, H.264."""
    rng = np.random.default_rng(0)
    texture = np.kron(rng.integers(0, 255, (height // 8, width // 8, 3), np.uint8), np.ones((8, 8, 1), np.uint8))
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.options = {"preset": "ultrafast", "x264-params": f"keyint={FPS}:bframes=0"}
        for number in range(MINUTE_FRAMES):
            pixels = np.roll(texture, (number, 2 * number), (0, 1))
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))


def write_repeated(minute: Path, path: Path, minutes: int) -> None:
    """The packets of ``minute``, ``minutes`` times."""
    with av.open(str(minute)) as source, av.open(str(path), "w") as output:
        stream = source.streams.video[0]
        copy = output.add_stream_from_template(stream)
        assert stream.time_base is not None
        ticks = round(1 / (FPS * stream.time_base))
        for number in range(minutes):
            source.seek(0)
            for packet in source.demux(stream):
                if packet.size and packet.pts is not None and packet.dts is not None:
                    packet.pts, packet.dts = (at + number * MINUTE_FRAMES * ticks for at in (packet.pts, packet.dts))
                    packet.stream = copy
                    output.mux(packet)


def small_model(folder: Path, width: int, size_px: int) -> None:
    """A model folder with random weights."""
    from bsp.encoders.build import build_encoder
    from bsp.encoders.tsm import EncoderSettings
    from bsp.localization.gtad.network import GTADSettings, build_gtad
    from bsp.models.folder import write_model
    from bsp.models.model import Model
    from bsp.models.streams import stream_of
    from bsp.tasks.head import Kept

    streams = tuple(stream_of(build_encoder(EncoderSettings(width=width), k), size_px=size_px) for k in range(2))
    settings = GTADSettings(feature_width=2 * streams[0].feature_width)
    kept = Kept(
        settings=settings, tensors=build_gtad(settings, 0).state_dict(), class_names=("one", "two"),
        facts={"lengths": {"seconds": [WINDOW_S / 2, WINDOW_S / 2, WINDOW_S]}},
    )  # fmt: skip
    write_model(folder, Model(kind="gtad", streams=streams, head_streams=2, kept=kept))


def detect(model: str, video: str) -> None:
    """Print snippets, segments, seconds of features and of detection, peak memory in MB before and after."""
    import torch

    import bsp

    torch.set_num_threads(1)
    loaded = bsp.load_model(model)
    before = _peak_mb()
    began = time.time()
    feat_SD, info = loaded.features(video)
    features_s = time.time() - began
    found = loaded.detect_features(feat_SD, info)
    seconds = (features_s, time.time() - began - features_s)
    megabytes = round(feat_SD.nbytes / 2**20, 1)
    print(len(feat_SD), len(found), *(round(s, 1) for s in seconds), megabytes, before, _peak_mb())


def _peak_mb() -> int:
    # Not getrusage: its peak counts the process that started this one, too.
    status = Path("/proc/self/status").read_text("utf-8")
    return int(status.partition("VmHWM:")[2].split()[0]) // 1024


@click.command()
@click.option("--minutes", multiple=True, type=click.IntRange(min=1), default=(2, 10, 120), show_default=True)
@click.option("--width", default=8, show_default=True, help="Of the encoders' first layer; 64 is a ResNet-18.")
@click.option("--size", default=32, show_default=True, help="Of the picture that the encoders see, pixels.")
def main(minutes: tuple[int, ...], width: int, size: int) -> None:
    """See the top of the file."""
    print("| video | snippets | segments | features, s | detection, s | features, MB | peak before, MB | peak, MB |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        minute, model = Path(folder) / "minute.mp4", Path(folder) / "model"
        write_minute(minute, 64, 48)
        small_model(model, width, size)
        for length in minutes:
            video = Path(folder) / f"{length}.mp4"
            write_repeated(minute, video, length)
            command = [sys.executable, __file__, "--one", str(model), str(video)]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, encoding="utf-8")
            print(f"| {length} min | {' | '.join(done.stdout.split())} |", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        detect(*sys.argv[2:])
    else:
        main()
