"""``bsp prepare``: a copy of a data set from which clips are read many times faster."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bsp_platform.cli.common import not_nan
from bsp_platform.plain_text import say

if TYPE_CHECKING:
    from bsp_platform.work.preparing import Progress

_EVERY_S = 10.0  # between two lines of progress


@click.command()
@click.argument("videos", type=click.Path(exists=True, readable=True, path_type=Path))
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="Folder of the copy.")
@click.option(
    "--short-side", type=click.IntRange(min=16), default=128, show_default=True, help="Pixels; never enlarged."
)
@click.option(
    "--keyframe-interval", type=click.IntRange(min=1), default=8, show_default=True, help="Frames; 1 = all key frames."
)
@click.option("--crf", type=click.IntRange(1, 51), default=20, show_default=True, help="x264's quality, 1 the best.")
@click.option(
    "--max-broken",
    type=click.FloatRange(0, 1),
    callback=not_nan,
    default=0.05,
    show_default=True,
    help="Share of the videos that may be broken.",
)
@click.option("--workers", type=click.IntRange(min=1), help="Processes on this machine.  [default: one per core]")
def prepare(
    videos: Path, out: Path, short_side: int, keyframe_interval: int, crf: int, max_broken: float, workers: int | None
) -> None:
    """Encode VIDEOS again, small and with frequent key frames, into a folder of the same layout.

    VIDEOS is a folder, searched to any depth, or a text file with a video per line. Files beside the videos
    (annotations) are copied, so that the new folder can be given to --kinetics and the like. Run again, only what is
    missing, damaged or changed is done. Broken videos are left out and named.
    """
    import ray

    from bsp.video.prepare import PrepareSettings
    from bsp.video.prepared_folder import find_videos, open_folder
    from bsp.video.read import damage_line
    from bsp_platform.sweep.ray_log import RayLog
    from bsp_platform.work.cluster.start import start_ray
    from bsp_platform.work.preparing import RAY_LOG, REPORT, prepare_folder

    settings = PrepareSettings(short_side_px=short_side, keyframe_interval=keyframe_interval, crf=crf)
    root, names, others = find_videos(videos)
    open_folder(root, out, settings)
    shown = [time.monotonic()]
    joined = ray.is_initialized()
    with RayLog(out / RAY_LOG) as log:

        def report(progress: Progress) -> None:
            if time.monotonic() - shown[0] >= _EVERY_S:
                shown[0] = time.monotonic()
                say(progress.line(), file=log.console)

        start_ray(cpus=workers)
        try:
            facts = prepare_folder(root, out, names, others, settings, max_broken_share=max_broken, report=report)
        finally:
            if not joined:
                ray.shutdown()
    for line in facts["broken"]:
        say(f"left out: {line}", err=True)
    for line in facts["not_copied"]:
        say(f"not copied: {line}", err=True)
    if facts["damaged_frames"]:
        say(damage_line(facts["damaged_frames"], facts["frames"]), err=True)
    before, after = facts["bytes_before"], facts["bytes_after"]
    say(
        f"{out}: {facts['videos']:,} videos ({facts['kept']:,} were there), {facts['frames']:,} frames, "
        f"{before / 2**20:,.1f} MiB to {after / 2**20:,.1f} MiB ({after / max(before, 1):.0%}), "
        f"{facts['seconds']:,.0f} s, {len(facts['broken'])} broken; {out / REPORT}"
    )
