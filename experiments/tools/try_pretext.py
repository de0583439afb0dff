"""Try how a pretext is learnt from a start, on the embedded data: one training, held-out accuracy on the way.

python experiments/tools/try_pretext.py --start image                        # the speed pretext ({ds, ss}), minutes
python experiments/tools/try_pretext.py --start image --set train.learning_rate=0.05 --set train.clips=96000
python experiments/tools/try_pretext.py --pretext still                      # the classifier of single pictures itself

In this process, without Ray; encoders are kept in FOLDER by the hash of their recipe, so that the classifier of
pictures is trained once. A line of FOLDER/trials.jsonl is added for each trial, with its command. Pretexts as in
bsp pretrain. The videos that are scored on are those of trimmed/val.csv, which no training sees.
"""

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import click
import torch

from bsp.clips.catalog import Catalog
from bsp.clips.frame_cache import FrameCache
from bsp.datasets.kinetics import load_kinetics_folder
from bsp.datasets.pantomime.render import render
from bsp.pretraining.loop import make_optimiser, prepare_device, train_steps
from bsp_platform.plan.overrides import apply_overrides
from bsp_platform.plan.own_pretext import parse_pretext
from bsp_platform.plan.profiles import PROFILES
from bsp_platform.plan.recipes import EncoderRecipe
from bsp_platform.storage.manifests import recipe_hash
from bsp_platform.work.pretraining import WEIGHTS, TrainJob, given_encoder, save_encoder, start_training
from bsp_platform.work.probe import load_validation, score_held_out
from bsp_platform.work.streaming import clip_stream, make_clips

ROOT = Path(__file__).resolve().parents[2]
CPU = torch.device("cpu")
NAMES = ("accuracy", "change_point_error")


def batches(recipe: EncoderRecipe, catalog: Catalog) -> Iterator[dict]:
    """The stream of the recipe; the next batches are made in a thread meanwhile."""
    train, stream = recipe.training.train, clip_stream(recipe, None)
    cache = FrameCache(384 * 2**20)
    with ThreadPoolExecutor(1) as pool:

        def make(step: int):
            first = step * train.batch_size
            return pool.submit(make_clips, catalog, stream, range(first, first + train.batch_size), cache)

        waiting = [make(step) for step in range(min(3, train.steps))]
        for step in range(train.steps):
            yield waiting.pop(0).result()
            if step + 3 < train.steps:
                waiting.append(make(step + 3))


def trained(recipe: EncoderRecipe, data: SimpleNamespace, folder: Path, scores: int) -> tuple[Path, list[dict]]:
    """(weights, held-out scores by clips seen) of an encoder, made unless they are there; what it needs comes first."""
    place = folder / "encoders" / recipe_hash(recipe)
    curve = place / "held_out.json"
    if curve.is_file():
        return place / WEIGHTS, json.loads(curve.read_text("utf-8"))
    place.mkdir(parents=True, exist_ok=True)
    if recipe.pretext is None:
        still = trained(recipe.still, data, folder, scores)[0] if recipe.still else None
        given_encoder(place, recipe, still)
        curve.write_text("[]", "utf-8")
        return place / WEIGHTS, []
    start = trained(recipe.start_recipe, data, folder, scores)[0] if recipe.start_recipe else None
    train = recipe.training.train
    model, loss = start_training(TrainJob(recipe=recipe, stream=None, resources=None, start=start), CPU)  # type: ignore[arg-type]
    prepare_device(CPU, train.threads)
    torch.manual_seed(recipe.seed * 1000)
    optimiser = make_optimiser(model, train)
    every, found, began = max(1, train.steps // scores), [], time.time()
    for done, _ in train_steps(model, optimiser, batches(recipe, data.training), loss=loss, settings=train, device=CPU):
        if done % every == 0 or done == train.steps:
            numbers = score_held_out(model, loss, recipe, data.validation, CPU, clips=data.clips)
            seen = done * train.batch_size
            found.append({"clips": seen, **{name: numbers[name] for name in NAMES if name in numbers}})
            click.echo(f"{recipe.name}: {found[-1]}, {time.time() - began:.0f} s")
    save_encoder(model.encoder, recipe, place)
    curve.write_text(json.dumps(found), "utf-8")
    return place / WEIGHTS, found


@click.command(context_settings={"show_default": True, "help_option_names": ["-h", "--help"]})
@click.option("--pretext", default="ds+ss", help="as in bsp pretrain, or still: the classifier of pictures")
@click.option("--start", type=click.Choice(["random", "image"]), default="image")
@click.option("--seed", default=0)
@click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", help="of the profile: train.*, clips.*, ...")
@click.option("--profile", type=click.Choice(["mini", "smoke"]), default="mini")
@click.option("--folder", type=Path, default=ROOT / "results" / "try_pretext", help="videos, encoders, trials.jsonl")
@click.option("--clips", default=480, help="held-out clips")
@click.option("--scores", default=6, help="how often they are scored")
@click.option("--note", default="", help="kept with the numbers")
def main(pretext, start, seed, settings, profile, folder, clips, scores, note) -> None:
    """Train one encoder and print its held-out accuracy."""
    base = PROFILES[profile]()
    changed = apply_overrides(base, settings)
    assert base.pantomime is not None
    root = render(base.pantomime, folder / "pantomime") / "trimmed"
    training = load_kinetics_folder(root, cache_dir=folder / "catalogs", progress=False)
    validation = load_validation(root, training.class_names, cache_dir=folder / "catalogs")
    data = SimpleNamespace(training=training, validation=validation, clips=clips)
    facts = {"trimmed": training.fingerprint(), "num_actions": len(training.class_names), "workers": 1, "seed": seed}
    if pretext == "still":
        recipe = changed.still_recipe(changed.encoder, **facts)
    else:
        recipe = changed.encoder_recipe(parse_pretext(pretext), start="" if start == "random" else start, **facts)
        if recipe.still:  # the classifier of pictures is the profile's own, whatever is tried
            recipe = replace(recipe, still=base.still_recipe(changed.encoder, **facts))
    began = time.time()
    _, curve = trained(recipe, data, folder, scores)
    trial = {
        "pretext": pretext, "start": start, "seed": seed, "settings": list(settings), "note": note,
        "recipe": recipe_hash(recipe), "curve": curve, "seconds": round(time.time() - began),
    }  # fmt: skip
    with (folder / "trials.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(trial) + "\n")
    click.echo(f"{pretext} from {start} {' '.join(settings)}: {curve[-1]}")


if __name__ == "__main__":
    main()
