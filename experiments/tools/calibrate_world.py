"""Calibrate the embedded world: one trial of a setting, on the random and the vanilla encoder alone.

Renders the data, trains vanilla, extracts, runs the heads, without Ray, in two processes; appends a row to a log.
No row of a boundary-sensitive encoder is ever run here: the setting is chosen before they are.

    python experiments/tools/calibrate_world.py --set levers.restless=1 --set untrimmed.boundary_cut_share=0.8
    python experiments/tools/calibrate_world.py --world 2 --tasks gtad,thumos,hacs,actionness,2dtan,boundary-peaks
"""

from __future__ import annotations

import datetime
import json
import pickle
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

from bsp.clips.frame_cache import FrameCache
from bsp.clips.normalisation import normalise
from bsp.datasets.pantomime.levers import NO_LEVERS, VERSIONS, in_version
from bsp.encoders.build import build_encoder
from bsp.encoders.contract import Encoder
from bsp.features.record import FeatureInfo
from bsp.features.store import VideoSnippets, batches_of
from bsp.pretraining.loop import make_optimiser, train_steps
from bsp.tasks.class_scores import classify_videos
from bsp.tasks.head import Features, HeadInputs, Sentences
from bsp_platform.plan.profiles import PROFILES, Profile
from bsp_platform.plan.recipes import Stream
from bsp_platform.plan.sources import DataPaths, Sources, load_sources
from bsp_platform.plan.tasks import TASKS
from bsp_platform.work.pretraining import build_model
from bsp_platform.work.streaming import ClipStream, make_clips

ROOT = Path(__file__).resolve().parents[2]
KINDS = {"untrimmed": "pantomime", "grounding": "grounding", "stories": "stories"}  # kind of data -> field of profile
HEADLINE = {
    "gtad": "mAP_avg", "thumos": "mAP_avg", "hacs": "mAP_avg", "actionness": "mAP", "2dtan": "R1@0.5", "lgi": "R1@0.5",
    "boundary-peaks": "F1@0.05", "boundary-head": "F1@0.05",
}  # fmt: skip
Found = dict[str, tuple[np.ndarray, FeatureInfo]]  # features [S, D] by video


def profile_of(world: int, changes: Sequence[str], clips: int | None) -> Profile:
    """Profile ``mini`` in a world with some changes, "KIND.FIELD=JSON"; "levers.FIELD" changes all three kinds."""
    profile = PROFILES["mini"]()
    settings = {kind: in_version(getattr(profile, field), kind, world) for kind, field in KINDS.items()}
    for change in changes:
        name, _, text = change.partition("=")
        kind, _, field = name.partition(".")
        value = json.loads(text)
        for one in settings if kind == "levers" else (kind,):
            if kind == "levers":
                levers = replace(settings[one].levers or NO_LEVERS, **{field: value})
                settings[one] = replace(settings[one], levers=levers)
            else:
                settings[one] = replace(settings[one], **{field: tuple(value) if isinstance(value, list) else value})
    profile = replace(profile, **{KINDS[kind]: value for kind, value in settings.items()})
    return replace(profile, train=replace(profile.train, clips=clips)) if clips else profile


def train_vanilla(profile: Profile, sources: Sources) -> tuple[Encoder, dict[str, float]]:
    """The encoder of the vanilla row, seed 0, and the last record of its training."""
    recipe = profile.encoder_recipe(
        Stream(method="action"), trimmed="", num_actions=len(sources.trimmed.class_names), workers=1, seed=0
    )
    pretext, clips, augment, train = recipe.training
    stream = ClipStream(
        catalog=None, clips=clips, augment=augment, seed=0, batch_size=train.batch_size, length=train.clips,
        plan=pretext.plan, synthesise=pretext.synthesise,
    )  # fmt: skip
    model, loss, cache = build_model(recipe), pretext.objective([]), FrameCache(2**30)

    def batches() -> Iterator[dict[str, np.ndarray]]:
        for first in range(0, train.clips, train.batch_size):
            yield make_clips(sources.trimmed, stream, range(first, first + train.batch_size), cache)

    torch.manual_seed(0)
    record: dict[str, float] = {}
    steps = train_steps(
        model, make_optimiser(model, train), batches(), loss=loss, settings=train, device=torch.device("cpu")
    )
    for done, entry in steps:
        if entry:
            record = entry
            if done % 200 == 0:
                click.echo(f"  vanilla {done}/{train.steps}: loss {record['loss']:.3f}", err=True)
    encoder = build_encoder(recipe.encoder.for_snippets(), 0)
    encoder.load_state_dict(model.encoder.state_dict())
    return encoder, record


def extract(encoder: Encoder, videos: Sequence[Any], size_px: int, *, three: bool = False) -> tuple[Found, Found]:
    """Features of videos: means over a snippet's frames, and with ``three`` mean, deviation, mean absolute change."""
    means, threes = {}, {}
    encoder.eval()
    for video in videos:
        snippets = VideoSnippets(
            video.path, video_id=video.video_id, size_px=size_px, snippet_frames=encoder.clip_frames
        )
        parts = []
        with torch.inference_mode():
            for batch in batches_of(snippets, 16):
                clip = normalise(torch.from_numpy(batch), torch.float32, encoder.mean, encoder.std)
                parts.append(encoder(clip).numpy())
        feat_STD = np.concatenate(parts)
        facts = {"mean": encoder.mean, "std": encoder.std, "weights_hash": "", "precision": "float32"}
        mean_SD = feat_STD.mean(1)
        means[video.video_id] = mean_SD, snippets.info(feature_width=mean_SD.shape[1], **facts)
        if three:
            all_SD = np.concatenate([mean_SD, feat_STD.std(1), np.abs(np.diff(feat_STD, axis=1)).mean(1)], axis=1)
            threes[video.video_id] = all_SD, snippets.info(feature_width=all_SD.shape[1], **facts)
    return means, threes


def run_task(
    name: str, found: Found, data: Any, profile: Profile, classes: dict[str, np.ndarray] | None
) -> dict[str, float]:
    """Train and score a head; without ``classes`` (a data set's class scores) all classes count as likely."""
    task = TASKS[name]
    width = next(iter(found.values()))[0].shape[1]
    settings = replace(task.settings(profile), **_width(task.settings(profile), width))
    inputs = HeadInputs(
        features=Features(found.get), data=data, settings=settings, subsets=task.data.subsets,
        class_scores=lambda _names, ids: {video: classes[video] for video in ids} if classes else {},
        sentences=Sentences(width=profile.word_width),
    )  # fmt: skip
    return task.head.score(inputs, task.head.train(inputs)).scores


def _width(settings: Any, width: int) -> dict[str, int]:
    return {"feature_width": width} if hasattr(settings, "feature_width") else {}


def _in_process(function: str, path: Path) -> Any:
    """Call a function of this module with arguments pickled by the trial itself."""
    torch.set_num_threads(1)
    began, cpu = time.time(), time.process_time()
    result = globals()[function](*pickle.loads(path.read_bytes()))
    click.echo(f"  {path.stem}: {time.time() - began:.0f} s, {time.process_time() - cpu:.0f} s of CPU", err=True)
    return result


class Pool:
    """Two processes of one thread each."""

    def __init__(self, folder: Path):
        self.folder, self.count = folder, 0
        self.processes = ProcessPoolExecutor(2, mp_context=get_context("spawn"))

    def submit(self, function: Any, *arguments: Any) -> Any:
        """A future of the function's result."""
        self.count += 1
        path = self.folder / f"{function.__name__}{self.count}.pickle"
        path.write_bytes(pickle.dumps(arguments))
        return self.processes.submit(_in_process, function.__name__, path)


def trial(profile: Profile, tasks: Sequence[str], work: Path, floors: bool) -> dict[str, Any]:
    """Scores by encoder and task, accuracies and seconds of one setting."""
    clock = {"began": time.time()}
    wanted = {TASKS[name].data.name for name in tasks} | {"activitynet"}
    sources = load_sources(profile, wanted, DataPaths(), storage=work)
    clock["render"] = time.time()
    folder = work / "calibration"
    folder.mkdir(parents=True, exist_ok=True)
    pool = Pool(folder)
    size = profile.size_of(profile.encoder)
    videos = {name: [v for v in data.videos if v.path] for name, data in sources.data.items()}
    training = pool.submit(train_vanilla, profile, sources)
    random = build_encoder(profile.encoder.for_snippets(), 0)
    of_random = {name: pool.submit(_extract_three, random, of, size) for name, of in videos.items()}
    vanilla, record = training.result()
    clock["vanilla"] = time.time()
    features: dict[str, dict[str, Found]] = {"random": {}, "random three": {}, "vanilla": {}}
    of_vanilla = {name: pool.submit(extract, vanilla, of, size) for name, of in videos.items()}
    for name in videos:
        features["random"][name], features["random three"][name] = of_random[name].result()
        features["vanilla"][name] = of_vanilla[name].result()[0]
    clock["features"] = time.time()
    classes, accuracy = {}, {}
    for name in videos:
        task = next((t for t in TASKS.values() if t.data.name == name and t.head.needs_class_scores), None)
        if task:
            found = classify_videos(Features(features["vanilla"][name].get), sources.data[name], task.data.subsets)
            classes[name], accuracy[name] = found.scores, found.accuracy
    rows = {
        (row, name): pool.submit(
            run_task, name, features[row][TASKS[name].data.name], sources.data[TASKS[name].data.name], profile,
            classes.get(TASKS[name].data.name),
        )
        for name in tasks
        for row in features
        if floors or row != "random three"
    }  # fmt: skip
    scores = {f"{row} {name}": future.result() for (row, name), future in rows.items()}
    clock["heads"] = time.time()
    names = list(clock)
    seconds = {two: round(clock[two] - clock[one]) for one, two in pairwise(names)}
    train = {name: round(value, 3) for name, value in record.items() if name in ("loss", "accuracy")}
    return {"scores": scores, "class_accuracy": accuracy, "seconds": seconds, "training": train}


def _extract_three(encoder: Encoder, videos: Sequence[Any], size_px: int) -> tuple[Found, Found]:
    return extract(encoder, videos, size_px, three=True)


def log_row(path: Path, what: str, tasks: Sequence[str], found: dict[str, Any]) -> str:
    """Append a row to the log, a Markdown table; returns it."""
    cells = [datetime.datetime.now().strftime("%H:%M"), what]
    for row in ("random", "random three", "vanilla"):
        values = [(name, found["scores"].get(f"{row} {name}")) for name in tasks]
        cells.append("; ".join(f"{name} {headline(name, of):.1f}" for name, of in values if of) or "-")
    cells.append(", ".join(f"{name} {value:.2f}" for name, value in found["class_accuracy"].items()))
    cells.append(" + ".join(str(value) for value in found["seconds"].values()))
    line = "| " + " | ".join(cells) + " |\n"
    with path.open("a", encoding="utf-8") as file:
        file.write(line)
    return line


def headline(task: str, scores: dict[str, float]) -> float:
    """The score of a task that the log shows: the named one, else the first."""
    return scores.get(HEADLINE.get(task, ""), next(iter(scores.values())))


@click.command(context_settings={"show_default": True})
@click.option(
    "--world", type=click.Choice([str(number) for number in VERSIONS]), default="1", help="version to start at"
)
@click.option("--set", "changes", multiple=True, metavar="KIND.FIELD=JSON", help="KIND: levers, " + ", ".join(KINDS))
@click.option("--tasks", default="gtad", help="names of tasks, comma-separated")
@click.option("--clips", type=int, help="of vanilla's training instead of the profile's, for a quick look")
@click.option("--floors/--no-floors", default=True, help="also the random encoder read by three statistics")
@click.option("--note", default="", help="what the trial is for")
@click.option("--work", type=Path, default=ROOT / "storage" / "calibration")
@click.option("--log", type=Path, default=ROOT / "docs" / "calibration.md")
def main(
    world: str, changes: Sequence[str], tasks: str, clips: int | None, floors: bool, note: str, work: Path, log: Path
) -> None:
    """Run one trial and append a row to the log."""
    names = tasks.split(",")
    found = trial(profile_of(int(world), changes, clips), names, work, floors)
    text = [f"world {world}", *changes, *([f"{clips} clips"] if clips else []), *([note] if note else [])]
    click.echo(json.dumps(found, indent=1))
    click.echo(log_row(log, ", ".join(text), names, found))


if __name__ == "__main__":
    from calibrate_world import main as importable_main  # processes must find its functions by name

    importable_main()
