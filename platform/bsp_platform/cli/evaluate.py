"""``bsp evaluate``: scores of predictions in the official file formats."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import click

from bsp_platform.cli.common import INPUT_FILE, OUTPUT_FILE, check_output_folder, not_nan, print_percentages
from bsp_platform.plain_text import say

TIOUS = "0.5:0.05:0.95"
OUTPUT_JSON = click.option("--output-json", type=OUTPUT_FILE, help="Write all results here, in full precision.")


def file_option(name: str, text: str) -> Callable[[Any], Any]:
    """A required option ``--name`` for an input file, with ``text`` as its help."""
    return click.option(f"--{name}", type=INPUT_FILE, required=True, help=text)


class Thresholds(click.ParamType):
    """start:step:stop with both ends, or a list with commas, as a tuple of floats in (0, 1]."""

    name = "start:step:stop or list"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        """The thresholds in ``value``, rising; click's error for other text."""
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
            return tuple(check_tious(list(tious)).tolist())
        except ValueError as error:
            self.fail(f"{value!r}: {error}", param, ctx)


@click.group()
def evaluate() -> None:
    """Score predictions in the official file formats."""


def evaluation_options(command: Callable) -> Callable:
    """The options that both evaluations have."""
    for option in (
        OUTPUT_JSON,
        click.option("--blocked", type=INPUT_FILE, help="JSON list of video ids to leave out on both sides."),
        click.option("--tiou", type=Thresholds(), default=TIOUS, show_default=True, help="tIoU thresholds."),
        click.option("--subset", default="validation", show_default=True, help="Subset of the ground truth."),
        file_option("predictions", 'JSON with "results", also .gz.'),
        file_option("ground-truth", 'JSON with "database", or CSV video,start_s,end_s,label; also .gz.'),
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
    report = _evaluate(evaluate_detection, settings, lambda report: report["average_mAP"] == 0, **common)
    rows = {f"mAP@{key}": 100 * value for key, value in report["mAP"].items()}
    rows["average mAP"] = 100 * report["average_mAP"]
    print_percentages(f"Detection, {common['subset']}, {report['videos']['used']} videos", rows)


class _Maximum(click.IntRange):
    """A number of at least 1, or "none"."""

    name = "number or none"

    def __init__(self) -> None:
        super().__init__(min=1)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """None for "none", in whatever case."""
        return None if str(value).lower() == "none" else super().convert(value, param, ctx)


@evaluate.command()
@evaluation_options
@click.option(
    "--max-proposals",
    type=_Maximum(),
    default=100,
    show_default=True,
    help="Average number of proposals per video at which the curve ends; none: all proposals count.",
)
def proposals(max_proposals: int | None, **common: Any) -> None:
    """Average recall at an average number of proposals (AR@AN) and the area under that curve (AUC)."""
    from bsp.metrics.proposals import evaluate_proposals

    report = _evaluate(
        evaluate_proposals, {"max_proposals": max_proposals}, lambda report: not any(report["curve"]["AR"]), **common
    )
    rows = {f"AR@{key}": 100 * value for key, value in report["AR@AN"].items()} | {"AUC": report["AUC"]}
    print_percentages(f"Proposals, {common['subset']}, {report['videos']['used']} videos", rows)


@evaluate.command()
@file_option(
    "ground-truth",
    "JSON list of {video, sentence, start_s, end_s, duration_s}, or a Charades-STA file (.txt); also .gz.",
)
@file_option("predictions", "JSON list of {video, sentence, moments: [[start_s, end_s, score], ...]}, also .gz.")
@click.option(
    "--protocol",
    type=click.Choice(["2dtan", "lgi"]),
    required=True,
    help="2dtan: ground truth cut at the video's end, IoU > threshold. lgi: as written, IoU >= threshold.",
)
@click.option(
    "--nms",
    type=click.FloatRange(0, 1),
    callback=not_nan,
    help="IoU threshold of non-maximum suppression (2D-TAN on Charades-STA: 0.45).  [default: none]",
)
@click.option(
    "--durations",
    type=INPUT_FILE,
    help="With a Charades-STA file: Charades_v1_test.csv (or _train), or JSON {video: seconds}; also .gz.",
)
@OUTPUT_JSON
def grounding(
    ground_truth: Path,
    predictions: Path,
    protocol: Literal["2dtan", "lgi"],
    nms: float | None,
    durations: Path | None,
    output_json: Path | None,
) -> None:
    """Recall and mean IoU of video grounding, by 2D-TAN's or LGI's protocol."""
    from bsp.files.text import read_json
    from bsp.metrics.file_remarks import grounding_remarks
    from bsp.metrics.grounding import evaluate_grounding, ground_truth_from_charades

    check_output_folder(output_json)
    is_text = ground_truth.name.removesuffix(".gz").endswith(".txt")
    if is_text and durations is None:
        message = f"{ground_truth} holds no durations; give Charades_v1_test.csv (or _train) or JSON {{video: seconds}}"
        raise click.BadParameter(message, param_hint="--durations")
    if durations is not None and not is_text:
        message = f"only for a ground truth in Charades-STA's text format (.txt); {ground_truth} has its own durations"
        raise click.BadParameter(message, param_hint="--durations")
    truth = read_json(ground_truth) if durations is None else ground_truth_from_charades(ground_truth, durations)
    found, names = read_json(predictions), (str(ground_truth), str(predictions))
    report = evaluate_grounding(truth, found, protocol=protocol, nms=nms, names=names)
    inputs = {"ground_truth": ground_truth, "predictions": predictions, "durations": durations}
    _write(output_json, report, inputs | {"protocol": protocol, "nms": nms})
    _warn_about_queries(report["queries"])
    _warn(grounding_remarks(truth, found, is_zero=report["mIoU"] == 0))
    title = f"Grounding, {protocol} protocol, {report['queries']['used']} queries"
    print_percentages(title, report["percent"])


@evaluate.command()
@file_option(
    "ground-truth",
    'JSON {"segment_s", "videos": {id: {"task", "duration_s", "steps": [[start_s, end_s], ...]}}}, also .gz.',
)
@file_option("predictions", 'JSON {"segment_s", "scores": {id: [one per segment]}}, also .gz.')
@OUTPUT_JSON
def actionness(ground_truth: Path, predictions: Path, output_json: Path | None) -> None:
    """Average precision of step localisation as actionness (CrossTask), over segments of 0.2 s."""
    from bsp.files.text import read_json
    from bsp.metrics.actionness import evaluate_actionness
    from bsp.metrics.file_remarks import actionness_remarks

    check_output_folder(output_json)
    names = (str(ground_truth), str(predictions))
    truth, found = read_json(ground_truth), read_json(predictions)
    report = evaluate_actionness(truth, found, names=names)
    _write(output_json, report, {"ground_truth": ground_truth, "predictions": predictions})
    _warn_about_videos(report["videos"])
    _warn(actionness_remarks(truth, found))
    rows = {
        "AP, all segments": report["AP"],
        "AP, mean over videos": report["AP_video"],
        "AP, mean over tasks": report["AP_task"],
        "positive segments": report["positive_rate"],
    }
    title = f"Actionness, {report['videos']['used']} videos, {report['segments']} segments"
    print_percentages(title, {name: 100 * value for name, value in rows.items()})


@evaluate.command()
@file_option("ground-truth", "Annotations of Kinetics-GEBD (processed or raw) or TAPOS: .pkl, .json, .json.gz.")
@file_option("predictions", "{id: [boundaries]}: .pkl, .json, .json.gz.")
@click.option(
    "--variant",
    type=click.Choice(["challenge", "notebook", "tapos"]),
    default="challenge",
    show_default=True,
    help="Official evaluation: the challenge's (predictions in seconds), or one of the notebooks (in frames).",
)
@click.option(
    "--subset",
    type=click.Choice(["training", "validation"]),
    default="validation",
    show_default=True,
    help="Of TAPOS' annotation file, the only one that holds both.",
)
@OUTPUT_JSON
def boundaries(ground_truth: Path, predictions: Path, variant: Any, subset: str, output_json: Path | None) -> None:
    """F1 at relative distance of generic event boundaries (GEBD)."""
    from bsp.datasets.gebd import read_document
    from bsp.datasets.gebd_records import read_records
    from bsp.metrics.boundaries import evaluate_boundaries
    from bsp.metrics.file_remarks import boundary_remarks

    check_output_folder(output_json)
    names = (str(ground_truth), str(predictions))
    clips, dropped = read_records(read_document(ground_truth), subset=subset, name=names[0])
    if dropped:
        say(f"{len(dropped)} clips of {ground_truth} cannot be used, such as {dropped[0]}", err=True)
    found = read_document(predictions)
    report = evaluate_boundaries(clips, found, variant=variant, names=names)
    inputs = {"ground_truth": ground_truth, "predictions": predictions, "variant": variant, "subset": subset}
    _write(output_json, report, inputs)
    _warn_about_videos(report["videos"], "clips")
    _warn(boundary_remarks(clips, found, variant=variant, is_zero=report["mean_F1"] == 0))
    if report["videos"]["inconsistent"]:
        count = report["videos"]["inconsistent"]
        say(f"{count} clips whose annotators disagree (consistency below 0.3) are not evaluated.", err=True)
    rows = {f"F1@{key}": 100 * value for key, value in report["F1"].items()}
    rows |= {"mean F1": 100 * report["mean_F1"]}
    rows |= {f"{name}@0.05": 100 * report[name]["0.05"] for name in ("precision", "recall")}
    print_percentages(f"Event boundaries, {variant} variant, {report['videos']['used']} clips", rows)


def _write(output_json: Path | None, report: dict[str, Any], settings: dict[str, Any]) -> None:
    """Write the report with its settings; paths as text."""
    from bsp_platform.storage.files import write_json

    if output_json is not None:
        plain = {key: str(value) if isinstance(value, Path) else value for key, value in settings.items()}
        write_json(output_json, report | {"settings": plain})


def _evaluate(
    metric: Callable[..., dict[str, Any]],
    settings: dict[str, Any],
    is_zero: Callable[[dict[str, Any]], bool],
    *,
    ground_truth: Path,
    predictions: Path,
    subset: str,
    tiou: tuple[float, ...],
    blocked: Path | None,
    output_json: Path | None,
) -> dict[str, Any]:
    """Read the files, compute the metric, print warnings, and write the report."""
    from bsp.datasets.own import is_table, truth_of_actions
    from bsp.datasets.results_json import read_video_ids
    from bsp.files.text import read_json
    from bsp.metrics.file_remarks import detection_remarks

    check_output_folder(output_json)
    truth = truth_of_actions(ground_truth, subset) if is_table(ground_truth) else read_json(ground_truth)
    if is_table(predictions):
        raise click.ClickException(f"{predictions} is a table; bsp detect writes results.json beside it, give that one")
    found = read_json(predictions)
    left_out = () if blocked is None else read_video_ids(blocked)
    names = (str(ground_truth), str(predictions))
    report = metric(truth, found, subset=subset, tious=tiou, blocked=left_out, names=names, **settings)
    inputs = {"ground_truth": ground_truth, "predictions": predictions, "blocked": blocked}
    _write(output_json, report, inputs | {"subset": subset, "tious": list(tiou), **settings})
    _warn_about(report)
    labels = "mAP" in report
    _warn(detection_remarks(truth, found, subset=subset, blocked=left_out, labels=labels, is_zero=is_zero(report)))
    return report


def _warn(remarks: list[str]) -> None:
    """Print remarks on stderr."""
    for remark in remarks:
        say(remark, err=True)


def _warn_about(report: dict[str, Any]) -> None:
    """Print on stderr what lowers the scores without being an error."""
    videos = report["videos"]
    if videos["missing"]:
        say(f"{videos['missing']} of {videos['used']} videos have no prediction.", err=True)
    if videos["without_ground_truth"]:
        say(
            f"{videos['without_ground_truth']} predicted videos have no instance in this subset; what they"
            ' predict counts as wrong. (Ids in both files must agree: the official ones have no "v_".)',
            err=True,
        )
    if report.get("ignored_predictions"):
        ignored = report["ignored_predictions"]
        say(f"{ignored} predictions of classes that this subset lacks were ignored.", err=True)


def _warn_about_queries(queries: dict[str, int]) -> None:
    """The same for grounding."""
    if queries["missing"]:
        say(f"{queries['missing']} of {queries['used']} queries have no predicted moment.", err=True)
    if queries["unknown"]:
        say(
            f"{queries['unknown']} predicted rows belong to no query and were ignored. (Video and sentence must be"
            " spelt as in the ground truth, with the final period.)",
            err=True,
        )
    if queries["dropped"]:
        say(f"{queries['dropped']} queries were dropped: empty after the cut at the video's end.", err=True)


def _warn_about_videos(videos: dict[str, int], what: str = "videos") -> None:
    """The same for actionness and boundaries."""
    if videos["missing"]:
        say(f"{videos['missing']} {what} have no prediction.", err=True)
    if videos["unknown"]:
        say(f"{videos['unknown']} predicted {what} are not in the ground truth and were ignored.", err=True)
