"""``bsp deliver`` and ``bsp register``: send to MLflow what it lacks of the runs in a storage, and model folders."""

from __future__ import annotations

from pathlib import Path

import click

from bsp_platform.plain_text import say


@click.command()
@click.option("--storage", envvar="BSP_STORAGE", default="storage", show_default=True, metavar="FOLDER|s3://...")
@click.option("--tracking-uri", envvar="MLFLOW_TRACKING_URI", help="MLflow store [default: SQLite in --home]")
@click.option("--home", type=click.Path(path_type=Path), default=Path("mlflow"), show_default=True)
@click.option("--show", is_flag=True, help="Only show what MLflow lacks.")
def deliver(storage: str, tracking_uri: str | None, home: Path, show: bool) -> None:
    """Send to MLflow what it lacks of the runs of a storage.

    The command of an experiment does so for its own runs. Exit code 1 if something is still lacking.
    """
    from bsp_platform.storage.stages import StageStore
    from bsp_platform.tracking.mlflow_store import MlflowStore, is_run_error, shown_uri
    from bsp_platform.tracking.record import all_records

    if "://" not in storage and not Path(storage).is_dir():
        raise click.UsageError(f"--storage {storage}: no such folder")
    store, mlflow = StageStore(storage), MlflowStore(tracking_uri, home)
    records, complete = list(all_records(store)), 0
    for record in records:
        if isinstance(record, ValueError):
            say(record, err=True)
            continue
        try:
            lacking = mlflow.lacking(store, record)
            if lacking:
                say(f"{record.experiment}, {record.name}: {'lacks' if show else 'sending'} {lacking}")
            if lacking and not show:
                mlflow.send(store, record)
            complete += not (lacking and show)
        except Exception as error:  # whatever MLflow, the data base or the network raises
            say(f"{record.experiment}, {record.name}: {error}", err=True)
            if not is_run_error(error):
                break
    say(f"{shown_uri(mlflow.uri)}: {complete} of {len(records)} runs of {store.address} are whole")
    if complete < len(records):
        raise click.exceptions.Exit(1)


@click.command()
@click.argument("model", type=click.Path(exists=True, file_okay=False, path_type=Path), metavar="FOLDER")
@click.option("--name", required=True, help="In the registry.")
@click.option("--alias", default="", help="Moved to this model: models:/NAME@ALIAS.")
@click.option("--tracking-uri", envvar="MLFLOW_TRACKING_URI", help="MLflow store [default: SQLite in --home]")
@click.option("--home", type=click.Path(path_type=Path), default=Path("mlflow"), show_default=True)
def register(model: Path, name: str, alias: str, tracking_uri: str | None, home: Path) -> None:
    """Copy a model folder into MLflow's registry; one that is there already is found, and not copied.

    \b
    Example: bsp register results/ablation_table4/mini/models/vanilla-seed0 --name table4 --alias best
             bsp detect VIDEO --model models:/table4@best
    """
    from bsp.models.folder import load_model
    from bsp_platform.tracking import registry

    try:
        load_model(model)  # whole, or not registered
        said = registry.register(model, name, alias, store=registry.registry(tracking_uri, home))
    except ValueError as error:
        raise click.ClickException(str(error)) from None
    say(f"{model}: {said}")
