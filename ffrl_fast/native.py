"""The native operators as torch operators: registration, autograd, vmap.

Two operators, ``ffrl_fast::field`` and ``ffrl_fast::field_backward``, are registered with ``torch.library``, each with
a fake implementation (for ``torch.compile``) and a vmap rule. They have no autograd of their own: :class:`_Field`, a
``torch.autograd.Function`` around them, supplies it at a third of the cost of ``torch.library.register_autograd``.

The backward of the backward is not native. It raises an error that says so; a silent zero or a detached gradient would
be worse than none.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ffrl_fast import _core
from ffrl_fast.backends.interface import Call, Result

Tensors = tuple[Tensor, ...]

_INPUTS = (
    "Tensor z, Tensor t, Tensor theta, Tensor? tau, Tensor? dtau, Tensor? force_theta, Tensor? force_tau, "
    "Tensor? index, Tensor? gates, int potential, int[] shape, bool residual"
)
_library = torch.library.Library("ffrl_fast", "DEF")
_library.define(
    f"field({_INPUTS}, bool keep) -> (Tensor u, Tensor dt, Tensor grad, Tensor residual, Tensor force, Tensor tape)"
)
_library.define(
    f"field_backward({_INPUTS}, Tensor? u_bar, Tensor? dt_bar, Tensor? grad_bar, Tensor? residual_bar, "
    "Tensor grad, Tensor force, Tensor tape, bool[] wanted) -> "
    "(Tensor z, Tensor t, Tensor theta, Tensor tau, Tensor dtau, Tensor force_theta, Tensor force_tau, Tensor gates)"
)
# The inputs that have gradients, in the order of field_backward's outputs, by their place among the inputs.
_DIFFERENTIABLE = {"z": 0, "t": 1, "theta": 2, "tau": 3, "dtau": 4, "force_theta": 5, "force_tau": 6, "gates": 8}
_NUM_INPUTS = 12


def _padded(n: int, dtype: torch.dtype) -> int:
    line = 64 // dtype.itemsize
    return (n + line - 1) // line * line


def tape_row(width: int, depth: int, derivatives: bool, dtype: torch.dtype) -> int:
    """Elements of the activations kept for one row of one network; csrc/core/problem.hpp states the same."""
    return _padded(width, dtype) * (1 + depth * (2 if derivatives else 1))


# ---------------------------------------------------------------------------------------------------- calls into C++


def _address(x: Tensor | None) -> int:
    return 0 if x is None or x.numel() == 0 else x.data_ptr()


def _contiguous(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.contiguous()


def _rows(z: Tensor) -> Tensor:
    """z with unit stride along its rows, copied only where it must be."""
    return z if z.stride(1) == 1 or z.shape[1] == 1 else z.contiguous()


def _network(theta: Tensor, tau: Tensor | None, dtau: Tensor | None, dim: int, shape: list[int]) -> tuple[int, ...]:
    conditioned = tau.shape[0] if tau is not None else 1
    return (_address(theta), _address(tau), _address(dtau), theta.shape[1], conditioned, dim, *shape)


def _describe(
    z: Tensor,
    t: Tensor,
    theta: Tensor,
    tau: Tensor | None,
    dtau: Tensor | None,
    force_theta: Tensor | None,
    force_tau: Tensor | None,
    index: Tensor | None,
    gates: Tensor | None,
    potential: int,
    shape: list[int],
    residual: bool,
) -> tuple[tuple[Any, ...], tuple[Any, ...], tuple[int, ...] | None, list[Tensor | None]]:
    """The problem as csrc/bindings/module.cpp takes it, and the tensors that must outlive the call."""
    z, t, theta = _rows(z), t.contiguous(), theta.contiguous()
    tau, dtau, index, gates = _contiguous(tau), _contiguous(dtau), _contiguous(index), _contiguous(gates)
    force_theta, force_tau = _contiguous(force_theta), _contiguous(force_tau)
    rows, dim = z.shape
    call = (
        torch.get_num_threads(),
        rows,
        theta.shape[0],
        t.shape[0],
        _address(z),
        z.stride(0),
        _address(t),
        potential,
        _address(index),
        _address(gates),
        residual,
    )
    network = _network(theta, tau, dtau, dim, shape[:4])
    force = None if force_theta is None else _network(force_theta, force_tau, None, dim, shape[4:])
    return call, network, force, [z, t, theta, tau, dtau, force_theta, force_tau, index, gates]


def _empty_outputs(inputs: tuple[Any, ...], keep: bool) -> Tensors:
    """Outputs of ``field``, not filled."""
    z, theta, force_theta, gates, shape, residual = inputs[0], inputs[2], inputs[5], inputs[8], inputs[10], inputs[11]
    rows, dim = z.shape
    per_row = tape_row(shape[0], shape[1], True, z.dtype) + 1
    if force_theta is not None:
        per_row += tape_row(shape[4], shape[5], False, z.dtype) + 1
    return (
        z.new_empty(rows),
        z.new_empty(rows),
        z.new_empty(rows, dim),
        z.new_empty(rows if residual else 0),
        z.new_empty(rows if residual and force_theta is not None else 0),
        z.new_empty(rows * (theta.shape[0] if gates is not None else 1) * per_row if keep else 0),
    )


def _field_cpu(*args: Any) -> Tensors:
    inputs, keep = args[:_NUM_INPUTS], args[_NUM_INPUTS]
    outputs = _empty_outputs(inputs, keep)
    if inputs[0].shape[0] == 0:
        return outputs
    call, network, force, alive = _describe(*inputs)
    native = _core.forward_f32 if inputs[0].dtype == torch.float32 else _core.forward_f64
    native(call, network, force, *(_address(x) for x in outputs))
    del alive
    return outputs


def _empty_gradients(inputs: tuple[Any, ...], wanted: list[bool]) -> Tensors:
    """Outputs of ``field_backward``: an empty tensor for what is not wanted."""
    like = [inputs[i] for i in _DIFFERENTIABLE.values()]
    return tuple(
        torch.empty_like(x, memory_format=torch.contiguous_format) if want else inputs[0].new_empty(0)
        for x, want in zip(like, wanted, strict=True)
    )


def _field_backward_cpu(*args: Any) -> Tensors:
    inputs = args[:_NUM_INPUTS]
    *cotangents, grad, force_value, tape, wanted = args[_NUM_INPUTS:]
    gradients = _empty_gradients(inputs, wanted)
    call, network, force, alive = _describe(*inputs)
    per_row_time = inputs[1].shape[0] > 1
    if inputs[0].shape[0] == 0:
        for gradient in gradients:
            gradient.zero_()
        return gradients
    if per_row_time:
        # Each row reaches the conditioning of its own potential only; the engine writes those places and no other.
        for name in ("tau", "dtau", "force_tau"):
            gradients[list(_DIFFERENTIABLE).index(name)].zero_()
    if cotangents[1] is None and cotangents[2] is None and cotangents[3] is None:
        gradients[list(_DIFFERENTIABLE).index("dtau")].zero_()
    if cotangents[3] is None:
        for name in ("force_theta", "force_tau"):
            gradients[list(_DIFFERENTIABLE).index(name)].zero_()
    cotangents = [_contiguous(x) for x in cotangents]
    native = _core.backward_f32 if inputs[0].dtype == torch.float32 else _core.backward_f64
    native(
        call,
        network,
        force,
        (_address(grad), _address(force_value), _address(tape)),
        tuple(_address(x) for x in cotangents),
        tuple(_address(x) for x in gradients),
    )
    del alive
    return gradients


def _field_fake(*args: Any) -> Tensors:
    return _empty_outputs(args[:_NUM_INPUTS], args[_NUM_INPUTS])


def _field_backward_fake(*args: Any) -> Tensors:
    return _empty_gradients(args[:_NUM_INPUTS], args[-1])


_library.impl("field", _field_cpu, "CPU")
_library.impl("field_backward", _field_backward_cpu, "CPU")
torch.library.register_fake("ffrl_fast::field", _field_fake, lib=_library)
torch.library.register_fake("ffrl_fast::field_backward", _field_backward_fake, lib=_library)

# -------------------------------------------------------------------------------------------------------------- vmap


def _front(x: Tensor, dim: int | None, size: int) -> Tensor:
    """x with the mapped dimension first; repeated along it where it was not mapped."""
    return x.movedim(dim, 0) if dim is not None else x.expand(size, *x.shape)


def _fold(inputs: tuple[Any, ...], in_dims: tuple[Any, ...], size: int) -> list[Any]:
    """Mapped rows become rows: (N, B, D) → (N·B, D), and so for all that belongs to a row.

    Raises:
        NotImplementedError: where parameters are mapped; a bank's K potentials are the engine's own batch of networks.
    """
    z, t, theta, tau, dtau, force_theta, force_tau, index, gates, *rest = inputs
    z_dim, t_dim, theta_dim, tau_dim, dtau_dim, force_dim, force_tau_dim, index_dim, gates_dim = in_dims[:9]
    if theta_dim is not None or force_dim is not None:
        raise NotImplementedError(
            "vmap over a bank's parameters is not supported by the native backends; use one PotentialBank with "
            "num_potentials networks and an index per row, or backend='reference'"
        )
    rows = z.shape[0 if z_dim is None else (1 if z_dim == 0 else 0)]
    shared_time = t_dim is None and t.shape[0] == 1 and tau_dim is None and dtau_dim is None and force_tau_dim is None

    def conditioning(x: Tensor | None, dim: int | None) -> Tensor | None:
        if x is None or shared_time:
            return x
        front = _front(x, dim, size)  # (N, K, 1 or B, H)
        return front.expand(-1, -1, rows, -1).movedim(0, 1).flatten(1, 2)

    def rowwise(x: Tensor | None, dim: int | None) -> Tensor | None:
        return None if x is None else _front(x, dim, size).flatten(0, 1)

    if not shared_time:
        t = _front(t, t_dim, size).expand(-1, rows).flatten()
    return [
        rowwise(z, z_dim),
        t,
        theta,
        conditioning(tau, tau_dim),
        conditioning(dtau, dtau_dim),
        force_theta,
        conditioning(force_tau, force_tau_dim),
        rowwise(index, index_dim),
        rowwise(gates, gates_dim),
        *rest,
    ]


def _vmap_field(
    run: Callable[..., Tensors], size: int, in_dims: tuple[Any, ...], args: tuple[Any, ...]
) -> tuple[Tensors, tuple[int | None, ...]]:
    folded = _fold(args[:_NUM_INPUTS], in_dims, size)
    *rows, tape = run(*folded, *args[_NUM_INPUTS:])
    return (*(x.unflatten(0, (size, x.shape[0] // size)) for x in rows), tape), (0,) * len(rows) + (None,)


def _vmap_field_op(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Tensors, tuple[int | None, ...]]:
    return _vmap_field(torch.ops.ffrl_fast.field, info.batch_size, in_dims, args)


def _vmap_field_backward_op(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Tensors, tuple[int, ...]]:
    """One call a mapped element: the gradients of what the rows share (parameters, one time) are asked for by element.

    The tape of the folded forward does not divide by element, so the activations are computed again.
    """
    size = info.batch_size
    wanted = args[-1]
    tape = args[0].new_empty(0)
    per_element = []
    for i in range(size):
        picked = [
            x.select(dim, i) if isinstance(x, Tensor) and dim is not None else x
            for x, dim in zip(args, in_dims, strict=True)
        ]
        picked[-2], picked[-1] = tape, wanted
        per_element.append(torch.ops.ffrl_fast.field_backward(*picked))
    return tuple(torch.stack(x) for x in zip(*per_element, strict=True)), (0,) * len(wanted)


torch.library.register_vmap("ffrl_fast::field", _vmap_field_op, lib=_library)
torch.library.register_vmap("ffrl_fast::field_backward", _vmap_field_backward_op, lib=_library)

# ---------------------------------------------------------------------------------------------------------- autograd


class _Field(torch.autograd.Function):
    """``ffrl_fast::field`` with its first-order gradient."""

    @staticmethod
    def forward(*args: Any) -> Tensors:
        return torch.ops.ffrl_fast.field(*args)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensors) -> None:
        _, _, grad, _, force, tape = output
        ctx.save_for_backward(*inputs[:9], grad, force, tape)
        ctx.plain = inputs[9:_NUM_INPUTS]
        ctx.mark_non_differentiable(force, tape)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
        *inputs, grad, force, tape = ctx.saved_tensors
        wanted = [ctx.needs_input_grad[i] for i in _DIFFERENTIABLE.values()]
        bars = cotangents[:4]
        none = (None,) * (_NUM_INPUTS + 1)
        if all(x is None for x in bars):
            return none
        args = (*inputs, *ctx.plain, *bars, grad, force, tape, wanted)
        gradients = _SecondOrder.apply(*args) if torch.is_grad_enabled() else torch.ops.ffrl_fast.field_backward(*args)
        result: list[Tensor | None] = list(none)
        for place, gradient, want in zip(_DIFFERENTIABLE.values(), gradients, wanted, strict=True):
            if want:
                result[place] = gradient
        return tuple(result)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Tensors, tuple[int | None, ...]]:
        return _vmap_field(_Field.apply, info.batch_size, in_dims, args)


class _SecondOrder(torch.autograd.Function):
    """The backward operator where its own gradient may be asked for: that is an error, not silence.

    ``once_differentiable`` would not do: it was seen to drop gradients without a word.
    """

    @staticmethod
    def forward(*args: Any) -> Tensors:
        return torch.ops.ffrl_fast.field_backward(*args)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensors) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
        raise RuntimeError(
            "the native backends have gradients of first order only, and a gradient of second order was asked for "
            "(backward through a backward); run the forward with backend='reference' for any order"
        )

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Tensors, tuple[int, ...]]:
        return _vmap_field_backward_op(info, in_dims, *args)


def run(call: Call) -> Result:
    """Evaluates one checked call through the native operators of its device."""
    bank, force, selection = call.bank, call.force, call.selection
    tau, dtau = call.conditioning(bank)
    shape = list(bank.shape.native)
    force_theta = force_tau = None
    if force is not None:
        force_theta, force_tau = force.theta, call.conditioning(force)[0]
        shape += force.shape.native
    inputs = (
        call.z,
        call.t,
        bank.theta,
        tau,
        dtau,
        force_theta,
        force_tau,
        selection.index,
        selection.gates,
        selection.potential,
        shape,
        call.with_residual,
    )
    differentiable = torch.is_grad_enabled() and any(
        isinstance(x, Tensor) and x.requires_grad for x in (inputs[i] for i in _DIFFERENTIABLE.values())
    )
    run_field = _Field.apply if differentiable else torch.ops.ffrl_fast.field
    u, dt, grad, residual, force_value, _ = run_field(*inputs, differentiable)
    return Result(
        u,
        dt,
        grad,
        residual=residual if call.with_residual else None,
        force=force_value if call.with_residual and force is not None else None,
    )
