"""The random numbers of a step of a system that encodes every frame by itself."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass  # not frozen: Fabric sets the fields of what it passes to a module
class ImageNoise:
    """normal: standard normal (B, M, n), for each frame of each row."""

    normal: Tensor

    def share(self, number: int, shares: int) -> "ImageNoise":
        """The numbers of every `shares`-th row from row `number` on."""
        return ImageNoise(self.normal[number::shares])

    def to(self, device: torch.device) -> "ImageNoise":
        """The same on `device`."""
        return ImageNoise(self.normal.to(device))
