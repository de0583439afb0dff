"""Videos for benchmarks, shaped like those of Kinetics at 340x256: 10 s, 30 fps, H.264, a key frame every 250 frames.

Nothing is downloaded: a textured scene under a camera that pans, with objects that move on their own and camera
noise, so that the files need about as many bytes and as much decoding as real ones.
"""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np

from bsp.io import atomic_path
from bsp.video.prepare import PrepareSettings, prepare_video

FRAMES, FPS = 300, 30
HEIGHT, WIDTH = 256, 340
GOP_FRAMES = 250
_CANVAS = 3  # times the frame's size: room for the camera to pan
_THINGS = 6  # that move on their own


def make_prepared(raw: Path, out: Path, count: int, settings: PrepareSettings, *, frames: int = FRAMES) -> Path:
    """Write ``count`` videos below ``raw`` and prepared copies below ``out``, unless they exist. Returns ``out``."""
    for path in make_kinetics_like(raw, count, frames=frames):
        target = out / path.relative_to(raw)
        if not target.exists():
            prepare_video(path, target, settings)
    return out


def make_kinetics_like(
    folder: str | Path, count: int, seed: int = 0, *, frames: int = FRAMES, gop_frames: int = GOP_FRAMES
) -> list[Path]:
    """Write ``count`` videos ``<folder>/class_<0 or 1>/video<k>.mp4`` (about 1.5 s each) unless they exist.

    The folder is one for ``load_class_folders``. x264 at its defaults (preset medium, CRF 23, three B-frames, closed
    groups), as the usual scripts cut Kinetics; no sound. The same seed gives the same files.
    """
    paths = [Path(folder) / f"class_{k % 2}" / f"video{k:04d}.mp4" for k in range(count)]
    for number, path in enumerate(paths):
        if not path.exists():
            _write(path, np.random.Generator(np.random.Philox(key=[seed, number])), frames, gop_frames)
    return paths


def _write(path: Path, generator: np.random.Generator, frames: int, gop_frames: int) -> None:
    canvas = _texture(generator, _CANVAS * HEIGHT, _CANVAS * WIDTH)
    things = [_texture(generator, *generator.integers(24, 96, 2)) for _ in range(_THINGS)]
    camera = _path(generator, frames, (_CANVAS - 1) * HEIGHT, (_CANVAS - 1) * WIDTH)
    places = [_path(generator, frames, HEIGHT - len(thing), WIDTH - thing.shape[1]) for thing in things]
    with atomic_path(path) as partial, av.open(str(partial), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.codec_context.thread_count = 1
        stream.options = {"g": str(gop_frames), "crf": "23", "x264-params": "scenecut=0:cpu-independent=1"}
        for at in range(frames):
            top, left = camera[at]
            picture = canvas[top : top + HEIGHT, left : left + WIDTH].astype(np.int16)
            for thing, place in zip(things, places, strict=True):
                y, x = place[at]
                picture[y : y + thing.shape[0], x : x + thing.shape[1]] = thing
            picture += np.round(generator.standard_normal((HEIGHT, WIDTH, 1), np.float32) * 2.5).astype(np.int16)
            pixels = np.clip(picture, 0, 255).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))


def _texture(generator: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Noise of many scales, coarse strongest, as in natural pictures: uint8 [height, width, 3]."""
    total = np.full((height, width, 3), 128.0, np.float32)
    for cell in (64, 32, 16, 8, 4, 2):
        noise = generator.standard_normal((height // cell + 2, width // cell + 2, 3), np.float32)
        rows, columns = np.arange(height) / cell, np.arange(width) / cell
        y, x = rows.astype(int), columns.astype(int)
        v, u = (rows - y)[:, None, None].astype(np.float32), (columns - x)[None, :, None].astype(np.float32)
        upper = noise[y][:, x] * (1 - u) + noise[y][:, x + 1] * u
        lower = noise[y + 1][:, x] * (1 - u) + noise[y + 1][:, x + 1] * u
        total += (upper * (1 - v) + lower * v) * (4.0 * cell**0.5)
    return np.clip(total, 0, 255).astype(np.uint8)


def _path(generator: np.random.Generator, frames: int, height: int, width: int) -> np.ndarray:
    """A smooth walk within [0, height) x [0, width): int [frames, 2]."""
    times = np.arange(frames)[:, None] / FPS
    rates, phases = generator.uniform(0.03, 0.15, 2), generator.uniform(0, 2 * np.pi, 2)
    return np.round((0.5 + 0.5 * np.sin(2 * np.pi * rates * times + phases)) * (height - 1, width - 1)).astype(int)
