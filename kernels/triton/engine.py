"""The Triton engine: :class:`ffrl_fast.gpu.engine.Engine` by the kernels of this folder."""

from __future__ import annotations

import torch
from torch import Tensor

from ffrl_fast.gpu.engine import Cotangents, Forward, Gradients, Precision, Rows, Wanted

from . import fused, interpreter, layered
from .adjoint import conditioning_gradients, empty_adjoint, parameter_gradient
from .blocks import Plan, architecture_of, plan_for
from .call import Activations, Call, empty_activations
from .groups import block_count
from .launch import Launch, Launcher

_RECOMPUTED = 128  # up to this D and H the backward computes the activations anew: cheaper than to read them


class TritonEngine:
    """Runs on CUDA tensors, and on CPU tensors under Triton's interpreter.

    Args:
        architecture: the column of the table of block sizes (80, 90, 100 or 120); None: that of the tensors' device.
        launch: what is done with each launch; by default it is run.
    """

    def __init__(self, architecture: int | None = None, launch: Launcher = Launch.run) -> None:
        self._architecture = architecture
        self._launch = launch

    def saved(self, rows: Rows, precision: Precision) -> tuple[Tensor, ...]:
        if _recomputes(rows):
            return ()
        plan = self._plan(rows, precision)
        operand = torch.bfloat16 if precision == Precision.BF16 else rows.z.dtype
        return empty_activations(rows, plan, block_count(rows, plan.rows) * plan.rows, operand)

    def forward(
        self,
        rows: Rows,
        precision: Precision,
        *,
        keep: bool,
        value_only: bool = False,
        drive: Tensor | None = None,
        tangent: Tensor | None = None,
    ) -> Forward:
        z, count = rows.z, rows.z.shape[0]
        derivatives = 0 if value_only else count
        saved = self.saved(rows, precision) if keep else ()
        out = Forward(
            u=z.new_empty(count),
            dt=z.new_empty(derivatives),
            grad=z.new_empty(derivatives, z.shape[1]),
            hvp=None if tangent is None else z.new_empty(z.shape),
            residual=None if drive is None else z.new_empty(count),
            saved=saved,
        )
        if count:
            fill = tangent is None or keep
            if fill:
                self._fill(self._call(rows, precision), out, saved, value_only, drive)
            if tangent is not None:
                call = self._call(rows, precision, tangent=True)
                aside = call.empty_outputs()._replace(hvp=out.hvp) if fill else out
                layered.forward(
                    call, aside, call.activations(), value_only=False, drive=None if fill else drive, tangent=tangent
                )
        return out

    def _fill(
        self, call: Call, out: Forward, saved: tuple[Tensor, ...], value_only: bool, drive: Tensor | None
    ) -> None:
        if not call.plan.fused:
            layered.forward(call, out, call.activations(saved), value_only=value_only, drive=drive)
            return
        kept = Activations(*saved) if saved else None
        if call.rows.gates is None:
            fused.forward(call, out, kept, value_only=value_only, drive=drive)
        else:
            each = call.empty_fields(value_only)
            fused.forward(call, each, kept, value_only=value_only)
            call.combine(each, out, drive, value_only)

    def backward(
        self,
        rows: Rows,
        precision: Precision,
        out: Forward,
        cotangents: Cotangents,
        wanted: Wanted,
        *,
        value_only: bool = False,
    ) -> Gradients:
        if not rows.z.shape[0]:
            return _no_rows(rows, wanted)
        call = self._call(rows, precision)
        kept = call.activations(out.saved)
        if not out.saved:
            if call.plan.fused:
                fused.forward(call, call.empty_fields(value_only), kept, value_only=value_only)
            else:
                layered.forward(call, call.empty_outputs(), kept, value_only=value_only)
        adjoint = empty_adjoint(call, wanted, value_only)
        call.gather(rows.z, adjoint.inputs)
        if not value_only:
            folded = None if cotangents.residual is None else out.grad
            call.gather(cotangents.grad, adjoint.grad_cotangent, folded, cotangents.residual)
        path = fused if call.plan.fused else layered
        path.backward(call, kept, cotangents, adjoint, value_only=value_only)
        theta = parameter_gradient(call, kept, adjoint, value_only) if wanted.theta else None
        tau, dtau = conditioning_gradients(call, adjoint)
        if dtau is None and wanted.dtau and rows.dtau is not None:
            dtau = torch.zeros_like(rows.dtau)
        z = adjoint.z
        if z is not None and z.dim() == 3:
            z = z.sum(0).to(rows.z.dtype)
        return Gradients(z, theta, tau, dtau, adjoint.gates)

    def _plan(self, rows: Rows, precision: Precision, tangent: bool = False) -> Plan:
        architecture = self._architecture or architecture_of(rows.z.device)
        return plan_for(rows.shape, precision, architecture, tangent)

    def _call(self, rows: Rows, precision: Precision, tangent: bool = False) -> Call:
        _check(rows, precision)
        return Call(rows, precision, self._plan(rows, precision, tangent), self._launch)


def _recomputes(rows: Rows) -> bool:
    return max(rows.shape.dim, rows.shape.width) <= _RECOMPUTED


def _no_rows(rows: Rows, wanted: Wanted) -> Gradients:
    def zeros(x: Tensor | None, want: bool) -> Tensor | None:
        return torch.zeros_like(x) if want and x is not None else None

    return Gradients(
        zeros(rows.z, wanted.z),
        zeros(rows.theta, wanted.theta),
        zeros(rows.tau, wanted.tau),
        zeros(rows.dtau, wanted.dtau),
        zeros(rows.gates, wanted.gates),
    )


def _check(rows: Rows, precision: Precision) -> None:
    dtype = rows.z.dtype
    if dtype == torch.float64 and not (interpreter.ACTIVE and precision == Precision.IEEE):
        raise TypeError(
            "z: expected float32 or bfloat16 (float64 only under Triton's interpreter in ieee), found float64"
        )
    if dtype == torch.bfloat16 and precision != Precision.BF16:
        raise ValueError(f"precision: expected bf16 for bfloat16 tensors, found {precision.value}")
