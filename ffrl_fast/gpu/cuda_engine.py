"""The CUDA kernels of kernels/cuda as a GPU engine, for rows at one moment and for whole paths.

A call allocates its outputs and workspace, launches on the current stream and returns. The activations are computed
again in a backward: nothing is kept for it but what the caller has anyway.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ffrl_fast.gpu.engine import Cotangents, Forward, Gradients, Precision, Rows, Wanted

_PRECISIONS = {Precision.IEEE: 0, Precision.TF32: 1, Precision.BF16: 2}  # as kernels/cuda/launch.hpp numbers them


@dataclass(slots=True)
class Path:
    """A path of N moments, z ← z + step·∇u from each to the next, by ``rows`` whose z is the start.

    ``tau`` and ``dtau`` of the rows and of the force are (K or 1, N, H); ``gates`` (B, K) or (B, N / substeps, K).
    """

    rows: Rows
    moments: int
    step: float
    substeps: int = 1  # u, ∂_t u and the residual are of every so many moments
    force: Rows | None = None  # of which theta, shape and tau are used; its square is added to the residual
    residual: bool = False


class PathForward(NamedTuple):
    """z (N + 1, B, D); u, ∂_t u and the residual (N / substeps, B), the last where asked for."""

    z: Tensor
    u: Tensor
    dt: Tensor
    residual: Tensor | None


class PathCotangents(NamedTuple):
    """Of what :class:`PathForward` holds; None: zero."""

    z: Tensor | None = None
    u: Tensor | None = None
    dt: Tensor | None = None
    residual: Tensor | None = None


class PathGradients(NamedTuple):
    """Of the start and the potentials, and of the force's parameters and τ; None where not wanted."""

    rows: Gradients
    force_theta: Tensor | None
    force_tau: Tensor | None


class _Call(NamedTuple):
    """A problem as csrc/bindings/cuda_module.cpp takes it; keeps alive the tensors that were made for it."""

    call: tuple[int | float, ...]
    potential: tuple[int, ...]
    force: tuple[int, ...] | None
    device: torch.device
    alive: tuple[Tensor, ...]


def _address(x: Tensor | None) -> int:
    return 0 if x is None else x.data_ptr()


def _addresses(*tensors: Tensor | None) -> tuple[int, ...]:
    return tuple([_address(x) for x in tensors])


def _network(rows: Rows, dtau: Tensor | None) -> tuple[int, ...]:
    s = rows.shape
    conditioned = next((x.shape[0] for x in (rows.tau, dtau) if x is not None), 1)
    return (
        *(s.dim, s.width, s.depth, int(s.out_activation == "tanh")),
        *_addresses(rows.theta, rows.tau, dtau),
        *(s.num_parameters, conditioned),
    )


def _grouped(index: Tensor, networks: int) -> tuple[Tensor, Tensor]:
    """The rows ordered by their network (B,), and where each network's begin (K + 1,); int32."""
    ordered, order = torch.sort(index, stable=True)
    numbers = torch.arange(networks + 1, device=index.device)
    return order.to(torch.int32), torch.searchsorted(ordered, numbers, out_int32=True)


def _call(
    rows: Rows,
    precision: Precision,
    *,
    path: Path | None = None,
    value_only: bool = False,
    residual: bool = False,
    drive: Tensor | None = None,
    tangent: Tensor | None = None,
) -> _Call:
    z = rows.z if rows.z.shape[1] <= 1 or rows.z.stride(1) == 1 else rows.z.contiguous()
    alive = [x for x in (z, drive, tangent) if x is not None]
    order = first = None
    if rows.index is not None:
        order, first = _grouped(rows.index, rows.theta.shape[0])
        alive += [order, first]
    gates = rows.gates
    if gates is not None:
        gates = gates.contiguous()
        alive.append(gates)
    dtau = None if value_only else rows.dtau
    times = next((x.shape[1] for x in (rows.tau, dtau) if x is not None), 1)
    call = (
        z.shape[0],
        rows.theta.shape[0],
        1 if path is None else path.moments,
        1 if path is None else path.substeps,
        0.0 if path is None else path.step,
        path is None and times > 1,
        _address(z),
        z.stride(0),
        value_only,
        rows.potential if rows.index is None and gates is None else -1,
        *_addresses(order, first, gates),
        gates is not None and gates.dim() == 3,
        residual,
        *_addresses(drive, tangent),
        tangent is not None and tangent.dim() == 1,
        _PRECISIONS[precision],
    )
    force = None if path is None or path.force is None else _network(path.force, None)
    return _Call(call, _network(rows, dtau), force, z.device, tuple(alive))


def _zeros_or_empty(x: Tensor | None, wanted: bool, zero: bool) -> Tensor | None:
    if x is None or not wanted:
        return None
    make = torch.zeros_like if zero else torch.empty_like
    return make(x, memory_format=torch.contiguous_format)


def _contiguous(tensors: Sequence[Tensor | None]) -> list[Tensor | None]:
    return [None if x is None else x.contiguous() for x in tensors]


class CudaEngine:
    """:class:`~ffrl_fast.gpu.engine.Engine` by the module ``ffrl_fast._cuda``, or by one like it.

    Args:
        module: what is called; by default ``ffrl_fast._cuda``, imported when first needed.
    """

    def __init__(self, module: Any = None) -> None:
        self._given = module

    @property
    def _module(self) -> Any:
        if self._given is None:
            self._given = importlib.import_module("ffrl_fast._cuda")
        return self._given

    def _launch(self, call: _Call, backward: bool, *tuples: tuple[int, ...]) -> None:
        device = call.device.index or 0
        stream = torch.cuda.current_stream(call.device).cuda_stream if call.device.type == "cuda" else 0
        problem = call[:3]
        size = self._module.workspace_floats(*problem, backward, device)
        workspace = torch.empty(size, dtype=torch.float32, device=call.device)
        entry = self._module.backward if backward else self._module.forward
        entry(*problem, *tuples, workspace.data_ptr(), device, stream)

    def saved(self, rows: Rows, precision: Precision) -> tuple[Tensor, ...]:
        return ()

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
        count, dim = rows.z.shape
        new = rows.z.new_empty
        u, dt, grad = new(count), new(0 if value_only else count), new(0, dim) if value_only else new(count, dim)
        residual = None if drive is None else new(count)
        hvp = None if tangent is None else new(count, dim)
        drive, tangent = _contiguous((drive, tangent))
        call = _call(rows, precision, value_only=value_only, residual=drive is not None, drive=drive, tangent=tangent)
        computed = (None, None) if value_only else (dt, grad)
        self._launch(call, False, _addresses(u, computed[0], residual, computed[1], None, hvp))
        return Forward(u, dt, grad, hvp, residual, ())

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
        call = _call(rows, precision, value_only=value_only)
        row_times = bool(call.call[5])
        result = Gradients(
            z=_zeros_or_empty(rows.z, wanted.z, False),
            theta=_zeros_or_empty(rows.theta, wanted.theta, False),
            tau=_zeros_or_empty(rows.tau, wanted.tau, row_times),
            dtau=_zeros_or_empty(rows.dtau, wanted.dtau, row_times or value_only),
            gates=_zeros_or_empty(rows.gates, wanted.gates, True),
        )
        bars = _contiguous((cotangents.u, cotangents.dt, cotangents.residual, cotangents.grad))
        if value_only:
            bars = [bars[0], None, None, None]
        written = _addresses(result.z, result.theta, result.tau, None if value_only else result.dtau)
        self._launch(
            call,
            True,
            (0, _address(None if value_only else out.grad)),
            (*_addresses(*bars), 0),
            (*written, 0, 0, _address(result.gates)),
        )
        return result

    def path_forward(self, path: Path, precision: Precision) -> PathForward:
        """The path and its outputs in one launch where the weights fit into shared memory, else one a moment."""
        rows = path.rows
        count, dim = rows.z.shape
        steps, new = path.moments // path.substeps, rows.z.new_empty
        out = PathForward(
            new(path.moments + 1, count, dim),
            new(steps, count),
            new(steps, count),
            new(steps, count) if path.residual else None,
        )
        call = _call(rows, precision, path=path, residual=path.residual)
        self._launch(call, False, _addresses(out.u, out.dt, out.residual, None, out.z, None))
        return out

    def path_backward(
        self, path: Path, precision: Precision, z: Tensor, cotangents: PathCotangents, wanted: Wanted
    ) -> PathGradients:
        """The gradients of a path from its z (N + 1, B, D); bitwise reproducible. z's is always computed."""
        rows, force = path.rows, path.force
        result = PathGradients(
            Gradients(
                z=_zeros_or_empty(rows.z, True, False),
                theta=_zeros_or_empty(rows.theta, wanted.theta, False),
                tau=_zeros_or_empty(rows.tau, wanted.tau, False),
                dtau=_zeros_or_empty(rows.dtau, wanted.dtau, False),
                gates=_zeros_or_empty(rows.gates, wanted.gates, True),
            ),
            None if force is None else _zeros_or_empty(force.theta, wanted.theta, False),
            None if force is None else _zeros_or_empty(force.tau, wanted.tau, False),
        )
        bars = _contiguous((cotangents.u, cotangents.dt, cotangents.residual, None, cotangents.z))
        g = result.rows
        call = _call(rows, precision, path=path, residual=path.residual)
        self._launch(
            call,
            True,
            _addresses(z, None),
            _addresses(*bars),
            _addresses(g.z, g.theta, g.tau, g.dtau, result.force_theta, result.force_tau, g.gates),
        )
        return result
