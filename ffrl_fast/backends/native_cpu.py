"""The ``cpu`` backend: the C++ engine."""

from __future__ import annotations

import torch
from torch import Tensor

from ffrl_fast import _core, native
from ffrl_fast.backends.interface import (
    Call,
    HJGradients,
    Motion,
    Path,
    Request,
    Result,
    Verdict,
    hj_value_and_grad_by_autograd,
    path_log_det,
)
from ffrl_fast.backends.plain import ReferenceBackend
from ffrl_fast.bank import PotentialBank

_REFERENCE = ReferenceBackend()
_DTYPES = (torch.float32, torch.float64)
_ABLE = Verdict(True, f"C++ row tiles, {_core.isa()}; gradients of first order")


def _inputs(call: Call, motion: Motion | None = None) -> native.Inputs:
    bank, force, selection = call.bank, call.force, call.selection
    tau = dtau = force_theta = force_tau = None
    shape = list(bank.shape.native)
    # The engine computes the conditioning of a bank itself at times that all rows share.
    row_times = motion is None and call.t.shape[0] > 1
    if row_times or bank.has_own_conditioning:
        tau, dtau = call.conditioning(bank)
        tau = _or_zero(tau, call, bank)
    if force is not None:
        force_theta = force.theta
        shape += force.shape.native
        if row_times or force.has_own_conditioning:
            force_tau = _or_zero(call.conditioning(force)[0], call, force)
    return native.Inputs(
        call.z,
        call.t,
        bank.theta,
        tau,
        dtau,
        force_theta,
        force_tau,
        selection.index,
        selection.gates,
        call.tangent,
        selection.potential,
        shape,
        call.with_residual,
        call.with_row_sum,
        call.with_log_det,
        0 if motion is None else motion.substeps,
        0.0 if motion is None else motion.step,
    )


def _or_zero(tau: Tensor | None, call: Call, bank: PotentialBank) -> Tensor | None:
    """τ as the engine is told it: of a sinusoidal bank it would compute one that is None itself."""
    if tau is not None or bank.shape.time_embedding != "sinusoidal":
        return tau
    many = 1 if call.selection.potential >= 0 else bank.num_potentials
    return call.z.new_zeros(many, call.t.shape[0], bank.shape.width)


def _traced_for_gradients() -> bool:
    return torch.compiler.is_compiling() and torch.is_grad_enabled()


class CpuBackend:
    """Fused row tiles in C++ SIMD; float32 and float64; first-order gradients."""

    name = "cpu"
    automatic = True

    def can_run(self, request: Request) -> Verdict:
        if request.device != "cpu":
            return Verdict(False, f"runs on cpu tensors, not on {request.device}")
        if request.dtype not in _DTYPES:
            return Verdict(False, f"has float32 and float64, not {request.dtype}")
        return _ABLE

    def plan(self, call: Call, motion: Motion | None = None) -> native.Plan | None:
        plan, given = native.prepare_direct(_inputs(call, motion))
        # What must be copied for the engine must be copied every time.
        return plan if given[0] is call.z and given[2] is call.bank.theta else None

    def field(self, call: Call) -> Result:
        out = native.evaluate(_inputs(call)) if call.prepared is None else native.evaluate_directly(*call.prepared)
        hvp = out.hvp if call.tangent is not None else None
        return Result(out.u, out.dt, out.motion, hvp, out.residual if call.with_residual else None)

    def path(self, call: Call, motion: Motion) -> Path:
        # With a gradient the determinants come from a call each: theirs is the reference's.
        apart = call.with_log_det and torch.is_grad_enabled()
        if call.prepared is not None:
            out = native.evaluate_directly(*call.prepared)
        else:
            inputs = _inputs(call, motion)
            out = native.evaluate(inputs._replace(log_det=False) if apart else inputs)
        log_det = path_log_det(self, call, motion, out.motion) if apart else out.log_det if call.with_log_det else None
        # A slice of everything is not free: its backward copies the whole path.
        z = out.motion if motion.substeps == 1 else out.motion[:: motion.substeps]
        residual = out.residual if call.with_residual else None
        return Path(z, out.u, out.dt, residual, out.row_sum if call.with_row_sum else None, log_det)

    def hj_loss(self, call: Call, weight: Tensor | None) -> Tensor:
        if call.prepared is not None and (weight is None or native.is_direct(weight)):
            return native.hj_loss_directly(*call.prepared, weight)
        return native.hj_loss(_inputs(call), weight)

    # The gradient of these three is the reference's, which torch.compile cannot trace inside a native operator's.

    def hessian(self, call: Call) -> Tensor:
        if _traced_for_gradients():
            return _REFERENCE.hessian(call)
        return native.curvature(_inputs(call), native.HESSIAN, 0.0)[0]

    def laplacian(self, call: Call) -> Tensor:
        if _traced_for_gradients():
            return _REFERENCE.laplacian(call)
        return native.curvature(_inputs(call), native.LAPLACIAN, 0.0)[0]

    def log_det(self, call: Call, step: float) -> tuple[Tensor, Tensor]:
        if _traced_for_gradients():
            return _REFERENCE.log_det(call, step)
        value, sign = native.curvature(_inputs(call), native.LOG_DET, step)
        return value, sign

    def hj_value_and_grad(self, call: Call, weight: Tensor | None) -> tuple[Tensor, HJGradients]:
        if call.prepared is not None and (weight is None or native.is_direct(weight)):
            return native.hj_value_and_grad_directly(*call.prepared, weight)
        if call.t.shape[0] > 1 or call.bank.has_own_conditioning:
            # The gradient of the conditioning is autograd's.
            return hj_value_and_grad_by_autograd(self, call, weight)
        return native.hj_value_and_grad(_inputs(call), weight)
