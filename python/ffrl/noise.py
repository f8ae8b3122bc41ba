"""The random numbers of one step's objective, drawn for the whole batch whoever computes which rows of it."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ffrl.data.dataset import SequenceFormat
from ffrl.presets import Preset


@dataclass  # not frozen: Fabric sets the fields of what it passes to a module
class Noise:
    """posterior: standard normal (B, D). midpoints: uniform (T, B), where the preset asks for the residual between the
    steps. directions_seed: of the random directions of density "hutchinson". gumbel: standard Gumbel (B, K), of weak
    supervision.
    """

    posterior: Tensor
    midpoints: Tensor | None = None
    directions_seed: int | None = None
    gumbel: Tensor | None = None

    @classmethod
    def draw(cls, preset: Preset, sequences: SequenceFormat, rows: int, generator: torch.Generator) -> "Noise":
        """For a batch of `rows` rows of such sequences."""
        posterior = torch.randn(rows, preset.latent_dim, generator=generator)
        midpoints = torch.rand(sequences.num_steps, rows, generator=generator) if preset.midpoint_collocation else None
        seed = None
        if preset.density == "hutchinson":
            seed = int(torch.randint(2**62, (), generator=generator))
        gumbel = None
        if preset.supervision == "weak":
            gumbel = -torch.empty(rows, len(sequences)).exponential_(generator=generator).log()
        return cls(posterior, midpoints, seed, gumbel)

    def share(self, number: int, shares: int) -> "Noise":
        """The numbers of every `shares`-th row from row `number` on; directions of its own."""
        rows = slice(number, None, shares)
        midpoints = None if self.midpoints is None else self.midpoints[:, rows]
        seed = None if self.directions_seed is None else self.directions_seed + number
        gumbel = None if self.gumbel is None else self.gumbel[rows]
        return Noise(self.posterior[rows], midpoints, seed, gumbel)

    def to(self, device: torch.device) -> "Noise":
        """The same on `device`."""
        midpoints = None if self.midpoints is None else self.midpoints.to(device)
        gumbel = None if self.gumbel is None else self.gumbel.to(device)
        return Noise(self.posterior.to(device), midpoints, self.directions_seed, gumbel)

    def directions(self, device: torch.device) -> torch.Generator | None:
        """The generator of the random directions."""
        if self.directions_seed is None:
            return None
        return torch.Generator(device).manual_seed(self.directions_seed)
