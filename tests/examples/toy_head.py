"""A complete head: a snippet belongs to an action if its features are nearer to the mean of actions than to the rest's.

A head is two functions and a record, and two more functions to use it on new videos.
``HEADS["nearest-mean"] = NEAREST_MEAN`` (bsp/tasks/heads.py) makes it known, and a task (bsp_platform/plan/tasks.py)
pairs it with a data set: ``Task(head=NEAREST_MEAN, data=..., settings=...)``.
Letters: S snippets, D feature width, G annotated instances.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from bsp.datasets.activitynet import LocalizationDataset, UntrimmedVideo
from bsp.features.record import seconds_at, snippets_at
from bsp.tasks.detection import times_of
from bsp.tasks.found import Segment
from bsp.tasks.head import Applied, Head, HeadInputs, Kept, Scored, Split, VideoPart, read_split


@dataclass(frozen=True, kw_only=True)
class NearestMeanSettings:
    """The fields decide what is learnt; they become part of the name (hash) of its results."""

    weight: float = 1.0  # of the distance to the mean of actions; below 1, more snippets are actions


Inputs = HeadInputs[LocalizationDataset, NearestMeanSettings]


def train(inputs: Inputs) -> np.ndarray:
    """The mean features of snippets outside and inside of actions, [2, D]."""
    split = read_split(inputs.features, inputs.data.videos, inputs.subsets[0])
    feat_SD, inside_S = np.concatenate(split.features), np.concatenate(inside_actions(split))
    inputs.on_epoch({"epoch": 0, "loss": 0.0})  # progress; these records become the history
    return np.stack([feat_SD[~inside_S].mean(0), feat_SD[inside_S].mean(0)])


def score(inputs: Inputs, mean_2D: np.ndarray) -> Scored:
    """How many snippets of the other subset are told right, in percent."""
    split = read_split(inputs.features, inputs.data.videos, inputs.subsets[1])
    found = []
    for feat_SD in split.features:
        found.append(is_action(feat_SD, mean_2D, inputs.settings.weight))
    right_S = np.concatenate(found) == np.concatenate(inside_actions(split))
    predictions = {video.video_id: inside.tolist() for video, inside in zip(split.videos, found, strict=True)}
    return Scored(predictions={"snippets.json": predictions}, scores={"accuracy": 100 * float(right_S.mean())})


def is_action(feat_SD: np.ndarray, mean_2D: np.ndarray, weight: float) -> np.ndarray:
    """Which snippets are nearer to the mean of actions, bool [S]."""
    outside_S, inside_S = (np.linalg.norm(feat_SD - mean_D, axis=1) for mean_D in mean_2D)
    return weight * inside_S < outside_S


def keep(inputs: Inputs, mean_2D: np.ndarray) -> Kept:
    """What a model folder stores: weights as tensors, settings; and plain facts, of which there are none here."""
    return Kept(settings=inputs.settings, tensors={"mean": torch.from_numpy(mean_2D)})


def apply(kept: Kept, device: str) -> Applied:
    """The inverse: functions from a video's features to what is found in it, here a segment per run of snippets."""
    mean_2D = kept.tensors["mean"].numpy()

    def detect(part: VideoPart) -> list[Segment]:
        inside_S = is_action(part.feat_SD, mean_2D, kept.settings.weight)
        edges = np.flatnonzero(np.diff(np.concatenate([[False], inside_S, [False]])))
        times_K2 = seconds_at(part.info, edges.reshape(-1, 2)).tolist()
        return [Segment(label="action", start_s=start, end_s=end, score=1.0) for start, end in times_K2]

    return Applied(detect=detect, whole_videos=False)  # a snippet is judged by itself: long videos need no windows


def inside_actions(split: Split[UntrimmedVideo]) -> list[np.ndarray]:
    """Whether the centre of each snippet lies in an annotated action, bool [S] per video."""
    labels: list[np.ndarray] = []
    for video, info in zip(split.videos, split.infos, strict=True):
        places_G2 = snippets_at(info, times_of(video), centres=True)  # from seconds to snippets
        centre_S1 = np.arange(info.snippets)[:, None]
        inside_SG = (places_G2[:, 0] <= centre_S1) & (centre_S1 < places_G2[:, 1])
        labels.append(np.any(inside_SG, axis=1))
    return labels


NEAREST_MEAN = Head(
    title="nearest mean",
    data=LocalizationDataset,
    settings=NearestMeanSettings,
    train=train,
    score=score,
    keep=keep,
    apply=apply,
)
