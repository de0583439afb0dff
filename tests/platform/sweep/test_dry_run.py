"""``--dry-run``: names the stages that would be made, their times from earlier ones, and writes nothing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from bsp_platform.plan.options import Options
from bsp_platform.plan.recipes import Stream
from bsp_platform.plan.rows import Experiment, Row, row_recipes
from bsp_platform.plan.sources import load_sources
from bsp_platform.storage.manifests import MANIFEST
from bsp_platform.storage.stages import StageStore
from bsp_platform.sweep.run import run

pytestmark = pytest.mark.long
TABLE = Experiment(
    name="small",
    title="A small table",
    rows=(
        Row(name="vanilla", label="vanilla", streams=(Stream(method="action"),)),
        Row(name="random", label="random", streams=(Stream(method="random"),)),
    ),
)


def content(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture
def options(tiny_pantomime, tmp_path) -> Options:
    from bsp_platform.plan.profiles import smoke

    profile = replace(smoke(), pantomime=tiny_pantomime)
    return Options(
        profile=profile,
        storage=tmp_path / "storage",
        results=tmp_path / "results",
        tracking_home=tmp_path / "mlflow",
        dry_run=True,
        cpus=2,
    )


def test_nothing_is_rendered_or_made(options, tmp_path, capsys):
    assert run(TABLE, options) == 0
    assert "not rendered yet: trimmed and untrimmed videos; so all 2 rows" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_what_is_missing_is_named_with_the_time_of_earlier_stages(options, tmp_path, capsys):
    store = StageStore(options.storage)
    sources = load_sources(options.profile, {"activitynet"}, options.data, storage=store.root, progress=False)
    vanilla, random = (row_recipes(row, 0, options.profile, sources, 1) for row in TABLE.rows)
    encoder = vanilla.encoders[0]
    for kind, recipe in (("encoders", encoder), next(iter(vanilla.stages()[1:]))):
        folder, _ = store.ensure(kind, recipe, lambda folder: (folder / "content").write_text("") or {})
        manifest = json.loads((folder / MANIFEST).read_text())
        manifest |= {"seconds": 100.0}
        del manifest["check"]  # as in manifests of earlier versions
        (folder / MANIFEST).write_text(json.dumps(manifest))
    before = content(tmp_path)
    assert run(TABLE, options) == 0
    told = capsys.readouterr().out
    assert content(tmp_path) == before
    assert "2 rows and seeds, 0 finished, 2 stages of the others found" in told
    assert f"compute encoders/{encoder.name}" not in told
    assert f"compute encoders/{random.encoders[0].name} for random seed 0: about 1 s" in told
    features = [line for line in told.splitlines() if line.startswith("compute features/")]
    assert [line.rpartition(": ")[2] for line in features] == ["about 1 min 40 s"]  # random's, as long as vanilla's
    assert told.count("no earlier one to tell the time") == 3  # two heads and the class scores
    assert "to compute: 5 stages" in told

    longer = replace(options.profile, train=replace(options.profile.train, clips=3 * options.profile.train.clips))
    assert run(TABLE, replace(options, profile=longer, rows=("vanilla",))) == 0
    assert "for vanilla seed 0: about 5 min\n" in capsys.readouterr().out  # three times the clips
