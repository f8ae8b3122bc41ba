"""Drawn sprites: a stand-in for dSprites that needs no file.

Same factors and meanings as dSprites: a square, an ellipse or a heart of scale 0.5…1, turned counter-clockwise through
a full turn, at one of 32×32 places. Unlike dSprites' binary images these are anti-aliased. They are not dSprites'
images: no number measured on one set holds for the other.
"""

import hashlib
import math

import torch
from torch import Tensor

from ffrl.data.dsprites import FACTORS, SIDE
from ffrl.data.factors import FactorImages, rows_of, states_of
from ffrl.data.render_table import RenderTable

SHAPES = ("square", "ellipse", "heart")
PATCH_SIDE = 31
"""A sprite fits into a patch of this side in every size and orientation."""

_SAMPLES = 8
_HALF_SIDE = 9.5
_HALF_AXES = (14.0, 7.0)
_HEART_UNIT = 10.0
_CHECKED_IMAGES = 64


class Sprites(FactorImages):
    """Anti-aliased sprites on black; the factors are dSprites' (`ffrl.data.dsprites.FACTORS`).

    x grows to the right, y downwards, one pixel a value; the 32×32 places lie symmetrically about the image's centre.
    """

    name = "sprites"
    factors = FACTORS
    image_shape = (1, SIDE, SIDE)

    def __init__(self) -> None:
        # All places are whole pixels apart, so that one patch serves all of them.
        self._sizes = self.sizes[1:4]
        self._patches = RenderTable(math.prod(self._sizes), (PATCH_SIDE, PATCH_SIDE), torch.uint8, self._render)

    def images(self, states: Tensor) -> Tensor:
        self.require_states(states)
        patches = self._patches.of(rows_of(states[:, 1:4], self._sizes))
        margin = (SIDE - PATCH_SIDE - self.sizes[4] + 1) // 2
        place = margin + torch.arange(PATCH_SIDE)
        columns, lines = states[:, 4, None] + place, states[:, 5, None] + place
        images = torch.zeros(len(states), SIDE, SIDE, dtype=torch.uint8)
        images[torch.arange(len(states))[:, None, None], lines[:, :, None], columns[:, None, :]] = patches
        return images.unsqueeze(1)

    def checksum(self) -> str:
        """SHA-256 of a fixed sample of the images."""
        return sample_checksum(self)

    def _render(self, key: int) -> Tensor:
        shape, scale, orientation = states_of(torch.tensor(key), self._sizes).tolist()
        factor = self.factors[3]
        angle = 2 * math.pi * (orientation % factor.distinct) / factor.distinct
        return draw_sprite(SHAPES[shape], 0.5 + 0.5 * scale / (self._sizes[1] - 1), angle)


def draw_sprite(shape: str, scale: float, angle: float) -> Tensor:
    """One sprite in the middle of its patch: uint8 (31, 31), the covered share of each pixel, 255 is all of it.

    shape: of SHAPES. scale: of all lengths. angle: radians, counter-clockwise.
    """
    points = (torch.arange(PATCH_SIDE * _SAMPLES, dtype=torch.float64) + 0.5) / _SAMPLES - PATCH_SIDE / 2
    right, up = points[None, :] / scale, -points[:, None] / scale
    along = math.cos(angle) * right + math.sin(angle) * up
    across = math.cos(angle) * up - math.sin(angle) * right
    inside = _inside(shape, along, across).to(torch.float64)
    covered = inside.reshape(PATCH_SIDE, _SAMPLES, PATCH_SIDE, _SAMPLES).mean(dim=(1, 3))
    return (255 * covered).round().to(torch.uint8)


def _inside(shape: str, x: Tensor, y: Tensor) -> Tensor:
    """Whether points in the upright sprite's own coordinates, in pixels at scale 1, belong to it."""
    if shape == "square":
        return torch.maximum(x.abs(), y.abs()) <= _HALF_SIDE
    if shape == "ellipse":
        return (x / _HALF_AXES[0]) ** 2 + (y / _HALF_AXES[1]) ** 2 <= 1
    x, y = x / _HEART_UNIT, y / _HEART_UNIT
    # The sextic heart curve (x² + y² − 1)³ = x² y³.
    return (x**2 + y**2 - 1) ** 3 <= x**2 * y**3


def sample_checksum(data: FactorImages) -> str:
    """SHA-256 of the images of 64 fixed states, spread over all of a drawn data set."""
    rows = torch.arange(_CHECKED_IMAGES) * (len(data) - 1) // (_CHECKED_IMAGES - 1)
    return hashlib.sha256(data.images(states_of(rows, data.sizes)).numpy().tobytes()).hexdigest()
