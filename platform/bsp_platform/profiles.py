"""Profiles: complete configurations, one function each. ``smoke`` and ``mini`` use the embedded data set,
``paper`` real data. One code path; only numbers differ.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from bsp.augment import AugmentSettings
from bsp.clips import BoundaryKind, ClipSettings
from bsp.datasets.pantomime import PantomimeSettings
from bsp.encoder import EncoderSettings
from bsp.localization.gtad import GTADSettings
from bsp.pretext import PretextSettings
from bsp.pretrain import TrainSettings
from bsp_platform.cluster import Resources, laptop_resources
from bsp_platform.recipes import EncoderRecipe


@dataclass(frozen=True, kw_only=True)
class Profile:
    """All settings of an experiment."""

    name: str
    about: str  # what the numbers mean, printed with every table
    pantomime: PantomimeSettings | None  # None: real data, given by paths
    encoder: EncoderSettings
    clips: ClipSettings
    augment: AugmentSettings
    train: TrainSettings
    head: GTADSettings
    resources: Callable[[int], Resources]  # from the number of training workers

    def encoder_recipe(
        self,
        task: str | None,
        kinds: tuple[BoundaryKind, ...],
        *,
        trimmed: str,
        num_actions: int,
        workers: int,
        seed: int,
    ) -> EncoderRecipe:
        """``task`` None is a random encoder; "action" is vanilla; else a boundary pretext over ``kinds``."""
        if task is None:
            return EncoderRecipe(encoder=self.encoder, seed=seed)
        pretext = PretextSettings(task=task, kinds=kinds, num_actions=num_actions if task == "action" else 0)
        return EncoderRecipe(
            encoder=self.encoder,
            pretext=pretext,
            clips=replace(self.clips, kinds=kinds),
            augment=self.augment,
            train=self.train,
            trimmed=trimmed,
            workers=workers,
            seed=seed,
        )


_EMBEDDED = "embedded data set (Pantomime, synthetic videos): a proving ground, not evidence about Kinetics"


def mini() -> Profile:
    """The default: minutes per row on two cores."""
    return Profile(
        name="mini",
        about=_EMBEDDED,
        pantomime=PantomimeSettings(),
        encoder=EncoderSettings(depth=18, width=16),
        # Choice: only strong speed changes; weak ones are not learnt in this little training.
        clips=ClipSettings(gammas=(0.25, 4.0)),
        augment=AugmentSettings(size_px=48),
        train=TrainSettings(clips=25_600, batch_size=32, learning_rate=0.1, warmup_steps=50),
        # Choice: 48 cells for videos of 36 snippets, and batches of 8 because 120 videos make few steps.
        head=GTADSettings(feature_width=128, cells=48, max_duration=48, batch_size=8),
        resources=laptop_resources,
    )


def smoke() -> Profile:
    """Seconds per row, to see that all parts work; its scores mean nothing."""
    return replace(
        mini(),
        name="smoke",
        about=f"{_EMBEDDED}; smoke profile: far too little training for the scores to mean anything",
        pantomime=PantomimeSettings(trimmed_per_class=3, trimmed_val_per_class=1, untrimmed_train=8, untrimmed_val=8),
        encoder=EncoderSettings(depth=18, width=8),
        augment=AugmentSettings(size_px=32),
        train=TrainSettings(clips=128, batch_size=16, log_every_steps=2, checkpoint_every_steps=4),
        head=GTADSettings(feature_width=64, cells=24, max_duration=24, epochs=2),
    )


def paper() -> Profile:
    """Kinetics-400 and ActivityNet-1.3 at 224 px, R18 (Section 4.4); one GPU per training worker."""
    return Profile(
        name="paper",
        about="Kinetics-400 pre-training, ActivityNet-1.3 validation",
        pantomime=None,
        encoder=EncoderSettings(depth=18, width=64),
        clips=ClipSettings(),
        augment=AugmentSettings(size_px=224),
        # Choice: 50 epochs' worth of 240,000 clips at TSM's rate for batch 128; the paper gives neither.
        train=TrainSettings(
            clips=12_000_000 // 128 * 128,
            batch_size=128,
            learning_rate=0.02,
            warmup_steps=2_000,
            log_every_steps=100,
            checkpoint_every_steps=2_000,
        ),
        head=GTADSettings(feature_width=512, cells=100, max_duration=100),
        resources=lambda workers: Resources(
            train_workers=workers,
            cpus_per_worker=1.0,
            gpus_per_worker=1.0,
            makers_per_worker=12,
            cpus_per_maker=1.0,
            extractors=max(1, workers),
            cpus_per_extractor=2.0,
            gpus_per_extractor=1.0,
            cpus_per_head=2.0,
            gpus_per_head=1.0,
        ),
    )


PROFILES: dict[str, Callable[[], Profile]] = {"smoke": smoke, "mini": mini, "paper": paper}
