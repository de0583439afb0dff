"""A model: from a video to features, segments and boundaries.

``bsp.load_model(folder)`` gives one. Every result can also be had from features that were made in the same way.
Letters: S snippets of a video, D feature width of all streams of the head, K classes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from bsp.features.record import FeatureInfo, snippets_at, video_end_s
from bsp.features.streams import concatenate_streams
from bsp.localization.video_classifier import VideoClassifier
from bsp.models.streams import FeatureStream, extract_streams
from bsp.tasks.boundaries import peaks_of_difference
from bsp.tasks.found import BoundaryCurve, Segment
from bsp.tasks.head import Applied, Kept, VideoPart
from bsp.tasks.heads import HEADS
from bsp.tasks.long_videos import over_windows

ENCODER = "encoder"  # the kind of a model without a head
Featured = tuple[np.ndarray, FeatureInfo]  # float32 [S, D] and how they were made
Progress = Callable[[int, int], None]  # snippets done, and all of them


@dataclass(frozen=True, kw_only=True, eq=False)
class Model:
    """An encoder, or a trained head with all that it needs."""

    kind: str  # ENCODER, or the head's name in HEADS
    streams: tuple[FeatureStream, ...]  # those of the head first
    head_streams: int = 1  # the first so many are concatenated for the head
    kept: Kept | None = None  # the head
    classifier: VideoClassifier | None = None  # gives proposals their classes
    classifier_stream: int = 0  # the stream that it reads
    provenance: dict[str, Any] = field(default_factory=dict)  # JSON types: data, recipe hashes, versions, licence
    device: str = "cpu"

    def __post_init__(self) -> None:
        if not 1 <= self.head_streams <= len(self.streams) or not 0 <= self.classifier_stream < len(self.streams):
            raise ValueError(f"{self.head_streams} streams of the head, {len(self.streams)} in all")
        if (self.kept is None) != (self.kind == ENCODER):
            raise ValueError(f"a model of the kind {self.kind!r} {'needs a' if self.kept is None else 'has no'} head")
        width = sum(stream.feature_width for stream in self.streams[: self.head_streams])
        wanted = getattr(self.kept and self.kept.settings, "feature_width", width)
        if wanted != width:
            raise ValueError(f"the head takes features of width {wanted}, its streams give {width}")
        made_by = (self.kept.facts.get("features") or {}).get("encoder_hash") if self.kept else None
        hashes = "+".join(stream.encoder_hash for stream in self.streams[: self.head_streams])
        if made_by is not None and made_by != hashes:
            raise ValueError(f"the head was trained on features of {made_by:.40}, its streams are {hashes:.40}")
        if self.classifier is not None and self.classifier.num_classes != len(self.class_names):
            raise ValueError(f"{self.classifier.num_classes} classes of the classifier, {len(self.class_names)} names")

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the K classes; () for a model without classes."""
        return () if self.kept is None else self.kept.class_names

    @property
    def class_agnostic(self) -> bool:
        """Whether detections come without a class, as there is no classifier (class scores came from a file)."""
        return self.kind in HEADS and HEADS[self.kind].needs_class_scores and self.classifier is None

    @property
    def has_encoders(self) -> bool:
        """Whether it takes videos; a model from imported features takes features only."""
        return all(stream.encoder is not None for stream in self.streams)

    @property
    def window_s(self) -> float | None:
        """Longest video of the training, seconds; longer ones are cut into windows of it. None = not known."""
        try:
            return float(self.kept.facts["lengths"]["seconds"][-1]) if self.kept else None
        except (KeyError, IndexError, TypeError, ValueError):
            return None

    @cached_property
    def applied(self) -> Applied:
        """The functions of the head."""
        if self.kept is None:
            return Applied()
        apply = HEADS[self.kind].apply if self.kind in HEADS else None
        if apply is None:
            raise ValueError(f"no head called {self.kind!r} can be used on new videos; there are {', '.join(HEADS)}")
        return apply(self.kept, self.device)

    def describe(self) -> dict[str, str]:
        """What it is, in short: lines of (what, value)."""
        names = ", ".join(self.class_names[:8]) + (", ..." if len(self.class_names) > 8 else "")
        lines = {"kind": self.kind}
        for number, stream in enumerate(self.streams):
            what = stream.encoder.settings.name if stream.encoder is not None else "imported features"
            used = [] if number >= self.head_streams else ["head"] if self.kept else []
            used += ["classes"] if self.classifier is not None and number == self.classifier_stream else []
            lines[f"stream {number + 1}"] = (
                f"{stream.name or what} ({what}, {stream.size_px} px, a snippet every {stream.stride_frames} frames, "
                f"width {stream.feature_width}, {stream.precision})" + (f", for {' and '.join(used)}" if used else "")
            )
        if self.class_names:
            lines["classes"] = f"{len(self.class_names)}: {names}"
        if self.class_agnostic:
            lines["detections"] = "without a class: the class scores came from a file, there is no classifier"
        if self.window_s and self.applied.whole_videos and (self.applied.detect or self.applied.ground):
            lines["videos of the training"] = f"up to {self.window_s:.0f} s; much longer ones are cut into windows"
        return lines | {name: str(value) for name, value in self.provenance.items() if isinstance(value, str | int)}

    def features(self, video: str | os.PathLike[str], *, progress: Progress | None = None) -> Featured:
        """Features float32 [S, D] of the head's streams and their record, exactly as in training.

        ``progress`` gets snippets done and their number. Raises VideoError for an unreadable video, ValueError if the
        model was made from imported features.
        """
        return concatenate_streams(self._extract(video, self.streams[: self.head_streams], progress))

    def detect(self, video: str | os.PathLike[str], *, progress: Progress | None = None) -> list[Segment]:
        """Actions or steps in a video, best first; without a classifier (:attr:`class_agnostic`) their label is "".

        Raises as :meth:`features`, and ValueError for a model without such a head.
        """
        self._need("detect")
        parts = self._extract(video, self.streams, progress)
        feat_SD, info = concatenate_streams(parts[: self.head_streams])
        return self.detect_features(feat_SD, info, for_classes=parts[self.classifier_stream])

    def boundaries(self, video: str | os.PathLike[str], *, progress: Progress | None = None) -> BoundaryCurve:
        """Event boundaries of a video. Raises as :meth:`features`.

        Of a model without a boundary head: peaks of the difference between neighbouring snippets' features.
        """
        return self.boundaries_features(*self.features(video, progress=progress))

    def ground(
        self, video: str | os.PathLike[str], sentence: str, *, progress: Progress | None = None
    ) -> list[Segment]:
        """Moments of a sentence in a video, best first. Raises as :meth:`features`, and :meth:`unknown_words`."""
        self.unknown_words(sentence)  # before the video is read
        return self.ground_features(*self.features(video, progress=progress), sentence)

    def unknown_words(self, sentence: str) -> list[str]:
        """Words of a sentence that the training had not. ValueError if there is no known one, or no grounding head."""
        self._need("ground")
        return [] if self.applied.unknown_words is None else self.applied.unknown_words(sentence)

    def detect_features(
        self,
        feat_SD: np.ndarray,
        info: FeatureInfo,
        *,
        for_classes: Featured | None = None,
        duration_s: float | None = None,
    ) -> list[Segment]:
        """As :meth:`detect`, from features of the head's streams.

        for_classes: features of the classifier's stream, needed unless the head reads it, too. duration_s: length of
        the video, seconds, if the annotations say another than the record. ValueError for features made otherwise.
        """
        find = self._need("detect")
        self._check(feat_SD, info)
        whole = self._whole(feat_SD, info, duration_s)
        if self.classifier is None:
            return over_windows(self.applied, find, whole, self.window_s, lambda start_s, end_s: None)
        classifier, (class_SD, class_info) = self.classifier, self._for_classes(feat_SD, info, for_classes)

        def class_scores(start_s: float, end_s: float) -> np.ndarray:
            rows = class_SD
            if np.isfinite(end_s):
                first, last = snippets_at(class_info, np.array([start_s, end_s]))
                begin = min(max(0, int(first)), len(class_SD) - 1)
                rows = class_SD[begin : max(begin + 1, int(np.ceil(last)))]
            return classifier.scores([rows])[0]

        return over_windows(self.applied, find, whole, self.window_s, class_scores)

    def boundaries_features(self, feat_SD: np.ndarray, info: FeatureInfo) -> BoundaryCurve:
        """As :meth:`boundaries`, from features of the head's streams. ValueError for features made otherwise."""
        self._check(feat_SD, info)
        whole = self._whole(feat_SD, info, None)
        return (self.applied.boundaries or peaks_of_difference)(whole)

    def ground_features(
        self, feat_SD: np.ndarray, info: FeatureInfo, sentence: str, *, duration_s: float | None = None
    ) -> list[Segment]:
        """As :meth:`ground`, from features of the head's streams. ValueError for features made otherwise."""
        find = self._need("ground")
        self._check(feat_SD, info)
        whole = self._whole(feat_SD, info, duration_s)
        return over_windows(self.applied, lambda part: find(part, sentence), whole, self.window_s, lambda a, b: None)

    def _extract(
        self, video: str | os.PathLike[str], streams: Sequence[FeatureStream], progress: Progress | None
    ) -> list[Featured]:
        return extract_streams(streams, video, device=self.device, progress=progress)

    def _need(self, what: str) -> Callable[..., Any]:
        """The head's function. ValueError if it has none."""
        found: Callable[..., Any] | None = getattr(self.applied, what)
        if found is None:
            can = [name for name in ("detect", "ground") if getattr(self.applied, name) is not None]
            raise ValueError(
                f"this model is of the kind {self.kind!r}; it has {', '.join(['features', 'boundaries', *can])}, not"
                f" {what}: use a model with a trained head for it"
            )
        return found

    def _whole(self, feat_SD: np.ndarray, info: FeatureInfo, duration_s: float | None) -> VideoPart:
        return VideoPart(feat_SD=feat_SD, info=info, duration_s=video_end_s(info) if duration_s is None else duration_s)

    def _check(self, feat_SD: np.ndarray, info: FeatureInfo) -> None:
        refuse_other_features(feat_SD, info, self.streams[: self.head_streams])

    def _for_classes(self, feat_SD: np.ndarray, info: FeatureInfo, given: Featured | None) -> Featured:
        """Features of the classifier's stream: given, or the columns of the head's that are it."""
        stream = self.streams[self.classifier_stream]
        if self.classifier_stream < self.head_streams:
            first = sum(of.feature_width for of in self.streams[: self.classifier_stream])
            return feat_SD[:, first : first + stream.feature_width], info
        if given is None:
            raise ValueError(
                f"{info.video_id}: classes are read from features of another encoder ({stream.name or 'classifier'}, "
                f"{stream.encoder_hash[:12]}) than the head's; give them as for_classes"
            )
        refuse_other_features(*given, [stream])
        return given


def refuse_other_features(feat_SD: np.ndarray, info: FeatureInfo, streams: Sequence[FeatureStream]) -> None:
    """ValueError, naming video and values, unless features were made as the streams say."""
    width = sum(stream.feature_width for stream in streams)
    if feat_SD.ndim != 2 or feat_SD.shape != (info.snippets, width):
        raise ValueError(
            f"{info.video_id}: features {list(feat_SD.shape)}, but the model takes [{info.snippets}, {width}]"
            " (snippets of the record, width of its streams); extract them with this model"
        )
    wanted: dict[str, Any] = {
        "encoder_hash": "+".join(stream.encoder_hash for stream in streams),
        "stride_frames": streams[0].stride_frames,
        "snippet_frames": streams[0].snippet_frames,
    }
    if any(stream.encoder is None for stream in streams):  # the hash of imported features is that of their files
        del wanted["encoder_hash"]
    else:
        wanted["size_px"] = streams[0].size_px
    for name, value in wanted.items():
        if getattr(info, name) != value:
            raise ValueError(
                f"{info.video_id}: {name} of the features is {getattr(info, name)!r:.80}, of the model {value!r:.80}; "
                "extract them with this model"
            )
