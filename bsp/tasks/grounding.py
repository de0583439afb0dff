"""Video grounding (Charades-STA): 2D-TAN or LGI finds the moment of a sentence; each is scored by its own protocol.

The published codes choose the epoch on the test set, as Charades-STA has no validation set. Here one in ten training
videos is held out for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from bsp.datasets.charades_sta import GroundingDataset, Moment
from bsp.errors import AnnotationError, TooManyBroken
from bsp.features.record import FeatureInfo, duration_share, snippet_share
from bsp.localization.grounding.lgi import ground_lgi, train_lgi
from bsp.localization.grounding.lgi_network import LGI, LGISettings
from bsp.localization.grounding.queries import Query
from bsp.localization.grounding.tan2d import TAN2D, TAN2DSettings, ground_tan2d, train_tan2d
from bsp.localization.grounding.words import Words, build_words
from bsp.metrics.grounding import evaluate_grounding
from bsp.statistics.grounding import grounding_per_video
from bsp.statistics.per_video import PerVideo
from bsp.tasks.head import Blind, HeadInputs, Scored

PREDICTIONS = "predictions.json"
MAX_UNKNOWN_SHARE = 0.05  # of the training sentences: those without a known word are left out and counted
_UNKNOWN = 1  # row of the word table

GroundingInputs = HeadInputs[GroundingDataset, TAN2DSettings | LGISettings]


@dataclass(frozen=True)
class Queries:
    """Moments of one subset as queries, and the features of their videos."""

    moments: list[Moment]
    queries: list[Query]  # one per moment
    features: list[np.ndarray]  # float32 [S, D] of the videos that occur


@dataclass(frozen=True)
class Grounder:
    """A trained network, the test sentences, and facts about training."""

    network: TAN2D | LGI
    test: Queries
    infos: dict[str, FeatureInfo]  # by video
    facts: dict[str, Any]
    words: Words


def train_grounder(inputs: GroundingInputs) -> Grounder:
    """Train the head whose settings are given.

    Training sentences without a known word are left out and named; TooManyBroken if they are many. AnnotationError if
    no moment of a subset has a video with features.
    """
    data, sentences, settings = inputs.data, inputs.sentences, inputs.settings
    texts = {subset: [m.sentence for m in moments] for subset, moments in data.moments.items()}
    words = build_words(
        texts["train"], rule=_protocol(settings), glove=sentences.vectors, width=sentences.width, seed=inputs.seed,
        other_sentences=texts["test"],
    )  # fmt: skip
    found = {video.video_id: inputs.features.read(video.video_id) for video in data.videos}
    feats = {video: read[0] for video, read in found.items() if read is not None}
    infos = {video: read[1] for video, read in found.items() if read is not None}
    if sentences.blind == "video":
        feats = {video: np.ones_like(feat_SD) for video, feat_SD in feats.items()}

    moments = {subset: _with_features(of_subset, feats) for subset, of_subset in data.moments.items()}
    # In training a sentence without a known word teaches nothing; in the test it counts.
    strange = [m for m in moments["train"] if not words.known(m.sentence)]
    unknown = [f"line {m.line + 1}: {m.sentence!r}" for m in strange]
    if len(unknown) > MAX_UNKNOWN_SHARE * len(texts["train"]):
        raise TooManyBroken(
            f"{len(unknown)} of {len(texts['train'])} training sentences have no known word ({words.source}); "
            f"is it the right language and file? For example: {unknown[:5]}"
        )
    moments["train"] = [m for m in moments["train"] if words.known(m.sentence)]
    durations = _durations(data)

    def queries(of_subset: list[Moment]) -> Queries:
        ids = list(dict.fromkeys(m.video_id for m in of_subset))
        place = {video: k for k, video in enumerate(ids)}
        made = [
            _query(m, place[m.video_id], durations[m.video_id], infos[m.video_id], words, sentences.blind)
            for m in of_subset
        ]
        return Queries(of_subset, made, [feats[video] for video in ids])

    train, held_out = split_videos(queries(moments["train"]), sentences.held_out_every)
    test = queries(moments["test"])
    settings = replace(settings, feature_width=train.features[0].shape[1])
    how: dict[str, Any] = {
        "table": words.table,
        "trainable_words": words.trainable or sentences.train_vectors,
        "seed": inputs.seed,
        "validation": (held_out.features, held_out.queries) if held_out.queries else None,
        "on_epoch": inputs.on_epoch,
        "device": inputs.device,
    }
    network: TAN2D | LGI
    if isinstance(settings, TAN2DSettings):
        network = train_tan2d(train.features, train.queries, settings, **how)
    else:
        network = train_lgi(train.features, train.queries, settings, **how)
    counts = {"train": len(train.queries), "held out": len(held_out.queries), "test": len(test.queries)}
    facts = {"words": words.source, "queries": counts, "training_sentences_without_a_known_word": unknown}
    return Grounder(network, test, infos, {**facts, "dropped": list(data.dropped)}, words)


def score_grounder(inputs: GroundingInputs, trained: Grounder) -> Scored:
    """Moments of the test sentences in the format that ``bsp evaluate grounding`` reads, and their scores."""
    durations, test, network = _durations(inputs.data), trained.test, trained.network
    if isinstance(network, TAN2D):
        found = ground_tan2d(network, test.features, test.queries, device=inputs.device)
    else:
        found = ground_lgi(network, test.features, test.queries, device=inputs.device)
    predictions = []
    for moment, moments_K3 in zip(test.moments, found, strict=True):
        duration_s = durations[moment.video_id]
        times = duration_share(trained.infos[moment.video_id], moments_K3[:, :2], duration_s) * duration_s
        rows = np.column_stack([times, moments_K3[:, 2]]).tolist()
        predictions.append({"video": moment.video_id, "sentence": moment.sentence, "moments": rows})
    report = evaluate_grounding(_truth(inputs.data), predictions, protocol=_protocol(inputs.settings))
    return Scored(
        predictions={PREDICTIONS: predictions},
        scores={name: 100 * value for name, value in report.items() if isinstance(value, float)},
        report={"grounding": report},
        facts=trained.facts,
    )


def grounder_per_video(
    data: GroundingDataset, settings: TAN2DSettings | LGISettings, subset: str, read: Callable[[str], Any]
) -> PerVideo:
    """Recall and mean IoU by the videos that count."""
    return grounding_per_video(_truth(data), read(PREDICTIONS), protocol=_protocol(settings))


def _truth(data: GroundingDataset) -> list[dict[str, Any]]:
    """The test moments as rows for the metric."""
    durations = _durations(data)
    return [
        {"video": m.video_id, "sentence": m.sentence, "start_s": m.start_s, "end_s": m.end_s,
         "duration_s": durations[m.video_id]}
        for m in data.moments["test"]
    ]  # fmt: skip


def split_videos(queries: Queries, held_out_every: int) -> tuple[Queries, Queries]:
    """(the rest, every n-th video); with 0 nothing is held out."""
    videos = range(len(queries.features))
    chosen = [v for v in videos if held_out_every and v % held_out_every == held_out_every - 1]
    return _of_videos(queries, [v for v in videos if v not in set(chosen)]), _of_videos(queries, chosen)


def _of_videos(queries: Queries, videos: list[int]) -> Queries:
    place = {video: k for k, video in enumerate(videos)}
    mine = [(m, q) for m, q in zip(queries.moments, queries.queries, strict=True) if q.video in place]
    return Queries(
        [moment for moment, _ in mine],
        [replace(query, video=place[query.video]) for _, query in mine],
        [queries.features[video] for video in videos],
    )


def _protocol(settings: TAN2DSettings | LGISettings) -> Literal["2dtan", "lgi"]:
    """Name of the tokenisation rule and of the protocol."""
    return "2dtan" if isinstance(settings, TAN2DSettings) else "lgi"


def _durations(data: GroundingDataset) -> dict[str, float]:
    return {video.video_id: video.duration_s for video in data.videos}


def _with_features(moments: Sequence[Moment], feats: dict[str, np.ndarray]) -> list[Moment]:
    kept = [m for m in moments if m.video_id in feats]
    if not kept:
        raise AnnotationError(f"none of the {len(moments)} moments has a video with features; are the ids right?")
    return kept


def _query(moment: Moment, video: int, duration_s: float, info: FeatureInfo, words: Words, blind: Blind) -> Query:
    tokens = np.array([_UNKNOWN]) if blind == "text" else words.encode(moment.sentence)
    start, end = moment.start_s / duration_s, moment.end_s / duration_s
    if not 0 <= start < end:  # only in test lines, whose times no head reads
        return Query(video=video, tokens=tokens, start=0.0, end=1.0)
    start, end = snippet_share(info, np.array([start, end]), duration_s).tolist()
    if not start < end:  # before a late first frame: the nearest snippet
        start, end = min(start, 1 - 1 / info.snippets), max(end, 1 / info.snippets)
    return Query(video=video, tokens=tokens, start=start, end=end)
