"""What the tests of faults in training share: the recipe, the run without any fault, and the moment to strike."""

import hashlib
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from bsp.clips.augment import AugmentSettings
from bsp.clips.frame_cache import FrameCache
from bsp.clips.plan import BoundaryKind, ClipSettings
from bsp.clips.synthesis import decode
from bsp.encoders.tsm import EncoderSettings
from bsp.pretraining.loop import TrainSettings, make_optimiser, train_steps
from bsp.pretraining.pretext import PretextSettings
from bsp.pretraining.workers import Workers
from bsp_platform.plan.recipes import EncoderRecipe
from bsp_platform.plan.resources import Resources
from bsp_platform.work.pretraining import TrainJob, start_training
from bsp_platform.work.streaming import ClipStream, make_clips
from ray_processes import MARK, listening, ray_processes

STRIKE_AT = 30  # steps; checkpoints are made every 20
KINDS = (BoundaryKind.DIFF_CLASS, BoundaryKind.SAME_SPEED)
RECIPE = EncoderRecipe(
    encoder=EncoderSettings(width=8),
    pretext=PretextSettings(task="classification", kinds=KINDS),
    clips=ClipSettings(kinds=KINDS),
    augment=AugmentSettings(size_px=32),
    train=TrainSettings(
        clips=800, batch_size=8, learning_rate=0.02, log_every_steps=10, checkpoint_every_steps=20
    ),
    trimmed="test",
    workers=4,  # virtual
    seed=3,
)  # fmt: skip


def stream_of(recipe: EncoderRecipe, catalog_ref) -> ClipStream:
    return ClipStream(
        catalog=catalog_ref, clips=recipe.clips, augment=recipe.augment, seed=recipe.seed,
        batch_size=recipe.train.batch_size, length=recipe.train.clips, frame_cache_mb=64,
    )  # fmt: skip


def undisturbed(catalog) -> dict:
    """The run of RECIPE in this process: no Ray, the stream cut into steps by a plain loop."""
    torch.set_num_threads(1)
    settings, stream, cache = RECIPE.train, stream_of(RECIPE, None), FrameCache(64 * 2**20)
    model, loss = start_training(TrainJob(recipe=RECIPE, stream=stream, resources=Resources()), torch.device("cpu"))
    size = settings.batch_size
    batches = (make_clips(catalog, stream, range(k, k + size), cache) for k in range(0, settings.clips, size))
    steps = train_steps(
        model, make_optimiser(model, settings), batches, loss=loss, settings=settings, device=torch.device("cpu"),
        workers=Workers(virtual=RECIPE.workers, seed=RECIPE.seed),
    )  # fmt: skip
    losses = [record["loss"] for _, record in steps if record]
    return {"weights": digest(model.encoder.state_dict()), "losses": losses}


def digest(weights: dict[str, torch.Tensor]) -> str:
    parts = (name.encode() + np.ascontiguousarray(value.numpy()).tobytes() for name, value in sorted(weights.items()))
    return hashlib.sha256(b"".join(parts)).hexdigest()


def result_of(folder: Path) -> dict:
    """What ``undisturbed`` returns, of a finished stage."""
    history = json.loads((folder / "history.json").read_text())
    weights = torch.load(folder / "encoder.pt", weights_only=True)["encoder"]
    return {"weights": digest(weights), "losses": [record["loss"] for record in history]}


class Reports:
    """A file with [step, number of processes] of each report of a training run, and when the fault came."""

    def __init__(self, path: Path):
        self.path, self.mark = path, path.with_suffix(".struck")

    def __call__(self, strike: Callable[[], object] | None = None):
        """The callback of Ray Train that writes it. It calls ``strike`` once, in the controller's process, at the
        first report from step STRIKE_AT on: a checkpoint is saved then, and most of the run is still to come."""
        from ray import cloudpickle
        from ray.train import UserCallback

        for name in (__name__, "ray_processes"):  # sent whole: the controller cannot import tests
            cloudpickle.register_pickle_by_value(sys.modules[name])
        path, mark = self.path, self.mark

        class WriteReports(UserCallback):
            def after_report(self, run_context, metrics, checkpoint):
                step = metrics[0]["step"]
                with open(path, "a") as file:
                    file.write(json.dumps([step, metrics[0]["processes"]]) + "\n")
                if strike and step >= STRIKE_AT and not mark.exists():
                    mark.write_text(str(len(path.read_text().splitlines())))
                    strike()

        return WriteReports()

    def lines(self) -> list[list[int]]:
        return [json.loads(line) for line in self.path.read_text().splitlines()]

    def around(self) -> tuple[list[list[int]], list[list[int]]]:
        """Reports up to the fault, and after it. FileNotFoundError if it never came."""
        number = int(self.mark.read_text())
        return self.lines()[:number], self.lines()[number:]


def decode_slowly(catalog, plan, **limits) -> list[np.ndarray]:
    """At most 100 clips/s, so that a clip maker still works when the fault comes."""
    time.sleep(0.01)
    return decode(catalog, plan, **limits)


def decode_at_pace(catalog, plan, *, pace: Path, **limits) -> list[np.ndarray]:
    """With a pause before each clip, of so many seconds as the file ``pace`` says; without the file none."""
    time.sleep(float(pace.read_text() or 0) if pace.exists() else 0)
    return decode(catalog, plan, **limits)


def kill_one(title: str) -> None:
    """SIGKILL a process of this test session's Ray with ``title`` in its own; RuntimeError if there is none."""
    found = ray_processes(os.environ[MARK], title)
    if not found:
        raise RuntimeError(f"no process with {title} in its title; the test proves nothing")
    os.kill(found[0], signal.SIGKILL)


def note_sockets(path: Path) -> None:
    """Write as JSON what the processes of this test session's Ray listen on."""
    path.write_text(json.dumps(listening(os.environ[MARK])))


def fill(disk: Path) -> None:
    """Leave 100 kB, a tenth of a checkpoint."""
    (disk / "filler").write_bytes(bytes(shutil.disk_usage(disk).free - 100_000))
