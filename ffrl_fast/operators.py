"""The public operators: check what was passed, choose a backend, return named results."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from ffrl_fast import arguments, reference
from ffrl_fast.backends import HJGradients, Motion
from ffrl_fast.bank import PotentialBank
from ffrl_fast.calls import checked, checked_path

Convention = Literal["per_sample", "paper_code"]


class PotentialField(NamedTuple):
    """u (B,), dt = ∂_t u (B,), grad = ∇_z u (B, D), hvp = ∇²u · tangent (B, D) or None."""

    u: Tensor
    dt: Tensor
    grad: Tensor
    hvp: Tensor | None


class HJResidual(NamedTuple):
    """u (B,), dt = ∂_t u (B,), grad = ∇_z u (B, D) and the Hamilton–Jacobi residual (B,)."""

    u: Tensor
    dt: Tensor
    grad: Tensor
    residual: Tensor


class FlowPath(NamedTuple):
    """z (T+1, B, D), z[0] the start; u, dt, residual (T, B) at (z_i, t_i), row_sum and log_det (T, B) of step i, None
    unless asked for in ``outputs``."""

    z: Tensor
    u: Tensor | None = None
    dt: Tensor | None = None
    residual: Tensor | None = None
    row_sum: Tensor | None = None
    log_det: Tensor | None = None


def potential_field(
    z: Tensor,
    t: float | Tensor,
    bank: PotentialBank,
    *,
    index: int | Tensor | None = None,
    gates: Tensor | None = None,
    tangent: Tensor | None = None,
    backend: str | None = None,
) -> PotentialField:
    r"""u, ∂_t u and ∇_z u of a bank's potentials in one sweep; with ``tangent`` also the Hessian times a direction.

    Args:
        z: (B, D), any strides.
        t: a number, or a tensor of shape (), (1,) or (B,), in the units of the bank's time embedding.
        bank: the K potentials.
        index: which potential each row follows: an int for all rows or (B,) int64. Optional when K = 1.
        gates: (B, K) weights; the field is that of :math:`\sum_k g_{bk} u^k`. Instead of ``index``.
        tangent: (D,) or (B, D), a direction x for ``hvp`` = ∇²u · x.
        backend: a name from :func:`~ffrl_fast.backends`; by default the first that can run.

    Returns:
        PotentialField: differentiable in z, t, gates, tangent and the bank's parameters.

    Raises:
        ValueError, TypeError: naming the argument, what was expected and what was found.
        IndexError: an index outside 0 … K−1.
        RuntimeError: a backend asked for by name that cannot run this call, with its reason.
    """
    chosen, call = checked("potential_field", z, t, bank, index, gates, backend, tangent=tangent)
    out = chosen.field(call)
    return PotentialField(out.u, out.dt, out.grad, out.hvp)


def hj_residual(
    z: Tensor,
    t: float | Tensor,
    bank: PotentialBank,
    *,
    force: PotentialBank | None = None,
    index: int | Tensor | None = None,
    gates: Tensor | None = None,
    convention: Convention = "per_sample",
    backend: str | None = None,
) -> HJResidual:
    r"""The residual of the generalised Hamilton–Jacobi equation, r = ∂_t u + ½‖∇u‖² − f with f = −F(z, t)².

    Args:
        z, t, bank, index, gates, backend: as in :func:`potential_field`.
        force: a bank of K networks F^k of the same D whose values drive the equation, f = −F²; f = 0 when not given.
            With ``gates``, F = Σ_k g_k F^k.
        convention: "per_sample", the equation row by row; or "paper_code", what the paper's public code computes from
            the whole batch: r_b = Σ_b ∂_t u_b + ½ mean(∇u²) + F_b².

    Returns:
        HJResidual: differentiable as :func:`potential_field`'s, and in the force's parameters.

    Raises:
        As :func:`potential_field`.
    """
    if convention not in ("per_sample", "paper_code"):
        raise ValueError(f"convention: expected 'per_sample' or 'paper_code', found {convention!r}")
    residual = convention == "per_sample"
    chosen, call = checked("hj_residual", z, t, bank, index, gates, backend, force=force, residual=residual)
    out = chosen.field(call)
    if residual:
        assert out.residual is not None
        return HJResidual(out.u, out.dt, out.grad, out.residual)
    value = None if force is None else chosen.field(call.of_force()).u
    return HJResidual(out.u, out.dt, out.grad, reference.hj_residual_paper_code(out.dt, out.grad, value))


def hj_loss(
    z: Tensor,
    t: float | Tensor,
    bank: PotentialBank,
    *,
    force: PotentialBank | None = None,
    index: int | Tensor | None = None,
    gates: Tensor | None = None,
    weight: Tensor | None = None,
    convention: Convention = "per_sample",
    backend: str | None = None,
) -> Tensor:
    r"""The mean over rows of weight · r², r the residual of :func:`hj_residual`; on ``cpu`` with its gradients at once.

    Each tile of rows goes forward and, its cotangent being known, at once backward: nothing is kept in memory between
    the two sweeps, and the backward of the result only scales gradients that are there already.

    Args:
        z, t, bank, force, index, gates, convention, backend: as in :func:`hj_residual`.
        weight: (B,); 1 when not given.

    Returns:
        A scalar, differentiable as :func:`hj_residual`'s outputs and in ``weight``. NaN for B = 0.

    Raises:
        As :func:`hj_residual`.
    """
    if convention != "per_sample":
        residual = hj_residual(
            z, t, bank, force=force, index=index, gates=gates, convention=convention, backend=backend
        ).residual
        weight = arguments.check_weight(weight, z)
        return residual.square().mean() if weight is None else (weight * residual.square()).mean()
    chosen, call = checked("hj_loss", z, t, bank, index, gates, backend, force=force, residual=True)
    return chosen.hj_loss(call, arguments.check_weight(weight, z))


def value_and_grad(
    z: Tensor,
    t: float | Tensor,
    bank: PotentialBank,
    *,
    loss: Literal["hj"] = "hj",
    force: PotentialBank | None = None,
    index: int | Tensor | None = None,
    gates: Tensor | None = None,
    weight: Tensor | None = None,
    backend: str | None = None,
) -> tuple[Tensor, HJGradients]:
    """The value of :func:`hj_loss` and its gradients without autograd, for tight loops and for other frameworks.

    Args:
        loss: "hj", the loss of :func:`hj_loss`.
        z, t, bank, force, index, gates, weight, backend: as there. Nothing needs ``requires_grad``.

    Returns:
        The value () and its gradients: of z (B, D), of ``bank.theta`` (K, P) and, where given, of ``force.theta`` and
        of gates. Gradients of t and weight, and of the parameters of a subclass's own conditioning, are not among them.

    Raises:
        As :func:`hj_loss`.
    """
    if loss != "hj":
        raise ValueError(f"loss: expected 'hj', found {loss!r}")
    chosen, call = checked("hj_loss", z, t, bank, index, gates, backend, force=force, residual=True)
    return chosen.hj_value_and_grad(call, arguments.check_weight(weight, z))


def integrate(
    z0: Tensor,
    times: Tensor | Sequence[float],
    bank: PotentialBank,
    *,
    index: int | Tensor | None = None,
    gates: Tensor | None = None,
    force: PotentialBank | None = None,
    step: float = 1.0,
    substeps: int = 1,
    method: Literal["euler"] = "euler",
    outputs: Sequence[Literal["u", "dt", "residual", "row_sum", "log_det"]] = (),
    backend: str | None = None,
) -> FlowPath:
    r"""Moves z along the gradient of the potentials: z_{i+1} = z_i + Δ Σ_k g_k ∇u^k(z_i, t_i).

    Args:
        z0: (B, D).
        times: t_0 … t_{T−1}, a sequence of numbers or a (T,) tensor; t_i is the time at which step i starts.
        bank, index, gates, force, backend: as in :func:`hj_residual`; ``gates`` may also be (B, T, K), by step.
        step: Δ, the time that each of the T steps spans; a number, not a tensor: it gets no gradient.
        substeps: each step is made of this many Euler steps of Δ/substeps, the time advancing with them.
        method: "euler".
        outputs: which of these to return as (T, B): "u", "dt", "residual" at the start (z_i, t_i) of each step; and
            "log_det", the sum of log|det(I + Δ ∇²u)| over the step's Euler steps, Δ their length, whose gradient on
            ``cpu`` is that of :func:`~ffrl_fast.log_det`; "row_sum", that of Σ_d log|1 + Δ (∇²u 1)_d|, which the
            paper's public code takes in its place.

    Returns:
        FlowPath: differentiable in z0, times, gates and all parameters.

    Raises:
        As :func:`hj_residual`.
    """
    arguments.check_bank("bank", bank)
    if method != "euler":
        raise ValueError(f"method: expected 'euler', found {method!r}")
    step = arguments.check_number("step", step)
    substeps = arguments.check_count("substeps", substeps)
    names = arguments.check_names("outputs", outputs, ("u", "dt", "residual", "row_sum", "log_det"))
    times = arguments.check_moments("times", times, bank.theta)

    motion = Motion(substeps, step / substeps)
    moments = times
    if substeps > 1:
        offsets = motion.step * torch.arange(substeps, dtype=times.dtype, device=times.device)
        moments = (times[:, None] + offsets).flatten()
    residual, row_sum, log_det = (name in names for name in ("residual", "row_sum", "log_det"))
    chosen, call = checked_path(
        *(z0, moments, bank, index, gates, backend, motion),
        force=force,
        residual=residual,
        row_sum=row_sum,
        log_det=log_det,
    )
    path = chosen.path(call, motion)
    return FlowPath(path.z, **{name: getattr(path, name) for name in names})
