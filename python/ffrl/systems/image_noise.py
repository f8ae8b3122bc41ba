"""The random numbers of a step of a system that encodes every frame by itself."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass  # not frozen: Fabric sets the fields of what it passes to a module
class ImageNoise:
    """normal: standard normal (B, M, n), for each frame of each row. keys: uniform (B, M, D), whose order is a
    permutation of codes, for systems that permute.
    """

    normal: Tensor
    keys: Tensor | None = None

    def share(self, number: int, shares: int) -> "ImageNoise":
        """The numbers of every `shares`-th row from row `number` on."""
        return ImageNoise(self.normal[number::shares], None if self.keys is None else self.keys[number::shares])

    def to(self, device: torch.device) -> "ImageNoise":
        """The same on `device`."""
        return ImageNoise(self.normal.to(device), None if self.keys is None else self.keys.to(device))
