"""Runs in MLflow: comparing a record with the server, and sending the difference.

Everything is looked up before it is sent, so sending twice changes nothing: a run is found by the tag ``bsp.key``, a
point of a curve by its step, a file by its size. The tag ``bsp.sent`` comes last and says which record the run shows.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from filelock import FileLock

from bsp_platform.storage.stages import StageStore
from bsp_platform.tracking import page
from bsp_platform.tracking.names import metric_name
from bsp_platform.tracking.record import FAILURE_TAG, Point, RunRecord, attached, now_ms, shown_stages, stage_points

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import DatasetInput, Run

log = logging.getLogger(__name__)
KEY_TAG, SENT_TAG = "bsp.key", "bsp.sent"
_SQLITE = "sqlite:///"
_POINTS = 1000  # MLflow's limit of a request
_LONGEST = 5000  # characters of a tag or parameter


def shown_uri(uri: str) -> str:
    """The address without its password, if it has one."""
    return re.sub(r"(://[^/:@]+):[^/@]+@", r"\1:***@", uri)


@dataclass
class Lacking:
    """What MLflow lacks of a record; false if nothing."""

    run: bool = False  # the run itself
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    points: list[Point] = field(default_factory=list)
    files: list[tuple[Path, str]] = field(default_factory=list)  # and their folder in MLflow
    data: dict[str, str] = field(default_factory=dict)  # data sets and their fingerprints
    page: dict[str, str] = field(default_factory=dict)  # tags of the experiment
    state: bool = False

    def __bool__(self) -> bool:
        return any((self.run, self.params, self.tags, self.points, self.files, self.data, self.page, self.state))

    def __str__(self) -> str:
        counts = ((len(self.params), "parameters"), (len(self.tags), "tags"), (len(self.points), "points"))
        parts = [f"{count} {what}" for count, what in counts if count] + [path.name for path, _ in self.files]
        parts += [f"data set {name}" for name in self.data] + (["the experiment's page"] if self.page else [])
        return ", ".join((["the run"] if self.run else []) + parts + (["its state"] if self.state else []))


class MlflowStore:
    """A tracking server, or a SQLite file with artifacts beside it. Raises MLflow's error if it does not answer."""

    def __init__(self, uri: str | None, home: Path):
        """``home`` holds the SQLite file if ``uri`` is None, and a lock."""
        self.uri, self.artifacts = uri or f"{_SQLITE}{home.resolve() / 'mlflow.db'}", None
        if self.uri.startswith(_SQLITE):  # a server knows its own place for artifacts
            path = Path(self.uri.removeprefix(_SQLITE)).absolute()
            self.uri, home, self.artifacts = f"{_SQLITE}{path}", path.parent, (path.parent / "artifacts").as_uri()
        home.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(str(home / "mlflow.lock"))  # two processes must not make the same run
        # This file exists once the store has answered, so the address is right. A hash, as a URI may hold a password.
        self._answered = home / f"answered-{hashlib.sha256(self.uri.encode()).hexdigest()[:12]}"
        self._experiments: dict[str, str] = {}
        self._runs: dict[tuple[str, str], str] = {}
        self._histories: dict[str, _History] = {}  # by run, of those that are logged to live

    @cached_property
    def client(self) -> MlflowClient:
        """Made at its first use, as it connects to the data base."""
        from mlflow import MlflowClient

        for name in ("mlflow", "alembic"):  # now, as the import sets the levels
            logging.getLogger(name).setLevel(logging.WARNING)
        return MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)

    def first_contact(self, experiment: str) -> Exception | None:
        """Make the experiment; the error if the store does not answer now. RuntimeError if it never has."""
        try:
            self.experiment_id(experiment)
        except Exception as error:  # whatever MLflow, the data base or the network raises
            if self._answered.exists():
                return error
            raise RuntimeError(
                f"cannot use the MLflow tracking store {shown_uri(self.uri)}: {error}. "
                "Start the server or correct --tracking-uri"
            ) from error
        self._answered.touch()
        return None

    def _experiment(self, name: str) -> str | None:
        if name not in self._experiments and (found := self.client.get_experiment_by_name(name)):
            self._experiments[name] = found.experiment_id
        return self._experiments.get(name)

    def experiment_id(self, name: str) -> str:
        """Id of the experiment with this name, which is created if need be."""
        with self._lock:
            if (found := self._experiment(name)) is None:
                found = self.client.create_experiment(name, artifact_location=self.artifacts)
                self._experiments[name] = found
        return found

    def find(self, experiment: str, key: str) -> Run | None:
        """The run with this key."""
        if (number := self._experiment(experiment)) is None:
            return None
        runs = self.client.search_runs([number], filter_string=f"tags.`{KEY_TAG}` = '{key}'", max_results=1)
        if runs:
            self._runs[experiment, key] = runs[0].info.run_id
        return runs[0] if runs else None

    def run_id(self, record: RunRecord) -> str:
        """Id of the record's run, which is created if need be."""
        place = record.experiment, record.key
        if place not in self._runs:
            with self._lock:
                if self.find(*place) is None:
                    tags = {KEY_TAG: record.key}
                    if record.parent and (parent := self.find(record.experiment, record.parent)):
                        tags["mlflow.parentRunId"] = parent.info.run_id
                    run = self.client.create_run(
                        self.experiment_id(record.experiment), record.started_ms, tags, run_name=record.name
                    )
                    self._runs[place] = run.info.run_id
        return self._runs[place]

    def lacking(self, store: StageStore, record: RunRecord) -> Lacking:
        """What the run does not show yet of the record and of its stages in ``store``."""
        run = self.find(record.experiment, record.key)
        tags, params = (run.data.tags, run.data.params) if run else ({}, {})
        if tags.get(SENT_TAG) == record.content_hash:
            return Lacking()
        lacking = Lacking(run=run is None, state=True)
        wanted = {metric_name(name): text[:_LONGEST] for name, text in record.tags.items()}
        wanted[page.TABLE_TAG] = record.parent or record.key
        if (number := self._experiment(record.experiment)) is not None:
            lacking.page = page.experiment_tags(record, number, self.client.get_experiment(number).tags)
            wanted |= {page.NOTE_TAG: text} if (text := page.note(record, number)) else {}
        given = {of.dataset.name: of.dataset.digest for of in run.inputs.dataset_inputs} if run and run.inputs else {}
        lacking.data = {name: text for name, text in record.data.items() if given.get(name) != _digest(text)}
        lacking.tags = {name: text for name, text in wanted.items() if tags.get(name) != text}
        # MLflow lets no parameter change, so one that differs stays.
        wanted = {metric_name(name): text[:_LONGEST] for name, text in record.params.items()}
        lacking.params = {name: text for name, text in wanted.items() if name not in params}
        history = _History(self.client, run)
        ended_ms = record.ended_ms or now_ms()
        for stage, folder in shown_stages(store, record):
            lacking.points += [p for p in stage_points(stage, folder, ended_ms) if p.step not in history.of(p.name)]
            sizes = self._artifact_sizes(run, stage.folder)
            files = (folder / name for name in stage.files)
            lacking.files += [(path, stage.folder) for path in files if sizes.get(path.name) != path.stat().st_size]
        for point in record.points:
            if repr(history.of(point.name).get(point.step)) != repr(point.value):  # nan is not equal to itself
                lacking.points.append(point)
        # Scores first, as the page that compares runs opens on the first of their metrics.
        lacking.points.sort(key=lambda point: point.name.partition("/")[0])
        lacking.files += [(path, "") for path in attached(store, record)]
        return lacking

    def _artifact_sizes(self, run: Run | None, folder: str) -> dict[str, int | None]:
        """Bytes by name; empty if the artifact store, often another server, does not answer."""
        try:
            found = self.client.list_artifacts(run.info.run_id, folder or None) if run else []
        except Exception:  # whatever it raises: sending the files will raise it again
            return {}
        return {file.path.split("/")[-1]: file.file_size for file in found}

    def send(self, store: StageStore, record: RunRecord) -> None:
        """Send what the run lacks of the record, files last. ArtifactsNotSent if the artifact store refuses them."""
        from mlflow.entities import Param, RunTag

        run_id = self.run_id(record)
        lacking = self.lacking(store, record)
        if not lacking:
            return
        self._histories.pop(run_id, None)
        self.client.log_batch(
            run_id,
            params=[Param(name, text) for name, text in lacking.params.items()],
            tags=[RunTag(name, text) for name, text in lacking.tags.items()],
        )
        if lacking.data:
            self.client.log_inputs(run_id, [_data_set(name, text) for name, text in lacking.data.items()])
        for name, text in lacking.page.items():
            self.client.set_experiment_tag(self.experiment_id(record.experiment), name, text)
        if FAILURE_TAG not in record.tags and FAILURE_TAG in self.client.get_run(run_id).data.tags:
            self.client.delete_tag(run_id, FAILURE_TAG)
        self._log(run_id, lacking.points, record.ended_ms or now_ms())
        if record.status == "RUNNING":
            self.client.update_run(run_id, status=record.status)
        else:
            self.client.set_terminated(run_id, status=record.status, end_time=record.ended_ms)
        for path, folder in lacking.files:
            try:
                self.client.log_artifact(run_id, str(path), folder or None)
            except Exception as error:  # whatever their store raises
                raise ArtifactsNotSent(f"{path} is not taken: {error}") from error
        self.client.set_tag(run_id, SENT_TAG, record.content_hash)

    def log(self, record: RunRecord, points: list[Point]) -> None:
        """Log these points to the record's run; points at a step that the run has already are left out."""
        run_id = self.run_id(record)
        history = self._histories.pop(run_id, None) or _History(self.client, self.client.get_run(run_id))
        ended_ms = record.ended_ms or now_ms()
        new = [p for p in points if p.step not in history.of(p.name)]
        self._log(run_id, new, ended_ms)
        for point in new:
            history.of(point.name)[point.step] = point.value
        self._histories[run_id] = history  # not after an error, when it is unknown what arrived

    def _log(self, run_id: str, points: list[Point], ended_ms: int) -> None:
        from mlflow.entities import Metric

        metrics = [Metric(metric_name(p.name), p.value, p.time_ms or ended_ms, p.step) for p in points]
        for first in range(0, len(metrics), _POINTS):
            self.client.log_batch(run_id, metrics=metrics[first : first + _POINTS])

    def ui_command(self) -> str:
        """How to see the runs in a browser."""
        if self.uri.startswith("http"):
            return f"open {shown_uri(self.uri)}"
        store = quote(self.uri, safe=":/")
        hosts = "localhost:5000,127.0.0.1:5000"
        where = f"--host 127.0.0.1 --port 5000 --allowed-hosts {hosts}"
        return f"mlflow server --app-name bsp --backend-store-uri {store} {where}"

    def table_url(self, parent: RunRecord, *, charts: bool = False) -> str:
        """The UI's page of a table, or of its charts; text if MLflow has none yet."""
        if (number := self._experiments.get(parent.experiment)) is None:
            return "when MLflow is back, and bsp deliver has sent the runs"
        return f"{page.base_url(shown_uri(self.uri))}/{page.runs_path(number, parent.key, charts=charts)}"

    def compare_url(self, records: Iterable[RunRecord]) -> str:
        """The UI's page that compares those of these runs that MLflow has."""
        found = [(record.experiment, self._runs.get((record.experiment, record.key))) for record in records]
        ids = [run_id for _, run_id in found if run_id]
        if not ids:
            return "when MLflow is back, and bsp deliver has sent the runs"
        experiments = [self._experiments[name] for name in dict.fromkeys(name for name, run_id in found if run_id)]
        return f"{page.base_url(shown_uri(self.uri))}/{page.compare_path(ids, experiments)}"


class ArtifactsNotSent(RuntimeError):
    """Some files of a run could not be sent; all else was."""


# MLflow's codes of errors that concern one run only.
_RUN_ERRORS = {"INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_DOES_NOT_EXIST", "RESOURCE_ALREADY_EXISTS"}


def is_run_error(error: Exception) -> bool:
    """Whether an error concerns one run only; any other means that MLflow does not answer."""
    kinds = (ArtifactsNotSent, TypeError, AttributeError, ValueError, KeyError)
    return isinstance(error, kinds) or getattr(error, "error_code", None) in _RUN_ERRORS


def _digest(fingerprint: str) -> str:
    return fingerprint[:36]  # MLflow's longest


def _data_set(name: str, fingerprint: str) -> DatasetInput:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    source = json.dumps({"fingerprint": fingerprint})
    context = "pre-training" if name.startswith("trimmed") else "localisation"
    return DatasetInput(
        Dataset(name=name, digest=_digest(fingerprint), source_type="local", source=source),
        tags=[InputTag("mlflow.data.context", context)],
    )


class _History:
    """Values by step of a run's metrics, each metric fetched once; of several values at a step the newest counts."""

    def __init__(self, client: MlflowClient, run: Run | None):
        self._client, self._run = client, run
        self._steps: dict[str, dict[int, float]] = {}

    def of(self, name: str) -> dict[int, float]:
        name = metric_name(name)
        if name not in self._steps:
            points = []
            if self._run is not None and name in self._run.data.metrics:
                points = self._client.get_metric_history(self._run.info.run_id, name)
            self._steps[name] = {p.step: p.value for p in sorted(points, key=lambda p: p.timestamp)}
        return self._steps[name]
