"""dSprites from its npz file: 737,280 binary images of a square, an ellipse or a heart.

Format: https://github.com/google-deepmind/dsprites-dataset. The images take 3 GB as bytes; they are read piece by piece
and kept as bits, 377 MB.
"""

import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ffrl.data.factors import Factor, FactorImages, file_checksum, rows_of
from ffrl.errors import UserError

FILE_NAME = "dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz"
SIDE = 64
FACTOR_NAMES = ("colour", "shape", "scale", "orientation", "x", "y")
# Orientations run from 0 to a full turn, both included: the last of the 40 shows the first again.
FACTORS = (
    Factor("colour", 1),
    Factor("shape", 3, ordered=False),
    Factor("scale", 6),
    Factor("orientation", 40, cyclic=True, period=39),
    Factor("x", 32),
    Factor("y", 32),
)

_ROWS_AT_ONCE = 8192


class DSprites(FactorImages):
    """The images of one dSprites file; 0 is background, 255 the sprite.

    The sizes of the factors are those of the file's `latents_classes`. UserError names the file when it is missing,
    damaged, or has other keys, shapes, dtypes or another order of rows.
    """

    name = "dsprites"
    image_shape = (1, SIDE, SIDE)

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            with zipfile.ZipFile(path) as archive:
                classes = _read_latents(path, archive, "latents_classes", np.int64)
                values = _read_latents(path, archive, "latents_values", np.float64)
                self.factors = _factors_of(path, classes, values)
                self._bits = _read_bits(path, archive, len(self))
        except FileNotFoundError:
            raise UserError(f"{path}: no such file") from None
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise UserError(f"{path}: expected a whole npz file, found a damaged one ({error})") from None

    def images(self, states: Tensor) -> Tensor:
        self.require_states(states)
        bits = self._bits[rows_of(states, self.sizes).numpy()]
        images = torch.from_numpy(np.unpackbits(bits, axis=1)) * 255
        return images.reshape(-1, *self.image_shape)

    def checksum(self) -> str:
        """SHA-256 of the file."""
        return file_checksum([self._path])


def _read_latents(path: Path, archive: zipfile.ZipFile, key: str, dtype: type) -> NDArray[Any]:
    with _open_member(path, archive, key) as file:
        array = _read_array(path, key, file)
    if array.ndim != 2 or array.shape[1] != len(FACTOR_NAMES) or array.dtype != dtype or len(array) == 0:
        expected = f"{np.dtype(dtype)} (N, {len(FACTOR_NAMES)})"
        raise UserError(f"{path}: expected {key} {expected}, found {array.dtype} {array.shape}")
    return array


def _factors_of(path: Path, classes: NDArray[Any], values: NDArray[Any]) -> tuple[Factor, ...]:
    sizes = tuple(int(size) for size in classes.max(axis=0) + 1)
    rows = np.arange(len(classes))
    if int(np.prod(sizes)) != len(classes) or not np.array_equal(classes, np.stack(np.unravel_index(rows, sizes), 1)):
        raise UserError(
            f"{path}: expected latents_classes with every combination once, the last column changing fastest, "
            f"found {len(classes)} rows in another order or number (largest classes {[size - 1 for size in sizes]})"
        )
    if len(values) != len(classes):
        raise UserError(f"{path}: expected {len(classes)} rows of latents_values, found {len(values)}")
    if not (finite := np.isfinite(values)).all():
        raise UserError(f"{path}: expected finite latents_values, found {values[~finite][0]}")
    factors = []
    for name, size, column in zip(FACTOR_NAMES, sizes, values.T, strict=True):
        if name == "orientation":
            repeats = size > 1 and bool(np.isclose(column.max() - column.min(), 2 * np.pi))
            factors.append(Factor(name, size, cyclic=True, period=size - 1 if repeats else size))
        else:
            factors.append(Factor(name, size, ordered=name != "shape"))
    return tuple(factors)


def _read_bits(path: Path, archive: zipfile.ZipFile, count: int) -> NDArray[np.uint8]:
    bits = np.empty((count, SIDE * SIDE // 8), dtype=np.uint8)
    with _open_member(path, archive, "imgs") as file:
        filled = 0
        for pixels in _pieces(path, file, count):
            if pixels.max() > 1:
                raise UserError(f"{path}: expected imgs of 0 and 1, found {int(pixels.max())}")
            bits[filled : filled + len(pixels)] = np.packbits(pixels, axis=1)
            filled += len(pixels)
    return bits


def _pieces(path: Path, file: Any, count: int) -> Iterator[NDArray[np.uint8]]:
    """The rows of `imgs` in order, uint8 (n, 4096), some thousands at a time."""
    shape, fortran_order, dtype = _read_header(path, "imgs", file)
    if shape != (count, SIDE, SIDE) or dtype != np.uint8 or fortran_order:
        raise UserError(f"{path}: expected imgs uint8 {(count, SIDE, SIDE)} in C order, found {dtype} {shape}")
    for first in range(0, count, _ROWS_AT_ONCE):
        rows = min(_ROWS_AT_ONCE, count - first)
        raw = file.read(rows * SIDE * SIDE)
        if len(raw) != rows * SIDE * SIDE:
            raise UserError(f"{path}: expected {count} images, found the data to end before image {first + rows}")
        yield np.frombuffer(raw, dtype=np.uint8).reshape(rows, SIDE * SIDE)


def _open_member(path: Path, archive: zipfile.ZipFile, key: str) -> Any:
    if f"{key}.npy" not in archive.namelist():
        found = ", ".join(sorted(name.removesuffix(".npy") for name in archive.namelist())) or "none"
        raise UserError(f"{path}: expected the arrays imgs, latents_classes and latents_values, found {found}")
    return archive.open(f"{key}.npy")


def _read_array(path: Path, key: str, file: Any) -> NDArray[Any]:
    try:
        return np.lib.format.read_array(file, allow_pickle=False)
    except ValueError as error:
        raise UserError(f"{path}: expected {key} as a plain array, found something else ({error})") from None


def _read_header(path: Path, key: str, file: Any) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    try:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran_order, dtype = read(file)
    except ValueError as error:
        raise UserError(f"{path}: expected {key} as a plain array, found something else ({error})") from None
    return tuple(shape), bool(fortran_order), dtype
