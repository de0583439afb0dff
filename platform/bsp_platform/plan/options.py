"""The command line that all experiment scripts share."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import click

from bsp.datasets.data_sets import DATA_SETS
from bsp.encoders.start import IMAGE
from bsp_platform.plain_text import escape_unencodable, say
from bsp_platform.plan.device import DEVICES, Device
from bsp_platform.plan.profiles import PROFILES, Profile, in_world
from bsp_platform.plan.sources import DataPaths


@dataclass(frozen=True, kw_only=True)
class Options:
    """An experiment script's options, resolved."""

    profile: Profile
    rows: tuple[str, ...] = ()  # names; empty = all
    seeds: int = 1  # 0 .. seeds-1
    storage: str | Path  # a folder, or s3://bucket/prefix
    results: Path
    tracking_uri: str | None = None  # None = SQLite in tracking_home
    tracking_home: Path
    data: DataPaths = field(default_factory=DataPaths)
    workers: int = 1  # data-parallel workers per row, on as many processes as fit (bsp/pretraining/workers.py)
    cpus: int | None = None  # of a Ray started here, or that the joined cluster may grow to; None = what is there
    gpus: int | None = None  # that the joined cluster may grow to; None = what is there
    fresh: bool = False
    dry_run: bool = False  # only say what would be computed
    device: Device = "auto"  # auto = a GPU if Ray has one


def storage_place(text: str | Path) -> str | Path:
    """A folder as a path; an address stays text, as Path would join its slashes."""
    return str(text) if "://" in str(text) else Path(text)


def experiment_command(root: Path, run: Callable[[Options], int]) -> click.Command:
    """The click command of a script in the repository ``root``; ``run`` returns the exit status."""

    folders = {"kinetics": "Kinetics-400"} | {name: data_set.title for name, data_set in DATA_SETS.items()}

    @click.command(context_settings={"show_default": True, "help_option_names": ["-h", "--help"]})
    @click.option("--profile", type=click.Choice(sorted(PROFILES)), default="mini", help="complete configuration")
    @click.option("--world", type=click.IntRange(1), default=1, help="version of the embedded data (docs/datasets.md)")
    @click.option("--rows", default="", help="comma-separated row names; all by default", show_default=False)
    @click.option("--seeds", type=click.IntRange(1), default=1, help="how many seeds: 0 .. N-1")
    @click.option(
        "--storage",
        type=storage_place,
        default=root / "storage",
        envvar="BSP_STORAGE",
        metavar="FOLDER|s3://BUCKET/PREFIX",
        help="for encoders, features, heads",
    )
    @click.option("--results", type=Path, default=root / "results", help="where tables go")
    @click.option("--tracking-uri", envvar="MLFLOW_TRACKING_URI", help="MLflow store [default: SQLite here]")
    @click.option(
        "--vanilla-weights",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        multiple=True,
        help="checkpoint (published TSM or ResNet) that stands for the vanilla encoder of its depth; may be repeated",
    )
    @click.option(
        "--class-scores",
        callback=_class_scores,
        multiple=True,
        metavar="[DATA=]FILE",
        help="published classification result; DATA is activitynet (default), thumos or hacs; may be repeated",
    )
    @click.option(
        "--start",
        default="random",
        metavar="random|image|FILE",
        help="what trainings start from: random weights; image weights (of a classifier of still pictures, which is "
        "trained first on the embedded data); or a file of weights, as image with --start-weights FILE",
    )
    @click.option(
        "--start-weights",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        multiple=True,
        help="weights that image stands for, of their encoder: torchvision's ImageNet ResNet, TSM's Kinetics weights; "
        "may be repeated",
    )
    @click.option("--glove", type=Path, help="GloVe text file for grounding; without it words are learnt from scratch")
    @click.option("--workers", type=click.IntRange(1), default=1, help="workers that share each training step of a row")
    @click.option("--device", type=click.Choice(DEVICES), default="auto", help="auto: a GPU if Ray has one")
    @click.option("--cpus", type=click.IntRange(1), help="CPUs for a Ray started here, or that the cluster may reach")
    @click.option("--gpus", type=click.IntRange(0), help="GPUs that the cluster may reach")
    @click.option("--dry-run", is_flag=True, help="only say what would be computed and what is found; writes nothing")
    @click.option("--fresh", is_flag=True, help="make all stages of these rows again; old ones are put aside")
    def command(profile: str, world: int, rows: str, fresh: bool, **other) -> None:
        escape_unencodable()
        given = {name: other.pop(name) for name in folders}
        files = {name: other.pop(name) for name in ("glove", "class_scores", "vanilla_weights", "start_weights")}
        start = other.pop("start")
        if start not in ("random", IMAGE):
            if not Path(start).is_file():
                raise click.BadParameter(f"--start {start}: no such file; give random, image or a file of weights")
            files["start_weights"] += (Path(start),)
        files["start"] = "random" if start == "random" else IMAGE
        try:
            options = Options(
                data=DataPaths(folders={name: path for name, path in given.items() if path}, **files),
                profile=in_world(PROFILES[profile](), world),
                rows=tuple(name.strip() for name in rows.split(",") if name.strip()),
                tracking_home=root / "mlflow",
                fresh=fresh,
                **other,
            )
            sys.exit(run(options))
        except KeyboardInterrupt:
            say("stopped; the same command continues where this was", err=True)
            sys.exit(130)
        except (ValueError, RuntimeError, OSError, EOFError) as error:  # EOFError would end as "Aborted!"
            # Errors of this project name the file, the value and the remedy; a trace adds nothing to them.
            say(f"error: {error}", err=True)
            sys.exit(1)

    for name, title in folders.items():
        twin = name == "kinetics" or DATA_SETS[name].embedded
        text = f"folder of {title}{' (profile paper)' if twin else ''}"
        command = click.option(f"--{name}", type=Path, help=text)(command)
    return command


def _class_scores(_ctx, _param, values: tuple[str, ...]) -> tuple[tuple[str, Path], ...]:
    """(data set, path) from "FILE" or "thumos=FILE"."""
    found: dict[str, Path] = {}
    for value in values:
        name, sign, text = value.partition("=")
        known = sign and name in DATA_SETS
        name, path = name if known else "activitynet", Path(text if known else value)
        if not path.is_file():
            raise click.BadParameter(f"{path}: no such file")
        if name in found:
            raise click.BadParameter(f"two files for {name}: {found[name]} and {path}")
        found[name] = path
    return tuple(found.items())
