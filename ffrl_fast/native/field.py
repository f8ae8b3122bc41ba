"""``ffrl_fast::field``: the field of the potentials at one moment or the path of the rows along it; its gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ffrl_fast.native.dispatch import (
    FirstOrderOnly,
    apply_function,
    place_gradients,
    register,
    register_autograd,
    register_vmap,
    run_operator,
    wanted_gradients,
    which_require_grad,
)
from ffrl_fast.native.problem import (
    ENTRIES,
    INPUTS,
    NUM_INPUTS,
    NUM_TENSORS,
    Empty,
    Inputs,
    Tensors,
    address,
    addresses,
    contiguous,
    empty_gradients,
    fake_empty_like,
    fake_room,
    kept_sizes,
    native_problem,
    only,
    room,
)
from ffrl_fast.native.vmap import each_element, fold

#: The activations of a path are kept for as many of its last moments as fit into so many bytes; those of the others
#: are computed again in the backward sweep. Reading them back costs a tenth of that, but memory is not free.
TAPE_LIMIT = 160 * 2**20
_LOG_DET, _SUBSTEPS = 5, 15  # the places among the outputs and among the inputs


def _empty_outputs(inputs: Inputs, keep: bool, room: Callable[[Tensor, int], Empty] = room) -> Tensors:
    """Outputs of ``field``, not filled."""
    z, moments = inputs.z, inputs.moments
    rows, dim = z.shape
    new = room(z, (moments + 1) * rows * dim)
    steps = (moments // inputs.substeps,) if inputs.substeps else ()
    of_moment, packed = kept_sizes(inputs) if keep else (0, 0)
    taped = moments if keep else 0
    if inputs.substeps and isinstance(of_moment, int) and of_moment:
        # A size that is not known while tracing counts as small.
        taped = min(moments, TAPE_LIMIT // (of_moment * z.itemsize))
    return (
        new(*steps, rows),
        new(*steps, rows),
        new(*steps, rows) if inputs.residual else new(0),
        new(rows, dim) if inputs.tangent is not None else new(0),
        new(*steps, rows) if inputs.row_sum else new(0),
        new(*steps, rows) if inputs.log_det else new(0),
        new(moments + 1, rows, dim) if inputs.substeps else new(rows, dim),
        room(z, of_moment * taped)(of_moment * taped),
        room(z, packed)(packed),
    )


def _taped(inputs: Inputs, tape: Tensor) -> int:
    """How many moments a tape holds."""
    size = tape.numel()
    return 0 if size == 0 else size // kept_sizes(inputs)[0] if inputs.substeps else 1


def _field_cpu(*args: Any) -> Tensors:
    inputs, keep = Inputs(*args[:NUM_INPUTS]), args[NUM_INPUTS]
    outputs = _empty_outputs(inputs, keep)
    u, dt, residual, hvp, row_sum, log_det, motion, tape, packed = (address(x) for x in outputs)
    taped = _taped(inputs, outputs[-2])
    if inputs.z.shape[0] == 0:
        return outputs
    if inputs.moments == 0:
        outputs[6].copy_(inputs.z[None])
        return outputs
    grad, path = (0, motion) if inputs.substeps else (motion, 0)
    call, potential, force, _alive = native_problem(inputs)
    to = (u, dt, residual, hvp, row_sum, log_det, grad, path, tape, taped, packed)
    ENTRIES["forward", inputs.z.dtype](call, potential, force, to)
    return outputs


def _field_backward_cpu(*args: Any) -> list[Tensor]:
    inputs = Inputs(*args[:NUM_INPUTS])
    *bars, path, tape, packed, wanted = args[NUM_INPUTS:]
    gradients = empty_gradients(inputs, wanted)
    if inputs.z.shape[0] == 0 or inputs.moments == 0:
        for gradient in only(gradients):
            gradient.zero_()
        if inputs.moments == 0 and gradients[0] is not None and bars[-1] is not None:
            gradients[0].copy_(bars[-1][0])
        return only(gradients)
    bars = [contiguous(x) for x in bars]
    u, dt, residual, hvp, row_sum, motion = (address(x) for x in bars)
    grad, path_bar = (0, motion) if inputs.substeps else (motion, 0)
    call, potential, force, _alive = native_problem(inputs)
    ENTRIES["backward", inputs.z.dtype](
        call,
        potential,
        force,
        (address(path), address(tape), _taped(inputs, tape), address(packed)),
        (u, dt, residual, hvp, row_sum, grad, path_bar),
        addresses(gradients),
    )
    return only(gradients)


def _field_fake(*args: Any) -> Tensors:
    return _empty_outputs(Inputs(*args[:NUM_INPUTS]), args[NUM_INPUTS], fake_room)


def _field_backward_fake(*args: Any) -> list[Tensor]:
    return only(empty_gradients(Inputs(*args[:NUM_INPUTS]), args[-1], fake_empty_like))


def _vmap_field(
    run: Any, size: int, in_dims: tuple[Any, ...], args: tuple[Any, ...]
) -> tuple[Tensors, tuple[Any, ...]]:
    inputs = fold(Inputs(*args[:NUM_INPUTS]), in_dims[:NUM_INPUTS], size)
    u, dt, residual, hvp, row_sum, log_det, motion, tape, packed = run(*inputs, *args[NUM_INPUTS:])
    at = 1 if inputs.substeps else 0  # where the rows are

    def unfold(x: Tensor) -> Tensor:
        return x.unflatten(at, (size, x.shape[at] // size)) if x.dim() > at else x.expand(size, 0)

    dims = [at, at, *(at if there else 0 for there in (inputs.residual, False, inputs.row_sum, inputs.log_det)), at]
    hvp = hvp.expand(size, 0) if inputs.tangent is None else hvp.unflatten(0, (size, hvp.shape[0] // size))
    outputs = (unfold(u), unfold(dt), unfold(residual), hvp, *(unfold(x) for x in (row_sum, log_det, motion)))
    return (*outputs, tape, packed), (*dims, None, None)


def _vmap_field_op(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Tensors, tuple[Any, ...]]:
    return _vmap_field(torch.ops.ffrl_fast.field, info.batch_size, in_dims, args)


def _vmap_field_backward_op(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[list[Tensor], list[int]]:
    """One call a mapped element: the gradients of what the rows share (parameters, one time) are asked for by element.

    The tape of the folded forward does not divide by element, so the activations are computed again.
    """
    none = args[0].new_empty(0)
    results = [
        torch.ops.ffrl_fast.field_backward(*picked[:-3], none, none, picked[-1])
        for picked in each_element(info, in_dims, args)
    ]
    gradients = [torch.stack(x) for x in zip(*results, strict=True)]
    return gradients, [0] * len(gradients)


register(
    "field",
    f"({INPUTS}, bool keep) -> (Tensor u, Tensor dt, Tensor residual, Tensor hvp, Tensor row_sum, Tensor log_det, "
    "Tensor motion, Tensor tape, Tensor packed)",
    _field_cpu,
    _field_fake,
)
register(
    "field_backward",
    f"({INPUTS}, Tensor? u_bar, Tensor? dt_bar, Tensor? residual_bar, Tensor? hvp_bar, Tensor? row_sum_bar, "
    "Tensor? motion_bar, Tensor? path, Tensor tape, Tensor packed, bool[] wanted) -> Tensor[] gradients",
    _field_backward_cpu,
    _field_backward_fake,
)
register_vmap("field", _vmap_field_op)
register_vmap("field_backward", _vmap_field_backward_op)


class _Field(torch.autograd.Function):
    """``ffrl_fast::field`` with its first-order gradient."""

    @staticmethod
    def forward(*args: Any) -> Tensors:
        return run_operator("field", args)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensors) -> None:
        *_, motion, tape, packed = output
        path = motion if inputs[_SUBSTEPS] else None
        ctx.save_for_backward(*inputs[:NUM_TENSORS], path, tape, packed)
        ctx.plain = inputs[NUM_TENSORS:NUM_INPUTS]
        ctx.mark_non_differentiable(output[_LOG_DET], tape, packed)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
        *inputs, path, tape, packed = ctx.saved_tensors
        wanted = wanted_gradients(ctx, inputs)
        bars = (*cotangents[:_LOG_DET], cotangents[_LOG_DET + 1])
        if all(x is None for x in bars):
            return (None,) * (NUM_INPUTS + 1)
        args = (*inputs, *ctx.plain, *bars, path, tape, packed, wanted)
        found = _FieldBackward.apply(*args) if torch.is_grad_enabled() else run_operator("field_backward", args)
        return tuple(place_gradients(found, wanted, NUM_INPUTS + 1))

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Tensors, tuple[Any, ...]]:
        return _vmap_field(_Field.apply, info.batch_size, in_dims, args)


class _FieldBackward(FirstOrderOnly):
    @staticmethod
    def forward(*args: Any) -> Tensors:
        return tuple(run_operator("field_backward", args))

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *args: Any) -> tuple[Tensors, tuple[int, ...]]:
        gradients, dims = _vmap_field_backward_op(info, in_dims, *args)
        return tuple(gradients), tuple(dims)


register_autograd("field", _Field)
register_autograd("field_backward", _FieldBackward)


class Evaluated(NamedTuple):
    """u, ∂_t u, the residual and the row sum, (B,) or (steps, B); ∇²u · tangent (B, D); ∇u (B, D) or the path."""

    u: Tensor
    dt: Tensor
    residual: Tensor
    hvp: Tensor
    row_sum: Tensor
    log_det: Tensor
    motion: Tensor


def evaluate(inputs: Inputs) -> Evaluated:
    """The field at one moment, or the path through N."""
    if any(which_require_grad(inputs)):
        return Evaluated(*apply_function(_Field, (*inputs, True))[:7])
    return Evaluated(*run_operator("field", (*inputs, False))[:7])
