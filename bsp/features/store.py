"""Snippet features of untrimmed videos and the store that keeps them.

Section 4.1 of the paper: "we firstly sample every 8 consecutive frames as a snippet", feed it to the frozen encoder
"and save the features before the fully connected layer". TSM takes 8 frames; other encoders define their own snippet
length. Snippets do not overlap. A video becomes float32 [S, D] plus a record of how it was made; readers refuse
features that do not match. Two forms with the same keys: ``<id>.npy`` with ``<id>.json`` beside it (written last: it
means "complete"), and one ``.h5`` of [S, D] data sets.
Letters: S snippets, D feature width, T frames per snippet, H W image.
"""

from __future__ import annotations

import hashlib
import json
import os
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from bsp.clips.augment import centre_clip
from bsp.clips.normalisation import RGB, normalise
from bsp.encoders.contract import Encoder
from bsp.errors import VideoDecodeError
from bsp.features.reading import PAPER, Reading, read_out, spread
from bsp.features.record import (
    FeatureInfo,
    from_attributes,
    of_video,
    read_record,
    sealed,
    snippet_times,
    to_attributes,
)
from bsp.files.hdf5 import HDF5Reader
from bsp.files.npy import read_npy
from bsp.files.text import safe_name
from bsp.io import atomic_path, write_text
from bsp.video.read import iter_frames, probe, too_damaged

Precision = Literal["float32", "bfloat16"]  # of the encoder's arithmetic; features are stored as float32
SHARED_FIELDS = ("stride_frames", "feature_width", "encoder_hash", "precision", "size_px")  # by all of a folder
CODE_VERSION = 1  # raise it with every change that alters features; older features are then refused

_REMEDIES = {
    "stride_frames": "extract again with that stride, or set the head's",
    "feature_width": "use the encoder that the head was made for, or change the head's feature_width",
    "encoder_hash": "these features come from other weights; extract again with this encoder",
    "code_version": "extract again with this version of the program",
    "precision": "features of one comparison are computed in one precision; extract again",
}


def snippet_count(frames: int, snippet_frames: int) -> int:
    """S of a video of ``frames`` frames, at least 1: one snippet for every ``snippet_frames`` whole frames."""
    if frames < 1:
        raise ValueError(f"a video has at least 1 frame, not {frames}")
    # Choice: up to 7 last frames of TSM's 8 are left out, so that every feature sees real frames only; a video shorter
    # than one snippet repeats its last frame, so that every video has a feature.
    return max(1, frames // snippet_frames)


def encoder_hash(encoder: nn.Module, reading: Reading = PAPER) -> str:
    """sha256 (hex) of weights, batch-norm statistics, settings and reading, which decide the features.

    The same on any device and in any memory format.
    """
    digest = hashlib.sha256(repr(getattr(encoder, "settings", None)).encode())
    for name, value in sorted(encoder.state_dict().items()):
        if name.endswith("num_batches_tracked"):  # counts training steps; evaluation does not read it
            continue
        array = np.ascontiguousarray(value.detach().cpu().numpy())
        digest.update(f"{name} {value.dtype} {list(value.shape)}".encode())
        digest.update(array.tobytes())
    if reading != PAPER:
        digest.update(f"reading {reading}".encode())
    return digest.hexdigest()


class VideoSnippets:
    """Iterates over the cropped snippets of one video, uint8 [T, size, size, 3], in one pass over the file.

    ``count`` is their number S, known before the first is decoded; :meth:`info` is the video's record, known after
    the last. Raises VideoError when made or while read, for an unreadable video.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        video_id: str,
        size_px: int,
        snippet_frames: int,
        reader: str | None = None,
        reading: Reading = PAPER,
    ):
        self.path, self.video_id, self.size_px = os.fspath(path), video_id, size_px
        self.snippet_frames, self.sampling = snippet_frames, reading.sampling
        self.video = probe(self.path)
        self.reader = reader or self.video.reader
        self.count = snippet_count(self.video.frames, snippet_frames)
        self.damaged: set[int] = set()  # frames that the decoder flagged

    def __iter__(self) -> Iterator[np.ndarray]:
        seen: list[int] = []
        self.damaged.clear()
        length = self.snippet_frames
        chunks = iter_frames(self.path, chunk_frames=length, reader=self.reader, damaged=self.damaged)
        yield from spread(_snippets(chunks, length, self.size_px, seen), self.sampling)
        if sum(seen) != self.video.frames:
            raise VideoDecodeError(
                self.path, f"{sum(seen)} frames were decoded of {self.video.frames}; re-encode the file"
            )
        too_damaged(self.path, len(self.damaged), self.video.frames)

    def info(self, *, mean: RGB, std: RGB, feature_width: int, weights_hash: str, precision: Precision) -> FeatureInfo:
        """The record of features that an encoder made of all snippets."""
        length = self.snippet_frames
        return FeatureInfo(
            video_id=self.video_id,
            frames=self.video.frames,
            fps=float(self.video.fps),
            snippet_frames=length,
            stride_frames=length,
            offset_frames=0,
            size_px=self.size_px,
            mean=mean,
            std=std,
            feature_width=feature_width,
            snippets=self.count,
            encoder_hash=weights_hash,
            code_version=CODE_VERSION,
            reader=self.reader,
            damaged_frames=sum(frame < length * self.count for frame in self.damaged),
            precision=precision,
            **snippet_times(self.video, self.count, length),
        )


def encode_snippets(
    encoder: Encoder, snippet_BTHWC: torch.Tensor, precision: Precision, reading: Reading = PAPER
) -> torch.Tensor:
    """Features float32 [B, D] of snippets uint8 [B, T, H, W, 3], on the device where these are; D as of ``reading``.

    ``encoder`` is in evaluation mode.
    """
    # Choice: a snippet's feature is the mean over its frames, the vector that the linear layer sees.
    reduced = precision == "bfloat16"
    with torch.inference_mode(), torch.autocast(snippet_BTHWC.device.type, dtype=torch.bfloat16, enabled=reduced):
        dtype = torch.bfloat16 if reduced else torch.float32
        feat_BTD: torch.Tensor = encoder(normalise(snippet_BTHWC, dtype, encoder.mean, encoder.std))
        return read_out(feat_BTD.float(), reading.readout)


def extract_features(
    encoder: Encoder,
    path: str | os.PathLike[str],
    *,
    video_id: str,
    size_px: int,
    device: torch.device | str = "cpu",
    batch_snippets: int = 16,
    weights_hash: str | None = None,
    reader: str | None = None,
    precision: Precision = "float32",
    reading: Reading = PAPER,
) -> tuple[np.ndarray, FeatureInfo]:
    """Features float32 [S, D] of one video and their record, in one pass over the file.

    Memory holds ``batch_snippets`` cropped snippets, however long the video. Every forward pass takes exactly that many
    (the last one the rest), so the result depends on the video and this number only. ``encoder`` is put in evaluation
    mode; its clips are the snippets. ``weights_hash`` is its :func:`encoder_hash`, computed if None. Raises VideoError
    for an unreadable video.
    """
    if batch_snippets < 1:
        raise ValueError(f"batch_snippets must be at least 1, not {batch_snippets}")
    snippets = VideoSnippets(
        path, video_id=video_id, size_px=size_px, snippet_frames=encoder.clip_frames, reader=reader, reading=reading
    )
    encoder.eval()
    feat_SD = np.concatenate(
        [
            encode_snippets(encoder, torch.from_numpy(batch).to(device), precision, reading).cpu().numpy()
            for batch in batches_of(snippets, batch_snippets)
        ]
    )
    return feat_SD, snippets.info(
        mean=encoder.mean,
        std=encoder.std,
        feature_width=feat_SD.shape[1],
        weights_hash=weights_hash if weights_hash is not None else encoder_hash(encoder, reading),
        precision=precision,
    )


def _snippets(chunks: Iterable[np.ndarray], length: int, size_px: int, seen: list[int]) -> Iterator[np.ndarray]:
    """Cropped snippets uint8 [T, size, size, 3]; ``seen`` collects the lengths of the chunks.

    Chunks have T = ``length`` frames, except the last; see :func:`snippet_count`.
    """
    for chunk_THWC in chunks:
        short = length - len(chunk_THWC)
        if short and not seen:
            padding = np.repeat(chunk_THWC[-1:], short, axis=0)
            yield centre_clip(np.concatenate([chunk_THWC, padding]), size_px)
        elif not short:
            yield centre_clip(chunk_THWC, size_px)
        seen.append(len(chunk_THWC))


def batches_of(snippets: Iterable[np.ndarray], size: int) -> Iterator[np.ndarray]:
    """Stacks of ``size`` snippets; the last may be smaller."""
    batch: list[np.ndarray] = []
    for snippet in snippets:
        batch.append(snippet)
        if len(batch) == size:
            yield np.stack(batch)
            batch = []
    if batch:
        yield np.stack(batch)


def write_features(
    folder: str | os.PathLike[str], video_id: str, feat_SD: np.ndarray, info: FeatureInfo
) -> FeatureInfo:
    """Write ``<id>.npy``, then ``<id>.json``; returns the record with hashes and size filled in.

    Each file appears whole or not at all. Raises ValueError if features and record disagree, for values that
    are not finite, and for an id that is no file name.
    """
    npy, sidecar = _paths(folder, video_id)
    feat_SD = np.ascontiguousarray(feat_SD, "<f4")
    if feat_SD.shape != (info.snippets, info.feature_width) or info.video_id != video_id:
        raise ValueError(
            f"{video_id}: features {list(feat_SD.shape)} do not belong to the record of {info.video_id},"
            f" [{info.snippets}, {info.feature_width}]"
        )
    if not np.isfinite(feat_SD).all():
        raise ValueError(f"{video_id}: features are not finite; the encoder's weights are damaged or diverged")
    sidecar.unlink(missing_ok=True)  # the video is incomplete until the new sidecar is written
    with atomic_path(npy) as partial, open(partial, "wb") as file:
        np.save(file, feat_SD)
    info = replace(info, sha256=hashlib.sha256(feat_SD.tobytes()).hexdigest(), npy_bytes=npy.stat().st_size)
    info = sealed(info)
    write_text(sidecar, json.dumps(asdict(info), indent=1))
    return info


def is_complete(folder: str | os.PathLike[str], video_id: str) -> bool:
    """Whether the sidecar exists and the .npy has the size stated in it."""
    npy, _ = _paths(folder, video_id)
    try:
        return npy.stat().st_size == read_feature_info(folder, video_id).npy_bytes
    except (FileNotFoundError, ValueError):
        return False


def read_feature_info(folder: str | os.PathLike[str], video_id: str) -> FeatureInfo:
    """A video's record alone. FileNotFoundError, or ValueError naming the file if it is damaged or of another video."""
    _, sidecar = _paths(folder, video_id)
    return read_record(sidecar.read_bytes(), str(sidecar), video_id)


def read_features(
    folder: str | os.PathLike[str], video_id: str, expect: dict[str, Any] | None = None
) -> tuple[np.ndarray, FeatureInfo]:
    """Features float32 [S, D] and their record, checked against size, hash, and ``expect``.

    ``expect`` maps FeatureInfo fields to the values that the caller relies on. Raises FileNotFoundError if
    there are none, ValueError (naming file, both values, and the remedy) if they are damaged or differ.
    """
    npy, sidecar = _paths(folder, video_id)
    if not sidecar.exists() or not npy.exists():
        raise FileNotFoundError(f"{sidecar.with_suffix('')}: no complete features; extract them first")
    info = read_feature_info(folder, video_id)
    _check_expected(str(npy), info, expect)
    size = npy.stat().st_size
    if size != info.npy_bytes:
        raise ValueError(f"{npy}: {size} bytes instead of {info.npy_bytes}; delete it and extract again")
    feat_SD = read_npy(npy)
    _check_content(str(npy), feat_SD, info)
    return feat_SD, info


def pack_h5(folder: str | os.PathLike[str], video_ids: Sequence[str], h5_path: str | os.PathLike[str]) -> Path:
    """Copy features into one HDF5 file: a data set float32 [S, D] per video id, the record as its attributes.

    Every video is verified while it is read; all must agree in SHARED_FIELDS. The file appears when
    it is complete. Raises as :func:`read_features`, ValueError for an id given twice.
    """
    import h5py

    h5_path = Path(h5_path)
    if len(set(video_ids)) != len(video_ids):
        raise ValueError(f"{len(video_ids) - len(set(video_ids))} video ids are given twice")
    shared: dict[str, Any] | None = None
    with atomic_path(h5_path) as partial, h5py.File(partial, "w") as file:
        for video_id in video_ids:
            feat_SD, info = read_features(folder, video_id, shared)
            shared = {name: getattr(info, name) for name in SHARED_FIELDS}
            file.create_dataset(video_id, data=feat_SD).attrs.update(to_attributes(sealed(info)))
    return h5_path


def read_features_h5(
    h5_path: str | os.PathLike[str],
    video_id: str,
    expect: dict[str, Any] | None = None,
    *,
    reader: HDF5Reader | None = None,
) -> tuple[np.ndarray, FeatureInfo]:
    """As :func:`read_features`, from a file that :func:`pack_h5` wrote. KeyError for an unknown id.

    Passing one ``reader`` to many calls avoids starting a process for each.
    """
    name = f"{os.fspath(h5_path)}:{video_id}"
    feat_SD, attributes = (reader or HDF5Reader()).read(h5_path, video_id, attributes=True)
    try:
        info = from_attributes(attributes)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    of_video(info, name, video_id)
    _check_expected(name, info, expect)
    _check_content(name, feat_SD, info)
    return feat_SD, info


def _paths(folder: str | os.PathLike[str], video_id: str) -> tuple[Path, Path]:
    npy, sidecar = (Path(folder) / f"{safe_name(video_id, f'{folder}: video id')}{end}" for end in (".npy", ".json"))
    if not video_id.isascii() and not npy.exists():  # files copied from macOS have decomposed accents
        apart = [path.with_name(unicodedata.normalize("NFD", path.name)) for path in (npy, sidecar)]
        if apart[0].exists():
            return apart[0], apart[1]
    return npy, sidecar


def _check_expected(name: str, info: FeatureInfo, expect: dict[str, Any] | None) -> None:
    for field, wanted in (expect or {}).items():
        if not hasattr(info, field):
            raise ValueError(f"cannot expect {field!r}; the fields are {[f.name for f in fields(info)]}")
        found = getattr(info, field)
        if found != (tuple(wanted) if isinstance(wanted, list) else wanted):
            remedy = _REMEDIES.get(field, "extract again with matching settings")
            raise ValueError(f"{name}: {field} is {found!r} but {wanted!r} is expected; {remedy}")


def _check_content(name: str, feat_SD: np.ndarray, info: FeatureInfo) -> None:
    if feat_SD.dtype != np.float32 or feat_SD.shape != (info.snippets, info.feature_width):
        raise ValueError(
            f"{name}: {feat_SD.dtype} {list(feat_SD.shape)} instead of float32"
            f" [{info.snippets}, {info.feature_width}]; delete it and extract again"
        )
    sha256 = hashlib.sha256(feat_SD.astype("<f4", copy=False).tobytes()).hexdigest()
    if sha256 != info.sha256:
        raise ValueError(f"{name}: sha256 {sha256} instead of {info.sha256}; delete it and extract again")
