"""The ``reference`` backend: the formulas in plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor

from ffrl_fast import reference
from ffrl_fast.backends.interface import Call, Request, Result, Verdict


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

    def can_run(self, request: Request) -> Verdict:
        if not request.dtype.is_floating_point:
            return Verdict(False, f"{request.dtype} is not a floating-point dtype")
        return Verdict(True, "plain PyTorch: any device, floating dtype and order of derivative")

    def run(self, call: Call) -> Result:
        selection = call.selection
        _check_index(selection.index, call.bank.num_potentials)
        field = reference.potential_field(
            call.z,
            call.t,
            call.bank.theta,
            call.bank.shape,
            *call.conditioning(call.bank),
            **vars(selection),
            tangent=call.tangent,
        )
        if not call.with_residual:
            return Result(*field)
        force = None
        if call.force is not None:
            force = reference.potential_field(
                call.z,
                call.t,
                call.force.theta,
                call.force.shape,
                *call.conditioning(call.force),
                **vars(selection),
            ).u
        return Result(*field, residual=reference.hj_residual(field.dt, field.grad, force), force=force)
