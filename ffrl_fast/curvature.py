r"""The second derivatives of a bank's potentials: Hessian, Laplacian, and the determinant of a step along the flow.

An Euler step z ← z + Δ ∇u changes the logarithm of a density by −log\|det(I + Δ ∇²u)\|, :func:`log_det`.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from ffrl_fast import arguments, lanczos, matrices, reference
from ffrl_fast.backends import Call, choose
from ffrl_fast.bank import PotentialBank

Method = Literal["exact", "hutchinson", "row_sum"]


class LogDet(NamedTuple):
    r"""log\|det(I + Δ ∇²u)\| and what belongs to it, each (B,); None where it was not asked for or the method has none.

    sign: of the determinant, 0 where it is 0; −1: the step folds an odd number of directions over.
    smallest: the smallest eigenvalue of I + Δ ∇²u; the step folds where it is not positive.
    converged: whether the estimate of ``method="hutchinson"`` can be believed in this row.
    """

    value: Tensor
    sign: Tensor | None = None
    smallest: Tensor | None = None
    converged: Tensor | None = None


def _call(z: Tensor, t: float | Tensor, bank: PotentialBank, index: int | Tensor | None, gates: Tensor | None) -> Call:
    arguments.check_bank("bank", bank)
    arguments.check_rows("z", z, bank)
    times = arguments.check_times("t", t, z)
    return Call(z, times, bank, arguments.check_selection(index, gates, z, bank))


def hessian(
    z: Tensor,
    t: float | Tensor,
    bank: PotentialBank,
    *,
    index: int | Tensor | None = None,
    gates: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """∇²u (B, D, D) by the structure of the network, not by D directions.

    Args:
        z, t, bank, index, gates, backend: as in :func:`~ffrl_fast.potential_field`.

    Returns:
        Differentiable in z, t, gates and the bank's parameters. On ``cpu`` the gradient is computed by the reference,
        in blocks of rows, and has first order only.

    Raises:
        As :func:`~ffrl_fast.potential_field`.
    """
    call = _call(z, t, bank, index, gates)
    return choose(call.request("hessian"), backend).hessian(call)


def laplacian(
    z: Tensor,
    t: float | Tensor,
    bank: PotentialBank,
    *,
    index: int | Tensor | None = None,
    gates: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """∇·∇u (B,), exact.

    Args, gradients, errors:
        As :func:`hessian`, without its B·D² memory.
    """
    call = _call(z, t, bank, index, gates)
    return choose(call.request("laplacian"), backend).laplacian(call)


def log_det(
    z: Tensor,
    t: float | Tensor,
    bank: PotentialBank,
    *,
    index: int | Tensor | None = None,
    gates: Tensor | None = None,
    step: float = 1.0,
    method: Method = "exact",
    smallest: bool = False,
    num_directions: int = 16,
    lanczos_steps: int = 4,
    generator: torch.Generator | None = None,
    backend: str | None = None,
) -> LogDet:
    r"""log\|det(I + Δ ∇²u)\|, the change of volume of one Euler step.

    Args:
        z, t, bank, index, gates, backend: as in :func:`~ffrl_fast.potential_field`.
        step: Δ; a number, not a tensor: it gets no gradient.
        method: "exact": the Hessian and its factorisation. "hutchinson": the exact trace Δ ∇·∇u, and an estimate of the
            rest from ``num_directions`` random directions x, the mean of xᵀ (log\|I + Δ ∇²u\| − Δ ∇²u) x, each by
            ``lanczos_steps`` Hessian products (stochastic Lanczos quadrature). "row_sum": Σ_d log\|1 + Δ (∇²u 1)_d\|,
            which the paper's public code takes in its place.
        smallest: with "exact", also the smallest eigenvalue, which costs more than the rest.
        num_directions, lanczos_steps, generator: of "hutchinson"; each direction has entries ±1.

    Returns:
        LogDet: its ``value`` −inf where the determinant is 0, and differentiable in z, t, gates and the bank's
        parameters; the gradient of "exact" is computed by the reference in blocks of rows, that of "hutchinson" is the
        estimate E[xᵀ (I + Δ ∇²u)⁻¹ Δ d(∇²u) x] with the same directions.

    Raises:
        As :func:`~ffrl_fast.potential_field`.
    """
    if method not in ("exact", "hutchinson", "row_sum"):
        raise ValueError(f"method: expected 'exact', 'hutchinson' or 'row_sum', found {method!r}")
    if smallest and method != "exact":
        raise ValueError(f"smallest: expected method='exact', found {method!r}")
    step = arguments.check_number("step", step)
    num_directions = arguments.check_count("num_directions", num_directions)
    lanczos_steps = arguments.check_count("lanczos_steps", lanczos_steps)
    call = _call(z, t, bank, index, gates)
    if method == "exact":
        chosen = choose(call.request("log_det"), backend)
        value, sign = chosen.log_det(call, step)
        return LogDet(value, sign, _smallest(call, step, backend) if smallest else None)
    call.tangent = z.new_ones(z.shape[1])
    chosen = choose(call.request("log_det"), backend)
    if method == "row_sum":
        product = chosen.field(call).hvp
        assert product is not None
        return LogDet(reference.row_sum(product, step))

    def hvp(x: Tensor) -> Tensor:
        call.tangent = x
        product = chosen.field(call).hvp
        assert product is not None
        return product

    found = [lanczos.log_abs_form(hvp, _signs(z, generator), step, lanczos_steps) for _ in range(num_directions)]
    with torch.no_grad():
        call.tangent = None
        trace = step * choose(call.request("laplacian"), backend).laplacian(call)
    value = trace + torch.stack([f.value - f.linear for f in found]).mean(0)
    return LogDet(value.to(z.dtype), converged=torch.stack([f.converged for f in found]).all(0))


def _signs(z: Tensor, generator: torch.Generator | None) -> Tensor:
    """(B, D) of ±1."""
    return torch.randint(0, 2, z.shape, generator=generator, device=z.device).to(z.dtype).mul_(2).sub_(1)


#: Elements of the Hessians that are in memory at once.
BLOCK = 2**22


@torch.no_grad()
def _smallest(call: Call, step: float, backend: str | None) -> Tensor:
    rows, dim = call.z.shape
    chosen = choose(call.request("hessian"), backend)
    size = max(1, BLOCK // (dim * dim))
    blocks = (chosen.hessian(call.of_rows(at, at + size)) for at in range(0, rows, size))
    found = [matrices.eigenvalues(matrices.widened(block)) for block in blocks]
    if not found:
        return call.z.new_empty(0)
    values = 1 + step * torch.cat(found)
    return values.amin(1).to(call.z.dtype)
