"""``bsp demo``: from nothing to a page with what a model found in a video."""

from __future__ import annotations

import time
from pathlib import Path

import click

from bsp_platform.plain_text import duration, say

_NEXT = """
What you see: stick figures that idle, act, and idle again, while the camera cuts to other scenes. The page shows the
video, what the model found and how sure it is, the annotated truth in a row of its own, and the curve of how much the
picture's features change, with the change points. Click a segment, move the slider, press n and p.

Next, on a video of your own:
  bsp boundaries video.mp4                        where something changes (the same small model: a first look)
  bsp pretrain VIDEOS --out ENCODER               an encoder from your videos, no labels needed
  bsp extract VIDEOS --model ENCODER --out FEATURES
  bsp train gtad --features FEATURES --annotations labels.csv --out MODEL
  bsp detect video.mp4 --model MODEL --out PAGES  such a page, with your classes"""


@click.command()
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), default=Path("bsp-demo"), show_default=True,
    help="Folder of video and page.",
)  # fmt: skip
@click.option("--open/--no-open", "opens", default=True, help="Open the page in a browser.  [default: open]")
def demo(out: Path, opens: bool) -> None:
    """Render a video, find its actions with the model that comes with bsp, and open the page.

    \b
    bsp demo
    bsp demo --out DIR --no-open

    Under three minutes on two cores; no network, no GPU, no data. Run again, it takes seconds.
    """
    import webbrowser

    from bsp.datasets.pantomime.render import PantomimeSettings, render
    from bsp.pages.look import Question
    from bsp_platform.cli.look import Options, run_look, shipped_model

    began = time.monotonic()
    model = shipped_model()
    # Another seed than that of the training: no scene and no figure of it appears here. 256 px look better than the
    # 64 px that the model has learnt from.
    settings = PantomimeSettings(
        seed=2021, size_px=256, trimmed_per_class=0, trimmed_val_per_class=0, untrimmed_train=0, untrimmed_val=1,
        untrimmed_seconds=48.0, instance_seconds=(4.0, 9.0), other_cuts_per_minute=4.0,
    )  # fmt: skip
    say("rendering a video ...", err=True)
    world = render(settings, out / "world", workers=1) / "untrimmed"
    (video,) = sorted((world / "videos").glob("*.mp4"))
    say(f"looking at it with {model} ...", err=True)
    options = Options(
        model=model, out=out, features=(), annotations=world / "activitynet.json", threshold=None, top=None,
        formats=("json", "csv", "vtt", "html"), device="cpu", as_json=False,
    )  # fmt: skip
    run_look((video,), Question(what="detect"), options)
    page = out / f"{video.stem}.html"
    say(_NEXT)
    say(f"\n{page.absolute().as_uri()}  ({duration(time.monotonic() - began)})")
    if opens and not webbrowser.open(page.absolute().as_uri()):
        say("no browser could be started here; open the address above", err=True)
