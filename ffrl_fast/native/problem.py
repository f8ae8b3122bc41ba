"""A call of the engine: what it is given, in numbers, and room for what it writes."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ffrl_fast import _core

Tensors = tuple[Tensor, ...]

#: Tensors of at least so many bytes come from blocks that the engine keeps between calls: malloc would hand out fresh
#: pages, which cost the system as long to clear as the engine takes to fill them.
_LARGE = 128 * 2**10

Empty = Callable[..., Tensor]

INPUTS = (
    "Tensor z, Tensor t, Tensor theta, Tensor? tau, Tensor? dtau, Tensor? force_theta, Tensor? force_tau, "
    "Tensor? index, Tensor? gates, Tensor? tangent, int potential, int[] shape, bool residual, bool row_sum, "
    "bool log_det, int substeps, float step"
)
NUM_INPUTS, NUM_TENSORS, _SUBSTEPS = 17, 10, 15
_FEW_ROWS = 4  # whose weights are not packed, csrc/core/problem.hpp
SINUSOIDAL = 2  # the number of this time embedding, csrc/core/layout.hpp
# The places among the inputs of those that have gradients: z, t, theta, tau, dtau, force_theta, force_tau, gates,
# tangent. ``wanted`` and the engine's gradients come in this order; some by their place in it:
DIFFERENTIABLE = (0, 1, 2, 3, 4, 5, 6, 8, 9)
_CONDITIONING, _GATES = (3, 4, 6), 7


class Inputs(NamedTuple):
    """The arguments that all three operators share; ``substeps`` 0 evaluates at one moment and moves nothing."""

    z: Tensor  # (B, D)
    t: Tensor  # (1,) or (B,); with substeps ≥ 1 the N moments (N,)
    theta: Tensor  # (K, P)
    # (K, times, H), or (1, times, H) of one potential. With times that all rows share the engine computes them itself
    # where they are None; where each row has its own they must be given.
    tau: Tensor | None
    dtau: Tensor | None
    force_theta: Tensor | None
    force_tau: Tensor | None
    index: Tensor | None  # type: ignore[assignment]  # (B,); the operators' name for it, though tuples have an index()
    gates: Tensor | None  # (B, K) or (B, steps, K)
    tangent: Tensor | None  # (D,) or (B, D)
    potential: int
    shape: list[int]  # NetworkShape.native of the potential, then of the force
    residual: bool
    row_sum: bool
    log_det: bool  # of a path, without a gradient
    substeps: int
    step: float

    @property
    def moments(self) -> int:
        return self.t.shape[0] if self.substeps else 1


def _padded(n: int, dtype: torch.dtype) -> int:
    line = 64 // dtype.itemsize
    return (n + line - 1) // line * line


def kept_sizes(inputs: Inputs) -> tuple[int, int]:
    """Elements of the tape for one moment, and of the packed weights; csrc/core/problem.hpp states the same."""
    dtype, dim, moments = inputs.z.dtype, inputs.z.shape[1], inputs.moments
    shared = 0 if not inputs.substeps and inputs.t.shape[0] > 1 else moments
    rows = inputs.z.shape[0]
    many = inputs.theta.shape[0] if inputs.gates is not None else 1
    second = inputs.tangent is not None or inputs.row_sum
    tape_row = packed = 0
    networks = [(inputs.shape[:4], inputs.tau, True)]
    if inputs.force_theta is not None:
        networks.append((inputs.shape[4:], inputs.force_tau, False))
    for (width, depth, _, time), tau, derivatives in networks:
        hp, dp = _padded(width, dtype), _padded(dim, dtype)
        tape_row += many * (hp * (1 + depth * (2 if derivatives else 1)) + 1)
        each, computed = (2 if derivatives else 1), time == SINUSOIDAL and tau is None
        time_arrays = 1 + (each if computed or tau is not None else 0) + (2 * each if computed else 0)
        if derivatives and second:
            own = inputs.tangent is not None and inputs.tangent.dim() == 2
            tape_row += many * (hp * (2 * depth + (1 if own else 0)) + 1)
        if rows > _FEW_ROWS or width < 8:
            packed += dim * hp + width * (dp + 2 * depth * hp)
        packed += hp * (2 + depth + shared * time_arrays)
    tape_row += _padded(dim, dtype) * (int(inputs.residual) + int(inputs.row_sum))
    return rows * tape_row, _padded(1, dtype) + packed * (1 if inputs.potential >= 0 else inputs.theta.shape[0])


def address(x: Tensor | None) -> int:
    return 0 if x is None else x.data_ptr()  # 0 too for the empty tensor that stands for "not wanted"


def contiguous(x: Tensor | None) -> Tensor | None:
    return x if x is None or x.is_contiguous() else x.contiguous()


# Address of one record a thread that calls add their phases' times to, and of how many threads; 0: nothing is timed.
_phase_records = _recorded_threads = 0


@contextlib.contextmanager
def record_phases() -> Iterator[Tensor]:
    """Within the block the engine adds up where its time goes, for all threads of the process.

    Yields:
        (threads, phase_record_size) float64, csrc/core/phases.hpp's PhaseRecord: seconds and operations of each phase,
        then the seconds of whole calls. ``ffrl_fast.profile`` names the phases.
    """
    global _phase_records, _recorded_threads
    before, threads = (_phase_records, _recorded_threads), torch.get_num_threads()
    records = torch.zeros(threads, _core.phase_record_size, dtype=torch.float64, device="cpu")
    _phase_records, _recorded_threads = records.data_ptr(), threads
    try:
        yield records
    finally:
        _phase_records, _recorded_threads = before


class Problem(NamedTuple):
    """The problem as csrc/bindings/module.cpp takes it; keeps alive the copies that had to be made."""

    call: tuple[int | float, ...]
    potential: tuple[int, ...]
    force: tuple[int, ...] | None
    alive: tuple[Tensor | None, ...]


def native_problem(i: Inputs) -> Problem:
    """``i`` in numbers. Written for the call whose own work is nothing: what is looked up once is not asked again."""
    z, t, theta, substeps = i.z, i.t, i.theta, i.substeps
    rows, dim = z.shape
    # Rows of unit stride are read where they lie.
    if dim != 1 and z.stride(1) != 1:
        z = z.contiguous()
    t = t if t.is_contiguous() else t.contiguous()
    theta = theta if theta.is_contiguous() else theta.contiguous()
    tau, dtau, force_tau = contiguous(i.tau), contiguous(i.dtau), contiguous(i.force_tau)
    force_theta = contiguous(i.force_theta)
    index, gates, tangent = contiguous(i.index), contiguous(i.gates), contiguous(i.tangent)
    potentials, stride = theta.shape
    times = t.shape[0]
    threads = torch.get_num_threads()
    call = (
        min(threads, _recorded_threads) if _phase_records else threads,
        rows,
        potentials,
        times if substeps else 1,
        substeps or 1,
        i.step,
        not substeps and times > 1,
        z.data_ptr(),
        z.stride(0),
        t.data_ptr(),
        i.potential,
        0 if index is None else index.data_ptr(),
        0 if gates is None else gates.data_ptr(),
        gates is not None and gates.dim() == 3,
        i.residual,
        0 if tangent is None else tangent.data_ptr(),
        tangent is not None and tangent.dim() == 1,
        i.row_sum,
        _phase_records,
    )
    conditioned = 1 if tau is None else tau.shape[0]
    potential = (theta.data_ptr(), address(tau), address(dtau), stride, conditioned, dim, *i.shape[:4])
    force = None
    if force_theta is not None:
        conditioned = 1 if force_tau is None else force_tau.shape[0]
        force = (force_theta.data_ptr(), address(force_tau), 0, force_theta.shape[1], conditioned, dim, *i.shape[4:])
    return Problem(call, potential, force, (z, t, theta, tau, dtau, force_theta, force_tau, index, gates, tangent))


ENTRIES = {
    (name, dtype): getattr(_core, f"{name}_{suffix}")
    for name in ("forward", "backward", "loss", "curvature")
    for dtype, suffix in ((torch.float32, "f32"), (torch.float64, "f64"))
}


def release_memory() -> None:
    """Gives back to the system what the engine keeps between calls: at most 512 MiB of blocks that no tensor uses.

    Large outputs, gradients and saved activations of the ``cpu`` backend lie in blocks that are used again when their
    tensors end. Nothing needs this function; the next call allocates anew.
    """
    _core.release_idle()


def empty(*shape: int, like: Tensor) -> Tensor:
    """As ``like.new_empty(shape)``; a large one from the blocks that the engine keeps between calls."""
    size = math.prod(shape) * like.itemsize
    if size < _LARGE:
        # Sizes one by one are parsed in a third of the time of a tuple.
        return like.new_empty(*shape) if shape else like.new_empty(shape)
    return torch.frombuffer(_core.Block(size), dtype=like.dtype).view(shape)


def empty_like(x: Tensor) -> Tensor:
    """Contiguous, as :func:`empty`."""
    if x.nbytes < _LARGE and x.is_contiguous():
        return torch.empty_like(x)
    return empty(*x.shape, like=x)


def fake_empty_like(x: Tensor) -> Tensor:
    return x.new_empty(x.shape)


def room(like: Tensor, largest: int) -> Empty:
    """What makes tensors of up to ``largest`` elements from their sizes, as :func:`empty`; asked once for many."""
    return like.new_empty if largest * like.itemsize < _LARGE else partial(empty, like=like)


def fake_room(like: Tensor, largest: int) -> Empty:
    return like.new_empty


def empty_gradients(
    inputs: Inputs, wanted: list[bool], empty_like: Callable[[Tensor], Tensor] = empty_like
) -> list[Tensor | None]:
    """Room for each gradient that is wanted. Cleared where the engine writes only a part of it."""
    per_row = not inputs.substeps and inputs.t.shape[0] > 1
    result: list[Tensor | None] = []
    for place, (of, want) in enumerate(zip(DIFFERENTIABLE, wanted, strict=False)):
        x: Any = inputs[of]
        if not want or x is None:
            result.append(None)
        elif place == _GATES or (per_row and place in _CONDITIONING):
            # Each row reaches its own gates and the conditioning of its own potential only.
            result.append(torch.zeros_like(x, memory_format=torch.contiguous_format))
        else:
            result.append(empty_like(x))
    return result


def addresses(gradients: list[Tensor | None]) -> tuple[int, ...]:
    return tuple([0 if x is None else x.data_ptr() for x in gradients])


def only(gradients: list[Tensor | None]) -> list[Tensor]:
    return [x for x in gradients if x is not None]
