"""The ``reference`` backend: the formulas in plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor

from ffrl_fast import matrices, reference
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
from ffrl_fast.bank import PotentialBank


def _check_index(index: Tensor | None, potentials: int) -> None:
    """Raises IndexError before anything is computed; inside a trace, gathering raises in its place."""
    if index is None or torch.compiler.is_compiling() or torch._C._functorch.is_functorch_wrapped_tensor(index):
        return
    if index.numel() and not 0 <= int(index.min()) <= int(index.max()) < potentials:
        raise IndexError(
            f"index: expected values in 0 … {potentials - 1}, found {int(index.min())} … {int(index.max())}"
        )


class ReferenceBackend:
    """Any device, any floating dtype, any order of derivative."""

    name = "reference"
    automatic = True

    def can_run(self, request: Request) -> Verdict:
        if not request.dtype.is_floating_point:
            return Verdict(False, f"{request.dtype} is not a floating-point dtype")
        return Verdict(True, "plain PyTorch: any device, floating dtype and order of derivative")

    def plan(self, call: Call, motion: Motion | None = None) -> None:
        return None

    def field(self, call: Call) -> Result:
        _check_index(call.selection.index, call.bank.num_potentials)
        return self._field(call)

    def _field(self, call: Call) -> Result:
        def evaluate(bank: PotentialBank, tangent: Tensor | None = None) -> reference.Field:
            return reference.potential_field(
                call.z,
                call.t,
                bank.theta,
                bank.shape,
                *call.conditioning(bank),
                potential=call.selection.potential,
                index=call.selection.index,
                gates=call.selection.gates,
                tangent=tangent,
            )

        out = evaluate(call.bank, call.tangent)
        if not call.with_residual:
            return Result(*out)
        force = None if call.force is None else evaluate(call.force).u
        return Result(*out, residual=reference.hj_residual(out.dt, out.grad, force))

    def path(self, call: Call, motion: Motion) -> Path:
        _check_index(call.selection.index, call.bank.num_potentials)
        z, steps = call.z, [call.z]
        path, u, dt, residual = [z], [], [], []
        row_sum: list[Tensor] = []
        ones = z.new_ones(z.shape[1]) if call.with_row_sum else None
        for moment in range(call.t.shape[0]):
            recorded = moment % motion.substeps == 0
            here = call.of_moment(moment, z, motion.substeps)
            here.tangent, here.with_residual = ones, call.with_residual and recorded
            out = self._field(here)
            z = z + motion.step * out.grad
            steps.append(z)
            if out.hvp is not None:
                part = reference.row_sum(out.hvp, motion.step)
                row_sum.append(part if recorded else row_sum.pop() + part)
            if recorded:
                u.append(out.u)
                dt.append(out.dt)
                if out.residual is not None:
                    residual.append(out.residual)
            if (moment + 1) % motion.substeps == 0:
                path.append(z)
        none = call.z.new_zeros(0, call.z.shape[0])
        return Path(
            torch.stack(path),
            torch.stack(u) if u else none,
            torch.stack(dt) if dt else none,
            torch.stack(residual) if residual else none if call.with_residual else None,
            torch.stack(row_sum) if row_sum else none if call.with_row_sum else None,
            path_log_det(self, call, motion, torch.stack(steps)) if call.with_log_det else None,
        )

    def hj_loss(self, call: Call, weight: Tensor | None) -> Tensor:
        residual = self.field(call).residual
        assert residual is not None
        square = residual.square()
        return square.mean() if weight is None else (weight * square).mean()

    def hessian(self, call: Call) -> Tensor:
        _check_index(call.selection.index, call.bank.num_potentials)
        return reference.hessian(
            call.z,
            call.bank.theta,
            call.bank.shape,
            call.conditioning(call.bank)[0],
            potential=call.selection.potential,
            index=call.selection.index,
            gates=call.selection.gates,
        )

    def laplacian(self, call: Call) -> Tensor:
        return (self.hessian(call) * torch.eye(call.z.shape[1], dtype=call.z.dtype, device=call.z.device)).sum((1, 2))

    def log_det(self, call: Call, step: float) -> tuple[Tensor, Tensor]:
        hessian = matrices.widened(self.hessian(call))
        identity = torch.eye(call.z.shape[1], dtype=hessian.dtype, device=hessian.device)
        value, sign = matrices.log_abs_det(identity + step * hessian)
        return value.to(call.z.dtype), sign.to(call.z.dtype)

    def hj_value_and_grad(self, call: Call, weight: Tensor | None) -> tuple[Tensor, HJGradients]:
        return hj_value_and_grad_by_autograd(self, call, weight)
