"""Everything that an MLflow store shows, to be compared with another one's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bsp_platform.tracking.mlflow_store import MlflowStore


def all_of(mlflow: MlflowStore, folder: Path, experiment: str = "exp") -> dict[str, dict[str, Any]]:
    """By key of the run, everything that MLflow shows: also times, all points, and what is in the files."""
    client = mlflow.client
    runs = client.search_runs([client.get_experiment_by_name(experiment).experiment_id])
    keys = {run.info.run_id: run.data.tags["bsp.key"] for run in runs}
    assert len(set(keys.values())) == len(runs), "two runs with one key"

    def files(run_id: str, path: str | None = None) -> Iterator[tuple[str, bytes]]:
        for found in client.list_artifacts(run_id, path):
            if found.is_dir:
                yield from files(run_id, found.path)
            else:
                place = folder / run_id
                place.mkdir(parents=True, exist_ok=True)
                yield found.path, Path(client.download_artifacts(run_id, found.path, str(place))).read_bytes()

    def points(run_id: str, name: str) -> list[tuple[int, str, int]]:
        return sorted((p.step, repr(p.value), p.timestamp) for p in client.get_metric_history(run_id, name))

    return {
        keys[run.info.run_id]: {
            "info": (run.info.run_name, run.info.status, run.info.start_time, run.info.end_time),
            "parent": keys.get(run.data.tags.get("mlflow.parentRunId")),
            "params": run.data.params,
            "tags": {name: text for name, text in run.data.tags.items() if not name.startswith("mlflow.")},
            "metrics": {name: points(run.info.run_id, name) for name in run.data.metrics},
            "files": dict(files(run.info.run_id)),
        }
        for run in runs
    }
