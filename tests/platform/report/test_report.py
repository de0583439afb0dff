"""The report of all tables: written from the scripts' JSON files, honest about what does not appear."""

import csv
import json
from dataclasses import replace
from types import SimpleNamespace

from bsp_platform.plan.rows import Claim, Experiment, Reference, Row
from bsp_platform.report.report import write_report
from bsp_platform.report.tables import SweepResult, table_content, write_tables

PROFILE = SimpleNamespace(name="mini", about="embedded data")
EXPERIMENT = Experiment(
    name="table3_crosstask",
    title="Table 3: steps",
    paper_data="CrossTask",
    columns=("AP",),
    references=(Reference(label="Other", source="a paper", paper={"AP": 56.2}),),
    note="A note.",
    rows=(
        Row(name="vanilla", label="vanilla", streams=(), paper={"AP": 46.9}),
        Row(name="bsp", label="vanilla + BSP", streams=(), paper={"AP": 48.1}),
    ),
    claims=(Claim(text="BSP adds to vanilla", higher="bsp", lower="vanilla", metric="AP"),),
)


def tables(folder, scores: dict[str, tuple[float, ...]], failures: dict | None = None):
    result = SweepResult(
        experiment=EXPERIMENT, profile=PROFILE, rows=EXPERIMENT.rows, seeds=2,
        scores={(row, seed): {"AP": v} for row, values in scores.items() for seed, v in enumerate(values)},
        failures=failures or {}, notes=["words learnt from scratch"], duration_s=90.0,
    )  # fmt: skip
    content = table_content(result)
    write_tables(folder / "table3_crosstask" / "mini", content)


def test_tables_relations_and_figures_are_in_the_report(tmp_path):
    tables(tmp_path, {"vanilla": (50.0, 50.5), "bsp": (40.0, 41.0)})
    figure = tmp_path / "figure4" / "mini"
    figure.mkdir(parents=True)
    (figure / "figure.json").write_text(json.dumps({"title": "Figure 4: differences", "caption": "What is seen."}))
    (figure / "figure4.png").touch()
    text = write_report(tmp_path, "mini", ["table3_crosstask", "figure4", "absent"], {"absent": "no room"}).read_text()
    assert "| vanilla + BSP | 40.50 ± 0.71 | 48.10 |" in text
    assert "| Other (cited) |  | 56.20 |" in text
    # differences -10 and -9.5: -9.75 +- 12.71 * 0.25 is below 0, so it is reversed and listed as absent
    assert "Of 1 relations that the paper states: 1 reversed." in text
    assert text.count("| BSP adds to vanilla | AP | -9.75 ± 0.35 | -12.93 to -6.57 | 3.52 | +1.20 | reversed |") == 2
    assert "![figure4](figure4/mini/figure4.png)" in text
    assert "What is seen." in text
    assert "**absent failed:** no room" in text
    assert "A note." in text
    assert "1.5 min" in text


def test_numbers_of_another_paper_have_columns_of_their_own(tmp_path):
    experiment = replace(
        EXPERIMENT, other_paper="LoFi", other_data="other data",
        references=(Reference(label="Whole", source="LoFi", other={"AP": 34.49}),),
        rows=(
            replace(EXPERIMENT.rows[0], other={"AP": 33.59}),
            Row(name="arrow", label="arrow", streams=(), other={"AP": 28.82}),
        ),
        claims=(Claim(text="vanilla above arrow", higher="vanilla", lower="arrow", metric="AP", paper=False),),
    )  # fmt: skip
    result = SweepResult(
        experiment=experiment, profile=PROFILE, rows=experiment.rows, seeds=1,
        scores={("arrow", 0): {"AP": 20.0}}, failures={}, duration_s=1.0,
    )  # fmt: skip
    folder = tmp_path / "table3_crosstask" / "mini"
    write_tables(folder, table_content(result))
    lines = [
        "| row | AP (ours) | AP (paper) | AP (LoFi) |",
        "| Whole (cited) |  |  | 34.49 |",
        "| vanilla |  | 46.90 | 33.59 |",
        "| arrow | 20.00 |  | 28.82 |",
    ]
    table = (folder / "table.md").read_text()
    report = write_report(tmp_path, "mini", ["table3_crosstask"], {}).read_text()
    for line in lines:
        assert line in table
        assert line in report
    assert "Paper: CrossTask; shown for reference, not comparable in value.\nLoFi: other data; shown" in table
    assert "Paper: CrossTask. LoFi: other data." in report
    header, arrow, whole = csv.reader((folder / "table.csv").open(encoding="utf-8"))
    assert header == ["row", "label", "streams", "heads", "seed", "AP", "paper AP", "LoFi AP", "profile"]
    assert arrow[5:] == ["20.0", "", "28.82", "mini"]
    assert whole[5:] == ["", "", "34.49", ""]
    (claim,) = table_content(result)["claims"]
    assert claim["paper_difference"] is None


def test_failed_rows_are_named(tmp_path):
    tables(tmp_path, {"vanilla": (50.0, 51.0)}, {("bsp", 0): "out of memory", ("bsp", 1): "out of memory"})
    text = write_report(tmp_path, "mini", ["table3_crosstask"], {}).read_text()
    assert "- vanilla + BSP seed 1 failed: out of memory" in text
    assert "1 not run" in text
