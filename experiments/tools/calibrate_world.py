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
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from bsp.clips.frame_cache import FrameCache
from bsp.clips.normalisation import normalise
from bsp.datasets.activitynet import LocalizationDataset
from bsp.datasets.pantomime.levers import NO_LEVERS, VERSIONS, in_version
from bsp.encoders.build import build_encoder
from bsp.encoders.contract import Encoder
from bsp.features.record import FeatureInfo
from bsp.features.store import VideoSnippets, batches_of
from bsp.pretraining.loop import make_optimiser, train_steps
from bsp.tasks.class_scores import classify_videos
from bsp.tasks.head import ClassScores, Features, HeadInputs, Sentences, no_class_scores
from bsp_platform.plan.profiles import PROFILES, Profile
from bsp_platform.plan.recipes import Stream
from bsp_platform.plan.sources import DataPaths, Sources, load_sources
from bsp_platform.plan.tasks import TASKS
from bsp_platform.work.pretraining import build_model
from bsp_platform.work.streaming import clip_stream, make_clips

ROOT = Path(__file__).resolve().parents[2]
KINDS = {"untrimmed": "pantomime", "grounding": "grounding", "stories": "stories"}  # kind of data -> field of profile
HEADLINE = {
    "gtad": "mAP_avg", "thumos": "mAP_avg", "hacs": "mAP_avg", "actionness": "AP", "2dtan": "R1@0.5", "lgi": "R1@0.5",
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
    pretext, _, _, train = recipe.training
    stream = clip_stream(recipe, None)
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
        mean_SD = feat_STD.mean(1)
        info = snippets.info(
            mean=encoder.mean, std=encoder.std, feature_width=mean_SD.shape[1], weights_hash="", precision="float32"
        )
        means[video.video_id] = mean_SD, info
        if three:
            all_SD = np.concatenate([mean_SD, feat_STD.std(1), np.abs(np.diff(feat_STD, axis=1)).mean(1)], axis=1)
            threes[video.video_id] = all_SD, replace(info, feature_width=all_SD.shape[1])
    return means, threes


def acting_precision(found: Found, data: LocalizationDataset) -> float:
    """Average precision in percent of "somebody acts" by snippet, of a linear probe on features of validation videos.

    Trained on the training videos; what a representation tells without the help of a head.
    """
    parts: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {"training": [], "validation": []}
    for video in data.videos:
        if video.video_id in found and video.subset in parts:
            feat_SD, info = found[video.video_id]
            at_S = (np.arange(len(feat_SD)) + 0.5) * info.stride_frames / info.fps
            acts_S = np.any([(i.start_s <= at_S) & (at_S < i.end_s) for i in video.instances], axis=0)
            parts[video.subset].append((feat_SD, acts_S))
    (train, train_acts), (test, test_acts) = (
        [np.concatenate(arrays) for arrays in zip(*part, strict=True)] for part in parts.values()
    )
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=300)).fit(train, train_acts)
    return 100 * float(average_precision_score(test_acts, probe.decision_function(test)))


def _inputs(name: str, found: Found, data: Any, profile: Profile, classes: ClassScores) -> HeadInputs[Any, Any]:
    task = TASKS[name]
    settings = task.settings(profile)
    if hasattr(settings, "feature_width"):
        settings = replace(settings, feature_width=next(iter(found.values()))[0].shape[1])
    return HeadInputs(
        features=Features(found.get), data=data, settings=settings, subsets=task.data.subsets, class_scores=classes,
        sentences=Sentences(width=profile.word_width),
    )  # fmt: skip


def run_task(name: str, found: Found, data: Any, profile: Profile, classes: dict[str, np.ndarray]) -> dict[str, float]:
    """Train and score a head; ``classes`` are the class scores of its data set, if it needs them."""
    inputs = _inputs(name, found, data, profile, lambda _names, ids: {video: classes[video] for video in ids})
    return TASKS[name].head.score(inputs, TASKS[name].head.train(inputs)).scores


def train_before_classes(name: str, found: Found, data: Any, profile: Profile) -> Any:
    """A G-TAD head, trained while there are no class scores yet, which only its scoring reads."""
    inputs = _inputs(name, found, data, profile, lambda names, ids: dict.fromkeys(ids, np.ones(len(names))))
    return TASKS[name].head.train(inputs)


def score_task(
    name: str, found: Found, data: Any, profile: Profile, trained: Any, classes: dict[str, np.ndarray]
) -> dict[str, float]:
    """Score what :func:`train_before_classes` gave."""
    inputs = _inputs(name, found, data, profile, no_class_scores)
    return TASKS[name].head.score(inputs, replace(trained, class_scores=classes)).scores


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
    features: dict[str, dict[str, Found]] = {"random": {}, "random three": {}, "vanilla": {}}
    for name in videos:
        features["random"][name], features["random three"][name] = of_random[name].result()
    untrained = {"random", "random three"} if floors else {"random"}
    early = {
        (row, name): pool.submit(
            train_before_classes, name, features[row][TASKS[name].data.name], sources.data[TASKS[name].data.name],
            profile,
        )
        for row in sorted(untrained)
        for name in tasks
        if name in ("gtad", "hacs")
    }  # fmt: skip
    vanilla, record = training.result()
    clock["vanilla"] = time.time()
    parts = {name: [pool.submit(extract, vanilla, of[k::2], size) for k in (0, 1)] for name, of in videos.items()}
    for name, halves in parts.items():
        features["vanilla"][name] = {key: value for half in halves for key, value in half.result()[0].items()}
    clock["features"] = time.time()
    classes: dict[str, dict[str, np.ndarray]] = {}
    accuracy = {}
    for name in videos:
        task = next((t for t in TASKS.values() if t.data.name == name and t.head.needs_class_scores), None)
        if task:
            data = sources.untrimmed(name)
            found = classify_videos(Features(features["vanilla"][name].get), data, task.data.subsets)
            classes[name], accuracy[name] = found.scores, found.accuracy
    rows = {}
    for name in tasks:
        of = TASKS[name].data.name
        for row in ("vanilla", *sorted(untrained)):
            common = (name, features[row][of], sources.data[of], profile)
            if (row, name) in early:
                rows[row, name] = pool.submit(score_task, *common, early[row, name].result(), classes[of])
            else:
                rows[row, name] = pool.submit(run_task, *common, classes.get(of, {}))
    scores = {f"{row} {name}": future.result() for (row, name), future in rows.items()}
    probes = {
        row: acting_precision(of["activitynet"], sources.untrimmed("activitynet")) for row, of in features.items()
    }
    clock["heads"] = time.time()
    names = list(clock)
    seconds = {two: round(clock[two] - clock[one]) for one, two in pairwise(names)}
    train = {name: round(value, 3) for name, value in record.items() if name in ("loss", "accuracy")}
    return {"scores": scores, "probes": probes, "class_accuracy": accuracy, "seconds": seconds, "training": train}


def _extract_three(encoder: Encoder, videos: Sequence[Any], size_px: int) -> tuple[Found, Found]:
    return extract(encoder, videos, size_px, three=True)


def log_row(path: Path, what: str, tasks: Sequence[str], found: dict[str, Any]) -> str:
    """Append a row to the log, a Markdown table; returns it."""
    cells = [datetime.datetime.now().strftime("%H:%M"), what]
    for row in ("random", "random three", "vanilla"):
        values = [(name, found["scores"].get(f"{row} {name}")) for name in tasks]
        texts = [f"{name} {headline(name, of):.1f}{_recall(of)}" for name, of in values if of]
        cells.append("; ".join([*texts, f"probe {found['probes'][row]:.1f}"]))
    cells.append(", ".join(f"{name} {value:.2f}" for name, value in found["class_accuracy"].items()))
    cells.append(" + ".join(str(value) for value in found["seconds"].values()))
    line = "| " + " | ".join(cells) + " |\n"
    with path.open("a", encoding="utf-8") as file:
        file.write(line)
    return line


def _recall(scores: dict[str, float]) -> str:
    """Of proposals without classes, which class scores do not limit."""
    return f" (AR_AUC {scores['AR_AUC']:.1f})" if "AR_AUC" in scores else ""


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
