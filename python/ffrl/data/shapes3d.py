"""3D Shapes from its HDF5 file: 480,000 colour images of an object in a room.

Format: https://github.com/google-deepmind/3d-shapes. The images take 5.9 GB as bytes; only the rows asked for are read.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ffrl.data.factors import Factor, FactorImages, file_checksum, rows_of
from ffrl.errors import UserError

FILE_NAME = "3dshapes.h5"
SIDE = 64
FACTORS = (
    Factor("floor_hue", 10, cyclic=True),
    Factor("wall_hue", 10, cyclic=True),
    Factor("object_hue", 10, cyclic=True),
    Factor("scale", 8),
    Factor("shape", 4, ordered=False),
    Factor("orientation", 15),
)


class Shapes3D(FactorImages):
    """The images of one 3dshapes.h5, read from the file whenever they are asked for.

    The sizes of the factors are those of the file's `labels`. UserError names the file when it is missing, damaged, or
    has other data sets, shapes, dtypes or another order of rows, and the package h5py when that is missing.
    """

    name = "shapes3d"
    image_shape = (3, SIDE, SIDE)

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            import h5py
        except ImportError:
            raise UserError("--data shapes3d: expected the package h5py, found none (pip install h5py)") from None
        if not path.is_file():
            raise UserError(f"{path}: no such file")
        try:
            self._file = h5py.File(path, "r")
        except OSError as error:
            raise UserError(f"{path}: expected a whole HDF5 file, found something else ({error})") from None
        missing = [key for key in ("images", "labels") if not isinstance(self._file.get(key), h5py.Dataset)]
        if missing:
            found = ", ".join(sorted(self._file)) or "none"
            raise UserError(f"{path}: expected the data sets images and labels, found {found}")
        self.factors = _factors_of(path, self._file["labels"])
        images = self._file["images"]
        if images.shape != (len(self), SIDE, SIDE, 3) or images.dtype != np.uint8:
            raise UserError(
                f"{path}: expected images uint8 {(len(self), SIDE, SIDE, 3)}, found {images.dtype} {images.shape}"
            )

    def images(self, states: Tensor) -> Tensor:
        self.require_states(states)
        rows, where = np.unique(rows_of(states, self.sizes).numpy(), return_inverse=True)
        read = np.empty((len(rows), SIDE, SIDE, 3), dtype=np.uint8)
        # One read for each run of neighbouring rows: h5py's own selection of scattered rows is far slower.
        for run in np.split(np.arange(len(rows)), np.flatnonzero(np.diff(rows) > 1) + 1):
            if len(run):
                self._read(read, run, int(rows[run[0]]))
        return torch.from_numpy(read[where]).permute(0, 3, 1, 2).contiguous()

    def checksum(self) -> str:
        """SHA-256 of the file."""
        return file_checksum([self._path])

    def _read(self, into: NDArray[np.uint8], run: NDArray[Any], first: int) -> None:
        try:
            into[run[0] : run[-1] + 1] = self._file["images"][first : first + len(run)]
        except OSError as error:
            raise UserError(
                f"{self._path}: expected to read images {first} to {first + len(run) - 1}, failed ({error})"
            ) from None


def _factors_of(path: Path, labels: Any) -> tuple[Factor, ...]:
    if labels.ndim != 2 or labels.shape[1] != len(FACTORS) or labels.dtype != np.float64 or len(labels) == 0:
        raise UserError(f"{path}: expected labels float64 (N, {len(FACTORS)}), found {labels.dtype} {labels.shape}")
    try:
        columns = labels[:].T
    except OSError as error:
        raise UserError(f"{path}: expected to read labels, failed ({error})") from None
    factors, classes = [], []
    for factor, column in zip(FACTORS, columns, strict=True):
        values, column_classes = np.unique(column, return_inverse=True)
        classes.append(column_classes)
        period = None
        if factor.cyclic:
            # Hues are fractions of the circle: where both ends 0 and 1 occur, they are the same colour.
            repeats = len(values) > 1 and bool(np.isclose(values[-1] - values[0], 1))
            period = len(values) - 1 if repeats else len(values)
        factors.append(Factor(factor.name, len(values), factor.cyclic, period, factor.ordered))
    sizes = tuple(factor.size for factor in factors)
    rows = np.arange(len(labels))
    if int(np.prod(sizes)) != len(labels) or not np.array_equal(
        np.stack(classes), np.stack(np.unravel_index(rows, sizes))
    ):
        raise UserError(
            f"{path}: expected labels with every combination once, the last column changing fastest, "
            f"found {len(labels)} rows in another order or number (values a column {list(sizes)})"
        )
    return tuple(factors)
