"""Tasks: which head is trained and scored on which data set, and with which settings of a profile.

Heads (bsp/tasks/heads.py) and data sets (bsp/datasets/data_sets.py) know nothing of each other. A row of a table names
tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bsp.datasets.data_sets import DATA_SETS, DataSet
from bsp.localization.gtad.network import GTADSettings
from bsp.tasks.head import Blind, Head
from bsp.tasks.heads import HEADS
from bsp_platform.plan.profiles import Profile
from bsp_platform.plan.recipes import (
    AnyHeadRecipe,
    ClassScoresFile,
    ClassScoresRecipe,
    EncoderRecipe,
    FeatureRecipe,
    GroundingRecipe,
    HeadRecipe,
    Stream,
    TaskRecipe,
)

if TYPE_CHECKING:
    from bsp_platform.plan.sources import Sources


@dataclass(frozen=True, kw_only=True)
class Task:
    """A head on a data set."""

    head: Head[Any, Any, Any]
    data: DataSet[Any]
    settings: Callable[[Profile], Any]  # of the head


TASKS: dict[str, Task] = {
    "gtad": Task(head=HEADS["gtad"], data=DATA_SETS["activitynet"], settings=lambda p: p.head),
    "hacs": Task(head=HEADS["gtad"], data=DATA_SETS["hacs"], settings=lambda p: p.hacs),
    "thumos": Task(head=HEADS["gtad-windows"], data=DATA_SETS["thumos"], settings=lambda p: p.thumos),
    "2dtan": Task(head=HEADS["2dtan"], data=DATA_SETS["charades"], settings=lambda p: p.tan2d),
    "lgi": Task(head=HEADS["lgi"], data=DATA_SETS["charades"], settings=lambda p: p.lgi),
    "actionness": Task(head=HEADS["actionness"], data=DATA_SETS["crosstask"], settings=lambda p: p.actionness),
    "boundary-peaks": Task(head=HEADS["boundary-peaks"], data=DATA_SETS["gebd"], settings=lambda p: p.peaks),
    "boundary-head": Task(head=HEADS["boundary-head"], data=DATA_SETS["gebd"], settings=lambda p: p.boundary_head),
}


def find_task(name: str) -> Task:
    """The task of a row. ValueError, with those there are, for another name."""
    if name not in TASKS:
        raise ValueError(f"no task is called {name!r}; there are {', '.join(TASKS)} (plan/tasks.py)")
    return TASKS[name]


def videos_and_subsets(videos: str, labels: str) -> str:
    """What decides the snippets of "target" statistics: the files, and which of them are for training."""
    return f"{videos} {labels}"


def head_recipe(
    name: str,
    encoders: tuple[EncoderRecipe, ...],
    vanilla: EncoderRecipe,
    seed: int,
    blind: Blind,
    profile: Profile,
    sources: Sources,
    how: Sequence[Stream] = (),
) -> AnyHeadRecipe:
    """The recipe of one task on the features of ``encoders``, made as the streams ``how`` say (() = as in the paper).

    Without a file of class scores they come from the ``vanilla`` encoder (seed 0), the same for all rows and seeds.
    TypeError for a head on annotations of another kind.
    """
    task = find_task(name)
    videos, labels = sources.videos_prints[task.data.name], sources.labels_prints[task.data.name]

    def features(encoder: EncoderRecipe, stream: Stream | None = None) -> FeatureRecipe:
        more: dict[str, Any] = {}
        if stream is not None and stream.statistics:
            of = videos_and_subsets(videos, labels) if stream.statistics == "target" else sources.trimmed_print
            more = {"statistics": stream.statistics, "statistics_videos": of}
        if stream is not None:
            more |= {"readout": stream.readout, "snippet_sampling": stream.snippet_sampling}
        return FeatureRecipe(
            encoder=encoder,
            untrimmed=videos,
            size_px=profile.size_of(encoder.encoder),
            precision=profile.feature_precision,
            **more,
        )

    streams = tuple(map(features, encoders, how or (None,) * len(encoders)))
    settings = task.settings(profile)
    if task.data.name in sources.data:
        task.head.check(sources.data[task.data.name], settings)
    if task.head.needs_sentences:
        return GroundingRecipe(
            streams=streams,
            head=settings,
            glove=sources.glove.sha256 if sources.glove else None,
            word_width=profile.word_width,
            moments=labels,
            blind=blind,
            seed=seed,
        )
    scores: ClassScoresRecipe | ClassScoresFile | None = None
    if task.head.needs_class_scores:
        given = sources.class_scores.get(task.data.name)
        if given is not None:
            scores = ClassScoresFile(sha256=given.sha256, annotations=labels)
        else:
            scores = ClassScoresRecipe(features=features(vanilla), annotations=labels)
    # G-TAD on whole videos keeps its own recipe class, by which earlier results are found.
    if scores is not None and type(settings) is GTADSettings:
        return HeadRecipe(
            features=streams[0], more_streams=streams[1:], class_scores=scores, head=settings, annotations=labels,
            seed=seed,
        )  # fmt: skip
    return TaskRecipe(streams=streams, head=settings, annotations=labels, class_scores=scores, seed=seed)
