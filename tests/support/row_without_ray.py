"""A row of a table without Ray: a random encoder, its features, class scores and a G-TAD head, on the tiny data.

What Ray would run on other nodes runs here in this process, through the pickled job and, with storage on S3, with
another cache folder: nothing but the bucket is shared with that "node".
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bsp.encoders.tsm import EncoderSettings
from bsp.tasks.head import SCORES
from bsp_platform.plan.profiles import smoke
from bsp_platform.plan.recipes import Stream
from bsp_platform.plan.resources import Resources
from bsp_platform.plan.rows import Experiment, Row, RowRecipes, data_sets, row_recipes
from bsp_platform.plan.sources import DataPaths, Sources, load_sources
from bsp_platform.storage.placement import CACHE_VARIABLE
from bsp_platform.storage.stages import StageStore
from bsp_platform.sweep import row_runner
from bsp_platform.sweep.models import RowModels, write_row_models
from bsp_platform.sweep.row_runner import RowJob, run_on_node


@contextmanager
def another_node(cache: Path) -> Iterator[None]:
    here = os.environ.get(CACHE_VARIABLE)
    os.environ[CACHE_VARIABLE] = str(cache)
    try:
        yield
    finally:
        os.environ.pop(CACHE_VARIABLE) if here is None else os.environ.__setitem__(CACHE_VARIABLE, here)


class InlineData:
    """Stands in for ray.data: the actor is made from its pickled arguments and called for two rows at a time."""

    def __init__(self, cache: Path, stop_after: int | None = None):
        self.cache, self.stop_after, self.extracted = cache, stop_after, []

    def from_items(self, items: list[dict], **_: Any) -> InlineData:
        self.items = items
        return self

    def map_batches(self, actor: type, *, fn_constructor_args: tuple, **_: Any) -> InlineData:
        self.make = lambda: actor(*pickle.loads(pickle.dumps(fn_constructor_args)))
        return self

    def iter_rows(self) -> Iterator[dict]:
        with another_node(self.cache):
            extract = self.make()
        for number, first in enumerate(range(0, len(self.items), 2)):
            if number == self.stop_after:
                raise InterruptedError("the driver is gone")
            items = self.items[first : first + 2]
            with another_node(self.cache):
                made = extract({key: np.array([item[key] for item in items]) for key in items[0]})
            for place in range(len(items)):
                self.extracted.append(str(made["video_id"][place]))
                yield {key: value[place] for key, value in made.items()}


class RowWithoutRay(row_runner._RowRunner):
    """Remembers in ``made`` which stages were built."""

    def __init__(self, job: RowJob, cache: Path):
        super().__init__(job, lambda progress: None)
        self.cache, self.made = cache, []
        self.before: Callable[[Callable], None] = lambda function: None  # called as soon as a node is to work

    def _ensure(self, kind: str, recipe: Any, stage: str, build: Callable[[Path], dict]) -> Path:
        folder, found = self.store.ensure(kind, recipe, build)
        if not found:
            self.made.append(kind)
        return folder

    def _remote(self, function: Callable, stage: str, folder: Path, *arguments: Any, **keywords: Any) -> Any:
        self.before(function)
        arguments = pickle.dumps((self.store, function, *map(self.store.pack_paths, (folder, *arguments))))
        with another_node(self.cache):
            facts, files = run_on_node(*pickle.loads(arguments), **keywords)
        self.store.files.download(folder, files)
        return facts


class SmallRow:
    """The row: ``SmallRow(data, settings, work).run(storage)`` gives its scores. ``task``: of TASKS."""

    def __init__(
        self, tiny_data: Path, tiny_pantomime: Any, work: Path, monkeypatch, task: str = "gtad",
        paths: DataPaths | None = None,
    ):  # fmt: skip
        import ray
        import ray.data

        self.work, self.monkeypatch = work, monkeypatch
        monkeypatch.setattr(ray, "get", lambda reference: reference)
        shutil.copytree(tiny_data, work / "data" / "pantomime" / tiny_data.name)
        profile = replace(smoke(), pantomime=tiny_pantomime, encoder=EncoderSettings(depth=18, width=8))
        row = Row(name="random", label="random", streams=(Stream(method="random"),), heads=(task,))
        sources = load_sources(profile, data_sets([row]), paths or DataPaths(), storage=work / "data", progress=False)
        self.data = dict(sources.data)
        recipes = row_recipes(row, 0, profile, sources, 1)
        self.task, head = recipes.tasks[task], recipes.heads[task]
        if self.task.head.needs_class_scores:  # from the same random encoder, so that nothing is trained
            head = replace(head, class_scores=replace(head.class_scores, features=head.streams[0]))
        self.recipes = RowRecipes(encoders=recipes.encoders, heads={task: head})

    def run(
        self, storage: str | Path, *, stop_after: int | None = None, before: Callable[[Callable], None] | None = None
    ) -> dict[str, float]:
        """Make what is missing; the scores. ``made`` and ``extracted`` then say which stages, and which videos.

        ``before`` is called with a function that is about to run on another node.
        """
        import ray.data

        inline = InlineData(self.work / "actor node", stop_after)
        self.monkeypatch.setattr(ray.data, "from_items", inline.from_items)
        job = RowJob(
            storage=str(storage), resources=Resources(), catalog=None, data=self.data, glove=None, class_scores={},
            weights={}, recipes={("random", 0): self.recipes},
        )  # fmt: skip
        runner = RowWithoutRay(job, self.work / "head node")
        runner.before = before or runner.before
        try:
            folder = row_runner.retry_damaged(lambda: runner.head(self.task, *self.recipes.heads.values()))
        finally:
            self.made, self.extracted = runner.made, inline.extracted
        return json.loads((folder / SCORES).read_text())["scores"]

    def write_models(self, storage: str | Path, out: Path) -> RowModels:
        """The model folders of the row, as a sweep makes them at its end."""
        prints = dict.fromkeys(self.data, "f")
        sources = Sources(
            trimmed=None, trimmed_print="t", data=self.data, videos_prints=prints, labels_prints=prints
        )  # fmt: skip
        table = Experiment(name="table", title="Table", rows=(Row(name="random", label="Random", streams=()),))
        return write_row_models(table, smoke(), sources, StageStore(storage), {("random", 0): self.recipes}, out)


@pytest.fixture
def row(tiny_data, tiny_pantomime, tmp_path, monkeypatch) -> SmallRow:
    return SmallRow(tiny_data, tiny_pantomime, tmp_path, monkeypatch)


@pytest.fixture(scope="session")
def undisturbed(tiny_data, tiny_pantomime, tmp_path_factory) -> tuple[Path, dict[str, float]]:
    """(storage, scores) of a row that nothing happened to."""
    work = tmp_path_factory.mktemp("undisturbed")
    with pytest.MonkeyPatch.context() as patch:
        row = SmallRow(tiny_data, tiny_pantomime, work, patch)
        scores = row.run(work / "storage")
    assert row.made == ["encoders", "features", "class_scores", "heads"]
    return work / "storage", scores
