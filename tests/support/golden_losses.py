"""Golden losses: the first losses of every pretext of Tables 4 and 5 in a tiny training from a seed, as files.

python tests/support/golden_losses.py   # writes tests/fixtures/golden/*.json anew; the commit says why

Eight videos of drawn pixels, the smoke profile's encoder and clips, five steps of twelve clips, on one thread of a
CPU and without Ray. A file changes when the stream of clips, the synthesis, the augmentation, the start of a network,
a target, a loss or the optimiser does.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from bsp.clips.augment import augment_clip
from bsp.clips.catalog import Catalog
from bsp.clips.normalisation import normalise
from bsp.clips.plan import BoundaryKind
from bsp.clips.synthesis import collate
from bsp.encoders.build import build_encoder
from bsp.pretraining.loop import TrainSettings, make_optimiser, train_steps
from bsp_platform.plan.profiles import smoke
from bsp_platform.plan.recipes import EncoderRecipe, Stream
from bsp_platform.plan.resources import Resources
from bsp_platform.work.pretraining import TrainJob, save_encoder, start_training
from repository import FIXTURES

GOLDEN = FIXTURES / "golden"
DC, SC, DS, SS = BoundaryKind

# The name of a file and the encoder of a table's row that it is about.
STREAMS = {
    "random": Stream(method="random"),
    "action": Stream(method="action"),
    "cls-dc": Stream(method="classification", kinds=(DC, SS)),
    "cls-sc": Stream(method="classification", kinds=(SC, SS)),
    "cls-ds": Stream(method="classification", kinds=(DS, SS)),
    "cls-S": Stream(method="classification", kinds=(DC, SC, DS, SS)),
    "reg-dc": Stream(method="regression", kinds=(DC,)),
    "reg-sc": Stream(method="regression", kinds=(SC,)),
    "reg-ds": Stream(method="regression", kinds=(DS,)),
    "arrow-of-time": Stream(method="arrow-of-time"),
    "speediness": Stream(method="speediness"),
    "pace": Stream(method="pace"),
    "two-head": Stream(method="two-head", kinds=(DC, SC, DS, SS)),
    "distillation": Stream(method="distillation", kinds=(DC, SC, DS, SS)),
}

TRAIN = TrainSettings(clips=60, batch_size=12, learning_rate=0.01, clip_gradient=1.0, log_every_steps=1)
# Parts of a record that are losses: the others are speeds, or jump when the last bit of an output changes.
LOSSES = ("loss", "matching_action", "matching_boundary")


def videos() -> list[np.ndarray]:
    """Eight videos, two of each class: a square on a textured ground; class c moves by c pixels a frame.

    Each uint8 [24 to 38 frames, 36, 48, 3].
    """
    made = []
    for video in range(8):
        generator = np.random.Generator(np.random.Philox(key=video))
        ground = generator.integers(0, 160, (9, 12, 3), np.uint8).repeat(4, axis=0).repeat(4, axis=1)
        frames = np.repeat(ground[None], 24 + 2 * video, axis=0)
        for t, frame in enumerate(frames):
            left = (5 * video + (1 + video // 2) * t) % 38
            frame[8 + video : 18 + video, left : left + 10] = (255, 40 * (video // 2), 200 - 20 * video)
        made.append(frames)
    return made


def catalog_of(clips: list[np.ndarray]) -> Catalog:
    """The catalog of :func:`videos`: four classes of two videos; there are no files."""
    count = len(clips)
    return Catalog(
        root="", paths=np.array([b"%d.mp4" % k for k in range(count)]), labels=np.arange(count, dtype=np.int32) // 2,
        first_frame=np.zeros(count, np.int64), frames=np.array([len(clip) for clip in clips], np.int32),
        fps=np.full(count, 25, np.float32), readers=np.zeros(count, np.uint8),
        class_names=("walks", "trots", "runs", "flies"),
    )  # fmt: skip


def recipe_of(stream: Stream) -> EncoderRecipe:
    """The encoder's recipe in the smoke profile, with a training of few steps."""
    recipe = smoke().encoder_recipe(stream, trimmed="golden", num_actions=4, workers=1, seed=0)
    return recipe if recipe.pretext is None else replace(recipe, train=TRAIN)


def batches(recipe: EncoderRecipe) -> Iterator[dict[str, np.ndarray]]:
    """The stream of clips of a training, planned, synthesised and augmented from pixels in memory."""
    clips = videos()
    catalog = catalog_of(clips)
    for first in range(0, recipe.train.clips, recipe.train.batch_size):
        stream = range(first, first + recipe.train.batch_size)
        plans = [recipe.pretext.plan(catalog, recipe.clips, recipe.seed, index) for index in stream]
        pixels = [
            recipe.pretext.synthesise(plan, [clips[v][f] for v, f in zip(plan.videos, plan.frames)]) for plan in plans
        ]
        pixels = [np.ascontiguousarray(clip) for clip in pixels]  # as the stream does: a pretext may give a view
        shown = [augment_clip(clip, recipe.augment, plan.augment_seed) for plan, clip in zip(plans, pixels)]
        yield collate(plans, shown)


def losses(recipe: EncoderRecipe) -> dict[str, list[float]]:
    """Of every step of a training, by name: the loss and what it is made of."""
    with tempfile.TemporaryDirectory() as folder:
        teachers = []
        for seed, teacher in enumerate(recipe.teachers, 1):  # not trained; what they teach is as good as any
            place = Path(folder, str(seed))
            place.mkdir()
            save_encoder(build_encoder(teacher.encoder, seed), teacher, place)
            teachers.append(place / "encoder.pt")
        job = TrainJob(recipe=recipe, stream=None, resources=Resources(), teachers=tuple(teachers))
        model, loss = start_training(job, torch.device("cpu"))
    steps = train_steps(
        model, make_optimiser(model, recipe.train), batches(recipe), loss=loss, settings=recipe.train,
        device=torch.device("cpu"),
    )  # fmt: skip
    records = [record for _, record in steps]
    return {name: [record[name] for record in records] for name in LOSSES if name in records[0]}


def feature_statistics(recipe: EncoderRecipe) -> dict[str, list[float]]:
    """Of the frozen encoder on the first eight frames of each video: mean and deviation of its features."""
    encoder = build_encoder(recipe.encoder, recipe.seed).eval()
    clip_BTHWC = np.stack([clip[:8] for clip in videos()])
    with torch.no_grad():
        feat_BTD = encoder(normalise(torch.from_numpy(clip_BTHWC), torch.float32))
    return {"feature_mean": feat_BTD.mean((1, 2)).tolist(), "feature_std": feat_BTD.std((1, 2)).tolist()}


def measure(name: str) -> dict[str, list[float]]:
    """What the golden file of this name holds, from the program as it is now."""
    torch.set_num_threads(1)
    recipe = recipe_of(STREAMS[name])
    return feature_statistics(recipe) if recipe.pretext is None else losses(recipe)


def main() -> None:
    """Write all files anew."""
    GOLDEN.mkdir(exist_ok=True)
    for name, stream in STREAMS.items():
        measured = {key: [float(f"{value:.9g}") for value in values] for key, values in measure(name).items()}
        rows = ",\n".join(f"  {json.dumps(key)}: {json.dumps(values)}" for key, values in measured.items())
        (GOLDEN / f"{name}.json").write_text(f'{{\n  "encoder": {json.dumps(str(stream))},\n{rows}\n}}\n')
        print(name, {key: values[-1] for key, values in measured.items()})


if __name__ == "__main__":
    main()
