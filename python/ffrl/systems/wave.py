"""The wave equation of clocked potentials, u_tt = c² ∇·∇u."""

import torch
from torch import Tensor

from ffrl_fast import PotentialBank, laplacian, reference


def wave_residual(z: Tensor, t: Tensor, bank: PotentialBank, index: Tensor, speed: Tensor) -> Tensor:
    """u_tt − c² ∇·∇u of u^k at each row, (B,): differentiable once in z, the bank's parameters and c.

    z (B, D), t (B,), index (B,) int64, speed: c of each row, (B,). ∇·∇u is the engine's operator, by the kernel that is
    fastest for the call; u_tt is `second_time_derivative`.
    """
    return second_time_derivative(z, t, bank, index) - speed.square() * laplacian(z, t, bank, index=index)


def second_time_derivative(z: Tensor, t: Tensor, bank: PotentialBank, index: Tensor) -> Tensor:
    """u_tt (B,), by forward differentiation of the reference's ∂_t u along t; the engine's sweep has ∂_t u alone.

    Every row has its own t, (B,), so one tangent of ones is the derivative of each.
    """

    def rate(times: Tensor) -> Tensor:
        tau, dtau = bank.conditioning(times)
        return reference.potential_field(z, times, bank.theta, bank.shape, tau, dtau, index=index).dt

    second: Tensor = torch.func.jvp(rate, (t,), (torch.ones_like(t),))[1]
    return second
