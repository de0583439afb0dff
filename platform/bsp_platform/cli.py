"""The ``bsp`` command. It starts fast: everything heavier than click is imported inside the commands.

Exit codes: 0 done, 1 an input is malformed or missing, 2 wrong usage.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from bsp.errors import AnnotationError, TooManyBroken, VideoError

if TYPE_CHECKING:
    from collections.abc import Callable

INPUT_FILE = click.Path(exists=True, dir_okay=False, readable=True, path_type=Path)
OUTPUT_FILE = click.Path(dir_okay=False, writable=True, path_type=Path)
TIOUS = "0.5:0.05:0.95"


class CommandGroup(click.Group):
    """Shows errors in the user's files as one line and exit code 1; anything else keeps its traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise  # click ends quietly when the reader of our output went away
        except (AnnotationError, TooManyBroken, VideoError, OSError) as error:
            raise click.ClickException(str(error)) from error


class Thresholds(click.ParamType):
    """start:step:stop with both ends, or a list with commas, as a tuple of floats in (0, 1]."""

    name = "start:step:stop or list"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        if not isinstance(value, str):
            return tuple(value)
        import numpy as np

        from bsp.metrics.detection import check_tious

        try:
            if ":" in value:
                start, step, stop = (float(part) for part in value.split(":"))
                steps = (stop - start) / step if step > 0 else -1.0
                if not 0 <= steps < 1000 or abs(steps - round(steps)) > 1e-6:
                    self.fail(f"{value!r}: no whole number of steps leads from start to stop", param, ctx)
                # linspace, not repeated addition: 0.5:0.05:0.95 are exactly the official ten numbers
                tious = np.linspace(start, stop, round(steps) + 1)
            else:
                tious = np.array([float(part) for part in value.split(",")])
        except ValueError:
            self.fail(f"{value!r} is neither start:step:stop nor numbers with commas", param, ctx)
        try:
            return tuple(check_tious(tious).tolist())
        except ValueError as error:
            self.fail(f"{value!r}: {error}", param, ctx)


def _a_number(ctx: click.Context, param: click.Parameter, value: float | None) -> float | None:
    """Refuse nan, which no range does."""
    if value is not None and math.isnan(value):
        raise click.BadParameter("nan is not a number", ctx, param)
    return value


@click.group(cls=CommandGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="bsp-platform", prog_name="bsp")
def main() -> None:
    """Boundary-sensitive pre-training for temporal localisation in videos."""


@main.group()
def evaluate() -> None:
    """Score predictions in the official file formats."""


def evaluation_options(command: Callable) -> Callable:
    """The options that both evaluations have."""
    for option in (
        click.option("--output-json", type=OUTPUT_FILE, help="Write all results here, in full precision."),
        click.option("--blocked", type=INPUT_FILE, help="JSON list of video ids to leave out on both sides."),
        click.option("--tiou", type=Thresholds(), default=TIOUS, show_default=True, help="tIoU thresholds."),
        click.option("--subset", default="validation", show_default=True, help="Subset of the ground truth."),
        click.option("--predictions", type=INPUT_FILE, required=True, help='JSON with "results", also .gz.'),
        click.option("--ground-truth", type=INPUT_FILE, required=True, help='JSON with "database", also .gz.'),
    ):
        command = option(command)
    return command


@evaluate.command()
@evaluation_options
@click.option("--top-k", type=click.IntRange(min=1), help="Keep only the K best predictions of each video.")
@click.option("--merge-duplicates", is_flag=True, help="Count repeated instances once (unofficial).")
def detection(top_k: int | None, merge_duplicates: bool, **common: Any) -> None:
    """Mean average precision of temporal action detection, by the ActivityNet protocol."""
    from bsp.metrics.detection import evaluate_detection

    settings = {"top_k": top_k, "merge_duplicates": merge_duplicates}
    report = _evaluate(evaluate_detection, settings, **common)
    rows = {f"mAP@{key}": 100 * value for key, value in report["mAP"].items()}
    rows["average mAP"] = 100 * report["average_mAP"]
    _print_percentages(f"Detection, {common['subset']}, {report['videos']['used']} videos", rows)


@evaluate.command()
@evaluation_options
@click.option(
    "--max-proposals",
    type=click.IntRange(min=1),
    default=100,
    show_default=True,
    help="Average number of proposals per video at which the curve ends.",
)
def proposals(max_proposals: int, **common: Any) -> None:
    """Average recall at an average number of proposals (AR@AN) and the area under that curve (AUC)."""
    from bsp.metrics.proposals import evaluate_proposals

    report = _evaluate(evaluate_proposals, {"max_proposals": max_proposals}, **common)
    rows = {f"AR@{key}": 100 * value for key, value in report["AR@AN"].items()} | {"AUC": report["AUC"]}
    _print_percentages(f"Proposals, {common['subset']}, {report['videos']['used']} videos", rows)


@evaluate.command()
@click.option(
    "--ground-truth",
    type=INPUT_FILE,
    required=True,
    help="JSON list of {video, sentence, start_s, end_s, duration_s}, or a Charades-STA file (.txt); also .gz.",
)
@click.option(
    "--predictions",
    type=INPUT_FILE,
    required=True,
    help="JSON list of {video, sentence, moments: [[start_s, end_s, score], ...]}, also .gz.",
)
@click.option(
    "--protocol",
    type=click.Choice(["2dtan", "lgi"]),
    required=True,
    help="2dtan: ground truth cut at the video's end, IoU > threshold. lgi: as written, IoU >= threshold.",
)
@click.option(
    "--nms",
    type=click.FloatRange(0, 1),
    callback=_a_number,
    help="IoU threshold of non-maximum suppression (2D-TAN on Charades-STA: 0.45).  [default: none]",
)
@click.option(
    "--durations",
    type=INPUT_FILE,
    help="With a Charades-STA file: Charades_v1_test.csv (or _train), or JSON {video: seconds}; also .gz.",
)
@click.option("--output-json", type=OUTPUT_FILE, help="Write all results here, in full precision.")
def grounding(
    ground_truth: Path,
    predictions: Path,
    protocol: Literal["2dtan", "lgi"],
    nms: float | None,
    durations: Path | None,
    output_json: Path | None,
) -> None:
    """Recall and mean IoU of video grounding, by 2D-TAN's or LGI's protocol."""
    from bsp.datasets.results_json import read_json
    from bsp.metrics.grounding import evaluate_grounding, ground_truth_from_charades
    from bsp_platform.stages import write_json

    _check_output_folder(output_json)
    is_text = ground_truth.name.removesuffix(".gz").endswith(".txt")
    if is_text and durations is None:
        message = f"{ground_truth} holds no durations; give Charades_v1_test.csv (or _train) or JSON {{video: seconds}}"
        raise click.BadParameter(message, param_hint="--durations")
    if durations is not None and not is_text:
        message = f"only for a ground truth in Charades-STA's text format (.txt); {ground_truth} has its own durations"
        raise click.BadParameter(message, param_hint="--durations")
    report = evaluate_grounding(
        read_json(ground_truth) if durations is None else ground_truth_from_charades(ground_truth, durations),
        read_json(predictions),
        protocol=protocol,
        nms=nms,
        names=(str(ground_truth), str(predictions)),
    )
    if output_json is not None:
        inputs = {"ground_truth": ground_truth, "predictions": predictions, "durations": durations}
        story = {key: None if path is None else str(path) for key, path in inputs.items()}
        write_json(output_json, report | {"settings": story | {"protocol": protocol, "nms": nms}})
    _warn_about_queries(report["queries"])
    title = f"Grounding, {protocol} protocol, {report['queries']['used']} queries"
    _print_percentages(title, report["percent"])


def _check_output_folder(output_json: Path | None) -> None:
    if output_json is not None and not output_json.absolute().parent.is_dir():  # better now than after the work
        raise click.BadParameter(f"folder {output_json.parent} does not exist", param_hint="--output-json")


def _evaluate(
    metric: Callable[..., dict[str, Any]],
    settings: dict[str, Any],
    *,
    ground_truth: Path,
    predictions: Path,
    subset: str,
    tiou: tuple[float, ...],
    blocked: Path | None,
    output_json: Path | None,
) -> dict[str, Any]:
    """Read the files, compute the metric, warn about what looks odd, and write the report."""
    from bsp.datasets.results_json import check_video_ids, read_json
    from bsp_platform.stages import write_json

    _check_output_folder(output_json)
    report = metric(
        read_json(ground_truth),
        read_json(predictions),
        subset=subset,
        tious=tiou,
        blocked=() if blocked is None else check_video_ids(read_json(blocked), str(blocked)),
        names=(str(ground_truth), str(predictions)),
        **settings,
    )
    if output_json is not None:
        inputs = {"ground_truth": ground_truth, "predictions": predictions, "blocked": blocked}
        story = {key: None if path is None else str(path) for key, path in inputs.items()}
        story |= {"subset": subset, "tious": list(tiou), **settings}
        write_json(output_json, report | {"settings": story})
    _warn_about(report)
    return report


def _warn_about(report: dict[str, Any]) -> None:
    """Say on stderr what makes scores low without being an error."""
    videos = report["videos"]
    if videos["missing"]:
        click.echo(f"{videos['missing']} of {videos['used']} videos have no prediction.", err=True)
    if videos["without_ground_truth"]:
        click.echo(
            f"{videos['without_ground_truth']} predicted videos have no instance in this subset; what they"
            ' predict counts as wrong. (Ids in both files must agree: the official ones have no "v_".)',
            err=True,
        )
    if report.get("ignored_predictions"):
        ignored = report["ignored_predictions"]
        click.echo(f"{ignored} predictions of classes that this subset lacks were ignored.", err=True)


def _warn_about_queries(queries: dict[str, int]) -> None:
    """The same for grounding."""
    if queries["missing"]:
        click.echo(f"{queries['missing']} of {queries['used']} queries have no predicted moment.", err=True)
    if queries["unknown"]:
        click.echo(
            f"{queries['unknown']} predicted rows belong to no query and were ignored. (Video and sentence must be"
            " spelt as in the ground truth, with the final period.)",
            err=True,
        )
    if queries["dropped"]:
        click.echo(f"{queries['dropped']} queries were dropped: empty after the cut at the video's end.", err=True)


def _print_percentages(title: str, rows: dict[str, float]) -> None:
    from rich.console import Console
    from rich.table import Table

    click.echo(title)
    table = Table(show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for name, value in rows.items():
        table.add_row(name, f"{value:.2f} %")
    Console().print(table)
