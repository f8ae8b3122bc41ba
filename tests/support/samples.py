"""Small files in the real formats of the data sets: same keys, dtypes and layout, fewer values a factor.

Every image is a pattern of its row number, so that a test can tell whether it got the right one.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

DSPRITES_SIZES = (1, 3, 3, 4, 3, 2)
SHAPES3D_SIZES = (3, 2, 4, 3, 2, 3)


def row_pattern(row: int, side: int, channels: int) -> NDArray[np.uint8]:
    """uint8 (side, side, channels), different for every row number and in every channel, line and column."""
    line, column, channel = np.meshgrid(np.arange(side), np.arange(side), np.arange(channels), indexing="ij")
    return ((37 * row + 3 * line + 5 * column + 90 * channel) % 256).astype(np.uint8)


def binary_pattern(row: int) -> NDArray[np.uint8]:
    """uint8 (64, 64) of 0 and 1: eight white lines above the row number in binary along every other line."""
    digits = (row >> np.arange(64)) & 1
    image = np.tile(digits, (64, 1)).astype(np.uint8)
    image[:8] = 1
    return image


def dsprites_arrays(sizes: Sequence[int] = DSPRITES_SIZES) -> dict[str, NDArray[Any]]:
    """The arrays of a dSprites file; metadata is a pickled dictionary, as in the real one."""
    count = math.prod(sizes)
    classes = np.stack(np.unravel_index(np.arange(count), tuple(sizes)), axis=1).astype(np.int64)
    ends = ((1, 1), (1, sizes[1]), (0.5, 1), (0, 2 * np.pi), (0, 1), (0, 1))
    grids = [np.linspace(*end, size) for end, size in zip(ends, sizes, strict=True)]
    values = np.stack([grid[column] for grid, column in zip(grids, classes.T, strict=True)], axis=1)
    imgs = np.stack([binary_pattern(row) for row in range(count)])
    metadata = np.array({"title": "a small set in the format of dSprites"}, dtype=object)
    return {"metadata": metadata, "imgs": imgs, "latents_classes": classes, "latents_values": values}


def write_dsprites(path: Path, arrays: dict[str, NDArray[Any]] | None = None) -> Path:
    """A dSprites npz, compressed as the real one."""
    np.savez_compressed(path, **(dsprites_arrays() if arrays is None else arrays))
    return path


def shapes3d_arrays(sizes: Sequence[int] = SHAPES3D_SIZES) -> dict[str, NDArray[Any]]:
    """The arrays of a 3D Shapes file: images and labels."""
    count = math.prod(sizes)
    classes = np.unravel_index(np.arange(count), tuple(sizes))
    grids: list[NDArray[Any]] = [np.arange(size) / size for size in sizes[:3]]
    grids += [np.linspace(0.75, 1.25, sizes[3]), np.arange(sizes[4]), np.linspace(-30, 30, sizes[5])]
    labels = np.stack([grid[column] for grid, column in zip(grids, classes, strict=True)], axis=1).astype(np.float64)
    images = np.stack([row_pattern(row, 64, 3) for row in range(count)])
    return {"images": images, "labels": labels}


def write_shapes3d(path: Path, arrays: dict[str, NDArray[Any]] | None = None) -> Path:
    """A 3D Shapes HDF5 file, its images compressed."""
    import h5py

    with h5py.File(path, "w") as file:
        for name, array in (shapes3d_arrays() if arrays is None else arrays).items():
            file.create_dataset(name, data=array, compression="gzip", compression_opts=1)
    return path


def write_png_folder(root: Path, count: int, side: int) -> Path:
    """000000.png, 000001.png, … as Falcor3D and Isaac3D have them."""
    root.mkdir()
    for row in range(count):
        Image.fromarray(row_pattern(row, side, 3)).save(root / f"{row:06d}.png")
    return root
