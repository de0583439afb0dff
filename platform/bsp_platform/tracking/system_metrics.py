"""The load of the driver's machine as MLflow metrics, under MLflow's own names (``system/cpu_utilization_percentage``).

MLflow's monitor sends with a client of its own and ends at the first failure, so only its measuring is used here:
the numbers go through the tracker, which keeps them while the server is away.
"""

from __future__ import annotations

import contextlib
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bsp_platform.tracking.tracker import Tracker


class SystemMetrics:
    """Context manager with a thread that measures every ``every_s`` seconds; the step is seconds of the run."""

    def __init__(self, tracker: Tracker, run_id: str, every_s: float):
        self.tracker, self.run_id, self.every_s = tracker, run_id, every_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._measure, name="system-metrics", daemon=True)

    def __enter__(self) -> SystemMetrics:
        self._thread.start()
        return self

    def __exit__(self, *exc) -> None:
        self._stop.set()
        self._thread.join()

    def _measure(self) -> None:
        from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
        from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
        from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
        from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor

        monitors = [CPUMonitor(), DiskMonitor(), NetworkMonitor()]
        with contextlib.suppress(ImportError, RuntimeError):  # no NVIDIA GPU, or nvidia-ml-py is not installed
            monitors.append(GPUMonitor())
        monitors[0].collect_metrics()  # the first percentage of psutil means nothing
        monitors[0].clear_metrics()
        began_ms = self.tracker.started_ms(self.run_id) or int(time.time() * 1000)
        ended = False
        while not ended:
            ended = self._stop.wait(self.every_s)  # a last time at the end
            numbers = {}
            for monitor in monitors:
                monitor.collect_metrics()
                numbers |= {f"system/{name}": value for name, value in monitor.aggregate_metrics().items()}
                monitor.clear_metrics()
            self.tracker.measured(self.run_id, numbers, step=(int(time.time() * 1000) - began_ms) // 1000)
