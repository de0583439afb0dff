"""A linear probe on frozen snippet features: how well do they predict action boundaries?

A cheap score of a boundary-sensitive encoder: logistic regression on a snippet and its two neighbours predicts whether
the snippet holds the start or end of an action; the score is average precision on held-out videos. Letters: S snippets
of a video, N snippets of all videos, D feature width, T frames of a snippet.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from bsp.clips.augment import centre_clip
from bsp.clips.normalisation import normalise
from bsp.datasets.activitynet import UntrimmedVideo
from bsp.encoders.contract import Encoder
from bsp.video.read import VideoInfo, iter_frames, probe
from bsp.video.times import frames_at

STRENGTH = 0.01  # inverse regularisation, as in experiments/tools/probe_streams.py
BATCH_SNIPPETS = 16  # of one forward pass, as in extract_features
_HALVES = (slice(0, None, 2), slice(1, None, 2))  # of the videos: to fit on, held out


@dataclass(frozen=True, kw_only=True)
class ProbeVideo:
    """Consecutive decoded snippets of one untrimmed video, and which of them hold a boundary."""

    video_id: str
    first: int  # number of the first snippet, 0-based
    frames_STHWC: np.ndarray  # uint8, cropped to what the encoder sees
    boundary_S: np.ndarray  # bool


def boundary_snippets(times_s: Sequence[float], info: VideoInfo, snippets: int, snippet_frames: int) -> np.ndarray:
    """bool [snippets]: the snippet holds one of ``times_s`` (seconds); times outside the snippets do not count."""
    places = np.floor(frames_at(info, np.asarray(times_s, float)) / snippet_frames).astype(int)
    held_S = np.zeros(snippets, bool)
    held_S[places[(places >= 0) & (places < snippets)]] = True
    return held_S


def load_probe_video(video: UntrimmedVideo, size_px: int, max_snippets: int, snippet_frames: int) -> ProbeVideo | None:
    """Decode at most ``max_snippets`` snippets around the video's first boundary; None for a video without whole ones.

    Raises VideoError for an unreadable file.
    """
    info = probe(video.file)
    total = info.frames // snippet_frames
    if total < 1:
        return None
    times_s = [time_s for instance in video.instances for time_s in (instance.start_s, instance.end_s)]
    boundary_S = boundary_snippets(times_s, info, total, snippet_frames)
    kept = min(total, max_snippets)
    # Choice: of a long video the stretch around its first boundary, so that long videos have both kinds of snippets.
    centre = int(np.argmax(boundary_S)) if boundary_S.any() else total // 2
    first = min(max(0, centre - kept // 2), total - kept)
    snippets = []
    for place, chunk_THWC in enumerate(iter_frames(video.file, chunk_frames=snippet_frames, reader=info.reader)):
        if place >= first + kept:
            break
        if place >= first:
            snippets.append(centre_clip(chunk_THWC, size_px))
    return ProbeVideo(
        video_id=video.video_id,
        first=first,
        frames_STHWC=np.stack(snippets),
        boundary_S=boundary_S[first : first + kept],
    )


def snippet_features(encoder: Encoder, frames_STHWC: np.ndarray, device: torch.device | str) -> np.ndarray:
    """float32 [S, D] of an encoder in evaluation mode, as ``extract_features`` computes them from a file."""
    parts = []
    with torch.inference_mode():
        for first in range(0, len(frames_STHWC), BATCH_SNIPPETS):
            batch = torch.from_numpy(frames_STHWC[first : first + BATCH_SNIPPETS].copy()).to(device)
            clip_BTCHW = normalise(batch, torch.float32, encoder.mean, encoder.std)
            parts.append(encoder(clip_BTCHW).mean(dim=1).float().cpu().numpy())
    return np.concatenate(parts)


def with_neighbours(feat_SD: np.ndarray) -> np.ndarray:
    """[S, 3 D]: previous, own and next feature of each snippet; the first and last snippet are repeated."""
    padded = np.concatenate([feat_SD[:1], feat_SD, feat_SD[-1:]])
    return np.concatenate([padded[:-2], padded[1:-1], padded[2:]], axis=1)


def half_targets(boundaries: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The targets bool [N] of the snippets to fit on and of those held out.

    Raises ValueError if either half lacks snippets with or without a boundary.
    """
    found = []
    for half, what in zip(_HALVES, ("to fit on", "held out"), strict=True):
        target_N = np.concatenate([np.zeros(0, bool), *boundaries[half]])
        if not target_N.any() or target_N.all():
            raise ValueError(
                f"of {len(boundaries)} probe videos those {what} have {int(target_N.sum())} snippets with a boundary "
                f"among {len(target_N)}; the probe needs both kinds: give it more videos"
            )
        found.append(target_N)
    return found


def probe_score(features: Sequence[np.ndarray], boundaries: Sequence[np.ndarray]) -> float:
    """Boundary average precision in percent on held-out videos; chance is their share of boundary snippets.

    ``features`` [S, D] and ``boundaries`` bool [S] per video; videos 0, 2, 4, ... fit the probe and 1, 3, 5, ... are
    held out. Raises as :func:`half_targets`.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import average_precision_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    halves = []
    for half, target_N in zip(_HALVES, half_targets(boundaries), strict=True):
        halves.append((np.concatenate([with_neighbours(f) for f in features[half]]), target_N))
    (fit_NE, fit_target_N), (held_NE, held_target_N) = halves
    model = make_pipeline(StandardScaler(), LogisticRegression(C=STRENGTH, max_iter=500))
    model.fit(fit_NE, fit_target_N)
    return 100 * float(average_precision_score(held_target_N, model.decision_function(held_NE)))
