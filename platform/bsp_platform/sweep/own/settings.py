"""The settings of a pre-training on one's own videos: chosen once, kept beside the result, changed by ``--set``."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from bsp.clips.catalog import Catalog
from bsp.encoders.checkpoints import checkpoint_settings
from bsp.encoders.contract import Architecture
from bsp.encoders.start import IMAGE, has_image_weights, image_weights_file
from bsp.encoders.tsm_lite0 import TSMLite0Settings
from bsp.errors import FileError, MissingExtra
from bsp.files.text import read_json
from bsp.io import write_text
from bsp_platform.plain_text import say
from bsp_platform.plan.device import Device, choose_device, no_gpu_here
from bsp_platform.plan.overrides import apply_overrides, as_lines
from bsp_platform.plan.own import Choice, DataFacts, MachineFacts, OwnConfig, Start, choose, named_encoder, random_width
from bsp_platform.plan.profiles import PROFILES
from bsp_platform.plan.recipes import EncoderRecipe, Stream
from bsp_platform.storage.files import file_sha256
from bsp_platform.storage.manifests import recipe_hash
from bsp_platform.sweep.own.facts import data_facts, measure
from bsp_platform.work.cluster.planning import joins_a_cluster, this_machine
from bsp_platform.work.cluster.start import cluster_size, start_ray

_FOLLOWS = {"clips.kinds": "--pretext", "clips.plain_clips": "--pretext", "clips.half_len": "encoder.frames"}


@dataclass(frozen=True, kw_only=True)
class OwnOptions:
    """What the command was given."""

    videos: Path
    out: Path
    pretext: str | None
    encoder: str | None
    start: str | None
    profile: str
    minutes: float | None
    settings: tuple[str, ...]
    seed: int
    workers: int | None
    cpus: int | None
    device: Device
    storage: str
    tracking_uri: str | None
    max_broken: float
    dry_run: bool
    as_json: bool

    def say(self, text: object) -> None:
        """A message; stdout belongs to the JSON document if there is one."""
        say(text, err=self.as_json)


@dataclass(frozen=True, kw_only=True)
class Resolved:
    """What will be trained."""

    config: OwnConfig
    before: OwnConfig  # without --set
    reasons: tuple[str, ...]
    recipe: EncoderRecipe
    start_files: dict[str, str]  # by SHA-256: path of a given file of weights
    known: dict[str, Any]  # what is kept beside the result


def resolve(given: OwnOptions, stream: Stream, training: Catalog) -> Resolved:
    """Settings and recipe. ValueError for options that do not go together, FileError for a file that does not fit.

    Those of an earlier run of the same command on the same videos are used again.
    """
    for text in given.settings:
        name = text.partition("=")[0].strip()
        if name in _FOLLOWS:
            raise ValueError(f"--set {text}: {name} follows from {_FOLLOWS[name]}; change that")
    machine, device = _machine(given)
    encoder, start, start_key, files = _encoder(given, machine)
    fingerprint = training.fingerprint()
    command = {
        "videos": str(given.videos.absolute()), "fingerprint": fingerprint, "pretext": str(stream),
        "encoder": encoder.name, "start": start_key, "profile": given.profile, "minutes": given.minutes,
        "workers": given.workers, "device": device,
    }  # fmt: skip
    kept = _kept_choice(given.out, command)

    def recipe_of(config: OwnConfig) -> EncoderRecipe:
        return config.profile().encoder_recipe(
            stream, trimmed=fingerprint, num_actions=len(training.class_names), workers=config.workers,
            seed=given.seed, start=start_key,
        )  # fmt: skip

    def chosen(data: DataFacts, machine: MachineFacts, minutes: float | None) -> Choice:
        return choose(
            data,
            machine,
            stream,
            encoder=encoder,
            start=start,
            minutes=minutes,
            workers=given.workers,
        )

    if given.profile != "own":
        base = replace(OwnConfig.of_profile(PROFILES[given.profile](), stream, given.workers or 1), encoder=encoder)
        reasons: tuple[str, ...] = (f"profile {given.profile}",)
        data = DataFacts(videos=len(training), seconds=0.0, short_side_px=0, decoded_mb=0.0)
    else:
        if kept:
            data, machine = DataFacts(**kept["data"]), MachineFacts(**kept["machine"])
            given.say(f"continuing with the settings of {choice_file(given.out)}")
        else:
            data = data_facts(training)
            if given.minutes is not None:
                given.say("measuring how fast this machine makes clips and trains on them ...")
                first = chosen(data, machine, None).config
                train_s, make_s = measure(recipe_of(first), training, device)
                machine = replace(machine, train_s=train_s, train_px=first.augment.size_px, make_s=make_s)
        choice = chosen(data, machine, given.minutes)
        base, reasons = choice.config, choice.reasons
        if kept:
            base = apply_overrides(base, kept["config"])
    config = apply_overrides(base, given.settings)
    known = {
        "command": command, "data": asdict(data), "machine": asdict(machine), "config": as_lines(base),
        "set": list(given.settings),
    }  # fmt: skip
    return Resolved(
        config=config, before=base, reasons=reasons, recipe=recipe_of(config), start_files=files, known=known
    )


def _machine(given: OwnOptions) -> tuple[MachineFacts, str]:
    """What there is, and "cpu" or "cuda"."""
    if joins_a_cluster():
        start_ray(log_to_driver=True)
        cpus, gpus = cluster_size()
    else:
        here = this_machine(given.cpus)
        cpus, gpus = here.cpus, here.gpus
    device = choose_device(given.device, gpus, no_gpu_here())
    return MachineFacts(cpus=cpus, gpus=gpus if device == "cuda" else 0.0), device


def _encoder(given: OwnOptions, machine: MachineFacts) -> tuple[Architecture, Start, str, dict[str, str]]:
    """(settings, what it begins with, start of the recipe, {SHA-256: path} of a given file)."""
    named = named_encoder(given.encoder, random_width(machine)) if given.encoder else None
    if given.start not in (None, "random", IMAGE):
        path = Path(str(given.start))
        if not path.is_file():
            raise ValueError(f"--start {given.start}: no such file; give random, image or a file of weights")
        fits = checkpoint_settings(path)
        if named is not None and type(named) is not type(fits):
            raise ValueError(f"--start {path}: holds weights of {fits.name}, not of {named.name}; leave --encoder out")
        sha256 = file_sha256(path)
        return fits, "file", sha256, {sha256: str(path.absolute())}
    if given.profile != "own" and named is None:
        named = PROFILES[given.profile]().encoder
    if given.start == "random":
        return named or named_encoder("tsm_r18", random_width(machine)), "random", "", {}
    encoder = named or TSMLite0Settings()
    try:
        if has_image_weights(encoder):
            image_weights_file()
            return encoder, "image", IMAGE, {}
    except MissingExtra:
        if given.start == IMAGE:
            raise
        return named or named_encoder("tsm_r18", random_width(machine)), "random", "", {}
    if given.start == IMAGE:
        raise ValueError(
            f"--start image: there are image weights of tsm_lite0 only, not of {encoder.name}; give a file"
        )
    return encoder, "random", "", {}


def choice_file(out: Path) -> Path:
    """Where the choice of settings for the model folder ``out`` is kept."""
    return out.with_name(f"{out.name}.pretrain.json")


def _kept_choice(out: Path, command: dict[str, Any]) -> dict[str, Any] | None:
    """What an earlier run of the same command chose; None for another command, or a damaged file."""
    path = choice_file(out)
    if not path.exists():
        return None
    try:
        kept: dict[str, Any] = read_json(path)
        return kept if kept["command"] == command else None
    except (FileError, KeyError, TypeError) as error:
        say(f"{path} is not used ({error}); the settings are chosen anew", err=True)
        return None


def keep_choice(given: OwnOptions, resolved: Resolved) -> None:
    """So that the same command goes on with the same settings, whatever is measured then."""
    path = choice_file(given.out)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(resolved.known, indent=1))


def refuse_other(out: Path, recipe: EncoderRecipe) -> None:
    """ValueError if ``out`` holds something else than the model of this recipe."""
    if not out.exists() or not any(out.iterdir()):
        return
    if model_of(out) != recipe_hash(recipe):
        raise ValueError(f"{out} holds something else, or a model of other videos or settings; choose another --out")


def model_of(out: Path) -> str:
    """Hash of the recipe whose model a folder is; "" if it is none."""
    try:
        return str(read_json(out / "model.json")["provenance"]["recipe_hash"])
    except (FileError, OSError, KeyError, TypeError):
        return ""
