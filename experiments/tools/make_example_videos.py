"""A folder of videos and labels as people have them, to try the commands on; the tutorial uses it.

    python experiments/tools/make_example_videos.py my_videos

writes, from a seed, stick figures that act (Pantomime, the embedded world):

    my_videos/clips/<action>/*.mp4   short clips, a folder per action
    my_videos/videos/*               longer videos: mp4, mkv, avi; one turned as phones do it, one of variable frame
                                     rate, one of 40 minutes, one broken (a download that stopped)
    my_videos/labels.csv             video,start_s,end_s,label of all but the long and the broken one
    my_videos/long_session.json      the same of the long one, in ActivityNet's layout, to score what a model finds
"""

from __future__ import annotations

import csv
import io
import json
import struct
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import click
import numpy as np
from tqdm import tqdm

from bsp.datasets.pantomime.plan import PantomimeSettings, VideoPlan, draw_video, plan_video
from bsp.io import atomic_path, write_text

ACTIONS = ("jumping jack", "squat", "kick", "bow")
SETTINGS = PantomimeSettings(
    seed=11, size_px=96, fps=24, actions=ACTIONS, trimmed_seconds=(3.0, 5.0), untrimmed_seconds=24.0,
    instance_seconds=(3.0, 8.0), max_instances=2,
)  # fmt: skip
LONG, BROKEN = "long_session", "stopped_download"
_WIDE = 16 / 9


def as_wide(frames_THWC: np.ndarray) -> np.ndarray:
    """Square frames [T, H, H, 3] between two bars of their edges: [T, H, W, 3], W even, about 16:9."""
    height = frames_THWC.shape[1]
    side = round(height * (_WIDE - 1) / 4) * 2
    return np.pad(frames_THWC, ((0, 0), (0, 0), (side, side), (0, 0)), mode="edge")


def write(
    path: Path, frames: Iterable[np.ndarray], *, codec: str = "libx264", times_ms: list[int] | None = None
) -> None:
    """Write uint8 frames [H, W, 3]; with ``times_ms`` each is shown at its own time, else at the world's rate."""
    ticks = Fraction(1, SETTINGS.fps) if times_ms is None else Fraction(1, 1000)
    with atomic_path(path) as partial, av.open(str(partial), "w", format=_FORMATS[path.suffix]) as output:
        stream = output.add_stream(codec, rate=SETTINGS.fps)
        assert isinstance(stream, av.VideoStream)  # as both codecs in use are
        stream.pix_fmt, stream.codec_context.time_base = "yuv420p", ticks
        stream.options = {"crf": "26", "preset": "veryfast"} if codec == "libx264" else {}
        for number, pixels_HWC in enumerate(frames):
            if number == 0:
                stream.height, stream.width = pixels_HWC.shape[:2]
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels_HWC), format="rgb24")
            frame.pts, frame.time_base = number if times_ms is None else times_ms[number], ticks
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))


_FORMATS = {".mp4": "mp4", ".mov": "mov", ".mkv": "matroska", ".avi": "avi"}


def turn_as_phones_do(path: Path) -> None:
    """Patch the track header of an mp4 or mov so that players show the picture turned by 90 degrees clockwise."""
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 44  # the display matrix, behind the kind and 40 bytes of header
    one = 0x10000
    data[at : at + 36] = struct.pack(">9i", 0, one, 0, -one, 0, 0, 0, 0, 0x40000000)
    path.write_bytes(data)


def phone_times_ms(frames: int, rng: np.random.Generator) -> list[int]:
    """Times of frames of a phone in changing light: the gap between two is 1, 1.5 or 2 times the usual one."""
    gaps = rng.choice([1.0, 1.5, 2.0], size=frames, p=[0.6, 0.2, 0.2]) * 1000 / SETTINGS.fps
    return [0, *np.cumsum(gaps)[:-1].round().astype(int).tolist()]


def rows_of(name: str, plan: VideoPlan, times_s: np.ndarray) -> list[tuple[str, str, str, str]]:
    """Lines of the CSV file. ``times_s`` [frames + 1]: when each frame is shown, and the end."""
    return [(name, f"{times_s[a]:.2f}", f"{times_s[b]:.2f}", plan.label) for a, b in plan.instances]


def write_rows(path: Path, rows: Iterable[tuple[str, ...]]) -> None:
    """A CSV file with the columns that ``bsp train`` reads."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(("video", "start_s", "end_s", "label"))
    table.writerows(rows)
    write_text(path, text.getvalue())


def ground_truth(rows: Iterable[tuple[str, str, str, str]], duration_s: float) -> dict[str, Any]:
    """The labels of the long video in ActivityNet's layout."""
    annotations = [{"label": label, "segment": [float(start), float(end)]} for _, start, end, label in rows]
    video = {"duration": duration_s, "subset": "validation", "annotations": annotations}
    return {"version": "example", "taxonomy": [], "database": {LONG: video}}


def write_clips(out: Path, per_action: int) -> None:
    """Short clips of one action each."""
    for action in tqdm(ACTIONS, desc="clips", unit="action"):
        (out / action).mkdir(parents=True, exist_ok=True)
        for number in range(per_action):
            plan = plan_video(SETTINGS, "trimmed_train", action, number)
            write(out / action / f"{action.replace(' ', '_')}_{number:02d}.mp4", as_wide(draw_video(SETTINGS, plan)))


def write_videos(out: Path, count: int) -> list[tuple[str, str, str, str]]:
    """Longer videos of several kinds of file; lines of their labels."""
    out.mkdir(parents=True, exist_ok=True)
    rows = []
    for number in tqdm(range(count), desc="videos", unit="video"):
        plan = plan_video(SETTINGS, "untrimmed_train", ACTIONS[number % len(ACTIONS)], number // len(ACTIONS))
        frames = as_wide(draw_video(SETTINGS, plan))
        times_s = np.arange(plan.frames + 1) / SETTINGS.fps
        if number == 1:  # held upright: stored lying, and turned when it is shown
            path = out / "phone upright.mov"
            write(path, np.rot90(frames, 1, axes=(1, 2)))
            turn_as_phones_do(path)
        elif number == 2:
            path = out / "phone_dim_light.mp4"
            times_ms = phone_times_ms(plan.frames, np.random.Generator(np.random.Philox(number)))
            write(path, frames, times_ms=times_ms)
            times_s = np.array([*times_ms, times_ms[-1] + 1000 / SETTINGS.fps]) / 1000
        elif number == 3:
            path = out / "camera.mkv"
            write(path, frames)
        elif number == 4:
            path = out / "old_camera.avi"
            write(path, frames, codec="mpeg4")
        else:
            path = out / f"session_{number:02d}.mp4"
            write(path, frames)
        rows += rows_of(path.stem, plan, times_s)
    whole = (out / "session_05.mp4").read_bytes()
    (out / f"{BROKEN}.mp4").write_bytes(whole[: len(whole) // 3])
    return rows


def write_long(path: Path, minutes: float, different: int = 12) -> list[tuple[str, str, str, str]]:
    """One long video: ``different`` videos that no other file shows, again and again."""
    plans = [
        plan_video(SETTINGS, "untrimmed_val", ACTIONS[k % len(ACTIONS)], k // len(ACTIONS)) for k in range(different)
    ]
    drawn = [as_wide(draw_video(SETTINGS, plan)) for plan in plans]
    times = round(minutes * 60 / SETTINGS.untrimmed_seconds)

    def frames() -> Iterator[np.ndarray]:
        for k in tqdm(range(times), desc=path.name, unit="part"):
            yield from drawn[k % different]

    write(path, frames())
    rows = []
    for k in range(times):
        begin_s = k * SETTINGS.untrimmed_seconds
        plan = plans[k % different]
        rows += rows_of(path.stem, plan, begin_s + np.arange(plan.frames + 1) / SETTINGS.fps)
    return rows


@click.command()
@click.argument("out", type=click.Path(file_okay=False, path_type=Path))
@click.option("--clips", type=click.IntRange(min=2), default=16, show_default=True, help="Clips of each action.")
@click.option("--videos", type=click.IntRange(min=6), default=32, show_default=True, help="Longer videos.")
@click.option("--minutes", type=click.FloatRange(min=0.4), default=40.0, show_default=True, help="Of the long one.")
def main(out: Path, clips: int, videos: int, minutes: float) -> None:
    """Write example videos and labels into OUT."""
    if out.exists() and any(out.iterdir()):
        raise click.ClickException(f"{out} is not empty; give a new folder")
    write_clips(out / "clips", clips)
    write_rows(out / "labels.csv", write_videos(out / "videos", videos))
    rows = write_long(out / "videos" / f"{LONG}.mp4", minutes)
    write_text(out / f"{LONG}.json", json.dumps(ground_truth(rows, minutes * 60), indent=1))
    click.echo(f"{out}: {clips * len(ACTIONS)} clips, {videos + 2} videos, labels.csv")


if __name__ == "__main__":
    main()
