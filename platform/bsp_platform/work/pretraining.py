"""Ray Train: from the stream of clips to an encoder checkpoint.

``train_worker`` is what each training process runs. A checkpoint holds weights, optimiser, step, random
generator and history; the learning rate and the position in the stream follow from the step. A killed worker
restarts from the last checkpoint; so does the same command after the driver was killed, because the run's
name and folder come from the recipe.
"""

from __future__ import annotations

import io
import logging
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bsp.encoders.build import build_encoder
from bsp.encoders.checkpoints import load_checkpoint
from bsp.encoders.contract import Encoder
from bsp.encoders.start import IMAGE, load_start
from bsp.errors import FileError
from bsp.files.text import parse_json
from bsp.files.weights import parse_weights
from bsp.pretraining.contract import Loss, PretrainingModel
from bsp.pretraining.loop import make_optimiser, prepare_device, restore, train_steps, training_state
from bsp.pretraining.prefetch import empty_for
from bsp.pretraining.workers import Workers
from bsp_platform.plan.recipes import EncoderRecipe
from bsp_platform.plan.resources import Resources
from bsp_platform.storage.errors import named_disk_full
from bsp_platform.storage.files import file_sha256, write_bytes, write_json
from bsp_platform.storage.manifests import RUN
from bsp_platform.storage.run_places import place_for_runs
from bsp_platform.storage.stages import StageStore
from bsp_platform.tracking.record import TIME
from bsp_platform.work.bottleneck import MakerTimes
from bsp_platform.work.cluster.assigned_device import assigned_device
from bsp_platform.work.cluster.start import cluster_size
from bsp_platform.work.cluster.stream_size import streams_at_a_time
from bsp_platform.work.streaming import ClipStream, clip_dataset, iterate_batches

log = logging.getLogger(__name__)
WEIGHTS = "encoder.pt"
HISTORY = "history.json"
_RUN_NAME = "run"
# (network, loss, step, device) -> numbers that enter the record of that step, {} for most steps
HeldOut = Callable[[PretrainingModel, Loss, int, torch.device], dict[str, float]]


@dataclass(frozen=True, kw_only=True)
class TrainJob:
    """What a worker needs: the recipe, the stream, and the share of the machine."""

    recipe: EncoderRecipe
    stream: ClipStream
    resources: Resources
    teachers: tuple[Any, ...] = ()  # weight files of recipe.teachers: paths, as StageStore.pack_paths gives them
    start: Any = None  # weight file of recipe.start_recipe, in the same way
    store: StageStore | None = None  # None: every node sees these files
    probe: Callable[[Encoder, int], dict[str, float]] | None = None  # (encoder, step) -> metrics; see work/probe.py
    held_out: HeldOut | None = None  # clips of videos that are not trained on


def build_model(recipe: EncoderRecipe) -> PretrainingModel:
    """The untrained network of a recipe: encoder and heads."""
    encoder = build_encoder(recipe.encoder, recipe.seed, zero_residual=recipe.zero_residual)
    widths = [teacher.encoder.feature_width for teacher in recipe.teachers]
    return recipe.training.pretext.model(encoder, recipe.seed, widths)


def start_training(job: TrainJob, device: torch.device) -> tuple[PretrainingModel, Loss]:
    """The network as it is before step 0, and the loss; a student's teachers are loaded onto the device.

    Its encoder is random, the recipe's start weights, or a copy of the first teacher.
    """
    recipe = job.recipe
    model = build_model(recipe)
    paths = job.store.download_paths(job.teachers) if job.store else job.teachers
    teachers = [load_encoder(Path(path), of) for path, of in zip(paths, recipe.teachers, strict=True)]
    if teachers:
        # Choice: the student starts as a copy of the action teacher. From random weights it learnt the boundary
        # teacher's features within 800 steps and nothing of the action teacher's (docs/findings.md).
        model.encoder.load_state_dict(teachers[0].state_dict())
    if of_start := recipe.start_recipe:
        path = job.store.download_paths(job.start) if job.store else job.start
        model.encoder.load_state_dict(load_encoder(Path(path), of_start).state_dict())
    teachers = [teacher.to(device) for teacher in teachers]
    return model.to(device), recipe.training.pretext.objective(teachers)


def train_worker(config: dict[str, Any]) -> None:
    """One training process, of as many as there was room for; called by Ray Train with ``{"job": TrainJob}``."""
    import ray.train

    job: TrainJob = config["job"]
    recipe, settings = job.recipe, job.recipe.training.train
    context = ray.train.get_context()
    rank, world_size = context.get_world_rank(), context.get_world_size()
    resources = job.resources
    device = assigned_device(resources.gpus_per_worker)
    prepare_device(device, settings.threads)
    torch.manual_seed(recipe.seed * 1000)  # dropout; weights and clips have generators of their own
    model, loss = start_training(job, device)
    optimiser = make_optimiser(model, settings)
    step = 0
    skipped: list[str] = []
    history: list[dict[str, Any]] = []
    state = newest_complete_state(ray.train.get_checkpoint())
    if state is not None:
        step, skipped = restore(state, model, optimiser)
        history = state["history"]
    if resources.compile_training:
        model.compile()  # in place: the names of the weights stay
    dataset = clip_dataset(
        job.stream,
        start=step * settings.batch_size,
        rank=rank,
        world_size=world_size,
        actors=resources.makers_per_worker,
        cpus_per_actor=resources.cpus_per_maker,
        streams=streams_at_a_time(cluster_size()[0], resources),
    )
    makers = MakerTimes()
    batches = makers.watch(iterate_batches(dataset, settings.batch_size // world_size, empty_for(device)))
    steps = train_steps(
        model,
        optimiser,
        batches,
        loss=loss,
        settings=settings,
        device=device,
        start_step=step,
        skipped=skipped,
        workers=Workers(
            virtual=recipe.workers,
            processes=world_size,
            rank=rank,
            seed=recipe.seed,
            ordered=not resources.gpus_per_worker,
        ),
    )
    for done, record in steps:
        if record:
            record |= makers.take()
            if rank == 0 and job.held_out:
                record |= job.held_out(model, loss, done, device)
            record[TIME] = time.time()
            history.append(record)
        save = done % settings.checkpoint_every_steps == 0 or done == settings.steps
        if not (record or save):
            continue
        metrics = {"encoder": recipe.name, "step": done, "steps": settings.steps, "skipped": len(skipped)}
        metrics["processes"] = world_size
        if record:
            metrics["record"] = record
        if save and rank == 0 and job.probe:
            metrics |= job.probe(model.encoder, done)
        with tempfile.TemporaryDirectory() as folder:
            checkpoint = None
            if save and rank == 0:
                state = training_state(model, optimiser, done, skipped)
                save_state({**state, "history": history, "computed": how_computed(device, resources)}, Path(folder))
                checkpoint = ray.train.Checkpoint.from_directory(folder)
            ray.train.report(metrics, checkpoint=checkpoint)  # every rank must call it: it is a barrier


def how_computed(device: torch.device, resources: Resources) -> str:
    """Device and precision of a training, which are not in the recipe but change the last bits of the result."""
    on_cpu = device.type == "cpu"
    how = "CPU, float32" if on_cpu else f"{torch.cuda.get_device_name(device)}, bfloat16"
    return f"{how}, compiled" if resources.compile_training else how


def save_state(state: dict[str, Any], folder: Path) -> None:
    """``state.pt`` and, after it, ``state.json`` with its size and SHA-256."""
    path = folder / "state.pt"
    content = io.BytesIO()  # PyTorch's own writer hides the error of a full disk
    torch.save(state, content)
    path.write_bytes(content.getbuffer())
    write_json(folder / "state.json", {"bytes": path.stat().st_size, "sha256": file_sha256(path)})


def load_state(folder: Path) -> dict[str, Any]:
    """The state saved in ``folder``. FileError, naming the file, if it is incomplete or damaged."""
    path, facts_path = folder / "state.pt", folder / "state.json"
    try:
        facts = parse_json(facts_path.read_bytes(), facts_path)
        whole = path.stat().st_size == facts["bytes"] and file_sha256(path) == facts["sha256"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FileError(f"{folder} is not a whole checkpoint: {error}") from None
    if not whole:
        raise FileError(f"{path} is truncated or damaged: its SHA-256 is not the one in {facts_path.name}")
    return torch.load(path, map_location="cpu", weights_only=True)


def newest_complete_state(checkpoint) -> dict[str, Any] | None:
    """The state of Ray Train's latest checkpoint or, if that is damaged, of the newest whole one beside it."""
    if checkpoint is None:
        return None
    for candidate in (checkpoint, *older_checkpoints(checkpoint)):
        with candidate.as_directory() as folder:  # on S3 a copy
            try:
                return load_state(Path(folder))
            except ValueError as error:
                print(f"checkpoint not used: {candidate.path}: {error}", flush=True)
    return None


def older_checkpoints(checkpoint) -> list:
    """Ray Train's other checkpoints beside this one, the newest first; their names are the times they were made."""
    from pyarrow.fs import FileSelector, FileType

    storage, path = checkpoint.filesystem, checkpoint.path.rstrip("/")
    beside = storage.get_file_info(FileSelector(path.rpartition("/")[0]))
    names = sorted((f.path for f in beside if f.type == FileType.Directory and f.path != path), reverse=True)
    whole = [name for name in names if storage.get_file_info(f"{name}/state.pt").type == FileType.File]
    return [type(checkpoint)(name, storage) for name in whole]


def train_encoder(
    folder: Path,
    recipe: EncoderRecipe,
    stream: ClipStream | None,
    resources: Resources,
    *,
    teachers: Sequence[Path] = (),
    start: Path | None = None,
    callbacks: list[Any] | None = None,
    probe: Callable[[Encoder, int], dict[str, float]] | None = None,
    held_out: HeldOut | None = None,
    store: StageStore | None = None,
) -> dict[str, Any]:
    """Make the encoder of ``recipe`` in the stage folder; returns facts for the manifest.

    ``teachers`` are the weight files of the recipe's teachers, ``start`` that of its ``start_recipe``. What ``probe``
    gives at a checkpoint is reported; what ``held_out`` gives enters the history. With ``store`` on S3 checkpoints go
    there. They stay beside the result: the store removes them with the manifest. Needs a running Ray unless the recipe
    is a random encoder. Continues a run that was interrupted.
    """
    began = time.time()
    if recipe.weights or (recipe.start and recipe.pretext is None):
        raise ValueError(f"{recipe.name} is a checkpoint as it is: given_encoder makes its stage")
    if recipe.pretext is None:
        save_encoder(build_encoder(recipe.encoder, recipe.seed), recipe, folder)
        write_json(folder / HISTORY, [])
        return {"name": recipe.name, "skipped_clips": []}
    import ray.train

    from bsp_platform.work.elastic import FAILURES, LOST_NODES, ElasticTrainer

    train = recipe.training.train
    if (start is None) != (recipe.start_recipe is None):
        raise ValueError(f"{recipe.name} starts from {recipe.start or 'random weights'}, given was the file {start}")
    if stream is None:
        raise ValueError(f"{recipe.name} is trained: it needs a stream of clips")
    if train.batch_size % recipe.workers:
        raise ValueError(
            f"batch_size {train.batch_size} cannot be shared by {recipe.workers} workers equally; "
            "use --workers that divides it"
        )
    places, start_place = store.pack_paths([list(teachers), start]) if store else (teachers, start)
    job = TrainJob(
        recipe=recipe,
        stream=stream,
        resources=resources,
        teachers=tuple(places),
        start=start_place,
        store=store,
        probe=probe,
        held_out=held_out,
    )
    trainer = ElasticTrainer(
        train_worker,
        train_loop_config={"job": job},
        virtual=recipe.workers,
        resources=resources,
        run_config=ray.train.RunConfig(
            name=_RUN_NAME,
            **(place_for_runs(store, folder / RUN, _RUN_NAME) if store else {"storage_path": str(folder / RUN)}),
            failure_config=ray.train.FailureConfig(
                max_failures=FAILURES,
                max_preemption_failures=LOST_NODES,  # type: ignore[call-arg]  # not in the types of Ray Train
            ),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=2),
            callbacks=callbacks,
        ),
    )
    with named_disk_full(folder):
        result = trainer.fit()
    state = newest_complete_state(result.checkpoint)
    if state is None or state["step"] != train.steps:
        raise RuntimeError(f"training {recipe.name} ended without its last checkpoint; run the same command again")
    model = build_model(recipe)
    model.load_state_dict(state["model"])
    save_encoder(model.encoder, recipe, folder)
    write_json(folder / HISTORY, state["history"])
    last = state["history"][-1]
    speed = {key: last[key] for key in ("clips_per_s", "data_wait_share")}
    damaged = statistics.fmean(record.get("damaged_share", 0.0) for record in state["history"])
    if damaged:
        log.warning("damaged pictures: %.3g%% of the frames of the clips of %s", 100 * damaged, recipe.name)
    return {
        "name": recipe.name,
        "skipped_clips": state["skipped"],
        "damaged_share": damaged,
        "computed": state.get("computed", ""),
        "train_seconds": time.time() - began,
        "last": last,
        **speed,
    }


def given_encoder(folder: Path, recipe: EncoderRecipe, checkpoint: Path | None) -> dict[str, Any]:
    """The stage of an encoder that is a published checkpoint as it is; its loading report is kept beside it.

    ``checkpoint`` is the file of the recipe's ``weights`` or ``start``, or the weights of its ``still``; None with the
    start "image" that a package has. Raises ValueError if the file is not the one of the recipe, or does not fit the
    encoder.
    """
    encoder = build_encoder(recipe.encoder, recipe.seed)
    if recipe.still:
        assert checkpoint is not None
        report, name = load_checkpoint(encoder, checkpoint), recipe.still.name
    elif recipe.start == IMAGE:
        report, name = load_start(encoder, IMAGE), IMAGE
    else:
        assert checkpoint is not None
        if file_sha256(checkpoint) != (recipe.weights or recipe.start):
            raise ValueError(f"{checkpoint} is no longer the file that the run began with; start the command again")
        report, name = load_checkpoint(encoder, checkpoint), checkpoint.name
    save_encoder(encoder, recipe, folder)
    write_json(folder / HISTORY, [])
    (folder / "loading_report.txt").write_text(f"{name}\n{report}\n", "utf-8")
    return {"name": recipe.name, "checkpoint": name, "loading_report": str(report)}


def save_encoder(encoder: Encoder, recipe: EncoderRecipe, folder: Path) -> None:
    """Write the encoder's weights, and no head's, into the stage folder."""
    content = io.BytesIO()  # a write that fails can be tried again
    torch.save({"name": recipe.name, "encoder": encoder.state_dict()}, content)
    write_bytes(folder / WEIGHTS, content.getbuffer())


def load_encoder(path: Path, recipe: EncoderRecipe) -> Encoder:
    """The encoder of a complete stage, in evaluation mode, on the CPU. FileError, naming the file, if it is damaged."""
    encoder = build_encoder(recipe.encoder, recipe.seed)
    content = parse_weights(path.read_bytes(), path)  # also compares the checksums inside the file
    try:
        encoder.load_state_dict(content["encoder"])
    except (TypeError, KeyError, RuntimeError) as error:
        raise FileError(f"{path}: not the weights of this encoder ({str(error)[:300]}); remove its folder") from None
    return encoder.eval()
