"""The latent-flow model: an autoencoder whose codes move along the gradients of learned potentials."""

from typing import Literal

import torch
from torch import Tensor, nn

from ffrl.data.transformations import NUM_STEPS, TRANSFORMATIONS
from ffrl.models.autoencoder import MLPAutoencoder
from ffrl.presets import Preset
from ffrl_fast import PotentialBank, integrate

# What a force must know of the time is what its potential knows of it: with u = S(z) − E·t the equation has no t left.
_FORCE_TIME_EMBEDDING: dict[str, Literal["none", "sinusoidal"]] = {
    "separable": "none",
    "none": "none",
    "sinusoidal": "sinusoidal",
}


class FlowModel(nn.Module):
    """q(z_0|x_0), p(x_t|z_t) and z_t = z_{t−1} + ∇u^k(z_{t−1}, t), t = 1…T.

    Song, Keller, Sebe, Welling, NeurIPS 2023, arXiv 2309.13167; there the potentials are clocked, here any bank serves.

    autoencoder: images ↔ latents. potentials: the bank of u^k, one for each transformation. forces: the bank of F^k,
    tanh-bounded, f^k = −(F^k)² in the Hamilton–Jacobi equation ∂_t u + ½‖∇u‖² = f.
    """

    def __init__(self, preset: Preset) -> None:
        super().__init__()
        self.autoencoder = MLPAutoencoder(preset.latent_dim, preset.hidden)
        count = len(TRANSFORMATIONS)
        self.potentials = PotentialBank(
            count,
            preset.latent_dim,
            width=preset.potential_width,
            depth=preset.potential_depth,
            out_activation=preset.potential_output,
            time_embedding=preset.time_embedding,
        )
        self.forces = PotentialBank(
            count,
            preset.latent_dim,
            width=preset.potential_width,
            depth=preset.potential_depth,
            out_activation="tanh",
            time_embedding=_FORCE_TIME_EMBEDDING[preset.time_embedding],
        )

    def flow(self, z0: Tensor, index: int | Tensor, *, steps: int = NUM_STEPS) -> Tensor:
        """Follow the flow of `index` (one k, or int64 (B,)) from z0 (B, D): z_0…z_steps, (steps + 1, B, D)."""
        return integrate(z0, _times(z0, steps), self.potentials, index=index).z

    def flow_with_residual(self, z0: Tensor, index: int | Tensor, *, steps: int = NUM_STEPS) -> tuple[Tensor, Tensor]:
        """As `flow`, and the residual r (steps, B): ∂_t u + ½‖∇u‖² + F² at each (z_{t−1}, t) that the flow asks."""
        path = integrate(z0, _times(z0, steps), self.potentials, index=index, force=self.forces, outputs=("residual",))
        assert path.residual is not None  # it was asked for
        return path.z, path.residual


def _times(z0: Tensor, steps: int) -> Tensor:
    return torch.arange(1, steps + 1, dtype=z0.dtype, device=z0.device)
