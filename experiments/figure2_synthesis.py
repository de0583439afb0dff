"""Figure 2 of the paper: boundary-sensitive video synthesis, shown on clips of the training stream.

python experiments/figure2_synthesis.py                    # profile mini: embedded data, seconds
python experiments/figure2_synthesis.py --seed 3           # other clips
python experiments/figure2_synthesis.py --profile paper --kinetics DIR --activitynet DIR
"""

from pathlib import Path

import click

from bsp.figures.synthesis import draw_synthesis, first_of_each_kind, real_panel, synthesis_panel
from bsp_platform.plain_text import escape_unencodable, printable, say
from bsp_platform.plan.options import Options, storage_place
from bsp_platform.plan.profiles import PROFILES
from bsp_platform.plan.sources import DataPaths, load_sources
from bsp_platform.storage.stages import StageStore
from bsp_platform.sweep.figures import publish

ROOT = Path(__file__).resolve().parents[1]
NAME, TITLE = "figure2_synthesis", "Figure 2: boundary-sensitive video synthesis"
CAPTION = (
    "Within a panel, columns are frames of one clip: the source videos with the frame numbers in their files (grey: "
    "not used there), and below them what the encoder is trained on. ▼ is the change point; the framed picture is a "
    "blend with the weights of Eq. (1). Shown before augmentation.\n"
    "Chosen by rule: the first clip of each kind in the stream of seed {seed}. {about}."
)


def main(options: Options, seed: int = 0) -> int:
    """Draw one clip of every boundary type; returns the exit status."""
    if options.dry_run:
        say("figure2_synthesis: --dry-run: draws one clip of each boundary type; nothing is trained")
        return 0
    profile = options.profile
    sources = load_sources(profile, {"activitynet"}, options.data, storage=StageStore(options.storage).root)
    plans = first_of_each_kind(sources.trimmed, profile.clips, seed)
    panels = [
        real_panel(sources.untrimmed("activitynet"), profile.clips, seed),
        *(synthesis_panel(sources.trimmed, plan, profile.clips) for plan in plans),
    ]
    caption = CAPTION.format(seed=seed, about=profile.about[0].upper() + profile.about[1:])
    publish(
        draw_synthesis(panels, title=TITLE, caption=caption), options, name=NAME,
        content={"title": TITLE, "caption": caption, "seed": seed, "clips": [panel.facts for panel in panels]},
        key={
            "clips": profile.clips, "trimmed": sources.trimmed_print, "untrimmed": sources.videos_prints, "seed": seed,
        },
        params={"seed": seed, "trimmed": sources.trimmed_print}, metrics={},
    )  # fmt: skip
    return 0


@click.command(context_settings={"show_default": True, "help_option_names": ["-h", "--help"]})
@click.option("--profile", type=click.Choice(sorted(PROFILES)), default="mini", help="complete configuration")
@click.option("--seed", type=click.IntRange(0), default=0, help="of the stream of clips")
@click.option(
    "--storage", type=storage_place, default=ROOT / "storage", envvar="BSP_STORAGE", help="of the embedded videos"
)
@click.option("--results", type=Path, default=ROOT / "results", help="where figures go")
@click.option("--tracking-uri", envvar="MLFLOW_TRACKING_URI", help="MLflow store [default: SQLite here]")
@click.option("--kinetics", type=Path, help="folder of Kinetics-400 (profile paper)")
@click.option("--activitynet", type=Path, help="folder of ActivityNet-1.3 (profile paper)")
def command(profile: str, seed: int, kinetics: Path | None, activitynet: Path | None, **other) -> None:
    """Draw one clip of every boundary type."""
    escape_unencodable()
    given = {"kinetics": kinetics, "activitynet": activitynet}
    folders = {name: path for name, path in given.items() if path}
    options = Options(
        profile=PROFILES[profile](), data=DataPaths(folders=folders), tracking_home=ROOT / "mlflow", **other
    )
    try:
        main(options, seed)
    except (ValueError, RuntimeError, OSError) as error:
        raise click.ClickException(printable(error, lines=True)) from error


if __name__ == "__main__":
    command()
