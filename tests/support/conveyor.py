"""A data set and a flow whose every number is known by hand: two grey values, and belts that move them."""

import torch
from torch import Tensor, nn

from ffrl.data import Factor, FactorImages
from ffrl.models import Autoencoder, Posterior

UNIT = 4 / 255
STEPS = 4


class Values(FactorImages):
    """One pixel in two channels, 4 grey levels a value; both factors have more than enough of them."""

    name = "values"
    factors = (Factor("a", 40), Factor("b", 40))
    image_shape = (2, 1, 1)

    def images(self, states: Tensor) -> Tensor:
        return (4 * states).to(torch.uint8)[:, :, None, None]

    def checksum(self) -> str:
        return "values"


class PixelsAsCodes(Autoencoder):
    """The code of an image is its two values, in units; what it decodes to is `blur` units too bright in all pixels."""

    def __init__(self, blur: float = 0.0) -> None:
        super().__init__((2, 1, 1), nn.Identity(), nn.Identity())
        self.blur = blur

    def encode(self, images: Tensor) -> Posterior:
        mean = images.flatten(1) / UNIT
        return Posterior(mean, torch.zeros_like(mean))

    def decode(self, z: Tensor) -> Tensor:
        return (z[..., None, None] + self.blur) * UNIT


class Conveyor:
    """Potential k moves code k by `speed` units a step, and by `drift` units more for each unit of its clock."""

    def __init__(self, speed: float = 1.0, drift: float = 0.0, blur: float = 0.0, swapped: bool = False) -> None:
        self.speed, self.drift, self.swapped = speed, drift, swapped
        self._coder = PixelsAsCodes(blur)

    @property
    def autoencoder(self) -> Autoencoder:
        return self._coder

    def flow(
        self,
        z0: Tensor,
        index: int | Tensor | None = None,
        *,
        gates: Tensor | None = None,
        steps: int | None = None,
        start: int = 0,
        substeps: int | None = None,
    ) -> Tensor:
        assert (index is None) != (gates is None) and steps is not None
        if gates is None:
            assert isinstance(index, int)
            gates = nn.functional.one_hot(torch.tensor(index), 2).expand(len(z0), 2).to(z0.dtype)
        number = substeps or 1
        path = [z0]
        for step in range(start + 1, start + steps + 1):
            clocks = torch.arange(number) / number + step
            path.append(
                path[-1] + (gates.flip(1) if self.swapped else gates) * (self.speed + self.drift * clocks.mean())
            )
        return torch.stack(path)
