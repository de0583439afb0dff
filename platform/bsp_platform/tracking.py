"""MLflow: one parent run per experiment, one child per row and seed.

Only the driver of an experiment talks to MLflow. Runs are found again by a tag, so a continued sweep goes on
in the same runs. A tracking server that goes away neither stops a run nor loses a record: what cannot be sent
waits and is sent later, and what is still unsent at the end lies in a file beside the results.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

log = logging.getLogger(__name__)
_KEY = "bsp.key"  # tag: which row and seed of which configuration a run belongs to
_PAUSE_S = 20.0  # after a failure, so that a dead server costs little


def mlflow_name(name: str) -> str:
    """MLflow refuses "@" in metric names: "mAP@0.50" is "mAP_0.50" there."""
    return name.replace("@", "_")


class Tracker:
    """A thin writer on ``MlflowClient``. ``uri`` None is a SQLite file and an artifact folder in ``home``."""

    def __init__(self, uri: str | None, experiment: str, home: Path):
        logging.getLogger("mlflow").setLevel(logging.WARNING)
        logging.getLogger("alembic").setLevel(logging.WARNING)
        from mlflow.exceptions import MlflowException

        from mlflow import MlflowClient

        self.uri = uri or f"sqlite:///{home.resolve() / 'mlflow.db'}"
        local = self.uri.startswith("sqlite:///")  # artifacts beside the data base; a server knows its own place
        if local:
            home = Path(self.uri.removeprefix("sqlite:///")).absolute().parent
            (home / "artifacts").mkdir(parents=True, exist_ok=True)
        try:
            self.client = MlflowClient(tracking_uri=self.uri)
            found = self.client.get_experiment_by_name(experiment)
            location = (home / "artifacts").as_uri() if local else None
            self.experiment_id = (
                found.experiment_id if found else self.client.create_experiment(experiment, artifact_location=location)
            )
        except (MlflowException, OSError) as error:
            raise RuntimeError(
                f"cannot use the MLflow tracking store {self.uri}: {error}. Start the server or correct --tracking-uri"
            ) from error
        self._waiting: list[tuple[str, Callable[[], Any]]] = []
        self._refused: list[str] = []
        self._quiet_until = 0.0

    def run(self, key: str, name: str, *, parent: str | None = None, tags: dict[str, str] | None = None) -> str:
        """The id of the run with this key, found or created, with status RUNNING."""
        where = f"tags.`{_KEY}` = '{key}'"
        for run in self.client.search_runs([self.experiment_id], filter_string=where, max_results=1):
            self.client.update_run(run.info.run_id, status="RUNNING")
            return run.info.run_id
        tags = {"mlflow.runName": name, _KEY: key, **(tags or {})}
        if parent:
            tags["mlflow.parentRunId"] = parent
        return self.client.create_run(self.experiment_id, tags=tags, run_name=name).info.run_id

    def params(self, run_id: str, params: dict[str, Any]) -> None:
        from mlflow.entities import Param

        entities = [Param(name, str(value)[:6000]) for name, value in params.items()]
        self._send(f"params {params}", lambda: self.client.log_batch(run_id, params=entities))

    def metrics(self, run_id: str, metrics: dict[str, float], step: int = 0) -> None:
        self.history(run_id, "", [{"step": step, **metrics}])

    def history(self, run_id: str, prefix: str, records: list[dict[str, float]], axis: str = "step") -> None:
        """Log each record's numbers at its ``axis``; names get ``prefix``."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        entities = [
            Metric(mlflow_name(prefix + name), float(value), now, int(record[axis]))
            for record in records
            for name, value in record.items()
            if name != axis and isinstance(value, (int, float))
        ]
        for first in range(0, len(entities), 500):
            part = entities[first : first + 500]
            text = json.dumps([(m.key, m.value, m.step) for m in part])
            self._send(f"metrics {run_id} {text}", lambda part=part: self.client.log_batch(run_id, metrics=part))

    def logged_steps(self, run_id: str, metric: str) -> set[int]:
        """Steps at which ``metric`` is already recorded, so that a continued run does not repeat them."""
        try:
            return {m.step for m in self.client.get_metric_history(run_id, metric)}
        except Exception as error:  # the server went away; repeating a point does no harm
            log.warning("MLflow did not answer: %s", error)
            return set()

    def artifact(self, run_id: str, path: Path, folder: str | None = None) -> None:
        self._send(f"artifact {path}", lambda: self.client.log_artifact(run_id, str(path), folder))

    def finish(self, run_id: str, status: str = "FINISHED") -> None:
        self._send(f"finish {run_id} {status}", lambda: self.client.set_terminated(run_id, status=status))

    def _send(self, what: str, call: Callable[[], Any]) -> None:
        self._waiting.append((what, call))
        if time.monotonic() >= self._quiet_until:
            self.flush()

    def flush(self) -> int:
        """Send what waits, oldest first; returns how much is left."""
        from mlflow.exceptions import MlflowException

        while self._waiting:
            try:
                self._waiting[0][1]()
            except Exception as error:  # whatever the store or the network raises: keep, say so, go on
                if isinstance(error, MlflowException) and error.error_code == "INVALID_PARAMETER_VALUE":
                    log.warning("MLflow refuses a record (kept in a file): %s", error)
                    self._refused.append(self._waiting.pop(0)[0])  # sending it again cannot help
                    continue
                log.warning("MLflow store %s did not take a record (kept for later): %s", self.uri, error)
                self._quiet_until = time.monotonic() + _PAUSE_S
                break
            self._waiting.pop(0)
        return len(self._waiting)

    def close(self, unsent: Path) -> None:
        """Try a last time; what still cannot be sent is written to ``unsent``, one record a line."""
        self._quiet_until = 0.0
        self.flush()
        lost = self._refused + [what for what, _ in self._waiting]
        if lost:
            unsent.write_text("\n".join(lost) + "\n")
            log.warning("%d records could not be sent to MLflow; they are in %s", len(lost), unsent)

    def ui_command(self) -> str:
        """How to see the runs in a browser."""
        if self.uri.startswith("http"):
            return f"open {self.uri}"
        return f"mlflow server --backend-store-uri {quote(self.uri, safe=':/')} --host 127.0.0.1 --port 5000"

    def compare_url(self, run_ids: list[str]) -> str:
        """The UI's page that compares these runs."""
        base = self.uri.rstrip("/") if self.uri.startswith("http") else "http://127.0.0.1:5000"
        runs, experiments = (quote(json.dumps(ids)) for ids in (run_ids, [self.experiment_id]))
        return f"{base}/#/compare-runs?runs={runs}&experiments={experiments}"
