"""Falcor3D and Isaac3D: folders of PNG files, numbered in row-major order of their factors.

The sets come with "Semi-Supervised StyleGAN for Disentanglement Learning" (arXiv 2003.03461).
"""

import io
import os
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from ffrl.data.factors import Factor, FactorImages, file_checksum, rows_of
from ffrl.errors import UserError

LARGEST_SIDE = 128
FALCOR3D_FACTORS = (
    Factor("lighting_intensity", 5),
    Factor("lighting_x", 6),
    Factor("lighting_y", 6),
    Factor("lighting_z", 6),
    Factor("camera_x", 6),
    Factor("camera_y", 6),
    Factor("camera_z", 6),
)
ISAAC3D_FACTORS = (
    Factor("object_shape", 3, ordered=False),
    Factor("robot_x", 8),
    Factor("robot_y", 5),
    Factor("camera_height", 4),
    Factor("object_scale", 4),
    Factor("lighting_intensity", 4),
    Factor("lighting_y", 6),
    Factor("object_colour", 4, ordered=False),
    Factor("wall_colour", 4, ordered=False),
)


class ImageFolder(FactorImages):
    """PNG files 000000.png, 000001.png, … of one folder, read whenever they are asked for.

    name: for reports. root: the folder. factors: their sizes give the number of files, the last factor changing
    fastest. All images are square and of one size; larger ones than 128×128 are reduced to it by averaging.

    UserError names the folder when it is missing or holds another number of files, and the file that is missing, cannot
    be read or has another size.
    """

    def __init__(self, name: str, root: Path, factors: Sequence[Factor]) -> None:
        self.name = name
        self.factors = tuple(factors)
        self._root = root
        self._digits = self._check_names()
        self._side = self._side_of_first()
        side = min(self._side, LARGEST_SIDE)
        self.image_shape = (3, side, side)

    def images(self, states: Tensor) -> Tensor:
        self.require_states(states)
        images = torch.empty(len(states), *self.image_shape, dtype=torch.uint8)
        for image, row in zip(images, rows_of(states, self.sizes).tolist(), strict=True):
            image.copy_(self._read(row))
        return images

    def checksum(self) -> str:
        """SHA-256 over all files in order. It reads the whole folder: minutes for a whole set."""
        return file_checksum([self._path(row) for row in range(len(self))])

    def _path(self, row: int) -> Path:
        return self._root / f"{row:0{self._digits}d}.png"

    def _check_names(self) -> int:
        """The number of digits of the file names, after a look at all of them."""
        if not self._root.is_dir():
            raise UserError(f"{self._root}: expected a folder of PNG files, found none")
        names = {entry.name for entry in os.scandir(self._root) if entry.name.endswith(".png")}
        if len(names) != len(self):
            raise UserError(f"{self._root}: expected {len(self)} PNG files ({self.name}), found {len(names)}")
        digits = len(min(names)) - len(".png")
        for row in range(len(self)):
            if f"{row:0{digits}d}.png" not in names:
                raise UserError(f"{self._root / f'{row:0{digits}d}.png'}: no such file (image {row} of {len(self)})")
        return digits

    def _side_of_first(self) -> int:
        width, height = self._open(0).size
        if width != height:
            raise UserError(f"{self._path(0)}: expected a square image, found {width}x{height}")
        return width

    def _open(self, row: int) -> Image.Image:
        path = self._path(row)
        try:
            raw = io.BytesIO(path.read_bytes())
            # Decoding alone does not look at the checksums.
            with Image.open(raw, formats=("PNG",)) as file:
                file.verify()
            with Image.open(raw, formats=("PNG",)) as file:
                return file.convert("RGB")
        except FileNotFoundError:
            raise UserError(f"{path}: no such file") from None
        except (UnidentifiedImageError, OSError, SyntaxError, EOFError, ValueError, struct.error) as error:
            raise UserError(f"{path}: expected a whole PNG image, found a damaged one ({error})") from None

    def _read(self, row: int) -> Tensor:
        image = self._open(row)
        if image.size != (self._side, self._side):
            found = f"{image.size[0]}x{image.size[1]}"
            raise UserError(f"{self._path(row)}: expected {self._side}x{self._side} as the first image, found {found}")
        if self._side > LARGEST_SIDE:
            image = image.resize((LARGEST_SIDE, LARGEST_SIDE), Image.Resampling.BOX)
        return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def load_falcor3d(root: Path, factors: Sequence[Factor] = FALCOR3D_FACTORS) -> ImageFolder:
    """Falcor3D: 233,280 images of a living room under changing light and cameras, in the folder `root`."""
    return ImageFolder("falcor3d", root, factors)


def load_isaac3d(root: Path, factors: Sequence[Factor] = ISAAC3D_FACTORS) -> ImageFolder:
    """Isaac3D: 737,280 images of a robot arm in a kitchen, in the folder `root`."""
    return ImageFolder("isaac3d", root, factors)
