"""Pantomime for grounding: untrimmed videos of two actors, with sentences in the layout of Charades-STA.

Every sentence (sentences.py) is true of exactly one moment of its video. ``render_grounding(settings,
out_dir)`` writes to ``out_dir/<fingerprint>/`` in parallel, keeps what is already there, ``manifest.json`` last:

    charades_sta_train.txt  charades_sta_test.txt   <id> <start s> <end s>##<sentence>.
    Charades_v1_train.csv   Charades_v1_test.csv    id, ..., length
    videos/<id>.mp4
    truth.json   what the annotations do not say: exact frames, cuts, actors, kinds of sentences

For testing programs, not evidence about real videos. From a shell (half a minute on 2 cores):

    python -m bsp.datasets.pantomime.grounding --out data/grounding --preview
"""

from __future__ import annotations

import csv
import io
import json
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import click

from bsp.datasets.pantomime.grounding_plan import (
    CODE_VERSION,
    SPLITS,
    GroundingPlan,
    GroundingWorldSettings,
    draw_video,
    plan_video,
)
from bsp.datasets.pantomime.render import VideoSet, render_set

__all__ = ["CODE_VERSION", "GroundingWorldSettings", "plan_all", "render_grounding"]

_COLUMNS = (
    "id", "subject", "scene", "quality", "relevance", "verified", "script", "objects", "descriptions", "actions",
    "length",
)  # fmt: skip


def plan_all(settings: GroundingWorldSettings) -> list[GroundingPlan]:
    """The plans of all videos of the data set."""
    plans = [plan_video(settings, split, number) for split in SPLITS for number in range(getattr(settings, split))]
    assert len({plan.video_id for plan in plans}) == len(plans)
    return plans


def video_path(_settings: GroundingWorldSettings, plan: GroundingPlan) -> str:
    """Path of the plan's video relative to the data set's folder."""
    return f"videos/{plan.video_id}.mp4"


def _annotation_files(settings: GroundingWorldSettings, plans: list[GroundingPlan]) -> dict[str, str]:
    """Contents of the annotation files by relative path."""
    texts = {"truth.json": json.dumps(_truth(settings, plans))}
    for split in SPLITS:
        chosen = [plan for plan in plans if plan.split == split]
        texts[f"charades_sta_{split}.txt"] = "".join(_moment_lines(settings, plan) for plan in chosen)
        texts[f"Charades_v1_{split}.csv"] = _video_table(settings, chosen)
    return texts


def _moment_lines(settings: GroundingWorldSettings, plan: GroundingPlan) -> str:
    lines = []
    for sentence in plan.sentences:
        moment = plan.moments[sentence.moment]
        start_s, end_s = (round(frame / settings.fps, 2) for frame in (moment.first, moment.end))
        lines.append(f"{plan.video_id} {start_s} {end_s}##{sentence.text}\n")
    return "".join(lines)


def _video_table(settings: GroundingWorldSettings, plans: list[GroundingPlan]) -> str:
    """The table of Charades; its column of actions names the class by its number among ``settings.actions``."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(_COLUMNS)
    for plan in plans:
        story = ", then ".join(f"{plan.actors[moment.actor]}: {moment.action}" for moment in plan.moments)
        actions = ";".join(
            f"c{settings.actions.index(m.action):03d} {m.first / settings.fps:.2f} {m.end / settings.fps:.2f}"
            for m in plan.moments
        )
        sentences = ";".join(sentence.text for sentence in plan.sentences)
        length = f"{plan.frames / settings.fps:.2f}"
        rows.writerow((plan.video_id, "PANT", "Stage", 7, 7, "Yes", f"{story}.", "", sentences, actions, length))
    return text.getvalue()


def _truth(settings: GroundingWorldSettings, plans: list[GroundingPlan]) -> dict[str, Any]:
    """What the renderer knows beyond the annotations, in frames; for tests, figures and analysis."""

    def where(plan: GroundingPlan, cut: int) -> str:
        if cut in plan.boundaries:
            return "boundary"
        return "moment" if any(moment.first < cut < moment.end for moment in plan.moments) else "idle"

    videos = {
        plan.video_id: {
            "split": plan.split,
            "frames": plan.frames,
            "actors": plan.actors,
            "clothes": plan.clothes,
            "moments": [asdict(moment) for moment in plan.moments],
            "cuts": [
                {"frame": two.first, "at": where(plan, two.first), "actor_changes": one.actor != two.actor}
                for one, two in pairwise(plan.shots)
            ],
            "shots": [asdict(shot) for shot in plan.shots],
            "sentences": [asdict(sentence) for sentence in plan.sentences],
        }
        for plan in plans
    }
    return {"fps": settings.fps, "videos": videos}


_GROUNDING = VideoSet(
    title="Pantomime grounding",
    about="Pantomime grounding (synthetic; a proving ground, not evidence about real videos)",
    code_version=CODE_VERSION,
    plan_all=plan_all,
    video_path=video_path,
    draw_video=draw_video,
    annotation_files=_annotation_files,
)


def render_grounding(
    settings: GroundingWorldSettings, out_dir: str | Path, *, workers: int | None = None, progress: bool = True
) -> Path:
    """Write the data set to ``out_dir/<fingerprint>/`` and return that folder; at once if it is complete.

    Arguments, resuming, locking and errors as in :func:`bsp.datasets.pantomime.render.render`.
    """
    return render_set(_GROUNDING, settings, out_dir, workers=workers, progress=progress)


_DEFAULT = GroundingWorldSettings()


@click.command(help="Render Pantomime's videos and sentences for grounding.")
@click.option(
    "--out", required=True, type=click.Path(path_type=Path), help="Folder; the data goes to OUT/<fingerprint>."
)
@click.option("--preview", is_flag=True, help="Also write a contact sheet (PNG) to look at.")
@click.option("--workers", type=int, default=None, help="Processes; default all cores.")
@click.option("--seed", default=_DEFAULT.seed, show_default=True)
@click.option("--size-px", default=_DEFAULT.size_px, show_default=True)
@click.option("--fps", default=_DEFAULT.fps, show_default=True)
@click.option("--train", default=_DEFAULT.train, show_default=True)
@click.option("--test", default=_DEFAULT.test, show_default=True)
@click.option("--seconds", default=_DEFAULT.seconds, show_default=True)
def main(out: Path, preview: bool, workers: int | None, **sizes: Any) -> None:
    """Render into ``out`` and print the folder; ``sizes`` are fields of the settings."""
    try:
        folder = render_grounding(GroundingWorldSettings(**sizes), out, workers=workers)
        click.echo(folder)
        if preview:
            from bsp.datasets.pantomime.preview import write_grounding_preview

            click.echo(write_grounding_preview(folder))
    except (ValueError, OSError) as error:
        raise click.ClickException(str(error)) from error


if __name__ == "__main__":
    main()
