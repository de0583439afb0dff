"""How an experiment looks in MLflow's UI: as model training, with a saved view of every table and a description.

The tags and the view's fields are those of MLflow 3.17: a saved view is a tag ``mlflow.sharedViewState.KEY`` and opens
by ``viewStateShareKey=KEY``; it is in the menu "Views", too. The parent's record says what the table's columns are.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from urllib.parse import quote

from bsp_platform.tracking.names import metric_name
from bsp_platform.tracking.record import FAILURE_TAG, RunRecord

TABLE_TAG = "bsp.table"  # of a parent and its runs: the parent's key
NOTE_TAG = "mlflow.note.content"
_KIND_TAG, _VIEW_TAG = "mlflow.experimentKind", "mlflow.sharedViewState."
_SHOWN_TAG = (
    "mlflow.bsp.shown"  # hidden in lists; of an experiment: when the run ended, or began, that its description is of
)
_LONGEST_NOTE = 7500  # characters; MLflow takes 8000 in a run's description
_TEXT_PX = 260  # of a column that holds a sentence


def view_key(key: str) -> str:
    """The key of a table's view, from that of the parent's record."""
    return re.sub(r"[^\w.-]", "-", key)


def runs_path(experiment_id: str, key: str, *, charts: bool = False) -> str:
    """The address, within MLflow, of the view of a table, or of its charts."""
    mode = "&compareRunsMode=CHART" if charts else ""
    return f"#/experiments/{experiment_id}/runs?workflowType=machine_learning&viewStateShareKey={view_key(key)}{mode}"


def note(record: RunRecord, experiment_id: str) -> str:
    """The description, Markdown, with the links to the table and its charts."""
    if not record.note or not record.columns:
        return record.note[:_LONGEST_NOTE]
    title, _, rest = record.note.partition("\n")
    links = [
        f"[{text}]({runs_path(experiment_id, record.key, charts=charts)})"
        for text, charts in (("Open the table", False), ("charts", True))
    ]
    text = f"{title} · {' · '.join(links)}\n{rest}"
    if len(text) > _LONGEST_NOTE:
        text = text[: text.rindex("\n", 0, _LONGEST_NOTE)] + "\n\n(the rest is in the artifact table.md)"
    return text


def experiment_tags(record: RunRecord, experiment_id: str, present: Mapping[str, str]) -> dict[str, str]:
    """What the experiment's tags lack of a parent's record. Of several parents, the latest one gives the description,
    whatever the order in which they are sent."""
    if record.parent:
        return {}
    wanted = {_KIND_TAG: "custom_model_development"}
    if record.columns:
        wanted[f"{_VIEW_TAG}{view_key(record.key)}"] = _view(record)
    moment = record.ended_ms or record.started_ms
    if record.note and moment >= int(present.get(_SHOWN_TAG, 0)):
        wanted |= {NOTE_TAG: note(record, experiment_id), _SHOWN_TAG: str(moment)}
    return {name: text for name, text in wanted.items() if present.get(name) != text}


def _view(record: RunRecord) -> str:
    """The saved view: the table's runs in the order of their names, which begin with the row's number, flat."""
    columns = [_column(name) for name in record.columns]
    state = {
        "searchFilter": f"tags.`{TABLE_TAG}` = '{record.key}'",
        "orderByKey": "tags.`mlflow.runName`",
        "orderByAsc": True,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "modelVersionFilter": "All Runs",
        "datasetsFilter": [],
        "selectedColumns": columns,
        "columnOrder": columns,
        "columnWidths": {column: _width_px(column) for column in columns},
        "runsHiddenMode": "SHOW_ALL",
    }
    moment = record.started_ms
    return json.dumps({"name": record.name, "createdAt": moment, "updatedAt": moment, "state": json.dumps(state)})


def _width_px(column: str) -> int:
    name = column.split("`")[1]
    return _TEXT_PX if name == FAILURE_TAG else 24 + 8 * max(len(name), 8)


def _column(name: str) -> str:
    """The UI's name of "metrics.ours/mAP@0.50", "params.seed", "tags.failure", "attributes.Duration"."""
    group, _, rest = name.partition(".")
    return f"{group}.`{metric_name(rest) if group != 'attributes' else rest}`"


def base_url(uri: str) -> str:
    """Where a browser finds the UI of the store at ``uri``, whose password is hidden already."""
    return uri.rstrip("/") if uri.startswith("http") else "http://127.0.0.1:5000"


def compare_path(run_ids: list[str], experiment_ids: list[str]) -> str:
    """The address, within MLflow, of the page that compares runs; of all their metrics."""
    return f"#/compare-runs?runs={quote(json.dumps(run_ids))}&experiments={quote(json.dumps(experiment_ids))}"
