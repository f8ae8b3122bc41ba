"""The flow of free velocities: vector fields that need not be gradients, the bound of what any potential can reach."""

import math

import torch
from torch import Tensor, nn

from ffrl.models.path import FlowWithResidual
from ffrl.presets import Preset


class VelocityFlow(nn.Module):
    """z ← z + Δ v^k(z), v^k(z) = W₂ tanh(W₁ z + b₁) + b₂ of width H, for each of `count` transformations k.

    v has no clock, and no potential: nothing here has a Hamilton–Jacobi residual, a force, a Hessian, or a density by
    one. w1 (K, D, H), b1 (K, 1, H), w2 (K, H, D), b2 (K, 1, D); they start as those of `torch.nn.Linear`.
    """

    without_residual: str | None = "a free velocity has no potential, and so no Hamilton–Jacobi equation"
    without_volumes: str | None = "a free velocity has no potential, and so no Hessian"

    def __init__(self, preset: Preset, count: int) -> None:
        super().__init__()
        dim, width = preset.latent_dim, preset.potential_width
        self.w1, self.b1 = _uniform(dim, count, dim, width), _uniform(dim, count, 1, width)
        self.w2, self.b2 = _uniform(width, count, width, dim), _uniform(width, count, 1, dim)

    def velocity(self, z: Tensor, index: int | Tensor | None = None, gates: Tensor | None = None) -> Tensor:
        """v^k(z) of rows z (B, D), (B, D). index: one k, or int64 (B,). gates (B, K), instead: Σ_k g_k v^k."""
        hidden = torch.tanh(torch.baddbmm(self.b1, z.expand(len(self.w1), -1, -1), self.w1))
        each = torch.baddbmm(self.b2, hidden, self.w2)
        if gates is not None:
            return torch.einsum("bk,kbd->bd", gates, each)
        return each[index, torch.arange(len(z), device=z.device)]

    def path(
        self,
        z0: Tensor,
        times: Tensor,
        *,
        substeps: int,
        index: int | Tensor | None = None,
        gates: Tensor | None = None,
    ) -> Tensor:
        """From z0 (B, D) a step for each of `times` (steps,), whose values do not matter: (steps + 1, B, D)."""
        z, path = z0, [z0]
        for _ in times:
            for _ in range(substeps):
                z = z + self.velocity(z, index, gates) / substeps
            path.append(z)
        return torch.stack(path)

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
        """The path alone."""
        return FlowWithResidual(self.path(z0, times, substeps=substeps, index=index, gates=gates), None, None)


def _uniform(inputs: int, *shape: int) -> nn.Parameter:
    bound = 1 / math.sqrt(inputs)
    return nn.Parameter(torch.empty(shape).uniform_(-bound, bound))
