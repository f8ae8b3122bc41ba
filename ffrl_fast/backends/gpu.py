"""The GPU backends ``triton`` and ``cuda``: fused kernels behind the same operators.

Both are chosen by name only. Their kernels were proven in emulation and never executed on a GPU (docs/gpu.md), and an
automatic choice would hand them out unasked.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import os
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from ffrl_fast import gpu, native
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
from ffrl_fast.gpu.engine import Engine
from ffrl_fast.gpu.precision import precision_for

_REFERENCE = ReferenceBackend()
MAX_SIZE = 1024  # of D and H: what the kernels' tables reach


def _check_index(index: Tensor | None, potentials: int) -> None:
    """On the CPU an error at once; on a GPU the device's own assertion, since looking would wait for it."""
    if index is None or torch.compiler.is_compiling() or torch._C._functorch.is_functorch_wrapped_tensor(index):
        return
    if index.device.type == "cpu":
        if index.numel() and not 0 <= int(index.min()) <= int(index.max()) < potentials:
            raise IndexError(
                f"index: expected values in 0 … {potentials - 1}, found {int(index.min())} … {int(index.max())}"
            )
    else:
        inside = ((index >= 0) & (index < potentials)).all()
        torch._assert_async(inside, f"index: expected values in 0 … {potentials - 1}")


def _inputs(call: Call) -> native.Inputs:
    bank, force, selection = call.bank, call.force, call.selection
    tau, dtau = call.conditioning(bank)
    shape = list(bank.shape.native)
    if force is not None:
        shape += force.shape.native
    return native.Inputs(
        call.z,
        call.t,
        bank.theta,
        tau,
        dtau,
        None if force is None else force.theta,
        None if force is None else call.conditioning(force)[0],
        selection.index,
        selection.gates,
        call.tangent,
        selection.potential,
        shape,
        call.with_residual,
        False,
        False,
        0,
        0.0,
    )


class GpuBackend:
    """A :class:`~ffrl_fast.gpu.engine.Engine` behind the operators; first-order gradients.

    Second derivatives (∇²u · tangent with a gradient, the Hessian and what is made of it) are the reference's.
    """

    automatic = False

    def __init__(self, name: str, able: Callable[[Request], Verdict], engine: Callable[[], Engine]) -> None:
        self.name, self._able = name, able
        gpu.engines[name] = engine

    def can_run(self, request: Request) -> Verdict:
        if max(request.sizes, default=0) > MAX_SIZE:
            return Verdict(False, f"has D and H up to {MAX_SIZE}, not {max(request.sizes)}")
        return self._able(request)

    def _evaluate(self, inputs: native.Inputs) -> tuple[Tensor, ...]:
        return gpu.evaluate(inputs, self.name, precision_for(inputs.z.dtype))

    def plan(self, call: Call, motion: Motion | None = None) -> None:
        return None

    def field(self, call: Call) -> Result:
        _check_index(call.selection.index, call.bank.num_potentials)
        apart = call.tangent is not None and torch.is_grad_enabled()
        inputs = _inputs(dataclasses.replace(call, tangent=None) if apart else call)
        u, dt, residual, hvp, grad = self._evaluate(inputs)
        product = None
        if call.tangent is not None:
            product = _REFERENCE.field(dataclasses.replace(call, with_residual=False)).hvp if apart else hvp
        return Result(u, dt, grad, product, residual if call.with_residual else None)

    def path(self, call: Call, motion: Motion) -> Path:
        _check_index(call.selection.index, call.bank.num_potentials)
        inputs = _inputs(call)._replace(substeps=motion.substeps, step=motion.step)
        u, dt, residual, _, z = self._evaluate(inputs)
        return Path(
            z if motion.substeps == 1 else z[:: motion.substeps],
            u,
            dt,
            residual if call.with_residual else None,
            self._row_sums(call, motion, z) if call.with_row_sum else None,
            path_log_det(_REFERENCE, call, motion, z) if call.with_log_det else None,
        )

    def _row_sums(self, call: Call, motion: Motion, z: Tensor) -> Tensor:
        """Of each step (T, B), at the path's moments by the reference."""
        one = dataclasses.replace(motion, substeps=1)
        found: list[Tensor] = []
        for moment in range(call.t.shape[0]):
            here = dataclasses.replace(call.of_moment(moment, z[moment], motion.substeps), with_row_sum=True)
            value = _REFERENCE.path(here, one).row_sum
            assert value is not None
            found.append(value[0] if moment % motion.substeps == 0 else found.pop() + value[0])
        return torch.stack(found) if found else z.new_zeros(0, z.shape[1])

    def hj_loss(self, call: Call, weight: Tensor | None) -> Tensor:
        residual = self.field(dataclasses.replace(call, with_residual=True)).residual
        assert residual is not None
        square = residual.square()
        return square.mean() if weight is None else (weight * square).mean()

    def hj_value_and_grad(self, call: Call, weight: Tensor | None) -> tuple[Tensor, HJGradients]:
        return hj_value_and_grad_by_autograd(self, call, weight)

    def hessian(self, call: Call) -> Tensor:
        return _REFERENCE.hessian(call)

    def laplacian(self, call: Call) -> Tensor:
        return _REFERENCE.laplacian(call)

    def log_det(self, call: Call, step: float) -> tuple[Tensor, Tensor]:
        return _REFERENCE.log_det(call, step)


_OLDEST = (8, 0)  # compute capability: the products are those of Ampere and later


def _on_gpu(request: Request, has: str, dtypes: tuple[torch.dtype, ...]) -> Verdict:
    if request.device != "cuda":
        return Verdict(False, f"runs on cuda tensors, not on {request.device}")
    if request.dtype not in dtypes:
        return Verdict(False, f"has {' and '.join(str(d).removeprefix('torch.') for d in dtypes)}, not {request.dtype}")
    if torch.cuda.is_available() and torch.cuda.get_device_capability() < _OLDEST:
        found = ".".join(map(str, torch.cuda.get_device_capability()))
        return Verdict(False, f"needs compute capability 8.0, this GPU has {found}")
    return Verdict(True, f"{has}; gradients of first order; by name only: never executed on a GPU")


@cache
def interprets() -> bool:
    """Whether Triton's interpreter executes its kernels, on tensors of the CPU: TRITON_INTERPRET=1."""
    return os.environ.get("TRITON_INTERPRET", "").lower() in ("1", "true", "on")


def _triton_able(request: Request) -> Verdict:
    if importlib.util.find_spec("triton") is None:
        return Verdict(False, "Triton is not installed")
    if interprets():
        if request.device != "cpu":
            return Verdict(False, f"TRITON_INTERPRET=1 executes kernels on cpu tensors, not on {request.device}")
        return Verdict(True, "Triton kernels in its interpreter; gradients of first order; by name only")
    return _on_gpu(request, "Triton kernels", (torch.float32, torch.bfloat16))


def _triton_engine() -> Engine:
    # Triton takes a second to import, and is not there where torch brought none.
    from ffrl_fast.triton_kernels.engine import TritonEngine

    return TritonEngine()


def triton_backend() -> GpuBackend:
    return GpuBackend("triton", _triton_able, _triton_engine)


def _cuda_able(request: Request) -> Verdict:
    if importlib.util.find_spec("ffrl_fast._cuda") is None:
        return Verdict(False, "this build of ffrl_fast has no CUDA kernels (nvcc was not there)")
    return _on_gpu(request, "CUDA C++ kernels", (torch.float32,))


def _cuda_engine() -> Engine:
    from ffrl_fast.gpu.cuda_engine import CudaEngine

    return CudaEngine()


def cuda_backend() -> GpuBackend:
    return GpuBackend("cuda", _cuda_able, _cuda_engine)
