"""A drawn room with an object: a stand-in for 3D Shapes that needs no file.

Same factors and meanings as 3D Shapes: the hues of floor, wall and object, the object's scale 0.75…1.25, its shape, and
the place of the camera, which looks at the object from −30° to 30° around it. They are not 3D Shapes' images: no number
measured on one set holds for the other.

Hues enter an image linearly: each pixel is floor·c_floor + wall·c_wall + object·c_object + gloss. So the rays are cast
once for each scale, shape and orientation, and give these four maps.
"""

import math

import torch
from torch import Tensor

from ffrl.data.factors import FactorImages, rows_of, states_of
from ffrl.data.ray_casting import MAPS, cast_scene
from ffrl.data.render_table import RenderTable
from ffrl.data.shapes3d import FACTORS, SIDE
from ffrl.data.sprites import sample_checksum
from ffrl.data.transformations import hue_colour

SHAPES = ("cube", "cylinder", "sphere", "capsule")
SMALLEST_SCALE, LARGEST_SCALE = 0.75, 1.25
LARGEST_DEGREES = 30.0


class Shapes(FactorImages):
    """Coloured images of one object in a room; the factors are 3D Shapes' (`ffrl.data.shapes3d.FACTORS`).

    Hue v is the saturated colour at 36°·v of the colour circle, 0 is red.
    """

    name = "shapes"
    factors = FACTORS
    image_shape = (3, SIDE, SIDE)

    def __init__(self) -> None:
        self._sizes = self.sizes[3:]
        self._maps = RenderTable(math.prod(self._sizes), (len(MAPS), SIDE, SIDE), torch.float32, self._cast)
        hues = self.sizes[0]
        self._colours = hue_colour(360.0 * torch.arange(hues) / hues)

    def images(self, states: Tensor) -> Tensor:
        self.require_states(states)
        maps = self._maps.of(rows_of(states[:, 3:], self._sizes))
        floor, wall, thing, gloss = maps.unsqueeze(2).unbind(1)
        colours = self._colours[states[:, :3]][..., None, None]
        image = floor * colours[:, 0] + wall * colours[:, 1] + thing * colours[:, 2] + gloss
        return (255 * image.clamp(0, 1)).round().to(torch.uint8)

    def checksum(self) -> str:
        """SHA-256 of a fixed sample of the images."""
        return sample_checksum(self)

    def _cast(self, key: int) -> Tensor:
        scale, shape, orientation = states_of(torch.tensor(key), self._sizes).tolist()
        scales, _, orientations = self._sizes
        return cast_scene(
            SHAPES[shape],
            SMALLEST_SCALE + (LARGEST_SCALE - SMALLEST_SCALE) * scale / (scales - 1),
            math.radians(LARGEST_DEGREES) * (2 * orientation / (orientations - 1) - 1),
            SIDE,
        )
