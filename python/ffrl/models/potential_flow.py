"""The flow of learned potentials, their forces, and what their equation and their Hessian say along it."""

from typing import Any

import torch
from torch import Tensor, nn

from ffrl.models.path import FlowWithResidual
from ffrl.presets import Preset
from ffrl_fast import PotentialBank, hj_loss, integrate, log_det, potential_field
from ffrl_fast.layout import OutActivation, TimeEmbedding

# What a force must know of the time is what its potential knows of it: with u = S(z) − E·t the equation has no t left.
_FORCE_TIME_EMBEDDING: dict[TimeEmbedding, TimeEmbedding] = {
    "separable": "none",
    "none": "none",
    "sinusoidal": "sinusoidal",
}

# Which output of `integrate` a density comes from; "hutchinson" needs its random directions besides.
_DENSITY_OUTPUT = {"exact": "log_det", "row_sum": "row_sum"}


class PotentialFlow(nn.Module):
    """z ← z + Δ∇u^k(z, t) for each of `count` transformations k.

    potentials: the bank of u^k. forces: the bank of F^k, tanh-bounded, f^k = −(F^k)² in the Hamilton–Jacobi equation
    ∂_t u + ½‖∇u‖² = f; None where the preset asks for no equation. index: one k, or int64 (B,). gates (B, K), instead
    of it: the flow of Σ_k g_k u^k. times: t of each step, when it asks for the potential, (steps,); a step is made of
    `substeps` Euler steps of Δ = 1/substeps, at t, t + Δ, ….
    """

    without_volumes: str | None = None

    def __init__(self, preset: Preset, count: int) -> None:
        super().__init__()
        self.potentials = _bank(preset, count, preset.potential_output, preset.time_embedding)
        clock = _FORCE_TIME_EMBEDDING[preset.time_embedding]
        self.forces = _bank(preset, count, "tanh", clock) if preset.has_equation else None
        self.density, self.density_directions = preset.density, preset.density_directions

    @property
    def without_residual(self) -> str | None:
        """Why there is no residual to speak of; None where there is one."""
        return "no Hamilton–Jacobi equation was asked of the potentials" if self.forces is None else None

    def path(
        self,
        z0: Tensor,
        times: Tensor,
        *,
        substeps: int,
        index: int | Tensor | None = None,
        gates: Tensor | None = None,
    ) -> Tensor:
        """From z0 (B, D) a step for each time: (steps + 1, B, D)."""
        return integrate(z0, times, self.potentials, index=index, gates=gates, substeps=substeps).z

    def path_with_residual(
        self,
        z0: Tensor,
        times: Tensor,
        *,
        substeps: int,
        index: int | Tensor | None = None,
        gates: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> FlowWithResidual:
        """As `path`, with the residual of each Euler step and, where the preset asks for densities, log|det| of each
        step.

        generator: of the random directions of density "hutchinson".
        """
        moments, length = _euler_steps(times, substeps)
        own = _DENSITY_OUTPUT.get(self.density)
        outputs: list[Any] = [own] if own is not None else []
        if self.forces is not None:
            outputs.append("residual")
        path = integrate(
            z0, moments, self.potentials, index=index, gates=gates, force=self.forces, step=length, outputs=outputs
        )
        volume = None if own is None else getattr(path, own)
        if self.density == "hutchinson":
            points = zip(path.z[:-1], moments, strict=True)
            volume = torch.stack(
                [
                    log_det(
                        z,
                        t,
                        self.potentials,
                        index=index,
                        gates=gates,
                        step=length,
                        method="hutchinson",
                        num_directions=self.density_directions,
                        generator=generator,
                    ).value
                    for z, t in points
                ]
            )
        log_dets = None if volume is None else _of_steps(volume, substeps)
        return FlowWithResidual(path.z[::substeps], path.residual, log_dets)

    def collocation(
        self,
        path: Tensor,
        times: Tensor,
        alpha: Tensor,
        *,
        index: Tensor | None = None,
        gates: Tensor | None = None,
    ) -> Tensor:
        """Mean of r² at n further points of each row and step: on the straight way from z_{i−1}, where the flow asks
        for u at t_i, to z_i, the share α of it on, at the time t_i + α. A scalar.

        path: z_0…z_steps (steps + 1, B, D). alpha: in [0, 1), (n, steps, B).
        """
        count = alpha.shape[0] * alpha.shape[1]
        points = torch.lerp(path[:-1], path[1:], alpha[..., None]).flatten(0, 2)
        return hj_loss(
            points,
            (times[:, None] + alpha).flatten(),
            self.potentials,
            force=self.forces,
            index=None if index is None else index.repeat(count),
            gates=None if gates is None else gates.repeat(count, 1),
        )

    def initial_speed(self, z0: Tensor, *, index: Tensor | None = None, gates: Tensor | None = None) -> Tensor:
        """Mean of ‖∇u^k(z_0, 0)‖² over rows, what the initial condition asks to be 0."""
        gradient = potential_field(z0, 0.0, self.potentials, index=index, gates=gates).grad
        return gradient.square().sum(dim=1).mean()

    def volume_change(
        self, z0: Tensor, times: Tensor, *, substeps: int, index: int | Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Of each step from z0 (B, D), (steps, B): Σ log|det(I + Δ∇²u)| over its Euler steps, exact; the paper code's
        row sums in its place; the smallest eigenvalue of all I + Δ∇²u, which is positive unless the step folds; and the
        share of its Euler steps that fold.
        """
        moments, length = _euler_steps(times, substeps)
        path = integrate(z0, moments, self.potentials, index=index, step=length, outputs=("row_sum",))
        points = zip(path.z[:-1], moments, strict=True)
        exact = [log_det(z, t, self.potentials, index=index, step=length, smallest=True) for z, t in points]
        assert path.row_sum is not None
        smallest = torch.stack([e.smallest for e in exact if e.smallest is not None])
        odd = torch.stack([e.sign < 0 for e in exact if e.sign is not None])
        # Where rounding puts an eigenvalue on the other side of 0 than the determinant, an odd fold is a fold.
        folds = (smallest <= 0) | odd
        return (
            _of_steps(torch.stack([e.value for e in exact]), substeps),
            _of_steps(path.row_sum, substeps),
            smallest.unflatten(0, (-1, substeps)).amin(dim=1),
            folds.to(smallest.dtype).unflatten(0, (-1, substeps)).mean(dim=1),
        )


def _bank(preset: Preset, count: int, output: OutActivation, clock: TimeEmbedding) -> PotentialBank:
    return PotentialBank(
        count,
        preset.latent_dim,
        width=preset.potential_width,
        depth=preset.potential_depth,
        out_activation=output,
        time_embedding=clock,
    )


def _euler_steps(times: Tensor, substeps: int) -> tuple[Tensor, float]:
    """The times at which the Euler steps start, (steps·substeps,), and their length."""
    offsets = torch.arange(substeps, dtype=times.dtype, device=times.device) / substeps
    return (times[:, None] + offsets).flatten(), 1 / substeps


def _of_steps(volume: Tensor, substeps: int) -> Tensor:
    """(steps·substeps, B) → sums over the Euler steps of each step, (steps, B)."""
    return volume.unflatten(0, (-1, substeps)).sum(dim=1)
