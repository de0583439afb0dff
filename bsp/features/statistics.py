"""Batch-norm statistics of a frozen encoder, estimated again on other snippets than those of its training.

A stream of synthetic clips, most of which hold a cut, leaves running means and variances that are wrong for snippets
without one. Weights stay, no labels are used. Letters: B snippets, T frames, H W image.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch.nn.modules.batchnorm import _BatchNorm

from bsp.clips.augment import centre_clip
from bsp.clips.normalisation import normalise
from bsp.encoders.contract import Encoder
from bsp.errors import VideoError
from bsp.features.reading import Sampling, frames_of
from bsp.features.store import snippet_count
from bsp.video.read import probe, read_frames

SNIPPETS = 960  # Choice: in trials here 960 were as good as all
BATCH = 32  # snippets of a forward pass, as in training


def reestimated(encoder: Encoder, snippet_batches: Iterable[np.ndarray], device: torch.device | str = "cpu") -> Encoder:
    """A copy of the encoder, in evaluation mode on the CPU, whose running statistics are those of these snippets.

    ``snippet_batches``: uint8 [B, T, H, W, 3], as the encoder takes them. Statistics are the plain (cumulative) average
    over the batches, each normalised by its own. ValueError without a snippet.
    """
    found = copy.deepcopy(encoder).to(device).train()
    norms = [module for module in found.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # cumulative
    seen = 0
    with torch.no_grad():
        for batch in snippet_batches:
            pixels = torch.from_numpy(np.ascontiguousarray(batch)).to(device)
            found(normalise(pixels, torch.float32, encoder.mean, encoder.std))
            seen += len(batch)
    if not seen:
        raise ValueError("no snippet to estimate batch-norm statistics on: no video could be read")
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return found.cpu().eval()


def chosen_snippets(frames: Sequence[int], snippet_frames: int, seed: int, count: int = SNIPPETS) -> list[list[int]]:
    """By video, the numbers of the snippets to read, rising: ``count`` in all, or all there are.

    ``frames`` of each video. Drawn without replacement from all snippets of all videos, by ``seed`` alone.
    """
    of_video = np.repeat(np.arange(len(frames)), [snippet_count(n, snippet_frames) for n in frames])
    number = np.concatenate([np.arange(snippet_count(n, snippet_frames)) for n in frames]) if len(frames) else of_video
    drawn = np.sort(np.random.default_rng(seed).permutation(len(of_video))[:count])
    return [number[drawn[of_video[drawn] == video]].tolist() for video in range(len(frames))]


def random_snippets(
    paths: Sequence[str], *, size_px: int, snippet_frames: int, seed: int, sampling: Sampling = ""
) -> list[np.ndarray]:
    """Chosen snippets of these videos in an order of ``seed``, as batches uint8 [B, T, size, size, 3].

    Videos that cannot be read are left out.
    """
    known = []
    for path in paths:
        try:
            known.append((path, probe(path).frames))
        except VideoError:
            continue  # the extraction of features names it
    snippets: list[np.ndarray] = []
    chosen = chosen_snippets([frames for _, frames in known], snippet_frames, seed)
    for (path, frames), numbers in zip(known, chosen, strict=True):
        if not numbers:
            continue
        places = np.concatenate([frames_of(number, frames, snippet_frames, sampling) for number in numbers])
        try:
            read = centre_clip(read_frames(path, places), size_px)
        except VideoError:
            continue
        snippets += list(read.reshape(len(numbers), snippet_frames, *read.shape[1:]))
    order = np.random.default_rng(seed + 1).permutation(len(snippets))
    return [np.stack([snippets[k] for k in order[at : at + BATCH]]) for at in range(0, len(order), BATCH)]
