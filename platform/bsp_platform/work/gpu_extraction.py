"""Extraction on GPUs: all cores decode, an actor on each GPU encodes full batches that mix videos.

An actor keeps some decoding tasks running (Ray's streaming generators, on any node). Each yields the cropped snippets
of one video, uint8, in blocks of 16 MiB, and pauses while two of its blocks are not taken: memory is bounded by the
number of tasks, not by the length of a video. Blocks are read in the object store and copied once, into the batch. A
video is written when its last snippet is encoded, by threads, as flushing to disk is slow. A video stays with one
actor; the loss of an actor costs the features that it had not written.

Ray Data is not used here: it would copy blocks twice more (into Arrow tables, and into a batch), and its limits count
bytes, not videos.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Hashable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np

from bsp.encoders.contract import Architecture
from bsp.errors import VideoError
from bsp.features.reading import PAPER, Reading
from bsp.features.record import FeatureInfo
from bsp.features.snippet_encoder import SnippetEncoder
from bsp.features.store import VideoSnippets, batches_of
from bsp_platform.plan.resources import Resources
from bsp_platform.work.extractor import ExtractionJob, Extractor

log = logging.getLogger(__name__)
BLOCK_BYTES = 16 * 2**20  # of pixels: large beside the cost of an object, small beside the object store
BLOCKS_AHEAD = 2  # of a decoding task that the encoder has not taken
_TRIES = 3  # of a decoding task whose process died
_LOST_ACTORS = 20  # that an extraction survives; spot machines are lost often
_WRITERS = 4


def decode_video(
    video_id: str, path: str, size_px: int, architecture: Architecture, reading: Reading = PAPER
) -> Iterator[dict[str, Any]]:
    """Blocks of the snippets of one video: "first" number and "pixels" uint8 [N, T, H, W, 3], as encoders take them;
    the last also has "record", the video's FeatureInfo without the fields of the encoder. An unreadable video ends
    with a block of "error" only."""
    length = architecture.clip_frames
    block = max(1, BLOCK_BYTES // (length * size_px**2 * 3))
    held: dict[str, Any] | None = None  # a block is yielded when the next one, or the record, is made
    try:
        snippets = VideoSnippets(path, video_id=video_id, size_px=size_px, snippet_frames=length, reading=reading)
        first = 0
        for pixels in batches_of(snippets, block):
            if held is not None:
                yield held
            held = {"first": first, "pixels": pixels}
            first += len(pixels)
        pixels_as = {"mean": architecture.mean, "std": architecture.std}
        record = snippets.info(**pixels_as, feature_width=0, weights_hash="", precision="float32")
    except VideoError as error:
        yield {"error": str(error)}
    else:
        assert held is not None  # no video has no snippet
        yield held | {"record": record}


class _Video:
    """Features and record of a video that is not finished."""

    def __init__(self) -> None:
        self.features: dict[int, np.ndarray] = {}  # by number
        self.record: FeatureInfo | None = None

    def is_complete(self) -> bool:
        return self.record is not None and len(self.features) == self.record.snippets


class GpuExtractor:
    """The actor: a frozen encoder on a GPU, its decoding tasks, and the threads that write."""

    def __init__(self, job: ExtractionJob, resources: Resources):
        self.base, self.resources = Extractor(job), resources

    def extract(self, videos: list[tuple[str, str]]) -> Iterator[dict[str, Any]]:
        """Features of (id, path) videos, written; a row for each as it is finished, in any order."""
        job = self.base.job
        encoder = SnippetEncoder(self.base.encoder, self.base.device, job.recipe.precision, reading=job.recipe.reading)
        unfinished: dict[Hashable, _Video] = {}
        writing: deque[Future] = deque()
        with ThreadPoolExecutor(_WRITERS) as pool:
            for video_id, block in self._blocks(videos):
                if "error" in block:
                    unfinished.pop(video_id, None)  # its snippets in a batch are dropped by _collect
                    yield {"video_id": video_id, "snippets": 0, "error": block["error"]}
                    continue
                video = unfinished.setdefault(video_id, _Video())
                video.record = block.get("record")
                finished = encoder.add(video_id, block["first"], block["pixels"])
                writing += [pool.submit(self._write, *ready) for ready in _collect(finished, unfinished)]
                while writing and (writing[0].done() or len(writing) > 4 * _WRITERS):
                    yield writing.popleft().result()
            writing += [pool.submit(self._write, *ready) for ready in _collect(encoder.flush(), unfinished)]
            for one in writing:
                yield one.result()

    def _blocks(self, videos: list[tuple[str, str]]) -> Iterator[tuple[str, dict[str, Any]]]:
        """(video id, block) of all videos as the decoding tasks make them."""
        import ray
        from ray.exceptions import RayError, RayTaskError

        size_px, reading = self.base.job.recipe.size_px, self.base.job.recipe.reading
        architecture = self.base.encoder.settings
        task = ray.remote(decode_video).options(
            num_cpus=self.resources.cpus_per_decoder,
            num_returns="streaming",
            _generator_backpressure_num_objects=BLOCKS_AHEAD,
            max_retries=_TRIES - 1,
            scheduling_strategy="SPREAD",
        )
        waiting = deque(videos)
        running: dict[Any, str] = {}  # stream of blocks -> its video
        while waiting or running:
            while waiting and len(running) < self.resources.decoders_per_extractor:
                video_id, path = waiting.popleft()
                running[task.remote(video_id, path, size_px, architecture, reading)] = video_id
            ready: list[Any] = ray.wait(list(running), num_returns=1)[0]
            for blocks in ready:
                video_id = running.pop(blocks)
                try:
                    block: dict[str, Any] = ray.get(next(blocks))
                except StopIteration:
                    continue
                except RayTaskError:
                    raise  # an error of the program
                except RayError as error:
                    # A file that crashes its decoding process counts as one broken video.
                    block = {"error": f"the process that decoded it died {_TRIES} times: {error}"}
                else:
                    running[blocks] = video_id  # the last in the order of ray.wait: tasks take turns
                yield video_id, block

    def _write(self, video_id: str, feat_SD: np.ndarray, record: FeatureInfo) -> dict[str, Any]:
        precision = self.base.job.recipe.precision
        info = replace(record, feature_width=feat_SD.shape[1], encoder_hash=self.base.hash, precision=precision)
        self.base.write(video_id, feat_SD, info)
        return {"video_id": video_id, "snippets": len(feat_SD), "error": ""}


def _collect(
    finished: list[tuple[Hashable, int, np.ndarray]], unfinished: dict[Hashable, _Video]
) -> Iterator[tuple[str, np.ndarray, FeatureInfo]]:
    """Add features to their videos; yields the videos that are complete now, and removes them from ``unfinished``."""
    for video_id, number, feat_D in finished:
        if video_id in unfinished:
            unfinished[video_id].features[number] = feat_D
    for video_id in dict.fromkeys(name for name, _, _ in finished):
        video = unfinished.get(video_id)
        if video and video.record and video.is_complete():
            del unfinished[video_id]
            yield str(video_id), np.stack([video.features[k] for k in range(video.record.snippets)]), video.record


def extract_on_gpus(job: ExtractionJob, videos: list, resources: Resources) -> Iterator[dict[str, Any]]:
    """One row per finished video, as from the pool on CPUs. Needs a running Ray with GPUs.

    An actor that is lost with its node is replaced; the new one makes the features that are not written.
    """
    import ray
    from ray.exceptions import RayActorError

    actor = ray.remote(GpuExtractor).options(
        num_cpus=resources.cpus_per_extractor, num_gpus=resources.gpus_per_extractor, scheduling_strategy="SPREAD"
    )
    todo = [(video.video_id, video.path) for video in videos]
    number = min(resources.extractors, len(todo))
    running: dict[Any, tuple[Any, dict[str, str]]] = {}  # stream of rows -> its actor, its unfinished videos

    def start(share: dict[str, str]) -> None:
        extractor: Any = actor.remote(job, resources)
        stream = extractor.extract.options(num_returns="streaming").remote(list(share.items()))
        running[stream] = (extractor, share)

    for k in range(number):
        start(dict(todo[k::number]))
    lost = 0
    try:
        while running:
            ready: list[Any] = ray.wait(list(running), num_returns=1)[0]
            for stream in ready:
                extractor, share = running[stream]
                try:
                    row: dict[str, Any] = ray.get(next(stream))
                except StopIteration:
                    ray.kill(extractor)  # frees its GPU for the next stage
                    del running[stream]
                except RayActorError as error:
                    del running[stream]
                    lost += 1
                    if lost > _LOST_ACTORS:
                        raise
                    log.warning("an extraction process was lost (%s); %d videos go to a new one", error, len(share))
                    if share:
                        start(share)
                else:
                    del share[row["video_id"]]
                    yield row
    finally:
        for extractor, _ in running.values():
            ray.kill(extractor)
