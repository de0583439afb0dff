"""What the tests of the search share: a small profile, spaces, and training without Ray."""

import dataclasses
from pathlib import Path

import torch

from bsp.encoders.tsm import EncoderSettings
from bsp.pretraining.loop import TrainSettings, make_optimiser, train_steps
from bsp_platform.plan.profiles import mini, smoke
from bsp_platform.plan.recipes import EncoderRecipe
from bsp_platform.plan.sources import Sources
from bsp_platform.search.proposals import Kind
from bsp_platform.search.space import Setting, Space, all_settings, read_space
from bsp_platform.search.study import SearchStudy
from bsp_platform.storage.stages import StageStore

BASE = mini().clips
WIDTH_8 = EncoderSettings(depth=18, width=8)


def space(**texts: str):
    return read_space(texts, mini())


def settings_of(**texts: str) -> list[Setting]:
    return list(all_settings(space(**texts), BASE))


def open_study(store: Path | str, found: Space, kind: Kind = "grid", seed: int = 0) -> SearchStudy:
    return SearchStudy(StageStore(store), "study.jsonl", kind=kind, space=found, base=BASE, seed=seed)


def sources_of(catalog=None) -> Sources:
    class Names:
        class_names = ("walk", "wave")

    return Sources(
        trimmed=catalog or Names(), trimmed_print="t", data={}, videos_prints={"activitynet": "v"},
        labels_prints={"activitynet": "l"},
    )  # fmt: skip


def tiny_profile():
    from bsp.datasets.pantomime.render import PantomimeSettings

    return dataclasses.replace(
        smoke(),
        name="tiny",
        pantomime=PantomimeSettings(
            trimmed_per_class=2, trimmed_val_per_class=0, untrimmed_train=4, untrimmed_val=4, untrimmed_seconds=12.0,
            actions=("wave", "squat", "walk", "kick"),
        ),
        train=TrainSettings(clips=64, batch_size=8, learning_rate=0.02, log_every_steps=2, checkpoint_every_steps=4),
    )  # fmt: skip


def train_plainly(recipe: EncoderRecipe, catalog, probe=None) -> dict[str, torch.Tensor]:
    """The weights that the plain loop gives, without Ray; ``probe`` is called after every step."""
    from bsp_platform.work.pretraining import build_model
    from bsp_platform.work.streaming import ClipStream, make_clips

    torch.manual_seed(recipe.seed * 1000)
    model, settings = build_model(recipe), recipe.train
    stream = ClipStream(
        catalog=None, clips=recipe.clips, augment=recipe.augment, seed=recipe.seed,
        batch_size=settings.batch_size, length=settings.clips, plan=recipe.pretext.plan,
        synthesise=recipe.pretext.synthesise,
    )  # fmt: skip
    batches = (
        make_clips(catalog, stream, range(first, first + settings.batch_size))
        for first in range(0, settings.clips, settings.batch_size)
    )
    steps = train_steps(
        model, make_optimiser(model, settings), batches, loss=recipe.pretext.objective(), settings=settings,
        device=torch.device("cpu"),
    )  # fmt: skip
    for done, _ in steps:
        if probe:
            probe(model.encoder, done)
    return model.encoder.state_dict()
