"""The flow's terms of the loss as the paper's public code computes them, which are not the paper's equations.

KingJamesSong/latent-flow, read in December 2025; docs/paper.md lists the differences. Here the batch is one body: the
residual takes a sum and a mean over it, so these losses do depend on which rows are computed together.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ffrl.density import gaussian_log_densities
from ffrl.models import FlowModel
from ffrl.models.autoencoder import Posterior
from ffrl_fast import PotentialBank, hj_residual, integrate, potential_field

_LEAST_VARIANCE = 1e-5


class FlowTerms(NamedTuple):
    """z_0…z_T (T + 1, B, D), and three scalars.

    hj: mean over steps and rows of r_b², r_b = Σ_b ∂_t u_b + ½ mean (∇u)² + F_b². initial: mean (∇u)² + mean F² at
    (z_0, 0). Means of (∇u)² are over rows and dimensions. flow_kl: see `softmax_kl`; zero and not computed where the
    preset's density is "none".
    """

    z: Tensor
    hj: Tensor
    initial: Tensor
    flow_kl: Tensor


def flow_terms(model: FlowModel, posterior: Posterior, z0: Tensor, index: Tensor) -> FlowTerms:
    """Of the flow z_t = z_{t−1} + ∇u^k(z_{t−1}, t), t = 1…T, from z0 (B, D), a sample of `posterior`; k = `index` (B,).

    u is asked for at (z_{t−1}, t). The public code's batches have one k; with several the sums are over all rows alike.
    """
    potentials, forces = model.potentials, model.forces
    times = torch.arange(1, model.num_steps + 1, dtype=z0.dtype, device=z0.device)
    path = integrate(z0, times, potentials, index=index, force=forces, outputs=("dt", "residual"))
    assert path.dt is not None and path.residual is not None  # they were asked for
    gradient = path.z[1:] - path.z[:-1]
    squared_force = _squared_force(path.residual, path.dt, gradient)
    of_batch = path.dt.sum(dim=1, keepdim=True) + 0.5 * gradient.square().mean(dim=(1, 2))[:, None]

    start = hj_residual(z0, 0.0, potentials, force=forces, index=index)
    initial = start.grad.square().mean() + _squared_force(start.residual, start.dt, start.grad).mean()

    flow_kl = initial.new_zeros(())
    if model.prior_scale is not None:
        log_q = gaussian_log_densities(z0, *posterior) - _log_row_sums(path.z, times, potentials, index).cumsum(dim=0)
        standard = gaussian_log_densities(z0, torch.zeros_like(z0), torch.zeros_like(z0))
        shrinkage = _prior_log_curvature(model.prior_scale)[index].cumsum(dim=1)
        flow_kl = softmax_kl(standard - shrinkage.mT[:, :, None], log_q)
    return FlowTerms(path.z, (of_batch + squared_force).square().mean(), initial, flow_kl)


def softmax_kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Σ_t KL(softmax(p) ‖ softmax(q)), mean over rows, from log densities (T, B, D) of each dimension by itself.

    The softmax is over the D dimensions, of the densities, not of their logarithms. So this is no divergence between
    the densities of z_t: it is zero where they differ by a constant.
    """
    target, found = (torch.log_softmax(x.exp(), dim=2) for x in (log_p, log_q))
    return (target.exp() * (target - found)).sum(dim=(0, 2)).mean()


def _squared_force(residual: Tensor, dt: Tensor, gradient: Tensor) -> Tensor:
    """F² (…, B), from r = ∂_t u + ½‖∇u‖² + F² row by row: so the engine's one sweep serves both conventions."""
    return residual - dt - 0.5 * gradient.square().sum(dim=-1)


def _log_row_sums(z: Tensor, times: Tensor, potentials: PotentialBank, index: Tensor) -> Tensor:
    """log|1 + (∇²u 1)_d| at (z_{t−1}, t), (T, B, D), for z_0…z_T."""
    ones = torch.ones_like(z[0, 0])
    fields = [potential_field(x, t, potentials, index=index, tangent=ones) for x, t in zip(z[:-1], times, strict=True)]
    return torch.stack([f.hvp for f in fields if f.hvp is not None]).add(1).abs().log()


def _prior_log_curvature(scale: Tensor) -> Tensor:
    """log(1 + 1/σ_t²) (K, T) for free σ_2…σ_T (K, T − 1), and σ_1 = 1: what the prior's log density loses each step."""
    variance = scale.square() + _LEAST_VARIANCE
    return torch.cat([torch.ones_like(scale[:, :1]), 1 / variance], dim=1).log1p()
