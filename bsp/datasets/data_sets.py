"""Localisation data sets by name, one record each. A new one needs a file with a loader, and its record here.

Videos and annotations are loaded from a folder given by the user, or from the embedded data set rendered in the same
layout.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from bsp.datasets.activitynet import LocalizationDataset, load_activitynet_folder, load_hacs_folder
from bsp.datasets.charades_sta import GroundingDataset, load_charades_folder
from bsp.datasets.crosstask import load_crosstask_folder
from bsp.datasets.gebd import load_gebd_folder
from bsp.datasets.pantomime.grounding import GroundingWorldSettings, render_grounding
from bsp.datasets.pantomime.stories import render_stories
from bsp.datasets.pantomime.stories_plan import StorySettings
from bsp.datasets.thumos14 import TEST, TRAINING, load_thumos14_folder


class VideoFile(Protocol):
    """A video of a data set."""

    __dataclass_fields__: ClassVar[dict[str, Any]]  # it is a dataclass

    @property
    def video_id(self) -> str:
        """Unique in the data set; also names the features."""

    @property
    def path(self) -> str | None:
        """Path of the file; None if none was found."""


class Annotated(Protocol):
    """Interface of a loader's result."""

    @property
    def videos(self) -> Sequence[VideoFile]:
        """All annotated videos, also those without a file."""


@dataclass(frozen=True, kw_only=True)
class Embedded:
    """Folders and settings of the embedded data sets; settings are None if a profile lacks them."""

    root: Path  # folder of the rendered trimmed and untrimmed videos
    out: Path  # folder for the other embedded data sets
    grounding: GroundingWorldSettings | None
    stories: StorySettings | None
    progress: bool


Data = TypeVar("Data", bound=Annotated)


def all_but_paths(data: Annotated) -> Any:
    """All fields of the videos (dataclasses) except ``path``."""
    return [{k: v for k, v in asdict(video).items() if k != "path"} for video in data.videos]


@dataclass(frozen=True, kw_only=True)
class DataSet(Generic[Data]):
    """A data set in its published layout."""

    name: str  # also the name of its option: ``--charades DIR``
    title: str
    load: Callable[[Path], Data]  # from DIR; errors name the folder and the expected files
    # The annotations for JSON; results are recomputed when they change.
    labels: Callable[[Data], Any] = all_but_paths
    subsets: tuple[str, str] = ("training", "validation")  # to train heads on, to score them on
    embedded: Callable[[Embedded], Path] | None = None  # renders the embedded version, returns its folder


def _instances(data: LocalizationDataset) -> Any:
    return [
        (v.video_id, v.subset, v.duration_s, [(i.label, i.start_s, i.end_s) for i in v.instances]) for v in data.videos
    ]


def _moments(data: GroundingDataset) -> Any:
    moments = {
        subset: [(m.video_id, m.sentence, m.start_s, m.end_s) for m in of_subset]
        for subset, of_subset in data.moments.items()
    }
    return [moments, [(v.video_id, v.duration_s) for v in data.videos]]


def _stories(folder: str) -> Callable[[Embedded], Path]:
    def render(world: Embedded) -> Path:
        if world.stories is None:
            raise ValueError(f"the profile has no settings for the embedded {folder}")
        return render_stories(world.stories, world.out, progress=world.progress) / folder

    return render


def _grounding(world: Embedded) -> Path:
    if world.grounding is None:
        raise ValueError("the profile has no settings for the embedded sentences")
    return render_grounding(world.grounding, world.out, progress=world.progress)


_ALL: tuple[DataSet[Any], ...] = (
    DataSet(
        name="activitynet", title="ActivityNet-1.3", load=load_activitynet_folder, labels=_instances,
        embedded=lambda world: world.root / "untrimmed",
    ),
    DataSet(
        name="charades", title="Charades-STA", load=load_charades_folder, labels=_moments, subsets=("train", "test"),
        embedded=_grounding,
    ),
    DataSet(
        name="thumos", title="THUMOS-14", load=load_thumos14_folder, labels=_instances, subsets=(TRAINING, TEST),
        embedded=_stories("games"),
    ),
    DataSet(
        name="hacs", title="HACS Segments 1.1", load=load_hacs_folder, labels=_instances, embedded=_stories("games")
    ),
    DataSet(
        name="crosstask", title="CrossTask", load=load_crosstask_folder,
        subsets=("training", "test"), embedded=_stories("tasks"),
    ),
    DataSet(
        name="gebd", title="Kinetics-GEBD", load=load_gebd_folder, embedded=_stories("clips")
    ),
)  # fmt: skip
DATA_SETS: dict[str, DataSet[Any]] = {data_set.name: data_set for data_set in _ALL}
