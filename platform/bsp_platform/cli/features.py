"""``bsp features``, ``bsp weights``, ``bsp export-encoder``: features and encoders, to and from other projects."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bsp_platform.cli.common import INPUT_FILE, INPUT_FOLDER, OUTPUT_FILE, FileCommandGroup, LazyChoice, not_nan
from bsp_platform.plain_text import say

if TYPE_CHECKING:
    from collections.abc import Callable

_NAMED = 10  # videos that a report names


def _layouts() -> tuple[str, ...]:
    from bsp.features.interchange_files import LAYOUTS

    return LAYOUTS


@click.group(cls=FileCommandGroup)
def features() -> None:
    """Exchange snippet features with other projects.

    \b
    gtad     one HDF5 file (PATH ends in .h5) with a data set per video, or a folder of CSV files
    opentad  a folder of .npy files, rows first
    2dtan    one HDF5 file with a data set per video
    lgi      a folder of .npy files
    csv      a folder of CSV files with a line of column names
    """


def layout_options(command: Callable) -> Callable:
    """The options that both directions have."""
    for option in (
        click.option("--prefix", default="", help='Begins every name there, not here; "v_" for ActivityNet.'),
        click.option(
            "--format",
            "layout",
            type=LazyChoice(_layouts, case_sensitive=False),
            required=True,
            help="Layout of the other project.",
        ),
    ):
        command = option(command)
    return command


@features.command("export")
@layout_options
@click.option("--features", "folder", type=INPUT_FOLDER, required=True, help="Our features: <id>.npy and <id>.json.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="File or folder to write; must be free.")
@click.option("--cells", type=click.IntRange(min=1), help="Resize every video to so many rows.  [default: as they are]")
def export_command(layout: Any, folder: Path, out: Path, prefix: str, cells: int | None) -> None:
    """Write features for another project."""
    from bsp.features.interchange import export_features
    from bsp_platform.work.listed_features import check_listed

    check_listed(folder)
    done = export_features(folder, out, layout=layout, prefix=prefix, cells=cells)
    say(f"{out}: {done.videos} videos, {done.rows} rows of width {done.width}")
    _name_some("of uneven frame times: their rows were interpolated at even ones", done.resampled)


@features.command("import")
@layout_options
@click.option("--from", "path", type=click.Path(exists=True, path_type=Path), required=True, help="Their features.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="Folder; must be free.")
@click.option(
    "--fps",
    type=click.FloatRange(min=0, min_open=True),
    callback=not_nan,
    help="Frames per second of the videos. Without it and the stride, rows are spread evenly over each video.",
)
@click.option("--stride-frames", type=click.IntRange(min=1), help="Frames from one row to the next.")
@click.option("--snippet-frames", type=click.IntRange(min=1), help="Frames that a row looks at.  [default: the stride]")
@click.option("--offset-frames", type=click.IntRange(min=0), default=0, show_default=True, help="Before the first row.")
@click.option(
    "--annotations",
    type=INPUT_FILE,
    multiple=True,
    help="For the videos' durations: ActivityNet's JSON, Charades_v1_*.csv (both), or JSON {id: seconds}; also .gz.",
)
@click.option("--channel-first", is_flag=True, help="Their arrays are [width, rows].")
def import_command(
    layout: Any,
    path: Path,
    out: Path,
    prefix: str,
    fps: float | None,
    stride_frames: int | None,
    snippet_frames: int | None,
    offset_frames: int,
    annotations: tuple[Path, ...],
    channel_first: bool,
) -> None:
    """Read another project's features into a folder of ours, with a record of when each row is.

    Give --fps and --stride-frames, or neither and --annotations. With both, row counts that do not fit the videos'
    durations are refused.
    """
    from bsp.features.interchange import Timing, import_features

    timing = None
    if fps is not None and stride_frames is not None:
        timing = Timing(
            fps=fps,
            stride_frames=stride_frames,
            snippet_frames=snippet_frames or stride_frames,
            offset_frames=offset_frames,
        )
    elif fps is not None or stride_frames is not None or snippet_frames is not None or offset_frames:
        raise click.UsageError("--fps and --stride-frames go together, and the other --*-frames with them")
    elif not annotations:
        raise click.UsageError("give --fps and --stride-frames, or --annotations to spread the rows evenly")
    done = import_features(
        path,
        out,
        layout=layout,
        timing=timing,
        durations=_durations(annotations) if annotations else None,
        prefix=prefix,
        channel_first=channel_first,
    )
    say(f"{out}: {done.videos} videos, {done.rows} rows of width {done.width}")
    _name_some("left out", done.left_out)
    _name_some("in the annotations, but not among the features", done.missing)


def _durations(files: tuple[Path, ...]) -> dict[str, float]:
    """Seconds by video id, of all files together."""
    from bsp.features.interchange import video_durations

    durations: dict[str, float] = {}
    for path in files:
        for video_id, seconds in video_durations(path).items():
            if durations.setdefault(video_id, seconds) != seconds:
                raise ValueError(f"{path}: {video_id} lasts {seconds} s, but {durations[video_id]} s in another file")
    return durations


def _name_some(what: str, names: tuple[str, ...]) -> None:
    if names:
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        say(f"{len(names)} {what}: {', '.join(names[:_NAMED])}{more}", err=True)


@click.command()
@click.argument("file", type=INPUT_FILE)
@click.option("--depth", type=click.Choice(["18", "34", "50"]), help="Refuse any other.  [default: the file's]")
@click.option("--width", type=click.IntRange(min=1), help="Channels after the stem (64 = standard); as --depth.")
@click.option("--out", type=OUTPUT_FILE, help="Write the weights under our names here; must be free.")
@click.option("--sha256", help="Refuse a file whose SHA-256 does not begin with these digits.")
def weights(file: Path, depth: str | None, width: int | None, out: Path | None, sha256: str | None) -> None:
    """Check a checkpoint: published TSM weights, a torchvision-style ResNet, EfficientNet-Lite0, or an encoder of ours.

    FILE is what torch.save wrote (.pt, .pth), or .safetensors; nothing in it is run. Prints its SHA-256, the
    architecture, and which entries of the file fill which of the encoder. A file that does not fit is refused with
    the reason.
    """
    import torch

    from bsp.encoders.build import build_encoder
    from bsp.encoders.checkpoints import checkpoint_settings, load_checkpoint
    from bsp.encoders.families import described
    from bsp.encoders.tsm import EncoderSettings
    from bsp.features.interchange_files import refuse_existing
    from bsp.io import atomic_path
    from bsp_platform.storage.files import file_sha256

    if out is not None:
        refuse_existing(out)
    hashed = file_sha256(file)
    if sha256 is not None and not (sha256 and hashed.startswith(sha256.lower())):
        raise click.ClickException(f"{file}: its SHA-256 is {hashed}, not {sha256}; download it again")
    try:
        found = settings = checkpoint_settings(file)
        if isinstance(found, EncoderSettings):
            settings = replace(found, depth=int(depth or found.depth), width=width or found.width)
        elif depth or width:
            raise ValueError(f"{file}: {described(found)}, but --depth and --width are of a ResNet")
        encoder = build_encoder(settings, seed=0)
        report = load_checkpoint(encoder, file)
    except ValueError as error:
        raise click.ClickException(str(error)) from error
    say(f"{file}: {described(found).split(' ', 1)[1]}, features of {settings.feature_width} numbers")
    say(f"SHA-256  {hashed}")
    say(report)
    if out is not None:
        with atomic_path(out) as partial:
            torch.save({"name": file.stem, "encoder": encoder.state_dict()}, partial)
        say(f"written: {out}")


@click.command("export-encoder")
@click.option("--model", required=True, metavar="MODEL", help="Model folder, or models:/NAME@ALIAS of MLflow.")
@click.option("--out", type=OUTPUT_FILE, required=True, help="FILE.onnx or FILE.pt2; must be free.")
@click.option("--stream", type=click.IntRange(min=0), default=0, show_default=True, help="Which of its encoders.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout, and nothing else there.")
def export_encoder(model: str, out: Path, stream: int, as_json: bool) -> None:
    """Write the encoder of a model as a program that runs without this package.

    \b
    bsp export-encoder --model MODEL --out encoder.onnx    for ONNX Runtime; needs the extra [onnx]
    bsp export-encoder --model MODEL --out encoder.pt2     for torch.export.load

    It maps normalised clips, float32 [any number, frames, 3, size, size], to features [clips, vectors, width], whose
    mean over the vectors is the feature of a snippet. How to normalise is printed. About a minute for ONNX.
    """
    from bsp.encoders.export import export_onnx, save_program
    from bsp_platform.cli.look import open_model
    from bsp_platform.storage.files import file_sha256

    if out.suffix not in (".onnx", ".pt2"):
        raise click.UsageError(f"--out {out}: its name must end in .onnx or .pt2, which says the format")
    loaded, folder = open_model(model, "cpu")
    if stream >= len(loaded.streams):
        raise click.ClickException(f"{folder}: has {len(loaded.streams)} streams, none is number {stream} (from 0)")
    of = loaded.streams[stream]
    if of.encoder is None:
        raise click.ClickException(f"{folder}: stream {stream} was made from imported features; it has no encoder")
    say(f"exporting {of.encoder.settings.name} for pictures of {of.size_px} px", err=True)
    (export_onnx if out.suffix == ".onnx" else save_program)(of.encoder, out, of.size_px)
    facts = {
        "file": str(out),
        "sha256": file_sha256(out),
        "encoder": of.encoder.settings.name,
        "clips": ["any", of.encoder.clip_frames, 3, of.size_px, of.size_px],
        "feature_width": of.feature_width,
        "mean": list(of.encoder.mean),
        "std": list(of.encoder.std),
    }
    if as_json:
        click.echo(json.dumps(facts))
        return
    for name, value in facts.items():
        say(f"{name:<14} {value}")
