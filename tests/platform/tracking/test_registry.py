"""Model folders in MLflow's registry: one version for one model, found by its address, loaded as a pyfunc."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from bsp.models.folder import load_model, write_model
from bsp.models.model import Model
from bsp_platform.cli.tracking import register as register_command
from bsp_platform.tracking.registry import model_folder, register, registry
from make_videos import numbered_frames, write_video
from small_models import small_stream

pytestmark = pytest.mark.server  # MLflow's store


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("registry")


def model_of(folder: Path, seed: int) -> Path:
    write_model(folder, Model(kind="encoder", streams=(small_stream(seed),), provenance={"row": "vanilla", "n": seed}))
    return folder


@pytest.fixture(scope="module")
def models(home) -> list[Path]:
    return [model_of(home / f"vanilla-seed{seed}", seed) for seed in range(2)]


def test_one_version_for_one_model_and_the_alias_moves(home, models):
    store = registry(None, home)
    assert register(models[0], "table4", "best", store=store) == "models:/table4@best"
    assert register(models[0], "table4", "best", store=store) == "models:/table4@best"
    assert register(models[1], "table4", store=store) == "models:/table4/2"
    found = model_folder("models:/table4@best", home=home)
    assert found != models[0]
    assert {p.name: p.read_bytes() for p in found.iterdir()} == {p.name: p.read_bytes() for p in models[0].iterdir()}
    assert load_model(found).describe() == load_model(models[0]).describe()
    register(models[1], "table4", "best", store=store)
    assert (model_folder("models:/table4@best", home=home) / "model.json").read_text() == (
        models[1] / "model.json"
    ).read_text()
    assert len(store.client.search_model_versions("name = 'table4'")) == 2
    (version,) = store.client.search_model_versions("name = 'table4' and version_number = 2")
    (output,) = store.client.get_run(version.run_id).outputs.model_outputs
    assert store.client.get_logged_model(output.model_id).name == "vanilla-seed1"


def test_a_path_is_a_path_and_what_is_not_there_is_named(home, models, monkeypatch, tmp_path):
    assert model_folder("some/folder", home=home) == Path("some/folder")
    register(models[0], "known", "good", store=registry(None, home))
    with pytest.raises(ValueError, match="no MLflow in"):
        model_folder("models:/known@good", home=tmp_path)
    assert not (tmp_path / "mlflow.db").exists()
    with monkeypatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", registry(None, home).uri)
        assert load_model(model_folder("models:/known@good", home=tmp_path)).kind == "encoder"
    for text in ("models:/known@worse", "models:/known/9", "models:/other@good"):
        with pytest.raises(ValueError, match="models:/known@good"):
            model_folder(text, home=home)
    for text in ("models:/known", "models:known@good", "models:/../x@good", "models:/known@good/more"):
        with pytest.raises(ValueError, match="write models:/NAME@ALIAS"):
            model_folder(text, home=home)
    for name, alias in (("a/b", ""), ("a'b", "x"), ("fine", "v1"), ("fine", "a/b")):
        with pytest.raises(ValueError, match="letters, digits"):
            register(models[0], name, alias, store=registry(None, home))


def test_the_pyfunc_needs_no_ray_and_gives_what_the_model_gives(home, models, tmp_path):
    video = tmp_path / "v.mp4"
    write_video(video, numbered_frames(40))
    register(models[0], "pyfunc", "best", store=registry(None, home))
    code = (
        "import json, sys, mlflow, pandas\n"
        "sys.modules['ray'] = None  # an import of it fails\n"
        "uri, video = sys.argv[1:]\n"
        "mlflow.set_tracking_uri(uri); mlflow.set_registry_uri(uri)\n"
        "model = mlflow.pyfunc.load_model('models:/pyfunc@best')\n"
        "assert model.metadata.signature.inputs.input_names() == ['video']\n"
        "assert list(model.input_example.columns) == ['video']\n"
        "print(json.dumps(model.predict(pandas.DataFrame({'video': [video]})).to_dict('list')))\n"
    )
    uri = registry(None, home).uri
    done = subprocess.run([sys.executable, "-c", code, uri, str(video)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    curve = load_model(models[0]).boundaries(video)
    assert said["video"] == [str(video)] * len(curve.times_s)
    np.testing.assert_allclose(said["time_s"], curve.times_s)
    np.testing.assert_allclose(said["score"], curve.scores, rtol=1e-5)


def test_the_command_refuses_a_changed_folder(home, tmp_path):
    folder = model_of(tmp_path / "m", 3)
    options = ["--name", "command", "--alias", "best", "--home", str(home)]
    done = CliRunner().invoke(register_command, [str(folder), *options])
    assert (done.exit_code, done.output) == (0, f"{folder}: models:/command@best\n")
    weights = next(folder.glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1] + b"\0")
    done = CliRunner().invoke(register_command, [str(folder), *options])
    assert done.exit_code == 1
    assert "changed or damaged" in done.output
