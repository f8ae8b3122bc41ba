"""The random numbers of one step's objective, drawn for the whole batch whoever computes which rows of it."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ffrl.data.dataset import SequenceFormat
from ffrl.presets import Preset


@dataclass  # not frozen: Fabric sets the fields of what it passes to a module
class Noise:
    """posterior: standard normal (B, D). collocation: uniform (n, T, B), where the preset asks for the residual at n
    points between the steps. directions_seed: of the random directions of density "hutchinson". gumbel: standard Gumbel
    (B, K), of weak supervision. clock: what it shows at z_0, one time for the whole batch; uniform in [0, T) where the
    preset asks for a random clock.
    """

    posterior: Tensor
    collocation: Tensor | None = None
    directions_seed: int | None = None
    gumbel: Tensor | None = None
    clock: float = 0.0

    @classmethod
    def draw(cls, preset: Preset, sequences: SequenceFormat, rows: int, generator: torch.Generator) -> "Noise":
        """For a batch of `rows` rows of such sequences."""
        posterior = torch.randn(rows, preset.latent_dim, generator=generator)
        collocation = seed = gumbel = None
        if preset.collocation_points > 0:
            collocation = torch.rand(preset.collocation_points, sequences.num_steps, rows, generator=generator)
        if preset.density == "hutchinson":
            seed = int(torch.randint(2**62, (), generator=generator))
        if preset.supervision == "weak":
            gumbel = -torch.empty(rows, len(sequences)).exponential_(generator=generator).log()
        clock = sequences.num_steps * float(torch.rand((), generator=generator)) if preset.random_clock else 0.0
        return cls(posterior, collocation, seed, gumbel, clock)

    def share(self, number: int, shares: int) -> "Noise":
        """The numbers of every `shares`-th row from row `number` on; directions of its own, the clock of all."""
        rows = slice(number, None, shares)
        collocation = None if self.collocation is None else self.collocation[..., rows]
        seed = None if self.directions_seed is None else self.directions_seed + number
        gumbel = None if self.gumbel is None else self.gumbel[rows]
        return Noise(self.posterior[rows], collocation, seed, gumbel, self.clock)

    def to(self, device: torch.device) -> "Noise":
        """The same on `device`."""
        collocation = None if self.collocation is None else self.collocation.to(device)
        gumbel = None if self.gumbel is None else self.gumbel.to(device)
        return Noise(self.posterior.to(device), collocation, self.directions_seed, gumbel, self.clock)

    def directions(self, device: torch.device) -> torch.Generator | None:
        """The generator of the random directions."""
        if self.directions_seed is None:
            return None
        return torch.Generator(device).manual_seed(self.directions_seed)
