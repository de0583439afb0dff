"""Deliver the records of an outbox to MLflow: in their order, with their own times, each of them once.

A record is sent again when it is not known whether the store took it, so everything here may be repeated: runs are
found by their key before they are made; a point of a curve is left out if the run has one at that step; MLflow
itself drops a point that is there with the same time, step and value; parameters, tags, files and states
replace themselves.
"""

from __future__ import annotations

import logging
from functools import cached_property
from pathlib import Path
from typing import Any

from bsp_platform.tracking.outbox import Outbox, OutboxFile, Record

log = logging.getLogger(__name__)
KEY_TAG = "bsp.key"  # which row and seed of which configuration a run belongs to
HANDLE = "key:"  # begins what stands for the id of a run that could not be looked up
_ACTIONS = ("run", "params", "tags", "status", "artifact")  # and "metrics"
_POINTS = 1000  # MLflow takes no more at a time
# Errors that sending again cannot cure.
_FOR_GOOD = {
    "INVALID_PARAMETER_VALUE",
    "BAD_REQUEST",
    "RESOURCE_DOES_NOT_EXIST",
    "RESOURCE_ALREADY_EXISTS",
    "ALREADY_EXISTS",
}


class Undeliverable(Exception):
    """The record cannot be sent as what it needs is gone."""


class Delivery:
    """Sends what waits for one store, of our own process and of dead ones."""

    def __init__(self, outbox: Outbox):
        self.outbox = outbox
        self._senders: dict[str, Sender] = {}

    @cached_property
    def client(self) -> Any:
        """An ``MlflowClient``; with a data base, making it needs the data base, so it is made when it is needed."""
        from mlflow import MlflowClient

        return MlflowClient(tracking_uri=self.outbox.uri)

    def sender(self, header: Record) -> Sender:
        """Of the experiment that the first line of a file names."""
        name = header["experiment"]
        return self._senders.setdefault(name, Sender(self, name, header.get("artifacts")))

    def deliver(self, own: OutboxFile | None = None) -> int:
        """Send files that dead processes left, then ``own``. Returns how many records were sent.

        Raises what MLflow raises when the store is away; what has not been sent stays in its file.
        """
        count = 0
        with self.outbox.delivering():
            for file in self.outbox.left(own.path if own else None):
                try:
                    count += self._file(file)
                finally:
                    file.close()
            if own is not None:
                count += self._file(own)
            self.outbox.store_answered()
        return count

    def _file(self, file: OutboxFile) -> int:
        count, postponed = 0, []
        while group := file.head(_POINTS):
            if any(record is group[0] for record in postponed):
                break  # all that is left are files that the artifact store did not take
            sender = self.sender(file.header)
            try:
                sender.send(group)
            except Exception as error:  # whatever the store or the network raises
                if _for_good(error):
                    self._refuse(sender, group, error)
                elif group[0]["do"] == "artifact":  # does not hold up the rest: often another store
                    log.warning("artifact %s not taken yet: %s", group[0]["path"], error)
                    postponed.append(group[0])
                    file.later()
                    continue
                else:
                    raise
            for record in group:
                if record["do"] == "artifact":
                    self.outbox.drop_copy(Path(record["path"]))
            file.sent(len(group))
            count += len(group)
        return count

    def _refuse(self, sender: Sender, group: list[Record], error: Exception) -> None:
        if len(group) == 1:
            self.outbox.refuse(group[0], str(error))
            return
        for record in group:  # one of them spoilt it for the others
            try:
                sender.send([record])
            except Exception as own:
                if not _for_good(own):
                    raise
                self.outbox.refuse(record, str(own))


class Sender:
    """Writes records to one experiment; remembers what its runs hold already."""

    def __init__(self, delivery: Delivery, experiment: str, artifacts: str | None):
        self._delivery, self.experiment, self.artifacts = delivery, experiment, artifacts
        self.ids: dict[str, str] = {}  # run id by handle
        self.names: dict[str, set[str]] = {}  # by run id: the metrics that it held when it was looked up
        self.started: dict[str, int] = {}  # ms, by run id
        self._experiment_id = ""
        self._points: dict[tuple[str, str], dict[int, set[str]]] = {}  # by run id and metric: values by step

    @property
    def client(self) -> Any:
        return self._delivery.client

    def experiment_id(self) -> str:
        if not self._experiment_id:
            found = self.client.get_experiment_by_name(self.experiment)
            self._experiment_id = (
                found.experiment_id
                if found
                else self.client.create_experiment(self.experiment, artifact_location=self.artifacts)
            )
        return self._experiment_id

    def run_id(self, handle: str) -> str:
        """``handle`` itself, unless it stands for a run that could not be looked up."""
        if handle.startswith(HANDLE) and handle not in self.ids:
            run = self._find(handle.removeprefix(HANDLE))
            if run is None:
                raise Undeliverable(f"no run {handle.removeprefix(HANDLE)} in {self.experiment}")
            self._remember(handle, run)
        return self.ids.get(handle, handle)

    def _find(self, key: str) -> Any:
        where = f"tags.`{KEY_TAG}` = '{key}'"
        found = self.client.search_runs([self.experiment_id()], filter_string=where, max_results=1)
        return found[0] if found else None

    def _remember(self, handle: str, run: Any) -> None:
        self.ids[handle] = run.info.run_id
        self.names[run.info.run_id] = set(run.data.metrics)
        self.started[run.info.run_id] = run.info.start_time

    def send(self, group: list[Record]) -> None:
        """One record, or several with metrics."""
        if group[0]["do"] == "metrics":
            self._metrics(group)
        else:
            (record,) = group
            if record["do"] not in _ACTIONS:
                raise Undeliverable(f"{record['do']!r} is nothing that can be done")
            getattr(self, "_" + record["do"])(record)

    def _run(self, record: Record) -> None:
        run = self._find(record["key"])
        if run is None:
            tags = {"mlflow.runName": record["name"], KEY_TAG: record["key"], **record["tags"]}
            if record["parent"]:
                tags["mlflow.parentRunId"] = self.run_id(record["parent"])
            run = self.client.create_run(
                self.experiment_id(), start_time=record["time"], tags=tags, run_name=record["name"]
            )
        else:
            self.client.update_run(run.info.run_id, status="RUNNING")
        self._remember(HANDLE + record["key"], run)

    def _params(self, record: Record) -> None:
        from mlflow.entities import Param

        params = [Param(name, value) for name, value in record["params"].items()]
        self.client.log_batch(self.run_id(record["run"]), params=params)

    def _tags(self, record: Record) -> None:
        from mlflow.entities import RunTag

        tags = [RunTag(name, value) for name, value in record["tags"].items()]
        self.client.log_batch(self.run_id(record["run"]), tags=tags)

    def _status(self, record: Record) -> None:
        self.client.set_terminated(self.run_id(record["run"]), status=record["status"], end_time=record["time"])

    def _artifact(self, record: Record) -> None:
        path, folder, run_id = Path(record["path"]), record["folder"], self.run_id(record["run"])
        if not path.is_file():
            raise Undeliverable(f"{path} is gone")
        if record["final"]:
            for there in self.client.list_artifacts(run_id, folder):
                if there.path.split("/")[-1] == path.name and there.file_size == path.stat().st_size:
                    return
        self.client.log_artifact(run_id, str(path), folder)

    def _metrics(self, group: list[Record]) -> None:
        from mlflow.entities import Metric

        fresh: dict[str, list[Any]] = {}
        try:
            for record in group:
                run_id = self.run_id(record["run"])
                for name, value, step in record["points"]:
                    if self._is_new(run_id, name, step, value, record["unless"]):
                        fresh.setdefault(run_id, []).append(Metric(name, value, record["time"], step))
            for run_id, metrics in fresh.items():
                for first in range(0, len(metrics), _POINTS):
                    self.client.log_batch(run_id, metrics=metrics[first : first + _POINTS])
        except Exception:
            for run_id in fresh:  # it is not known what arrived: ask the store next time
                self.names.pop(run_id, None)
                self._points = {key: points for key, points in self._points.items() if key[0] != run_id}
            raise

    def _is_new(self, run_id: str, name: str, step: int, value: float, unless: str | None) -> bool:
        """``unless`` "step": no value is there at the step; "value": not this one; None: do not ask the store."""
        if unless is None:
            return True
        if run_id not in self.names:
            self.names[run_id] = set(self.client.get_run(run_id).data.metrics)
        if (run_id, name) not in self._points:
            points: dict[int, set[str]] = {}
            for point in self.client.get_metric_history(run_id, name) if name in self.names[run_id] else ():
                points.setdefault(point.step, set()).add(repr(float(point.value)))
            self._points[run_id, name] = points
        there = self._points[run_id, name].setdefault(step, set())
        new = not there if unless == "step" else repr(float(value)) not in there
        there.add(repr(float(value)))
        return new


def _for_good(error: Exception) -> bool:
    """Sending it again cannot help; the last two are errors of a program that wrote the record otherwise."""
    return getattr(error, "error_code", None) in _FOR_GOOD or isinstance(
        error, (Undeliverable, TypeError, AttributeError)
    )
