"""Pantomime's stories: games, tasks and clips in the layouts of THUMOS-14, HACS, CrossTask and Kinetics-GEBD.

``render_stories(settings, out_dir)`` writes to ``out_dir/<fingerprint>/`` in parallel, keeps what is already there,
``manifest.json`` last:

    games/videos/<id>.mp4   games/thumos14/{val_Annotation,test_Annotation,test_groundtruth}.csv
                            games/thumos14/thumos_gt.json   games/hacs.json (the same videos)
    tasks/videos/<id>.mp4   tasks/crosstask_release/{tasks_primary,tasks_related}.txt {videos,videos_val}.csv
                            tasks/crosstask_release/annotations/<task>_<id>.csv
    clips/videos/<id>_<start6>_<end6>.mp4   clips/k400_mr345_{train,val}_min_change_duration0.3.json
    truth.json   what the annotations do not say: exact frames, cuts, kinds of boundaries

For testing programs, not evidence about real videos. From a shell (a minute on 2 cores):

    python -m bsp.datasets.pantomime.stories --out data/stories --preview
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from bsp.datasets.pantomime.render import VideoSet, render_set
from bsp.datasets.pantomime.stories_files import annotation_files, clip_name
from bsp.datasets.pantomime.stories_plan import (
    CODE_VERSION,
    SPLITS,
    TASKS,
    StoryPlan,
    StorySettings,
    draw_video,
    plan_video,
)

__all__ = ["CODE_VERSION", "StorySettings", "plan_all", "render_stories"]


def plan_all(settings: StorySettings) -> list[StoryPlan]:
    """The plans of all videos of the data set."""
    counts = {split: getattr(settings, split) for split in SPLITS}
    counts["tasks"] *= len(TASKS)
    plans = [plan_video(settings, split, number) for split, count in counts.items() for number in range(count)]
    assert len({plan.video_id for plan in plans}) == len(plans)
    return plans


def video_path(settings: StorySettings, plan: StoryPlan) -> str:
    """Path of the plan's video relative to the data set's folder, with forward slashes."""
    kind = plan.split.split("_")[0]
    return f"{kind}/videos/{clip_name(settings, plan) if kind == 'clips' else plan.video_id}.mp4"


_STORIES = VideoSet(
    title="Pantomime stories",
    about="Pantomime stories (synthetic; a proving ground, not evidence about real videos)",
    code_version=CODE_VERSION,
    plan_all=plan_all,
    video_path=video_path,
    draw_video=draw_video,
    annotation_files=annotation_files,
)


def render_stories(
    settings: StorySettings, out_dir: str | Path, *, workers: int | None = None, progress: bool = True
) -> Path:
    """Write the data set to ``out_dir/<fingerprint>/`` and return that folder; at once if it is complete.

    Arguments, resuming, locking and errors as in :func:`bsp.datasets.pantomime.render.render`.
    """
    return render_set(_STORIES, settings, out_dir, workers=workers, progress=progress)


_DEFAULT = StorySettings()


@click.command(help="Render Pantomime's games, tasks and clips.")
@click.option(
    "--out", required=True, type=click.Path(path_type=Path), help="Folder; the data goes to OUT/<fingerprint>."
)
@click.option("--preview", is_flag=True, help="Also write a contact sheet (PNG) to look at.")
@click.option("--workers", type=int, default=None, help="Processes; default all cores.")
@click.option("--seed", default=_DEFAULT.seed, show_default=True)
@click.option("--size-px", default=_DEFAULT.size_px, show_default=True)
@click.option("--fps", default=_DEFAULT.fps, show_default=True)
@click.option("--games-train", default=_DEFAULT.games_train, show_default=True)
@click.option("--games-test", default=_DEFAULT.games_test, show_default=True)
@click.option("--tasks", default=_DEFAULT.tasks, show_default=True, help="Videos of each of the four tasks.")
@click.option("--clips-train", default=_DEFAULT.clips_train, show_default=True)
@click.option("--clips-val", default=_DEFAULT.clips_val, show_default=True)
def main(out: Path, preview: bool, workers: int | None, **sizes: Any) -> None:
    """Render into ``out`` and print the folder; ``sizes`` are fields of the settings."""
    try:
        folder = render_stories(StorySettings(**sizes), out, workers=workers)
        click.echo(folder)
        if preview:
            from bsp.datasets.pantomime.preview import write_stories_preview

            click.echo(write_stories_preview(folder))
    except (ValueError, OSError) as error:
        raise click.ClickException(str(error)) from error


if __name__ == "__main__":
    main()
