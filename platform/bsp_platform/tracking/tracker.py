"""MLflow: one parent run per experiment, one child per row and seed.

Only the driver of an experiment talks to MLflow, and a thread of its own, so that a tracking server that is slow or
gone holds up nothing. Runs are found again by a tag, so a continued sweep goes on in the same runs. Every record is on
disk before it is sent (:mod:`bsp_platform.tracking.outbox`); what cannot be sent is sent when the server is back, by
the next experiment with the same server, or by ``bsp deliver``: nothing is lost, nothing doubled, and every record
keeps the time at which it was made.
"""

from __future__ import annotations

import json
import logging
import re
import threading
import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from bsp_platform.tracking.delivery import HANDLE, Delivery
from bsp_platform.tracking.outbox import Outbox, shown_uri
from bsp_platform.tracking.system_metrics import SystemMetrics

log = logging.getLogger(__name__)
_PAUSES_S = (1.0, 60.0)  # between tries, doubled from the first to the second
_SQLITE = "sqlite:///"


def mlflow_name(name: str) -> str:
    """MLflow refuses most punctuation in names: "mAP@0.50" is "mAP_0.50" there, "dc+ss" is "dc_ss"."""
    return re.sub(r"[^\w/.\- :]", "_", name)


class Tracker:
    """A writer to MLflow. ``home`` holds the outbox and, with ``uri`` None, a SQLite file and an artifact folder.

    A store that does not answer and never did is an error (RuntimeError): its address may be wrong. One that has
    answered before is away for a while: everything is recorded, runs included, and delivered later.
    """

    def __init__(self, uri: str | None, experiment: str, home: Path):
        logging.getLogger("mlflow").setLevel(logging.WARNING)
        logging.getLogger("alembic").setLevel(logging.WARNING)
        self.uri, artifacts = uri or f"{_SQLITE}{home.resolve() / 'mlflow.db'}", None
        if self.uri.startswith(_SQLITE):  # artifacts beside the data base; a server knows its own place
            path = Path(self.uri.removeprefix(_SQLITE)).absolute()
            self.uri, home, artifacts = f"{_SQLITE}{path}", path.parent, (path.parent / "artifacts").as_uri()
            (path.parent / "artifacts").mkdir(parents=True, exist_ok=True)
        self._outbox = Outbox(home, self.uri)
        self._file = self._outbox.new_file({"experiment": experiment, "artifacts": artifacts})
        self._delivery = Delivery(self._outbox)
        self._sender = self._delivery.sender(self._file.header)
        self._sending = threading.Lock()
        self._away = False
        self._closed, self._news = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None
        self._first_contact()

    def _first_contact(self) -> None:
        """Make the experiment, and deliver what earlier processes could not."""
        try:
            with self._outbox.delivering():  # two processes must not make the same new data base
                self._sender.experiment_id()
                self._outbox.store_answered()
        except Exception as error:
            if not self._outbox.answered:
                self._file.close()
                raise RuntimeError(
                    f"cannot use the MLflow tracking store {shown_uri(self.uri)}: {error}. "
                    "Start the server or correct --tracking-uri"
                ) from error
            self._say_away(error)
        else:
            self.flush()

    def run(self, key: str, name: str, *, parent: str | None = None, tags: dict[str, str] | None = None) -> str:
        """The run with this key, found or created, with status RUNNING: its id, or what stands for it meanwhile."""
        self._record("", {"do": "run", "key": key, "name": name, "parent": parent, "tags": tags or {}}, wake=False)
        if self._away:
            self._wake()
        else:
            self.flush()
        return self._sender.ids.get(HANDLE + key, HANDLE + key)

    def recorded(self, run_id: str) -> frozenset[str]:
        """Names of the metrics that the run held when :meth:`run` found it; none if the store was away."""
        return frozenset(self._sender.names.get(self._known(run_id), ()))

    def params(self, run_id: str, params: dict[str, Any]) -> None:
        named = {mlflow_name(name): str(value)[:6000] for name, value in params.items()}
        self._record(run_id, {"do": "params", "params": named})

    def tags(self, run_id: str, tags: dict[str, str]) -> None:
        self._record(run_id, {"do": "tags", "tags": {mlflow_name(name): value for name, value in tags.items()}})

    def metrics(self, run_id: str, metrics: dict[str, float], step: int = 0) -> None:
        """Log numbers, except those that the run has at this step already with the same value."""
        points = [[mlflow_name(name), float(value), step] for name, value in metrics.items()]
        self._record(run_id, {"do": "metrics", "points": points, "unless": "value"})

    def history(self, run_id: str, prefix: str, records: list[dict[str, float]], axis: str = "step") -> None:
        """Log each record's numbers at its ``axis``; names get ``prefix``.

        A point is left out if the run has a value at its step: a row that continues from a checkpoint repeats some.
        """
        points = [
            [mlflow_name(prefix + name), float(value), int(record[axis])]
            for record in records
            for name, value in record.items()
            if name != axis and isinstance(value, (int, float))
        ]
        for first in range(0, len(points), 500):
            self._record(run_id, {"do": "metrics", "points": points[first : first + 500], "unless": "step"})

    def measured(self, run_id: str, metrics: dict[str, float], step: int) -> None:
        """Log numbers that are never measured twice; the store is not asked for earlier ones."""
        points = [[mlflow_name(name), float(value), step] for name, value in metrics.items()]
        self._record(run_id, {"do": "metrics", "points": points, "unless": None})

    def artifact(self, run_id: str, path: Path, folder: str | None = None, *, final: bool = False) -> None:
        """Store a file with the run.

        ``final``: it belongs to a finished stage and never changes; it is sent from where it lies, and only if it
        is not there yet. Any other file is copied now.
        """
        path = path.absolute() if final else self._outbox.keep_copy(path)
        self._record(run_id, {"do": "artifact", "path": str(path), "folder": folder, "final": final})

    def finish(self, run_id: str, status: str = "FINISHED") -> None:
        self._record(run_id, {"do": "status", "status": status})

    def system_metrics(self, run_id: str, every_s: float = 30.0) -> AbstractContextManager:
        """While the context lasts, log this machine's load to the run as MLflow does: ``system/...``."""
        return SystemMetrics(self, run_id, every_s)

    def started_ms(self, run_id: str) -> int | None:
        """When the run began, as far as the store has told."""
        return self._sender.started.get(self._known(run_id))

    def _record(self, run_id: str, record: dict[str, Any], *, wake: bool = True) -> None:
        if self._closed.is_set():
            raise RuntimeError("this Tracker is closed")
        self._file.append({"time": int(time.time() * 1000), **({"run": run_id} if run_id else {}), **record})
        if wake:
            self._wake()

    def _wake(self) -> None:
        self._news.set()
        if self._thread is None:
            self._thread = threading.Thread(target=self._keep_sending, name="mlflow-delivery", daemon=True)
            self._thread.start()

    def _keep_sending(self) -> None:
        pause = _PAUSES_S[0]
        while not self._closed.is_set():
            self._news.wait()
            self._news.clear()
            while not self._closed.is_set() and self._file.waiting:
                if not self.flush():
                    pause = _PAUSES_S[0]
                    break
                self._closed.wait(pause)
                pause = min(2 * pause, _PAUSES_S[1])

    def flush(self) -> int:
        """Send what waits, oldest first, now; returns how many records are left."""
        with self._sending:
            try:
                sent = self._delivery.deliver(self._file)
            except Exception as error:  # whatever the store or the network raises: keep, say so, go on
                self._say_away(error)
            else:
                if self._away:
                    log.warning("MLflow store %s is back: %d records delivered", shown_uri(self.uri), sent)
                self._away = False
            return self._file.waiting

    def _say_away(self, error: Exception) -> None:
        if not self._away:
            log.warning(
                "MLflow store %s does not answer (%s); records are kept in %s and delivered when it is back",
                shown_uri(self.uri), error, self._file.path,
            )  # fmt: skip
        self._away = True

    def close(self) -> int:
        """Try a last time. What still cannot be sent stays in the outbox; returns how many records."""
        self._closed.set()
        self._news.set()
        left = self.flush()
        if left:
            log.warning(
                "%d records wait for MLflow in %s; the next experiment with this store delivers them, or: bsp deliver",
                left, self._file.path,
            )  # fmt: skip
        with self._sending:
            self._file.close()
        return left

    def ui_command(self) -> str:
        """How to see the runs in a browser."""
        if self.uri.startswith("http"):
            return f"open {shown_uri(self.uri)}"
        store = quote(self.uri, safe=":/")
        hosts = "localhost:5000,127.0.0.1:5000"
        return f"mlflow server --backend-store-uri {store} --host 127.0.0.1 --port 5000 --allowed-hosts {hosts}"

    def compare_url(self, run_ids: list[str]) -> str:
        """The UI's page that compares these runs."""
        known = [run_id for run_id in map(self._known, run_ids) if not run_id.startswith(HANDLE)]
        if not known:
            return "when the records are delivered"
        base = shown_uri(self.uri).rstrip("/") if self.uri.startswith("http") else "http://127.0.0.1:5000"
        runs, experiments = (quote(json.dumps(ids)) for ids in (known, [self._sender.experiment_id()]))
        return f"{base}/#/compare-runs?runs={runs}&experiments={experiments}"

    def _known(self, run_id: str) -> str:
        return self._sender.ids.get(run_id, run_id)

    @property
    def client(self) -> Any:
        """The ``MlflowClient``, for what is to be read."""
        return self._delivery.client

    @property
    def experiment_id(self) -> str:
        return self._sender.experiment_id()
