"""What a person sees: the real UI in headless Chromium, from the list of experiments to a table, charts and artifacts.

``BSP_KEEP_SCREENSHOTS=1`` writes its pictures to docs/figures/mlflow_*.png.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from ablation_table4 import TABLE_4
from bsp.models.folder import write_model
from bsp.models.model import Model
from bsp.pages.findings import Findings, Found
from bsp.pages.page_html import page_html
from bsp_platform.cli.tracking import deliver
from bsp_platform.plan.options import Options
from bsp_platform.plan.profiles import mini
from bsp_platform.plan.rows import row_recipes
from bsp_platform.plan.sources import load_sources
from bsp_platform.report.tables import SweepResult, table_content, write_tables
from bsp_platform.storage.files import write_json
from bsp_platform.storage.stages import StageStore
from bsp_platform.sweep.models import BestModel
from bsp_platform.sweep.tracking import SweepTracking
from bsp_platform.tracking.mlflow_store import MlflowStore
from mlflow_runs import all_of, running_ui
from repository import ROOT
from small_models import small_stream

pytestmark = [pytest.mark.server, pytest.mark.long]

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
KEEP = bool(os.environ.get("BSP_KEEP_SCREENSHOTS"))
FAILED = "vanilla"
JUMP = Found(label="jump", start_s=1.0, end_s=2.5)
BEST = ("cls-S", 0)


@pytest.fixture(scope="module")
def swept(tmp_path_factory, tiny_pantomime, tiny_data) -> Path:
    """A folder with what a sweep of Table 4 leaves; its stages hold made-up numbers, and one row has failed."""
    folder = tmp_path_factory.mktemp("swept")
    storage = folder / "storage"
    shutil.copytree(tiny_data, storage / "pantomime" / tiny_data.name)
    options = Options(
        profile=replace(mini(), pantomime=tiny_pantomime), storage=storage, results=folder / "results",
        tracking_home=folder / "mlflow",
    )  # fmt: skip
    profile, store = options.profile, StageStore(storage)
    sources = load_sources(profile, {"activitynet"}, options.data, storage=storage, progress=False)
    recipes = {(row.name, 0): row_recipes(row, 0, profile, sources, 1) for row in TABLE_4.rows}
    tracking = SweepTracking(TABLE_4, profile, sources, options, store)
    tracking.open(recipes)
    scores = {}
    for number, (cell, of_row) in enumerate(recipes.items()):
        if cell[0] == FAILED:
            continue
        scores[cell] = {
            "mAP@0.50": 30.0 + number,
            "mAP@0.75": 20.0,
            "mAP@0.95": 5.0,
            "mAP_avg": 20.123 + number,
            "AR@1": 9,
        }
        for kind, recipe in of_row.stages():

            def build(made: Path, kind: str = kind, number: int = number, cell: tuple = cell) -> dict:
                axis = "step" if kind == "encoders" else "epoch"
                write_json(made / "history.json", [{axis: k, "loss": 2 / (k + number + 1)} for k in range(1, 20)])
                write_json(made / "scores.json", {"scores": scores[cell]})
                (made / "encoder.pt").write_bytes(b"weights")
                return {}

            store.ensure(kind, recipe, build)
    failures = {(FAILED, 0): "VideoError: kick_7.mp4: no picture could be read; remove the file"}
    results = options.results / TABLE_4.name / profile.name
    best = BestModel(BEST, "gtad", results / "models" / "cls-S-seed0", "mAP_avg")
    write_model(best.folder, Model(kind="encoder", streams=(small_stream(),), provenance={"row": "S cls"}))
    (results / "example.html").write_text(
        page_html(Findings(video_id="jump_3", video="jump_3.mp4", duration_s=4.0, truth=[JUMP]))
    )
    for cell in recipes:
        tracking.close_cell(cell, failures.get(cell, ""))
    table = SweepResult(
        experiment=TABLE_4, profile=profile, rows=TABLE_4.rows, seeds=1, scores=scores, failures=failures, duration_s=1
    )
    write_tables(results, table_content(table))
    tracking.close(failures, results, best)
    return folder


@pytest.fixture(scope="module")
def address(swept) -> Iterator[str]:
    """Of the server that ``make ui`` starts, on a port of its own."""
    with running_ui(swept / "mlflow" / "mlflow.db") as port:
        yield f"http://127.0.0.1:{port}"


@pytest.fixture(scope="module")
def page(address):
    """A browser that has never been here; waits up to a minute, as the machine may be busy."""
    if CHROMIUM is None:
        pytest.skip("no chromium on this machine (apt install chromium)")
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1500, "height": 850})
        page.set_default_timeout(60_000)
        yield page
        browser.close()


def keep(page, name: str) -> None:
    """A picture for docs/mlflow.md."""
    if KEEP:
        page.wait_for_timeout(1500)
        page.screenshot(path=ROOT / "docs" / "figures" / f"mlflow_{name}.png")


def open_experiment(page) -> None:
    page.get_by_test_id("experiment-list-item-link").filter(has_text=TABLE_4.name).click()


def _boxes(page, selector: str) -> list[tuple[dict, str]]:
    """Where elements are, and their texts; their order in the page is another one."""
    return [(found.bounding_box(), found.inner_text().strip()) for found in page.locator(selector).all()]


def test_another_mlflow_is_filled_with_the_same(swept, tmp_path):
    done = CliRunner().invoke(deliver, ["--storage", str(swept / "storage"), "--home", str(tmp_path / "mlflow")])
    assert done.exit_code == 0, done.output
    shown, expected = (
        all_of(MlflowStore(None, home), tmp_path / name, TABLE_4.name)
        for name, home in (("new", tmp_path / "mlflow"), ("old", swept / "mlflow"))
    )
    for run in (*shown.values(), *expected.values()):
        run["info"] = run["info"][:2]  # a row of no duration starts after the second of its end
    assert shown == expected
    tags = [MlflowStore(None, home).client.get_experiment_by_name(TABLE_4.name).tags for home in (
        tmp_path / "mlflow", swept / "mlflow")]  # fmt: skip
    assert tags[0] == tags[1]
    assert {name for name in tags[0] if name.startswith("mlflow.sharedViewState.")}


def test_from_the_list_of_experiments_to_the_table(page, address):
    page.goto(address)
    page.get_by_text("Experiments", exact=True).first.click()
    open_experiment(page)
    page.get_by_role("link", name="01 random seed 0").wait_for()
    assert page.get_by_role("heading", name="Runs").is_visible()
    assert "/traces" not in page.url
    assert not page.get_by_text("Ask questions about your experiments").count()
    names = page.locator("[role=row] a[href*='/runs/']").all_inner_texts()
    assert names[: len(TABLE_4.rows)] == [f"{k:02d} {row.label} seed 0" for k, row in enumerate(TABLE_4.rows, 1)]
    shown = {box["x"]: text for box, text in _boxes(page, "[role=columnheader]") if "/" in text}
    assert [shown[x] for x in sorted(shown)][:4] == [
        "ours/mAP_avg", "paper/mAP_avg", "ours/mAP_0.50", "paper/mAP_0.50",
    ]  # fmt: skip
    cells = page.locator("[role=gridcell]").all_inner_texts()
    for text in ("20.12", "25.58", "37", "45.39"):  # ours and the paper's of random, and of S cls at 0.5
        assert text in cells, (text, cells)
    assert any("no picture could be read" in text for text in cells), cells  # why a row failed
    keep(page, "table")


def test_the_description_has_the_table_and_how_to_read_it(page, address):
    page.goto(f"{address}/#/experiments")
    open_experiment(page)
    page.get_by_text("Open the table").wait_for()
    page.locator("[data-component-id='mlflow.experiment.metadata_editor.expand_button']").click()
    page.get_by_text("no evidence").first.wait_for()
    for text in ("How to read it.", "mAP_avg (ours)", "mAP_avg (paper)", "no picture could be read"):
        assert page.get_by_text(text).first.is_visible(), text
    keep(page, "description")


def test_the_links_open_on_scores(page, address, swept):
    page.goto(f"{address}/#/experiments")
    open_experiment(page)
    link = page.get_by_role("link", name="charts")
    if link.get_attribute("target") == "_blank":
        with page.expect_popup() as popup:
            link.click()
        opened = popup.value
    else:
        link.click()
        opened = page
    opened.wait_for_url("**compareRunsMode=CHART**")
    opened.get_by_placeholder("Search metric charts").wait_for()
    opened.set_viewport_size({"width": 1500, "height": 850})
    opened.get_by_text("ours/mAP_0.50").first.wait_for()
    titles = [text for text in opened.locator("body").inner_text().splitlines() if text.startswith(("ours", "paper"))]
    assert titles[:2] == ["ours", "ours/mAP_0.50"], titles
    keep(opened, "charts")


def test_a_failed_row_says_why(page, address):
    page.goto(f"{address}/#/experiments")
    open_experiment(page)
    page.get_by_role("link", name="09 vanilla seed 0").click()
    page.get_by_text("no picture could be read").first.wait_for()
    assert page.get_by_text("Failed").first.is_visible()


def test_artifacts_preview_and_the_model_is_registered(page, address):
    page.goto(f"{address}/#/experiments")
    open_experiment(page)
    page.get_by_role("link", name=f"{TABLE_4.name} mini").click()
    page.get_by_role("tab", name="Artifacts").click()
    page.get_by_text("table.md").first.click()
    page.get_by_role("heading", name=TABLE_4.title).wait_for()
    keep(page, "artifact")
    page.get_by_text("example.html").first.click()
    page.frame_locator("iframe").get_by_text("jump_3").first.wait_for()
    keep(page, "example")
    page.goto(f"{address}/#/models")
    page.get_by_role("button", name="Try it now").click()  # what is new in MLflow
    page.reload()
    page.get_by_role("link", name=f"{TABLE_4.name}-mini").wait_for()
    assert page.get_by_text("@ best").first.is_visible()
    keep(page, "registry")
