"""``ffrl_fast::field``: the field of the potentials at one moment or the path of the rows along it; its gradient."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ffrl_fast.native import nodes
from ffrl_fast.native.dispatch import (
    FirstOrderOnly,
    apply_function,
    check_cotangents,
    direct_apply,
    in_forward_mode,
    in_transform,
    is_direct,
    needs_function,
    place_gradients,
    register,
    register_autograd,
    register_vmap,
    run_operator,
    wanted_gradients,
    which_require_grad,
)
from ffrl_fast.native.plan import (
    Extent,
    Plan,
    check_unpacked,
    extent,
    fits,
    layout_of,
    moments_on_tape,
    numbers,
    prepare,
    prepare_direct,
)
from ffrl_fast.native.problem import (
    DIFFERENTIABLE,
    INPUTS,
    KEPT_LAYOUT,
    NUM_INPUTS,
    NUM_TENSORS,
    Empty,
    Given,
    Inputs,
    Tensors,
    address,
    addresses,
    contiguous,
    empty_gradients,
    fake_empty_like,
    fake_room,
    only,
    room,
)
from ffrl_fast.native.vmap import each_element, fold, rows_of_each

_LOG_DET, _MOTION = 5, 6  # places among the outputs
_SUBSTEPS = 15  # the place among the inputs


def _empty_outputs(
    of: Extent, like: Tensor, keep: bool, room: Callable[[Tensor, int], Empty] = room
) -> tuple[Tensor | None, ...]:
    """Outputs of ``field``, not filled; None where not asked for."""
    rows, dim, moments, substeps, residual, tangent, row_sum, log_det, of_moment, packed = of
    new = room(like, (moments + 1) * rows * dim)
    steps = (moments // substeps,) if substeps else ()
    taped = moments_on_tape(of, like.itemsize) if keep else 0
    return (
        new(*steps, rows),
        new(*steps, rows),
        new(*steps, rows) if residual else None,
        new(rows, dim) if tangent else None,
        new(*steps, rows) if row_sum else None,
        new(*steps, rows) if log_det else None,
        new(moments + 1, rows, dim) if substeps else new(rows, dim),
        room(like, of_moment * taped)(of_moment * taped) if keep else None,
        room(like, packed)(packed) if keep else None,
    )


def _taped(of: Extent, tape: Tensor | None) -> int:
    """How many moments a tape holds."""
    size = 0 if tape is None else tape.numel()
    return 0 if size == 0 else size // of.tape if of.substeps else 1


def _run_field(plan: Plan, given: Given, keep: bool) -> tuple[Tensor | None, ...]:
    """The outputs of ``field``, filled; None where not asked for."""
    of = plan.extent
    outputs = _empty_outputs(of, given[0], keep)
    if of.rows == 0:
        return outputs
    if of.moments == 0:
        path = outputs[_MOTION]
        assert path is not None
        path.copy_(given[0][None])
        return outputs
    u, dt, residual, hvp, row_sum, log_det, motion, tape, packed = addresses(outputs)
    grad, path_to = (0, motion) if of.substeps else (motion, 0)
    taped = _taped(of, outputs[-2])
    to = (u, dt, residual, hvp, row_sum, log_det, grad, path_to, tape, taped, packed)
    plan.forward(plan.sizes, numbers(given), to)
    return outputs


def _run_field_backward(
    plan: Plan,
    given: Given,
    cotangents: tuple[Tensor | None, ...],
    path: Tensor | None,
    tape: Tensor,
    packed: Tensor,
    wanted: list[bool],
) -> list[Tensor]:
    """The gradients that are wanted."""
    of = plan.extent
    gradients = empty_gradients(given, plan.row_times, wanted)
    if of.rows == 0 or of.moments == 0:
        for gradient in only(gradients):
            gradient.zero_()
        if of.moments == 0 and gradients[0] is not None and cotangents[-1] is not None:
            gradients[0].copy_(cotangents[-1][0])
        return only(gradients)
    bars = [contiguous(x) for x in cotangents]
    # Hooks may have moved what was saved.
    from_path, from_tape, from_packed = [contiguous(x) for x in (path, tape, packed)]
    u, dt, residual, hvp, row_sum, motion = addresses(bars)
    grad, path_bar = (0, motion) if of.substeps else (motion, 0)
    plan.backward(
        plan.sizes,
        numbers(given),
        (address(from_path), address(from_tape), _taped(of, from_tape), address(from_packed)),
        (u, dt, residual, hvp, row_sum, grad, path_bar),
        addresses(gradients),
    )
    return only(gradients)


def _given(z: Tensor, outputs: tuple[Tensor | None, ...]) -> Tensors:
    """What an operator of torch returns: an empty tensor for what was not asked for."""
    return tuple([z.new_empty(0) if x is None else x for x in outputs])


def _field_cpu(*args: Any) -> Tensors:
    return _given(args[0], _run_field(*prepare(Inputs(*args[:NUM_INPUTS])), args[NUM_INPUTS] != 0))


def _field_backward_cpu(*args: Any) -> list[Tensor]:
    *bars, path, tape, packed, wanted = args[NUM_INPUTS:]
    return _run_field_backward(*prepare(Inputs(*args[:NUM_INPUTS])), tuple(bars), path, tape, packed, wanted)


def _field_fake(*args: Any) -> Tensors:
    return _given(
        args[0], _empty_outputs(extent(Inputs(*args[:NUM_INPUTS])), args[0], args[NUM_INPUTS] != 0, fake_room)
    )


def _field_backward_fake(*args: Any) -> list[Tensor]:
    inputs = Inputs(*args[:NUM_INPUTS])
    return only(empty_gradients(inputs.tensors, inputs.row_times, args[-1], fake_empty_like))


def _vmap_field(
    run: Any, size: int, in_dims: tuple[Any, ...], args: tuple[Any, ...]
) -> tuple[Tensors, tuple[Any, ...]]:
    inputs = fold(Inputs(*args[:NUM_INPUTS]), in_dims[:NUM_INPUTS], size)
    u, dt, residual, hvp, row_sum, log_det, motion, tape, packed = run(*inputs, *args[NUM_INPUTS:])
    at = 1 if inputs.substeps else 0  # where the rows are
    rows = rows_of_each(args[0], in_dims[0])

    def unfold(x: Tensor, there: bool = True) -> Tensor:
        return x.unflatten(at, (size, rows)) if there else x.expand(size, 0)

    wanted = (inputs.residual, inputs.row_sum, inputs.log_det)
    residual, row_sum, log_det = map(unfold, (residual, row_sum, log_det), wanted)
    dims = [at, at, *(at if there else 0 for there in (inputs.residual, False, inputs.row_sum, inputs.log_det)), at]
    hvp = hvp.expand(size, 0) if inputs.tangent is None else hvp.unflatten(0, (size, rows))
    outputs = (unfold(u), unfold(dt), residual, hvp, row_sum, log_det, unfold(motion))
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
    f"({INPUTS}, int keep) -> (Tensor u, Tensor dt, Tensor residual, Tensor hvp, Tensor row_sum, Tensor log_det, "
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
        saved = (*inputs[:NUM_TENSORS], path, tape, packed)
        ctx.save_for_backward(*saved)
        ctx.layout = None if in_transform() else layout_of(saved)
        ctx.plain = inputs[NUM_TENSORS:NUM_INPUTS]
        ctx.mark_non_differentiable(output[_LOG_DET], tape, packed)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
        *inputs, path, tape, packed = ctx.saved_tensors
        if ctx.layout is not None and not in_transform():
            check_unpacked(ctx.saved_tensors, ctx.layout)
        wanted = wanted_gradients(ctx, inputs)
        bars = (*cotangents[:_LOG_DET], cotangents[_MOTION])
        check_cotangents(bars)
        if all(x is None for x in bars):
            return (None,) * (NUM_INPUTS + 1)
        args = (*inputs, *ctx.plain, *bars, path, tape, packed, wanted)
        again = torch.is_grad_enabled() or in_forward_mode()
        found = apply_function(_FieldBackward, args) if again else run_operator("field_backward", args)
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


def watched_backward(
    plain: tuple[Any, ...],
    given: Sequence[Tensor | None],
    bars: Sequence[Tensor | None],
    kept: Sequence[Tensor | None],
    wanted: list[bool],
) -> Sequence[Tensor]:
    """The backward of a direct call that cannot go directly: of the gradients those that are wanted."""
    check_cotangents(bars)
    args = (*given, *plain, *bars, *kept, wanted)
    again = torch.is_grad_enabled() or in_forward_mode()
    found: Sequence[Tensor] = apply_function(_FieldBackward, args) if again else run_operator("field_backward", args)
    return found


class _DirectField(torch.autograd.Function):
    """:class:`_Field` where nothing watches the call.

    Autograd takes a microsecond for an input and two for an output, whatever they are. So this node's inputs are the
    tensors that require a gradient, and what was not asked for is no output.
    """

    @staticmethod
    def forward(ctx: Any, plan: Plan, given: Given, wanted: list[bool], *leaves: Tensor) -> tuple[Tensor | None, ...]:
        *outputs, tape, packed = _run_field(plan, given, True)
        path = outputs[_MOTION] if plan.extent.substeps else None
        ctx.save_for_backward(*given, path, tape, packed)
        ctx.plan, ctx.wanted = plan, wanted
        ctx.layout = (*plan.layout, *layout_of((path, tape, packed)))
        if plan.extent.log_det:
            ctx.mark_non_differentiable(outputs[_LOG_DET])
        ctx.set_materialize_grads(False)
        return tuple(outputs)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        check_unpacked(saved, ctx.layout)
        *given, path, tape, packed = saved
        needed = ctx.needs_input_grad[3:]
        bars = (*cotangents[:_LOG_DET], cotangents[_MOTION])
        check_cotangents(bars)
        if all([x is None for x in bars]):
            return (None, None, None, *[None for _ in needed])
        asked = iter(needed)
        wanted = [want and next(asked) for want in ctx.wanted]
        plan, direct = ctx.plan, is_direct(*given, *bars)
        if direct and not torch.is_grad_enabled() and fits(plan, given):
            found = _run_field_backward(plan, tuple(given), bars, path, tape, packed, wanted)
        else:
            found = list(watched_backward(plan.plain, given, bars, (path, tape, packed), wanted))
        left = iter(found)
        return (None, None, None, *[next(left) if need else None for need in needed])


_apply_direct_field = direct_apply(_DirectField)


class Evaluated(NamedTuple):
    """u, ∂_t u, (B,) or (steps, B); ∇u (B, D) or the path; and where asked for the residual, the row sum and the
    log-determinant, as u, and ∇²u · tangent (B, D).

    What was not asked for is None, or an empty tensor where the call went through the dispatcher.
    """

    u: Tensor
    dt: Tensor
    residual: Tensor | None
    hvp: Tensor | None
    row_sum: Tensor | None
    log_det: Tensor | None
    motion: Tensor


def evaluate_directly(plan: Plan, given: Given) -> Evaluated:
    """:func:`evaluate` of a prepared call that nothing watches."""
    if plan.compiled is not None:
        return Evaluated(*nodes.compiled.field(plan.compiled, given))
    wanted = which_require_grad(given)
    if any(wanted):
        leaves = [given[place] for place, want in zip(DIFFERENTIABLE, wanted, strict=True) if want]
        outputs = _apply_direct_field(plan, given, wanted, *leaves)
    else:
        outputs = _run_field(plan, given, False)
    return Evaluated(*outputs[: _MOTION + 1])


def evaluate(inputs: Inputs) -> Evaluated:
    """The field at one moment, or the path through N."""
    if is_direct(*inputs.tensors):
        return evaluate_directly(*prepare_direct(inputs))
    if needs_function(inputs.tensors):
        return Evaluated(*apply_function(_Field, (*inputs, KEPT_LAYOUT))[: _MOTION + 1])
    return Evaluated(*torch.ops.ffrl_fast.field(*inputs, 0)[: _MOTION + 1])
