"""The ``cpu`` backend: the C++ engine."""

from __future__ import annotations

import torch

from ffrl_fast import _core, native
from ffrl_fast.backends.interface import Call, Request, Result, Verdict

_ABLE = Verdict(True, f"C++ row tiles, {_core.isa()}; gradients of first order")


class CpuBackend:
    """Fused row tiles in C++ SIMD; float32 and float64; first-order gradients."""

    name = "cpu"

    def can_run(self, request: Request) -> Verdict:
        if request.device != "cpu":
            return Verdict(False, f"runs on cpu tensors, not on {request.device}")
        if request.dtype not in (torch.float32, torch.float64):
            return Verdict(False, f"has float32 and float64, not {request.dtype}")
        if request.tangent:
            return Verdict(False, "has no Hessian product yet")
        return _ABLE

    def run(self, call: Call) -> Result:
        return native.run(call)
