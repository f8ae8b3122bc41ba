"""What the sizes of a call's tensors decide: the numbers that the engine is told, and the sizes of what it writes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ffrl_fast import _core
from ffrl_fast.native import nodes
from ffrl_fast.native.dispatch import is_direct, is_plain
from ffrl_fast.native.problem import NUM_TENSORS, SINUSOIDAL, Given, Inputs, contiguous


def _padded(n: int, dtype: torch.dtype) -> int:
    line = 64 // dtype.itemsize
    return (n + line - 1) // line * line


def kept_sizes(inputs: Inputs) -> tuple[int, int]:
    """Elements of the tape for one moment, and of the packed weights; csrc/core/problem.hpp states the same."""
    dtype, dim = inputs.z.dtype, inputs.z.shape[1]
    shared = 0 if inputs.row_times else inputs.moments
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
        packed += dim * hp + width * (dp + 2 * depth * hp) + hp * (2 + depth + shared * time_arrays)
    tape_row += _padded(dim, dtype) * (int(inputs.residual) + int(inputs.row_sum))
    return rows * tape_row, _padded(1, dtype) + packed * (1 if inputs.potential >= 0 else inputs.theta.shape[0])


# Address of one record a thread that calls add their phases' times to, and of how many threads; 0: nothing is timed.
_phase_records = _recorded_threads = 0
_all_records: list[Tensor] = []


@contextlib.contextmanager
def record_phases() -> Iterator[Tensor]:
    """Within the block the engine adds up where its time goes, for all threads of the process.

    Yields:
        (threads, phase_record_size) float64, csrc/core/phases.hpp's PhaseRecord: seconds and operations of each phase,
        then the seconds of whole calls. ``ffrl_fast.profile`` names the phases.
    """
    before, threads = (_phase_records, _recorded_threads), torch.get_num_threads()
    records = torch.zeros(threads, _core.phase_record_size, dtype=torch.float64, device="cpu")
    # A call of another thread may still add to them when the block has ended.
    _all_records.append(records)
    _record(records.data_ptr(), threads)
    try:
        yield records
    finally:
        _record(*before)


def _record(records: int, threads: int) -> None:
    global _phase_records, _recorded_threads
    _phase_records, _recorded_threads = records, threads
    if nodes.compiled is not None:
        nodes.compiled.record(records, threads)


_ENTRIES = {
    dtype: tuple(getattr(_core, f"{name}_{suffix}") for name in ("forward", "backward", "loss", "curvature"))
    for dtype, suffix in ((torch.float32, "f32"), (torch.float64, "f64"))
}


class Extent(NamedTuple):
    """What a call is asked for, and how large it is."""

    rows: int
    dim: int
    moments: int
    substeps: int  # 0: one moment, and nothing moves
    residual: bool
    tangent: bool
    row_sum: bool
    log_det: bool
    tape: int  # elements for one moment
    packed: int


def extent(i: Inputs) -> Extent:
    """Also while tracing, where sizes are not numbers yet."""
    rows, dim = i.z.shape
    tangent = i.tangent is not None
    return Extent(rows, dim, i.moments, i.substeps, i.residual, tangent, i.row_sum, i.log_det, *kept_sizes(i))


#: Shapes and dtypes.
Layout = tuple[tuple[torch.Size, torch.dtype] | None, ...]


def layout_of(tensors: Iterable[Tensor | None]) -> Layout:
    return tuple([None if x is None else (x.shape, x.dtype) for x in tensors])


@dataclass(slots=True)
class Plan:
    """All of a call but its tensors. Calls whose tensors have the same sizes, strides and dtype share it."""

    plain: tuple[Any, ...]  # of Inputs: potential … step
    extent: Extent
    row_times: bool
    sizes: tuple[int | float, ...]  # as csrc/bindings/module.cpp reads them
    layout: Layout  # of the tensors
    forward: Callable[..., None]
    backward: Callable[..., None]
    loss: Callable[..., None]
    curvature: Callable[..., None]
    compiled: Any = None  # the same for the nodes in C++; None where they do not run the call


#: The activations of a path are kept for as many of its last moments as fit into so many bytes; those of the others
#: are computed again in the backward sweep. Reading them back costs a tenth of that, but memory is not free.
TAPE_LIMIT = 160 * 2**20


def moments_on_tape(of: Extent, itemsize: int) -> int:
    """A size that is not known while tracing counts as small."""
    if of.substeps and isinstance(of.tape, int) and of.tape:
        return min(of.moments, TAPE_LIMIT // (of.tape * itemsize))
    return of.moments


_Z_STRIDE = 6  # the place among the sizes


def prepare(i: Inputs) -> tuple[Plan, Given]:
    """The plan of a call, and its tensors as the engine reads them."""
    z, theta, tau, gates, tangent = i.z, i.theta, i.tau, i.gates, i.tangent
    rows, dim = z.shape
    for x in (tau, i.dtau, i.force_tau):
        if x is not None and x.dtype is not z.dtype:
            raise TypeError(f"τ, dτ/dt: expected dtype {z.dtype} as the rows', found {x.dtype}")
    # Rows of unit stride are read where they lie.
    if z.is_neg() or (dim != 1 and z.stride(1) != 1):
        z = z.resolve_neg().contiguous()
    sizes: tuple[int | float, ...] = (
        rows,
        theta.shape[0],
        i.moments,
        i.substeps or 1,
        i.step,
        i.row_times,
        z.stride(0),
        i.potential,
        gates is not None and gates.dim() == 3,
        i.residual,
        tangent is not None and tangent.dim() == 1,
        i.row_sum,
        *(theta.shape[1], 1 if tau is None else tau.shape[0], dim, *i.shape[:4]),
        i.force_theta is not None,
    )
    if i.force_theta is not None:
        sizes += (i.force_theta.shape[1], 1 if i.force_tau is None else i.force_tau.shape[0], dim, *i.shape[4:])
    given: Any = (z, *[contiguous(x) for x in i.tensors[1:]])
    return Plan(i[NUM_TENSORS:], extent(i), i.row_times, sizes, layout_of(given), *_ENTRIES[z.dtype]), given


def prepare_direct(i: Inputs) -> tuple[Plan, Given]:
    """:func:`prepare` for a call that nothing watches."""
    plan, given = prepare(i)
    of, dtype = plan.extent, i.z.dtype
    # A call of nothing is Python's: it has no engine to be fast.
    if nodes.compiled is not None and of.rows and of.moments:
        kept = (of.tape, moments_on_tape(of, dtype.itemsize), of.packed)
        moves, is_double = of.substeps > 0, dtype == torch.float64
        plan.compiled = nodes.compiled.Plan(is_double, plan.sizes, moves, of.tangent, of.log_det, *kept, plan.plain)
    return plan, given


def _compiled_plan(*inputs: Any) -> Any:
    """Of a call through torch's dispatcher: the plan of the kernels in C++, or None where Python must run it."""
    return prepare_direct(Inputs(*inputs))[0].compiled


if nodes.compiled is not None:
    nodes.compiled.make_plans_by(_compiled_plan)


def describe(given: tuple[Any, ...]) -> Hashable | None:
    """All that a plan depends on of the tensors of a call, in the order of Given: sizes, dtypes and the strides of z.

    None where something watches, or one is not a tensor that the engine reads where it lies.
    """
    if nodes.compiled is not None:
        described: bytes | None = nodes.compiled.describe(given) if is_direct() else None
        return described
    if not is_direct():
        return None
    sizes: list[tuple[torch.Size, torch.dtype] | None] = []
    if given[0] is None:
        return None
    for x in given:
        if x is None:
            sizes.append(None)
            continue
        if not is_plain(x) or not x.is_cpu or x.layout is not torch.strided or x.is_neg():
            return None
        if sizes and not x.is_contiguous():  # z may lie at any strides
            return None
        sizes.append((x.shape, x.dtype))
    return (given[0].stride(), *sizes)


def check_unpacked(tensors: Iterable[Tensor | None], layout: Layout) -> None:
    """A hook of saved tensors may return anything; the engine would read it as what was saved."""
    for x, saved in zip(tensors, layout, strict=True):
        if saved is None:
            continue
        if x is None or x.shape != saved[0] or x.dtype is not saved[1] or not x.is_cpu or x.layout is not torch.strided:
            is_ = "None" if x is None else f"{x.dtype} of shape {list(x.shape)} on {x.device}"
            raise RuntimeError(
                f"hooks of saved tensors: expected a tensor as it was saved, {saved[1]} of shape {list(saved[0])} on "
                f"cpu, found {is_}"
            )


def fits(plan: Plan, given: Given) -> bool:
    """Whether tensors that went through hooks of autograd, :func:`check_unpacked`, lie as the plan says."""
    z, others = given[0], given[1:]
    if z.stride(0) != plan.sizes[_Z_STRIDE] or (z.shape[1] != 1 and z.stride(1) != 1):
        return False
    return not z.is_neg() and all([x is None or (x.is_contiguous() and not x.is_neg()) for x in others])


def numbers(given: Given) -> tuple[int, ...]:
    """What the engine is told of this call beside its plan's sizes."""
    threads = torch.get_num_threads()
    if _phase_records:
        threads = min(threads, _recorded_threads)
    return (threads, _phase_records, *[0 if x is None else x.data_ptr() for x in given])
