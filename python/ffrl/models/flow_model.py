"""The latent-flow model: an autoencoder whose codes move along the gradients of learned potentials."""

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from ffrl.data.transformations import NUM_STEPS, TRANSFORMATIONS
from ffrl.models.autoencoder import MLPAutoencoder
from ffrl.models.classifier import SequenceClassifier
from ffrl.presets import Preset
from ffrl_fast import PotentialBank, integrate, log_det

# What a force must know of the time is what its potential knows of it: with u = S(z) − E·t the equation has no t left.
_FORCE_TIME_EMBEDDING: dict[str, Literal["none", "sinusoidal"]] = {
    "separable": "none",
    "none": "none",
    "sinusoidal": "sinusoidal",
}

# Which output of `integrate` a density comes from; "hutchinson" needs its random directions besides.
_DENSITY_OUTPUT = {"exact": "log_det", "row_sum": "row_sum"}


class FlowModel(nn.Module):
    """q(z_0|x_0), p(x_t|z_t) and z_t = z_{t−1} + ∇u^k(z_{t−1}, t), t = 1…T.

    Song, Keller, Sebe, Welling, NeurIPS 2023, arXiv 2309.13167; there the potentials are clocked, here any bank serves.

    autoencoder: images ↔ latents. potentials: the bank of u^k, one for each transformation. forces: the bank of F^k,
    tanh-bounded, f^k = −(F^k)² in the Hamilton–Jacobi equation ∂_t u + ½‖∇u‖² = f. log_diffusion: log D_k of the prior
    flow, (K,), where the preset asks for densities, else None. classifier: q(k|x_0…x_T) of weak supervision, else None.
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
        self.density, self.density_directions = preset.density, preset.density_directions
        weak = preset.supervision == "weak"
        self.classifier = SequenceClassifier(count, preset.classifier_width) if weak else None
        self.log_diffusion = None if preset.density == "none" else nn.Parameter(torch.zeros(count))

    def flow(self, z0: Tensor, index: int | Tensor, *, steps: int = NUM_STEPS) -> Tensor:
        """Follow the flow of `index` (one k, or int64 (B,)) from z0 (B, D): z_0…z_steps, (steps + 1, B, D)."""
        return integrate(z0, _times(z0, steps), self.potentials, index=index).z

    def flow_with_residual(
        self,
        z0: Tensor,
        index: int | Tensor | None = None,
        *,
        gates: Tensor | None = None,
        steps: int = NUM_STEPS,
        generator: torch.Generator | None = None,
    ) -> "FlowWithResidual":
        """As `flow`, with the residual and, where the preset asks for densities, log|det(I + ∇²u)| of each step.

        gates: (B, K), instead of `index`: the flow of Σ_k g_k u^k. generator: of the random directions of density
        "hutchinson".
        """
        times, own = _times(z0, steps), _DENSITY_OUTPUT.get(self.density)
        outputs: tuple[Any, ...] = ("residual",) if own is None else ("residual", own)
        path = integrate(z0, times, self.potentials, index=index, gates=gates, force=self.forces, outputs=outputs)
        assert path.residual is not None  # it was asked for
        volume = None if own is None else getattr(path, own)
        if self.density == "hutchinson":
            points = zip(path.z[:-1], times, strict=True)
            volume = torch.stack([self._estimated_log_det(z, t, index, gates, generator) for z, t in points])
        return FlowWithResidual(path.z, path.residual, volume)

    def _estimated_log_det(
        self,
        z: Tensor,
        t: Tensor,
        index: int | Tensor | None,
        gates: Tensor | None,
        generator: torch.Generator | None,
    ) -> Tensor:
        return log_det(
            z,
            t,
            self.potentials,
            index=index,
            gates=gates,
            method="hutchinson",
            num_directions=self.density_directions,
            generator=generator,
        ).value

    def volume_change(
        self, z0: Tensor, index: int | Tensor, *, steps: int = NUM_STEPS
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Of each step of the flow from z0 (B, D), (steps, B): log|det(I + ∇²u)|, exact; the paper code's row sums in
        its place; and the smallest eigenvalue of I + ∇²u, which is positive unless the step folds.
        """
        times = _times(z0, steps)
        path = integrate(z0, times, self.potentials, index=index, outputs=("row_sum",))
        points = zip(path.z[:-1], times, strict=True)
        exact = [log_det(z, t, self.potentials, index=index, smallest=True) for z, t in points]
        assert path.row_sum is not None
        smallest = torch.stack([e.smallest for e in exact if e.smallest is not None])
        return torch.stack([e.value for e in exact]), path.row_sum, smallest


class FlowWithResidual(NamedTuple):
    """z_0…z_steps (steps + 1, B, D); r = ∂_t u + ½‖∇u‖² + F² at each (z_{t−1}, t) that the flow asks (steps, B); and
    log|det(I + ∇²u)| there (steps, B), by the preset's density, or None.
    """

    z: Tensor
    residual: Tensor
    log_det: Tensor | None


def _times(z0: Tensor, steps: int) -> Tensor:
    return torch.arange(1, steps + 1, dtype=z0.dtype, device=z0.device)
