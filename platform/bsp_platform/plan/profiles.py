"""Profiles: complete configurations, one function each. ``smoke`` and ``mini`` use the embedded data set,
``paper`` and ``paper-r50`` real data. One code path; only numbers differ.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from bsp.clips.augment import AugmentSettings
from bsp.clips.plan import ClipSettings
from bsp.datasets.pantomime.grounding import GroundingWorldSettings
from bsp.datasets.pantomime.levers import in_version
from bsp.datasets.pantomime.render import PantomimeSettings
from bsp.datasets.pantomime.stories_plan import StorySettings
from bsp.encoders.contract import Architecture
from bsp.encoders.start import IMAGE, has_image_weights
from bsp.encoders.tsm import EncoderSettings
from bsp.features.store import Precision
from bsp.localization.actionness import ActionnessSettings
from bsp.localization.boundaries import BoundaryHeadSettings, PeakSettings
from bsp.localization.grounding.lgi import LGISettings
from bsp.localization.grounding.tan2d import TAN2DSettings
from bsp.localization.gtad.network import GTADSettings
from bsp.localization.gtad.windows import WindowSettings
from bsp.pretraining.contract import Pretext
from bsp.pretraining.fusion import FusionSettings
from bsp.pretraining.loop import TrainSettings
from bsp.pretraining.pretexts import make_pretext
from bsp.pretraining.still import StillPictures
from bsp_platform.plan.recipes import FUSIONS, EncoderRecipe, Stream
from bsp_platform.plan.resources import Resources, laptop_resources, paper_resources


@dataclass(frozen=True, kw_only=True)
class Profile:
    """All settings of an experiment."""

    name: str
    about: str  # what the numbers mean, printed with every table
    pantomime: PantomimeSettings | None  # None: real data, given by paths
    grounding: GroundingWorldSettings | None  # None: real data, given by paths
    stories: StorySettings | None  # THUMOS-14, HACS, CrossTask and GEBD layouts; None: real data, given by paths
    encoder: Architecture
    clips: ClipSettings  # their length is that of the encoder
    augment: AugmentSettings
    train: TrainSettings
    two_head_train: TrainSettings  # two tasks share these clips
    matching_weight: float  # of feature distillation
    head: GTADSettings  # on ActivityNet
    hacs: GTADSettings
    thumos: WindowSettings
    actionness: ActionnessSettings  # step localisation
    peaks: PeakSettings  # event boundaries, unsupervised
    boundary_head: BoundaryHeadSettings  # event boundaries, supervised
    tan2d: TAN2DSettings
    lgi: LGISettings
    word_width: int  # of word embeddings that are learnt, without a GloVe file
    # From the number of training workers and the device, "cpu" or "cuda": what a row would like (cluster/planning.py
    # fits it).
    resources: Callable[[int, str], Resources]
    # Of the encoder's arithmetic in extraction; part of the result, so it belongs to the profile and not to the device.
    feature_precision: Precision = "float32"
    # That rows may name beside ``encoder``. No part of what names a sweep: the recipes of its rows hold them.
    encoders: Mapping[str, Architecture] = field(default_factory=dict)
    # How the classifier of still pictures is trained whose weights the start "image" means; None: ImageNet's.
    still_train: TrainSettings | None = None

    @property
    def known_encoders(self) -> tuple[Architecture, ...]:
        """All of them, each once."""
        return tuple(dict.fromkeys((self.encoder, *self.encoders.values())))

    def size_of(self, encoder: Architecture) -> int:
        """Side of the square image, in pixels, that this encoder is shown: its own, else that of the profile."""
        return encoder.size_px or self.augment.size_px

    def encoder_of(self, stream: Stream) -> Architecture:
        """The one that the stream names. ValueError if the profile has none of that name."""
        if not stream.encoder:
            return self.encoder
        if stream.encoder not in self.encoders:
            known = ", ".join(self.encoders) or "none"
            raise ValueError(f"profile {self.name} has no encoder called {stream.encoder!r}; it has {known}")
        return self.encoders[stream.encoder]

    def encoder_recipe(
        self,
        stream: Stream,
        *,
        trimmed: str,
        num_actions: int,
        workers: int,
        seed: int,
        weights: Mapping[Architecture, str] = MappingProxyType({}),
        start: str = "",
    ) -> EncoderRecipe:
        """The encoder of a stream on these data; the teachers of a distilled one have its seed.

        ``weights``: SHA-256 of a checkpoint that is taken as the vanilla encoder instead of training one. ``start``:
        what trainings start from, as in EncoderRecipe, and what a stream "image" is; a distilled student starts from
        its teacher all the same.
        """
        encoder = self.encoder_of(stream)
        if stream.method == "random":
            return EncoderRecipe(encoder=encoder, seed=seed)
        still = None
        if start == IMAGE and self.still_train is not None and not has_image_weights(encoder):
            still = self.still_recipe(encoder, trimmed=trimmed, num_actions=num_actions, workers=workers, seed=seed)
        if stream.method == IMAGE:
            return EncoderRecipe(encoder=encoder.for_snippets(), start=start, still=still)
        if stream.method == "action" and encoder.for_snippets() in weights:
            return EncoderRecipe(encoder=encoder, weights=weights[encoder.for_snippets()])
        clips = replace(self.clips, half_len=encoder.clip_frames // 2, kinds=stream.kinds)
        augment = replace(self.augment, size_px=self.size_of(encoder))
        train = self.train
        pretext: Pretext
        teachers: tuple[EncoderRecipe, ...] = ()
        if stream.method in FUSIONS:
            distils, classifies = stream.method == "distillation", stream.second == "classification"
            pretext = FusionSettings(
                kinds=stream.kinds if classifies else (),
                num_actions=num_actions,
                matching_weight=self.matching_weight if distils else 0.0,
                pretext=None if classifies else make_pretext(stream.second, stream.kinds, num_actions),
            )
            # Choice: as many plain clips as synthetic ones in every batch.
            clips = replace(clips, plain_clips=len(stream.kinds) if classifies else 0)
            if not distils:
                train = self.two_head_train
            else:
                taught = (
                    Stream(method="action", encoder=stream.encoder),
                    Stream(method=stream.second, kinds=stream.kinds, encoder=stream.encoder),
                )
                teachers = tuple(
                    self.encoder_recipe(
                        teacher,
                        trimmed=trimmed,
                        num_actions=num_actions,
                        workers=workers,
                        seed=seed,
                        weights=weights,
                        start=start,
                    )
                    for teacher in taught
                )
        else:
            pretext = make_pretext(stream.method, stream.kinds, num_actions)
        return EncoderRecipe(
            encoder=encoder,
            pretext=pretext,
            clips=clips,
            augment=augment,
            train=train,
            trimmed=trimmed,
            workers=workers,
            seed=seed,
            teachers=teachers,
            zero_residual=encoder.zero_residual and (not start or bool(teachers)),
            start="" if teachers else start,
            still=None if teachers else still,
        )

    def still_recipe(
        self, encoder: Architecture, *, trimmed: str, num_actions: int, workers: int, seed: int
    ) -> EncoderRecipe:
        """The classifier of single pictures with the weights of ``encoder``, without its mixing over time.

        Choice: one for each seed, as every other encoder of a row, so that the spread over seeds holds its chance.
        """
        pictures = encoder.for_pictures()
        return EncoderRecipe(
            encoder=pictures,
            pretext=StillPictures(num_actions=num_actions),
            # One frame of a video, wherever it is: nothing else of these settings counts.
            clips=ClipSettings(half_len=1, epsilon=0, min_segment=1, kinds=(), gammas=()),
            augment=replace(self.augment, size_px=self.size_of(encoder)),
            train=self.still_train,
            trimmed=trimmed,
            workers=workers,
            seed=seed,
            zero_residual=pictures.zero_residual,
        )


_EMBEDDED = "embedded data set (Pantomime, synthetic videos): a proving ground, not evidence about Kinetics"


def _resnets(width: int) -> dict[str, Architecture]:
    """The depths of the paper's tables."""
    return {f"r{depth}": EncoderSettings(depth=depth, width=width) for depth in (18, 34, 50)}


def mini() -> Profile:
    """The default: minutes per row on two cores."""
    return Profile(
        name="mini",
        about=_EMBEDDED,
        pantomime=PantomimeSettings(),
        grounding=GroundingWorldSettings(train=450, test=150),
        stories=StorySettings(seed=1),  # Choice: not 0, on whose clips settings of the boundary heads were chosen
        encoder=EncoderSettings(depth=18, width=16),
        encoders=_resnets(width=16),
        # Choice: only strong speed changes; weak ones are not learnt in this little training.
        clips=ClipSettings(gammas=(0.25, 4.0)),
        augment=AugmentSettings(size_px=48),
        train=TrainSettings(clips=25_600, batch_size=32, learning_rate=0.1, warmup_steps=50),
        # Choice: twice the clips, so that each of the two tasks sees as many as when it is trained alone. (A
        # distilled student starts from its teacher, which has seen the other half.)
        two_head_train=TrainSettings(clips=51_200, batch_size=32, learning_rate=0.1, warmup_steps=50),
        matching_weight=1.0,
        # Choice: batches of 128, as a picture is an eighth of a clip; half of the pictures that the others see.
        still_train=TrainSettings(
            clips=102_400, batch_size=128, learning_rate=0.1, warmup_steps=50, log_every_steps=20
        ),
        # Choice: 48 cells for videos of 36 snippets, and batches of 8 because 120 videos make few steps.
        head=GTADSettings(feature_width=128, cells=48, max_duration=48, batch_size=8),
        # Choice: as above; 90 videos of 45 to 90 snippets.
        hacs=GTADSettings(feature_width=128, cells=64, max_duration=64, batch_size=8, top_classes=1),
        thumos=WindowSettings(
            feature_width=128, cells=64, stride_cells=32, max_duration=32, too_long_cells=33, learning_rate=1e-3
        ),
        actionness=ActionnessSettings(),
        peaks=PeakSettings(),
        boundary_head=BoundaryHeadSettings(),
        # Choice: narrow networks, one cell per snippet; the published widths would take days on two cores. One
        # LSTM layer instead of three: with so few sentences three delay learning by many epochs.
        tan2d=TAN2DSettings(
            feature_width=128,
            frames=36,
            pool=1,
            form="pool",
            scales=(36,),
            hidden=32,
            kernel=3,
            layers=4,
            lstm_layers=1,
            batch_size=16,
            learning_rate=3e-3,
            epochs=16,
        ),
        lgi=LGISettings(
            feature_width=128,
            segments=36,
            hidden=64,
            attention=32,
            kernel=15,
            blocks=1,
            heads=4,
            dropout=0.0,
            batch_size=32,
            learning_rate=2e-3,
            epochs=30,
        ),
        word_width=32,
        resources=laptop_resources,
    )


def smoke() -> Profile:
    """Seconds per row, to see that all parts work; its scores mean nothing."""
    return replace(
        mini(),
        name="smoke",
        about=f"{_EMBEDDED}; smoke profile: far too little training for the scores to mean anything",
        pantomime=PantomimeSettings(trimmed_per_class=3, trimmed_val_per_class=1, untrimmed_train=8, untrimmed_val=8),
        grounding=GroundingWorldSettings(train=12, test=8),
        stories=StorySettings(games_train=4, games_test=4, tasks=3, clips_train=6, clips_val=6),
        encoder=EncoderSettings(depth=18, width=8),
        encoders=_resnets(width=8),
        augment=AugmentSettings(size_px=32),
        train=TrainSettings(clips=128, batch_size=16, log_every_steps=2, checkpoint_every_steps=4),
        two_head_train=TrainSettings(clips=128, batch_size=16, log_every_steps=2, checkpoint_every_steps=4),
        still_train=TrainSettings(clips=128, batch_size=16, log_every_steps=2, checkpoint_every_steps=4),
        head=GTADSettings(feature_width=64, cells=24, max_duration=24, epochs=2),
        hacs=GTADSettings(feature_width=64, cells=24, max_duration=24, epochs=2, top_classes=1),
        thumos=replace(mini().thumos, cells=32, stride_cells=16, max_duration=16, too_long_cells=17, epochs=2),
        tan2d=replace(mini().tan2d, hidden=16, layers=2, epochs=2),
        lgi=replace(mini().lgi, hidden=16, epochs=2),
    )


def paper() -> Profile:
    """Kinetics-400 and ActivityNet-1.3 at 224 px, R18 (Section 4.4); one GPU per training worker."""
    # Choice: 50 epochs' worth of 240,000 clips at TSM's rate for batch 128; the paper gives neither.
    train = TrainSettings(
        clips=12_000_000 // 128 * 128,
        batch_size=128,
        learning_rate=0.02,
        warmup_steps=2_000,
        log_every_steps=100,
        checkpoint_every_steps=2_000,
    )
    return Profile(
        name="paper",
        about="Kinetics-400 pre-training; public localisation data sets",
        pantomime=None,
        grounding=None,
        stories=None,
        encoder=EncoderSettings(depth=18, width=64),
        encoders=_resnets(width=64),
        clips=ClipSettings(),
        augment=AugmentSettings(size_px=224),
        train=train,
        two_head_train=replace(train, clips=2 * train.clips),
        matching_weight=1.0,
        head=GTADSettings(feature_width=512, cells=100, max_duration=100),
        hacs=GTADSettings(feature_width=512, learning_rate=5e-4, batch_size=32, top_classes=1),
        thumos=WindowSettings(feature_width=512),
        actionness=ActionnessSettings(),
        peaks=PeakSettings(),
        boundary_head=BoundaryHeadSettings(),
        tan2d=TAN2DSettings(feature_width=512),
        lgi=LGISettings(feature_width=512),
        word_width=300,
        resources=paper_resources,
        feature_precision="bfloat16",
    )


def paper_r50() -> Profile:
    """The same with R50, which the paper's comparisons with other methods use (Tables 1 to 3)."""
    return replace(paper(), name="paper-r50", encoder=EncoderSettings(depth=50, width=64))


PROFILES: dict[str, Callable[[], Profile]] = {
    "smoke": smoke,
    "mini": mini,
    "paper": paper,
    "paper-r50": paper_r50,
}


def in_world(profile: Profile, version: int) -> Profile:
    """The profile on another version of the embedded data, 1 being that of the profile itself; its name says so.

    ValueError for real data, or a version that there is not.
    """
    if version == 1:
        return profile
    if profile.pantomime is None or profile.grounding is None or profile.stories is None:
        raise ValueError(f"profile {profile.name} takes real videos; --world {version} goes with smoke and mini")
    return replace(
        profile,
        name=f"{profile.name}-world{version}",
        about=f"{profile.about}; version {version} of the data",
        pantomime=in_version(profile.pantomime, "untrimmed", version),
        grounding=in_version(profile.grounding, "grounding", version),
        stories=in_version(profile.stories, "stories", version),
    )
