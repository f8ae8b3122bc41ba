"""The native operators as torch operators: registration, autograd, vmap.

``ffrl_fast::field`` evaluates the field of the potentials, and with ``substeps`` ≥ 1 moves the rows along it from
moment to moment; ``ffrl_fast::field_backward`` is its gradient; ``ffrl_fast::hj_loss`` is a loss and its gradients in
one sweep. Each is registered with ``torch.library``, with a fake implementation (for ``torch.compile``) and a vmap
rule. They have no autograd of their own: the ``torch.autograd.Function`` around each supplies it at a third of the cost
of ``torch.library.register_autograd``. Where nobody listens to the dispatcher (:func:`_direct`) a call does without it,
and without what ``Function.apply`` does for function transforms: at B = 1 these two are half of a call's time.

The backward of the backward is not native. It raises an error that says so; a silent zero or a detached gradient would
be worse than none.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ffrl_fast import _core, reference
from ffrl_fast.backends.interface import HJGradients
from ffrl_fast.layout import NetworkShape

Tensors = tuple[Tensor, ...]

#: The activations of a path are kept for as many of its last moments as fit into so many bytes; those of the others
#: are computed again in the backward sweep. Reading them back costs a tenth of that, but memory is not free.
TAPE_LIMIT = 160 * 2**20

#: Tensors of at least so many bytes come from blocks that the engine keeps between calls: malloc would hand out fresh
#: pages, which cost the system as long to clear as the engine takes to fill them.
_LARGE = 128 * 2**10

_Empty = Callable[..., Tensor]

_INPUTS = (
    "Tensor z, Tensor t, Tensor theta, Tensor? tau, Tensor? dtau, Tensor? force_theta, Tensor? force_tau, "
    "Tensor? index, Tensor? gates, Tensor? tangent, int potential, int[] shape, bool residual, bool row_sum, "
    "bool log_det, int substeps, float step"
)
_NUM_INPUTS, _NUM_TENSORS, _SUBSTEPS = 17, 10, 15
_LOG_DET = 5  # its place among the outputs of ``field``
_FEW_ROWS = 4  # whose weights are not packed, csrc/core/problem.hpp
_SINUSOIDAL = 2  # the number of this time embedding, csrc/core/layout.hpp
# The places among the inputs of those that have gradients: z, t, theta, tau, dtau, force_theta, force_tau, gates,
# tangent. ``wanted`` and the engine's gradients come in this order; some by their place in it:
_DIFFERENTIABLE = (0, 1, 2, 3, 4, 5, 6, 8, 9)
_CONDITIONING, _GATES = (3, 4, 6), 7

_library = torch.library.Library("ffrl_fast", "DEF")
_library.define(
    f"field({_INPUTS}, bool keep) -> (Tensor u, Tensor dt, Tensor residual, Tensor hvp, Tensor row_sum, "
    f"Tensor log_det, Tensor motion, Tensor tape, Tensor packed)"
)
_library.define(
    f"field_backward({_INPUTS}, Tensor? u_bar, Tensor? dt_bar, Tensor? residual_bar, Tensor? hvp_bar, "
    "Tensor? row_sum_bar, Tensor? motion_bar, Tensor? path, Tensor tape, Tensor packed, bool[] wanted) "
    "-> Tensor[] gradients"
)
# The last of ``wanted`` is the gradient of the weight.
_library.define(f"curvature({_INPUTS}, int what, float scale) -> (Tensor value, Tensor sign)")
_library.define(f"hj_loss({_INPUTS}, Tensor? weight, bool[] wanted) -> (Tensor value, Tensor[] gradients)")


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


# -------------------------------------------------------------------------------------------------------------- sizes


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
        each, computed = (2 if derivatives else 1), time == _SINUSOIDAL and tau is None
        time_arrays = 1 + (each if computed or tau is not None else 0) + (2 * each if computed else 0)
        if derivatives and second:
            own = inputs.tangent is not None and inputs.tangent.dim() == 2
            tape_row += many * (hp * (2 * depth + (1 if own else 0)) + 1)
        if rows > _FEW_ROWS or width < 8:
            packed += dim * hp + width * (dp + 2 * depth * hp)
        packed += hp * (2 + depth + shared * time_arrays)
    tape_row += _padded(dim, dtype) * (int(inputs.residual) + int(inputs.row_sum))
    return rows * tape_row, packed * (1 if inputs.potential >= 0 else inputs.theta.shape[0])


# ---------------------------------------------------------------------------------------------------- calls into C++


def _address(x: Tensor | None) -> int:
    return 0 if x is None else x.data_ptr()  # 0 too for the empty tensor that stands for "not wanted"


def _contiguous(x: Tensor | None) -> Tensor | None:
    return x if x is None or x.is_contiguous() else x.contiguous()


def _network(theta: Tensor, tau: Tensor | None, dtau: Tensor | None, dim: int, shape: list[int]) -> tuple[int, ...]:
    conditioned = tau.shape[0] if tau is not None else 1
    return (_address(theta), _address(tau), _address(dtau), theta.shape[1], conditioned, dim, *shape)


# Address of one record a thread that calls add their phases' times to; 0: nothing is timed.
_phase_records = 0


@contextlib.contextmanager
def record_phases() -> Iterator[Tensor]:
    """Within the block the engine adds up where its time goes, for all threads of the process.

    Yields:
        (threads, phase_record_size) float64, csrc/core/phases.hpp's PhaseRecord: seconds and operations of each phase,
        then the seconds of whole calls. ``ffrl_fast.profile`` names the phases.
    """
    global _phase_records
    records = torch.zeros(torch.get_num_threads(), _core.phase_record_size, dtype=torch.float64)
    before, _phase_records = _phase_records, records.data_ptr()
    try:
        yield records
    finally:
        _phase_records = before


class Problem(NamedTuple):
    """The problem as csrc/bindings/module.cpp takes it; keeps alive the copies that had to be made."""

    call: tuple[int | float, ...]
    potential: tuple[int, ...]
    force: tuple[int, ...] | None
    alive: list[Tensor | None]


def native_problem(i: Inputs) -> Problem:
    """``i`` in numbers."""
    # Rows of unit stride are read where they lie.
    z = i.z if i.z.stride(1) == 1 or i.z.shape[1] == 1 else i.z.contiguous()
    t = i.t if i.t.is_contiguous() else i.t.contiguous()
    theta = i.theta if i.theta.is_contiguous() else i.theta.contiguous()
    others = (i.tau, i.dtau, i.force_theta, i.force_tau, i.index, i.gates, i.tangent)
    alive = [z, t, theta, *[x if x is None or x.is_contiguous() else x.contiguous() for x in others]]
    tau, dtau, force_theta, force_tau, index, gates, tangent = alive[3:]
    rows, dim = z.shape
    call = (
        torch.get_num_threads(),
        rows,
        theta.shape[0],
        i.moments,
        max(i.substeps, 1),
        i.step,
        not i.substeps and t.shape[0] > 1,
        z.data_ptr(),
        z.stride(0),
        t.data_ptr(),
        i.potential,
        _address(index),
        _address(gates),
        gates is not None and gates.dim() == 3,
        i.residual,
        _address(tangent),
        tangent is not None and tangent.dim() == 1,
        i.row_sum,
        _phase_records,
    )
    force = None if force_theta is None else _network(force_theta, force_tau, None, dim, i.shape[4:])
    return Problem(call, _network(theta, tau, dtau, dim, i.shape[:4]), force, alive)


_ENTRIES = {
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


def _empty(*shape: int, like: Tensor) -> Tensor:
    """As ``like.new_empty(shape)``; a large one from the blocks that the engine keeps between calls."""
    size = math.prod(shape) * like.itemsize
    if size < _LARGE:
        return torch.empty(shape, dtype=like.dtype)
    return torch.frombuffer(_core.Block(size), dtype=like.dtype).view(shape)


def _empty_like(x: Tensor) -> Tensor:
    """Contiguous, as :func:`_empty`."""
    if x.nbytes < _LARGE and x.is_contiguous():
        return torch.empty_like(x)
    return _empty(*x.shape, like=x)


def _fake_empty(*shape: int, like: Tensor) -> Tensor:
    return like.new_empty(shape)


def _empty_outputs(inputs: Inputs, keep: bool, empty: _Empty = _empty) -> Tensors:
    """Outputs of ``field``, not filled."""
    rows, dim = inputs.z.shape
    new, moments = partial(empty, like=inputs.z), inputs.moments
    steps = (moments // inputs.substeps,) if inputs.substeps else ()
    of_moment, packed = kept_sizes(inputs) if keep else (0, 0)
    taped = moments if keep else 0
    if inputs.substeps and isinstance(of_moment, int) and of_moment:
        # A size that is not known while tracing counts as small.
        taped = min(moments, TAPE_LIMIT // (of_moment * inputs.z.dtype.itemsize))
    return (
        new(*steps, rows),
        new(*steps, rows),
        new(*steps, rows) if inputs.residual else new(0),
        new(rows, dim) if inputs.tangent is not None else new(0),
        new(*steps, rows) if inputs.row_sum else new(0),
        new(*steps, rows) if inputs.log_det else new(0),
        new(moments + 1, rows, dim) if inputs.substeps else new(rows, dim),
        new(of_moment * taped),
        new(packed),
    )


def _taped(inputs: Inputs, tape: Tensor) -> int:
    """How many moments a tape holds."""
    size = tape.numel()
    return 0 if size == 0 else size // kept_sizes(inputs)[0] if inputs.substeps else 1


def _field_cpu(*args: Any) -> Tensors:
    inputs, keep = Inputs(*args[:_NUM_INPUTS]), args[_NUM_INPUTS]
    outputs = _empty_outputs(inputs, keep)
    u, dt, residual, hvp, row_sum, log_det, motion, tape, packed = (_address(x) for x in outputs)
    taped = _taped(inputs, outputs[-2])
    if inputs.z.shape[0] == 0:
        return outputs
    if inputs.moments == 0:
        outputs[6].copy_(inputs.z[None])
        return outputs
    grad, path = (0, motion) if inputs.substeps else (motion, 0)
    call, potential, force, _alive = native_problem(inputs)
    to = (u, dt, residual, hvp, row_sum, log_det, grad, path, tape, taped, packed)
    _ENTRIES["forward", inputs.z.dtype](call, potential, force, to)
    return outputs


def _empty_gradients(inputs: Inputs, wanted: list[bool], empty: _Empty = _empty) -> list[Tensor | None]:
    """Room for each gradient that is wanted. Cleared where the engine writes only a part of it."""
    per_row = not inputs.substeps and inputs.t.shape[0] > 1
    result: list[Tensor | None] = []
    for place, (of, want) in enumerate(zip(_DIFFERENTIABLE, wanted, strict=False)):
        x: Any = inputs[of]
        if not want or x is None:
            result.append(None)
        elif place == _GATES or (per_row and place in _CONDITIONING):
            # Each row reaches its own gates and the conditioning of its own potential only.
            result.append(torch.zeros_like(x, memory_format=torch.contiguous_format))
        else:
            result.append(empty(*x.shape, like=x))
    return result


def _addresses(gradients: list[Tensor | None]) -> tuple[int, ...]:
    return tuple([0 if x is None else x.data_ptr() for x in gradients])


def _only(gradients: list[Tensor | None]) -> list[Tensor]:
    return [x for x in gradients if x is not None]


def _field_backward_cpu(*args: Any) -> list[Tensor]:
    inputs = Inputs(*args[:_NUM_INPUTS])
    *bars, path, tape, packed, wanted = args[_NUM_INPUTS:]
    gradients = _empty_gradients(inputs, wanted)
    if inputs.z.shape[0] == 0 or inputs.moments == 0:
        for gradient in _only(gradients):
            gradient.zero_()
        if inputs.moments == 0 and gradients[0] is not None and bars[-1] is not None:
            gradients[0].copy_(bars[-1][0])
        return _only(gradients)
    bars = [_contiguous(x) for x in bars]
    u, dt, residual, hvp, row_sum, motion = (_address(x) for x in bars)
    grad, path_bar = (0, motion) if inputs.substeps else (motion, 0)
    call, potential, force, _alive = native_problem(inputs)
    _ENTRIES["backward", inputs.z.dtype](
        call,
        potential,
        force,
        (_address(path), _address(tape), _taped(inputs, tape), _address(packed)),
        (u, dt, residual, hvp, row_sum, grad, path_bar),
        _addresses(gradients),
    )
    return _only(gradients)


def _empty_loss(
    inputs: Inputs, weight: Tensor | None, wanted: list[bool], empty: _Empty = _empty
) -> tuple[Tensor, list[Tensor | None], Tensor | None]:
    d_weight = empty(*weight.shape, like=weight) if weight is not None and wanted[-1] else None
    return empty(like=inputs.z), _empty_gradients(inputs, wanted, empty), d_weight


def _hj_loss_cpu(*args: Any) -> tuple[Tensor, list[Tensor]]:
    inputs, weight, wanted = Inputs(*args[:_NUM_INPUTS]), args[_NUM_INPUTS], args[_NUM_INPUTS + 1]
    value, gradients, d_weight = _empty_loss(inputs, weight, wanted)
    _run_loss(inputs, weight, value, gradients, d_weight)
    return value, _only([*gradients, d_weight])


def _run_loss(
    inputs: Inputs,
    weight: Tensor | None,
    value: Tensor,
    gradients: list[Tensor | None],
    d_weight: Tensor | None = None,
) -> None:
    """Fills ``value`` and the gradients."""
    if inputs.z.shape[0] == 0:
        for gradient in _only([*gradients, d_weight]):
            gradient.zero_()
        value.fill_(math.nan)  # the mean of nothing, as torch's
        return
    call, potential, force, _alive = native_problem(inputs)
    weight = _contiguous(weight)
    _ENTRIES["loss", value.dtype](
        call, potential, force, value.data_ptr(), _address(weight), _address(d_weight), _addresses(gradients)
    )


def _field_fake(*args: Any) -> Tensors:
    return _empty_outputs(Inputs(*args[:_NUM_INPUTS]), args[_NUM_INPUTS], _fake_empty)


def _field_backward_fake(*args: Any) -> list[Tensor]:
    return _only(_empty_gradients(Inputs(*args[:_NUM_INPUTS]), args[-1], _fake_empty))


def _hj_loss_fake(*args: Any) -> tuple[Tensor, list[Tensor]]:
    value, gradients, d_weight = _empty_loss(Inputs(*args[:_NUM_INPUTS]), args[-2], args[-1], _fake_empty)
    return value, _only([*gradients, d_weight])


#: What ``ffrl_fast::curvature`` computes.
HESSIAN, LAPLACIAN, LOG_DET = range(3)

#: Wider matrices are factorised one at a time by LAPACK: in lanes they would leave the cache.
LANES_WIDTH = 160

#: Bytes of the Hessians that are in memory at once where the caller did not ask for them.
_HESSIAN_BYTES = 64 * 2**20


def _curvature_shapes(inputs: Inputs, what: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    rows, dim = inputs.z.shape
    return ((rows, dim, dim) if what == HESSIAN else (rows,)), ((rows,) if what == LOG_DET else (0,))


def _curvature_cpu(*args: Any) -> Tensors:
    inputs, (what, scale) = Inputs(*args[:_NUM_INPUTS]), args[_NUM_INPUTS:]
    value, sign = (_empty(*shape, like=inputs.z) for shape in _curvature_shapes(inputs, what))
    rows, dim = inputs.z.shape
    if rows == 0:
        return value, sign
    if what == LOG_DET and dim > LANES_WIDTH:
        size = max(1, _HESSIAN_BYTES // (dim * dim * value.itemsize))
        identity = torch.eye(dim, dtype=value.dtype)
        for start in range(0, rows, size):
            at = slice(start, start + size)
            of_rows, _ = _curvature_cpu(*_rows(inputs, at), HESSIAN, 0.0)
            sign[at], value[at] = torch.linalg.slogdet(of_rows.mul_(scale).add_(identity))
        return value, sign
    call, potential, _, _alive = native_problem(inputs._replace(step=scale))
    to = [0, 0, 0, _address(sign)]
    to[{LAPLACIAN: 0, HESSIAN: 1, LOG_DET: 2}[what]] = _address(value)
    _ENTRIES["curvature", value.dtype](call, potential, tuple(to))
    return value, sign


def _curvature_fake(*args: Any) -> Tensors:
    inputs = Inputs(*args[:_NUM_INPUTS])
    value, sign = (inputs.z.new_empty(shape) for shape in _curvature_shapes(inputs, args[_NUM_INPUTS]))
    return value, sign


def _rows(inputs: Inputs, at: slice) -> Inputs:
    """Some of the rows, at one moment."""
    i, own = inputs, inputs.t.shape[0] > 1
    return i._replace(
        z=i.z[at],
        t=i.t[at] if own else i.t,
        tau=i.tau[:, at] if own and i.tau is not None else i.tau,
        dtau=i.dtau[:, at] if own and i.dtau is not None else i.dtau,
        index=None if i.index is None else i.index[at],
        gates=None if i.gates is None else i.gates[at],
    )


_CPU: dict[str, Any] = {
    "field": _field_cpu,
    "field_backward": _field_backward_cpu,
    "hj_loss": _hj_loss_cpu,
    "curvature": _curvature_cpu,
}
for _name, _cpu, _fake in (
    ("field", _field_cpu, _field_fake),
    ("field_backward", _field_backward_cpu, _field_backward_fake),
    ("hj_loss", _hj_loss_cpu, _hj_loss_fake),
    ("curvature", _curvature_cpu, _curvature_fake),
):
    _library.impl(_name, _cpu, "CPU")
    torch.library.register_fake(f"ffrl_fast::{_name}", _fake, lib=_library)


def _direct(z: Tensor, theta: Tensor) -> bool:
    """Whether nothing needs to see the operators go through the dispatcher.

    No tracer, dispatch mode, function transform or profiler is active, and the tensors are plain.
    """
    return (
        not torch.compiler.is_compiling()
        and type(z) in _PLAIN
        and type(theta) in _PLAIN
        and not torch._C._are_functorch_transforms_active()
        and torch._C._len_torch_dispatch_stack() == 0
        and not torch._C._is_tracing()
        and not torch._C._autograd._profiler_enabled()
        and not torch._C._functorch.is_functorch_wrapped_tensor(z)
        and not torch._C._functorch.is_functorch_wrapped_tensor(theta)
    )


_PLAIN = (Tensor, torch.nn.Parameter)


def _run(name: str, args: tuple[Any, ...]) -> Any:
    """The operator, through the dispatcher or past it."""
    return _CPU[name](*args) if _direct(args[0], args[2]) else getattr(torch.ops.ffrl_fast, name)(*args)


# -------------------------------------------------------------------------------------------------------------- vmap


def _front(x: Tensor, dim: int | None, size: int) -> Tensor:
    """x with the mapped dimension first; repeated along it where it was not mapped."""
    return x.movedim(dim, 0) if dim is not None else x.expand(size, *x.shape)


def conditioning_of_rows(
    t: Tensor, theta: Tensor, potential: int, dim: int, shape: list[int]
) -> tuple[Tensor | None, Tensor | None]:
    """τ and dτ/dt where every row has its own time ``t`` (B,): in plain PyTorch, differentiable."""
    width, depth, _, time = shape
    if time != _SINUSOIDAL:
        return None, None
    theta = theta if potential < 0 else theta[potential : potential + 1]
    return reference.conditioning(t, theta, NetworkShape(dim, width, depth, time_embedding="sinusoidal"))


def _fold(inputs: Inputs, in_dims: tuple[Any, ...], size: int) -> Inputs:
    """Mapped rows become rows: (N, B, D) → (N·B, D), and so for all that belongs to a row.

    Raises:
        NotImplementedError: where parameters are mapped; a bank's K potentials are the engine's own batch of networks.
            So too where the moments of a path are mapped.
    """
    dims: Any = Inputs(*in_dims)
    if dims.theta is not None or dims.force_theta is not None:
        raise NotImplementedError(
            "vmap over a bank's parameters is not supported by the native backends; use one PotentialBank with "
            "num_potentials networks and an index per row, or backend='reference'"
        )
    conditioned = any(x is not None for x in (dims.t, dims.tau, dims.dtau, dims.force_tau))
    if inputs.substeps and conditioned:
        raise NotImplementedError(
            "vmap over the times of a path is not supported by the native backends; use backend='reference'"
        )
    rows = inputs.z.shape[0 if dims.z is None else (1 if dims.z == 0 else 0)]
    own_tangent = inputs.tangent is not None and inputs.tangent.dim() - (dims.tangent is not None) == 2
    shared = bool(inputs.substeps) or (not conditioned and inputs.t.shape[0] == 1)

    def conditioning(x: Tensor | None, dim: Any) -> Tensor | None:
        if x is None or shared:
            return x
        # (N, K, 1 or B, H) → (K, N·B, H)
        return _front(x, dim, size).expand(-1, -1, rows, -1).movedim(0, 1).flatten(1, 2)

    def rowwise(x: Tensor | None, dim: Any) -> Tensor | None:
        return None if x is None else _front(x, dim, size).flatten(0, 1)

    tangent = inputs.tangent
    if own_tangent:
        tangent = rowwise(tangent, dims.tangent)
    elif tangent is not None and dims.tangent is not None:
        tangent = _front(tangent, dims.tangent, size).repeat_interleave(rows, 0)
    t = inputs.t if shared else _front(inputs.t, dims.t, size).expand(-1, rows).flatten()
    tau, dtau = conditioning(inputs.tau, dims.tau), conditioning(inputs.dtau, dims.dtau)
    force_tau = conditioning(inputs.force_tau, dims.force_tau)
    if not shared:
        # The one time of each element is now a time of each of its rows.
        if tau is None:
            tau, dtau = conditioning_of_rows(t, inputs.theta, inputs.potential, inputs.z.shape[-1], inputs.shape[:4])
        if inputs.force_theta is not None and force_tau is None:
            of_force = (inputs.force_theta, inputs.potential, inputs.z.shape[-1], inputs.shape[4:])
            force_tau = conditioning_of_rows(t, *of_force)[0]
    return inputs._replace(
        z=_front(inputs.z, dims.z, size).flatten(0, 1),
        t=t,
        tau=tau,
        dtau=dtau,
        force_tau=force_tau,
        index=rowwise(inputs.index, dims.index),
        gates=rowwise(inputs.gates, dims.gates),
        tangent=tangent,
    )


def _vmap_field(
    run: Any, size: int, in_dims: tuple[Any, ...], args: tuple[Any, ...]
) -> tuple[Tensors, tuple[Any, ...]]:
    inputs = _fold(Inputs(*args[:_NUM_INPUTS]), in_dims[:_NUM_INPUTS], size)
    u, dt, residual, hvp, row_sum, log_det, motion, tape, packed = run(*inputs, *args[_NUM_INPUTS:])
    at = 1 if inputs.substeps else 0  # where the rows are

    def unfold(x: Tensor) -> Tensor:
        return x.unflatten(at, (size, x.shape[at] // size)) if x.dim() > at else x.expand(size, 0)

    dims = [at, at, *(at if there else 0 for there in (inputs.residual, False, inputs.row_sum, inputs.log_det)), at]
    hvp = hvp.expand(size, 0) if inputs.tangent is None else hvp.unflatten(0, (size, hvp.shape[0] // size))
    outputs = (unfold(u), unfold(dt), unfold(residual), hvp, *(unfold(x) for x in (row_sum, log_det, motion)))
    return (*outputs, tape, packed), (*dims, None, None)


def _vmap_field_op(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Tensors, tuple[Any, ...]]:
    return _vmap_field(torch.ops.ffrl_fast.field, info.batch_size, in_dims, args)


def _vmap_curvature(
    run: Any, size: int, in_dims: tuple[Any, ...], args: tuple[Any, ...]
) -> tuple[Tensors, tuple[int, int]]:
    inputs = _fold(Inputs(*args[:_NUM_INPUTS]), in_dims[:_NUM_INPUTS], size)
    value, sign = run(*inputs, *args[_NUM_INPUTS:])
    return tuple(x.unflatten(0, (size, x.shape[0] // size)) for x in (value, sign)), (0, 0)


def _vmap_curvature_op(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Tensors, tuple[int, int]]:
    return _vmap_curvature(torch.ops.ffrl_fast.curvature, info.batch_size, in_dims, args)


def _each(info: Any, in_dims: tuple[Any, ...], args: tuple[Any, ...]) -> list[list[Any]]:
    """The arguments of every mapped element."""
    return [
        [
            x.select(dim, i) if isinstance(x, Tensor) and dim is not None else x
            for x, dim in zip(args, in_dims, strict=True)
        ]
        for i in range(info.batch_size)
    ]


def _vmap_field_backward_op(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[list[Tensor], list[int]]:
    """One call a mapped element: the gradients of what the rows share (parameters, one time) are asked for by element.

    The tape of the folded forward does not divide by element, so the activations are computed again.
    """
    none = args[0].new_empty(0)
    results = [
        torch.ops.ffrl_fast.field_backward(*picked[:-3], none, none, picked[-1])
        for picked in _each(info, in_dims, args)
    ]
    gradients = [torch.stack(x) for x in zip(*results, strict=True)]
    return gradients, [0] * len(gradients)


def _vmap_hj_loss_op(
    info: Any, in_dims: tuple[Any, ...], *args: Any
) -> tuple[tuple[Tensor, list[Tensor]], tuple[int, list[int]]]:
    values, results = zip(*(torch.ops.ffrl_fast.hj_loss(*picked) for picked in _each(info, in_dims, args)), strict=True)
    gradients = [torch.stack(x) for x in zip(*results, strict=True)]
    return (torch.stack(values), gradients), (0, [0] * len(gradients))


torch.library.register_vmap("ffrl_fast::field", _vmap_field_op, lib=_library)
torch.library.register_vmap("ffrl_fast::field_backward", _vmap_field_backward_op, lib=_library)
torch.library.register_vmap("ffrl_fast::hj_loss", _vmap_hj_loss_op, lib=_library)
torch.library.register_vmap("ffrl_fast::curvature", _vmap_curvature_op, lib=_library)

# ---------------------------------------------------------------------------------------------------------- autograd

_SECOND_ORDER = (
    "the native backends have gradients of first order only, and a gradient of second order was asked for "
    "(backward through a backward); run the forward with backend='reference' for any order"
)


def _apply(function: Any, args: tuple[Any, ...]) -> Any:
    """``function.apply(*args)``.

    Where no function transform needs it, without the step before: that one binds default arguments by
    ``inspect.signature``, at 10 µs a call.
    """
    if _direct(args[0], args[2]):
        return super(torch.autograd.Function, function).apply(*args)
    return function.apply(*args)


def _place(gradients: Sequence[Tensor], wanted: Sequence[bool], length: int) -> list[Tensor | None]:
    """Gradients, only those wanted, at the places of the inputs that they belong to."""
    result: list[Tensor | None] = [None] * length
    left = iter(gradients)
    for place, want in zip(_DIFFERENTIABLE, wanted, strict=False):
        if want:
            result[place] = next(left)
    return result


def _wanted(ctx: Any, inputs: Sequence[Any]) -> list[bool]:
    """Which gradients a backward is asked for."""
    if torch.compiler.is_compiling():
        # A function transform that is compiled does not mark what it differentiates.
        return [inputs[i] is not None for i in _DIFFERENTIABLE]
    return [ctx.needs_input_grad[i] for i in _DIFFERENTIABLE]


class _Field(torch.autograd.Function):
    """``ffrl_fast::field`` with its first-order gradient."""

    @staticmethod
    def forward(*args: Any) -> Tensors:
        return _run("field", args)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensors) -> None:
        *_, motion, tape, packed = output
        path = motion if inputs[_SUBSTEPS] else None
        ctx.save_for_backward(*inputs[:_NUM_TENSORS], path, tape, packed)
        ctx.plain = inputs[_NUM_TENSORS:_NUM_INPUTS]
        ctx.mark_non_differentiable(output[_LOG_DET], tape, packed)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
        *inputs, path, tape, packed = ctx.saved_tensors
        wanted = _wanted(ctx, inputs)
        bars = (*cotangents[:_LOG_DET], cotangents[_LOG_DET + 1])
        if all(x is None for x in bars):
            return (None,) * (_NUM_INPUTS + 1)
        args = (*inputs, *ctx.plain, *bars, path, tape, packed, wanted)
        found = _FieldBackward.apply(*args) if torch.is_grad_enabled() else _run("field_backward", args)
        return tuple(_place(found, wanted, _NUM_INPUTS + 1))

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Tensors, tuple[Any, ...]]:
        return _vmap_field(_Field.apply, info.batch_size, in_dims, args)


class _FirstOrderOnly(torch.autograd.Function):
    """An operator whose own gradient may be asked for but does not exist: that is an error, not silence.

    ``once_differentiable`` would not do: it was seen to drop gradients without a word.
    """

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
        raise RuntimeError(_SECOND_ORDER)


class _FieldBackward(_FirstOrderOnly):
    @staticmethod
    def forward(*args: Any) -> Tensors:
        return tuple(_run("field_backward", args))

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Tensors, tuple[int, ...]]:
        gradients, dims = _vmap_field_backward_op(info, in_dims, *args)
        return tuple(gradients), tuple(dims)


class _HJLoss(torch.autograd.Function):
    """``ffrl_fast::hj_loss``: the gradients come with the value; the backward scales them."""

    @staticmethod
    def forward(*args: Any) -> Tensors:
        value, gradients = _run("hj_loss", args)
        return value, *gradients

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensors) -> None:
        gradients = output[1:]
        # The inputs are kept only to be differentiated a second time, which is an error that must be raised.
        leaves = [x for x in (*inputs[:_NUM_TENSORS], inputs[_NUM_INPUTS]) if x is not None and x.requires_grad]
        ctx.save_for_backward(*gradients, *leaves)
        ctx.count, ctx.wanted = len(gradients), inputs[_NUM_INPUTS + 1]
        ctx.mark_non_differentiable(*gradients)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, value_bar: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
        if value_bar is None:
            return (None,) * (_NUM_INPUTS + 2)
        saved = ctx.saved_tensors
        gradients, leaves = saved[: ctx.count], saved[ctx.count :]
        if torch.is_grad_enabled():
            gradients = _ScaledGradients.apply(value_bar, len(gradients), *gradients, *leaves)
        elif not (_direct(value_bar, value_bar) and value_bar.item() == 1):  # nothing to do for loss.backward()
            gradients = tuple(value_bar * x for x in gradients)
        d_weight = gradients[-1] if ctx.wanted[-1] else None
        return (*_place(gradients, ctx.wanted[:-1], _NUM_INPUTS), d_weight, None)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Tensors, tuple[int, ...]]:
        (value, gradients), (dim, dims) = _vmap_hj_loss_op(info, in_dims, *args)
        return (value, *gradients), (dim, *dims)


class _ScaledGradients(_FirstOrderOnly):
    """The gradients of a loss times its cotangent; takes the inputs only to be a node of their graph."""

    generate_vmap_rule = True

    @staticmethod
    def forward(value_bar: Tensor, count: int, *args: Tensor) -> Tensors:
        return tuple(value_bar * x for x in args[:count])


def _curvature_gradients(*args: Any) -> list[Tensor]:
    """⟨bar, dvalue⟩ for each input that is wanted: by the reference, a block of rows at a time."""
    inputs, (what, scale, bar, wanted) = Inputs(*args[:_NUM_INPUTS]), args[_NUM_INPUTS:]
    rows, dim = inputs.z.shape
    shape = NetworkShape.from_native(dim, inputs.shape)
    places = [place for place, want in zip(_DIFFERENTIABLE, wanted, strict=True) if want]
    tensors: Any = list(inputs[:_NUM_TENSORS])
    for place in places:
        tensors[place] = tensors[place].detach().requires_grad_()
    totals = [torch.zeros_like(tensors[place]) for place in places]
    # The reference holds about six arrays of B·H·D for each potential.
    each = 6 * inputs.theta.shape[0] * max(shape.width, dim) * dim * inputs.z.itemsize
    size = max(1, _HESSIAN_BYTES // each)
    identity = torch.eye(dim, dtype=inputs.z.dtype)
    for start in range(0, rows, size):
        at = slice(start, start + size)
        with torch.enable_grad():
            i = _rows(Inputs(*tensors, *inputs[_NUM_TENSORS:]), at)
            tau = i.tau
            if tau is None:
                theta = i.theta if i.potential < 0 else i.theta[i.potential : i.potential + 1]
                tau = reference.conditioning(i.t, theta, shape)[0]
            found = reference.hessian(i.z, i.theta, shape, tau, potential=i.potential, index=i.index, gates=i.gates)
            if what == HESSIAN:
                direction = bar[at]
            elif what == LAPLACIAN:
                direction = bar[at, None, None] * identity
            else:
                # d log|det M| = ⟨M⁻¹, dM⟩; of a singular M the gradient is not finite, and no error.
                inverse = torch.linalg.inv_ex(identity + scale * found.detach()).inverse
                direction = scale * bar[at, None, None] * inverse
            parts = torch.autograd.grad(
                (found * direction).sum(), [tensors[place] for place in places], allow_unused=True
            )
        for total, part in zip(totals, parts, strict=True):
            if part is not None:
                total += part
    return totals


class _Curvature(torch.autograd.Function):
    """``ffrl_fast::curvature`` with its first-order gradient."""

    @staticmethod
    def forward(*args: Any) -> Tensors:
        return _run("curvature", args)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensors) -> None:
        ctx.save_for_backward(*inputs[:_NUM_TENSORS])
        ctx.plain = inputs[_NUM_TENSORS:]
        ctx.mark_non_differentiable(output[1])
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, bar: Tensor | None, _: Tensor | None) -> tuple[Tensor | None, ...]:
        length = _NUM_INPUTS + 2
        if bar is None:
            return (None,) * length
        wanted = _wanted(ctx, ctx.saved_tensors)
        args = (*ctx.saved_tensors, *ctx.plain, bar, wanted)
        found = _CurvatureBackward.apply(*args) if torch.is_grad_enabled() else _curvature_gradients(*args)
        return tuple(_place(found, wanted, length))

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Tensors, tuple[int, int]]:
        return _vmap_curvature(_Curvature.apply, info.batch_size, in_dims, args)


class _CurvatureBackward(_FirstOrderOnly):
    @staticmethod
    def forward(*args: Any) -> Tensors:
        return tuple(_curvature_gradients(*args))


# An operator reached without its Function, as under a compiled function transform where nothing else requires a
# gradient, must not have a silent gradient of zero.
for _name, _function in (
    ("field", _Field),
    ("field_backward", _FieldBackward),
    ("curvature", _Curvature),
):
    torch.library.register_autograd(
        f"ffrl_fast::{_name}", _function.backward, setup_context=_function.setup_context, lib=_library
    )


# -------------------------------------------------------------------------------------------------------- entry points


class Evaluated(NamedTuple):
    """u, ∂_t u, the residual and the row sum, (B,) or (steps, B); ∇²u · tangent (B, D); ∇u (B, D) or the path."""

    u: Tensor
    dt: Tensor
    residual: Tensor
    hvp: Tensor
    row_sum: Tensor
    log_det: Tensor
    motion: Tensor


def _requires_grad(inputs: Inputs) -> list[bool]:
    if not torch.is_grad_enabled():
        return [False] * len(_DIFFERENTIABLE)
    found = [isinstance(x := inputs[i], Tensor) and x.requires_grad for i in _DIFFERENTIABLE]
    if torch.compiler.is_compiling() and any(found):
        # A function transform that is compiled does not mark what it differentiates.
        return [isinstance(inputs[i], Tensor) for i in _DIFFERENTIABLE]
    return found


def evaluate(inputs: Inputs) -> Evaluated:
    """The field at one moment, or the path through N."""
    if any(_requires_grad(inputs)):
        return Evaluated(*_apply(_Field, (*inputs, True))[:7])
    return Evaluated(*_run("field", (*inputs, False))[:7])


def curvature(inputs: Inputs, what: int, scale: float) -> Tensors:
    """The Hessian (B, D, D), the Laplacian (B,), or log|det(I + scale ∇²u)| (B,) and the determinant's sign."""
    args = (*inputs, what, scale)
    value, sign = _apply(_Curvature, args) if any(_requires_grad(inputs)) else _run("curvature", args)
    return value, sign


def hj_loss(inputs: Inputs, weight: Tensor | None) -> Tensor:
    """mean over rows of weight · residual², () ; its gradients, where any is needed, from the same sweep."""
    wanted = _requires_grad(inputs)
    wanted.append(weight is not None and weight.requires_grad and torch.is_grad_enabled())
    if any(wanted):
        return _apply(_HJLoss, (*inputs, weight, wanted))[0]
    square = evaluate(inputs).residual.square()
    return square.mean() if weight is None else (weight * square).mean()


def hj_value_and_grad(inputs: Inputs, weight: Tensor | None) -> tuple[Tensor, HJGradients]:
    """Value and gradients without autograd, by one direct call into the engine; times that all rows share."""
    z, theta, force_theta, gates = inputs.z, inputs.theta, inputs.force_theta, inputs.gates
    value, d_z, d_theta = z.new_empty(()), _empty_like(z), _empty_like(theta)
    d_force = None if force_theta is None else _empty_like(force_theta)
    d_gates = None if gates is None else torch.zeros(gates.shape, dtype=z.dtype)
    _run_loss(inputs, weight, value, [d_z, None, d_theta, None, None, d_force, None, d_gates, None])
    return value, HJGradients(d_z, d_theta, d_force, d_gates)
