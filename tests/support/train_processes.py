"""Program: train 4 virtual workers for some steps on as many processes as each argument says; print JSON.

    train_processes.py FOLDER 1 4 2:overlapping 2:overlapping-compiled

For every argument: weights as one SHA-256, losses, and clips that were skipped; the weights in FOLDER/1.pt,
2.pt, .... Run by test_workers.py in a process of its own, because it forks.
"""

import hashlib
import json
import multiprocessing
import os
import socket
import sys

import numpy as np
import torch
from torch import distributed

from bsp.clips.plan import BoundaryKind
from bsp.encoders.build import build_encoder
from bsp.encoders.tsm import EncoderSettings
from bsp.pretraining.contract import PretextModel
from bsp.pretraining.loop import TrainSettings, make_optimiser, train_steps
from bsp.pretraining.pretext import PretextSettings
from bsp.pretraining.workers import Workers

VIRTUAL, BATCH, STEPS, BROKEN = 4, 8, 4, 13
KINDS = (BoundaryKind.DIFF_CLASS, BoundaryKind.SAME_SPEED)


def clip(index: int) -> dict:
    rng = np.random.default_rng(index)
    return {
        "clip": rng.integers(0, 256, (8, 32, 32, 3), np.uint8), "label": index % 2, "change_point": np.float32(3),
        "plain": False, "error": "clip 13: a.mp4: broken" if index == BROKEN else "",
    }  # fmt: skip


def train(processes: int, way: str, rank: int, port: int, path: str, queue) -> None:
    torch.set_num_threads(1)
    if processes > 1:
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        distributed.init_process_group("gloo", rank=rank, world_size=processes)
    pretext = PretextSettings(task="classification", kinds=KINDS, dropout=0.3)
    model = PretextModel(build_encoder(EncoderSettings(width=8), 1), pretext, seed=1)
    settings = TrainSettings(
        clips=BATCH * STEPS, batch_size=BATCH, learning_rate=0.05, log_every_steps=2, max_skipped_share=0.5
    )
    each = BATCH // processes
    batches = []
    for step in range(STEPS):
        rows = [clip(step * BATCH + rank * each + k) for k in range(each)]
        batches.append({name: np.stack([row[name] for row in rows]) for name in rows[0]})
    skipped: list[str] = []
    workers = Workers(virtual=VIRTUAL, processes=processes, rank=rank, seed=7, ordered=not way)
    if way.endswith("compiled"):
        model.compile(backend="aot_eager")  # as on a GPU, but without a C++ compiler
    steps = train_steps(
        model, make_optimiser(model, settings), batches, loss=pretext.loss, settings=settings,
        device=torch.device("cpu"), skipped=skipped, workers=workers,
    )  # fmt: skip
    losses = [record["loss"] for _, record in steps if record]
    if rank == 0:
        torch.save(model.state_dict(), path)
        digest = hashlib.sha256(b"".join(value.numpy().tobytes() for value in model.state_dict().values()))
        queue.put({"weights": digest.hexdigest(), "losses": losses, "skipped": skipped})
    if processes > 1:
        distributed.destroy_process_group()


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


if __name__ == "__main__":
    context = multiprocessing.get_context("fork")
    results = []
    folder, *arguments = sys.argv[1:]
    for place, argument in enumerate(arguments, 1):
        queue, port = context.Queue(), free_port()
        number, _, way = argument.partition(":")
        children = [
            context.Process(target=train, args=(int(number), way, rank, port, f"{folder}/{place}.pt", queue))
            for rank in range(int(number))
        ]
        for child in children:
            child.start()
        results.append(queue.get(timeout=120))
        for child in children:
            child.join()
    print(json.dumps(results))
