"""A model looks at a video: what it finds, with how that was made, for the output formats."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import numpy as np

from bsp.features.record import FeatureInfo, video_end_s
from bsp.features.streams import concatenate_streams
from bsp.models.model import ENCODER, Model, refuse_other_features
from bsp.models.streams import extract_streams
from bsp.pages.findings import Curve, Findings, Found, ScoredBoundaries, ScoredSegment, best_first
from bsp.video.read import VideoInfo
from bsp.video.times import frame_seconds

What = Literal["detect", "boundaries", "ground"]
_OTHER_LENGTH = 0.05  # Choice: features of a video this much longer or shorter, as a share, are said to be of another
Progress = Callable[[int, int], None]  # snippets done, and all of them


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is looked for."""

    what: What
    sentence: str = ""  # of "ground"


def look(
    model: Model,
    info: VideoInfo,
    question: Question,
    *,
    video_id: str,
    features: Sequence[tuple[np.ndarray, FeatureInfo]] | None = None,
    progress: Progress | None = None,
) -> Findings:
    """What the model finds in a probed video: all candidates, nothing left out.

    Detections come with the boundaries that the same features show. ``features``: those of each stream (of the head's
    streams, unless it detects), made in the same way; None = they are extracted. Raises VideoError for an unreadable
    video, ValueError for a model that cannot do this or for features made otherwise.
    """
    notes = [model.provenance["note"]] if isinstance(model.provenance.get("note"), str) else []
    if question.what == "ground" and (unknown := model.unknown_words(question.sentence)):
        notes.append(f"Words that the model has not learnt, and does not use: {', '.join(unknown)}.")
    segments: Sequence[ScoredSegment] = ()
    boundaries: ScoredBoundaries | None = None
    if question.what == "detect":
        check_detects(model)
    streams = model.streams if question.what == "detect" else model.streams[: model.head_streams]
    duration_s = float(frame_seconds(info, info.frames))
    if features is None:
        parts = extract_streams(streams, info.path, video_id=video_id, device=model.device, progress=progress)
    else:
        parts = list(features)
        for stream, (feat, of) in zip(streams, parts, strict=True):
            refuse_other_features(feat, of, [stream])
        covered_s = video_end_s(parts[0][1])
        if abs(covered_s - duration_s) > max(1.0, _OTHER_LENGTH * duration_s):
            notes.append(
                f"The features cover {covered_s:.1f} s, the video lasts {duration_s:.1f} s: times may be wrong."
            )
    of_classes = parts[model.classifier_stream] if question.what == "detect" else None
    feat_SD, record = concatenate_streams(parts[: model.head_streams])
    if question.what == "detect":
        segments = model.detect_features(feat_SD, record, for_classes=of_classes)
        if model.class_agnostic:
            notes.append("This model has no classifier: its segments have no class.")
    if question.what == "ground":
        segments = model.ground_features(feat_SD, record, question.sentence)
    else:
        boundaries = model.boundaries_features(feat_SD, record)
    return Findings(
        video_id=video_id,
        video=info.path,
        duration_s=duration_s,
        segments=segments,
        boundaries=boundaries,
        sentence=question.sentence,
        made=described(model, info),
        notes=tuple(notes),
    )


def check_detects(model: Model) -> None:
    """ValueError, naming what it can do, for a model without a head that detects."""
    if model.kind == ENCODER or model.applied.detect is None:
        other = "bsp ground" if model.kind != ENCODER and model.applied.ground is not None else "bsp boundaries"
        raise ValueError(f"this model is of the kind {model.kind!r} and detects nothing; {other} takes it")


def described(model: Model, info: VideoInfo) -> dict[str, str]:
    """How findings are made, for people."""
    with open(info.path, "rb") as file:
        content = hashlib.file_digest(file, "sha256").hexdigest()
    size = f"{info.width} x {info.height} px, {info.codec}, {info.fps:.3g} frames/s"
    video = f"{size}, {info.frames:,} frames" + ("" if info.uniform else ", variable rate")
    try:
        software = f"bsp-platform {version('bsp-platform')}"
    except PackageNotFoundError:  # run from the source tree
        software = "bsp-platform, from source"
    lines = {name: text for name, text in model.describe().items() if name != "note"}
    return {**lines, "video": video, "SHA-256 of the video": content, "software": software}


def selected(findings: Findings, *, threshold: float | None, top: int | None) -> Findings:
    """Segments and boundaries of at least the ``threshold``, the ``top`` best of them; None = all."""

    def keep(scores: np.ndarray) -> np.ndarray:
        kept = np.ones(len(scores), bool) if threshold is None else scores >= threshold
        if top is not None:
            better = np.argsort(-scores, kind="stable")[top:]
            kept[better] = False
        return kept

    segments = best_first(findings.segments)
    of_segments = keep(np.array([s.score for s in segments], float))
    chosen: list[ScoredSegment] = [s for s, kept in zip(segments, of_segments, strict=True) if kept]
    boundaries = findings.boundaries
    if boundaries is not None and not findings.segments:
        kept = keep(np.asarray(boundaries.scores, float))
        boundaries = Curve(
            times_s=boundaries.times_s[kept],
            scores=boundaries.scores[kept],
            curve_times_s=boundaries.curve_times_s,
            curve=boundaries.curve,
        )
    return replace(findings, segments=chosen, boundaries=boundaries, shown_from=threshold)


def with_truth(findings: Findings, instances: Sequence[Any]) -> Findings:
    """The findings beside annotated instances (``label``, ``start_s``, ``end_s``), those within the video."""
    end_s = findings.duration_s
    inside = [(i, max(0.0, float(i.start_s)), min(end_s, float(i.end_s))) for i in instances]
    truth = [Found(label=i.label, start_s=a, end_s=b) for i, a, b in inside if b > a]
    return replace(findings, truth=truth)


def model_hash(folder: str | os.PathLike[str]) -> str:
    """SHA-256 of a model folder's model.json, which names the hashes of all its files."""
    return hashlib.sha256((Path(folder) / "model.json").read_bytes()).hexdigest()
