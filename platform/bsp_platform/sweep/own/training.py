"""Train one encoder on one's own videos, as rows of tables train theirs, and make a model folder of it.

Some videos are kept out of training; the pretext is scored on clips of them while it is trained, and at the end.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import ray
import torch
from ray import tune
from typing_extensions import override

from bsp.clips.catalog import Catalog
from bsp.encoders.start import IMAGE, IMAGE_LICENCE
from bsp.models.folder import write_model
from bsp.models.model import ENCODER, Model
from bsp.models.streams import stream_of
from bsp.pretraining.held_out import Level, at_chance, chance_levels, score_clips
from bsp_platform.plan.options import Options
from bsp_platform.plan.recipes import EncoderRecipe
from bsp_platform.plan.rows import Cell, RowRecipes
from bsp_platform.plan.sources import Sources
from bsp_platform.report.tables import commit
from bsp_platform.storage.manifests import as_plain, recipe_hash
from bsp_platform.storage.stages import StageStore
from bsp_platform.sweep.failures import collect_errors, reason_of_trial
from bsp_platform.sweep.live import LiveView, waiting
from bsp_platform.sweep.row_runner import run_encoders
from bsp_platform.sweep.tuning import run_trials, start_job
from bsp_platform.tracking.names import TRAINING
from bsp_platform.tracking.record import RunRecord, ShownStage, now_ms
from bsp_platform.tracking.tracker import Tracker
from bsp_platform.work.bottleneck import WaitWatch
from bsp_platform.work.cluster.start import object_store
from bsp_platform.work.pretraining import HISTORY, WEIGHTS, load_encoder
from bsp_platform.work.probe import CHUNK, HELD_OUT
from bsp_platform.work.streaming import clip_stream, make_clips

_SCORES = 5  # how often a training is scored
_SEED = 1_000_003  # added to the run's seed for clips that are kept out


@dataclass(frozen=True, kw_only=True)
class OwnTraining:
    """What is trained on what."""

    name: str  # such as "dc+ss"
    recipe: EncoderRecipe
    training: Catalog
    held_out: Catalog | None
    held_out_clips: int
    start_files: dict[str, str] = field(default_factory=dict)  # by SHA-256: path of start weights


@dataclass(frozen=True, kw_only=True)
class HeldOutScores:
    """How well a finished encoder solves its pretext on videos that it has not seen."""

    scores: dict[str, float]
    chance: dict[str, Level]
    training: dict[str, float]  # the same statistics at the end of training, on the clips trained on
    clips: int
    videos: int
    began: str  # what the training began with: "random", "image" or a file's SHA-256

    @property
    def at_chance(self) -> list[str]:
        """Statistics that are no better than without any knowledge."""
        return [name for name, level in self.chance.items() if at_chance(name, self.scores[name], level)]

    def lines(self) -> list[str]:
        """For the user."""
        lines = []
        for name, level in self.chance.items():
            words = name.replace("_", " ")
            lines.append(
                f"{words}: {self.scores[name]:.2f} on {self.clips} clips of {self.videos} videos that were kept out "
                f"(chance {level.value:.2f}), {self.training.get(name, math.nan):.2f} on those trained on"
            )
        if self.at_chance:
            remedy = ", or start from image weights (--start image)" if self.began == "random" else ""
            lines.append(
                "these features have not learnt the pretext: on videos that it has not seen the network is no better "
                f"than chance. Train longer, on more videos{remedy}"
            )
        return lines


class HeldOutClips:
    """Called by rank 0 at a record: scores the pretext on clips in Ray's object store, at some steps only."""

    def __init__(self, batches: Sequence[Any], at_steps: frozenset[int]):
        self.batches, self.at_steps = list(batches), at_steps

    def __call__(self, model: Any, loss: Any, step: int, device: torch.device) -> dict[str, float]:
        """Numbers with the prefix ``HELD_OUT``."""
        if step not in self.at_steps:
            return {}
        scores = score_clips(model, loss, (ray.get(batch) for batch in self.batches), device)
        return {HELD_OUT + name: value for name, value in scores.items()}


def scored_steps(recipe: EncoderRecipe) -> frozenset[int]:
    """Steps after which the pretext is scored: the last one and some before, all with a record."""
    train = recipe.training.train
    every = max(1, train.steps // _SCORES // train.log_every_steps) * train.log_every_steps
    return frozenset(range(every, train.steps, every)) | {train.steps}


def train_own(
    training: OwnTraining, options: Options, store: StageStore, tracker: Tracker, record: RunRecord, log: Any
) -> HeldOutScores | None:
    """Make the encoder's stage unless it is there. RuntimeError, with the reason, if it cannot be made.

    ``log``: a RayLog that has been entered. Returns the scores on the videos that are kept out, None without any.
    """
    recipe, console = training.recipe, log.console
    cell: Cell = (training.name, recipe.seed)
    failures: dict[Cell, str] = {}
    troubles: list[str] = []
    sources = Sources(trimmed=training.training.without_skipped(), trimmed_print=str(recipe.trimmed))
    recipes = {cell: RowRecipes(encoders=(recipe,), heads={})}
    job, _ = start_job(options, store, sources, recipes, console)
    job = replace(job, weights=training.start_files)
    if training.held_out is not None and training.held_out_clips:
        batches = _make_held_out(training, console)
        chance = _levels(batches)
        job = replace(job, held_out={recipe: HeldOutClips(batches, scored_steps(recipe))})
        # Beside the stage, as they are known now and needed when it is complete.
        store.write_note(_note(recipe), json.dumps(chance).encode())
    with LiveView([cell], 1, console) as view:
        waits = WaitWatch(job.resources, lambda: object_store().spilled_mb)
        watch = _Watch(tracker, record, view, waits, failures)
        with collect_errors(troubles, "the training"):
            run_trials(
                run_encoders,
                job,
                tune.TuneConfig(max_concurrent_trials=1, reuse_actors=True),
                watch,
                troubles,
                {"cell": tune.grid_search([list(cell)])},
            )
    if store.find("encoders", recipe) is None:
        raise RuntimeError("; ".join([*failures.values(), *troubles]) or "the training did not finish; run it again")
    return held_out_scores(training, store)


def _make_held_out(training: OwnTraining, console: TextIO) -> list[Any]:
    """References of batches of clips of the videos that are kept out."""
    assert training.held_out is not None
    count, videos = training.held_out_clips, len(training.held_out)
    stream = clip_stream(training.recipe, None, seed=training.recipe.seed + _SEED)
    catalog = ray.put(training.held_out.without_skipped())
    make = ray.remote(num_cpus=1, max_retries=3)(make_clips)
    batches = [make.remote(catalog, stream, range(k, min(k + CHUNK, count))) for k in range(0, count, CHUNK)]
    with waiting(f"making {count} clips of the {videos} videos that are kept out of training", console):
        ray.wait(batches, num_returns=len(batches))
    return batches


def _levels(batches: Sequence[Any]) -> dict[str, Any]:
    found = [ray.get(batch) for batch in batches]
    good = [{k: v[batch["error"] == ""] for k, v in batch.items() if k != "clip"} for batch in found]
    statistics = [
        "accuracy", "change_point_error", "action_accuracy", "boundary_accuracy", "boundary_change_point_error",
    ]  # fmt: skip
    names = [str(error) for batch in found for error in batch["error"] if error]
    return {"levels": chance_levels(statistics, good), "clips": sum(len(b["label"]) for b in good), "skipped": names}


def _note(recipe: EncoderRecipe) -> str:
    return f"held_out/{recipe_hash(recipe)}.json"


def held_out_scores(training: OwnTraining, store: StageStore) -> HeldOutScores | None:
    """Of a finished stage: the last scores in its history; None if nothing was kept out."""
    note, folder = store.read_note(_note(training.recipe)), store.find("encoders", training.recipe)
    if note is None or folder is None or training.held_out is None:
        return None
    history = json.loads((folder / HISTORY).read_text("utf-8"))
    last = history[-1] if history else {}
    found = {name.removeprefix(HELD_OUT): value for name, value in last.items() if name.startswith(HELD_OUT)}
    scores = {name: value for name, value in found.items() if math.isfinite(value)}
    known = json.loads(note)
    chance = {name: Level(*level) for name, level in known["levels"].items() if name in scores}
    files = len(set(training.held_out.paths.tolist()))
    end = history[-max(1, len(history) // 5) :]  # a record alone is over a few clips
    numbers = {n: float(np.mean([record[n] for record in end])) for n in scores if all(n in record for record in end)}
    return HeldOutScores(
        scores=scores,
        chance=chance,
        training={name: value for name, value in numbers.items() if math.isfinite(value)},
        clips=known["clips"],
        videos=files,
        began=training.recipe.start or "random",
    )


class _Watch(tune.Callback):
    """Passes reports of the trial on to the live view and to MLflow."""

    def __init__(
        self, tracker: Tracker, record: RunRecord, view: LiveView, waits: WaitWatch, failures: dict[Cell, str]
    ):
        self.tracker, self.record, self.view, self.waits, self.failures = tracker, record, view, waits, failures

    def __getstate__(self) -> dict[str, Any]:
        return {}  # as all our callbacks

    @override
    def on_trial_result(self, iteration, trials, trial, result, **info):
        cell = tuple(trial.config["cell"])
        self.view.update(cell, result)
        if "record" in result:
            self.tracker.live(self.record, TRAINING, result["record"])
            if warning := self.waits.record((*cell, result["encoder"]), result["record"]):
                self.view.warn(cell, warning)

    @override
    def on_trial_complete(self, iteration, trials, trial, **info):
        self.view.update(tuple(trial.config["cell"]), {"stage": "finished"})

    @override
    def on_trial_error(self, iteration, trials, trial, **info):
        cell = tuple(trial.config["cell"])
        self.failures[cell] = reason_of_trial(trial)
        self.view.update(cell, {"stage": "FAILED"})


def finished_record(record: RunRecord, training: OwnTraining, store: StageStore, scores: HeldOutScores | None) -> Any:
    """The run of a finished encoder: its curves, and the scores on videos that are kept out."""
    found = store.need("encoders", training.recipe)
    record = replace(record, stages=(ShownStage(name=f"encoders/{found.name}", prefix=TRAINING),))
    numbers = {f"scores/{HELD_OUT}{name}": value for name, value in (scores.scores if scores else {}).items()}
    return record.with_state("FINISHED", now_ms()).with_numbers(numbers)


def write_own_model(
    out: Path, training: OwnTraining, store: StageStore, about: dict[str, Any], scores: HeldOutScores | None
) -> None:
    """The model folder of a finished encoder. FileExistsError if ``out`` is not free."""
    recipe = training.recipe
    weights = store.read_checked(store.need("encoders", recipe), WEIGHTS)
    encoder = load_encoder(weights, EncoderRecipe(encoder=recipe.encoder.for_snippets()))
    provenance = {
        **about,
        "recipe": as_plain(recipe),
        "recipe_hash": recipe_hash(recipe),
        "data": {"videos": len(training.training), "fingerprint": recipe.trimmed},
        "start": recipe.start or "random",
        "licence": licence(recipe),
        "versions": {"bsp": version("bsp-platform"), "commit": commit(), "torch": torch.__version__},
    }
    if scores is not None:
        provenance["held_out"] = asdict(scores) | {"chance": {n: lv.value for n, lv in scores.chance.items()}}
        if scores.at_chance:
            provenance["note"] = "the pretext was at chance on videos that were kept out of training"
    size = recipe.training.augment.size_px
    own = stream_of(encoder, size_px=size, precision="float32", name=recipe.name, provenance=provenance)
    write_model(out, Model(kind=ENCODER, streams=(own,), provenance=provenance))


def licence(recipe: EncoderRecipe) -> str:
    """Under which terms the weights may be used, as far as the program knows."""
    begun = {"": "", IMAGE: f", and from weights under {IMAGE_LICENCE}"}.get(
        recipe.start, f", and from the weights {recipe.start[:12]}, whose terms hold"
    )
    return f"not stated: made from your videos, whose terms hold{begun}"
