"""Streams of features: an encoder, and exactly how features are made with it.

Letters: S snippets of a video, D feature width.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bsp.encoders.contract import Encoder
from bsp.features.reading import PAPER, Reading, Sampling
from bsp.features.record import FeatureInfo
from bsp.features.store import CODE_VERSION, Precision, VideoSnippets, batches_of, encode_snippets, encoder_hash

BATCH_SNIPPETS = 16  # of a forward pass, as extract_features has it on a CPU


@dataclass(frozen=True, kw_only=True, eq=False)
class FeatureStream:
    """How one stream of features is made."""

    encoder: Encoder | None  # None: imported features, which no new video can have
    encoder_hash: str
    feature_width: int  # D
    snippet_frames: int
    stride_frames: int
    size_px: int
    precision: Precision = "float32"
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    code_version: int = CODE_VERSION
    name: str = ""  # such as "vanilla", for people
    reading: Reading = PAPER
    provenance: dict[str, Any] = field(default_factory=dict)  # JSON types: how the encoder was trained, licence


def stream_of(
    encoder: Encoder,
    *,
    size_px: int,
    precision: Precision = "float32",
    name: str = "",
    provenance: Mapping[str, Any] | None = None,
    reading: Reading = PAPER,
) -> FeatureStream:
    """The stream of an encoder whose clips are the snippets (``settings.for_snippets()``), as extraction makes it."""
    return FeatureStream(
        encoder=encoder.eval(),
        encoder_hash=encoder_hash(encoder, reading),
        feature_width=reading.width(encoder.feature_width),
        snippet_frames=encoder.clip_frames,
        stride_frames=encoder.clip_frames,
        size_px=size_px,
        precision=precision,
        mean=tuple(encoder.mean),
        std=tuple(encoder.std),
        name=name,
        provenance=dict(provenance or {}),
        reading=reading,
    )


def imported_stream(info: FeatureInfo, name: str = "") -> FeatureStream:
    """The stream of features whose encoder is not at hand, from the record of one of them."""
    precision: Precision = "bfloat16" if info.precision == "bfloat16" else "float32"
    return FeatureStream(
        encoder=None,
        encoder_hash=info.encoder_hash,
        feature_width=info.feature_width,
        snippet_frames=info.snippet_frames,
        stride_frames=info.stride_frames,
        size_px=info.size_px,
        precision=precision,
        mean=tuple(info.mean),
        std=tuple(info.std),
        code_version=info.code_version,
        name=name,
    )


def extract_streams(
    streams: Sequence[FeatureStream],
    path: str | os.PathLike[str],
    *,
    video_id: str = "",
    device: torch.device | str = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> list[tuple[np.ndarray, FeatureInfo]]:
    """Features float32 [S, D] and record of one video for every stream, as ``extract_features`` makes each.

    Streams of the same picture size and snippet length share one pass over the file. ``progress`` gets snippets done
    and their number, of all passes. ``video_id``: default the name of the file. Raises VideoError for an unreadable
    video, ValueError for a stream without an encoder.
    """
    grids: dict[tuple[int, int, Sampling], list[int]] = {}
    for number, stream in enumerate(streams):
        if stream.encoder is None:
            raise ValueError(
                f"this model was made from imported features ({stream.encoder_hash:.40}), so it has no encoder that "
                f"could make those of {os.fspath(path)}; give it features made in the same way (detect_features, "
                f"boundaries_features, ground_features)"
            )
        grids.setdefault((stream.size_px, stream.snippet_frames, stream.reading.sampling), []).append(number)
    found: dict[int, tuple[np.ndarray, FeatureInfo]] = {}
    done = 0
    for (size_px, snippet_frames, sampling), members in grids.items():
        name = video_id or Path(path).stem
        snippets = VideoSnippets(
            path, video_id=name, size_px=size_px, snippet_frames=snippet_frames, reading=Reading(sampling=sampling)
        )
        feats = {k: np.empty((snippets.count, streams[k].feature_width), np.float32) for k in members}
        at = 0
        for batch in batches_of(snippets, BATCH_SNIPPETS):
            pixels = torch.from_numpy(batch).to(device)
            for k in members:
                encoder = streams[k].encoder
                assert encoder is not None  # checked above
                feat_BD = encode_snippets(encoder, pixels, streams[k].precision, streams[k].reading)
                feats[k][at : at + len(batch)] = feat_BD.cpu().numpy()
            at, done = at + len(batch), done + len(batch)
            if progress is not None:
                progress(done, snippets.count * len(grids))
        for k in members:
            of = streams[k]
            record = snippets.info(
                mean=(of.mean[0], of.mean[1], of.mean[2]),
                std=(of.std[0], of.std[1], of.std[2]),
                feature_width=of.feature_width,
                weights_hash=of.encoder_hash,
                precision=of.precision,
            )
            found[k] = feats[k], record
    return [found[k] for k in range(len(streams))]
