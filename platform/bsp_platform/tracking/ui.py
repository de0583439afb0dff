"""MLflow's server with a first page that fits: ``mlflow server --app-name bsp``, which ``make ui`` runs.

MLflow 3.17 opens every experiment as GenAI work, whatever its tag ``mlflow.experimentKind`` says, with an assistant
beside it; which of the two, the browser remembers. :data:`app` is MLflow's own application (its entry point
``mlflow.app`` is made for this), and only the first page differs: a script sets, where the browser remembers nothing
yet, "Model training", no assistant, and for an experiment without an own view the newest saved one.
"""

from __future__ import annotations

from pathlib import Path

from mlflow.server import app as flask_app
from mlflow.server.fastapi_app import app
from starlette.responses import HTMLResponse
from starlette.routing import Route

_SCRIPT = """<script>
(() => {
  const unless = (name, value) => localStorage.getItem(name) === null && localStorage.setItem(name, value);
  const parsed = (text) => { try { return JSON.parse(text); } catch { return null; } };
  const seed = (experiment) => {
    const views = (experiment.tags || [])
      .filter((tag) => tag.key.startsWith("mlflow.sharedViewState."))
      .map((tag) => parsed(tag.value))
      .filter((view) => view && typeof view.state === "string" && parsed(view.state));
    views.sort((a, b) => b.createdAt - a.createdAt);
    const name = `MLflowLocalStorage-1.1-ExperimentPage-["${experiment.experiment_id}"]-ReactComponentState`;
    if (views.length) unless(name, views[0].state);
  };
  try {
    unless("mlflow.workflowType_v1", '"machine_learning"');
    unless("mlflow.assistant.fab.autoOpenedOnFirstLoad_v1", "true");
    // Before MLflow's own scripts, which read these values when they start.
    const request = new XMLHttpRequest();
    request.open("POST", "ajax-api/2.0/mlflow/experiments/search", false);
    request.setRequestHeader("Content-Type", "application/json");
    request.send(JSON.stringify({ max_results: 1000 }));
    for (const experiment of JSON.parse(request.responseText).experiments || []) seed(experiment);
  } catch (error) { console.warn("the views of the experiments are not preset:", error); }
})();
</script>"""


async def _first_page(_request: object) -> HTMLResponse:
    text = (Path(str(flask_app.static_folder)) / "index.html").read_text("utf-8")
    return HTMLResponse(text.replace("<script", f"{_SCRIPT}<script", 1), headers={"Cache-Control": "no-cache"})


app.router.routes.insert(0, Route("/", _first_page, methods=["GET"]))
