"""The localisation tasks: for every head its data set, its settings in a profile, and the function that does the work.

A work function is ``work(folder, recipe, features, extra, data, expect, *, device, threads) -> facts``: it trains
the head of ``recipe`` on the feature folders of all streams, predicts on the test subset, and writes predictions,
scores and history into ``folder``. ``extra`` is the file of class scores, the GloVe vectors, or None.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from bsp_platform.plan.profiles import Profile
from bsp_platform.plan.recipes import (
    ClassScoresFile,
    ClassScoresRecipe,
    EncoderRecipe,
    FeatureRecipe,
    GroundingRecipe,
    HeadRecipe,
    TaskRecipe,
)
from bsp_platform.work.actionness_heads import train_and_score_actionness
from bsp_platform.work.boundary_heads import train_and_score_boundaries
from bsp_platform.work.grounding_heads import train_and_ground
from bsp_platform.work.heads import train_and_score
from bsp_platform.work.window_heads import train_and_score_windows

if TYPE_CHECKING:
    from bsp_platform.plan.sources import Sources

Head = Literal["gtad", "2dtan", "lgi", "thumos", "hacs", "actionness", "boundary-peaks", "boundary-head"]
AnyHeadRecipe = HeadRecipe | GroundingRecipe | TaskRecipe


@dataclass(frozen=True, kw_only=True)
class Task:
    """How one head is trained and scored."""

    data: str  # name of the data set (plan/sources.py)
    title: str  # for progress and messages
    settings: Callable[[Profile], Any]  # the head's settings in a profile
    work: Callable[..., dict[str, Any]]
    subsets: tuple[str, str] = ("training", "validation")  # that train and test the video-level classifier
    needs_classes: bool = False  # proposals get their class from video-level scores


TASKS: dict[Head, Task] = {
    "gtad": Task(
        data="activitynet", title="G-TAD", settings=lambda p: p.head, work=train_and_score, needs_classes=True
    ),
    "hacs": Task(data="hacs", title="G-TAD", settings=lambda p: p.hacs, work=train_and_score, needs_classes=True),
    "thumos": Task(
        data="thumos", title="G-TAD windows", settings=lambda p: p.thumos, work=train_and_score_windows,
        subsets=("validation", "test"), needs_classes=True,
    ),
    "2dtan": Task(data="charades", title="2D-TAN", settings=lambda p: p.tan2d, work=train_and_ground),
    "lgi": Task(data="charades", title="LGI", settings=lambda p: p.lgi, work=train_and_ground),
    "actionness": Task(
        data="crosstask", title="actionness", settings=lambda p: p.actionness, work=train_and_score_actionness
    ),
    "boundary-peaks": Task(
        data="gebd", title="boundary peaks", settings=lambda p: p.peaks, work=train_and_score_boundaries
    ),
    "boundary-head": Task(
        data="gebd", title="boundary head", settings=lambda p: p.boundary_head, work=train_and_score_boundaries
    ),
}  # fmt: skip


def data_sets(heads: Collection[Head]) -> set[str]:
    """Names of the data sets that these heads need."""
    return {TASKS[head].data for head in heads}


def head_recipe(
    name: Head,
    encoders: tuple[EncoderRecipe, ...],
    vanilla: EncoderRecipe,
    seed: int,
    blind: str,
    profile: Profile,
    sources: Sources,
) -> AnyHeadRecipe:
    """The recipe of one head on the features of ``encoders``.

    Without a file of class scores they come from the ``vanilla`` encoder (seed 0), the same for all rows and seeds.
    """
    task = TASKS[name]
    videos, labels = sources.videos_prints[task.data], sources.labels_prints[task.data]

    def features(encoder: EncoderRecipe) -> FeatureRecipe:
        return FeatureRecipe(
            encoder=encoder,
            untrimmed=videos,
            size_px=profile.augment.size_px,
            precision=profile.feature_precision,
        )

    streams = tuple(map(features, encoders))
    settings = task.settings(profile)
    if task.data == "charades":
        return GroundingRecipe(
            streams=streams,
            head=settings,
            glove=sources.glove.sha256 if sources.glove else None,
            word_width=profile.word_width,
            moments=labels,
            blind=blind,
            seed=seed,
        )
    scores = None
    if task.needs_classes:
        given = sources.class_scores.get(task.data)
        if given is not None:
            scores = ClassScoresFile(sha256=given.sha256, annotations=labels)
        else:
            scores = ClassScoresRecipe(features=features(vanilla), annotations=labels)
    if task.work is train_and_score:
        return HeadRecipe(
            features=streams[0], more_streams=streams[1:], class_scores=scores, head=settings, annotations=labels,
            seed=seed,
        )  # fmt: skip
    return TaskRecipe(streams=streams, head=settings, annotations=labels, class_scores=scores, seed=seed)
