"""Every data set by name, with the factors that move in its sequences and the number of their steps."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ffrl.data import dsprites, shapes3d
from ffrl.data.dataset import Dataset
from ffrl.data.digit_dataset import DigitDataset
from ffrl.data.digits import load_digits
from ffrl.data.factor_dataset import FactorDataset
from ffrl.data.factors import FactorImages
from ffrl.data.image_folders import load_falcor3d, load_isaac3d
from ffrl.data.shapes import Shapes
from ffrl.data.sprites import Sprites
from ffrl.errors import UserError


@dataclass(frozen=True)
class _Entry:
    """What to move, and how to load; `files` says what the root has to hold, None that there is no root."""

    moving: tuple[str, ...]
    num_steps: int
    files: str | None
    load: Callable[[Path], FactorImages]


_SHAPES_MOVING = ("floor_hue", "wall_hue", "object_hue", "scale", "orientation")
# Scale has six values, so that no more than five steps fit; shape has no order that a step could follow.
_SPRITES_MOVING = ("scale", "orientation", "x", "y")
_SPRITES_STEPS = 5

_ENTRIES = {
    "dsprites": _Entry(
        _SPRITES_MOVING, _SPRITES_STEPS, dsprites.FILE_NAME, lambda root: dsprites.DSprites(root / dsprites.FILE_NAME)
    ),
    "shapes3d": _Entry(
        _SHAPES_MOVING, 7, shapes3d.FILE_NAME, lambda root: shapes3d.Shapes3D(root / shapes3d.FILE_NAME)
    ),
    "falcor3d": _Entry(
        ("lighting_intensity", "lighting_x", "lighting_y", "lighting_z", "camera_x", "camera_y", "camera_z"),
        4,
        "the 233280 PNG files",
        load_falcor3d,
    ),
    "isaac3d": _Entry(
        (
            "robot_x", "robot_y", "camera_height", "object_scale",
            "lighting_intensity", "lighting_y", "object_colour", "wall_colour",
        ),
        3,
        "the 737280 PNG files",
        load_isaac3d,
    ),
    "sprites": _Entry(_SPRITES_MOVING, _SPRITES_STEPS, None, lambda root: Sprites()),
    "shapes": _Entry(_SHAPES_MOVING, 7, None, lambda root: Shapes()),
}  # fmt: skip

DATASETS = ("digits", "mnist", *_ENTRIES)
"""The names that `find_dataset` knows."""


def find_dataset(name: str, root: Path | None = None) -> Dataset:
    """The data set of this name, read from the folder `root` if it comes from files.

    UserError: unknown name; a root that is missing, is no folder, or is given without need; whatever is wrong with the
    files.
    """
    if name in ("digits", "mnist"):
        return DigitDataset(load_digits(name, root))
    if name not in _ENTRIES:
        raise UserError(f"--data: expected one of {', '.join(DATASETS)}, found {name!r}")
    entry = _ENTRIES[name]
    if entry.files is None:
        if root is not None:
            raise UserError(f"--root: expected none with --data {name}, which is drawn, found {root}")
        source = entry.load(Path())
    else:
        if root is None:
            raise UserError(f"--data {name}: expected --root DIR, the folder of {entry.files}, found none")
        if not root.is_dir():
            raise UserError(f"--root {root}: expected a folder with {entry.files}, found none")
        source = entry.load(root)
    return FactorDataset(source, entry.moving, entry.num_steps)
