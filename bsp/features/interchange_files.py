"""Other projects' layouts of snippet features: named arrays in a folder or in one HDF5 file.

The arrays carry no metadata; bsp/features/interchange.py adds it. Learnt from the loaders of
frostinassiky/gtad, sming256/OpenTAD, microsoft/VideoX (2D-TAN) and JonghwanMun/LGI4temporalgrounding:

    gtad     one HDF5 file, a data set per video (its THUMOS-14 and ActivityNet loaders; the latter also takes a folder
             with an HDF5 file per video), or a folder of CSV files as those before it used (BSN, BMN: csv_mean_100)
    csv      a folder of <name>.csv: one line of column names, then one line per row
    opentad  a folder of <name>.npy, [T, C]
    2dtan    one HDF5 file, a data set per video; for ActivityNet Captions a group with the one data set c3d_features
    lgi      a folder of <name>.npy, [T, C] or, as I3D's were published, [T, 1, 1, C]

Letters: T rows (snippets or cells), C width.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from bsp.errors import AnnotationError, FileError
from bsp.files.hdf5 import HDF5Reader
from bsp.files.npy import read_npy
from bsp.files.text import delimiter_of, is_hidden, read_text, safe_name
from bsp.io import atomic_path

Layout = Literal["gtad", "opentad", "2dtan", "lgi", "csv"]
_HDF5 = (".h5", ".hdf5")
# What a folder of this layout may hold, one file per video; () = only one HDF5 file for all.
_IN_FOLDER: dict[Layout, tuple[str, ...]] = {
    "gtad": (*_HDF5, ".csv"), "opentad": (".npy",), "2dtan": (), "lgi": (".npy",), "csv": (".csv",),
}  # fmt: skip
_IN_ONE_FILE = ("gtad", "2dtan")
LAYOUTS: tuple[Layout, ...] = tuple(_IN_FOLDER)


@dataclass(frozen=True, kw_only=True)
class NamedArray:
    """Reference to one video's array, not read yet."""

    name: str  # in the other project, maybe with a prefix
    file: Path
    key: str | None  # of the data set inside an HDF5 file; None = the file is the array
    hdf5: HDF5Reader | None = None  # the reader of that file

    def __str__(self) -> str:
        return str(self.file) if self.key is None else f"{self.file}:{self.key}"

    def read(self, *, channel_first: bool = False) -> np.ndarray:
        """The array, float32 [T, C]; with ``channel_first`` it is stored as [C, T].

        FileError, naming the file, unless it is a two-dimensional array of numbers with at least one row.
        """
        if self.key is not None:
            array = self._from_hdf5(self.key)
        elif self.file.suffix == ".csv":
            array = _read_csv(self.file)
        else:
            array = read_npy(self.file)
        if array.ndim < 2 or sum(side > 1 for side in array.shape[1:]) > 1:
            raise FileError(f"{self}: an array {list(array.shape)}, not [rows, width]; pool it to one vector per row")
        with np.errstate(over="ignore"):  # out of float32's range: becomes infinite, which an import refuses
            feat_TC = array.reshape(len(array), -1).astype(np.float32)
        return np.ascontiguousarray(feat_TC.T) if channel_first else feat_TC

    def _from_hdf5(self, key: str) -> np.ndarray:
        try:
            return (self.hdf5 or HDF5Reader()).read(self.file, key)[0]
        except KeyError as error:
            raise FileError(error.args[0]) from None


def find_arrays(path: Path, layout: Layout) -> list[NamedArray]:
    """All arrays at ``path``, by name. ValueError if there is none or the layout is another one."""
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder")
    if path.is_file():
        if layout not in _IN_ONE_FILE:
            raise ValueError(f"{path}: is a file, but the layout {layout} is a folder with a file per video")
        hdf5 = HDF5Reader()
        names = [name for name in hdf5.names(path) if not is_hidden(name)]
        if not names:
            raise FileError(f"{path}: holds no data set")
        return [NamedArray(name=key, file=path, key=key, hdf5=hdf5) for key in names]
    suffixes = _IN_FOLDER[layout]
    if not suffixes:
        raise ValueError(f"{path}: is a folder, but the layout {layout} is one HDF5 file")
    files = sorted(file for file in path.iterdir() if file.suffix in suffixes and not is_hidden(file))
    kinds = sorted({file.suffix for file in files})
    if len(kinds) != 1:
        found = f"files of several kinds ({', '.join(kinds)}); keep one" if kinds else "none"
        raise ValueError(f"{path}: expected one {' or '.join(f'<name>{s}' for s in suffixes)} per video, found {found}")
    if kinds[0] in _HDF5:
        hdf5 = HDF5Reader()
        return [NamedArray(name=file.stem, file=file, key=file.stem, hdf5=hdf5) for file in files]
    return [NamedArray(name=file.name.removesuffix(kinds[0]), file=file, key=None) for file in files]


def files_sha256(arrays: Sequence[NamedArray]) -> str:
    """sha256 (hex) over the names and bytes of all files that the arrays are in."""
    digest = hashlib.sha256()
    for path in sorted({array.file for array in arrays}):
        with path.open("rb") as file:
            digest.update(f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()


def write_arrays(path: Path, layout: Layout, arrays: Iterable[tuple[str, np.ndarray]]) -> None:
    """Write named arrays [T, C] in a layout; for gtad the end of the path, .h5 or not, decides between its two forms.

    The result appears complete or not at all. FileExistsError if ``path`` exists and is not an empty folder.
    """
    one_file = layout == "2dtan" or (layout == "gtad" and path.suffix in _HDF5)
    refuse_existing(path)
    with atomic_path(path) as partial:
        if one_file:
            _write_hdf5(partial, arrays)
        else:
            partial.mkdir()
            suffix = _IN_FOLDER[layout][-1]
            for name, feat_TC in arrays:
                _write_one(partial / f"{safe_name(name, str(path))}{suffix}", feat_TC)


def refuse_existing(path: Path) -> None:
    """FileExistsError unless ``path`` is free or an empty folder."""
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise FileExistsError(f"{path}: is there already; remove it or choose another place")


def _read_csv(path: Path) -> np.ndarray:
    """The rows below the first line, which holds column names (other projects skip it)."""
    first, _, rest = read_text(path).partition("\n")
    delimiter = delimiter_of(first)
    names = [name.strip() for name in first.split(delimiter)]
    if "" in names:
        raise AnnotationError(f"{path}: line 1: a column without a name, such as an index; write it without the index")
    if any(map(_is_number, names)) and names != [str(k) for k in range(len(names))]:
        raise AnnotationError(
            f"{path}: line 1 begins with {names[0]}, so it seems to be features; put a line of column names before it,"
            " or the first row is lost"
        )
    if not rest.strip():
        raise AnnotationError(f"{path}: no row below the column names")
    try:
        rows = np.loadtxt(io.StringIO(rest), delimiter=delimiter, dtype=np.float32, ndmin=2, comments=None)
    except ValueError as error:
        raise AnnotationError(f"{path}: {error} (rows are counted from the line below the column names)") from None
    if rows.shape[1] != len(names):
        raise AnnotationError(f"{path}: {rows.shape[1]} numbers in a row below {len(names)} column names")
    return rows


def _is_number(field: str) -> bool:
    """Whether the text is a number, including nan and inf."""
    try:
        float(field)
    except ValueError:
        return False
    return True


def _write_hdf5(path: Path, arrays: Iterable[tuple[str, np.ndarray]]) -> None:
    import h5py

    with h5py.File(path, "w") as file:
        for name, feat_TC in arrays:
            file.create_dataset(name, data=np.asarray(feat_TC, np.float32))


def _write_one(path: Path, feat_TC: np.ndarray) -> None:
    if path.suffix == ".npy":
        np.save(path, np.ascontiguousarray(feat_TC, np.float32))
        return
    names = ",".join(f"f{k}" for k in range(feat_TC.shape[1]))
    np.savetxt(path, feat_TC, fmt="%.9g", delimiter=",", header=names, comments="")  # 9 digits keep every float32
