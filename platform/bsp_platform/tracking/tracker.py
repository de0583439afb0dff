"""Sending records to MLflow in a thread, so that a slow or unreachable server does not delay the run.

A record is in the storage before it is sent, so a failed sending loses nothing: it is tried again with the next
record, at the end of the run, by the same command later, and by ``bsp deliver``.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from bsp_platform.storage.errors import StorageFull, StorageUnavailable
from bsp_platform.storage.stages import StageStore
from bsp_platform.tracking.mlflow_store import MlflowStore, is_run_error, shown_uri
from bsp_platform.tracking.record import RunRecord, attach, entry_points, now_ms, opened, write_record

log = logging.getLogger(__name__)
_PAUSE_S = 30.0  # after a call that was not answered, before the next one


class Tracker:
    """Shows records in MLflow (:class:`~bsp_platform.tracking.mlflow_store.MlflowStore`, whose arguments these are).

    RuntimeError for a store that does not answer and never did: its address may be wrong. One that has answered
    before is taken to be unreachable for a while.
    """

    def __init__(self, uri: str | None, experiment: str, home: Path, storage: StageStore):
        self.storage, self.mlflow = storage, MlflowStore(uri, home)
        self._shown: dict[str, RunRecord] = {}
        self._waiting: dict[str, RunRecord] = {}  # records to be sent, by key; parents first
        self._refused: dict[str, RunRecord] = {}  # of those, records with errors of their own; sent again at the end
        self._retry_at = 0.0  # monotonic
        self._unreachable = False
        self._thread = ThreadPoolExecutor(1, "mlflow")
        if error := self.mlflow.first_contact(experiment):
            self._report_unreachable(error)

    def begin(self, record: RunRecord, *, running: bool = True) -> RunRecord:
        """Show the record as :func:`~bsp_platform.tracking.record.opened` merges it with the run's earlier one."""
        return self.show(opened(record, self.storage, running=running))

    def show(self, record: RunRecord) -> RunRecord:
        """Write the record into the storage, and send what MLflow lacks of it. Returns it."""
        if self._shown.get(record.key) == record:
            return record
        self._shown[record.key] = record
        try:
            write_record(self.storage, record)
        except (OSError, StorageFull, StorageUnavailable) as error:
            log.warning("the record of %s is not kept: %s", record.name, error)
        self._waiting[record.key] = record
        self._thread.submit(self._send_waiting)
        return record

    def live(self, record: RunRecord, prefix: str, entry: Mapping[str, float]) -> None:
        """Send an entry of the history of an unfinished stage; not sent again, as the finished stage holds it."""
        points = entry_points(entry, prefix, "step", now_ms())

        def send() -> None:
            self._send_waiting()
            self._try(lambda: self.mlflow.log(record, points))

        self._thread.submit(send)

    def _send_waiting(self) -> None:
        for key, record in list(self._waiting.items()):
            if self._refused.get(key) is not record:
                if self._try(partial(self.mlflow.send, self.storage, record)):
                    if self._waiting.get(key) is record:
                        del self._waiting[key]
                elif not self._unreachable:
                    self._refused[key] = record

    def _try(self, call: Callable[[], None]) -> bool:
        """Call, unless MLflow did not answer in the last seconds; whether the call succeeded."""
        if time.monotonic() < self._retry_at:
            return False
        error: Exception | None = None
        try:
            call()
        except Exception as caught:  # whatever MLflow, the data base or the network raises
            error = caught
        if error is not None and not is_run_error(error):
            self._report_unreachable(error)
            return False
        if error is not None:
            log.warning("MLflow: %s", error)
        if self._unreachable:
            log.warning("MLflow store %s is back", shown_uri(self.mlflow.uri))
            self._unreachable = False
        return error is None

    def _report_unreachable(self, error: Exception) -> None:
        if not self._unreachable:
            log.warning(
                "MLflow store %s does not answer (%s); what it lacks is sent when it is back",
                shown_uri(self.mlflow.uri), error,
            )  # fmt: skip
        self._unreachable, self._retry_at = True, time.monotonic() + _PAUSE_S

    @contextmanager
    def system_metrics(self, record: RunRecord) -> Iterator[None]:
        """While the context lasts, MLflow's own monitor logs the load of this machine to the run (``system/...``); the
        monitor ends at the first call that MLflow does not answer."""
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        monitors: list[SystemMetricsMonitor] = []

        def start() -> None:
            run_id = self.mlflow.run_id(record)
            monitors.append(SystemMetricsMonitor(run_id, 30, resume_logging=True, tracking_uri=self.mlflow.uri))
            monitors[0].start()

        self._thread.submit(self._try, start)
        try:
            yield
        finally:
            self._thread.submit(lambda: [monitor.finish() for monitor in monitors])

    def end(self, record: RunRecord, files: Iterable[Path], *, failed: bool = False) -> None:
        """Show the end of the parent, with these files, and :meth:`close`."""
        record = attach(self.storage, record, files)
        self.show(record.with_state("FAILED" if failed else "FINISHED", now_ms()))
        self.close()

    def close(self) -> int:
        """Send what MLflow lacks a last time, and wait for it; returns the number of runs that still lack something."""

        def last() -> int:
            self._retry_at = 0.0
            self._refused.clear()
            self._send_waiting()
            return len(self._waiting)

        left = self._thread.submit(last).result()
        self._thread.shutdown()
        if left:
            log.warning(
                "%d runs are not whole in MLflow; run the same command again, or: bsp deliver --storage %s",
                left, self.storage.address,
            )  # fmt: skip
        return left
