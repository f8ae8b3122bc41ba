"""The wave equation of clocked potentials, u_tt = c² ∇·∇u."""

import torch
from torch import Tensor

from ffrl_fast import PotentialBank, laplacian, reference


def wave_residual(z: Tensor, t: Tensor, bank: PotentialBank, index: Tensor, speed: Tensor) -> Tensor:
    """u_tt − c² ∇·∇u of u^k at each row, (B,): differentiable in z, the bank's parameters and c.

    z (B, D), t (B,), index (B,) int64, speed: c of each row, (B,). ∇·∇u is the engine's operator, u_tt
    `second_time_derivative`.
    """
    return second_time_derivative(z, t, bank, index) - speed.square() * laplacian(z, t, bank, index=index)


def second_time_derivative(z: Tensor, t: Tensor, bank: PotentialBank, index: Tensor) -> Tensor:
    """u_tt (B,), the derivative by autograd of the reference's ∂_t u: the engine's sweep stops at ∂_t u.

    Rows do not know of each other, so the derivative of their sum along t (B,) is that of each.
    """
    with torch.enable_grad():
        times = t.detach().requires_grad_()
        tau, dtau = bank.conditioning(times)
        rate = reference.potential_field(z, times, bank.theta, bank.shape, tau, dtau, index=index).dt
        return torch.autograd.grad(rate.sum(), times, create_graph=True)[0]
