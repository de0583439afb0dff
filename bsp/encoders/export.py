"""An encoder as a program of its own: torch.export's (.pt2) and ONNX (.onnx), for any number of clips.

What is exported maps normalised clips [B, T, 3, size, size] to features [B, T', D], as the encoder does; B may be any.
The temporal shift becomes plain operations (padding and concatenation), so nothing of this package is needed to run it.
"""

from __future__ import annotations

import logging
import os
import warnings
from copy import deepcopy
from pathlib import Path

import torch
from torch.export import Dim, ExportedProgram

from bsp.encoders.contract import Encoder
from bsp.errors import needs_extra
from bsp.io import atomic_path

INPUT, OUTPUT = "clips", "features"  # names in an ONNX file
OPSET = 18


def export_program(encoder: Encoder, size_px: int) -> ExportedProgram:
    """The encoder in evaluation mode for clips of ``size_px``, on the CPU; ``program.module()(clips)`` runs it.

    The encoder itself stays as it is. ValueError if it takes images of another size only.
    """
    if encoder.size_px not in (None, size_px):
        raise ValueError(f"{encoder.settings.name} takes images of {encoder.size_px} px only, not {size_px}")
    copy = deepcopy(encoder).cpu().eval().requires_grad_(False)
    clips = torch.zeros(2, encoder.clip_frames, 3, size_px, size_px)
    with torch.no_grad():
        return torch.export.export(copy, (clips,), dynamic_shapes=({0: Dim("batch")},))


def save_program(encoder: Encoder, path: str | os.PathLike[str], size_px: int) -> None:
    """Write :func:`export_program`'s result for ``torch.export.load``. FileExistsError if ``path`` is there."""
    path = Path(path)
    _refuse_existing(path)
    with atomic_path(path) as partial:
        torch.export.save(export_program(encoder, size_px), partial)


def export_onnx(encoder: Encoder, path: str | os.PathLike[str], size_px: int) -> None:
    """Write an ONNX file with the input "clips" float32 [B, T, 3, size, size] and the output "features" [B, T', D].

    Weights are in the file itself. Raises MissingExtra without the packages of the extra "onnx", and the errors of
    :func:`save_program`.
    """
    path = Path(path)
    _refuse_existing(path)
    with needs_extra("onnx"):
        import onnx  # noqa: F401  # the exporter imports both late, and its error would not name the extra
        import onnxscript  # noqa: F401
    exported = export_program(encoder, size_px)
    logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(
        logging.ERROR
    )  # torchvision is not needed
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter about itself
        program = torch.onnx.export(
            exported,
            input_names=[INPUT],
            output_names=[OUTPUT],
            opset_version=OPSET,
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    assert program is not None
    with atomic_path(path) as partial:
        program.save(partial, external_data=False)


def _refuse_existing(path: Path) -> None:
    if path.exists():
        raise FileExistsError(f"{path} is there already; remove it or choose another name")
