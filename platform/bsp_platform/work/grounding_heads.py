"""Video grounding heads as Ray work: train 2D-TAN or LGI on frozen features, ground the test sentences, score.

The published codes choose the epoch on the test set, as Charades-STA has no validation set. Here one in ten
training videos is held out for that. Each head is scored by its own published protocol (metrics/grounding.py).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bsp.datasets.charades_sta import GroundingDataset, Moment
from bsp.errors import AnnotationError, TooManyBroken
from bsp.features.record import FeatureInfo, duration_share, snippet_share
from bsp.localization.grounding.lgi import ground_lgi, train_lgi
from bsp.localization.grounding.queries import Query
from bsp.localization.grounding.tan2d import TAN2DSettings, ground_tan2d, train_tan2d
from bsp.localization.grounding.words import Words, WordVectors, build_words
from bsp.metrics.grounding import evaluate_grounding
from bsp_platform.plan.recipes import GroundingRecipe
from bsp_platform.storage.stages import write_json
from bsp_platform.work.heads import HISTORY, SCORES, read_streams, recorder

PREDICTIONS = "predictions.json"
MAX_UNKNOWN_SHARE = 0.05  # of the training sentences: those without a known word are left out and counted
_UNKNOWN = 1  # row of the word table


def train_and_ground(
    folder: Path,
    recipe: GroundingRecipe,
    features: Sequence[Path],
    glove: WordVectors | None,
    data: GroundingDataset,
    expect: dict[str, Any],
    *,
    device: str = "cpu",
    threads: int = 1,
) -> dict[str, Any]:
    """Train the head of ``recipe`` on the ``features`` of all its streams, ground the test sentences, score.

    Writes predictions (the format that ``bsp evaluate grounding`` reads), scores in percent, and the history.
    """
    torch.set_num_threads(threads)
    began = time.time()
    is_tan2d = isinstance(recipe.head, TAN2DSettings)
    rule = "2dtan" if is_tan2d else "lgi"
    sentences = {subset: [m.sentence for m in moments] for subset, moments in data.moments.items()}
    words = build_words(
        sentences["train"], rule=rule, glove=glove, width=recipe.word_width, seed=recipe.seed,
        other_sentences=sentences["test"],
    )  # fmt: skip
    feats: dict[str, np.ndarray] = {}
    infos: dict[str, FeatureInfo] = {}
    for video in data.videos:
        found = read_streams(features, video.video_id, expect)
        if found is not None:
            feats[video.video_id] = np.ones_like(found[0]) if recipe.blind == "video" else found[0]
            infos[video.video_id] = found[1]
    unknown: list[str] = []
    subsets = {
        subset: _Subset(data, moments, feats, infos, words, recipe.blind, unknown if subset == "train" else None)
        for subset, moments in data.moments.items()
    }
    if len(unknown) > MAX_UNKNOWN_SHARE * len(sentences["train"]):
        raise TooManyBroken(
            f"{len(unknown)} of {len(sentences['train'])} training sentences have no known word ({words.source}); "
            f"is it the right language and file? For example: {unknown[:5]}"
        )
    train, held_out = subsets["train"].split(recipe.held_out_every)
    settings = replace(recipe.head, feature_width=train.features[0].shape[1])
    history: list[dict] = []
    train_head, ground = (train_tan2d, ground_tan2d) if is_tan2d else (train_lgi, ground_lgi)
    model = train_head(
        train.features,
        train.queries,
        settings,
        table=words.table,
        trainable_words=words.trainable,
        seed=recipe.seed,
        validation=(held_out.features, held_out.queries) if held_out.queries else None,
        on_epoch=recorder(folder, settings.epochs, history),
        device=device,
    )
    trained_s = time.time() - began
    test = subsets["test"]
    found = ground(model, test.features, test.queries, device=device)
    predictions = []
    for moment, moments_K3 in zip(test.moments, found, strict=True):
        duration_s = test.durations[moment.video_id]
        times = duration_share(test.infos[moment.video_id], moments_K3[:, :2], duration_s) * duration_s
        rows = np.column_stack([times, moments_K3[:, 2]]).tolist()
        predictions.append({"video": moment.video_id, "sentence": moment.sentence, "moments": rows})
    report = evaluate_grounding(_ground_truth(data), predictions, protocol=rule)
    percent = {name: 100 * value for name, value in report.items() if isinstance(value, float)}
    write_json(folder / PREDICTIONS, predictions)
    write_json(folder / HISTORY, history)
    write_json(folder / SCORES, {"scores": percent, "grounding": report})
    return {
        "train_seconds": trained_s,
        "score_seconds": time.time() - began - trained_s,
        "scores": percent,
        "words": words.source,
        "queries": {"train": len(train.queries), "held out": len(held_out.queries), "test": len(test.queries)},
        "training_sentences_without_a_known_word": unknown,
        "dropped": list(data.dropped),
    }


def _ground_truth(data: GroundingDataset) -> list[dict[str, Any]]:
    durations = {video.video_id: video.duration_s for video in data.videos}
    return [
        {
            "video": m.video_id,
            "sentence": m.sentence,
            "start_s": m.start_s,
            "end_s": m.end_s,
            "duration_s": durations[m.video_id],
        }
        for m in data.moments["test"]
    ]


class _Subset:
    """Queries of one subset, and the features that they point into; videos without features are left out."""

    def __init__(
        self,
        data: GroundingDataset,
        moments: Sequence[Moment],
        feats: dict[str, np.ndarray],
        infos: dict[str, FeatureInfo],
        words: Words,
        blind: str,
        unknown: list[str] | None,
    ):
        self.durations = {video.video_id: video.duration_s for video in data.videos}
        self.infos = infos
        kept = [m for m in moments if m.video_id in feats]
        if not kept:
            raise AnnotationError(f"none of the {len(moments)} moments has a video with features; are the ids right?")
        if unknown is not None:  # in training such a sentence teaches nothing; in the test it counts
            strange = [m for m in kept if not words.known(m.sentence)]
            unknown.extend(f"line {m.line + 1}: {m.sentence!r}" for m in strange)
            kept = [m for m in kept if words.known(m.sentence)]
        self.moments = kept
        ids = list(dict.fromkeys(m.video_id for m in kept))
        position = {video_id: place for place, video_id in enumerate(ids)}
        self.features = [feats[video_id] for video_id in ids]
        self.queries = [self._query(m, position[m.video_id], words, blind) for m in kept]

    def _query(self, moment: Moment, video: int, words: Words, blind: str) -> Query:
        tokens = np.array([_UNKNOWN]) if blind == "text" else words.encode(moment.sentence)
        duration = self.durations[moment.video_id]
        start, end = moment.start_s / duration, moment.end_s / duration
        if not 0 <= start < end:  # only in test lines, whose times no head reads
            return Query(video=video, tokens=tokens, start=0.0, end=1.0)
        info = self.infos[moment.video_id]
        start, end = snippet_share(info, np.array([start, end]), duration).tolist()
        if not start < end:  # before a late first frame: the nearest snippet
            start, end = min(start, 1 - 1 / info.snippets), max(end, 1 / info.snippets)
        return Query(video=video, tokens=tokens, start=start, end=end)

    def split(self, held_out_every: int) -> tuple[_Subset, _Subset]:
        """(the rest, every n-th video); with 0 nothing is held out."""
        last = held_out_every - 1
        chosen = {v for v in range(len(self.features)) if held_out_every and v % held_out_every == last}
        return self._part(set(range(len(self.features))) - chosen), self._part(chosen)

    def _part(self, videos: set[int]) -> _Subset:
        part = object.__new__(_Subset)
        part.durations, part.infos = self.durations, self.infos
        order = {video: place for place, video in enumerate(sorted(videos))}
        part.features = [self.features[video] for video in order]
        mine = [(m, q) for m, q in zip(self.moments, self.queries, strict=True) if q.video in order]
        part.moments = [m for m, _ in mine]
        part.queries = [replace(q, video=order[q.video]) for _, q in mine]
        return part
